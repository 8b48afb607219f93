package dnstest

import (
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// ServeDNS answers one message. It is called by the server.
func (s *Server) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	if req.Opcode == dns.OpcodeUpdate {
		s.serveUpdate(w, req)
		return
	}
	if len(req.Question) != 1 {
		w.WriteMsg(new(dns.Msg).SetRcode(req, dns.RcodeFormatError))
		return
	}
	_, tcp := w.RemoteAddr().(*net.TCPAddr)
	f := s.note(w, req, tcp)
	if f.Delay > 0 {
		time.Sleep(f.Delay)
	}
	if f.Hold != nil {
		<-f.Hold
	}
	switch {
	case f.Drop:
	case f.Raw != nil:
		if raw := f.Raw(req); raw != nil {
			w.Write(raw)
		}
	case f.NoEDNS && req.IsEdns0() != nil:
		m := new(dns.Msg).SetRcode(req, dns.RcodeFormatError)
		m.Question = nil
		w.WriteMsg(m)
	default:
		s.reply(w, req, f, tcp)
	}
}

// note records the question and returns the fault that it meets.
func (s *Server) note(w dns.ResponseWriter, req *dns.Msg, tcp bool) Fault {
	q := req.Question[0]
	from, _ := netip.ParseAddrPort(w.RemoteAddr().String())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queries = append(s.queries, Query{
		Name: strings.TrimSuffix(canonical(q.Name), "."), Type: dns.TypeToString[q.Qtype],
		TCP: tcp, Port: from.Port(), ID: req.Id, Case: strings.TrimSuffix(q.Name, "."),
	})
	for _, k := range []key{{canonical(q.Name), q.Qtype}, {canonical(q.Name), 0}} {
		f := s.faults[k]
		if f == nil {
			continue
		}
		if f.Times--; f.Times == 0 {
			delete(s.faults, k)
		}
		return *f
	}
	return Fault{}
}

// reply sends the answer, spoiled by f.
func (s *Server) reply(w dns.ResponseWriter, req *dns.Msg, f Fault, tcp bool) {
	m := s.answer(req)
	if f.Rcode != dns.RcodeSuccess {
		m.Rcode, m.Answer, m.Ns = f.Rcode, nil, nil
	}
	if f.NoCase {
		m.Question[0].Name = canonical(m.Question[0].Name)
	}
	if f.Edit != nil {
		f.Edit(m)
	}
	if tcp {
		w.WriteMsg(m)
		return
	}
	if f.Truncate {
		m.Answer, m.Ns, m.Truncated = nil, nil, true
	}
	if f.WrongID {
		bad := m.Copy()
		bad.Id++
		w.WriteMsg(bad)
	}
	if f.WrongName {
		for range 5 {
			bad := m.Copy()
			bad.Question[0].Name = "forged.test."
			w.WriteMsg(bad)
		}
	}
	size := dns.MinMsgSize
	if opt := req.IsEdns0(); opt != nil {
		size = int(opt.UDPSize())
	}
	if !f.Truncate {
		m.Truncate(size)
	}
	w.WriteMsg(m)
}

// answer builds the answer from the records.
func (s *Server) answer(req *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(req)
	m.RecursionAvailable = true
	m.Authoritative = true // clients that update a zone look for its own server
	m.Compress = true
	q := req.Question[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	name := canonical(q.Name)
	for range 32 {
		rrs := s.records[name]
		alias := ""
		for _, rr := range rrs {
			c, isAlias := rr.(*dns.CNAME)
			if rr.Header().Rrtype == q.Qtype || isAlias {
				m.Answer = append(m.Answer, rr)
			}
			if isAlias && q.Qtype != dns.TypeCNAME {
				alias = canonical(c.Target)
			}
		}
		if alias != "" && s.partial {
			return m
		}
		if alias == "" {
			s.negate(m, name, q.Qtype)
			return m
		}
		name = alias
	}
	return m
}

// negate completes an answer that has no record of the type at name.
func (s *Server) negate(m *dns.Msg, name string, qtype uint16) {
	for _, rr := range s.records[name] {
		if rr.Header().Rrtype == qtype {
			return
		}
	}
	if !s.exists(name) {
		m.Rcode = dns.RcodeNameError
	}
	if s.negative == noSOA {
		return
	}
	m.Ns = append(m.Ns, s.soa(name))
}

// soa returns the SOA above name: one that was added, else one of the root.
func (s *Server) soa(name string) dns.RR {
	for up := name; up != "."; {
		for _, rr := range s.records[up] {
			if rr.Header().Rrtype == dns.TypeSOA {
				return rr
			}
		}
		_, rest, _ := strings.Cut(up, ".")
		if up = rest; up == "" {
			break
		}
	}
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 86400},
		Ns:  "ns.test.", Mbox: "hostmaster.test.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: s.negative,
	}
}

// exists reports whether name has records or names below it that have.
func (s *Server) exists(name string) bool {
	if len(s.records[name]) > 0 {
		return true
	}
	for n, rrs := range s.records {
		if len(rrs) > 0 && strings.HasSuffix(n, "."+name) {
			return true
		}
	}
	return false
}

// serveUpdate applies a dynamic update (RFC 2136 section 3.4). Prerequisites
// are not supported and refused.
func (s *Server) serveUpdate(w dns.ResponseWriter, req *dns.Msg) {
	m := new(dns.Msg).SetReply(req)
	switch tsig := req.IsTsig(); {
	case tsig == nil && len(s.udp.TsigSecret) > 0, tsig != nil && w.TsigStatus() != nil:
		m.Rcode = dns.RcodeRefused
	case len(req.Answer) > 0:
		m.Rcode = dns.RcodeNotImplemented
	default:
		s.update(req.Ns)
	}
	if tsig := req.IsTsig(); tsig != nil && w.TsigStatus() == nil {
		m.SetTsig(tsig.Hdr.Name, tsig.Algorithm, 300, time.Now().Unix())
	}
	w.WriteMsg(m)
}

// update adds and deletes records as the update section says.
func (s *Server) update(rrs []dns.RR) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rr := range rrs {
		h := rr.Header()
		name := canonical(h.Name)
		switch h.Class {
		case dns.ClassINET:
			s.insert(rr)
		case dns.ClassANY:
			s.records[name] = without(s.records[name], func(have dns.RR) bool {
				return h.Rrtype == dns.TypeANY || have.Header().Rrtype == h.Rrtype
			})
		case dns.ClassNONE:
			gone := dns.Copy(rr)
			gone.Header().Class = dns.ClassINET
			s.records[name] = without(s.records[name], func(have dns.RR) bool { return dns.IsDuplicate(have, gone) })
		}
	}
}

// without returns rrs less those that match.
func without(rrs []dns.RR, match func(dns.RR) bool) []dns.RR {
	var kept []dns.RR
	for _, rr := range rrs {
		if !match(rr) {
			kept = append(kept, rr)
		}
	}
	return kept
}
