package pki

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"chancery/internal/fault"
)

// RFC 9773 section 4.1 works out this example.
const (
	ariExample = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"
	ariKeyID   = "\x69\x88\x5b\x6b\x87\x46\x40\x41\xe1\xb3\x7b\x84\x7b\xa0\xae\x2c\xde\x01\xc8\xd4"
	ariSerial  = Serial("\x00\x87\x65\x43\x21")
)

func TestCertIDOfRFC9773(t *testing.T) {
	if got := FormatCertID([]byte(ariKeyID), ariSerial); got != ariExample {
		t.Errorf("got %s", got)
	}
	keyID, serial, err := ParseCertID(ariExample)
	if err != nil || string(keyID) != ariKeyID || serial != ariSerial {
		t.Errorf("got %x %s %v", keyID, serial, err)
	}
}

func TestCertIDOfCertificate(t *testing.T) {
	ca := newTestCA(t, P256)
	enc, err := NewEncoder(ca.info, CertSpec{})
	if err != nil {
		t.Fatal(err)
	}
	leaf := testLeaf(t)
	leaf.Serial = ariSerial
	id, err := CertID(issue(t, enc, ca.key, leaf))
	if err != nil {
		t.Fatal(err)
	}
	keyID, serial, err := ParseCertID(id)
	if err != nil || string(keyID) != string(ca.info.KeyID) || serial != ariSerial {
		t.Errorf("%s: got %x %s %v", id, keyID, serial, err)
	}
	if id, err := CertID(ca.cert); err == nil {
		t.Errorf("a root without authority key identifier has the id %s", id)
	}
	if id, err := CertID(&x509.Certificate{AuthorityKeyId: []byte{1}}); err == nil {
		t.Errorf("no certificate has the id %s", id)
	}
}

func TestParseCertIDRefuses(t *testing.T) {
	for _, text := range []string{"", ".", "a.", ".AIdlQyE", "aYhb", "aYhb.AIdlQyE.x", "aYhb.AIdlQyE=", "aYh b.AIdl", "aYhb.AIdlQyF",
		"aYhb.AA", "aYhb.gA", "aYhb.AAE", "aYhb\n.AIdlQyE", "aYhb.AIdl\nQyE", "aYhb.AI+l", strings.Repeat("A", 300) + ".AQ"} {
		_, serial, err := ParseCertID(text)
		if err == nil {
			t.Errorf("%q gave %s", text, serial)
		}
		wantFault(t, err, fault.Malformed)
	}
}

func TestRenewalWindow(t *testing.T) {
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	for _, c := range []struct{ life, start, width time.Duration }{
		{90 * day, 60 * day, 90 * time.Hour},
		{47 * day, 47 * day * 2 / 3, 47 * time.Hour},
		{10 * day, 160 * time.Hour, 10 * time.Hour},
		{10*day - time.Second, 5*day - 500*time.Millisecond, 10*time.Hour - time.Second/24},
		{6 * day, 3 * day, 6 * time.Hour},
		{time.Hour, 30 * time.Minute, 150 * time.Second},
		{2 * time.Second, time.Second, time.Second},
	} {
		start, end := RenewalWindow(from, from.Add(c.life-time.Second))
		if want := from.Add(c.start).Truncate(time.Second); !start.Equal(want) {
			t.Errorf("life %s: window starts at %s, want %s", c.life, start, want)
		}
		if want := start.Add(c.width.Truncate(time.Second)); !end.Equal(want) || !end.After(start) {
			t.Errorf("life %s: window ends at %s, want %s", c.life, end, want)
		}
		if limit := from.Add(c.life); end.After(limit) {
			t.Errorf("life %s: window ends after the certificate", c.life)
		}
	}
}

func FuzzParseCertID(f *testing.F) {
	f.Add(ariExample)
	f.Add("AQ.AQ")
	f.Fuzz(func(t *testing.T, text string) {
		keyID, serial, err := ParseCertID(text)
		if err != nil {
			wantFault(t, err, fault.Malformed)
			return
		}
		if FormatCertID(keyID, serial) != text || !serial.Valid() {
			t.Fatalf("%q is read as %x %s", text, keyID, serial)
		}
	})
}
