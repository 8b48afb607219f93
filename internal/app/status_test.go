package app_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"chancery/internal/app"
	"chancery/internal/config"
	"chancery/internal/db/dbtest"
	"chancery/internal/pki"
)

// running is a program that serves until its test ends.
type running struct {
	t            *testing.T
	ready        app.Ready
	leaf, issuer *x509.Certificate // the program's own certificate
	web          *http.Client
}

// runApp runs the program with a configuration that change has changed, on
// addresses that nobody uses.
func runApp(t *testing.T, opts app.Options, change func(*config.Config)) *running {
	t.Helper()
	cfg := config.Default()
	cfg.Server.Data, cfg.Database.URL = t.TempDir(), dbtest.SQLiteURL(t)
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	cfg.Server.Listen, cfg.Server.HTTPListen, cfg.Server.DebugListen = free(), free(), free()
	_, port, _ := net.SplitHostPort(cfg.Server.Listen)
	cfg.Server.URL, cfg.Server.HTTPURL = "https://localhost:"+port, "http://"+cfg.Server.HTTPListen
	change(cfg)
	if found := cfg.Check(); len(found) > 0 {
		t.Fatal(found)
	}
	ctx, stop := context.WithCancel(context.Background())
	ready := make(chan app.Ready, 1)
	opts.OnReady = func(r app.Ready) { ready <- r }
	a, err := app.New(ctx, cfg, opts)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	r := &running{t: t}
	select {
	case r.ready = <-ready:
	case <-time.After(time.Minute):
		t.Fatal("the program is not ready after a minute")
	}
	r.connect(cfg.Server.Listen)
	return r
}

// connect learns the program's own certificate.
func (r *running) connect(addr string) {
	r.t.Helper()
	root, err := os.ReadFile(r.ready.Root)
	if err != nil {
		r.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	conf := &tls.Config{RootCAs: pool, ServerName: "localhost"}
	conn, err := tls.Dial("tcp", addr, conf)
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	r.leaf, r.issuer = conn.ConnectionState().PeerCertificates[0], conn.ConnectionState().PeerCertificates[1]
	transport := &http.Transport{TLSClientConfig: conf}
	r.t.Cleanup(transport.CloseIdleConnections)
	r.web = &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

// persistently polls until f returns nil.
func persistently(t *testing.T, f func() error) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.Now().Add(30 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
		<-tick.C
	}
}

// fetch gets a document.
func (r *running) fetch(url string) ([]byte, error) {
	res, err := r.web.Get(url)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, res.Status)
	}
	return text, err
}

// ask asks about the program's own certificate and returns the raw answer.
func (r *running) ask(nonce []byte) []byte {
	r.t.Helper()
	ids, err := pki.NewCertIDHashes(r.issuer.RawSubject, r.issuer.RawSubjectPublicKeyInfo)
	if err != nil {
		r.t.Fatal(err)
	}
	req := pki.EncodeOCSPRequest(&ids, crypto.SHA1, nonce, pki.SerialFromBig(r.leaf.SerialNumber))
	var body []byte
	persistently(r.t, func() error { // the table may still be loading, the responder still be made
		res, err := r.web.Post(r.leaf.OCSPServer[0], "application/ocsp-request", bytes.NewReader(req))
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return errors.New(res.Status)
		}
		body, err = io.ReadAll(res.Body)
		return err
	})
	return body
}

// answer is ask for a signed answer.
func (r *running) answer() *ocsp.Response {
	r.t.Helper()
	got, err := ocsp.ParseResponseForCert(r.ask(nil), r.leaf, r.issuer)
	if err != nil {
		r.t.Fatal(err)
	}
	return got
}

// crl downloads the list of the program's own certificate.
func (r *running) crl() (*x509.RevocationList, error) {
	der, err := r.fetch(r.leaf.CRLDistributionPoints[0])
	if err != nil {
		return nil, err
	}
	return x509.ParseRevocationList(der)
}

// metric returns a series by its name with labels, 0 if there is none yet.
func (r *running) metric(name string) float64 {
	r.t.Helper()
	text, err := r.fetch(r.ready.Metrics)
	if err != nil {
		r.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				r.t.Fatal(err)
			}
			return v
		}
	}
	return 0
}

// outside plays a bucket and a purge hook.
type outside struct {
	mu    sync.Mutex
	puts  map[string]*http.Request
	purge []*http.Request
	urls  []string
}

func (o *outside) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	switch {
	case r.URL.Path == "/purge":
		var asked struct {
			URLs []string `json:"urls"`
		}
		_ = json.Unmarshal(body, &asked)
		o.purge, o.urls = append(o.purge, r), append(o.urls, asked.URLs...)
	case r.Method == http.MethodPut:
		o.puts[r.URL.Path] = r
	default: // HEAD: nothing is there yet
		w.WriteHeader(http.StatusNotFound)
	}
}

// secretFile writes a secret as its first line.
func secretFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text+"\nnot this\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestStatusSectionTakesEffect holds what the program does against every key of
// [status] (but for those of the two tests below).
func TestStatusSectionTakesEffect(t *testing.T) {
	out := &outside{puts: map[string]*http.Request{}}
	srv := httptest.NewServer(out)
	t.Cleanup(srv.Close)
	lists := t.TempDir()
	r := runApp(t, app.Options{Create: true}, func(c *config.Config) {
		c.Status = config.Status{OCSPValidity: 2 * time.Hour, OCSPNonce: true, OCSPLiveRate: 3, SignWorkers: 1,
			CRLValidity: 50 * time.Hour, CRLRefresh: time.Second, CRLDirectory: lists,
			BucketURL: srv.URL + "/bucket/prefix", BucketRegion: "eu-test-7", BucketAccessKey: "AKTEST", BucketSecretKeyFile: secretFile(t, "s3cret"),
			PurgeURL: srv.URL + "/purge", PurgeTokenFile: secretFile(t, "purge-token"), CheckRate: 1}
	})
	// ocsp_validity
	if a := r.answer(); a.NextUpdate.Sub(a.ThisUpdate) != 2*time.Hour || a.Status != ocsp.Good {
		t.Errorf("an OCSP answer of %s to %s", a.ThisUpdate, a.NextUpdate)
	}
	// ocsp_nonce, ocsp_live_rate
	nonce := []byte("0123456789abcdef0123456789abcdef")
	echoed, later := 0, 0
	for range 20 {
		switch body := r.ask(nonce); {
		case bytes.Contains(body, nonce):
			echoed++
		case bytes.Equal(body, []byte{0x30, 3, 0x0a, 1, 3}): // tryLater, RFC 6960 section 4.2.1
			later++
		default:
			t.Errorf("neither the nonce nor tryLater: %x", body)
		}
	}
	if echoed < 3 || later == 0 { // twenty take well below five seconds
		t.Errorf("%d answers with the nonce, %d times later", echoed, later)
	}
	// crl_validity, crl_refresh
	var first *x509.RevocationList
	persistently(t, func() (err error) { first, err = r.crl(); return err })
	if first.NextUpdate.Sub(first.ThisUpdate) != 50*time.Hour {
		t.Errorf("a CRL of %s to %s", first.ThisUpdate, first.NextUpdate)
	}
	persistently(t, func() error {
		next, err := r.crl()
		if err == nil && next.Number.Cmp(first.Number) <= 0 {
			err = errors.New("the CRL is not made again, although it is older than crl_refresh")
		}
		return err
	})
	// crl_directory
	path := strings.TrimPrefix(r.leaf.CRLDistributionPoints[0], r.ready.CRL[:strings.Index(r.ready.CRL, "/crl")]+"/crl/")
	persistently(t, func() error {
		der, err := os.ReadFile(filepath.Join(lists, filepath.FromSlash(path)))
		if err == nil {
			_, err = x509.ParseRevocationList(der)
		}
		return err
	})
	// bucket_*
	persistently(t, func() error {
		out.mu.Lock()
		defer out.mu.Unlock()
		put := out.puts["/bucket/prefix/crl/"+path]
		if put == nil {
			return fmt.Errorf("no PUT of %s", path)
		}
		got := put.Header.Get("Authorization")
		if !strings.HasPrefix(got, "AWS4-HMAC-SHA256 Credential=AKTEST/") || !strings.Contains(got, "/eu-test-7/s3/") {
			t.Errorf("the upload is signed as %q", got)
		}
		return nil
	})
	// purge_url, purge_token_file
	r.revokeOwn()
	persistently(t, func() error {
		out.mu.Lock()
		defer out.mu.Unlock()
		if !slices.ContainsFunc(out.urls, func(u string) bool { return strings.HasPrefix(u, r.leaf.OCSPServer[0]) }) {
			return fmt.Errorf("the hook was told to purge %v", out.urls)
		}
		for _, p := range out.purge {
			if p.Header.Get("Authorization") != "Bearer purge-token" {
				t.Errorf("the hook is called with %q", p.Header.Get("Authorization"))
			}
		}
		return nil
	})
	if a := r.answer(); a.Status != ocsp.Revoked || a.RevocationReason != ocsp.Superseded {
		t.Errorf("after the revocation the answer is %+v", a)
	}
}

// call makes a request to the API as its administrator.
func (r *running) call(method, path, body string) []byte {
	r.t.Helper()
	token, err := os.ReadFile(r.ready.Token)
	if err != nil {
		r.t.Fatal(err)
	}
	req, err := http.NewRequest(method, r.ready.API+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", "application/json")
	res, err := r.web.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		r.t.Fatalf("%s %s: %s %v\n%s", method, path, res.Status, err, text)
	}
	return text
}

func (r *running) authorities() []byte { return r.call(http.MethodGet, "/authorities", "") }

// revokeOwn revokes the program's own certificate through the API.
func (r *running) revokeOwn() {
	r.t.Helper()
	r.call(http.MethodPost, "/incidents", fmt.Sprintf(`{"name":"test","certificates":["%x"],"reason":"superseded"}`, r.leaf.SerialNumber))
	persistently(r.t, func() error {
		if a := r.answer(); a.Status != ocsp.Revoked {
			return errors.New("the incident has not revoked yet")
		}
		return nil
	})
}

// TestOCSPDirectTakesEffect: whether a delegated responder is made to sign
// answers.
func TestOCSPDirectTakesEffect(t *testing.T) {
	for _, direct := range []bool{true, false} {
		r := runApp(t, app.Options{Create: true}, func(c *config.Config) { c.Status.OCSPDirect = direct })
		persistently(t, func() error { // the loop that makes it has been through
			if r.metric(`chancery_loop_runs_total{loop="status.responder",status="success"}`) == 0 {
				return errors.New("status.responder has not run")
			}
			return nil
		})
		if made := strings.Contains(string(r.authorities()), `"role":"ocsp"`); made == direct {
			t.Errorf("ocsp_direct %v: there is a delegated responder: %v", direct, made)
		}
		if a := r.answer(); direct && a.Certificate != nil {
			t.Errorf("signed by %v", a.Certificate.Subject)
		}
	}
}

// TestCheckRateTakesEffect: an installation with old certificates is read again
// one by one, or at once.
func TestCheckRateTakesEffect(t *testing.T) {
	for _, rate := range []int{1, 1000} {
		r := runApp(t, app.Options{}, func(c *config.Config) {
			c.Status.CheckRate = rate
			restore(t, c, c.Database.URL)
		})
		var steps []float64 // counts that were seen
		persistently(t, func() error {
			n := r.metric("chancery_checker_certificates_total")
			if len(steps) == 0 || steps[len(steps)-1] != n {
				steps = append(steps, n)
			}
			if n < 3 {
				return fmt.Errorf("%v certificates were read", steps)
			}
			return nil
		})
		if oneByOne := slices.Contains(steps, 1) && slices.Contains(steps, 2); oneByOne != (rate == 1) {
			t.Errorf("check_rate %d: the counts were %v", rate, steps)
		}
	}
}
