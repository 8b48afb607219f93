package pki

import (
	"strings"
	"testing"

	"chancery/internal/fault"
)

func TestEmailIdentifiers(t *testing.T) { // RFC 8823 section 3, RFC 5322 section 3.4.1
	for in, want := range map[string]string{
		"a@example.com":            "a@example.com",
		"Ann.Lee+x@Example.COM":    "Ann.Lee+x@example.com",
		"o'neil@xn--mnchen-3ya.de": "o'neil@xn--mnchen-3ya.de",
	} {
		id, err := ParseIdentifier(Email, in)
		if err != nil || id.Value != want || id.Domain() != want[strings.IndexByte(want, '@')+1:] {
			t.Errorf("%s: %v, %v", in, id, err)
		}
	}
	for _, bad := range []string{"", "a", "@example.com", "a@", "a@b@example.com", ".a@example.com", "a.@example.com", "a..b@example.com", "a b@example.com",
		`"a b"@example.com`, "\u00e4@example.com", "a@b\u00fccher.de", "a@*.example.com", "a@192.0.2.1", "a@[192.0.2.1]", "<a@example.com>", "a\x00@example.com",
		strings.Repeat("a", 65) + "@example.com", "a@" + strings.Repeat("b.", 130) + "example.com", "a@example.com\r\nBcc: x@example.com"} {
		if id, err := ParseIdentifier(Email, bad); !fault.Is(err, fault.Malformed) && !fault.Is(err, fault.RejectedIdentifier) {
			t.Errorf("%q: %v, %v", bad, id, err)
		}
	}
	if got := (Identifier{DNS, "a.test"}).Domain(); got != "" {
		t.Error(got)
	}
}
