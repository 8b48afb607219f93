package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/fault"
)

func TestChainRoundTrip(t *testing.T) {
	a, b := newTestCA(t, P256).cert.Raw, newTestCA(t, RSA2048).cert.Raw
	text := EncodeChain(a, b)
	want := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b})...)
	if diff := cmp.Diff(string(want), string(text)); diff != "" {
		t.Error(diff)
	}
	if got := string(append(AppendCertificate(nil, a), EncodeChain(b)...)); got != string(want) {
		t.Errorf("with a certificate before the chain:\n%s", got)
	}
	for _, in := range [][]byte{text, append([]byte("subject=CN = a\n"), text...), bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))} {
		ders, err := DecodeChain(in, 1<<20, 2)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([][]byte{a, b}, ders); diff != "" {
			t.Error(diff)
		}
	}
}

func TestDecodeChainRefuses(t *testing.T) {
	cert := newTestCA(t, P256).cert.Raw
	good := string(EncodeChain(cert))
	block := func(typ string, headers map[string]string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: typ, Headers: headers, Bytes: der}))
	}
	for name, c := range map[string]struct {
		text string
		code fault.Code
	}{
		"nothing":        {"", fault.Invalid},
		"text":           {"hello", fault.Invalid},
		"a private key":  {good + block("PRIVATE KEY", nil, []byte("hunter2")), fault.Invalid},
		"headers":        {block("CERTIFICATE", map[string]string{"A": "b"}, cert), fault.Invalid},
		"not DER":        {block("CERTIFICATE", nil, []byte("x")), fault.Invalid},
		"trailing DER":   {block("CERTIFICATE", nil, append(bytes.Clone(cert), 0)), fault.Invalid},
		"cut off":        {good + good[:len(good)/2], fault.Invalid},
		"broken between": {strings.Replace(good, "M", "!", 1) + good, fault.Invalid},
		"three blocks":   {good + good + good, fault.TooLarge},
		"too long":       {strings.Repeat(" ", 1<<20) + good, fault.TooLarge},
	} {
		ders, err := DecodeChain([]byte(c.text), 1<<20, 2)
		if err == nil {
			t.Errorf("%s gave %d certificates", name, len(ders))
		}
		wantFault(t, err, c.code)
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error quotes a key", name)
		}
	}
}

func TestMetadataOf(t *testing.T) {
	ca := newTestCA(t, P256)
	enc, err := NewEncoder(ca.info, serverSpec())
	if err != nil {
		t.Fatal(err)
	}
	leaf := testLeaf(t)
	leaf.Serial = ariSerial
	leaf.Identifiers = []Identifier{{DNS, "b.example"}, {DNS, "a.example"}, {IP, "2001:db8::1"}}
	cert := issue(t, enc, ca.key, leaf)
	m := MetadataOf(cert)
	if diff := cmp.Diff([]string{"2001:db8::1", "a.example", "b.example"}, m.Names); diff != "" {
		t.Error(diff)
	}
	keyID, _, err := ParseCertID(m.ARI)
	if err != nil || !bytes.Equal(keyID, ca.info.KeyID) {
		t.Errorf("ARI id %q", m.ARI)
	}
	if m.Serial != ariSerial || m.Key != "p256" || m.CommonName != "b.example" || m.SelfIssued || m.CA || m.Fingerprint != Fingerprint(cert.Raw) ||
		m.SPKIHash != SPKIHash(leaf.SPKI) || !m.NotAfter.Equal(cert.NotAfter) || m.SignatureAlgo != "ECDSA-SHA256" || !strings.Contains(m.Issuer, "Root p256") {
		t.Errorf("%+v", m)
	}
	root := MetadataOf(ca.cert)
	if !root.CA || !root.SelfIssued || root.ARI != "" || len(root.Names) != 0 {
		t.Errorf("%+v", root)
	}
}

func TestMetadataLegacyName(t *testing.T) {
	ca := newTestCA(t, P256)
	for cn, want := range map[string][]string{"Host.Example": {"host.example"}, "192.0.2.1": {"192.0.2.1"}, "printer": {}, "A Person": {}} {
		enc, err := NewEncoder(ca.info, CertSpec{CommonName: CNRequested})
		if err != nil {
			t.Fatal(err)
		}
		leaf := testLeaf(t)
		leaf.Identifiers, leaf.CommonName = nil, cn
		if diff := cmp.Diff(want, MetadataOf(issue(t, enc, ca.key, leaf)).Names); diff != "" {
			t.Errorf("%q: %s", cn, diff)
		}
	}
}

func FuzzDecodeChain(f *testing.F) {
	f.Add(EncodeChain([]byte{0x30, 0}, []byte{0x30, 0}))
	f.Fuzz(func(t *testing.T, text []byte) {
		ders, err := DecodeChain(text, 1<<16, 8)
		if err != nil {
			return
		}
		again, err := DecodeChain(EncodeChain(ders...), 1<<20, 8)
		if err != nil || !cmp.Equal(ders, again) {
			t.Fatalf("%q: %v", text, err)
		}
	})
}

func BenchmarkIssue(b *testing.B) {
	for _, kt := range []KeyType{P256, MLDSA65} {
		ca := newTestCA(b, kt)
		enc, err := NewEncoder(ca.info, serverSpec())
		if err != nil {
			b.Fatal(err)
		}
		leaf := testLeaf(b)
		b.Run("tbs/"+string(kt), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := enc.TBS(leaf); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("tbs+sign/"+string(kt), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				tbs, err := enc.TBS(leaf)
				if err != nil {
					b.Fatal(err)
				}
				sig, err := SignTBS(ca.key, tbs)
				if err != nil {
					b.Fatal(err)
				}
				AssembleCertificate(tbs, kt, sig)
			}
		})
	}
	der := stdCSR(b, &x509.CertificateRequest{DNSNames: []string{"a.example.com"}}, testKey(b, P256))
	b.Run("csr", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ParseCSR(der, maxTestCSR); err != nil {
				b.Fatal(err)
			}
		}
	})
}
