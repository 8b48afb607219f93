package server_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/acme/server"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/dns"
	"chancery/internal/dns/dnstest"
	"chancery/internal/httpd"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

// world is an ACME server with a CA "default" in front of a real DNS server
// and a web server that stands for every name in it.
type world struct {
	*server.Server
	cfg    server.Config
	db     *db.DB
	ca     *ca.Service
	base   string // URL of the CA
	dns    *dnstest.Server
	secret *keys.Sealer

	mu     sync.Mutex
	tokens map[string]string        // token -> key authorization
	hold   map[string]chan struct{} // token -> until when its answer waits
	hits   int

	skew    atomic.Int64  // nanoseconds that the resolver's clock is ahead
	signErr atomic.Bool   // the authorities' keys fail
	entered chan struct{} // see blockSigner; guarded by mu
	leave   chan struct{}
}

// pass lets the resolver's clock run ahead.
func (w *world) pass(d time.Duration) { w.skew.Add(int64(d)) }

// blockSigner makes the next signature of an authority close entered and wait
// for leave.
func (w *world) blockSigner() (entered, leave chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.entered, w.leave = make(chan struct{}), make(chan struct{})
	return w.entered, w.leave
}

// slowStore is a key store whose keys fail or wait as the world says.
type slowStore struct {
	keys.Store
	w *world
}

func (s slowStore) Open(ctx context.Context, ref string) (crypto.Signer, error) {
	k, err := s.Store.Open(ctx, ref)
	return slowKey{k, s.w}, err
}

type slowKey struct {
	crypto.Signer
	w *world
}

func (k slowKey) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.w.mu.Lock()
	entered, leave := k.w.entered, k.w.leave
	k.w.entered = nil
	k.w.mu.Unlock()
	if entered != nil {
		close(entered)
		<-leave
	}
	if k.w.signErr.Load() {
		return nil, errors.New("the key is gone")
	}
	return k.Signer.Sign(r, digest, opts)
}

// option changes the configuration of a world.
type option func(*server.Config)

// forCA changes the CA "default".
func forCA(change func(*server.CA)) option {
	return func(c *server.Config) {
		a := c.CAs["default"]
		change(&a)
		c.CAs["default"] = a
	}
}

func newWorld(t testing.TB, d *db.DB, opts ...option) *world {
	t.Helper()
	return newWorldIn(t, d, filepath.Join(t.TempDir(), "keys"), opts...)
}

// newWorldIn makes a world whose authorities have their keys in dir; they are
// made if the database has none.
func newWorldIn(t testing.TB, d *db.DB, dir string, opts ...option) *world {
	t.Helper()
	w := &world{db: d, tokens: map[string]string{}, hold: map[string]chan struct{}{}, dns: dnstest.Start(t)}
	w.openCA(t, dir)
	web := httptest.NewServer(http.HandlerFunc(w.respond))
	t.Cleanup(web.Close)
	registry, resolver := w.validators(t, portOf(t, web.Listener.Addr()))
	front := httptest.NewUnstartedServer(nil)
	w.cfg = server.Config{DB: d, Issuer: w.ca, Secrets: w.secret, Validators: registry, BaseURL: "http://" + front.Listener.Addr().String(),
		CAs: map[string]server.CA{"default": w.caConfig(t, resolver)}, ChallengeWait: 20 * time.Second}
	for _, o := range opts {
		o(&w.cfg)
	}
	w.base = w.cfg.BaseURL + "/acme/default"
	w.Server = w.replica(t, w.cfg)
	front.Config.Handler = w.handler(w.Server)
	front.Start()
	t.Cleanup(front.Close)
	return w
}

// replica opens one more server over the same database.
func (w *world) replica(t testing.TB, cfg server.Config) *server.Server {
	t.Helper()
	s, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// handler serves s.
func (w *world) handler(s *server.Server) http.Handler {
	m := httpd.NewMetrics(prometheus.NewRegistry())
	mux := httpd.NewMux(m)
	s.Routes(mux)
	return httpd.New(httpd.Config{Name: "test", Handler: mux, Metrics: m})
}

func (w *world) openCA(t testing.TB, dir string) {
	t.Helper()
	ctx := context.Background()
	pass, err := keys.NewPassphrase([]byte("correct horse battery"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := keys.OpenFileStore(dir, pass)
	if err != nil {
		t.Fatal(err)
	}
	w.secret = store.Sealer()
	if w.ca, err = ca.Open(ctx, ca.Config{DB: w.db, Keys: slowStore{store, w}, URLs: ca.URLs{Base: "http://localhost:8080"}}); err != nil {
		t.Fatal(err)
	}
	if len(w.ca.Authorities()) > 0 {
		return
	}
	root, err := w.ca.CreateRoot(ctx, ca.Spec{CA: "default", KeyType: pki.P256, Organization: "Test"}, "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.ca.CreateIssuing(ctx, root.ID, ca.Spec{CA: "default", KeyType: pki.P256}, "test"); err != nil {
		t.Fatal(err)
	}
}

func (w *world) validators(t testing.TB, httpPort uint16) (*challenge.Registry, *dns.Resolver) {
	t.Helper()
	r, err := dns.New(dns.Config{Servers: []string{w.dns.Addr()}, Timeout: 2 * time.Second, Attempts: 2,
		Now: func() time.Time { return time.Now().Add(time.Duration(w.skew.Load())) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	policy, err := challenge.NewPolicy([]string{"127.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	c := challenge.Config{Resolver: r, Policy: policy, HTTP01Port: httpPort, TLSALPN01Port: httpPort}
	registry, err := challenge.NewRegistry(challenge.NewHTTP01(c), challenge.NewDNS01(c), challenge.NewTLSALPN01(c), challenge.NewDNSAccount01(c), challenge.NewDNSPersist01(c),
		challenge.NewDeviceAttest01(c), challenge.NewTKAuth01(c), challenge.NewEmailReply00(c))
	if err != nil {
		t.Fatal(err)
	}
	return registry, r
}

func (w *world) caConfig(t testing.TB, r *dns.Resolver) server.CA {
	t.Helper()
	registered, err := w.ca.Register(context.Background(), ca.DefaultProfiles())
	if err != nil {
		t.Fatal(err)
	}
	caa, err := challenge.NewCAA(challenge.CAAConfig{Resolver: r, Domains: []string{"ca.test"}})
	if err != nil {
		t.Fatal(err)
	}
	types := []challenge.Type{challenge.HTTP01, challenge.DNS01, challenge.TLSALPN01}
	registered["short"].Wildcard = false
	return server.CA{CAA: caa, CAAIdentities: []string{"ca.test"}, DefaultProfile: "tls", Profiles: []server.Profile{
		{Profile: registered["tls"], Challenges: types},
		{Profile: registered["short"], Challenges: types[:1]},
	}}
}

// respond is the applicant's web server.
func (w *world) respond(rw http.ResponseWriter, r *http.Request) {
	token := strings.TrimPrefix(r.URL.Path, "/.well-known/acme-challenge/")
	w.mu.Lock()
	body, wait := w.tokens[token], w.hold[token]
	w.hits++
	w.mu.Unlock()
	if wait != nil {
		<-wait
	}
	if body == "" {
		http.NotFound(rw, r)
		return
	}
	io.WriteString(rw, body)
}

func (w *world) publish(token, body string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tokens[token] = body
}

// names makes names resolve to the applicant's web server.
func (w *world) names(names ...string) {
	for _, n := range names {
		w.dns.Add(n + ". 60 IN A 127.0.0.1")
	}
}

func portOf(t testing.TB, a net.Addr) uint16 {
	t.Helper()
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		t.Fatal(err)
	}
	return p.Port()
}

// each runs f on both engines.
func each(t *testing.T, f func(t *testing.T, w *world), opts ...option) {
	t.Helper()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, opts...)
		f(t, w)
		w.mustHold(t)
	})
}

// lite makes a world on SQLite.
func lite(t testing.TB, opts ...option) *world {
	t.Helper()
	return newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), opts...)
}

// mustHold checks the invariants of issuance.
func (w *world) mustHold(t testing.TB) {
	t.Helper()
	report := func(f ca.Finding) { t.Errorf("broken invariant: %+v", f) }
	if _, _, err := ca.Check(context.Background(), w.db.Read(), nil, report); err != nil {
		t.Fatal(err)
	}
	if err := server.Check(context.Background(), w.db.Read(), w.secret, time.Now(), report); err != nil {
		t.Fatal(err)
	}
}

// client is a small ACME client that shows everything that came back.
type client struct {
	t      testing.TB
	w      *world
	base   string // URL of the CA, as signed
	via    http.Handler
	signer *acme.Signer
	kid    string
	nonce  string
}

// client returns a client with a new key and no account.
func (w *world) client(t testing.TB) *client {
	t.Helper()
	return w.clientWith(t, pki.P256)
}

func (w *world) clientWith(t testing.TB, kt pki.KeyType) *client {
	t.Helper()
	return &client{t: t, w: w, base: w.base, signer: newSigner(t, kt)}
}

func newSigner(t testing.TB, kt pki.KeyType) *acme.Signer {
	t.Helper()
	key, err := keys.Generate(kt)
	if err != nil {
		t.Fatal(err)
	}
	s, err := acme.NewSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// account returns a client with a new account.
func (w *world) account(t testing.TB) *client {
	t.Helper()
	c := w.client(t)
	c.register()
	return c
}

func (c *client) register() {
	c.t.Helper()
	a := c.post(c.base+"/new-account", map[string]any{"termsOfServiceAgreed": true})
	a.want(http.StatusCreated)
	c.kid = a.Header.Get("Location")
}

// answer is a reply with its body.
type answer struct {
	*http.Response
	t    testing.TB
	body []byte
}

// want fails the test unless the status is one of those.
func (a *answer) want(status ...int) *answer {
	a.t.Helper()
	for _, s := range status {
		if a.StatusCode == s {
			return a
		}
	}
	a.t.Fatalf("%s %s: status %d, want %v: %s", a.Request.Method, a.Request.URL, a.StatusCode, status, a.body)
	return a
}

// problem checks for a problem document of a type.
func (a *answer) problem(status int, typ string) acme.Problem {
	a.t.Helper()
	a.want(status)
	var p acme.Problem
	a.into(&p)
	if p.Type != "urn:ietf:params:acme:error:"+typ || p.Detail == "" || p.Status != status {
		a.t.Fatalf("problem %+v, want %s with status %d", p, typ, status)
	}
	if got := a.Header.Get("Content-Type"); got != "application/problem+json" {
		a.t.Errorf("Content-Type %q", got)
	}
	return p
}

func (a *answer) into(v any) {
	a.t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		a.t.Fatalf("%v: %s", err, a.body)
	}
}

func (a *answer) order() acme.Order {
	a.t.Helper()
	var o acme.Order
	a.into(&o)
	return o
}

func (a *answer) authz() acme.Authorization {
	a.t.Helper()
	var z acme.Authorization
	a.into(&z)
	return z
}

func (a *answer) challenge() acme.Challenge {
	a.t.Helper()
	var ch acme.Challenge
	a.into(&ch)
	return ch
}

// links returns the targets of a relation.
func (a *answer) links(rel string) []string {
	var out []string
	for _, l := range a.Header.Values("Link") {
		if u, r, ok := strings.Cut(l, ">;rel="); ok && strings.Trim(r, `"`) == rel {
			out = append(out, strings.TrimPrefix(u, "<"))
		}
	}
	return out
}

// do sends a request, to the server or straight to a handler.
func (c *client) do(r *http.Request) *answer {
	c.t.Helper()
	var resp *http.Response
	if c.via != nil {
		rec := httptest.NewRecorder()
		r.RequestURI, r.RemoteAddr = r.URL.RequestURI(), "127.0.0.1:9"
		c.via.ServeHTTP(rec, r)
		resp = rec.Result()
		resp.Request = r
	} else {
		var err error
		if resp, err = http.DefaultClient.Do(r); err != nil {
			c.t.Error(err)
			return &answer{Response: &http.Response{Request: r, Header: http.Header{}}, t: c.t}
		}
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		c.t.Fatal(err)
	}
	if n := resp.Header.Get("Replay-Nonce"); n != "" {
		c.nonce = n
	}
	return &answer{resp, c.t, body}
}

func (c *client) get(url string) *answer { return c.plain(http.MethodGet, url) }

func (c *client) plain(method, url string) *answer {
	c.t.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return c.do(r)
}

// sign returns a message, with a nonce that was fetched if none is at hand.
func (c *client) sign(url string, payload []byte) []byte {
	c.t.Helper()
	if c.nonce == "" {
		c.plain(http.MethodHead, c.base+"/new-nonce")
	}
	h := acme.Header{URL: url, Nonce: c.nonce, KID: c.kid}
	c.nonce = ""
	msg, err := c.signer.Sign(h, payload)
	if err != nil {
		c.t.Fatal(err)
	}
	return msg
}

// post sends a signed message; a nil payload is POST-as-GET.
func (c *client) post(url string, payload any) *answer {
	c.t.Helper()
	var text []byte
	if payload != nil {
		var err error
		if text, err = json.Marshal(payload); err != nil {
			c.t.Fatal(err)
		}
	}
	return c.send(url, c.sign(url, text))
}

func (c *client) send(url string, msg []byte) *answer {
	c.t.Helper()
	r, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(msg))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/jose+json")
	return c.do(r)
}

// copy returns a client of the same account for another goroutine.
func (c *client) copy() *client {
	d := *c
	d.nonce = ""
	return &d
}

// ids returns identifiers of type dns, or ip for addresses.
func ids(names ...string) []map[string]string {
	var out []map[string]string
	for _, n := range names {
		typ := "dns"
		if net.ParseIP(n) != nil {
			typ = "ip"
		}
		out = append(out, map[string]string{"type": typ, "value": n})
	}
	return out
}

// order makes an order and returns it with its URL.
func (c *client) order(names ...string) (acme.Order, string) {
	c.t.Helper()
	return c.orderWith(map[string]any{"identifiers": ids(names...)})
}

func (c *client) orderWith(req map[string]any) (acme.Order, string) {
	c.t.Helper()
	a := c.post(c.base+"/new-order", req).want(http.StatusCreated)
	return a.order(), a.Header.Get("Location")
}

// solve publishes the answer to a challenge of a type and responds.
func (c *client) solve(z acme.Authorization, typ challenge.Type) acme.Challenge {
	c.t.Helper()
	for _, ch := range z.Challenges {
		if ch.Type != string(typ) {
			continue
		}
		ka := acme.KeyAuthorization(ch.Token, c.signer.PublicKey().Thumbprint)
		switch typ {
		case challenge.DNS01:
			c.w.dns.Add("_acme-challenge." + z.Identifier.Value + `. 60 IN TXT "` + challenge.DNS01Value(ka) + `"`)
		case challenge.DNSAccount01:
			c.w.dns.Add(challenge.AccountLabel(c.kid) + "._acme-challenge." + z.Identifier.Value + `. 60 IN TXT "` + challenge.DNS01Value(ka) + `"`)
		default:
			c.w.publish(ch.Token, ka)
		}
		return c.post(ch.URL, map[string]any{}).want(http.StatusOK).challenge()
	}
	c.t.Fatalf("no challenge %s in %+v", typ, z)
	return acme.Challenge{}
}

// authorize proves every authorization of an order: wildcards by dns-01, the
// rest by http-01.
func (c *client) authorize(o acme.Order) {
	c.t.Helper()
	for _, u := range o.Authorizations {
		z := c.post(u, nil).want(http.StatusOK).authz()
		if z.Status == acme.AuthorizationValid {
			continue
		}
		typ := challenge.HTTP01
		if z.Wildcard {
			typ = challenge.DNS01
		}
		if ch := c.solve(z, typ); ch.Status != acme.ChallengeValid {
			c.t.Fatalf("challenge %+v", ch)
		}
	}
}

// ready returns an order that can be finalized.
func (c *client) ready(names ...string) (acme.Order, string) {
	c.t.Helper()
	for _, n := range names {
		if net.ParseIP(n) == nil {
			c.w.names(strings.TrimPrefix(n, "*."))
		}
	}
	o, url := c.order(names...)
	c.authorize(o)
	return o, url
}

// csr returns a certificate request for names in base64url, made with key or a
// new one.
func csr(t testing.TB, key crypto.Signer, names ...string) string {
	t.Helper()
	if key == nil {
		var err error
		if key, err = keys.Generate(pki.P256); err != nil {
			t.Fatal(err)
		}
	}
	tmpl := &x509.CertificateRequest{}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(der)
}

// issue gets a certificate for names: its leaf and its URL.
func (c *client) issue(key crypto.Signer, names ...string) (*x509.Certificate, string) {
	c.t.Helper()
	o, _ := c.ready(names...)
	o = c.post(o.Finalize, map[string]string{"csr": csr(c.t, key, names...)}).want(http.StatusOK).order()
	if o.Status != acme.OrderValid || o.Certificate == "" {
		c.t.Fatalf("finalized order %+v", o)
	}
	return c.download(o.Certificate), o.Certificate
}

// download returns the leaf of a certificate.
func (c *client) download(url string) *x509.Certificate {
	c.t.Helper()
	return leaf(c.t, c.post(url, nil).want(http.StatusOK).body)
}

func leaf(t testing.TB, chain []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(chain)
	if block == nil {
		t.Fatalf("not PEM: %s", chain)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// soon is an instant that makes an order unlike others.
func soon() string { return time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339) }

func hashOf(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return sum[:]
}
