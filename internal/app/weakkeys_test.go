package app

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // the form of the list
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"chancery/internal/ca"
	"chancery/internal/config"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// A key of the list is neither certified nor a key of an account.
func TestWeakKeyFiles(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum(fmt.Appendf(nil, "Modulus=%X\n", weak.N))
	file := filepath.Join(t.TempDir(), "blacklist.RSA-2048")
	if err := os.WriteFile(file, fmt.Appendf(nil, "# openssl-blacklist\n%x\n", sum[10:]), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Server.Data, cfg.Database.URL = t.TempDir(), dbtest.SQLiteURL(t)
	cfg.Server.DebugListen = ""
	cfg.ACME.WeakKeyFiles = []string{file}
	a, err := New(t.Context(), cfg, Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := issueFor(t, a.ca, weak); !fault.Is(err, fault.BadPublicKey) {
		t.Errorf("a weak key: %v", err)
	}
	strong, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if err := issueFor(t, a.ca, strong); err != nil {
		t.Errorf("another key: %v", err)
	}
	for _, text := range []string{"xyz\n", ""} {
		cfg.Server.Data, cfg.ACME.WeakKeyFiles = t.TempDir(), []string{filepath.Join(t.TempDir(), "list")}
		if text != "" {
			if err := os.WriteFile(cfg.ACME.WeakKeyFiles[0], []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := New(context.Background(), cfg, Options{Create: true}); !fault.Is(err, fault.Precondition) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func issueFor(t *testing.T, s *ca.Service, key *rsa.PrivateKey) error {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"a.test"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.ParseCSR(der, 64<<10)
	if err != nil {
		t.Fatal(err)
	}
	grant, err := ca.NewGrant([]ca.Evidence{{Name: pki.Identifier{Type: pki.DNS, Value: "a.test"}, Method: "http-01", Reference: "x",
		ValidatedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour), CAAAt: time.Now()}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Issue(t.Context(), ca.Request{CA: "default", Profile: &ca.DefaultProfiles()[0], Grant: grant, CSR: csr, Actor: "test"})
	return err
}
