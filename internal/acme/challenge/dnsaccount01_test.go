package challenge_test

import (
	"strings"
	"testing"

	mdns "github.com/miekg/dns"

	"chancery/internal/acme/challenge"
	"chancery/internal/dns/dnstest"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// The example of the draft, section 3.2.
func TestAccountLabelOfTheDraft(t *testing.T) {
	if got := challenge.AccountLabel("https://example.com/acme/acct/ExampleAccount"); got != "_ujmmovf2vn55tgye" {
		t.Errorf("label %q", got)
	}
}

func TestDNSAccount01(t *testing.T) {
	w := newWorld(t)
	v := challenge.NewDNSAccount01(w.cfg)
	at := challenge.AccountLabel(account) + "._acme-challenge."
	value := challenge.DNS01Value(keyAuth)
	w.dns.Add(at+"example.test. 60 IN TXT "+value,
		at+"alias.test. 60 IN CNAME v.example.net.", "v.example.net. 60 IN TXT "+value)
	for _, n := range []string{"example.test", "*.example.test", "alias.test"} {
		p, err := v.Validate(t.Context(), request(name(n)))
		if err != nil {
			t.Errorf("%s: %v", n, err)
			continue
		}
		if !p.Covers(name(n), account) || p.Method() != challenge.DNSAccount01 {
			t.Errorf("%s: the proof is about something else: %+v", n, p)
		}
	}
}

func TestDNSAccount01Failures(t *testing.T) {
	w := newWorld(t)
	at := challenge.AccountLabel(account) + "._acme-challenge."
	value := challenge.DNS01Value(keyAuth)
	w.dns.Add("_acme-challenge.dns01.test. 60 IN TXT "+value, // the record of dns-01 is another's
		challenge.AccountLabel(account+"2")+"._acme-challenge.other.test. 60 IN TXT "+value,
		strings.TrimPrefix(at, "_")+"bare.test. 60 IN TXT "+value,
		at+"wrong.test. 60 IN TXT \"<b>\x1b[31m\"",
		at+"raw.test. 60 IN TXT "+keyAuth,
		at+"failing.test. 60 IN TXT "+value)
	w.dns.Fail(at+"failing.test", "TXT", dnstest.Fault{Rcode: mdns.RcodeServerFailure})
	for _, c := range []struct {
		name string
		code fault.Code
		part string
	}{
		{"dns01.test", fault.DNS, "NXDOMAIN"},
		{"other.test", fault.DNS, "NXDOMAIN"},
		{"bare.test", fault.DNS, "NXDOMAIN"},
		{"wrong.test", fault.IncorrectResponse, `\x3cb\x3e\x1b[31m`},
		{"raw.test", fault.IncorrectResponse, value},
		{"failing.test", fault.DNS, "SERVFAIL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := challenge.NewDNSAccount01(w.cfg).Validate(t.Context(), request(name(c.name)))
			wantFault(t, p, err, c.code, c.part)
		})
	}
}

// A name that leaves no room for the label is not offered what cannot work.
func TestDNSAccount01LongNames(t *testing.T) {
	v := challenge.NewDNSAccount01(newWorld(t).cfg)
	long := strings.Repeat("a.", 110)
	if n := long + "test"; !v.Supports(name(n[:219])) || v.Supports(name(n[:219]+"x")) || !v.Supports(name("*."+n[:219])) {
		t.Error("the bound is not where the label still fits")
	}
	if v.Supports(ip("192.0.2.1")) || v.Supports(pki.Identifier{}) {
		t.Error("an identifier that is no name is supported")
	}
}
