package dns_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	mdns "github.com/miekg/dns"

	"chancery/internal/dns"
	"chancery/internal/dns/dnstest"
)

func caa(name, tag, value string) string { return name + ` 60 IN CAA 0 ` + tag + ` "` + value + `"` }

// RFC 8659 section 3.
func TestCAAClimbsToTheNearestSet(t *testing.T) {
	s, r, _ := start(t, dns.Config{})
	s.Add(caa("example.test.", "issue", "parent"), caa("own.example.test.", "issue", "own"), "x.own.example.test. 60 IN A 192.0.2.1",
		caa("target.other.", "issue", "target"), "alias.example.test. 60 IN CNAME target.other.",
		caa("zone.other.", "issue", "not me"), "bare.example.test. 60 IN CNAME www.zone.other.", "www.zone.other. 60 IN A 192.0.2.1",
		"dangling.example.test. 60 IN CNAME absent.other.")
	for _, c := range []struct{ name, found, value string }{
		{"example.test", "example.test", "parent"},
		{"own.example.test", "own.example.test", "own"},
		{"x.own.example.test", "own.example.test", "own"},
		{"a.b.c.example.test", "example.test", "parent"},
		{"alias.example.test", "alias.example.test", "target"},
		{"bare.example.test", "example.test", "parent"}, // the parents of an alias target are not climbed
		{"dangling.example.test", "example.test", "parent"},
		{"none.test", "", ""},
	} {
		got, err := r.CAA(t.Context(), c.name)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var want []dns.CAARecord
		if c.value != "" {
			want = []dns.CAARecord{{Tag: "issue", Value: c.value}}
		}
		if diff := cmp.Diff(want, got.Records); diff != "" || got.Name != c.found {
			t.Errorf("%s: found at %q, want %q (-want +got):\n%s", c.name, got.Name, c.found, diff)
		}
	}
}

// The top-level domain is asked, the root is not.
func TestCAAReachesTheTopLevelDomain(t *testing.T) {
	s, r, _ := start(t, dns.Config{})
	s.Add(caa("test.", "issue", "tld"))
	if got, err := r.CAA(t.Context(), "a.b.test"); err != nil || got.Name != "test" {
		t.Errorf("found at %q, %v", got.Name, err)
	}
	for _, q := range s.Queries() {
		if q.Name == "" {
			t.Error("the root was asked")
		}
	}
}

// SERVFAIL, time-outs and the like are never "no CAA".
func TestCAAFailureIsAnError(t *testing.T) {
	for class, f := range map[dns.Class]dnstest.Fault{
		dns.ServFail:  {Rcode: mdns.RcodeServerFailure},
		dns.Refused:   {Rcode: mdns.RcodeRefused},
		dns.Timeout:   {Drop: true},
		dns.Malformed: {Raw: garbage},
	} {
		for _, at := range []string{"www.example.test", "example.test", "test"} {
			s, r, _ := start(t, dns.Config{Timeout: 400 * time.Millisecond, Attempts: 1})
			s.Fail(at, "CAA", f)
			if got, err := r.CAA(t.Context(), "www.example.test"); dns.ClassOf(err) != class || len(got.Records) > 0 {
				t.Errorf("%s at %s: %v, %v", class, at, got, err)
			}
		}
	}
}

// What lies above the first set does not matter, not even its failure.
func TestCAAIgnoresWhatIsAboveTheSet(t *testing.T) {
	s, r, _ := start(t, dns.Config{})
	s.Add(caa("example.test.", "issue", "x"))
	s.Fail("test", "CAA", dnstest.Fault{Rcode: mdns.RcodeServerFailure})
	if got, err := r.CAA(t.Context(), "www.example.test"); err != nil || got.Name != "example.test" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestCAATTLIsThatOfTheWholeClimb(t *testing.T) {
	s, r, _ := start(t, dns.Config{})
	s.NegativeTTL(7)
	s.Add(caa("example.test.", "issue", "x"))
	if got, err := r.CAA(t.Context(), "www.example.test"); err != nil || got.TTL != 7*time.Second {
		t.Errorf("TTL %v, %v; want that of the absence at www, 7s", got.TTL, err)
	}
}

func TestCAABudget(t *testing.T) {
	_, r, _ := start(t, dns.Config{})
	s := r.Session(dns.Limits{MaxAge: dns.NoCache, Queries: 3})
	if _, err := s.CAA(t.Context(), "a.b.c.d.test"); dns.ClassOf(err) != dns.Exhausted {
		t.Errorf("%v, want exhausted", err)
	}
}
