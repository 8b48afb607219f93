package api_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/acme/challenge"
	"chancery/internal/acme/server"
	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/dns"
	"chancery/internal/httpd"
	"chancery/internal/inventory"
	"chancery/internal/issuer"
	"chancery/internal/issuer/local"
	"chancery/internal/keys"
	"chancery/internal/obs"
	"chancery/internal/pki"
	"chancery/internal/renew"
	"chancery/internal/token"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

// world is a control plane that serves on an in-memory listener, with a CA
// named "default".
type world struct {
	db      *db.DB
	ca      *ca.Service
	http    *http.Client
	dir     string
	log     *safeBuffer
	tls     *ca.Profile
	api     *api.Server
	renew   *renew.Engine // runs only where a test starts it
	admin   *client.Client
	viewer  *client.Client
	secrets []string // must never be logged
	queries *counter
	changes *counter
	metrics *obs.Metrics
	told    [][]ca.Changed // revocations, as the status service hears of them
}

// counter counts from several goroutines.
type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) add() { c.mu.Lock(); c.n++; c.mu.Unlock() }

func (c *counter) get() int { c.mu.Lock(); defer c.mu.Unlock(); return c.n }

// safeBuffer is a log that several goroutines write.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}
func (s *safeBuffer) String() string { s.mu.Lock(); defer s.mu.Unlock(); return s.b.String() }

// each runs f with a world on either engine.
func each(t *testing.T, f func(t *testing.T, w *world)) {
	dbtest.EachURL(t, func(t *testing.T, url string) { f(t, newWorld(t, url)) })
}

// newWorld returns a world on a database; change adapts the API's
// configuration.
func newWorld(t testing.TB, url string, change ...func(*api.Config)) *world {
	t.Helper()
	ctx := context.Background()
	w := &world{dir: t.TempDir(), log: &safeBuffer{}, queries: &counter{}, changes: &counter{}, metrics: obs.NewMetrics(obs.Build{})}
	var err error
	w.db, err = db.Open(ctx, db.Config{URL: url, Observe: func(string, time.Duration, error) { w.queries.add() }})
	check(t, err)
	t.Cleanup(func() { w.db.Close() })
	_, err = w.db.Migrate(ctx, time.Now())
	check(t, err)
	pass, err := keys.NewPassphrase([]byte("correct horse battery"))
	check(t, err)
	store, err := keys.OpenFileStore(filepath.Join(w.dir, "keys"), pass)
	check(t, err)
	w.ca, err = ca.Open(ctx, ca.Config{DB: w.db, Keys: store, URLs: ca.URLs{Base: "http://localhost:8080"}})
	check(t, err)
	profiles, err := w.ca.Register(ctx, ca.DefaultProfiles())
	check(t, err)
	w.tls = profiles["tls"]
	root, err := w.ca.CreateRoot(ctx, ca.Spec{CA: "default", KeyType: pki.P256}, "test")
	check(t, err)
	_, err = w.ca.CreateIssuing(ctx, root.ID, ca.Spec{CA: "default", KeyType: pki.P256}, "test")
	check(t, err)

	names, err := dns.New(dns.Config{Servers: []string{"127.0.0.1:1"}})
	check(t, err)
	common := challenge.Config{Resolver: names}
	validators, err := challenge.NewRegistry(challenge.NewHTTP01(common))
	check(t, err)
	caa, err := challenge.NewCAA(challenge.CAAConfig{Resolver: names, Domains: []string{"localhost"}})
	check(t, err)
	acme, err := server.New(server.Config{DB: w.db, Issuer: w.ca, Secrets: store.Sealer(), Validators: validators, BaseURL: "https://localhost",
		CAs: map[string]server.CA{"default": {CAA: caa, Profiles: []server.Profile{{Profile: w.tls, Challenges: []challenge.Type{challenge.HTTP01}}}}}})
	check(t, err)
	t.Cleanup(func() { acme.Close() })

	own, err := local.Kind(local.Authorities{Service: w.ca, Describe: func(string) (ca.OperatorConfig, error) {
		return ca.OperatorConfig{Profiles: profiles, Default: "tls"}, nil
	}}).Open(issuer.Env{Name: "own"}, &local.Config{CA: "default", AllowNames: []string{"*.example.test"}})
	check(t, err)
	w.renew = renew.New(renew.Config{DB: w.db, Inventory: inventory.New(w.db), Secrets: store.Sealer(), Issuers: map[string]*renew.Issuer{
		"own": {Issuer: own, Own: true}, "backup": {Issuer: own, Own: true}}})

	log := slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg := api.Config{DB: w.db, CA: w.ca, Profiles: profiles, ACME: acme, Secrets: store.Sealer(), Renew: w.renew, Build: obs.Build{Version: "v9"}, Metrics: w.metrics.Registry, Changed: w.changes.add, Log: log,
		Revoked:  func(c []ca.Changed) { w.told = append(w.told, c) },
		Sessions: token.NewSessions(w.db, 12*time.Hour, time.Hour)}
	for _, f := range change {
		f(&cfg)
	}
	s, err := api.New(cfg)
	check(t, err)
	w.api = s
	w.serve(t, s, log)
	return w
}

// serve runs the control plane and makes a client for each role.
func (w *world) serve(t testing.TB, s *api.Server, log *slog.Logger) {
	t.Helper()
	mux := httpd.NewMux(httpd.NewMetrics(prometheus.NewRegistry()))
	s.Routes(mux)
	listener := httpd.NewMemory()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- httpd.New(httpd.Config{Name: "api", Handler: mux, Log: log, MaxBody: 1 << 20}).Run(ctx, listener)
	}()
	w.http = listener.Client(nil)
	t.Cleanup(func() {
		w.http.CloseIdleConnections()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		for _, secret := range w.secrets {
			if strings.Contains(w.log.String(), secret) {
				t.Errorf("the log holds the secret %q", secret)
			}
		}
	})
	path := filepath.Join(w.dir, "admin.token")
	_, err := token.EnsureAdmin(ctx, w.db, path, time.Now())
	check(t, err)
	text, err := os.ReadFile(path)
	check(t, err)
	w.admin = w.client(t, strings.TrimSpace(string(text)))
	made, err := client.Post[api.NewToken](ctx, w.admin, "/tokens", map[string]any{"name": "watcher", "role": "viewer"})
	check(t, err)
	w.viewer = w.client(t, made.Secret)
}

// client returns a client that holds a token.
func (w *world) client(t testing.TB, text string) *client.Client {
	t.Helper()
	if text != "" {
		w.secrets = append(w.secrets, text[len("cy_")+26+1:])
	}
	c, err := client.New(client.Config{Server: "http://chancery.test", Token: text, HTTP: w.http})
	check(t, err)
	return c
}

// tokenOf makes a token and returns its text.
func (w *world) tokenOf(t testing.TB, spec token.Spec) string {
	t.Helper()
	_, text, err := token.Create(context.Background(), w.db, spec, "test", time.Now())
	check(t, err)
	return text
}

// issue makes a certificate for names.
func (w *world) issue(t *testing.T, names ...string) *ca.Certificate {
	t.Helper()
	key, err := keys.Generate(pki.P256)
	check(t, err)
	var evidence []ca.Evidence
	for _, n := range names {
		evidence = append(evidence, ca.Evidence{Name: pki.Identifier{Type: pki.DNS, Value: n}, Method: "http-01", Reference: "authz",
			ValidatedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour), CAAAt: time.Now()})
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names}, key)
	check(t, err)
	csr, err := pki.ParseCSR(der, 64<<10)
	check(t, err)
	grant, err := ca.NewGrant(evidence)
	check(t, err)
	c, err := w.ca.Issue(context.Background(), ca.Request{CA: "default", Profile: w.tls, Grant: grant, CSR: csr, Actor: "test"})
	check(t, err)
	return c
}

// raw sends a request as it is and returns the answer with its body.
func (w *world) raw(t *testing.T, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, "http://chancery.test"+path, strings.NewReader(body))
	check(t, err)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	resp, err := w.http.Do(r)
	check(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	check(t, err)
	return resp, string(text)
}

// adminText returns the admin token.
func (w *world) adminText() string {
	text, _ := os.ReadFile(filepath.Join(w.dir, "admin.token"))
	return strings.TrimSpace(string(text))
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
