package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// Zone is where the records of a name are kept.
type Zone struct {
	Name    string           // of the apex, without the final dot
	Servers []netip.AddrPort // of the authoritative servers; sorted, never empty
}

// maxServers bounds how many servers of a zone are asked.
const maxServers = 16

// ZoneOf finds the zone that holds, or would hold, records of name: the
// closest name above it, or itself, that has an SOA record. Nothing of it
// comes from the cache.
func (r *Resolver) ZoneOf(ctx context.Context, name string) (string, error) {
	host := normalize(name)
	if host == "" {
		return "", badName(name, "SOA")
	}
	for at := host; at != ""; at = parent(at) {
		m, server, err := r.recurse(ctx, at, dns.TypeSOA)
		if err != nil {
			return "", err
		}
		for _, rr := range append(slices.Clone(m.Answer), m.Ns...) {
			soa, ok := rr.(*dns.SOA)
			if !ok {
				continue
			}
			// The owner is at or above what was asked for, unless an alias led
			// to another tree.
			if apex := plain(soa.Hdr.Name); host == apex || strings.HasSuffix(host, "."+apex) {
				return apex, nil
			}
		}
		if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
			return "", &Error{Name: at, Type: "SOA", Class: ServFail, Reason: "the zone cannot be found", Server: server}
		}
	}
	return "", &Error{Name: host, Type: "SOA", Class: NoData, Reason: "no zone above this name has an SOA record"}
}

// ServersOf returns the authoritative servers of a zone.
func (r *Resolver) ServersOf(ctx context.Context, zone string) ([]netip.AddrPort, error) {
	host := normalize(zone)
	if host == "" {
		return nil, badName(zone, "NS")
	}
	m, server, err := r.recurse(ctx, host, dns.TypeNS)
	if err != nil {
		return nil, err
	}
	var out []netip.AddrPort
	var last error = &Error{Name: host, Type: "NS", Class: NoData, Reason: "the zone names no server", Server: server}
	for _, rr := range m.Answer {
		ns, ok := rr.(*dns.NS)
		if !ok || len(out) >= maxServers {
			continue
		}
		a, err := r.Addrs(ctx, plain(ns.Ns))
		if err != nil {
			last = err
			continue
		}
		for _, ip := range a.Addrs {
			out = append(out, netip.AddrPortFrom(ip, 53))
		}
	}
	if len(out) == 0 {
		return nil, last
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return slices.Compact(out), nil
}

// Target follows the aliases of a name, as far as they go, and returns where
// they end: name itself if there are none.
func (r *Resolver) Target(ctx context.Context, name string) (string, error) {
	at := normalize(name)
	if at == "" {
		return "", badName(name, "CNAME")
	}
	for range maxLinks {
		m, server, err := r.recurse(ctx, at, dns.TypeCNAME)
		if err != nil {
			return "", err
		}
		if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
			return "", &Error{Name: at, Type: "CNAME", Class: ServFail, Server: server}
		}
		i := slices.IndexFunc(m.Answer, func(rr dns.RR) bool {
			c, ok := rr.(*dns.CNAME)
			return ok && plain(c.Hdr.Name) == at
		})
		if i < 0 {
			return at, nil
		}
		next := normalize(m.Answer[i].(*dns.CNAME).Target)
		if next == "" {
			return "", &Error{Name: at, Type: "CNAME", Class: Malformed, Reason: "the alias is no host name", Server: server}
		}
		at = next
	}
	return "", &Error{Name: normalize(name), Type: "CNAME", Class: Malformed, Reason: "an alias loop"}
}

// TXTAt asks one authoritative server for the TXT records of a name, without
// recursion and without any cache. No records is no error.
func (r *Resolver) TXTAt(ctx context.Context, server netip.AddrPort, name string) ([]string, error) {
	host := normalize(name)
	if host == "" {
		return nil, badName(name, "TXT")
	}
	m, err := r.direct(ctx, server.String(), host, dns.TypeTXT, false)
	if err != nil {
		return nil, err
	}
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return nil, &Error{Name: host, Type: "TXT", Class: ServFail, Reason: dns.RcodeToString[m.Rcode], Server: server.String()}
	}
	var out []string
	for _, rr := range m.Answer {
		if t, ok := rr.(*dns.TXT); ok && len(out) < r.cfg.MaxRecords {
			out = append(out, strings.Join(t.Txt, ""))
		}
	}
	return out, nil
}

// recurse asks the recursive servers in turn.
func (r *Resolver) recurse(ctx context.Context, name string, qtype uint16) (*dns.Msg, string, error) {
	var last error = &Error{Name: name, Type: dns.TypeToString[qtype], Class: ServFail, Reason: "no DNS server is configured"}
	prefer := int(r.prefer.Load())
	for i := range max(r.cfg.Attempts, 1) {
		if len(r.servers) == 0 || ctx.Err() != nil {
			break
		}
		server := r.servers[(prefer+i)%len(r.servers)].addr.String()
		m, err := r.direct(ctx, server, name, qtype, true)
		if err == nil && m.Rcode != dns.RcodeServerFailure && m.Rcode != dns.RcodeRefused {
			return m, server, nil
		}
		if last = err; err == nil {
			last = &Error{Name: name, Type: dns.TypeToString[qtype], Class: ServFail, Reason: dns.RcodeToString[m.Rcode], Server: server}
		}
	}
	return nil, "", last
}

// direct is one question to one server, over TCP if it does not fit.
func (r *Resolver) direct(ctx context.Context, server, name string, qtype uint16, recursion bool) (*dns.Msg, error) {
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	q.RecursionDesired = recursion
	q.SetEdns0(ednsSize, false)
	for _, network := range []string{"udp", "tcp"} {
		c := dns.Client{Net: network, Timeout: r.cfg.Timeout, UDPSize: ednsSize}
		m, _, err := c.ExchangeContext(ctx, q, server)
		if err != nil {
			return nil, exchangeError(ctx, name, qtype, server, err)
		}
		if !m.Truncated || network == "tcp" {
			return m, nil
		}
	}
	return nil, &Error{Name: name, Type: dns.TypeToString[qtype], Class: Malformed, Server: server}
}

func exchangeError(ctx context.Context, name string, qtype uint16, server string, err error) error {
	e := &Error{Name: name, Type: dns.TypeToString[qtype], Class: ServFail, Server: server, cause: err}
	var network net.Error
	switch {
	case ctx.Err() != nil:
		e.Class = Canceled
	case errors.As(err, &network) && network.Timeout():
		e.Class = Timeout
	}
	return e
}
