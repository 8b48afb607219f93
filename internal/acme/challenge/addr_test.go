package challenge_test

import (
	"net/netip"
	"testing"

	"chancery/internal/acme/challenge"
)

func TestPolicyRefusesSpecialAddresses(t *testing.T) {
	refused := []string{
		"0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254", "169.254.169.254",
		"172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.0.170", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1",
		"198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
		"::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::8.8.8.8", "64:ff9b::10.0.0.1", "64:ff9b::127.0.0.1",
		"64:ff9b::169.254.169.254", "64:ff9b:1::8.8.8.8", "64:ff9b:0:0:0:1::1", "100::1", "100:0:0:1::1", "2001::1", "2001:2::1", "2001:10::1", "2001:20::1",
		"2001:db8::1", "2002:7f00:1::1", "2002:808:808::1", "3fff::1", "4000::1", "5f00::1", "fc00::1", "fd12:3456::1",
		"fe80::1", "fe80::1%eth0", "febf::1", "fec0::1", "ff02::1", "2606:4700::1%eth0",
	}
	permitted := []string{
		"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.1",
		"172.15.255.255", "172.32.0.0", "192.0.1.1", "192.167.255.255", "198.17.255.255", "198.20.0.0", "223.255.255.255",
		"2606:4700::1111", "2a00:1450::1", "2001:200::1", "2001:4860:4860::8888", "64:ff9b::8.8.8.8",
	}
	var p challenge.Policy
	for _, s := range refused {
		if p.Refusal(netip.MustParseAddr(s)) == "" {
			t.Errorf("%s is permitted", s)
		}
	}
	for _, s := range permitted {
		if why := p.Refusal(netip.MustParseAddr(s)); why != "" {
			t.Errorf("%s is refused: %s", s, why)
		}
	}
	if p.Refusal(netip.Addr{}) == "" {
		t.Error("no address is permitted")
	}
}

func TestPolicyAllowList(t *testing.T) {
	p, err := challenge.NewPolicy([]string{"10.1.0.0/16", " fd00:1::/32"})
	if err != nil {
		t.Fatal(err)
	}
	for s, ok := range map[string]bool{
		"10.1.2.3": true, "10.2.0.1": false, "fd00:1::5": true, "fd00:2::5": false, "8.8.8.8": true,
		"::ffff:10.1.2.3": false, "64:ff9b::10.1.2.3": false,
	} {
		if why := p.Refusal(netip.MustParseAddr(s)); (why == "") != ok {
			t.Errorf("%s: %q, want permitted=%v", s, why, ok)
		}
	}
	for _, bad := range []string{"", "10.0.0.1", "10.0.0.1/8", "::ffff:10.0.0.0/104", "x/8", "10.0.0.0/33"} {
		if _, err := challenge.NewPolicy([]string{bad}); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

// OpenBao 2024: an empty allow-list meant all.
func TestHistoryEmptyAllowListPermitsNothingSpecial(t *testing.T) {
	for _, list := range [][]string{nil, {}} {
		p, err := challenge.NewPolicy(list)
		if err != nil || p.Refusal(netip.MustParseAddr("127.0.0.1")) == "" {
			t.Errorf("%v: loopback is permitted (%v)", list, err)
		}
	}
}
