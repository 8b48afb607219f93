package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/fault"
)

const maxTestCSR = 64 << 10

func stdCSR(t testing.TB, template *x509.CertificateRequest, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestParseCSRKeyTypes(t *testing.T) {
	for _, kt := range KeyTypes {
		key := testKey(t, kt)
		der := stdCSR(t, &x509.CertificateRequest{DNSNames: []string{"b.example", "a.example"}}, key)
		csr, err := ParseCSR(der, maxTestCSR)
		if err != nil {
			t.Errorf("%s: %v", kt, err)
			continue
		}
		if csr.KeyType != kt || !bytes.Equal(csr.SPKI, testSPKI(t, key.Public())) || csr.SignatureAlgorithm == 0 {
			t.Errorf("%s: parsed as %s, %v", kt, csr.KeyType, csr.SignatureAlgorithm)
		}
		der[len(der)-1] ^= 1
		_, err = ParseCSR(der, maxTestCSR)
		wantFault(t, err, fault.BadCSR)
	}
}

func TestParseCSRNames(t *testing.T) {
	mustStaple := pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: []byte(tlsFeatureStatusRequest)}
	for _, c := range []struct {
		name     string
		template x509.CertificateRequest
		ids      []Identifier
		cn       string
	}{
		{"nothing", x509.CertificateRequest{}, []Identifier{}, ""},
		{"common name only", x509.CertificateRequest{Subject: pkix.Name{CommonName: "A.example"}}, []Identifier{{DNS, "a.example"}}, "a.example"},
		{"address as common name", x509.CertificateRequest{Subject: pkix.Name{CommonName: "192.0.2.1"}}, []Identifier{{IP, "192.0.2.1"}}, "192.0.2.1"},
		{"common name and others", x509.CertificateRequest{Subject: pkix.Name{CommonName: "a.example", Organization: []string{"ignored"}}, DNSNames: []string{"b.example", "B.example", "a.example"}},
			[]Identifier{{DNS, "a.example"}, {DNS, "b.example"}}, "a.example"},
		// RFC 8555 section 7.4: names are in the common name, the SAN, or both.
		{"common name outside the SAN", x509.CertificateRequest{Subject: pkix.Name{CommonName: "a.example"}, DNSNames: []string{"b.example"}}, []Identifier{{DNS, "a.example"}, {DNS, "b.example"}}, "a.example"},
		{"addresses", x509.CertificateRequest{DNSNames: []string{"*.a.example"}, IPAddresses: []net.IP{net.ParseIP("2001:db8::1"), net.IPv4(192, 0, 2, 1)}},
			[]Identifier{{DNS, "*.a.example"}, {IP, "192.0.2.1"}, {IP, "2001:db8::1"}}, ""},
		{"must-staple", x509.CertificateRequest{DNSNames: []string{"a.example"}, ExtraExtensions: []pkix.Extension{mustStaple}}, []Identifier{{DNS, "a.example"}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			csr, err := ParseCSR(stdCSR(t, &c.template, testKey(t, P256)), maxTestCSR)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.ids, append([]Identifier{}, csr.Identifiers...)); diff != "" {
				t.Error(diff)
			}
			if csr.CommonName != c.cn || csr.MustStaple != (len(c.template.ExtraExtensions) > 0) {
				t.Errorf("common name %q, must-staple %v", csr.CommonName, csr.MustStaple)
			}
		})
	}
}

func extension(critical bool, value string, arcs ...int) []pkix.Extension {
	return []pkix.Extension{{Id: arcs, Critical: critical, Value: []byte(value)}}
}

func TestParseCSRRefuses(t *testing.T) {
	san := []int{2, 5, 29, 17}
	for _, c := range []struct {
		name     string
		template x509.CertificateRequest
		text     string
	}{
		{"uri", x509.CertificateRequest{URIs: []*url.URL{{Scheme: "https", Host: "a.example"}}}, "something else"},
		{"URI", x509.CertificateRequest{URIs: []*url.URL{{Scheme: "https", Host: "a.example"}}}, "something else"},
		{"otherName", x509.CertificateRequest{ExtraExtensions: extension(false, "\x30\x07\xa0\x05\x06\x01\x2a\xa0\x00", san...)}, "something else"},
		{"empty SAN", x509.CertificateRequest{ExtraExtensions: extension(false, "\x30\x00", san...)}, "empty"},
		{"long address", x509.CertificateRequest{ExtraExtensions: extension(false, "\x30\x07\x87\x05\x01\x02\x03\x04\x05", san...)}, "5 octets"},
		{"mapped address", x509.CertificateRequest{ExtraExtensions: extension(false, "\x30\x12\x87\x10\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01", san...)}, "192.0.2.1"},
		{"name with NUL", x509.CertificateRequest{ExtraExtensions: extension(false, "\x30\x05\x82\x03a\x00b", san...)}, "letters, digits"},
		{"bad name", x509.CertificateRequest{DNSNames: []string{"a_b.example"}}, "letters, digits"},
		{"bad common name", x509.CertificateRequest{Subject: pkix.Name{CommonName: "My Server"}, DNSNames: []string{"a.example"}}, "common name"},
		{"long common name", x509.CertificateRequest{Subject: pkix.Name{CommonName: strings.Repeat("a", 60) + ".example"}}, "64"},
		{"two common names", x509.CertificateRequest{Subject: pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{
			{Type: []int{2, 5, 4, 3}, Value: "a.example"}, {Type: []int{2, 5, 4, 3}, Value: "b.example"}}}}, "more than one"},
		{"CA", x509.CertificateRequest{ExtraExtensions: extension(true, "\x30\x03\x01\x01\xff", 2, 5, 29, 19)}, "CA certificate"},
		{"critical unknown", x509.CertificateRequest{ExtraExtensions: extension(true, "\x05\x00", 1, 2, 3)}, "critical"},
		{"other TLS feature", x509.CertificateRequest{ExtraExtensions: extension(false, "\x30\x03\x02\x01\x11", 1, 3, 6, 1, 5, 5, 7, 1, 24)}, "status_request"},
		{"duplicate extension", x509.CertificateRequest{ExtraExtensions: append(extension(false, "\x05\x00", 1, 2, 3), extension(false, "\x05\x00", 1, 2, 3)...)}, "twice"},
		{"SHA-1", x509.CertificateRequest{SignatureAlgorithm: x509.ECDSAWithSHA1}, "signature algorithm"},
	} {
		t.Run(c.name, func(t *testing.T) {
			key := testKey(t, P256)
			template := c.template
			var der []byte
			if template.SignatureAlgorithm == x509.ECDSAWithSHA1 { // the library refuses to make one
				der = resign(t, stdCSR(t, &x509.CertificateRequest{}, key), "\x30\x09\x06\x07\x2a\x86\x48\xce\x3d\x04\x01")
			} else {
				der = stdCSR(t, &template, key)
			}
			_, err := ParseCSR(der, maxTestCSR)
			if !fault.Is(err, fault.BadCSR) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want badCSR with %q", err, c.text)
			}
		})
	}
}

// resign replaces the signature algorithm, whatever that does to the signature.
func resign(t *testing.T, der []byte, algorithm string) []byte {
	t.Helper()
	var p csrParts
	if !p.split(der) {
		t.Fatal("not a CSR")
	}
	return tlv(tagSequence, p.tbs, []byte(algorithm), tlv(tagBitString, []byte{0}, p.signature))
}

// signCSR signs a CertificationRequestInfo made of raw parts.
func signCSR(t testing.TB, key crypto.Signer, parts ...[]byte) []byte {
	t.Helper()
	tbs := tlv(tagSequence, parts...)
	sig, err := SignTBS(key, tbs)
	if err != nil {
		t.Fatal(err)
	}
	kt, err := KeyTypeOf(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return assemble(tbs, kt, sig)
}

func TestParseCSRRawShapes(t *testing.T) {
	key := testKey(t, P256)
	spki := testSPKI(t, key.Public())
	v1, subject := []byte{tagInteger, 1, 0}, []byte(emptyName)
	san := tlv(tagSequence, appendExtension(nil, oidSAN, false, tlv(tagSequence, tlv(context(nameDNS), []byte("a.example")))))
	attribute := func(values ...[]byte) []byte {
		return tlv(tagSequence, tlv(tagOID, []byte(oidExtRequest)), tlv(tagSet, values...))
	}
	attributes := func(a ...[]byte) []byte { return tlv(contextConstructed(0), a...) }
	challenge := tlv(tagSequence, tlv(tagOID, []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x09\x07")), tlv(tagSet, tlv(tagUTF8String, []byte("secret"))))
	badKey := bytes.Clone(spki)
	badKey[len(badKey)-1] ^= 1
	compressed, infinity := bytes.Clone(spki), append(bytes.Clone(spki[:len(spkiP256)]), make([]byte, 65)...)
	compressed[len(spkiP256)] = 2
	for _, c := range []struct {
		name string
		der  []byte
		ok   bool
	}{
		{"plain", signCSR(t, key, v1, subject, spki, attributes(challenge, attribute(san))), true},
		{"no attributes at all", signCSR(t, key, v1, subject, spki), true},
		{"empty common name", signCSR(t, key, v1, commonName(tagUTF8String, ""), spki), true},
		{"IA5 common name", signCSR(t, key, v1, commonName(0x16, "a.example"), spki), true},
		{"BMP common name", signCSR(t, key, v1, commonName(0x1e, "\x00a"), spki), false},
		{"second value", signCSR(t, key, v1, subject, spki, attributes(attribute(san, san))), false},
		{"second extensionRequest", signCSR(t, key, v1, subject, spki, attributes(attribute(san), attribute(san))), false},
		{"version 2", signCSR(t, key, []byte{tagInteger, 1, 1}, subject, spki, attributes()), false},
		{"trailing part", signCSR(t, key, v1, subject, spki, attributes(), attributes()), false},
		{"trailing octet", append(signCSR(t, key, v1, subject, spki, attributes()), 0), false},
		{"point off the curve", signCSR(t, key, v1, subject, badKey, attributes()), false},
		{"compressed point in full length", signCSR(t, key, v1, subject, compressed, attributes()), false},
		{"point of zeros", signCSR(t, key, v1, subject, infinity, attributes()), false},
		{"key of another type", signCSR(t, key, v1, subject, testSPKI(t, testKey(t, Ed25519).Public()), attributes()), false},
		{"key of another size", signCSR(t, key, v1, subject, testSPKI(t, testKey(t, P384).Public()), attributes()), false},
		{"not an attribute", signCSR(t, key, v1, subject, spki, attributes([]byte{5, 0})), false},
		{"not an RDN", signCSR(t, key, v1, []byte{tagSequence, 2, 5, 0}, spki, attributes()), false},
		{"empty", nil, false},
	} {
		csr, err := ParseCSR(c.der, maxTestCSR)
		if c.ok != (err == nil) {
			t.Errorf("%s: %v, %v", c.name, csr, err)
		}
		if err != nil {
			wantFault(t, err, fault.BadCSR)
		}
	}
}

func commonName(tag byte, value string) []byte {
	attribute := appendString(appendString(nil, tagOID, oidCommonName), tag, value)
	return tlv(tagSequence, tlv(tagSet, tlv(tagSequence, attribute)))
}

func TestParseCSRSize(t *testing.T) {
	der := stdCSR(t, &x509.CertificateRequest{}, testKey(t, P256))
	_, err := ParseCSR(der, len(der)-1)
	wantFault(t, err, fault.BadCSR)
}

func TestParseCSRWeakKeys(t *testing.T) {
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	odd, err := rsa.GenerateKey(rand.Reader, 2056)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{p521, odd} {
		_, err := ParseCSR(stdCSR(t, &x509.CertificateRequest{}, key), maxTestCSR)
		wantFault(t, err, fault.BadCSR)
	}
}

func TestParseCSRFromOpenSSL(t *testing.T) {
	dir := t.TempDir()
	for name, args := range map[string][]string{
		"p256":    {"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"},
		"rsa":     {"-newkey", "rsa:2048", "-sha512"},
		"ed25519": {"-newkey", "ed25519"},
	} {
		out := filepath.Join(dir, name)
		args = append([]string{"req", "-new", "-nodes", "-keyout", out + ".key", "-out", out + ".csr", "-subj", "/O=Test/CN=a.example",
			"-addext", "subjectAltName=DNS:a.example,DNS:*.b.example,IP:2001:db8::1", "-addext", "keyUsage=critical,digitalSignature", "-addext", "tlsfeature=status_request"}, args...)
		openssl(t, args...)
		text, err := os.ReadFile(out + ".csr")
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		csr, err := ParseCSR(block.Bytes, maxTestCSR)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := []Identifier{{DNS, "*.b.example"}, {DNS, "a.example"}, {IP, "2001:db8::1"}}
		if diff := cmp.Diff(want, csr.Identifiers); diff != "" || !csr.MustStaple || csr.CommonName != "a.example" {
			t.Errorf("%s: must-staple %v, common name %q, %s", name, csr.MustStaple, csr.CommonName, diff)
		}
	}
}

func FuzzParseCSR(f *testing.F) {
	for _, kt := range []KeyType{P256, Ed25519, RSA2048, MLDSA44} {
		key := testKey(f, kt)
		f.Add(stdCSR(f, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "a.example"}, DNSNames: []string{"b.example"}, IPAddresses: []net.IP{{192, 0, 2, 1}}}, key))
	}
	f.Fuzz(checkCSR)
}

// FuzzParseCSRContents signs what it makes up, to get past the signature.
func FuzzParseCSRContents(f *testing.F) {
	key := testKey(f, Ed25519)
	spki := testSPKI(f, key.Public())
	var p csrParts
	if !p.split(stdCSR(f, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "a.example"}, DNSNames: []string{"b.example"}, IPAddresses: []net.IP{{192, 0, 2, 1}},
		ExtraExtensions: extension(false, tlsFeatureStatusRequest, 1, 3, 6, 1, 5, 5, 7, 1, 24)}, key)) {
		f.Fatal("the library's CSR does not split")
	}
	f.Add([]byte(p.subject), []byte(p.attributes))
	f.Fuzz(func(t *testing.T, subject, attributes []byte) {
		checkCSR(t, signCSR(t, key, []byte{tagInteger, 1, 0}, tlv(tagSequence, subject), spki, tlv(contextConstructed(0), attributes)))
	})
}

// checkCSR compares an accepted request with what the standard library reads.
func checkCSR(t *testing.T, der []byte) {
	csr, err := ParseCSR(der, maxTestCSR)
	if err != nil {
		wantFault(t, err, fault.BadCSR)
		return
	}
	std, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatalf("accepted what the standard library refuses: %v", err)
	}
	if err := std.CheckSignature(); err != nil {
		t.Fatalf("accepted a signature that the standard library refuses: %v", err)
	}
	if len(std.EmailAddresses)+len(std.URIs) > 0 || !bytes.Equal(std.RawSubjectPublicKeyInfo, csr.SPKI) {
		t.Fatal("reads something else than the standard library")
	}
	var want []Identifier
	for _, name := range std.DNSNames {
		want = append(want, mustParse(t, DNS, name))
	}
	for _, ip := range std.IPAddresses {
		want = append(want, mustParse(t, IP, ip.String()))
	}
	if cn := std.Subject.CommonName; cn != "" {
		typ := DNS
		if net.ParseIP(cn) != nil {
			typ = IP
		}
		want = append(want, mustParse(t, typ, cn))
	}
	if diff := cmp.Diff(append([]Identifier{}, SortIdentifiers(want)...), append([]Identifier{}, csr.Identifiers...)); diff != "" {
		t.Fatalf("names differ from the standard library's: %s", diff)
	}
}

func mustParse(t *testing.T, typ IdentifierType, value string) Identifier {
	t.Helper()
	id, err := ParseIdentifier(typ, value)
	if err != nil {
		t.Fatalf("accepted a request for a bad name: %v", err)
	}
	return id
}
