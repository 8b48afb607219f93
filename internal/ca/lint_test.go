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
	"reflect"
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

func newLintBench(t testing.TB) *lintBench {
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

func (b *lintBench) der(t testing.TB, leaf pki.Leaf) []byte {
	t.Helper()
	tbs, err := b.enc.TBS(leaf)
	if err != nil {
		t.Skipf("the encoder refuses it already: %v", err)
	}
	sig, err := b.signer.SignTBS(context.Background(), tbs)
	if err != nil {
		t.Fatal(err)
	}
	return pki.AssembleCertificate(tbs, pki.P256, sig)
}

// model returns the model of a good certificate for a set.
func (b *lintBench) model(t testing.TB, l *linter) *model {
	t.Helper()
	from, until := l.dates.around(b.good.NotBefore)
	m := newModel(b.der(t, b.good), from, until)
	if m == nil {
		t.Fatal("a good certificate makes no model")
	}
	return m
}

// compare reports whether the model takes der, and fails if it then says
// anything else than zcrypto's parser and all lints would.
func compare(t testing.TB, l *linter, m *model, der []byte) (taken bool) {
	t.Helper()
	like := m.copies.Get().(*zx509.Certificate) // as it was left by the one before
	defer m.copies.Put(like)
	took, usual := m.like(like, der)
	if !took {
		return false
	}
	c, err := zx509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("the model takes what does not parse: %v", err)
	}
	got, want := reflect.ValueOf(like).Elem(), reflect.ValueOf(c).Elem()
	for _, f := range reflect.VisibleFields(want.Type()) {
		if !f.IsExported() || strings.Contains(f.Name, "Fingerprint") {
			continue // caches, which are empty in both; what no lint reads
		}
		if a, b := got.FieldByIndex(f.Index).Interface(), want.FieldByIndex(f.Index).Interface(); !reflect.DeepEqual(a, b) {
			t.Errorf("%s is %v, zcrypto says %v", f.Name, a, b)
		}
	}
	all, some := run(l.all, c), run(l.some, like)
	slices.Sort(all)
	slices.Sort(some)
	if !slices.Equal(all, some) {
		t.Errorf("all lints find %q, those that are run find %q", all, some)
	}
	if few := run(l.few, like); usual && !slices.Equal(all, slices.Sorted(slices.Values(few))) {
		t.Errorf("of what is usual all lints find %q, those that are run find %q", all, few)
	}
	return true
}

// Whatever octet of a certificate changes: the model notices, or the lints that
// it leaves find what all of them would.
func TestModelMissesNoChange(t *testing.T) {
	b := newLintBench(t)
	for _, set := range []LintSet{LintPrivate, LintWebPKI, LintRFC} {
		l, err := linters[set]()
		if err != nil {
			t.Fatal(err)
		}
		m := b.model(t, l)
		good, taken := b.der(t, b.good), 0
		for i := range good {
			for _, v := range []byte{good[i] + 1, good[i] ^ 0x80, good[i] ^ 0x20, 0, 0xff} {
				der := slices.Clone(good)
				if der[i] = v; v != good[i] && compare(t, l, m, der) {
					taken++
				}
			}
		}
		if taken < 100 { // serial, names, key, signature
			t.Errorf("%s: the model took %d of the changed certificates, which makes this test say little", set, taken)
		}
	}
}

// A rule that comes into force makes certificates new to the linter.
func TestModelEndsWithNewRules(t *testing.T) {
	at := func(day int) time.Time { return time.Date(2027, 3, day, 0, 0, 0, 0, time.UTC) }
	d := dates{{}, {}, at(3), at(15)}
	for _, c := range []struct{ t, from, until time.Time }{
		{at(1), time.Time{}, at(3)}, {at(3), at(3), at(15)}, {at(14), at(3), at(15)}, {at(15), at(15), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if from, until := d.around(c.t); !from.Equal(c.from) || !until.Equal(c.until) {
			t.Errorf("%v lies between %v and %v", c.t, from, until)
		}
	}
	b := newLintBench(t)
	m := newModel(b.der(t, b.good), b.good.NotBefore, b.good.NotBefore.Add(time.Hour))
	next := b.good
	next.NotBefore = next.NotBefore.Add(time.Hour)
	if like, _ := m.like(new(zx509.Certificate), b.der(t, next)); like {
		t.Error("a certificate is judged by the rules of an hour ago")
	}
}

func FuzzModel(f *testing.F) {
	b := newLintBench(f)
	l, err := linters[LintPrivate]()
	if err != nil {
		f.Fatal(err)
	}
	m := b.model(f, l)
	f.Add(b.der(f, b.good))
	f.Fuzz(func(t *testing.T, der []byte) { compare(t, l, m, der) })
}

func BenchmarkLint(b *testing.B) {
	lb := newLintBench(b)
	der := lb.der(b, lb.good)
	b.ReportAllocs()
	for b.Loop() {
		if err := LintPrivate.check(der, modelKey{encoder: lb.enc}); err != nil {
			b.Fatal(err)
		}
	}
}

func spkiOf(t *testing.T, pub any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Once a certificate has passed every lint, those that are run for others like
// it must find whatever all of them would find.
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
		"plain hyphens":       name("a--b.a-1.example.com"),
		"short plain labels":  name("a.b.c.1.2.com"),
		"longest label":       name(strings.Repeat("a", 63) + ".example.com"),
		"longest name":        name(strings.Repeat(strings.Repeat("a", 49)+".", 5) + "com"),
		"too long a name":     name(strings.Repeat(strings.Repeat("a", 50)+".", 5) + "com"),
		"upper case":          name("WWW.EXAMPLE.COM"),
		"onion in between":    name("onion.example.com"),
		"wildcard":            name("*.example.com"),
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
				taken := compare(t, l, b.model(t, l), b.der(t, leaf))
				if must := what == "nothing" || what == "many names" || what == "two years"; must && !taken {
					t.Error("the model does not take it, so that every such certificate is judged from scratch")
				}
			})
		}
	}
}

// The first certificate of its kind is held against every lint of the set.
func TestFirstOfItsKindIsLintedWhole(t *testing.T) {
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
	for range 2 { // a refused one is not remembered as good
		if err := LintPrivate.check(der, modelKey{encoder: enc}); err == nil || !strings.Contains(err.Error(), "e_sub_cert_aia_missing") {
			t.Fatalf("a certificate without an issuer's URL passes: %v", err)
		}
	}
}
