package pki

import (
	"bytes"
	"crypto/x509"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// quickly fails if QuickMetadata takes a certificate and says anything else than
// what there is to say of it when it is parsed. It reports whether it was taken.
func quickly(t testing.TB, der []byte) bool {
	t.Helper()
	quick, issuer, ok := QuickMetadata(der)
	if !ok {
		return false
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return true // not of our making
	}
	if diff := cmp.Diff(BriefMetadataOf(cert), quick); diff != "" || !bytes.Equal(cert.RawIssuer, issuer) {
		t.Fatalf("%x is described differently: %s", der, diff)
	}
	return true
}

func TestQuickMetadata(t *testing.T) {
	for _, kt := range KeyTypes {
		ca := newTestCA(t, kt)
		for _, subject := range KeyTypes {
			taken := quickly(t, varied(t, ca, func(l *Leaf, _ *CertSpec) { l.SPKI = testSPKI(t, testKey(t, subject).Public()) }))
			if taken == subject.RSA() { // whose size is in the key
				t.Errorf("%s under %s: taken %v", subject, kt, taken)
			}
		}
	}
	ca := newTestCA(t, P256)
	for name, c := range map[string]struct {
		want   bool
		change func(*Leaf, *CertSpec)
	}{
		"as it is": {true, func(*Leaf, *CertSpec) {}},
		"several names": {true, func(l *Leaf, _ *CertSpec) {
			l.Identifiers = hosts(t, "b.example", "a.example", "192.0.2.7", "2001:db8::1")
		}},
		"common name":    {true, func(l *Leaf, s *CertSpec) { s.CommonName = CNFirst }},
		"no key id":      {true, func(l *Leaf, s *CertSpec) { s.SubjectKeyID = false }},
		"no constraints": {true, func(l *Leaf, s *CertSpec) { s.BasicConstraints = false }},
		"of many years":  {false, func(l *Leaf, _ *CertSpec) { l.NotAfter = time.Date(2051, 1, 1, 0, 0, 0, 0, time.UTC) }},
		"an authority":   {false, func(l *Leaf, s *CertSpec) { s.CA, s.KeyUsage = true, x509.KeyUsageCertSign }},
		"a mailbox": {false, func(l *Leaf, _ *CertSpec) {
			l.Identifiers = append(l.Identifiers, Identifier{Type: Email, Value: "a@example.com"})
		}},
		"another subject": {false, func(l *Leaf, _ *CertSpec) {
			l.Subject = tlv(tagSequence, tlv(tagSet, tlv(tagSequence, []byte("\x06\x03\x55\x04\x0a"), tlv(tagUTF8String, []byte("Org")))))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := quickly(t, varied(t, ca, c.change)); got != c.want {
				t.Errorf("taken: %v, want %v", got, c.want)
			}
		})
	}
}

// varied issues a certificate that change has changed.
func varied(t testing.TB, ca *testCA, change func(*Leaf, *CertSpec)) []byte {
	t.Helper()
	leaf, spec := testLeaf(t), serverSpec()
	change(&leaf, &spec)
	enc, err := NewEncoder(ca.info, spec)
	if err != nil {
		t.Fatal(err)
	}
	return issue(t, enc, ca.key, leaf).Raw
}

// hosts returns identifiers of names and addresses.
func hosts(t testing.TB, values ...string) (ids []Identifier) {
	t.Helper()
	for _, v := range values {
		kind := DNS
		if _, err := netip.ParseAddr(v); err == nil {
			kind = IP
		}
		id, err := ParseIdentifier(kind, v)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

func TestReadUTCTime(t *testing.T) {
	for _, at := range []time.Time{time.Date(2026, 2, 28, 23, 59, 59, 0, time.UTC), time.Date(1950, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2049, 12, 31, 0, 0, 0, 0, time.UTC)} {
		if got, ok := ReadUTCTime(appendTime(nil, at)); !ok || !got.Equal(at) {
			t.Errorf("%v is read as %v, %v", at, got, ok)
		}
	}
	for _, text := range []string{"260230000000Z", "261301000000Z", "260101240000Z", "260101006000Z", "260101000060Z", "260100000000Z", "26010100000 Z", "2601010000000", "2601010000Z", ""} {
		if got, ok := ReadUTCTime(appendString(nil, tagUTCTime, text)); ok {
			t.Errorf("%q is read as %v", text, got)
		}
	}
}

func FuzzQuickMetadata(f *testing.F) {
	ca := newTestCA(f, P256)
	f.Add(varied(f, ca, func(*Leaf, *CertSpec) {}))
	f.Add(varied(f, ca, func(l *Leaf, s *CertSpec) { s.CommonName, l.Identifiers = CNFirst, hosts(f, "a.example", "192.0.2.7") }))
	f.Fuzz(func(t *testing.T, der []byte) { quickly(t, der) })
}
