package dns

import (
	"context"

	"github.com/miekg/dns"
)

// IPv4 returns the A records of name, from the cache while their TTL lasts. It
// costs one query where Addrs costs two: a scan that prefers IPv4 asks for
// AAAA only when there is no A.
func (r *Resolver) IPv4(ctx context.Context, name string) (AddrAnswer, error) {
	return (&Session{r: r}).family(ctx, name, dns.TypeA)
}

// IPv6 returns the AAAA records of name; see IPv4.
func (r *Resolver) IPv6(ctx context.Context, name string) (AddrAnswer, error) {
	return (&Session{r: r}).family(ctx, name, dns.TypeAAAA)
}

// family looks up the addresses of one family.
func (s *Session) family(ctx context.Context, name string, qtype uint16) (AddrAnswer, error) {
	host := normalize(name)
	if host == "" {
		return AddrAnswer{}, badName(name, dns.TypeToString[qtype])
	}
	if addrs, ok := s.r.hosts.find(host); ok {
		out := AddrAnswer{TTL: failureTTL, At: s.r.cfg.Now(), Static: true}
		for _, a := range addrs {
			if a.Is4() == (qtype == dns.TypeA) {
				out.Addrs = append(out.Addrs, a)
			}
		}
		if len(out.Addrs) == 0 {
			return AddrAnswer{}, &Error{Name: host, Type: dns.TypeToString[qtype], Class: NoData, Reason: "static"}
		}
		return out, nil
	}
	e, err := s.await(ctx, s.begin(question{host, qtype}))
	if err != nil {
		return AddrAnswer{}, err
	}
	return e.one(s.r.cfg.Now(), nil), nil
}
