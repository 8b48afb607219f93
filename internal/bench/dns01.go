package bench

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"

	"chancery/internal/acme/challenge"
	"chancery/internal/fault"
)

// DNSServer is a small authoritative server for the names of a benchmark. It
// answers A or AAAA of every name with one address, TXT with what dns-01
// presents, and everything else (CAA above all) with "no such record", so a
// server under test that asks it needs no other DNS. It knows no zones: it is
// for loopback and laboratory networks.
type DNSServer struct {
	addr     netip.Addr
	mu       sync.RWMutex
	txt      map[string][]string
	servers  []*dns.Server
	listenOn string
}

// dnsTTL is short, since names are asked once.
const dnsTTL = 1

// ListenDNS serves DNS over UDP and TCP on addr (HOST:PORT). Every name has
// the address target, where the challenge responders listen.
func ListenDNS(addr string, target netip.Addr) (*DNSServer, error) {
	conn, ln, err := listenBoth(addr)
	if err != nil {
		return nil, fault.Wrap(err, fault.Conflict, "cannot answer DNS on %s; stop what listens there or choose another address", addr)
	}
	s := &DNSServer{addr: target, txt: map[string][]string{}, listenOn: conn.LocalAddr().String()}
	handler := dns.HandlerFunc(s.answer)
	s.servers = []*dns.Server{{PacketConn: conn, Handler: handler}, {Listener: ln, Handler: handler}}
	var up sync.WaitGroup
	for _, srv := range s.servers {
		up.Add(1)
		srv.NotifyStartedFunc = up.Done
		go srv.ActivateAndServe() // ends with Close; there is nobody to tell
	}
	up.Wait()
	return s, nil
}

// listenBoth opens UDP and TCP on one address. With port 0 the system chooses
// the port, and the other protocol may have it in use already.
func listenBoth(addr string) (conn net.PacketConn, ln net.Listener, err error) {
	for range 20 {
		if conn, err = net.ListenPacket("udp", addr); err != nil {
			return nil, nil, err
		}
		if ln, err = net.Listen("tcp", conn.LocalAddr().String()); err == nil {
			return conn, ln, nil
		}
		conn.Close()
		if !strings.HasSuffix(addr, ":0") {
			break
		}
	}
	return nil, nil, err
}

// Addr returns where the server listens, as HOST:PORT.
func (s *DNSServer) Addr() string { return s.listenOn }

// Close stops the server.
func (s *DNSServer) Close() error {
	var errs []error
	for _, srv := range s.servers {
		errs = append(errs, srv.Shutdown())
	}
	return errors.Join(errs...)
}

// answer answers one query.
func (s *DNSServer) answer(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	if len(q.Question) != 1 || q.Opcode != dns.OpcodeQuery {
		m.SetRcode(q, dns.RcodeFormatError)
		w.WriteMsg(m)
		return
	}
	m.SetReply(q)
	m.Authoritative, m.RecursionAvailable = true, true
	question := q.Question[0]
	m.Answer = s.records(question.Name, question.Qtype)
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{soa(question.Name)}
	}
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(1232, opt.Do())
	}
	w.WriteMsg(m)
}

// records returns the records of one type that name has.
func (s *DNSServer) records(name string, kind uint16) []dns.RR {
	header := dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: dnsTTL}
	switch {
	case kind == dns.TypeA && s.addr.Is4():
		return []dns.RR{&dns.A{Hdr: header, A: s.addr.AsSlice()}}
	case kind == dns.TypeAAAA && s.addr.Is6():
		return []dns.RR{&dns.AAAA{Hdr: header, AAAA: s.addr.AsSlice()}}
	case kind == dns.TypeTXT:
		s.mu.RLock()
		defer s.mu.RUnlock()
		var out []dns.RR
		for _, v := range s.txt[strings.ToLower(name)] {
			out = append(out, &dns.TXT{Hdr: header, Txt: []string{v}})
		}
		return out
	}
	return nil
}

// soa is the authority of negative answers (RFC 2308 section 3).
func soa(name string) dns.RR {
	return &dns.SOA{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: dnsTTL},
		Ns: "ns.invalid.", Mbox: "bench.invalid.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: dnsTTL}
}

// challengeName is where dns-01 looks (RFC 8555 section 8.4).
func challengeName(name string) string {
	return "_acme-challenge." + strings.ToLower(strings.TrimPrefix(name, "*.")) + "."
}

// newDNS01 answers dns-01 through s.
func newDNS01(s *DNSServer) (*responder, error) {
	if s == nil {
		return nil, errNoDNS()
	}
	values := newTable[string]() // token: value, for forget
	return &responder{
		kind: challenge.DNS01,
		present: func(name, token, keyAuthorization string) {
			v := challenge.DNS01Value(keyAuthorization)
			values.set(token, v)
			s.mu.Lock()
			defer s.mu.Unlock()
			key := challengeName(name)
			s.txt[key] = append(s.txt[key], v)
		},
		forget: func(name, token string) {
			v, _ := values.get(token)
			values.drop(token)
			s.mu.Lock()
			defer s.mu.Unlock()
			key := challengeName(name)
			if left := slices.DeleteFunc(s.txt[key], func(t string) bool { return t == v }); len(left) > 0 {
				s.txt[key] = left
			} else {
				delete(s.txt, key)
			}
		},
		close: func() error { return nil }, // whoever opened s closes it
		addr:  s.Addr(),
	}, nil
}
