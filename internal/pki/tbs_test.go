package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	mathrand "math/rand/v2"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// stdTBS has the standard library encode the same certificate.
func stdTBS(t testing.TB, template, parent *x509.Certificate, ca *testCA, pub any) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	tbs, err := TBSOf(der)
	if err != nil {
		t.Fatal(err)
	}
	return tbs
}

func sameDER(t *testing.T, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("encodings differ:\ngot  %s\nwant %s", hex.EncodeToString(got), hex.EncodeToString(want))
	}
}

func oids(t *testing.T, ids ...asn1.ObjectIdentifier) []x509.OID {
	t.Helper()
	var out []x509.OID
	for _, id := range ids {
		oid, err := x509.ParseOID(id.String())
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, oid)
	}
	return out
}

// serverSpec is a profile that uses every field a subscriber profile can.
func serverSpec() CertSpec {
	return CertSpec{
		KeyUsage:         x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:      []asn1.ObjectIdentifier{EKUServerAuth, EKUClientAuth},
		Policies:         []asn1.ObjectIdentifier{PolicyDomainValidated, {1, 3, 6, 1, 4, 1, 44947, 1, 1, 1}},
		BasicConstraints: true,
		SubjectKeyID:     true,
		OCSPURLs:         []string{"http://ocsp.example/a"},
		IssuerURLs:       []string{"http://ca.example/issuer.crt", "http://ca.example/2.crt"},
		CRLURLs:          []string{"http://crl.example/1.crl"},
		CommonName:       CNFirst,
		MustStaple:       true,
	}
}

// serverTemplate is what serverSpec says, in the words of crypto/x509.
func serverTemplate(t *testing.T, leaf Leaf, subject KeyType) *x509.Certificate {
	template := &x509.Certificate{
		SerialNumber: leaf.Serial.Big(), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		Policies:    oids(t, PolicyDomainValidated, asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 44947, 1, 1, 1}),

		BasicConstraintsValid: true,
		OCSPServer:            []string{"http://ocsp.example/a"},
		IssuingCertificateURL: []string{"http://ca.example/issuer.crt", "http://ca.example/2.crt"},
		CRLDistributionPoints: []string{"http://crl.example/1.crl"},
		ExtraExtensions:       []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: []byte{0x30, 3, 2, 1, 5}}},
	}
	if subject.RSA() {
		template.KeyUsage |= x509.KeyUsageKeyEncipherment
	}
	if keyID, err := KeyID(leaf.SPKI); err != nil {
		t.Fatal(err)
	} else {
		template.SubjectKeyId = keyID
	}
	for _, id := range leaf.Identifiers {
		if id.Type == DNS {
			template.DNSNames = append(template.DNSNames, id.Value)
		} else {
			template.IPAddresses = append(template.IPAddresses, net.IP(id.Addr().AsSlice()))
		}
	}
	return template
}

func TestTBSEqualsStandardLibrary(t *testing.T) {
	names := []Identifier{{DNS, "a.example.com"}, {DNS, "*.example.com"}, {IP, "192.0.2.1"}, {IP, "2001:db8::1"}}
	for _, issuer := range KeyTypes {
		ca := newTestCA(t, issuer)
		enc, err := NewEncoder(ca.info, serverSpec())
		if err != nil {
			t.Fatal(err)
		}
		for _, subject := range []KeyType{P256, RSA2048, MLDSA44} {
			t.Run(string(issuer)+"/"+string(subject), func(t *testing.T) {
				serial, err := NewSerial(0x2a, testNow, rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				pub := testKey(t, subject).Public()
				leaf := Leaf{Serial: serial, NotBefore: testNow, NotAfter: testNow.Add(90 * 24 * time.Hour), SPKI: testSPKI(t, pub), Identifiers: names, MustStaple: true}
				got, err := enc.TBS(leaf)
				if err != nil {
					t.Fatal(err)
				}
				template := serverTemplate(t, leaf, subject)
				template.Subject.CommonName = "a.example.com"
				sameDER(t, got, stdTBS(t, template, ca.cert, ca, pub))
			})
		}
	}
}

func TestTBSOfAuthorities(t *testing.T) {
	ca := newTestCA(t, P384)
	pub := testKey(t, P256).Public()
	subject := pkix.Name{Country: []string{"CH"}, Organization: []string{"Käse AG"}, CommonName: "Issuing 1"}
	name, err := MarshalName(subject)
	if err != nil {
		t.Fatal(err)
	}
	spki := testSPKI(t, pub)
	keyID, err := KeyID(spki)
	if err != nil {
		t.Fatal(err)
	}
	base := x509.Certificate{SerialNumber: Serial("\x00\xff").Big(), Subject: subject, NotBefore: testNow, NotAfter: testNow.AddDate(30, 0, 0), BasicConstraintsValid: true}
	leaf := Leaf{Serial: "\x00\xff", NotBefore: base.NotBefore, NotAfter: base.NotAfter, SPKI: spki, Subject: name}
	for _, c := range []struct {
		name     string
		spec     CertSpec
		template func(x509.Certificate) x509.Certificate
	}{
		{"intermediate", CertSpec{CA: true, PathLen: 0, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, CRLURLs: []string{"http://crl.example/root.crl"}}, func(c x509.Certificate) x509.Certificate {
			c.IsCA, c.MaxPathLenZero, c.SubjectKeyId = true, true, keyID
			c.KeyUsage, c.CRLDistributionPoints = x509.KeyUsageCertSign|x509.KeyUsageCRLSign, []string{"http://crl.example/root.crl"}
			return c
		}},
		{"deep intermediate", CertSpec{CA: true, PathLen: 300, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDecipherOnly}, func(c x509.Certificate) x509.Certificate {
			c.IsCA, c.MaxPathLen, c.SubjectKeyId = true, 300, keyID
			c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDecipherOnly
			return c
		}},
		{"responder", CertSpec{KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []asn1.ObjectIdentifier{EKUOCSPSigning}, NoCheck: true}, func(c x509.Certificate) x509.Certificate {
			c.BasicConstraintsValid = false
			c.KeyUsage, c.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}, Value: []byte{5, 0}}}
			return c
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			enc, err := NewEncoder(ca.info, c.spec)
			if err != nil {
				t.Fatal(err)
			}
			got, err := enc.TBS(leaf)
			if err != nil {
				t.Fatal(err)
			}
			template := c.template(base)
			sameDER(t, got, stdTBS(t, &template, ca.cert, ca, pub))
		})
	}
}

func TestRootVerifies(t *testing.T) {
	for _, kt := range KeyTypes {
		ca := newTestCA(t, kt)
		if err := ca.cert.CheckSignatureFrom(ca.cert); err != nil {
			t.Errorf("%s root: %v", kt, err)
		}
		if len(ca.cert.AuthorityKeyId) != 0 || !ca.cert.IsCA || ca.cert.MaxPathLen != -1 {
			t.Errorf("%s root: authority key id %x, CA %v, path length %d", kt, ca.cert.AuthorityKeyId, ca.cert.IsCA, ca.cert.MaxPathLen)
		}
	}
}

func TestEmptySubjectMakesSANCritical(t *testing.T) {
	ca := newTestCA(t, P256)
	spec := serverSpec()
	spec.CommonName = ""
	enc, err := NewEncoder(ca.info, spec)
	if err != nil {
		t.Fatal(err)
	}
	leaf := testLeaf(t)
	leaf.CommonName = "a.example.com" // the rule says no
	cert := issue(t, enc, ca.key, leaf)
	if string(cert.RawSubject) != emptyName {
		t.Errorf("subject is %s", cert.Subject)
	}
	for _, ext := range cert.Extensions {
		if ext.Id.String() == "2.5.29.17" && !ext.Critical {
			t.Error("subjectAltName is not critical with an empty subject (RFC 5280 section 4.2.1.6)")
		}
	}
}

func testLeaf(t testing.TB) Leaf {
	return Leaf{Serial: "\x01\x02", NotBefore: testNow, NotAfter: testNow.Add(time.Hour), SPKI: testSPKI(t, testKey(t, P256).Public()), Identifiers: []Identifier{{DNS, "a.example.com"}}}
}

func TestCommonNameRules(t *testing.T) {
	ca := newTestCA(t, P256)
	long := strings.Repeat("a", 60) + ".example"
	for _, c := range []struct {
		rule      CNRule
		requested string
		ids       []string
		want      string
	}{
		{CNNone, "b.example", []string{"a.example", "b.example"}, ""},
		{CNRequested, "b.example", []string{"a.example", "b.example"}, "b.example"},
		{CNRequested, "", []string{"a.example"}, ""},
		{CNFirst, "b.example", []string{"a.example", "b.example"}, "b.example"},
		{CNFirst, "", []string{long, "b.example"}, "b.example"},
		{CNFirst, "", []string{long}, ""},
	} {
		enc, err := NewEncoder(ca.info, CertSpec{CommonName: c.rule})
		if err != nil {
			t.Fatal(err)
		}
		leaf := testLeaf(t)
		leaf.CommonName, leaf.Identifiers = c.requested, nil
		for _, v := range c.ids {
			leaf.Identifiers = append(leaf.Identifiers, Identifier{DNS, v})
		}
		if got := issue(t, enc, ca.key, leaf).Subject.CommonName; got != c.want {
			t.Errorf("%s %q %v: common name %q, want %q", c.rule, c.requested, c.ids, got, c.want)
		}
	}
}

func TestCRLShardReplacesProfileURL(t *testing.T) {
	ca := newTestCA(t, P256)
	enc, err := NewEncoder(ca.info, serverSpec())
	if err != nil {
		t.Fatal(err)
	}
	leaf := testLeaf(t)
	leaf.CRLShardURL = "http://crl.example/shard/7.crl"
	cert := issue(t, enc, ca.key, leaf)
	if diff := cmp.Diff([]string{leaf.CRLShardURL}, cert.CRLDistributionPoints); diff != "" {
		t.Error(diff)
	}
}

func TestTBSRefuses(t *testing.T) {
	ca := newTestCA(t, P256)
	enc, err := NewEncoder(ca.info, CertSpec{CommonName: CNRequested})
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Leaf){
		"negative serial":   func(l *Leaf) { l.Serial = "\x80" },
		"no serial":         func(l *Leaf) { l.Serial = "" },
		"reversed validity": func(l *Leaf) { l.NotAfter = l.NotBefore.Add(-time.Second) },
		"year 10000":        func(l *Leaf) { l.NotAfter = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"broken key":        func(l *Leaf) { l.SPKI = []byte{0x30, 1} },
		"trailing data":     func(l *Leaf) { l.SPKI = append(l.SPKI, 0) },
		"must-staple":       func(l *Leaf) { l.MustStaple = true },
		"non-ASCII URL":     func(l *Leaf) { l.CRLShardURL = "http://ü" },
		"non-ASCII name":    func(l *Leaf) { l.Identifiers = []Identifier{{DNS, "ü.example"}} },
		"empty name":        func(l *Leaf) { l.Identifiers = []Identifier{{DNS, ""}} },
		"not an address":    func(l *Leaf) { l.Identifiers = []Identifier{{IP, "a.example"}} },
		"unknown name type": func(l *Leaf) { l.Identifiers = []Identifier{{"uri", "a@example"}} },
		"long common name":  func(l *Leaf) { l.CommonName = strings.Repeat("a", 65) },
		"broken subject":    func(l *Leaf) { l.Subject = []byte("x") },
		"broken extension":  func(l *Leaf) { l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{9}}} },
	} {
		leaf := testLeaf(t)
		change(&leaf)
		if _, err := enc.TBS(leaf); err == nil {
			t.Errorf("%s was encoded", name)
		}
	}
}

func TestNewEncoderRefuses(t *testing.T) {
	good := IssuerInfo{Name: []byte(emptyName), KeyType: P256}
	for name, c := range map[string]struct {
		issuer IssuerInfo
		spec   CertSpec
	}{
		"unknown key type":   {IssuerInfo{Name: []byte(emptyName), KeyType: "dsa"}, CertSpec{}},
		"no issuer name":     {IssuerInfo{KeyType: P256}, CertSpec{}},
		"empty URL":          {good, CertSpec{OCSPURLs: []string{""}}},
		"URL with a space":   {good, CertSpec{CRLURLs: []string{"http://a b"}}},
		"unknown CN rule":    {good, CertSpec{CommonName: "last"}},
		"unknown usage":      {good, CertSpec{KeyUsage: 1 << 9}},
		"certSign on a leaf": {good, CertSpec{KeyUsage: x509.KeyUsageCertSign}},
		"broken purpose":     {good, CertSpec{ExtKeyUsage: []asn1.ObjectIdentifier{{9, 9}}}},
		"broken policy":      {good, CertSpec{Policies: []asn1.ObjectIdentifier{{}}}},
	} {
		if _, err := NewEncoder(c.issuer, c.spec); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestTBSRandom encodes random certificates and compares what crypto/x509
// reads back, and the bytes that it writes.
func TestTBSRandom(t *testing.T) {
	ca := newTestCA(t, P256)
	pub := testKey(t, P256).Public()
	spki := testSPKI(t, pub)
	rnd := mathrand.New(mathrand.NewPCG(1, 2))
	for range 300 {
		spec := CertSpec{
			KeyUsage:         x509.KeyUsage(rnd.IntN(512)) &^ (x509.KeyUsageCertSign | encipherment),
			BasicConstraints: rnd.IntN(2) == 0,
			ExtKeyUsage:      []asn1.ObjectIdentifier{EKUServerAuth, EKUClientAuth, EKUEmailProtection}[:rnd.IntN(4)],
		}
		for range rnd.IntN(3) {
			spec.OCSPURLs = append(spec.OCSPURLs, "http://o.example/"+strings.Repeat("x", rnd.IntN(300)))
			spec.CRLURLs = append(spec.CRLURLs, "http://c.example/"+strings.Repeat("y", rnd.IntN(300)))
		}
		enc, err := NewEncoder(ca.info, spec)
		if err != nil {
			t.Fatal(err)
		}
		serial, err := NewSerial(byte(1+rnd.IntN(127)), testNow, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		leaf := Leaf{Serial: serial, NotBefore: time.Unix(rnd.Int64N(4e9), 0), SPKI: spki}
		leaf.NotAfter = leaf.NotBefore.Add(time.Duration(rnd.Int64N(1e9)) * time.Second)
		for range rnd.IntN(100) {
			leaf.Identifiers = append(leaf.Identifiers, Identifier{DNS, strings.Repeat("n", 1+rnd.IntN(60)) + ".example"})
		}
		got, err := enc.TBS(leaf)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: serial.Big(), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, KeyUsage: spec.KeyUsage,
			ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageEmailProtection}[:len(spec.ExtKeyUsage)],
			BasicConstraintsValid: spec.BasicConstraints, OCSPServer: spec.OCSPURLs, CRLDistributionPoints: spec.CRLURLs,
		}
		for _, id := range leaf.Identifiers {
			template.DNSNames = append(template.DNSNames, id.Value)
		}
		sameDER(t, got, stdTBS(t, template, ca.cert, ca, pub))
	}
}

func TestExtraExtensionsComeLast(t *testing.T) {
	ca := newTestCA(t, P256)
	enc, err := NewEncoder(ca.info, serverSpec())
	if err != nil {
		t.Fatal(err)
	}
	leaf := testLeaf(t)
	poison := pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}, Critical: true, Value: []byte{5, 0}}
	leaf.ExtraExtensions = []pkix.Extension{poison}
	cert := issue(t, enc, ca.key, leaf)
	if diff := cmp.Diff(poison, cert.Extensions[len(cert.Extensions)-1]); diff != "" {
		t.Error(diff)
	}
}

func TestValidity(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	issuer := at("2030-01-01T00:00:00Z")
	for _, c := range []struct {
		from, wantFrom, wantTo string
		period                 time.Duration
	}{
		// 90 days are 90 days, not 90 days and a second (Let's Encrypt, 2021).
		{"2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "2026-03-31T23:59:59Z", 90 * 24 * time.Hour},
		{"2026-01-01T01:00:00.9+01:00", "2026-01-01T00:00:00Z", "2026-01-01T00:59:59Z", time.Hour},
		{"2029-12-31T00:00:00Z", "2029-12-31T00:00:00Z", "2030-01-01T00:00:00Z", 90 * 24 * time.Hour},
	} {
		from, to := Validity(at(c.from), c.period, issuer)
		if !from.Equal(at(c.wantFrom)) || !to.Equal(at(c.wantTo)) || from.Location() != time.UTC || to.Location() != time.UTC {
			t.Errorf("%s + %s: got %s to %s", c.from, c.period, from, to)
		}
		if to.Sub(from)+time.Second > c.period {
			t.Errorf("%s + %s: lasts %s", c.from, c.period, to.Sub(from)+time.Second)
		}
	}
}

func TestOpenSSLReadsCertificate(t *testing.T) {
	ca := newTestCA(t, P256)
	enc, err := NewEncoder(ca.info, serverSpec())
	if err != nil {
		t.Fatal(err)
	}
	leaf := testLeaf(t)
	cert := issue(t, enc, ca.key, leaf)
	root := writeFile(t, "root.pem", EncodeChain(ca.cert.Raw))
	file := writeFile(t, "leaf.pem", EncodeChain(cert.Raw))
	if out := openssl(t, "verify", "-attime", strconv.FormatInt(testNow.Unix()+1, 10), "-CAfile", root, "-purpose", "sslserver", "-x509_strict", "-check_ss_sig", file); !strings.Contains(out, ": OK") {
		t.Error(out)
	}
	out := openssl(t, "x509", "-in", file, "-noout", "-text")
	for _, want := range []string{"X509v3 Key Usage: critical", "CA:FALSE", "DNS:a.example.com", "OCSP - URI:http://ocsp.example/a", "Policy: 2.23.140.1.2.1", "URI:http://crl.example/1.crl"} {
		if !strings.Contains(out, want) {
			t.Errorf("openssl does not show %q in\n%s", want, out)
		}
	}
}

func FuzzTBSOf(f *testing.F) {
	f.Add([]byte{0x30, 2, 0x30, 0})
	f.Fuzz(func(t *testing.T, der []byte) {
		tbs, err := TBSOf(der)
		if err != nil {
			return
		}
		if !isSequence(tbs) || !bytes.Contains(der, tbs) {
			t.Fatalf("%x is not a part of %x", tbs, der)
		}
	})
}
