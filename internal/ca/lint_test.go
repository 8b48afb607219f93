package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	zx509 "github.com/zmap/zcrypto/x509"

	"chancery/internal/keys"
	"chancery/internal/pki"
)

// lintBench builds certificates under one encoder, as issuance does.
type lintBench struct {
	enc    *pki.Encoder
	signer *keys.Signer
	good   pki.Leaf
}

func newLintBench(t *testing.T) *lintBench {
	t.Helper()
	var throwaways keys.Throwaways
	signer, err := throwaways.Signer(pki.P256)
	if err != nil {
		t.Fatal(err)
	}
	name, err := pki.MarshalName(pkix.Name{CommonName: "Lint CA", Organization: []string{"Lint"}, Country: []string{"NL"}})
	if err != nil {
		t.Fatal(err)
	}
	id, err := pki.KeyID(signer.SPKI())
	if err != nil {
		t.Fatal(err)
	}
	p := DefaultProfiles()[0]
	enc, err := pki.NewEncoder(pki.IssuerInfo{Name: name, KeyID: id, KeyType: pki.P256}, pki.CertSpec{KeyUsage: p.KeyUsage,
		ExtKeyUsage: p.ExtKeyUsage, Policies: []asn1.ObjectIdentifier{pki.PolicyDomainValidated}, CommonName: pki.CNRequested,
		BasicConstraints: true, OCSPURLs: []string{"http://status.example.com/o"}, IssuerURLs: []string{"http://status.example.com/c"}})
	if err != nil {
		t.Fatal(err)
	}
	from := time.Now().UTC().Truncate(time.Second)
	return &lintBench{enc: enc, signer: signer, good: pki.Leaf{Serial: "\x11\x22\x33\x44\x55\x66\x77\x88\x99", NotBefore: from,
		NotAfter: from.Add(40 * 24 * time.Hour), SPKI: signer.SPKI(), CRLShardURL: "http://status.example.com/0.crl",
		Identifiers: []pki.Identifier{{Type: pki.DNS, Value: "www.example.com"}}}}
}

func (b *lintBench) cert(t *testing.T, leaf pki.Leaf) *zx509.Certificate {
	t.Helper()
	tbs, err := b.enc.TBS(leaf)
	if err != nil {
		t.Skipf("the encoder refuses it already: %v", err)
	}
	sig, err := b.signer.SignTBS(context.Background(), tbs)
	if err != nil {
		t.Fatal(err)
	}
	c, err := zx509.ParseCertificate(pki.AssembleCertificate(tbs, pki.P256, sig))
	if err != nil {
		t.Skipf("it does not parse, which stops it as well: %v", err)
	}
	return c
}

func spkiOf(t *testing.T, pub any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Once a shape has passed every lint, the varying ones must find whatever all
// of them would find.
func TestVaryingLintsMissNothing(t *testing.T) {
	b := newLintBench(t)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	odd, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	even := small.PublicKey
	even.N, even.E = new(big.Int).Lsh(small.N, 1024), 65536
	name := func(v string) func(*pki.Leaf) {
		return func(l *pki.Leaf) { l.Identifiers = []pki.Identifier{{Type: pki.DNS, Value: v}} }
	}
	for what, edit := range map[string]func(*pki.Leaf){
		"nothing":             func(*pki.Leaf) {},
		"underscore":          name("under_score.example.com"),
		"unknown TLD":         name("www.example.nowhere"),
		"no TLD":              name("localhost"),
		"bare suffix":         name("co.uk"),
		"bare wildcard":       name("*.com"),
		"inner wildcard":      name("a.*.example.com"),
		"empty label":         name("a..example.com"),
		"long label":          name(strings.Repeat("a", 64) + ".example.com"),
		"bad A-label":         name("xn--\x7f.example.com"),
		"reserved label":      name("ab--cd.example.com"),
		"leading hyphen":      name("-a.example.com"),
		"space":               name("a b.example.com"),
		"NUL":                 name("a\x00b.example.com"),
		"leading dot":         name(".example.com"),
		"arpa":                name("1.0.0.127.in-addr.arpa"),
		"onion":               name("abcdefghijklmnop.onion"),
		"reserved address":    func(l *pki.Leaf) { l.Identifiers = []pki.Identifier{{Type: pki.IP, Value: "127.0.0.1"}} },
		"foreign common name": func(l *pki.Leaf) { l.CommonName = "other.example.com" },
		"serial 0":            func(l *pki.Leaf) { l.Serial = "\x00" },
		"negative serial":     func(l *pki.Leaf) { l.Serial = "\x81" },
		"long serial":         func(l *pki.Leaf) { l.Serial = pki.Serial(strings.Repeat("\x11", 21)) },
		"ends first":          func(l *pki.Leaf) { l.NotAfter = l.NotBefore.Add(-time.Hour) },
		"two years":           func(l *pki.Leaf) { l.NotAfter = l.NotBefore.Add(730 * 24 * time.Hour) },
		"RSA-1024":            func(l *pki.Leaf) { l.SPKI = spkiOf(t, &small.PublicKey) },
		"RSA even exponent":   func(l *pki.Leaf) { l.SPKI = spkiOf(t, &even) },
		"P-224":               func(l *pki.Leaf) { l.SPKI = spkiOf(t, &odd.PublicKey) },
		"CRL by ldap":         func(l *pki.Leaf) { l.CRLShardURL = "ldap://status.example.com/0.crl" },
		"many names": func(l *pki.Leaf) {
			l.Identifiers = []pki.Identifier{{Type: pki.DNS, Value: "a.example.com"}, {Type: pki.DNS, Value: "*.a.example.com"}, {Type: pki.IP, Value: "192.0.2.1"}}
		},
	} {
		for _, set := range []LintSet{LintPrivate, LintWebPKI} {
			t.Run(what+"/"+string(set), func(t *testing.T) {
				l, err := linters[set]()
				if err != nil {
					t.Fatal(err)
				}
				leaf := b.good
				edit(&leaf)
				c := b.cert(t, leaf)
				all, some := run(l.all, c), run(l.some, c)
				slices.Sort(all)
				slices.Sort(some)
				if !slices.Equal(all, some) {
					t.Errorf("all lints find %q, the varying ones %q", all, some)
				}
				if what == "nothing" && len(all) > 0 {
					t.Errorf("a good certificate fails %q", all)
				}
			})
		}
	}
}

// The first certificate of a shape is held against every lint of the set.
func TestFirstOfAShapeIsLintedWhole(t *testing.T) {
	b := newLintBench(t)
	name, _ := pki.MarshalName(pkix.Name{CommonName: "Lint CA"})
	enc, err := pki.NewEncoder(pki.IssuerInfo{Name: name, KeyID: []byte{1, 2, 3}, KeyType: pki.P256}, pki.CertSpec{
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []asn1.ObjectIdentifier{pki.EKUServerAuth}, BasicConstraints: true})
	if err != nil {
		t.Fatal(err)
	}
	tbs, err := enc.TBS(b.good)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := b.signer.SignTBS(context.Background(), tbs)
	if err != nil {
		t.Fatal(err)
	}
	der := pki.AssembleCertificate(tbs, pki.P256, sig)
	for range 2 { // a refused shape is not remembered as good
		if err := LintPrivate.check(der, shape{encoder: enc}); err == nil || !strings.Contains(err.Error(), "e_sub_cert_aia_missing") {
			t.Fatalf("a certificate without an issuer's URL passes: %v", err)
		}
	}
}
