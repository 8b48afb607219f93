package pki

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/idna"

	"chancery/internal/fault"
)

func TestParseIdentifierAccepts(t *testing.T) {
	long := strings.Repeat("a", 63) + "." + strings.Repeat("b", 63) + "." + strings.Repeat("c", 63) + "." + strings.Repeat("d", 61)
	for _, c := range []struct {
		typ         IdentifierType
		value, want string
	}{
		{DNS, "example.com", "example.com"},
		{DNS, "WWW.Example.COM", "www.example.com"},
		{DNS, "*.example.com", "*.example.com"},
		{DNS, "localhost", "localhost"},
		{DNS, "a-b--c.example", "a-b--c.example"},
		{DNS, "1.2.3.4.example", "1.2.3.4.example"},
		{DNS, "XN--BCHER-KVA.example", "xn--bcher-kva.example"},
		{DNS, "*.xn--bcher-kva.example", "*.xn--bcher-kva.example"},
		{DNS, "xn--i-7iq.ws", "xn--i-7iq.ws"}, // an emoji name that exists
		{DNS, "4.3.2.1.in-addr.arpa", "4.3.2.1.in-addr.arpa"},
		{DNS, long, long},
		{IP, "192.0.2.1", "192.0.2.1"},
		{IP, "2001:DB8:0:0:0:0:0:1", "2001:db8::1"},
		{IP, "2001:db8::1", "2001:db8::1"},
		{IP, "::", "::"},
	} {
		id, err := ParseIdentifier(c.typ, c.value)
		if err != nil {
			t.Errorf("%s %q: %v", c.typ, c.value, err)
			continue
		}
		if id != (Identifier{c.typ, c.want}) {
			t.Errorf("%s %q: got %v, want %q", c.typ, c.value, id, c.want)
		}
	}
}

func TestParseIdentifierRefuses(t *testing.T) {
	for _, c := range []struct {
		typ   IdentifierType
		value string
		code  fault.Code
		text  string // part of what the user reads
	}{
		{"uri", "https://example.com", fault.UnsupportedIdentifier, "not supported"},
		{"", "example.com", fault.UnsupportedIdentifier, "not supported"},
		{DNS, "", fault.Malformed, "empty"},
		{DNS, ".", fault.Malformed, "dot at the end"},
		{DNS, "example.com.", fault.Malformed, "dot at the end"},
		{DNS, ".example.com", fault.Malformed, "empty"},
		{DNS, "a..example.com", fault.Malformed, "empty"},
		{DNS, "*", fault.Malformed, "left-most"},
		{DNS, "*.", fault.Malformed, "dot at the end"},
		{DNS, "*.*.example.com", fault.Malformed, "left-most"},
		{DNS, "a.*.example.com", fault.Malformed, "left-most"},
		{DNS, "a*.example.com", fault.Malformed, "left-most"},
		{DNS, "-a.example.com", fault.Malformed, "hyphen"},
		{DNS, "a-.example.com", fault.Malformed, "hyphen"},
		{DNS, "a_b.example.com", fault.Malformed, "letters, digits"},
		{DNS, "a b.example.com", fault.Malformed, "letters, digits"},
		{DNS, "example.com\n", fault.Malformed, "letters, digits"},
		{DNS, "example.com\x00.evil.test", fault.Malformed, "letters, digits"},
		{DNS, "bücher.example", fault.Malformed, "A-label"},
		{DNS, "\u212Aelvin.example", fault.Malformed, "A-label"}, // KELVIN SIGN lower-cases to "k"
		{DNS, "ab--cd.example", fault.Malformed, "A-label"},
		{DNS, "xn--.example", fault.Malformed, "hyphen"},
		{DNS, "xn--a.example", fault.Malformed, "IDNA"},
		{DNS, "xn--example-.com", fault.Malformed, "hyphen"},
		{DNS, "xn--strae-oqa-.de", fault.Malformed, "hyphen"},
		{DNS, "xn--abc-.example", fault.Malformed, "hyphen"},
		{DNS, "example.123", fault.Malformed, "digits"},
		{DNS, "123", fault.Malformed, "digits"},
		{DNS, "192.0.2.1", fault.RejectedIdentifier, "type \"ip\""},
		{DNS, "2001:db8::1", fault.RejectedIdentifier, "type \"ip\""},
		{DNS, "[2001:db8::1]", fault.RejectedIdentifier, "type \"ip\""},
		{DNS, strings.Repeat("a", 64) + ".example", fault.Malformed, "63"},
		{DNS, strings.Repeat("a.", 126) + "ab", fault.Malformed, "253"},
		{IP, "example.com", fault.Malformed, "not an IP address"},
		{IP, "192.0.2.01", fault.Malformed, "not an IP address"},
		{IP, "192.0.2.1/32", fault.Malformed, "not an IP address"},
		{IP, "[::1]", fault.Malformed, "not an IP address"},
		{IP, "fe80::1%eth0", fault.Malformed, "zone"},
		{IP, "::ffff:192.0.2.1", fault.Malformed, "192.0.2.1"},
		{IP, strings.Repeat("1", 1000), fault.Malformed, "longer"},
	} {
		_, err := ParseIdentifier(c.typ, c.value)
		if !fault.Is(err, c.code) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s %q: got %v, want %s with %q", c.typ, c.value, err, c.code, c.text)
		}
	}
}

func TestWildcardBase(t *testing.T) {
	id := Identifier{DNS, "*.example.com"}
	if !id.Wildcard() || id.Base() != (Identifier{DNS, "example.com"}) {
		t.Errorf("base of %v is %v", id, id.Base())
	}
	plain := Identifier{DNS, "example.com"}
	if plain.Wildcard() || plain.Base() != plain {
		t.Errorf("%v is taken for a wildcard", plain)
	}
}

func TestSortIdentifiers(t *testing.T) {
	in := []Identifier{{IP, "192.0.2.1"}, {DNS, "b.example"}, {DNS, "a.example"}, {DNS, "b.example"}}
	want := []Identifier{{DNS, "a.example"}, {DNS, "b.example"}, {IP, "192.0.2.1"}}
	if diff := cmp.Diff(want, SortIdentifiers(in)); diff != "" {
		t.Error(diff)
	}
	if in[0].Type != IP {
		t.Error("the argument was changed")
	}
}

func TestReverseName(t *testing.T) {
	for in, want := range map[string]string{"a.example.com": "com.example.a", "localhost": "localhost", "": "", "*.example.com": "com.example.*"} {
		if got := ReverseName(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func FuzzParseIdentifier(f *testing.F) {
	for _, s := range []string{"example.com", "*.a.example", "xn--bcher-kva.example", "192.0.2.1", "2001:db8::1", "::ffff:1.2.3.4", "fe80::1%a", "a..b", "\xff"} {
		f.Add("dns", s)
		f.Add("ip", s)
	}
	f.Fuzz(func(t *testing.T, typ, value string) {
		id, err := ParseIdentifier(IdentifierType(typ), value)
		if err != nil {
			if !fault.Is(err, fault.Malformed) && !fault.Is(err, fault.RejectedIdentifier) && !fault.Is(err, fault.UnsupportedIdentifier) {
				t.Fatalf("%q: %v is not one of the promised faults", value, err)
			}
			return
		}
		if again, err := ParseIdentifier(id.Type, id.Value); err != nil || again != id {
			t.Fatalf("%q: canonical form %v gives %v, %v", value, id, again, err)
		}
		if id.Type == DNS {
			if _, err := idna.Lookup.ToUnicode(id.Base().Value); err != nil {
				t.Fatalf("%q is accepted but not a valid IDNA name: %v", value, err)
			}
			if ReverseName(ReverseName(id.Value)) != id.Value {
				t.Fatalf("%q: reversing twice changes it", id.Value)
			}
		}
	})
}
