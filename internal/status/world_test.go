package status

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/ocsp"

	"chancery/internal/audit"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/httpd"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

// world is an installation: a root, an issuing authority named "default", and
// one process that serves their status on a loopback port. Its loops do not
// run by themselves; tests tick them.
type world struct {
	*Service
	t       testing.TB
	db      *db.DB
	keys    keys.Store
	keyDir  string
	base    string
	ca      *ca.Service
	root    *ca.Authority
	issuing *ca.Authority
	clock   time.Time // zero: the real one
}

type option func(*Config, *ca.Spec)

func withKey(kt pki.KeyType) option { return func(_ *Config, s *ca.Spec) { s.KeyType = kt } }
func withShards(n int) option       { return func(_ *Config, s *ca.Spec) { s.Shards = n } }

func newWorld(t testing.TB, d *db.DB, opts ...option) *world {
	t.Helper()
	cfg, spec := Config{}, ca.Spec{CA: "default", KeyType: pki.P256}
	for _, o := range opts {
		o(&cfg, &spec)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	w := &world{t: t, db: d, base: "http://" + ln.Addr().String(), keyDir: filepath.Join(t.TempDir(), "keys")}
	w.openCA()
	rootSpec := spec
	rootSpec.KeyType = pki.P256
	w.root, err = w.ca.CreateRoot(context.Background(), rootSpec, "test")
	must(t, err)
	w.issuing, err = w.ca.CreateIssuing(context.Background(), w.root.ID, spec, "test")
	must(t, err)
	w.issuing = w.ca.Authority(w.issuing.ID)
	w.start(cfg, ln)
	return w
}

// replica is another process over the same database and keys.
func (w *world) replica(cfg Config) *world {
	w.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(w.t, err)
	r := &world{t: w.t, db: w.db, base: w.base, keyDir: w.keyDir, root: w.root, issuing: w.issuing, clock: w.clock}
	r.openCA()
	r.start(cfg, ln)
	r.base = "http://" + ln.Addr().String()
	return r
}

func (w *world) openCA() {
	w.t.Helper()
	pass, err := keys.NewPassphrase([]byte("correct horse battery"))
	must(w.t, err)
	w.keys, err = keys.OpenFileStore(w.keyDir, pass)
	must(w.t, err)
	w.ca, err = ca.Open(context.Background(), ca.Config{DB: w.db, Keys: w.keys, URLs: ca.URLs{Base: w.base}})
	must(w.t, err)
}

func (w *world) start(cfg Config, ln net.Listener) {
	w.t.Helper()
	cfg.CA, cfg.DB = w.ca, w.db
	s, err := New(cfg)
	must(w.t, err)
	s.now = func() time.Time {
		if w.clock.IsZero() {
			return time.Now()
		}
		return w.clock
	}
	w.Service = s
	mux := httpd.NewMux(httpd.NewMetrics(prometheus.NewRegistry()))
	s.Routes(mux)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- httpd.New(httpd.Config{Handler: mux}).Run(ctx, ln) }()
	w.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
}

// load runs the ticks that follow a start.
func (w *world) load() *world {
	w.t.Helper()
	w.catchUp()
	w.tickCRLs()
	return w
}

// catchUp places the journal's entries and follows them.
func (w *world) catchUp() {
	w.t.Helper()
	_, err := audit.Sequence(context.Background(), w.db, 10_000)
	must(w.t, err)
	for more := true; more; {
		n, err := w.follow(context.Background())
		must(w.t, err)
		more = n.More
	}
}

func (w *world) tickCRLs() {
	w.t.Helper()
	n, err := w.publishCRLs(context.Background())
	must(w.t, err)
	if n.Failed > 0 {
		w.t.Fatalf("%d CRLs could not be made", n.Failed)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// issue issues a certificate; tell decides whether the service hears of it at
// once, as in the process that issued it.
func (w *world) issue(tell bool) (*ca.Certificate, *x509.Certificate) {
	w.t.Helper()
	c, err := w.ca.Issue(context.Background(), w.request())
	must(w.t, err)
	if tell {
		w.Issued(c)
	}
	leaf, err := c.X509()
	must(w.t, err)
	return c, leaf
}

func (w *world) request() ca.Request {
	w.t.Helper()
	key, err := keys.Generate(pki.P256)
	must(w.t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"www.example.test"}}, key)
	must(w.t, err)
	csr, err := pki.ParseCSR(der, 64<<10)
	must(w.t, err)
	grant, err := ca.NewGrant([]ca.Evidence{{Name: pki.Identifier{Type: pki.DNS, Value: "www.example.test"}, Method: "http-01", Reference: "authz",
		ValidatedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour), CAAAt: time.Now()}})
	must(w.t, err)
	return ca.Request{CA: "default", Profile: &ca.DefaultProfiles()[0], Grant: grant, CSR: csr, Actor: "test"}
}

// revoke revokes in the database; tell as in issue.
func (w *world) revoke(c *ca.Certificate, reason pki.Reason, tell bool) *ca.Certificate {
	w.t.Helper()
	r, err := w.ca.Revoke(context.Background(), ca.Revocation{CertificateID: c.ID, Reason: reason, Actor: "test"})
	must(w.t, err)
	if tell {
		must(w.t, w.Revoked(context.Background(), r))
	}
	return r
}

// reply is an HTTP answer, its body read.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func do(t testing.TB, req *http.Request) reply {
	t.Helper()
	res, err := http.DefaultClient.Do(req)
	must(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	must(t, err)
	return reply{res.StatusCode, res.Header, body}
}

// get sends a request target byte for byte, which net/http's client would not.
func (w *world) get(target string, headers ...string) reply {
	w.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.base, "http://"))
	must(w.t, err)
	defer conn.Close()
	text := "GET " + target + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
	for i := 0; i+1 < len(headers); i += 2 {
		text += headers[i] + ": " + headers[i+1] + "\r\n"
	}
	_, err = io.WriteString(conn, text+"\r\n")
	must(w.t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must(w.t, err)
	body, err := io.ReadAll(res.Body)
	must(w.t, err)
	return reply{res.StatusCode, res.Header, body}
}

func (w *world) post(der []byte) reply {
	w.t.Helper()
	req, err := http.NewRequest("POST", w.base+"/ocsp/"+w.issuing.ID, bytes.NewReader(der))
	must(w.t, err)
	req.Header.Set("Content-Type", typeOCSPRequest)
	return do(w.t, req)
}

// ask asks for the status of a certificate by POST and lets x/crypto/ocsp
// check the answer.
func (w *world) ask(leaf *x509.Certificate) *ocsp.Response {
	w.t.Helper()
	der, err := ocsp.CreateRequest(leaf, w.issuing.Cert, nil)
	must(w.t, err)
	return w.parse(leaf, w.post(der))
}

func (w *world) parse(leaf *x509.Certificate, r reply) *ocsp.Response {
	w.t.Helper()
	if r.status != 200 || r.header.Get("Content-Type") != typeOCSPResponse {
		w.t.Fatalf("%d %v: %q", r.status, r.header, r.body)
	}
	res, err := ocsp.ParseResponseForCert(r.body, leaf, w.issuing.Cert)
	must(w.t, err)
	return res
}

// refused returns the OCSP error status that an answer carries.
func (w *world) refused(r reply) string {
	w.t.Helper()
	if r.status != 200 || r.header.Get("Content-Type") != typeOCSPResponse || !strings.Contains(r.header.Get("Cache-Control"), "no-cache") {
		w.t.Errorf("%d %v", r.status, r.header)
	}
	if r.header.Get("Etag")+r.header.Get("Expires")+r.header.Get("Last-Modified") != "" {
		w.t.Errorf("an unsigned answer can be cached: %v", r.header)
	}
	return map[string]string{pki.OCSPMalformed: "malformed", pki.OCSPUnauthorized: "unauthorized", pki.OCSPTryLater: "tryLater",
		pki.OCSPInternal: "internal"}[string(r.body)]
}

// getTarget is the GET form of a request for a leaf (RFC 5019 section 5).
func (w *world) getTarget(leaf *x509.Certificate) string {
	w.t.Helper()
	der, err := ocsp.CreateRequest(leaf, w.issuing.Cert, nil)
	must(w.t, err)
	return "/ocsp/" + w.issuing.ID + "/" + url.QueryEscape(base64.StdEncoding.EncodeToString(der))
}

func (w *world) hashes() *pki.CertIDHashes {
	h, err := pki.NewCertIDHashes(w.issuing.Cert.RawSubject, w.issuing.Cert.RawSubjectPublicKeyInfo)
	must(w.t, err)
	return &h
}

// sound runs doctor over the world.
func (w *world) findings() (all []ca.Finding) {
	w.t.Helper()
	must(w.t, Check(context.Background(), w.db.Read(), w.now(), func(f ca.Finding) { all = append(all, f) }))
	return all
}

func (w *world) mustHold() {
	w.t.Helper()
	for _, f := range w.findings() {
		w.t.Errorf("%+v", f)
	}
}

func isUnavailable(err error) bool { return fault.Is(err, fault.Unavailable) }
