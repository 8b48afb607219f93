package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/fault"
)

func TestDeviceIdentifiers(t *testing.T) { // draft-ietf-acme-device-attest-10 sections 3.1, 4.1
	for _, c := range []struct {
		typ   IdentifierType
		value string
		want  fault.Code
	}{
		{PermanentIdentifier, "ABCDEF123456", ""}, {PermanentIdentifier, "ABCDEF123456/1.2.3.4", ""}, {PermanentIdentifier, "a b.c:\u00fc", ""},
		{HardwareModule, "ABCD/1.2.3.4", ""}, {HardwareModule, "ABCD/2.999", ""},
		{PermanentIdentifier, "", fault.Malformed}, {PermanentIdentifier, "/1.2", fault.Malformed}, {PermanentIdentifier, "a/", fault.Malformed},
		{PermanentIdentifier, "a/b", fault.Malformed}, {PermanentIdentifier, "a/1.2/3", fault.Malformed}, {PermanentIdentifier, "a/1.02", fault.Malformed},
		{PermanentIdentifier, "a/3.1", fault.Malformed}, {PermanentIdentifier, "a/1.40", fault.Malformed}, {PermanentIdentifier, "a/1", fault.Malformed},
		{PermanentIdentifier, "\xff", fault.Malformed}, {HardwareModule, "ABCD", fault.Malformed}, {HardwareModule, "/1.2", fault.Malformed},
		{PermanentIdentifier, "a\x00", fault.RejectedIdentifier}, {PermanentIdentifier, strings.Repeat("a", 256), fault.RejectedIdentifier},
	} {
		id, err := ParseIdentifier(c.typ, c.value)
		if c.want == "" && (err != nil || id != Identifier{c.typ, c.value}) || c.want != "" && !fault.Is(err, c.want) {
			t.Errorf("%s %q: %v, %v", c.typ, c.value, id, err)
		}
	}
}

// The encoding is that of RFC 4043 and RFC 4108, written out by hand.
func TestDeviceNamesInCertificates(t *testing.T) {
	for id, want := range map[Identifier]string{
		{PermanentIdentifier, "AB"}:       "a012" + "06082b06010505070803" + "a006" + "3004" + "0c024142",
		{PermanentIdentifier, "AB/1.2.3"}: "a016" + "06082b06010505070803" + "a00a" + "3008" + "0c024142" + "06022a03",
		{HardwareModule, "AB/1.2.3"}:      "a016" + "06082b06010505070804" + "a00a" + "3008" + "06022a03" + "04024142",
	} {
		got, err := id.deviceName()
		if err != nil || hex.EncodeToString(got) != want {
			t.Errorf("%s: %x, %v, want %s", id, got, err, want)
		}
		back, err := DeviceNames(append([]byte{0x30, byte(len(got))}, got...))
		if err != nil || !cmp.Equal(back, []Identifier{id}) {
			t.Errorf("%s reads back as %v, %v", id, back, err)
		}
	}
}

// csrWith makes a request with a common name and a subjectAltName of ids.
func csrWith(t *testing.T, cn string, ids ...Identifier) *CSR {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}}
	if len(ids) > 0 {
		ext, err := appendSAN(nil, ids, false)
		if err != nil {
			t.Fatal(err)
		}
		var x pkix.Extension
		if _, err := asn1.Unmarshal(ext, &x); err != nil {
			t.Fatal(err)
		}
		tmpl.ExtraExtensions = []pkix.Extension{x}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := ParseDeviceCSR(der, 4096)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

// Of an order's devices a request names all, some or none; of its hosts all
// (draft sections 3.2, 4.2).
func TestRequestsOfDevices(t *testing.T) {
	serial, module, host := Identifier{PermanentIdentifier, "C02XK1"}, Identifier{HardwareModule, "M/1.2.3"}, Identifier{DNS, "a.test"}
	order := []Identifier{host, module, serial}
	for _, c := range []struct {
		what string
		csr  *CSR
		want bool
	}{
		{"all", csrWith(t, "", order...), true},
		{"the host alone", csrWith(t, "", host), true},
		{"the host as common name", csrWith(t, "a.test"), true},
		{"no host", csrWith(t, "", module, serial), false},
		{"another device", csrWith(t, "", host, Identifier{PermanentIdentifier, "C02XK2"}), false},
		{"the same serial in other letters", csrWith(t, "", host, Identifier{PermanentIdentifier, "c02xk1"}), false},
		{"the serial of another assigner", csrWith(t, "", host, Identifier{PermanentIdentifier, "C02XK1/1.2.3"}), false},
		{"the serial as common name", csrWith(t, "C02XK1", host), true},
		{"the serial as a host", csrWith(t, "", host, Identifier{DNS, "c02xk1"}), false},
		{"the serial as common name and host", csrWith(t, "C02XK1", host, Identifier{DNS, "c02xk1"}), false},
		{"another common name", csrWith(t, "C02XK2", host), false},
		{"another serial number as common name", csrWith(t, "123456", host), false},
	} {
		if got := c.csr.Speaks(order); got != c.want {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
	if got := csrWith(t, "C02XK1", host).NameFor(order); got != "" {
		t.Errorf("a serial becomes the common name %q", got)
	}
	if got := csrWith(t, "a.test").NameFor(order); got != "a.test" {
		t.Errorf("common name %q", got)
	}
}

func FuzzDeviceNames(f *testing.F) {
	name, err := Identifier{PermanentIdentifier, "AB/1.2.3"}.deviceName()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tlv(tagSequence, name))
	f.Add([]byte("\x30\x02\xa0\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := DeviceNames(b)
		if err != nil {
			return
		}
		for _, id := range list {
			if again, err := ParseIdentifier(id.Type, id.Value); err != nil || again != id {
				t.Errorf("%v is not canonical: %v", id, err)
			}
			if _, err := id.deviceName(); err != nil {
				t.Errorf("%v cannot be written: %v", id, err)
			}
		}
	})
}
