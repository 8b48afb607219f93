// Package tkauthtest is a token authority for tests.
package tkauthtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"math/big"
	"testing"
	"time"

	"chancery/internal/acme/tkauth"
)

// Authority signs authority tokens with a key that its own root certified.
type Authority struct {
	Root, Cert *x509.Certificate
	key        *ecdsa.PrivateKey
	t          testing.TB
}

// New returns an authority.
func New(t testing.TB) *Authority {
	t.Helper()
	rootKey, key := newKey(t, elliptic.P256()), newKey(t, elliptic.P256())
	a := &Authority{key: key, t: t}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Token Root"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.Root = sign(t, root, root, rootKey, rootKey)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "Token Authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(12 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature}
	a.Cert = sign(t, leaf, a.Root, key, rootKey)
	return a
}

func newKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t testing.TB, cert, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// PEM returns the root as a file has it.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Root.Raw})
}

// Policy trusts the authority, whose tokens must bring their certificate.
func (a *Authority) Policy() *tkauth.Policy {
	return &tkauth.Policy{Roots: []*x509.Certificate{a.Root}}
}

// Change changes the header, the claims or the "atc" claim of a token before
// it is signed. A nil value removes a member.
type Change struct{ Header, Claims, ATC map[string]any }

// Token returns a token of RFC 9448 for a TNAuthList and a key, with changes.
func (a *Authority) Token(value, thumbprint, id string, changes ...Change) string {
	a.t.Helper()
	header := map[string]any{"alg": "ES256", "typ": "JWT", "x5c": []string{base64.StdEncoding.EncodeToString(a.Cert.Raw)}}
	atc := map[string]any{"tktype": "TNAuthList", "tkvalue": value, "ca": false, "fingerprint": tkauth.Fingerprint(thumbprint)}
	claims := map[string]any{"iss": "https://authority.test", "exp": time.Now().Add(time.Hour).Unix(), "jti": id, "atc": atc}
	for _, c := range changes {
		change(header, c.Header)
		change(claims, c.Claims)
		change(atc, c.ATC)
	}
	signed := a.part(header) + "." + a.part(claims)
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, a.key, sum[:])
	if err != nil {
		a.t.Fatal(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func change(m, with map[string]any) {
	maps.Copy(m, with)
	maps.DeleteFunc(m, func(_ string, v any) bool { return v == nil })
}

func (a *Authority) part(v any) string {
	a.t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		a.t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(text)
}
