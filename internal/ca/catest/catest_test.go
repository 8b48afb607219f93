package catest_test

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"chancery/internal/audit"
	"chancery/internal/ca"
	"chancery/internal/ca/catest"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestFill: rows and certificates agree with each other, and nobody trusts
// what was made.
func TestFill(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		pass, err := keys.NewPassphrase([]byte("correct horse battery"))
		must(t, err)
		store, err := keys.OpenFileStore(filepath.Join(t.TempDir(), "keys"), pass)
		must(t, err)
		s, err := ca.Open(t.Context(), ca.Config{DB: d, Keys: store, URLs: ca.URLs{Base: "http://localhost:8080"}})
		must(t, err)
		root, err := s.CreateRoot(t.Context(), ca.Spec{CA: "default", KeyType: pki.P256}, "test")
		must(t, err)
		_, err = s.CreateIssuing(t.Context(), root.ID, ca.Spec{CA: "default", KeyType: pki.P256, Shards: 8}, "test")
		must(t, err)
		a, err := s.Issuing("default")
		must(t, err)
		ids, serials, err := catest.Fill(t.Context(), d, catest.Spec{Authority: a, URLs: s.URLs(), N: 2500, IssuedAt: time.Now().Add(-time.Hour),
			Revoked: true, Names: true, Journal: true})
		must(t, err)
		if len(ids) != 2500 || len(serials) != 2500 {
			t.Fatalf("%d ids, %d serials", len(ids), len(serials))
		}
		c, err := ca.BySerial(t.Context(), d.Read(), a.ID, serials[2345])
		must(t, err)
		cert, err := x509.ParseCertificate(c.DER)
		must(t, err)
		if c.ID != ids[2345] || cert.DNSNames[0] != "i2345.seed.example" || cert.DNSNames[0] != c.Names[0] || pki.SerialFromBig(cert.SerialNumber) != c.Serial ||
			c.Shard != a.Shard(c.Serial) || cert.CRLDistributionPoints[0] != s.URLs().CRL(a, c.Shard) || c.Status(time.Now()) != ca.StatusRevoked {
			t.Errorf("%+v", c)
		}
		if len(c.DER) > 700 {
			t.Errorf("%d bytes", len(c.DER))
		}
		if err := cert.CheckSignatureFrom(a.Cert); err == nil {
			t.Error("the certificate verifies")
		}
		q, err := ca.ParseQuery("i7.seed.example", time.Now())
		must(t, err)
		if page, err := ca.Find(t.Context(), d.Read(), q, "", 10); err != nil || len(page.Certificates) != 1 {
			t.Errorf("%+v %v", page, err)
		}
		if recs, err := audit.BySubject(t.Context(), d.Read(), "certificate:"+ids[0], "", 10); err != nil || len(recs) != 3 {
			t.Errorf("%+v %v", recs, err)
		}
		must(t, catest.Checked(t.Context(), d, time.Now()))
		if n, err := ca.NewChecker(s, ca.CheckerConfig{}).Tick(t.Context()); err != nil || n.Claimed > 0 {
			t.Errorf("the checker looks at what was filled: %+v %v", n, err)
		}
	})
}
