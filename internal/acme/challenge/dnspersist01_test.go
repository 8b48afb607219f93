package challenge_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	mdns "github.com/miekg/dns"

	"chancery/internal/acme/challenge"
	"chancery/internal/dns/dnstest"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

const (
	hashPrefix = "https://ca.test/acme/account-hash/"
	thisKey    = "9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
	oldKey     = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
)

// persistent is a request with the terms of a server that takes hashed URIs only.
func persistent(id pki.Identifier) challenge.Request {
	return challenge.Request{Identifier: id, AccountURL: account,
		Persist: &challenge.Persist{Issuers: []string{"ca.test", "other-name.test"}, HashPrefix: hashPrefix, Thumbprints: []string{thisKey, oldKey}}}
}

// uri is the accounturi of a record at domain.
func uri(domain string) string {
	return challenge.AccountHashURI(hashPrefix, domain, thisKey, account)
}

// publish adds a dns-persist-01 record.
func (w *world) persist(domain, value string) {
	w.dns.Add(fmt.Sprintf("_validation-persist.%s. 60 IN TXT %q", domain, value))
}

// The vectors of draft-ietf-acme-dns-persist-02 section 10.2.
func TestAccountHashURIOfTheDraft(t *testing.T) {
	for domain, want := range map[string]string{
		"example.com": "5SQm7n6tPh2-PlLbCKGnViTXX5z19SCN4cPGQHSk-kw",
		"*":           "NpDnSwUthQK8zCgFdefYxAdAVPnygMLbs9US6oO-5ug",
	} {
		got := challenge.AccountHashURI("https://ca.example/account-hash/", domain, oldKey, "https://ca.example/acct/123")
		if got != "https://ca.example/account-hash/sha-256/"+want {
			t.Errorf("%s: %s", domain, got)
		}
	}
}

func TestDNSPersist01(t *testing.T) {
	w := newWorld(t)
	v := challenge.NewDNSPersist01(w.cfg)
	later := time.Now().Add(time.Hour).Unix()
	w.persist("plain.test", "ca.test; accounturi="+uri("plain.test"))
	w.persist("tight.test", "other-name.test;accounturi="+uri("tight.test"))
	w.persist("any.test", "ca.test; accounturi="+uri("*"))
	w.persist("old.test", "ca.test; accounturi="+challenge.AccountHashURI(hashPrefix, "old.test", oldKey, account))
	w.persist("upper.test", "CA.Test; ACCOUNTURI="+uri("upper.test"))
	w.persist("until.test", fmt.Sprintf("ca.test; accounturi=%s; persistUntil=%d", uri("until.test"), later))
	w.persist("ever.test", "ca.test; accounturi="+uri("ever.test")+"; persistUntil=99999999999999999999999")
	w.persist("unknown.test", "ca.test; colour=blue; accounturi="+uri("unknown.test")+"; colour=green")
	w.persist("wild.test", "ca.test; accounturi="+uri("wild.test")+"; policy=WildCard")
	w.persist("two.test", "elsewhere.test; accounturi=https://elsewhere.test/1")
	w.persist("two.test", "ca.test; accounturi="+uri("two.test")+"x")
	w.persist("two.test", "ca.test; accounturi="+uri("two.test"))
	w.dns.Add("_validation-persist.alias.test. 60 IN CNAME r.example.net.", `r.example.net. 60 IN TXT "ca.test; accounturi=`+uri("alias.test")+`"`)
	long := "ca.test; accounturi=" + uri("split.test") + "; x=" + strings.Repeat("y", 300)
	w.dns.Add(fmt.Sprintf("_validation-persist.split.test. 60 IN TXT %q %q", long[:200], long[200:]))
	for _, n := range []string{"plain.test", "tight.test", "any.test", "old.test", "upper.test", "until.test", "ever.test", "unknown.test", "wild.test", "*.wild.test", "two.test", "alias.test", "split.test"} {
		p, err := v.Validate(t.Context(), persistent(name(n)))
		if err != nil {
			t.Errorf("%s: %v", n, err)
			continue
		}
		if !p.Covers(name(n), account) || p.Covers(name("x."+n), account) || p.Method() != challenge.DNSPersist01 {
			t.Errorf("%s: the proof is about something else", n)
		}
		if n == "until.test" != (p.Until().Unix() == later) {
			t.Errorf("%s: until %s", n, p.Until())
		}
	}
	p, _ := v.Validate(t.Context(), persistent(name("ever.test")))
	if _, err := json.Marshal(p); err != nil {
		t.Errorf("a far persistUntil cannot be stored: %v", err)
	}
}

// Each MUST of sections 4 to 7 has a record that breaks it.
func TestDNSPersist01Failures(t *testing.T) {
	w := newWorld(t)
	ok := func(domain string) string { return "ca.test; accounturi=" + uri(domain) }
	for _, r := range [][2]string{
		{"noaccount.test", "ca.test"},
		{"twice.test", ok("twice.test") + "; accounturi=" + uri("twice.test")},
		{"twopolicies.test", ok("twopolicies.test") + "; policy=wildcard; policy=wildcard"},
		{"issuer.test", "elsewhere.test; accounturi=" + uri("issuer.test")},
		{"nobody.test", "; accounturi=" + uri("nobody.test")},
		{"grammar.test", ok("grammar.test") + ";"},
		{"plainurl.test", "ca.test; accounturi=" + account},
		{"otherkey.test", "ca.test; accounturi=" + challenge.AccountHashURI(hashPrefix, "otherkey.test", strings.Repeat("A", 43), account)},
		{"otheraccount.test", "ca.test; accounturi=" + challenge.AccountHashURI(hashPrefix, "otheraccount.test", thisKey, account+"1")},
		{"otherdomain.test", ok("example.test")},
		{"algorithm.test", strings.Replace(ok("algorithm.test"), "sha-256", "sha-512", 1)},
		{"case.test", strings.Replace(ok("case.test"), "https://ca.test", "https://CA.test", 1)},
		{"short.test", ok("short.test")[:90]},
		{"past.test", ok("past.test") + "; persistUntil=1000000000"},
		{"text.test", ok("text.test") + "; persistUntil=2100-01-01"},
		{"negative.test", ok("negative.test") + "; persistUntil=-1"},
		{"narrow.test", ok("narrow.test")},
		{"policy.test", ok("policy.test") + "; policy=wild"},
		{"failing.test", ok("failing.test")},
	} {
		w.persist(r[0], r[1])
	}
	w.dns.Add("_validation-persist.nonsense.test. 60 IN TXT \"<b>\x1b[31m\"")
	w.dns.Add("_validation-persist.address.test. 60 IN A 127.0.0.1", "_acme-challenge.dns01.test. 60 IN TXT "+ok("dns01.test"))
	w.dns.Fail("_validation-persist.failing.test", "TXT", dnstest.Fault{Rcode: mdns.RcodeServerFailure})
	for _, c := range []struct {
		name string
		code fault.Code
		part string
	}{
		{"noaccount.test", fault.Malformed, "no accounturi"},
		{"twice.test", fault.Malformed, "twice"},
		{"twopolicies.test", fault.Malformed, "twice"},
		{"issuer.test", fault.Unauthorized, "ca.test or other-name.test"},
		{"nobody.test", fault.Unauthorized, "issuer"},
		{"grammar.test", fault.Unauthorized, "issuer"},
		{"nonsense.test", fault.Unauthorized, `\x3cb\x3e\x1b[31m`},
		{"plainurl.test", fault.Malformed, "digest"},
		{"otherkey.test", fault.Unauthorized, "another account"},
		{"otheraccount.test", fault.Unauthorized, "another account"},
		{"otherdomain.test", fault.Unauthorized, "another account"},
		{"algorithm.test", fault.Malformed, "sha-256"},
		{"case.test", fault.Malformed, "digest"},
		{"short.test", fault.Malformed, "digest"},
		{"past.test", fault.Unauthorized, "persistUntil was 2001-09-09"},
		{"text.test", fault.Malformed, "persistUntil"},
		{"negative.test", fault.Malformed, "persistUntil"},
		{"*.narrow.test", fault.Unauthorized, "policy=wildcard"},
		{"*.policy.test", fault.Unauthorized, "policy=wildcard"},
		{"failing.test", fault.DNS, "SERVFAIL"},
		{"address.test", fault.DNS, "no such record"},
		{"dns01.test", fault.DNS, "NXDOMAIN"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := challenge.NewDNSPersist01(w.cfg).Validate(t.Context(), persistent(name(c.name)))
			wantFault(t, p, err, c.code, c.part)
		})
	}
}

// Records of the drafts before 02 count where the operator takes them.
func TestDNSPersist01PlainURL(t *testing.T) {
	w := newWorld(t)
	w.persist("a.test", "ca.test; accounturi="+account)
	w.persist("b.test", "ca.test; accounturi="+account+"1")
	req := persistent(name("a.test"))
	req.Persist.PlainURL = true
	if _, err := challenge.NewDNSPersist01(w.cfg).Validate(t.Context(), req); err != nil {
		t.Error(err)
	}
	req.Identifier = name("b.test")
	p, err := challenge.NewDNSPersist01(w.cfg).Validate(t.Context(), req)
	wantFault(t, p, err, fault.Malformed)
}

// Sections 5 and 6: a record with policy=wildcard counts for what is below it,
// if the server lets it; without that policy, or from a public suffix, never.
func TestDNSPersist01Ancestors(t *testing.T) {
	w := newWorld(t)
	w.persist("example.test", "ca.test; accounturi="+uri("example.test")+"; policy=wildcard")
	w.persist("narrow.test", "ca.test; accounturi="+uri("narrow.test"))
	w.persist("co.uk", "ca.test; accounturi="+uri("*")+"; policy=wildcard")
	w.persist("dark.example.test", "ca.test; accounturi="+uri("dark.example.test"))
	w.dns.Fail("_validation-persist.dark.example.test", "TXT", dnstest.Fault{Rcode: mdns.RcodeServerFailure})
	v := challenge.NewDNSPersist01(w.cfg)
	ask := func(n string, parents bool) error {
		req := persistent(name(n))
		req.Persist.Ancestors = parents
		p, err := v.Validate(t.Context(), req)
		if err == nil && (!p.Covers(name(n), account) || p.Covers(name("y."+n), account)) {
			t.Errorf("%s: the proof is about something else", n)
		}
		return err
	}
	for n, want := range map[string]bool{
		"www.example.test": true, "a.b.example.test": true, "*.example.test": true, "*.b.example.test": true,
		"otherexample.test": false, "www.narrow.test": false, "*.www.narrow.test": false, "www.example.co.uk": false, "test": false,
		"dark.example.test": false, // SERVFAIL is never permission, not even from above
	} {
		if err := ask(n, true); (err == nil) != want {
			t.Errorf("%s: %v, want success %v", n, err, want)
		}
	}
	for _, n := range []string{"www.example.test", "*.b.example.test"} {
		if ask(n, false) == nil {
			t.Errorf("%s was proved by a parent although parents do not count", n)
		}
	}
	req := persistent(name("a.b.example.test"))
	req.Persist.Ancestors = true
	p, err := v.Validate(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	want := []challenge.Step{{Query: "_validation-persist.a.b.example.test"}, {Query: "_validation-persist.b.example.test"}, {Query: "_validation-persist.example.test"}}
	if diff := cmp.Diff(want, p.Steps(), sameAddr); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
}

func TestDNSPersist01NeedsItsTerms(t *testing.T) {
	w := newWorld(t)
	for _, req := range []challenge.Request{
		request(name("a.test")), persistent(ip("192.0.2.1")), persistent(name("A.test")), persistent(name(strings.Repeat("a.", 117) + "test")),
		{Identifier: name("a.test"), AccountURL: account, Persist: &challenge.Persist{Issuers: []string{"ca.test"}, HashPrefix: hashPrefix}},
		{Identifier: name("a.test"), AccountURL: account, Persist: &challenge.Persist{Thumbprints: []string{thisKey}, HashPrefix: hashPrefix}},
		{Identifier: name("a.test"), Persist: persistent(name("a.test")).Persist},
	} {
		p, err := challenge.NewDNSPersist01(w.cfg).Validate(t.Context(), req)
		wantFault(t, p, err, fault.Malformed)
	}
	if n := len(w.dns.Queries()); n != 0 {
		t.Errorf("%d queries were sent", n)
	}
}

func TestDNSPersist01AlwaysAsksAnew(t *testing.T) { // section 4.2: fresh data at each attempt
	w := newWorld(t)
	v := challenge.NewDNSPersist01(w.cfg)
	w.dns.Add(`_validation-persist.a.test. 600 IN TXT "ca.test; accounturi=` + uri("a.test") + `"`)
	if _, err := v.Validate(t.Context(), persistent(name("a.test"))); err != nil {
		t.Fatal(err)
	}
	w.dns.Remove("_validation-persist.a.test")
	if _, err := v.Validate(t.Context(), persistent(name("a.test"))); err == nil {
		t.Error("a record that is gone still proves")
	}
}
