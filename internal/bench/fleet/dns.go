package fleet

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// nameServer answers for the fleet's zone over UDP.
type nameServer struct {
	conn    *net.UDPConn
	delay   Delay
	lookup  func(name string) (zoneEntry, bool)
	queries atomic.Int64
}

// zoneEntry is a name of the zone.
type zoneEntry struct {
	addr  netip.Addr
	rcode int
	alias string // answer through this name, with aliasTTL
	ttl   uint32
}

const aliasTTL = 5

// startDNS serves until the connection is closed.
func startDNS(delay Delay, lookup func(string) (zoneEntry, bool)) (*nameServer, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("listen for fleet DNS: %w", err)
	}
	conn.SetReadBuffer(4 << 20) // bursts of a whole pass; the kernel may allow less
	s := &nameServer{conn: conn, delay: delay, lookup: lookup}
	go s.serve()
	return s, nil
}

// serve answers queries, each after its delay.
func (s *nameServer) serve() {
	random := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 1500)
	for {
		n, from, err := s.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		var q dns.Msg
		if q.Unpack(buf[:n]) != nil || len(q.Question) != 1 || q.Response {
			continue
		}
		s.queries.Add(1)
		answer, err := s.answer(&q)
		if err != nil {
			continue
		}
		send := func() { s.conn.WriteToUDPAddrPort(answer, from) }
		if wait := s.delay.draw(random); wait > 0 {
			time.AfterFunc(wait, send)
		} else {
			send()
		}
	}
}

// answer packs the answer to q.
func (s *nameServer) answer(q *dns.Msg) ([]byte, error) {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable, m.Compress = true, true
	question := q.Question[0]
	e, ok := s.lookup(strings.ToLower(strings.TrimSuffix(question.Name, ".")))
	soa := &dns.SOA{Hdr: dns.RR_Header{Name: "test.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 30}, Ns: "ns.test.", Mbox: "h.test.", Minttl: 30}
	switch {
	case !ok:
		m.Rcode, m.Ns = dns.RcodeNameError, []dns.RR{soa}
	case e.rcode != dns.RcodeSuccess:
		m.Rcode = e.rcode
	case question.Qtype != dns.TypeA:
		m.Ns = []dns.RR{soa}
	default:
		owner := question.Name
		if e.alias != "" {
			m.Answer = append(m.Answer, &dns.CNAME{Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: aliasTTL}, Target: e.alias + "."})
			owner = e.alias + "."
		}
		m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: e.ttl}, A: e.addr.AsSlice()})
	}
	return m.Pack()
}
