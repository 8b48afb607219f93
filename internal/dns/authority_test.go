package dns_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"chancery/internal/dns"
	"chancery/internal/dns/dnstest"
)

func TestZonesAndTheirServers(t *testing.T) {
	s := dnstest.Start(t)
	s.Add("a.test. 60 IN SOA ns.a.test. admin.a.test. 1 60 60 60 0", "a.test. 60 IN NS ns1.a.test.", "a.test. 60 IN NS ns2.a.test.", "ns1.a.test. 60 IN A 192.0.2.1",
		"ns2.a.test. 60 IN AAAA 2001:db8::2", "sub.a.test. 60 IN SOA ns.a.test. admin.a.test. 1 60 60 60 0", "x.sub.a.test. 60 IN A 192.0.2.3",
		"alias.a.test. 60 IN CNAME mid.a.test.", "mid.a.test. 60 IN CNAME end.b.test.", "loop.a.test. 60 IN CNAME loop.a.test.", `txt.a.test. 60 IN TXT "one" "two"`)
	r, err := dns.New(dns.Config{Servers: []string{s.Addr()}, Timeout: time.Second, Attempts: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for name, want := range map[string]string{"a.test": "a.test", "deep.x.a.test": "a.test", "x.sub.a.test": "sub.a.test", "_acme-challenge.y.sub.a.test": "sub.a.test"} {
		if got, err := r.ZoneOf(t.Context(), name); got != want || err != nil {
			t.Errorf("zone of %s: %q, %v; want %s", name, got, err, want)
		}
	}
	servers, err := r.ServersOf(t.Context(), "a.test")
	if want := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("[2001:db8::2]:53")}; err != nil || !slices.Equal(servers, want) {
		t.Errorf("servers %v, %v", servers, err)
	}
	for name, want := range map[string]string{"alias.a.test": "end.b.test", "plain.a.test": "plain.a.test"} {
		if got, err := r.Target(t.Context(), name); got != want || err != nil {
			t.Errorf("target of %s: %q, %v; want %s", name, got, err, want)
		}
	}
	if _, err := r.Target(t.Context(), "loop.a.test"); dns.ClassOf(err) != dns.Malformed {
		t.Errorf("a loop: %v", err)
	}
	at := netip.MustParseAddrPort(s.Addr())
	if got, err := r.TXTAt(t.Context(), at, "txt.a.test"); err != nil || !slices.Equal(got, []string{"onetwo"}) {
		t.Errorf("TXT %q, %v", got, err)
	}
	if got, err := r.TXTAt(t.Context(), at, "none.a.test"); err != nil || len(got) != 0 {
		t.Errorf("no TXT: %q, %v", got, err)
	}
	s.Fail("txt.a.test", "TXT", dnstest.Fault{Truncate: true})
	if got, err := r.TXTAt(t.Context(), at, "txt.a.test"); err != nil || len(got) != 1 {
		t.Errorf("over TCP: %q, %v", got, err)
	}
	s.Fail("bad.a.test", "*", dnstest.Fault{Rcode: 2})
	if _, err := r.Target(t.Context(), "bad.a.test"); dns.ClassOf(err) != dns.ServFail {
		t.Errorf("SERVFAIL: %v", err)
	}
	s.Fail("dead.a.test", "*", dnstest.Fault{Drop: true})
	if _, err := r.TXTAt(t.Context(), at, "dead.a.test"); dns.ClassOf(err) != dns.Timeout {
		t.Errorf("silence: %v", err)
	}
	if _, err := r.ZoneOf(t.Context(), "not a name"); dns.ClassOf(err) != dns.BadName {
		t.Errorf("no name: %v", err)
	}
}
