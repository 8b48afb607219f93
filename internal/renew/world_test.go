package renew_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"chancery/internal/audit"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/deploy"
	"chancery/internal/inventory"
	"chancery/internal/issuer"
	"chancery/internal/issuer/local"
	"chancery/internal/keys"
	"chancery/internal/pki"
	"chancery/internal/renew"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is an installation with a CA, an inventory and an engine.
type world struct {
	db        *db.DB
	ca        *ca.Service
	keys      *keys.FileStore
	signerLog string
	inventory *inventory.Store
	own       issuer.Issuer
	engine    *renew.Engine
}

// newWorld opens the installation of a directory, with the issuer "own": a CA
// that answers for *.example.test with certificates that live for period.
func newWorld(t testing.TB, d *db.DB, dir string, period time.Duration) *world {
	t.Helper()
	ctx := context.Background()
	pass, err := keys.NewPassphrase([]byte("correct horse battery"))
	must(t, err)
	w := &world{db: d, signerLog: filepath.Join(dir, "signer.log"), inventory: inventory.New(d)}
	w.keys, err = keys.OpenFileStore(filepath.Join(dir, "keys"), pass)
	must(t, err)
	log, err := keys.OpenSignerLog(w.signerLog)
	must(t, err)
	t.Cleanup(func() { log.Close() })
	w.ca, err = ca.Open(ctx, ca.Config{DB: d, Keys: w.keys, URLs: ca.URLs{Base: "http://localhost:8080"}, SignerLog: log.Append})
	must(t, err)
	if _, err := w.ca.Issuing("default"); err != nil {
		root, err := w.ca.CreateRoot(ctx, ca.Spec{CA: "default", KeyType: pki.P256, Organization: "Test"}, "test")
		must(t, err)
		_, err = w.ca.CreateIssuing(ctx, root.ID, ca.Spec{CA: "default", KeyType: pki.P256}, "test")
		must(t, err)
	}
	w.own = w.openLocal(t, period, "*.example.test", "10.0.0.0/8")
	return w
}

// openLocal opens an issuer of kind local.
func (w *world) openLocal(t testing.TB, period time.Duration, allow ...string) issuer.Issuer {
	t.Helper()
	i, err := w.tryLocal(t, period, &local.Config{CA: "default", AllowNames: allow})
	must(t, err)
	return i
}

func (w *world) tryLocal(t testing.TB, period time.Duration, config *local.Config) (issuer.Issuer, error) {
	t.Helper()
	profile := ca.DefaultProfiles()[0]
	profile.Period = period
	registered, err := w.ca.Register(context.Background(), []ca.Profile{profile})
	must(t, err)
	kind := local.Kind(local.Authorities{Service: w.ca, Describe: func(string) (ca.OperatorConfig, error) {
		return ca.OperatorConfig{Profiles: registered, Default: profile.Name}, nil
	}})
	return kind.Open(issuer.Env{Name: "own"}, config)
}

// start runs an engine until the test ends, or until the returned function.
func (w *world) start(t testing.TB, cfg renew.Config) (stop func()) {
	t.Helper()
	e := w.open(cfg)
	w.engine = e
	return run(t, e)
}

// run runs an engine.
func run(t testing.TB, e *renew.Engine) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// open makes an engine; issuers that cfg does not name are "own".
func (w *world) open(cfg renew.Config) *renew.Engine {
	cfg.DB, cfg.Inventory, cfg.Secrets = w.db, w.inventory, w.keys.Sealer()
	if cfg.Issuers == nil {
		cfg.Issuers = map[string]*renew.Issuer{"own": {Issuer: w.own, Own: true}}
	}
	return renew.New(cfg)
}

// names are identifiers.
func names(t testing.TB, values ...string) []pki.Identifier {
	t.Helper()
	ids, err := pki.ParseNames(values)
	must(t, err)
	return ids
}

// until polls a managed certificate until ok holds.
func (w *world) until(t testing.TB, ref string, what string, ok func(m renew.Managed) bool) renew.Managed {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		m, err := renew.Get(context.Background(), w.db.Read(), ref)
		must(t, err)
		if ok(m) {
			return m
		}
		if time.Now().After(deadline) {
			events, _ := renew.Events(context.Background(), w.db.Read(), m.ID, 20)
			t.Fatalf("%s never became %s: %+v\n%+v", ref, what, m, events)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// leaf returns the live certificate of m, whose key must fit.
func (w *world) leaf(t testing.TB, m *renew.Managed) *x509.Certificate {
	t.Helper()
	chain, key, err := w.engine.Material(context.Background(), m)
	must(t, err)
	cert, err := x509.ParseCertificate(chain[0])
	must(t, err)
	priv, err := x509.ParsePKCS8PrivateKey(key)
	must(t, err)
	pub, err := x509.MarshalPKIXPublicKey(priv.(crypto.Signer).Public())
	must(t, err)
	if !bytes.Equal(pub, cert.RawSubjectPublicKeyInfo) {
		t.Error("the key does not belong to the certificate")
	}
	return cert
}

// mustHold checks the invariants of issuance.
func (w *world) mustHold(t testing.TB) {
	t.Helper()
	f, err := os.Open(w.signerLog)
	must(t, err)
	defer f.Close()
	_, _, err = ca.Check(context.Background(), w.db.Read(), f, func(f ca.Finding) { t.Errorf("%+v", f) })
	must(t, err)
}

type (
	deployItem    = deploy.Item
	deployOutcome = deploy.Outcome
)

// otherRequest is r for another key, or for other names.
func (w *world) otherRequest(r *issuer.Request, key bool) (*issuer.Request, error) {
	k, err := keys.Generate(pki.P256)
	if err != nil {
		return nil, err
	}
	name := "other.example.test"
	if key {
		name = r.Identifiers[0].Value
	}
	o := *r
	o.CSR, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{name}}, k)
	return &o, err
}

// journal counts entries of a kind.
func (w *world) journal(t testing.TB, kind audit.Kind) (n int) {
	t.Helper()
	ctx := context.Background()
	for {
		placed, err := audit.Sequence(ctx, w.db, 1000)
		must(t, err)
		if placed == 0 {
			break
		}
	}
	records, err := audit.Follow(ctx, w.db.Read(), 0, 10000)
	must(t, err)
	for _, r := range records {
		if r.Kind == kind {
			n++
		}
	}
	return n
}

// untilLane polls the lane of an issuer until ok holds.
func (w *world) untilLane(t testing.TB, name string, ok func(l renew.LaneView) bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		lanes, err := w.engine.Lanes(context.Background())
		must(t, err)
		for _, l := range lanes {
			if l.Name == name && ok(l) {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the lane of %s: %+v", name, lanes)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
