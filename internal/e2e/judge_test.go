package e2e

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/internal/testenv"
)

// issued is a certificate that a client got, as files for other programs.
type issued struct {
	site               *site
	leaf, issuer, rest string // PEM files: the certificate, its issuer, all but the first
	cert               *x509.Certificate
}

// judge takes the chain that a client stored, has OpenSSL verify it and checks
// its names.
func (s *site) judge(t testing.TB, chain string, names ...string) *issued {
	t.Helper()
	blocks := pemBlocks(t, chain)
	if len(blocks) < 2 {
		t.Fatalf("the chain has %d certificates, want the certificate and its issuer:\n%s", len(blocks), chain)
	}
	cert, err := x509.ParseCertificate(blocks[0].Bytes)
	if err != nil {
		t.Fatal(err)
	}
	got, want := slices.Sorted(slices.Values(cert.DNSNames)), slices.Sorted(slices.Values(names))
	if !slices.Equal(got, want) {
		t.Errorf("certified names are %v, want %v", got, want)
	}
	dir := t.TempDir()
	c := &issued{site: s, cert: cert,
		leaf:   writeFile(t, filepath.Join(dir, "leaf.pem"), encodePEM(blocks[:1]), 0o644),
		issuer: writeFile(t, filepath.Join(dir, "issuer.pem"), encodePEM(blocks[1:2]), 0o644),
		rest:   writeFile(t, filepath.Join(dir, "chain.pem"), encodePEM(blocks[1:]), 0o644)}
	run(t, tool{name: "openssl", args: []string{"verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", s.root(), "-untrusted", c.rest, c.leaf}})
	return c
}

// copy writes the certificate once more, for clients that move what they
// revoke.
func (c *issued) copy(t testing.TB) string {
	t.Helper()
	return writeFile(t, filepath.Join(t.TempDir(), "copy.pem"), readFile(t, c.leaf), 0o644)
}

func pemBlocks(t testing.TB, text string) (blocks []*pem.Block) {
	t.Helper()
	for rest := []byte(text); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return blocks
		}
		if b.Type != "CERTIFICATE" {
			t.Fatalf("the chain holds a %s", b.Type)
		}
		blocks = append(blocks, b)
	}
}

func encodePEM(blocks []*pem.Block) string {
	var b strings.Builder
	for _, block := range blocks {
		_ = pem.Encode(&b, block)
	}
	return b.String()
}

// status is what relying parties are told about a certificate.
type status string

const (
	good    status = "good"
	revoked status = "revoked"
)

// agree waits until every relying party from the distribution sees want: both
// OCSP clients, and OpenSSL with the CRL that the certificate points to.
func (c *issued) agree(t testing.TB, want status) {
	t.Helper()
	testenv.NeedBinary(t, "ocsptool")
	for name, ask := range map[string]func(testing.TB) (status, string){
		"openssl ocsp": c.opensslOCSP, "ocsptool": c.ocsptool, "openssl verify -crl_check": c.opensslCRL,
	} {
		err := poll(15*time.Second, t.Context().Done(), func() error {
			if got, out := ask(t); got != want {
				return fmt.Errorf("%q:\n%s", got, out)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s should say %s: %v", name, want, err)
		}
	}
}

// opensslOCSP asks as a web server does for stapling.
func (c *issued) opensslOCSP(t testing.TB) (status, string) {
	out, err := tool{name: "openssl", args: []string{"ocsp", "-issuer", c.issuer, "-cert", c.leaf, "-url", c.cert.OCSPServer[0],
		"-CAfile", c.site.root(), "-verify_other", c.rest}}.call(t)
	if err != nil || !strings.Contains(out, "Response verify OK") {
		return "", fmt.Sprintf("%v\n%s", err, out)
	}
	_, rest, _ := strings.Cut(out, c.leaf+": ")
	word, _, _ := strings.Cut(rest, "\n")
	return status(word), out
}

// ocsptool is GnuTLS; without a URL it takes the one in the certificate.
func (c *issued) ocsptool(t testing.TB) (status, string) {
	out, err := tool{name: "ocsptool", args: []string{"--ask", "--load-cert", c.leaf, "--load-issuer", c.issuer, "--load-signer", c.issuer}}.call(t)
	switch {
	case strings.Contains(out, "Certificate Status: good") && err == nil:
		return good, out
	case strings.Contains(out, "Certificate Status: revoked"):
		return revoked, out
	}
	return "", fmt.Sprintf("%v\n%s", err, out)
}

// opensslCRL downloads the CRL from the certificate's distribution point.
func (c *issued) opensslCRL(t testing.TB) (status, string) {
	out, err := tool{name: "openssl", args: []string{"verify", "-crl_download", "-crl_check", "-CAfile", c.site.root(), "-untrusted", c.rest, c.leaf}}.call(t)
	switch {
	case err == nil:
		return good, out
	case strings.Contains(out, "certificate revoked"):
		return revoked, out
	}
	return "", fmt.Sprintf("%v\n%s", err, out)
}
