package ca_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"chancery/internal/audit"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

// world is a CA named "default" with a root, an issuing authority and an OCSP
// responder.
type world struct {
	*ca.Service
	db   *db.DB
	log  *keys.SignerLog
	path string
	root *ca.Authority
	keys keys.Store
}

func newWorld(t testing.TB, d *db.DB, kt pki.KeyType) *world {
	t.Helper()
	ctx := context.Background()
	dir := t.TempDir()
	pass, err := keys.NewPassphrase([]byte("correct horse battery"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := keys.OpenFileStore(filepath.Join(dir, "keys"), pass)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{db: d, path: filepath.Join(dir, "signer.log"), keys: store}
	if w.log, err = keys.OpenSignerLog(w.path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.log.Close() })
	w.Service, err = ca.Open(ctx, ca.Config{DB: d, Keys: store, URLs: ca.URLs{Base: "http://localhost:8080"}, SignerLog: w.log.Append})
	if err != nil {
		t.Fatal(err)
	}
	if w.root, err = w.CreateRoot(ctx, ca.Spec{CA: "default", KeyType: kt, Organization: "Test"}, "test"); err != nil {
		t.Fatal(err)
	}
	issuing, err := w.CreateIssuing(ctx, w.root.ID, ca.Spec{CA: "default", KeyType: kt}, "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.CreateResponder(ctx, issuing.ID, "test"); err != nil {
		t.Fatal(err)
	}
	return w
}

func request(t testing.TB, kt pki.KeyType, names ...pki.Identifier) ca.Request {
	t.Helper()
	key, err := keys.Generate(kt)
	if err != nil {
		t.Fatal(err)
	}
	return requestFor(t, key, names...)
}

func requestFor(t testing.TB, key crypto.Signer, names ...pki.Identifier) ca.Request {
	t.Helper()
	tmpl := &x509.CertificateRequest{}
	var evidence []ca.Evidence
	for _, n := range names {
		if n.Type == pki.IP {
			tmpl.IPAddresses = append(tmpl.IPAddresses, net.ParseIP(n.Value))
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n.Value)
		}
		evidence = append(evidence, ca.Evidence{Name: n, Method: "http-01", Reference: "authz", ValidatedAt: time.Now(),
			ExpiresAt: time.Now().Add(time.Hour), CAAAt: time.Now(), Remotes: 5})
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.ParseCSR(der, 64<<10)
	if err != nil {
		t.Fatal(err)
	}
	grant, err := ca.NewGrant(evidence)
	if err != nil {
		t.Fatal(err)
	}
	return ca.Request{CA: "default", Profile: &ca.DefaultProfiles()[0], Grant: grant, CSR: csr, Actor: "test"}
}

func dns(v string) pki.Identifier { return pki.Identifier{Type: pki.DNS, Value: v} }

func (w *world) mustHold(t *testing.T) {
	t.Helper()
	f, err := os.Open(w.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, _, err := ca.Check(context.Background(), w.db.Read(), f, func(f ca.Finding) { t.Errorf("%+v", f) }); err != nil {
		t.Fatal(err)
	}
}

func TestEveryKeyTypeIssuesChainsThatVerify(t *testing.T) {
	d := dbtest.Open(t, dbtest.SQLiteURL(t))
	for _, kt := range pki.KeyTypes {
		t.Run(string(kt), func(t *testing.T) {
			d := d
			if kt != pki.P256 {
				d = dbtest.Open(t, dbtest.SQLiteURL(t))
			}
			w := newWorld(t, d, kt)
			c, err := w.Issue(context.Background(), request(t, kt, dns("www.example.test"), dns("*.example.test"), pki.Identifier{Type: pki.IP, Value: "127.0.0.1"}))
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := c.X509()
			if err != nil {
				t.Fatal(err)
			}
			issuing, _ := w.Issuing("default")
			roots, inter := x509.NewCertPool(), x509.NewCertPool()
			roots.AddCert(w.root.Cert)
			inter.AddCert(issuing.Cert)
			for _, name := range []string{"www.example.test", "a.example.test", "127.0.0.1"} {
				if _, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: inter}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			if got := leaf.NotAfter.Sub(leaf.NotBefore); got != 90*24*time.Hour-time.Second {
				t.Errorf("validity is %v, not 90 days less a second", got)
			}
			w.mustHold(t)
		})
	}
}

func TestIssueRefuses(t *testing.T) {
	w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), pki.P256)
	ctx := context.Background()
	good := func() ca.Request { return request(t, pki.P256, dns("a.test")) }
	other := request(t, pki.P256, dns("b.test"))
	for name, c := range map[string]struct {
		edit func(*ca.Request)
		want fault.Code
	}{
		"no grant":             {func(r *ca.Request) { r.Grant = ca.Grant{} }, fault.Unauthorized},
		"grant of other names": {func(r *ca.Request) { r.Grant = other.Grant }, fault.BadCSR},
		"key type":             {func(r *ca.Request) { r.Profile.KeyTypes = []pki.KeyType{pki.RSA2048} }, fault.BadCSR},
		"identifier type":      {func(r *ca.Request) { r.Profile.Identifiers = []pki.IdentifierType{pki.IP} }, fault.RejectedIdentifier},
		"must staple":          {func(r *ca.Request) { r.CSR.MustStaple, r.Profile.MustStaple = true, false }, fault.BadCSR},
		"unknown CA":           {func(r *ca.Request) { r.CA = "other" }, fault.NotFound},
		"too long":             {func(r *ca.Request) { r.NotAfter = time.Now().Add(100 * 24 * time.Hour) }, fault.Malformed},
		"lint":                 {func(r *ca.Request) { r.Profile.Lint = ca.LintWebPKI }, fault.BadCSR},
		"claim": {func(r *ca.Request) {
			r.Claim = func(context.Context, *db.Tx, string) error { return fault.New(fault.Conflict, "taken") }
		}, fault.Conflict},
	} {
		t.Run(name, func(t *testing.T) {
			before := signatures(t, w)
			req := good()
			c.edit(&req)
			if _, err := w.Issue(ctx, req); !fault.Is(err, c.want) {
				t.Fatalf("error = %v, want %s", err, c.want)
			}
			if after := signatures(t, w); after != before {
				t.Fatal("something was signed")
			}
		})
	}
}

func signatures(t *testing.T, w *world) (n int) {
	t.Helper()
	b, err := os.ReadFile(w.path)
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.ReadSignerLog(bytes.NewReader(b), func([32]byte) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

// Evidence is judged name by name at the instant of signing (the CAA incident
// of 2020 checked one name N times).
func TestGrantIsJudgedPerName(t *testing.T) {
	w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), pki.P256)
	now := time.Now()
	ok := ca.Evidence{Name: dns("a.test"), Method: "http-01", Reference: "x", ValidatedAt: now.Add(-time.Hour), ExpiresAt: now.Add(time.Hour), CAAAt: now}
	for name, c := range map[string]struct {
		edit func(*ca.Evidence)
		want fault.Code
	}{
		"expired":    {func(e *ca.Evidence) { e.ExpiresAt = now.Add(-time.Minute) }, fault.Unauthorized},
		"old CAA":    {func(e *ca.Evidence) { e.CAAAt = now.Add(-8*time.Hour - time.Minute) }, fault.CAA},
		"from later": {func(e *ca.Evidence) { e.ValidatedAt, e.ExpiresAt = now.Add(time.Hour), now.Add(2*time.Hour) }, fault.Unauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			second := ok
			second.Name = dns("b.test")
			c.edit(&second)
			grant, err := ca.NewGrant([]ca.Evidence{ok, second})
			if err != nil {
				t.Fatal(err)
			}
			req := request(t, pki.P256, dns("a.test"), dns("b.test"))
			req.Grant = grant
			if _, err := w.Issue(context.Background(), req); !fault.Is(err, c.want) {
				t.Fatal(err)
			}
		})
	}
	for name, e := range map[string]ca.Evidence{
		"no method": {Name: dns("a.test"), Reference: "x", ValidatedAt: now, ExpiresAt: now.Add(1)},
		"no CAA":    {Name: dns("a.test"), Method: "m", Reference: "x", ValidatedAt: now, ExpiresAt: now.Add(1)},
		"no type":   {Name: pki.Identifier{Value: "a.test"}, Method: "m", Reference: "x", ValidatedAt: now, ExpiresAt: now.Add(1), CAAAt: now},
	} {
		if _, err := ca.NewGrant([]ca.Evidence{e}); err == nil {
			t.Errorf("%s: granted", name)
		}
	}
}

// Two processes finish one intent: the serial is abandoned by one, so the
// other's certificate is not stored, and the serial counts as revoked.
func TestAbandonedSerialIsNeverIssued(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, pki.P256)
		ctx := context.Background()
		req := request(t, pki.P256, dns("a.test"))
		var id string
		req.Complete = func(ctx context.Context, tx *db.Tx, certificateID string) error {
			id = certificateID
			return errors.New("storage failed")
		}
		if _, err := w.Issue(ctx, req); err == nil {
			t.Fatal("issued although the result could not be stored")
		}
		c, err := ca.Get(ctx, d.Read(), id)
		if err != nil || c.State != ca.StateAbandoned || c.RevokedAt.IsZero() || c.DER != nil {
			t.Fatalf("%+v %v", c, err)
		}
		w.mustHold(t)
	})
}

func TestRevokeOnceAndBlockKey(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, pki.P256)
		ctx := context.Background()
		key, _ := keys.Generate(pki.P256)
		c, err := w.Issue(ctx, requestFor(t, key, dns("a.test")))
		if err != nil {
			t.Fatal(err)
		}
		var wins, losses int
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				_, err := w.Revoke(ctx, ca.Revocation{CertificateID: c.ID, Reason: pki.KeyCompromise, Actor: "test", BlockKey: true})
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					wins++
				case fault.Is(err, fault.AlreadyRevoked):
					losses++
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if wins != 1 || losses != 7 {
			t.Fatalf("%d revoked, %d were told that it already was", wins, losses)
		}
		if _, err := w.Issue(ctx, requestFor(t, key, dns("b.test"))); !fault.Is(err, fault.BadPublicKey) {
			t.Fatalf("issue for a blocked key: %v", err)
		}
		if _, err := w.Revoke(ctx, ca.Revocation{CertificateID: c.ID, Reason: pki.CACompromise}); !fault.Is(err, fault.BadRevocationReason) {
			t.Fatal(err)
		}
		w.mustHold(t)
	})
}

func TestOfflineRootSignsAndCrossSigns(t *testing.T) {
	ctx := context.Background()
	offline := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), pki.P384)
	online := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), pki.P256)
	a, err := online.RequestIssuing(ctx, ca.Spec{CA: "second", KeyType: pki.P256}, "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := online.Issuing("second"); !fault.Is(err, fault.NotFound) {
		t.Fatalf("a pending authority issues: %v", err)
	}
	signed, err := offline.SignIssuing(ctx, offline.root.ID, a.CSR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := online.ImportIssuing(ctx, a.ID, [][]byte{online.root.DER}, "test"); !fault.Is(err, fault.Invalid) {
		t.Fatalf("imported a certificate of another key: %v", err)
	}
	if a, err = online.ImportIssuing(ctx, a.ID, [][]byte{signed.DER, offline.root.DER}, "test"); err != nil {
		t.Fatal(err)
	}
	if foreign := online.Authority(a.ParentID); foreign == nil || string(foreign.DER) != string(offline.root.DER) || foreign.CanSign() {
		t.Fatalf("the offline root is not among the trust anchors: %+v", foreign)
	}
	if !bytes.Equal(a.Chains[0], pki.EncodeChain(signed.DER)) {
		t.Fatal("the root is served with certificates")
	}
	req := request(t, pki.P256, dns("a.test"))
	req.CA = "second"
	c, err := online.Issue(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	verify := func(root, inter *x509.Certificate) {
		t.Helper()
		roots, mid := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(root)
		mid.AddCert(inter)
		leaf, _ := c.X509()
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: mid}); err != nil {
			t.Fatal(err)
		}
	}
	verify(offline.root.Cert, a.Cert)

	cross, err := online.SignIssuing(ctx, online.root.ID, a.CSR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := online.CrossSign(ctx, a.ID, [][]byte{cross.DER}, "test"); err != nil {
		t.Fatal(err)
	}
	crossCert, _ := cross.X509()
	verify(online.root.Cert, crossCert)
	if again := online.Authority(a.ID); len(again.Chains) != 2 {
		t.Fatalf("%d chains, want the first and an alternate", len(again.Chains))
	}
}

func TestSpecIsChecked(t *testing.T) {
	w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), pki.P256)
	for _, spec := range []ca.Spec{{CA: "../x", KeyType: pki.P256}, {CA: "", KeyType: pki.P256}, {CA: "a", KeyType: "dsa"}, {CA: "a", KeyType: pki.P256, Shards: -1}} {
		if _, err := w.CreateRoot(context.Background(), spec, "test"); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: %v", spec, err)
		}
	}
}

func TestProfileHashChangesWithContent(t *testing.T) {
	a := ca.DefaultProfiles()[0]
	b := a
	if a.Hash() != b.Hash() {
		t.Fatal("equal profiles have different hashes")
	}
	b.Period++
	if a.Hash() == b.Hash() {
		t.Fatal("different profiles have the same hash")
	}
}

func TestJournalTellsTheStory(t *testing.T) {
	w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), pki.P256)
	ctx := context.Background()
	c, err := w.Issue(ctx, request(t, pki.P256, dns("a.test")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Revoke(ctx, ca.Revocation{CertificateID: c.ID, Actor: "test"}); err != nil {
		t.Fatal(err)
	}
	recs, err := audit.BySubject(ctx, w.db.Read(), "certificate:"+c.ID, "", 10)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, r := range recs {
		kinds = append(kinds, string(r.Kind))
	}
	if len(kinds) != 3 || kinds[0] != "certificate.intend" || kinds[1] != "certificate.issue" || kinds[2] != "certificate.revoke" {
		t.Fatal(kinds)
	}
}

func BenchmarkIssueParallel(b *testing.B) {
	d := dbtest.Open(b, dbtest.SQLiteURL(b))
	dir := b.TempDir()
	pass, _ := keys.NewPassphrase([]byte("correct horse battery"))
	store, err := keys.OpenFileStore(filepath.Join(dir, "keys"), pass)
	if err != nil {
		b.Fatal(err)
	}
	s, err := ca.Open(context.Background(), ca.Config{DB: d, Keys: store, URLs: ca.URLs{Base: "http://localhost:8080"}})
	if err != nil {
		b.Fatal(err)
	}
	root, err := s.CreateRoot(context.Background(), ca.Spec{CA: "default", KeyType: pki.P256}, "bench")
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s.CreateIssuing(context.Background(), root.ID, ca.Spec{CA: "default", KeyType: pki.P256}, "bench"); err != nil {
		b.Fatal(err)
	}
	req := request(b, pki.P256, dns("bench.example.test"))
	b.SetParallelism(16)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Issue(context.Background(), req); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestProfilePermits(t *testing.T) {
	p := ca.DefaultProfiles()[0]
	p.Permitted, p.Excluded, p.Wildcard = []string{"example.test"}, []string{"secret.example.test"}, false
	p.Identifiers = []pki.IdentifierType{pki.DNS}
	for name, want := range map[string]bool{
		"example.test": true, "a.example.test": true, "badexample.test": false, "secret.example.test": false,
		"a.secret.example.test": false, "notsecret.example.test": true, "*.example.test": false, "test": false,
	} {
		if got := p.Permits(dns(name)) == nil; got != want {
			t.Errorf("%s: permitted = %v", name, got)
		}
	}
	if p.Permits(pki.Identifier{Type: pki.IP, Value: "127.0.0.1"}) == nil {
		t.Error("an IP identifier is permitted")
	}
	p.Wildcard = true
	if err := p.Permits(dns("*.example.test")); err != nil {
		t.Error(err)
	}
	p.Permitted, p.Excluded = []string{}, nil
	if p.Permits(dns("example.test")) == nil {
		t.Error("an empty list of permitted domains permits")
	}
}
