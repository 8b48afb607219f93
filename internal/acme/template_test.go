package acme

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"net/http"
	"strings"
	"testing"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// exampleTemplate is that of RFC 9115 section 4.2.
const exampleTemplate = `{"keyTypes": [
	{"PublicKeyType": "rsaEncryption", "PublicKeyLength": 2048, "SignatureType": "sha256WithRSAEncryption"},
	{"PublicKeyType": "id-ecPublicKey", "namedCurve": "secp256r1", "SignatureType": "ecdsa-with-SHA256"}],
	"subject": {"country": "CA", "stateOrProvince": "**", "locality": "*"},
	"extensions": {"subjectAltName": {"DNS": ["abc.ido.example"]}, "keyUsage": ["digitalSignature"],
		"extendedKeyUsage": ["serverAuth", "clientAuth"]}}`

func parsed(t testing.TB, text string) *Template {
	t.Helper()
	v, err := ParseTemplate([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestTemplatesAreReadStrictly(t *testing.T) {
	parsed(t, exampleTemplate)
	change := func(old, new string) string {
		t.Helper()
		if !strings.Contains(exampleTemplate, old) {
			t.Fatalf("the template has no %s", old)
		}
		return strings.Replace(exampleTemplate, old, new, 1)
	}
	for name, text := range map[string]string{
		"not JSON":               "{",
		"an array":               "[]",
		"null":                   "null",
		"too long":               change(`"CA"`, `"`+strings.Repeat("x", maxTemplate)+`"`),
		"too deep":               strings.Repeat(`{"extensions":`, 50) + "1" + strings.Repeat("}", 50),
		"an unknown member":      change(`"keyTypes"`, `"more": 1, "keyTypes"`),
		"a member twice":         change(`"subject"`, `"keyTypes": [], "subject"`),
		"another case":           change(`"keyTypes"`, `"keytypes"`),
		"no keyTypes":            `{"extensions": {"subjectAltName": {"DNS": ["a.test"]}}}`,
		"empty keyTypes":         `{"keyTypes": [], "extensions": {"subjectAltName": {"DNS": ["a.test"]}}}`,
		"a short RSA key":        change("2048", "2047"),
		"RSA without length":     change(`"PublicKeyLength": 2048, `, ""),
		"RSA with a curve":       change(`"PublicKeyLength": 2048`, `"PublicKeyLength": 2048, "namedCurve": "secp256r1"`),
		"no signature":           change(`, "SignatureType": "sha256WithRSAEncryption"`, ""),
		"an unknown signature":   change("sha256WithRSAEncryption", "sha1WithRSAEncryption"),
		"a signature of another": change("ecdsa-with-SHA256", "ecdsa-with-SHA384"),
		"no key type":            change(`"PublicKeyType": "id-ecPublicKey", `, ""),
		"no curve":               change(`"namedCurve": "secp256r1", `, ""),
		"an unknown curve":       change("secp256r1", "secp256k1"),
		"an empty subject":       change(`{"country": "CA", "stateOrProvince": "**", "locality": "*"}`, "{}"),
		"an unknown attribute":   change(`"country"`, `"surname"`),
		"an empty attribute":     change(`"CA"`, `""`),
		"a long attribute":       change(`"CA"`, `"`+strings.Repeat("x", 201)+`"`),
		"no subjectAltName":      change(`"subjectAltName": {"DNS": ["abc.ido.example"]}, `, ""),
		"empty subjectAltName":   change(`{"DNS": ["abc.ido.example"]}`, "{}"),
		"no DNS names":           change(`["abc.ido.example"]`, "[]"),
		"an empty name":          change(`"abc.ido.example"`, `""`),
		"no name at all":         change(`"abc.ido.example"`, `"a b"`),
		"a name twice":           change(`"abc.ido.example"`, `"abc.ido.example", "ABC.ido.example"`),
		"too many names":         change(`"abc.ido.example"`, `"*"`+strings.Repeat(`, "*"`, 100)),
		"URIs":                   change(`"DNS"`, `"URI": ["https://a.test"], "DNS"`),
		"empty keyUsage":         change(`["digitalSignature"]`, "[]"),
		"an unknown keyUsage":    change("digitalSignature", "signing"),
		"a keyUsage twice":       change(`"digitalSignature"`, `"digitalSignature", "digitalSignature"`),
		"empty extendedKeyUsage": change(`["serverAuth", "clientAuth"]`, "[]"),
		"an unknown purpose":     change("clientAuth", "fun"),
		"zeros before an arc":    change("clientAuth", "1.3.06"),
		"a purpose twice":        change("clientAuth", "1.3.6.1.5.5.7.3.1"),
		"another extension":      change(`"keyUsage"`, `"tlsFeature": [], "keyUsage"`),
	} {
		if v, err := ParseTemplate([]byte(text)); !fault.Is(err, fault.Invalid) || v != nil {
			t.Errorf("%s: %v, %v", name, v, err)
		}
	}
}

// request is a CSR that fits the example.
func request() *x509.CertificateRequest {
	return &x509.CertificateRequest{DNSNames: []string{"abc.ido.example"},
		Subject: pkix.Name{Country: []string{"CA"}, Province: []string{"Ontario"}},
		ExtraExtensions: []pkix.Extension{{Id: oidKeyUsage, Value: []byte{3, 2, 7, 0x80}},
			{Id: oidExtKeyUsage, Value: ekus(pki.EKUClientAuth, pki.EKUServerAuth)}}}
}

func ekus(oids ...asn1.ObjectIdentifier) []byte {
	der, err := asn1.Marshal(oids)
	if err != nil {
		panic(err)
	}
	return der
}

func signed(t *testing.T, tmpl *x509.CertificateRequest, key crypto.Signer) *pki.CSR {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	return &pki.CSR{DER: der} // the names need not be certifiable here
}

// RFC 9115 section 4.1: what the template says must be there, and nothing else.
func TestRequestsAreHeldAgainstTheTemplate(t *testing.T) {
	v := parsed(t, exampleTemplate)
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsa3072, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Check(signed(t, request(), p256)); err != nil {
		t.Error(err)
	}
	optional := request()
	optional.Subject.Locality = []string{"Ottawa"}
	if err := v.Check(signed(t, optional, p256)); err != nil {
		t.Errorf("an optional attribute: %v", err)
	}
	for name, bad := range map[string]struct {
		code   fault.Code
		key    crypto.Signer
		change func(*x509.CertificateRequest)
	}{
		"a key of another size":        {fault.BadCSR, rsa3072, nil},
		"a key on another curve":       {fault.BadCSR, p384, nil},
		"another signature":            {fault.BadCSR, p256, func(r *x509.CertificateRequest) { r.SignatureAlgorithm = x509.ECDSAWithSHA512 }},
		"a literal with another value": {fault.BadCSR, p256, func(r *x509.CertificateRequest) { r.Subject.Country = []string{"DE"} }},
		"a literal that is missing":    {fault.BadCSR, p256, func(r *x509.CertificateRequest) { r.Subject.Country = nil }},
		"a mandatory field missing":    {fault.BadCSR, p256, func(r *x509.CertificateRequest) { r.Subject.Province = nil }},
		"an attribute twice":           {fault.BadCSR, p256, func(r *x509.CertificateRequest) { r.Subject.Province = []string{"A", "B"} }},
		"an attribute too many":        {fault.BadCSR, p256, func(r *x509.CertificateRequest) { r.Subject.Organization = []string{"CDN"} }},
		"a common name":                {fault.BadCSR, p256, func(r *x509.CertificateRequest) { r.Subject.CommonName = "abc.ido.example" }},
		"an attribute of no name":      {fault.BadCSR, p256, func(r *x509.CertificateRequest) { r.Subject.SerialNumber = "1" }},
		"no key usage":                 {fault.BadCSR, p256, func(r *x509.CertificateRequest) { r.ExtraExtensions = r.ExtraExtensions[1:] }},
		"more key usages":              {fault.BadCSR, p256, func(r *x509.CertificateRequest) { r.ExtraExtensions[0].Value = []byte{3, 2, 5, 0xa0} }},
		"key usage that is no DER":     {fault.BadCSR, p256, func(r *x509.CertificateRequest) { r.ExtraExtensions[0].Value = []byte{3, 9, 5} }},
		"no extended key usage":        {fault.BadCSR, p256, func(r *x509.CertificateRequest) { r.ExtraExtensions = r.ExtraExtensions[:1] }},
		"one purpose of two":           {fault.BadCSR, p256, func(r *x509.CertificateRequest) { r.ExtraExtensions[1].Value = ekus(pki.EKUServerAuth) }},
		"another purpose": {fault.BadCSR, p256, func(r *x509.CertificateRequest) {
			r.ExtraExtensions[1].Value = ekus(pki.EKUServerAuth, pki.EKUCodeSigning)
		}},
		"an extension of no name": {fault.BadCSR, p256, func(r *x509.CertificateRequest) {
			r.ExtraExtensions = append(r.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: []byte{0x30, 3, 2, 1, 5}})
		}},
		"no name":         {fault.RejectedIdentifier, p256, func(r *x509.CertificateRequest) { r.DNSNames = nil }},
		"a name too many": {fault.RejectedIdentifier, p256, func(r *x509.CertificateRequest) { r.DNSNames = append(r.DNSNames, "xyz.ido.example") }},
		"another name":    {fault.RejectedIdentifier, p256, func(r *x509.CertificateRequest) { r.DNSNames = []string{"xyz.ido.example"} }},
		"an address":      {fault.BadCSR, p256, func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1)} }},
	} {
		r := request()
		if bad.change != nil {
			bad.change(r)
		}
		err := v.Check(signed(t, r, bad.key))
		f := fault.As(err)
		if f == nil || f.Code != bad.code || f.Status() != http.StatusForbidden || bad.code == fault.RejectedIdentifier && len(f.Sub) == 0 {
			t.Errorf("%s: %v, want %s with status 403", name, err, bad.code)
		}
	}
	for _, der := range [][]byte{nil, {0x30, 0}} {
		if err := v.Check(&pki.CSR{DER: der}); !fault.Is(err, fault.BadCSR) {
			t.Error(err)
		}
	}
}

func TestTemplateNames(t *testing.T) {
	with := func(names string) *Template {
		return parsed(t, strings.Replace(exampleTemplate, `"abc.ido.example"`, names, 1))
	}
	names := func(list ...string) (ids []pki.Identifier) {
		for _, n := range list {
			ids = append(ids, pki.Identifier{Type: pki.DNS, Value: n})
		}
		return ids
	}
	for _, c := range []struct {
		template string
		ids      []pki.Identifier
		ok       bool
	}{
		{`"a.test", "b.test"`, names("a.test", "b.test"), true},
		{`"a.test", "b.test"`, names("a.test"), false},
		{`"*.a.test"`, names("*.a.test"), true},
		{`"*.a.test"`, names("x.a.test"), false},
		{`"**"`, names("a.test"), true},
		{`"**"`, names(), false},
		{`"**"`, names("a.test", "b.test"), false},
		{`"a.test", "*"`, names("a.test"), true},
		{`"a.test", "*"`, names("a.test", "b.test"), true},
		{`"a.test", "*"`, names("a.test", "b.test", "c.test"), false},
		{`"**", "*"`, names("b.test", "c.test"), true},
		{`"**"`, []pki.Identifier{{Type: pki.IP, Value: "192.0.2.1"}}, false},
	} {
		if err := with(c.template).CheckNames(c.ids); (err == nil) != c.ok || err != nil && fault.As(err).Status() != http.StatusForbidden {
			t.Errorf("%s for %v: %v", c.template, c.ids, err)
		}
	}
}

func TestCNAMEMap(t *testing.T) { // RFC 9115 section 2.3.1.3
	v := parsed(t, exampleTemplate)
	for _, c := range []struct {
		from, to string
		ok       bool
	}{
		{"abc.ido.example.", "abc.ndc.example.", true},
		{"abc.ido.example", "abc.ndc.example.", false},
		{"abc.ido.example.", "abc.ndc.example", false},
		{"xyz.ido.example.", "abc.ndc.example.", false},
		{"abc.ido.example.", "a b.", false},
		{".", "abc.ndc.example.", false},
	} {
		if err := v.CheckCNAMEs(map[string]string{c.from: c.to}); (err == nil) != c.ok || err != nil && !fault.Is(err, fault.Invalid) {
			t.Errorf("%s -> %s: %v", c.from, c.to, err)
		}
	}
}

// What the CA puts into certificates may not be more than was delegated.
func TestTemplatePermitsUsages(t *testing.T) {
	v := parsed(t, exampleTemplate)
	both := []asn1.ObjectIdentifier{pki.EKUServerAuth, pki.EKUClientAuth}
	if err := v.Permits(x509.KeyUsageDigitalSignature, both[:1]); err != nil {
		t.Error(err)
	}
	for _, err := range []error{v.Permits(x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment, both),
		v.Permits(x509.KeyUsageDigitalSignature, append(both, pki.EKUCodeSigning))} {
		if !fault.Is(err, fault.Invalid) {
			t.Error(err)
		}
	}
	ec := parsed(t, strings.Replace(exampleTemplate, `{"PublicKeyType": "rsaEncryption", "PublicKeyLength": 2048, "SignatureType": "sha256WithRSAEncryption"},`, "", 1))
	if err := ec.Permits(x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment, both); err != nil {
		t.Errorf("a usage that only RSA keys get: %v", err)
	}
}

func FuzzTemplate(f *testing.F) {
	f.Add([]byte(exampleTemplate))
	f.Add([]byte(`{"keyTypes":[{}],"extensions":{"subjectAltName":{"DNS":["**"]}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		v, err := ParseTemplate(text)
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("%v", err)
			}
			return
		}
		if len(v.KeyTypes) == 0 || len(v.Extensions.SubjectAltName.DNS) == 0 {
			t.Errorf("%+v was accepted", v)
		}
	})
}
