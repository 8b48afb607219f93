package challenge_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	mdns "github.com/miekg/dns"

	"chancery/internal/acme/challenge"
	"chancery/internal/dns/dnstest"
	"chancery/internal/fault"
)

func TestDNS01(t *testing.T) {
	w := newWorld(t)
	v := challenge.NewDNS01(w.cfg)
	value := challenge.DNS01Value(keyAuth)
	w.dns.Add("_acme-challenge.example.test. 60 IN TXT "+value,
		"_acme-challenge.alias.test. 60 IN CNAME v.example.net.", "v.example.net. 60 IN TXT "+value,
		fmt.Sprintf("_acme-challenge.split.test. 60 IN TXT %q %q", value[:10], value[10:]))
	for i := range 30 {
		w.dns.Add(fmt.Sprintf("_acme-challenge.many.test. 60 IN TXT other%d", i))
	}
	w.dns.Add("_acme-challenge.many.test. 60 IN TXT " + value)
	for _, n := range []string{"example.test", "*.example.test", "alias.test", "many.test", "split.test"} {
		p, err := v.Validate(t.Context(), request(name(n)))
		if err != nil {
			t.Errorf("%s: %v", n, err)
			continue
		}
		if !p.Covers(name(n), account) || p.Covers(name(n), "https://ca.test/acme/acct/2") || p.Method() != challenge.DNS01 {
			t.Errorf("%s: the proof is about something else: %+v", n, p)
		}
	}
	p, _ := v.Validate(t.Context(), request(name("alias.test")))
	if diff := cmp.Diff([]challenge.Step{{Query: "_acme-challenge.alias.test", Chain: []string{"v.example.net"}}}, p.Steps(), sameAddr); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
}

// A wildcard's proof is not one for the name itself, nor the reverse.
func TestDNS01WildcardIsAnotherIdentifier(t *testing.T) {
	w := newWorld(t)
	w.dns.Add("_acme-challenge.example.test. 60 IN TXT " + challenge.DNS01Value(keyAuth))
	p, err := challenge.NewDNS01(w.cfg).Validate(t.Context(), request(name("*.example.test")))
	if err != nil || p.Covers(name("example.test"), account) || p.Identifier() != name("example.test") {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestDNS01Failures(t *testing.T) {
	w := newWorld(t)
	value := challenge.DNS01Value(keyAuth)
	w.dns.Add("_acme-challenge.wrong.test. 60 IN TXT \"<b>\x1b[31m\"",
		"_acme-challenge.raw.test. 60 IN TXT "+keyAuth,
		"_acme-challenge.padded.test. 60 IN TXT "+value+"=",
		"_acme-challenge.space.test. 60 IN TXT \" "+value+"\"",
		"elsewhere.test. 60 IN TXT "+value,
		"_acme-challenge.a.test. 60 IN A 127.0.0.1",
		"_acme-challenge.loop.test. 60 IN CNAME _acme-challenge.loop.test.",
		"_acme-challenge.failing.test. 60 IN TXT "+value)
	for i := range 1001 {
		w.dns.Add(fmt.Sprintf("_acme-challenge.huge.test. 60 IN TXT v%d", i))
	}
	w.dns.Add("_acme-challenge.huge.test. 60 IN TXT " + value)
	w.dns.Fail("_acme-challenge.failing.test", "TXT", dnstest.Fault{Rcode: mdns.RcodeServerFailure})
	w.dns.Fail("_acme-challenge.refusing.test", "TXT", dnstest.Fault{Rcode: mdns.RcodeRefused})
	w.dns.Fail("_acme-challenge.silent.test", "TXT", dnstest.Fault{Drop: true})
	for _, c := range []struct {
		name string
		code fault.Code
		part string
	}{
		{"wrong.test", fault.IncorrectResponse, `\x3cb\x3e\x1b[31m`},
		{"raw.test", fault.IncorrectResponse, value},
		{"padded.test", fault.IncorrectResponse, "none of the 1 TXT records"},
		{"space.test", fault.IncorrectResponse, ""},
		{"elsewhere.test", fault.DNS, "NXDOMAIN"},
		{"a.test", fault.DNS, "no such record"},
		{"loop.test", fault.DNS, "loop"},
		{"huge.test", fault.DNS, "too many records"},
		{"failing.test", fault.DNS, "SERVFAIL"},
		{"refusing.test", fault.DNS, "refused"},
		{"silent.test", fault.DNS, "in time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := challenge.NewDNS01(w.cfg).Validate(t.Context(), request(name(c.name)))
			wantFault(t, p, err, c.code, c.part)
		})
	}
}

// An answer of a moment ago must not decide: the applicant has just fixed it.
func TestDNS01AlwaysAsksAnew(t *testing.T) {
	w := newWorld(t)
	v := challenge.NewDNS01(w.cfg)
	if _, err := v.Validate(t.Context(), request(name("example.test"))); !fault.Is(err, fault.DNS) {
		t.Fatal(err)
	}
	w.dns.Add("_acme-challenge.example.test. 600 IN TXT " + challenge.DNS01Value(keyAuth))
	if _, err := v.Validate(t.Context(), request(name("example.test"))); err != nil {
		t.Errorf("after the fix: %v", err)
	}
	w.dns.Remove("_acme-challenge.example.test")
	if _, err := v.Validate(t.Context(), request(name("example.test"))); err == nil {
		t.Error("a record that is gone still proves")
	}
}

func TestDNS01BudgetEndsLongChains(t *testing.T) {
	w := newWorld(t)
	w.dns.Partial(true)
	w.cfg.MaxQueries = 3
	for i := range 8 {
		w.dns.Add(fmt.Sprintf("n%d.test. 60 IN CNAME n%d.test.", i, i+1))
	}
	w.dns.Add("_acme-challenge.x.test. 60 IN CNAME n0.test.", "n8.test. 60 IN TXT "+challenge.DNS01Value(keyAuth))
	p, err := challenge.NewDNS01(w.cfg).Validate(t.Context(), request(name("x.test")))
	wantFault(t, p, err, fault.DNS, "too many DNS queries")
	if n := len(w.dns.Queries()); n != 3 {
		t.Errorf("%d queries, want 3", n)
	}
}
