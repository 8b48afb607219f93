package e2e

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/mholt/acmez/v3/acme"

	"chancery/internal/acme/attest"
	"chancery/internal/acme/attest/attesttest"
	"chancery/internal/testenv"
)

// TestDeviceByItsTPM: a key that never leaves a TPM (swtpm) is certified for
// the device that the TPM is in. Client (acmez), TPM and the reader of the
// certificate (openssl) are others' programs.
func TestDeviceByItsTPM(t *testing.T) {
	testenv.NeedBinary(t, "openssl")
	tpm, maker := attesttest.StartTPM(t), attesttest.NewMaker(t)
	ak, key := attesttest.Hold(t, tpm, tpm2.TPMAlgRSA, true), attesttest.Hold(t, tpm, tpm2.TPMAlgECC, false)
	s := newSite(t)
	roots := writeFile(t, filepath.Join(t.TempDir(), "tpm.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: maker.Root.Raw})), 0o644)
	p := s.start("CHANCERY_PROFILE_DEFAULT_NAMES=dns,wildcard,ip,permanent-identifier", "CHANCERY_PROFILE_DEFAULT_CHALLENGES=http-01,device-attest-01",
		"CHANCERY_PROFILE_DEFAULT_ATTEST_TPM_ROOTS="+roots)
	c := acme.Client{Directory: p.ready.Directory, HTTPClient: s.web(), PollInterval: 50 * time.Millisecond}
	ctx, account := t.Context(), acme.Account{TermsOfServiceAgreed: true, PrivateKey: newKey(t)}
	account, err := c.NewAccount(ctx, account)
	if err != nil {
		t.Fatal(err)
	}
	order, err := c.NewOrder(ctx, account, acme.Order{Identifiers: []acme.Identifier{{Type: "permanent-identifier", Value: "LAPTOP-0042"}}})
	if err != nil {
		t.Fatal(err)
	}
	z, err := c.GetAuthorization(ctx, account, order.Authorizations[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(z.Challenges) != 1 || z.Challenges[0].Type != "device-attest-01" {
		t.Fatalf("%+v", z.Challenges)
	}
	ch := z.Challenges[0]
	sum := sha256.Sum256([]byte(ch.KeyAuthorization))
	cert := maker.TPMKey(ak.Public(), nil, attesttest.Permanent(t, "LAPTOP-0042"))
	ch.Payload = map[string]string{"attObj": base64.RawURLEncoding.EncodeToString(attesttest.Object(t, attest.TPM, maker.Held(ak, cert, key, sum[:])))}
	if _, err := c.InitiateChallenge(ctx, account, ch); err != nil {
		t.Fatal(err)
	}
	if _, err := c.PollAuthorization(ctx, account, z); err != nil {
		t.Fatal(err)
	}
	// Another key than the attested one, even of the same owner, gets nothing.
	for _, signer := range []any{newKey(t), key} {
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, signer)
		if err != nil {
			t.Fatal(err)
		}
		done, err := c.FinalizeOrder(ctx, account, order, csr)
		if (err == nil) != (signer == any(key)) || err != nil && !strings.Contains(err.Error(), "not the one that was attested") {
			t.Fatalf("%T: %v", signer, err)
		}
		order.Certificate = done.Certificate
	}
	chains, err := c.GetCertificateChain(ctx, account, order.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	file := writeFile(t, filepath.Join(t.TempDir(), "device.pem"), string(chains[0].ChainPEM), 0o644)
	text := run(t, tool{name: "openssl", args: []string{"x509", "-in", file, "-noout", "-text"}})
	der := run(t, tool{name: "openssl", args: []string{"asn1parse", "-in", file}})
	if !strings.Contains(text, "Permanent Identifier") && !strings.Contains(text, "1.3.6.1.5.5.7.8.3") {
		t.Errorf("openssl sees no permanent identifier:\n%s\n%s", text, der)
	}
	run(t, tool{name: "openssl", args: []string{"verify", "-CAfile", s.root(), "-untrusted", file, file}})
	p.stop()
	s.doctor()
}
