package acme_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"

	"chancery/internal/issuer"
	"chancery/internal/issuer/acme"
	"chancery/internal/issuer/issuertest"
)

// pebble is Let's Encrypt's test CA, in this process.
type pebble struct {
	*ca.CAImpl
	*db.MemoryStore
	directory, roots string
}

// startPebble runs a Pebble that rejects one nonce in five and gives every
// certificate two chains. It knows the key id "kid-1" if eab.
func startPebble(t *testing.T, w *world, eab bool) *pebble {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_WFE_NONCEREJECT", "20")
	quiet := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	if eab {
		if err := store.AddExternalAccountKeyByID("kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"); err != nil {
			t.Fatal(err)
		}
	}
	authority := ca.New(quiet, store, "", "ecdsa", 1, 1, map[string]ca.Profile{"default": {Description: "the default", ValidityPeriod: 7776000}, "short": {Description: "six days", ValidityPeriod: 518400}})
	validation := va.New(quiet, w.port, 1, false, w.dns.Addr(), store)
	front := wfe.New(quiet, store, validation, authority, []string{"pebble.test"}, false, eab, 1, 1)
	srv := httptest.NewTLSServer(front.Handler())
	t.Cleanup(srv.Close)
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return &pebble{authority, store, srv.URL + wfe.DirectoryPath, roots}
}

func TestPebble(t *testing.T) {
	w := newWorld(t)
	p := startPebble(t, w, false)
	open := func(change func(*acme.Config)) issuer.Issuer {
		return w.open(t, func(c *acme.Config) {
			c.Directory, c.RootsFile, c.Contact = p.directory, p.roots, []string{"ops@example.com"}
			if change != nil {
				change(c)
			}
		})
	}
	i := open(nil)
	if err := i.(issuer.Checker).Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Run("orders by HTTP and DNS, four at once", func(t *testing.T) {
		var all sync.WaitGroup
		for n := range 4 {
			all.Go(func() {
				names := []string{fmt.Sprintf("p%d.example.test", n), fmt.Sprintf("q%d.example.test", n), fmt.Sprintf("*.w%d.example.test", n)}
				w.names(names...)
				r := issuertest.NewRequest(t, id(n), names...)
				if chain := issue(t, i, r); len(chain) < 2 {
					t.Errorf("the chain has %d certificates", len(chain))
				}
			})
		}
		all.Wait()
	})
	t.Run("profile, other chain, renewal, revocation", func(t *testing.T) {
		w.names("r.example.test")
		other := p.GetRootCert(1).Cert.Subject.CommonName
		j := open(func(c *acme.Config) { c.Profile, c.Chain = "short", other })
		chain := issue(t, j, issuertest.NewRequest(t, "short", "r.example.test"))
		leaf := parse(t, chain[0])
		if top := parse(t, chain[len(chain)-1]); top.Issuer.CommonName != other {
			t.Errorf("the chain leads to %s, want %s", top.Issuer.CommonName, other)
		}
		if d := leaf.NotAfter.Sub(leaf.NotBefore).Hours(); d > 150 {
			t.Errorf("valid for %.0f hours, not six days", d)
		}
		if info, err := j.(issuer.Informer).RenewalInfo(t.Context(), leaf); err != nil || !info.Start.Before(info.End) {
			t.Errorf("renewal information %+v, %v", info, err)
		}
		r := issuertest.NewRequest(t, "again", "r.example.test")
		r.Replaces = leaf.Raw
		issue(t, j, r)
		for range 2 {
			if err := j.(issuer.Revoker).Revoke(t.Context(), leaf, 1); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("validation that fails", func(t *testing.T) {
		w.dns.Add("dead.example.test. 60 IN A 127.0.0.9")
		r := issuertest.NewRequest(t, "dead", "dead.example.test")
		_, err := i.Issue(t.Context(), r)
		issuertest.WantClass(t, err, issuer.Validation)
	})
	t.Run("blocked name", func(t *testing.T) {
		if err := p.AddBlockedDomain("blocked.test"); err != nil {
			t.Fatal(err)
		}
		_, err := i.Issue(t.Context(), issuertest.NewRequest(t, "blocked", "x.blocked.test"))
		issuertest.WantClass(t, err, issuer.Permanent)
	})
	t.Run("a request with a key that is not ours", func(t *testing.T) {
		w.names("k.example.test")
		r := issuertest.NewRequest(t, "key", "k.example.test")
		key, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if r.CSR, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"other.example.test"}}, key); err != nil {
			t.Fatal(err)
		}
		_, err = i.Issue(t.Context(), r)
		issuertest.WantClass(t, err, issuer.Permanent)
	})
}

func TestPebbleWithExternalAccount(t *testing.T) {
	w := newWorld(t)
	p := startPebble(t, w, true)
	key := filepath.Join(t.TempDir(), "eab")
	if err := os.WriteFile(key, []byte("zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.names("e.example.test")
	bound := w.open(t, func(c *acme.Config) {
		c.Directory, c.RootsFile, c.EABKeyID, c.EABKeyFile = p.directory, p.roots, "kid-1", key
	})
	issue(t, bound, issuertest.NewRequest(t, "eab", "e.example.test"))
	free := w.open(t, func(c *acme.Config) { c.Directory, c.RootsFile = p.directory, p.roots })
	_, err := free.Issue(t.Context(), issuertest.NewRequest(t, "none", "e.example.test"))
	issuertest.WantClass(t, err, issuer.Permanent)
}
