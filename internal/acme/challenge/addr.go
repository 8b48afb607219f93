package challenge

import (
	"net/netip"
	"strings"

	"chancery/internal/fault"
)

// Policy says which addresses a validation may contact. The zero value permits
// globally reachable unicast addresses and nothing else: a validation is a
// request made by a stranger, and must not reach what is near the CA.
type Policy struct {
	allow []netip.Prefix
}

// NewPolicy returns a policy that also permits the given networks, in CIDR
// form. An empty list permits no special address. An IPv4 network is matched
// against IPv4 addresses only; an IPv4-mapped IPv6 address is never permitted.
func NewPolicy(allow []string) (Policy, error) {
	var p Policy
	for _, s := range allow {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil {
			return Policy{}, fault.New(fault.Invalid, "allowed target %s is not a network such as 10.0.0.0/8 or fd00::/8", quote(s))
		}
		if prefix.Addr().Is4In6() || prefix != prefix.Masked() {
			return Policy{}, fault.New(fault.Invalid, "allowed target %s must be a plain network address; write %s", quote(s), prefix.Masked())
		}
		p.allow = append(p.allow, prefix)
	}
	return p, nil
}

// special is a block of the IANA special-purpose address registries (RFC 6890)
// that is not globally reachable, or that embeds an address which may not be.
type special struct {
	prefix netip.Prefix
	name   string
}

// special4 is the IPv4 registry, with multicast and class E, which have
// registries of their own.
var special4 = blocks(
	"0.0.0.0/8", "this network (RFC 791)",
	"10.0.0.0/8", "private use (RFC 1918)",
	"100.64.0.0/10", "shared address space (RFC 6598)",
	"127.0.0.0/8", "loopback (RFC 1122)",
	"169.254.0.0/16", "link local (RFC 3927)",
	"172.16.0.0/12", "private use (RFC 1918)",
	"192.0.0.0/24", "protocol assignments (RFC 6890)",
	"192.0.2.0/24", "documentation (RFC 5737)",
	"192.88.99.0/24", "6to4 relay anycast (RFC 7526)",
	"192.168.0.0/16", "private use (RFC 1918)",
	"198.18.0.0/15", "benchmarking (RFC 2544)",
	"198.51.100.0/24", "documentation (RFC 5737)",
	"203.0.113.0/24", "documentation (RFC 5737)",
	"224.0.0.0/4", "multicast (RFC 5771)",
	"240.0.0.0/4", "reserved (RFC 1112)",
)

// special6 is the IPv6 registry inside 2000::/3; whatever is outside, but for
// NAT64, is not global unicast. 2001::/23 is refused whole: its few reachable
// assignments are anycast services that hold no certificates.
var special6 = blocks(
	"2001::/32", "Teredo (RFC 4380)",
	"2001::/23", "protocol assignments (RFC 2928)",
	"2001:db8::/32", "documentation (RFC 3849)",
	"2002::/16", "6to4 (RFC 3056)",
	"3fff::/20", "documentation (RFC 9637)",
)

// outside6 names blocks outside 2000::/3, for the message only.
var outside6 = blocks(
	"::1/128", "loopback (RFC 4291)",
	"::/128", "unspecified (RFC 4291)",
	"64:ff9b:1::/48", "local-use NAT64 (RFC 8215)",
	"100::/64", "discard only (RFC 6666)",
	"100:0:0:1::/64", "dummy prefix (RFC 9780)",
	"5f00::/16", "segment routing (RFC 9602)",
	"fc00::/7", "unique local (RFC 4193)",
	"fe80::/10", "link local (RFC 4291)",
	"fec0::/10", "site local (RFC 3879)",
	"ff00::/8", "multicast (RFC 4291)",
)

var (
	globalUnicast6 = netip.MustParsePrefix("2000::/3")
	nat64          = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052: the last 32 bits are an IPv4 address
)

// blocks pairs prefixes with names.
func blocks(pairs ...string) []special {
	list := make([]special, 0, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, special{netip.MustParsePrefix(pairs[i]), pairs[i+1]})
	}
	return list
}

func find(list []special, a netip.Addr) string {
	for _, s := range list {
		if s.prefix.Contains(a) {
			return s.name
		}
	}
	return ""
}

// Refusal returns why a must not be contacted, or "" if it may be.
func (p Policy) Refusal(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return "no address"
	case a.Zone() != "":
		return "an address with a zone"
	case a.Is4In6():
		return "an IPv4-mapped IPv6 address"
	}
	for _, prefix := range p.allow {
		if prefix.Contains(a) {
			return ""
		}
	}
	if a.Is4() {
		return find(special4, a)
	}
	if nat64.Contains(a) {
		b := a.As16()
		inner := netip.AddrFrom4([4]byte(b[12:]))
		if why := find(special4, inner); why != "" {
			return "NAT64 of " + why
		}
		return ""
	}
	if !globalUnicast6.Contains(a) {
		if name := find(outside6, a); name != "" {
			return name
		}
		return "not global unicast (RFC 4291)"
	}
	return find(special6, a)
}

// pick returns the addresses to dial, in order: the first permitted IPv6
// address, then the first permitted IPv4 address. A host with a broken IPv6
// path thus still validates, at the cost of one more attempt, and a name with
// a thousand addresses cannot be used to scan. If none is permitted, why says
// what is wrong with the first.
func (p Policy) pick(addrs []netip.Addr) (dial []netip.Addr, why string) {
	var v4, v6 netip.Addr
	for _, a := range addrs {
		if w := p.Refusal(a); w != "" {
			if why == "" {
				why = a.String() + " is " + w
			}
			continue
		}
		if a.Is4() && !v4.IsValid() {
			v4 = a
		}
		if a.Is6() && !v6.IsValid() {
			v6 = a
		}
	}
	if v6.IsValid() {
		dial = append(dial, v6)
	}
	if v4.IsValid() {
		dial = append(dial, v4)
	}
	return dial, why
}
