package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// testEntries are entries of every shape.
func testEntries() []RevokedEntry {
	return []RevokedEntry{
		{Serial: "\x01", RevokedAt: testNow, Reason: Unspecified},
		{Serial: "\x00\x80", RevokedAt: testNow.Add(time.Hour), Reason: KeyCompromise},
		{Serial: Serial(bytes.Repeat([]byte{0x7f}, 17)), RevokedAt: time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC), Reason: Superseded},
		{Serial: Serial(bytes.Repeat([]byte{0x11}, 20)), RevokedAt: time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC), Reason: AACompromise},
	}
}

func appendEntries(dst []byte, entries []RevokedEntry) []byte {
	for _, e := range entries {
		dst = AppendCRLEntry(dst, e.Serial, e.RevokedAt, e.Reason)
	}
	return dst
}

func signCRL(t testing.TB, ca *testCA, crl CRL) []byte {
	t.Helper()
	der, err := SignCRL(ca.info, crl, func(tbs []byte) ([]byte, error) { return SignTBS(ca.key, tbs) })
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// crlTBS returns the TBSCertList of a DER CRL.
func crlTBS(t *testing.T, der []byte) []byte {
	t.Helper()
	tbs, err := TBSOf(der)
	if err != nil {
		t.Fatal(err)
	}
	return tbs
}

func TestCRLEqualsStandardLibrary(t *testing.T) {
	for _, kt := range KeyTypes {
		ca := newTestCA(t, kt)
		for _, entries := range [][]RevokedEntry{nil, testEntries()} {
			const url = "http://crl.example/7.crl"
			got := crlTBS(t, signCRL(t, ca, CRL{Number: 1 << 40, ThisUpdate: testNow, NextUpdate: testNow.AddDate(0, 0, 7), IDPURL: url, OnlyUserCerts: true, Entries: appendEntries(nil, entries)}))
			idp, err := asn1.Marshal(struct {
				Point struct {
					Full []asn1.RawValue `asn1:"tag:0"`
				} `asn1:"tag:0"`
				User bool `asn1:"tag:1"`
			}{struct {
				Full []asn1.RawValue `asn1:"tag:0"`
			}{[]asn1.RawValue{{Class: 2, Tag: 6, Bytes: []byte(url)}}}, true})
			if err != nil {
				t.Fatal(err)
			}
			template := &x509.RevocationList{Number: big.NewInt(1 << 40), ThisUpdate: testNow, NextUpdate: testNow.AddDate(0, 0, 7),
				ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: idp}}}
			for _, e := range entries {
				template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: e.Serial.Big(), RevocationTime: e.RevokedAt, ReasonCode: int(e.Reason)})
			}
			want, err := x509.CreateRevocationList(rand.Reader, template, ca.cert, ca.key)
			if err != nil {
				t.Fatal(err)
			}
			sameDER(t, got, crlTBS(t, want))
		}
	}
}

func TestCRLReadsBack(t *testing.T) {
	ca := newTestCA(t, P256)
	der := signCRL(t, ca, CRL{Number: 1<<64 - 1, ThisUpdate: testNow, NextUpdate: testNow.AddDate(30, 0, 0), OnlyCACerts: true, Entries: appendEntries(nil, testEntries())})
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := list.CheckSignatureFrom(ca.cert); err != nil {
		t.Error(err)
	}
	if list.Number.Cmp(bigInt(t, "0xffffffffffffffff")) != 0 || !list.NextUpdate.Equal(testNow.AddDate(30, 0, 0).Truncate(time.Second)) {
		t.Errorf("number %v, next update %v", list.Number, list.NextUpdate)
	}
	i := 0
	for e, err := range CRLEntries(der) {
		if err != nil {
			t.Fatal(err)
		}
		want, std := testEntries()[i], list.RevokedCertificateEntries[i]
		if e.Serial != want.Serial || !e.RevokedAt.Equal(want.RevokedAt.Truncate(time.Second)) || e.Reason != want.Reason || !bytes.Equal(e.DER, std.Raw) {
			t.Errorf("entry %d is %+v, want %+v", i, e, want)
		}
		if SerialFromBig(std.SerialNumber) != want.Serial || std.ReasonCode != int(want.Reason) {
			t.Errorf("entry %d: the standard library reads %+v", i, std)
		}
		i++
	}
	if i != len(testEntries()) {
		t.Errorf("%d entries", i)
	}
}

func TestCRLEntriesOfBrokenLists(t *testing.T) {
	ca := newTestCA(t, P256)
	list := func(entries []byte) []byte {
		return signCRL(t, ca, CRL{Number: 1, ThisUpdate: testNow, NextUpdate: testNow.Add(time.Hour), Entries: entries})
	}
	good := CRLEntry("\x01", testNow, KeyCompromise)
	badReason := bytes.Clone(good)
	badReason[len(badReason)-1] = 7
	for name, der := range map[string][]byte{
		"nothing":       nil,
		"not a list":    {0x30, 2, 0x30, 0},
		"cut off":       list(good)[:60],
		"reason 7":      list(badReason),
		"no entry":      list([]byte{5, 0}),
		"empty entry":   list([]byte{0x30, 0}),
		"padded serial": list(CRLEntry("\x00\x01", testNow, Unspecified)),
		"after a good":  list(append(bytes.Clone(good), 0x30, 0)),
	} {
		var last error
		for _, err := range CRLEntries(der) {
			last = err
		}
		if last == nil {
			t.Errorf("%s: walked without an error", name)
		}
	}
	for range CRLEntries(list(append(bytes.Clone(good), good...))) {
		break // a caller may stop early
	}
}

// TestCRLLengths crosses the limits at which a DER length grows by an octet.
func TestCRLLengths(t *testing.T) {
	ca := newTestCA(t, Ed25519)
	entry := CRLEntry(Serial(bytes.Repeat([]byte{1}, SerialLen)), testNow, KeyCompromise)
	for _, count := range []int{1, 2, 3, 5, 6, 1300, 1400, 340_000} {
		der := signCRL(t, ca, CRL{Number: 1, ThisUpdate: testNow, NextUpdate: testNow.Add(time.Hour), Entries: bytes.Repeat(entry, count)})
		n := 0
		for _, err := range CRLEntries(der) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != count {
			t.Errorf("%d entries became %d", count, n)
		}
		if count < 10_000 {
			if list, err := x509.ParseRevocationList(der); err != nil || len(list.RevokedCertificateEntries) != count {
				t.Errorf("%d entries: %v", count, err)
			}
		}
	}
}

func TestCRLEntryLeavesOutReasonZero(t *testing.T) {
	with, without := CRLEntry("\x01", testNow, KeyCompromise), CRLEntry("\x01", testNow, Unspecified)
	if len(with)-len(without) != reasonExtensionLen || bytes.Contains(without, []byte(oidReason)) {
		t.Errorf("%x", without)
	}
}

func TestCRLPointerMatchesCertificate(t *testing.T) {
	const url = "http://crl.example/shard/7.crl"
	ca := newTestCA(t, P256)
	enc, err := NewEncoder(ca.info, CertSpec{})
	if err != nil {
		t.Fatal(err)
	}
	leaf := testLeaf(t)
	leaf.CRLShardURL = url
	cert := issue(t, enc, ca.key, leaf)
	tbs := signCRL(t, ca, CRL{Number: 1, ThisUpdate: testNow, NextUpdate: testNow.Add(time.Hour), IDPURL: url})
	// RFC 5280 section 6.3.3: the names must be equal for the CRL to count.
	if name := appendPointName(nil, url); !bytes.Contains(cert.RawTBSCertificate, name) || !bytes.Contains(tbs, name) {
		t.Error("certificate and CRL write the distribution point differently")
	}
}

func TestSignCRLRefuses(t *testing.T) {
	ca := newTestCA(t, P256)
	good := CRL{Number: 1, ThisUpdate: testNow, NextUpdate: testNow.Add(time.Hour)}
	for name, change := range map[string]func(*IssuerInfo, *CRL){
		"key type":    func(i *IssuerInfo, _ *CRL) { i.KeyType = "x" },
		"issuer name": func(i *IssuerInfo, _ *CRL) { i.Name = nil },
		"times":       func(_ *IssuerInfo, c *CRL) { c.NextUpdate = c.ThisUpdate },
		"scope":       func(_ *IssuerInfo, c *CRL) { c.OnlyCACerts, c.OnlyUserCerts = true, true },
		"URL":         func(_ *IssuerInfo, c *CRL) { c.IDPURL = "http://ü" },
	} {
		issuer, crl := ca.info, good
		change(&issuer, &crl)
		if _, err := SignCRL(issuer, crl, func([]byte) ([]byte, error) { return []byte("signed"), nil }); err == nil {
			t.Errorf("bad %s: accepted", name)
		}
	}
	if _, err := SignCRL(ca.info, good, func([]byte) ([]byte, error) { return nil, io.ErrClosedPipe }); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the signer's error became %v", err)
	}
}

func TestOpenSSLReadsCRL(t *testing.T) {
	ca := newTestCA(t, P256)
	der := signCRL(t, ca, CRL{Number: 42, ThisUpdate: testNow, NextUpdate: testNow.AddDate(0, 0, 7), IDPURL: "http://crl.example/7.crl", OnlyUserCerts: true, Entries: appendEntries(nil, testEntries())})
	file := writeFile(t, "crl.pem", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
	root := writeFile(t, "root.pem", EncodeChain(ca.cert.Raw))
	out := openssl(t, "crl", "-in", file, "-CAfile", root, "-verify", "-noout", "-text")
	for _, want := range []string{"verify OK", "Only User Certificates", "URI:http://crl.example/7.crl", "Issuing Distribution Point: critical", "Key Compromise", "X509v3 CRL Number: \n                42"} {
		if !strings.Contains(out, want) {
			t.Errorf("openssl does not show %q in\n%s", want, out)
		}
	}
}

// TestOpenSSLHonoursCRLShard has OpenSSL reject a certificate because of a
// CRL whose distribution point is the certificate's.
func TestOpenSSLHonoursCRLShard(t *testing.T) {
	const url = "http://crl.example/shard/7.crl"
	ca := newTestCA(t, P256)
	enc, err := NewEncoder(ca.info, CertSpec{KeyUsage: x509.KeyUsageDigitalSignature})
	if err != nil {
		t.Fatal(err)
	}
	leaf := testLeaf(t)
	leaf.CRLShardURL = url
	cert := issue(t, enc, ca.key, leaf)
	root := writeFile(t, "root.pem", EncodeChain(ca.cert.Raw))
	file := writeFile(t, "leaf.pem", EncodeChain(cert.Raw))
	for _, c := range []struct {
		entries []byte
		want    string
	}{{nil, ": OK"}, {CRLEntry(leaf.Serial, testNow, KeyCompromise), "certificate revoked"}} {
		der := signCRL(t, ca, CRL{Number: 1, ThisUpdate: testNow, NextUpdate: testNow.AddDate(0, 0, 7), IDPURL: url, OnlyUserCerts: true, Entries: c.entries})
		crl := writeFile(t, "crl.pem", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
		out, _ := exec.Command(opensslPath(t), "verify", "-attime", strconv.FormatInt(testNow.Unix()+60, 10), "-CAfile", root, "-CRLfile", crl, "-crl_check", file).CombinedOutput() // fails on purpose
		if !strings.Contains(string(out), c.want) {
			t.Errorf("want %q in\n%s", c.want, out)
		}
	}
}

func FuzzCRLEntries(f *testing.F) {
	ca := newTestCA(f, P256)
	f.Add(signCRL(f, ca, CRL{Number: 1, ThisUpdate: testNow, NextUpdate: testNow.Add(time.Hour), Entries: appendEntries(nil, testEntries())}))
	f.Fuzz(func(t *testing.T, der []byte) {
		var entries []RevokedEntry
		for e, err := range CRLEntries(der) {
			if err != nil {
				return // the walk is stricter than the standard library, about serials and reasons
			}
			if !e.Reason.Valid() || !isSequence(e.DER) || SerialFromBig(e.Serial.Big()) != e.Serial {
				t.Fatalf("entry %+v", e)
			}
			entries = append(entries, e)
		}
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return // the walk does not look at the rest of the list
		}
		if len(list.RevokedCertificateEntries) != len(entries) {
			t.Fatalf("%d entries, the standard library finds %d", len(entries), len(list.RevokedCertificateEntries))
		}
		for i, e := range list.RevokedCertificateEntries {
			if SerialFromBig(e.SerialNumber) != entries[i].Serial || !e.RevocationTime.Equal(entries[i].RevokedAt) || e.ReasonCode != int(entries[i].Reason) {
				t.Fatalf("entry %d is %+v, the standard library reads %+v", i, entries[i], e)
			}
		}
	})
}

func BenchmarkCRLMillion(b *testing.B) {
	ca := newTestCA(b, P256)
	var entries []byte
	for range 1_000_000 {
		serial, err := NewSerial(1, testNow, rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		entries = AppendCRLEntry(entries, serial, testNow, KeyCompromise)
	}
	crl := CRL{Number: 1, ThisUpdate: testNow, NextUpdate: testNow.Add(time.Hour), IDPURL: "http://crl.example/1.crl", Entries: entries}
	b.SetBytes(int64(len(entries)))
	for b.Loop() {
		signCRL(b, ca, crl)
	}
}
