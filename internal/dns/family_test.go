package dns_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/dns"
)

func TestOneFamilyCostsOneQuery(t *testing.T) {
	s, r, _ := start(t, dns.Config{Hosts: map[string][]netip.Addr{"static.test": addrs("192.0.2.9")}})
	s.Add("www.test. 60 IN A 192.0.2.1", "www.test. 60 IN AAAA 2001:db8::1", "six.test. 60 IN AAAA 2001:db8::2")
	got, err := r.IPv4(t.Context(), "www.test")
	if err != nil || len(s.Queries()) != 1 {
		t.Fatalf("%v after %d queries, want one", err, len(s.Queries()))
	}
	if diff := cmp.Diff(addrs("192.0.2.1"), got.Addrs, sameAddr); diff != "" {
		t.Errorf("A (-want +got):\n%s", diff)
	}
	if got, err := r.IPv6(t.Context(), "www.test"); err != nil || got.Addrs[0] != netip.MustParseAddr("2001:db8::1") {
		t.Errorf("AAAA: %v, %v", got.Addrs, err)
	}
	for _, name := range []string{"six.test"} {
		if _, err := r.IPv4(t.Context(), name); dns.ClassOf(err) != dns.NoData {
			t.Errorf("A of %s: %v, want nodata", name, err)
		}
	}
	if got, err := r.IPv4(t.Context(), "static.test"); err != nil || !got.Static {
		t.Errorf("static A: %+v, %v", got, err)
	}
	if _, err := r.IPv6(t.Context(), "static.test"); dns.ClassOf(err) != dns.NoData {
		t.Errorf("static AAAA: %v", err)
	}
	if _, err := r.IPv4(t.Context(), "no name"); dns.ClassOf(err) != dns.BadName {
		t.Errorf("no name: %v", err)
	}
}
