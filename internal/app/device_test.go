package app

import (
	"crypto/sha256"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"chancery/internal/acme/attest"
	"chancery/internal/acme/attest/attesttest"
	"chancery/internal/acme/tkauth/tkauthtest"
	"chancery/internal/config"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Each attest_..._roots is for its own format; names of devices become types.
func TestAttestationFollowsTheConfiguration(t *testing.T) {
	write := func(text []byte) string {
		path := filepath.Join(t.TempDir(), "roots.pem")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	makers := map[attest.Format]*attesttest.Maker{}
	paths := map[attest.Format]string{}
	for _, f := range attest.Formats {
		makers[f] = attesttest.NewMaker(t)
		paths[f] = write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: makers[f].Root.Raw}))
	}
	p := config.DefaultProfile()
	p.AttestAppleRoots, p.AttestTPMRoots, p.AttestAndroidRoots, p.AttestStepRoots = paths[attest.Apple], paths[attest.TPM], paths[attest.AndroidKey], paths[attest.Step]
	policy, err := attestation(p)
	if err != nil {
		t.Fatal(err)
	}
	for f := range makers {
		for g, m := range makers {
			if policy.Trusts(f, sha256.Sum256(m.Root.Raw)) != (f == g) {
				t.Errorf("the root of %s for %s", g, f)
			}
		}
	}
	for _, bad := range []string{"/nowhere", write(nil), write([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))} {
		p.AttestStepRoots = bad
		if _, err := attestation(p); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	p.Names = []config.NameKind{"permanent-identifier", "hardware-module"}
	if got := profile("x", p).Identifiers; !slices.Equal(got, []pki.IdentifierType{pki.PermanentIdentifier, pki.HardwareModule}) {
		t.Errorf("%v", got)
	}
}

// token_roots and token_origins say whose authority tokens count.
func TestTokensFollowTheConfiguration(t *testing.T) {
	authority := tkauthtest.New(t)
	path := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(path, authority.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	p := config.DefaultProfile()
	root := sha256.Sum256(authority.Root.Raw)
	if policy, err := tokens(p); err != nil || policy.Trusts(root[:]) || policy.Fetcher != nil {
		t.Errorf("%+v, %v", policy, err)
	}
	p.TokenRoots = path
	if policy, err := tokens(p); err != nil || !policy.Trusts(root[:]) || policy.Fetcher != nil {
		t.Errorf("%+v, %v", policy, err)
	}
	p.TokenOrigins, p.TokenOriginRoots = []string{"https://authority.test"}, path
	if policy, err := tokens(p); err != nil || policy.Fetcher == nil {
		t.Errorf("%+v, %v", policy, err)
	}
	for _, change := range []func(*config.Profile){func(p *config.Profile) { p.TokenRoots = "/nowhere" },
		func(p *config.Profile) { p.TokenOriginRoots = "/nowhere" }, func(p *config.Profile) { p.TokenOrigins = []string{"http://authority.test"} }} {
		bad := p
		change(&bad)
		if _, err := tokens(bad); !fault.Is(err, fault.Invalid) {
			t.Error(err)
		}
	}
	p.Names = []config.NameKind{"TNAuthList"}
	if got := profile("x", p).Identifiers; !slices.Equal(got, []pki.IdentifierType{pki.TNAuthList}) {
		t.Errorf("%v", got)
	}
}
