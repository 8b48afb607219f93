package dns

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	ednsSize    = 1232 // RFC 9715: what fits every path without fragments
	headerSize  = 12
	maxLinks    = 16 // CNAMEs followed in one lookup
	maxTTL      = 24 * time.Hour
	maxNegative = 5 * time.Minute
	failureTTL  = 5 * time.Second
)

// question is what is asked: a normalized name and a type.
type question struct {
	name  string
	qtype uint16
}

// query is a question on the wire.
type query struct {
	msg     []byte // whole message; the first two bytes are the id
	section []byte // its question section: what an answer must repeat
}

// newQuery packs q, whose name is normalized, with a random id and, if mixed,
// random letter case: an off-path forger must then guess the case too
// (draft-vixie-dnsext-dns0x20). It is written by hand because it is the one
// message of every lookup and has one shape; all reading is left to miekg/dns.
func newQuery(q question, edns, mixed bool) query {
	var random [2 + 32]byte
	rand.Read(random[:]) // never fails (crypto/rand)
	msg := make([]byte, headerSize, headerSize+len(q.name)+2+4+11)
	copy(msg, random[:2])
	msg[2], msg[5] = 0x01, 1 // recursion desired; one question
	for rest, more := q.name, true; more; {
		var label string
		label, rest, more = strings.Cut(rest, ".")
		msg = append(append(msg, byte(len(label))), label...)
	}
	msg = append(msg, 0)
	if mixed {
		mixCase(msg[headerSize:], random[2:])
	}
	msg = binary.BigEndian.AppendUint16(msg, q.qtype)
	msg = binary.BigEndian.AppendUint16(msg, dns.ClassINET)
	section := msg[headerSize:]
	if edns { // an OPT record (RFC 6891): the root as name, type, size, flags, no options
		msg[11] = 1
		msg = append(msg, 0, 0, byte(dns.TypeOPT), ednsSize>>8, ednsSize&0xff, 0, 0, 0, 0, 0, 0)
	}
	return query{msg: msg, section: section}
}

// mixCase flips the case of each letter of a wire-format name by a random bit.
// Length octets are at most 63 and so are never mistaken for letters.
func mixCase(name, bits []byte) {
	for i, c := range name {
		if c|0x20 >= 'a' && c|0x20 <= 'z' && bits[i/8]>>(i%8)&1 == 1 {
			name[i] = c ^ 0x20
		}
	}
}

// match says how well a message answers a query.
type match int

const (
	alien   match = iota // not an answer to this query: ignore, count
	doubted              // the right question in other letter case, or an error without a question: ask over TCP
	cut                  // the answer, truncated
	good
)

// compare judges an answer before anything in it is parsed.
func (q query) compare(msg []byte) match {
	if len(msg) < headerSize || msg[0] != q.msg[0] || msg[1] != q.msg[1] {
		return alien
	}
	if msg[2]&0x80 == 0 || msg[2]>>3&0xf != 0 { // a query, or not opcode QUERY
		return alien
	}
	if binary.BigEndian.Uint16(msg[4:]) == 0 && msg[3]&0xf != 0 {
		return doubted
	}
	if binary.BigEndian.Uint16(msg[4:]) != 1 || len(msg) < headerSize+len(q.section) {
		return alien
	}
	switch got := msg[headerSize : headerSize+len(q.section)]; {
	case bytes.Equal(got, q.section):
	case bytes.EqualFold(got, q.section):
		return doubted
	default:
		return alien
	}
	if msg[2]&0x02 != 0 {
		return cut
	}
	return good
}

// answer is what one message, or a chain of them, says about a question.
type answer struct {
	addrs []netip.Addr
	texts []string
	caas  []CAARecord
	chain []string
	ttl   time.Duration
	class Class  // "" with records
	why   string // of a failure
	next  string // the chain leaves this message: ask here
}

func (a *answer) count() int { return len(a.addrs) + len(a.texts) + len(a.caas) }

// failed returns a failure that is remembered briefly.
func failed(c Class, why string) answer { return answer{class: c, why: why, ttl: failureTTL} }

// parse reads a message that answers q. It accepts at most maxRecords records
// over all sections and follows CNAMEs only within the answer section.
func parse(msg []byte, q question, maxRecords int) answer {
	if len(msg) < headerSize {
		return failed(Malformed, "shorter than a header")
	}
	n := 0
	for off := 6; off < headerSize; off += 2 {
		n += int(binary.BigEndian.Uint16(msg[off:]))
	}
	if n > maxRecords {
		return failed(Malformed, "too many records")
	}
	var m dns.Msg
	if err := m.Unpack(msg); err != nil {
		return failed(Malformed, "cannot be parsed")
	}
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
		return interpret(&m, q)
	case dns.RcodeRefused:
		return failed(Refused, "")
	case dns.RcodeServerFailure:
		return failed(ServFail, "")
	default:
		return failed(ServFail, "response code "+dns.RcodeToString[m.Rcode])
	}
}

// interpret collects the records of q from a message without error.
func interpret(m *dns.Msg, q question) answer {
	a := answer{ttl: maxTTL}
	owner, why := a.follow(m.Answer, q.name)
	if why != "" {
		return failed(Malformed, why)
	}
	for _, rr := range m.Answer {
		if h := rr.Header(); h.Rrtype == q.qtype && h.Class == dns.ClassINET && plain(h.Name) == owner {
			a.add(rr)
		}
	}
	if a.count() > 0 {
		return a
	}
	soa := negativeTTL(m.Ns)
	switch {
	case m.Rcode == dns.RcodeNameError:
		a.class = NXDomain
	case len(a.chain) > 0 && soa < 0:
		a.next = owner
		return a
	default:
		a.class = NoData
	}
	if soa < 0 {
		soa = failureTTL // RFC 2308 section 5: without an SOA it should not be kept
	}
	a.ttl = min(a.ttl, soa, maxNegative)
	return a
}

// follow walks the CNAME records from name and returns the last target, or why
// the chain is unusable.
func (a *answer) follow(rrs []dns.RR, name string) (owner, why string) {
	for {
		var target string
		for _, rr := range rrs {
			c, ok := rr.(*dns.CNAME)
			if !ok || c.Hdr.Class != dns.ClassINET || plain(c.Hdr.Name) != name {
				continue
			}
			if t := plain(c.Target); target != "" && t != target {
				return "", "a name with two aliases"
			} else {
				target = t
			}
			a.keep(c.Hdr.Ttl)
		}
		if target == "" {
			return name, ""
		}
		if why := a.extend(name, target); why != "" {
			return "", why
		}
		name = target
	}
}

// extend adds target to the chain that stands at name.
func (a *answer) extend(name, target string) (why string) {
	if len(a.chain) >= maxLinks {
		return "too many aliases"
	}
	if target == name {
		return "an alias loop"
	}
	for _, seen := range a.chain {
		if seen == target {
			return "an alias loop"
		}
	}
	if normalize(target) == "" {
		return "an alias that is not a host name"
	}
	a.chain = append(a.chain, target)
	return ""
}

// keep lowers the TTL of a to that of one record. A TTL with the top bit set
// is 0 (RFC 2181 section 8).
func (a *answer) keep(ttl uint32) {
	if ttl > 1<<31-1 {
		ttl = 0
	}
	a.ttl = min(a.ttl, time.Duration(ttl)*time.Second)
}

// add takes one record of the type asked.
func (a *answer) add(rr dns.RR) {
	a.keep(rr.Header().Ttl)
	switch rr := rr.(type) {
	case *dns.A:
		if addr, ok := netip.AddrFromSlice(rr.A.To4()); ok {
			a.addrs = append(a.addrs, addr)
		}
	case *dns.AAAA:
		if addr, ok := netip.AddrFromSlice(rr.AAAA.To16()); ok {
			a.addrs = append(a.addrs, addr)
		}
	case *dns.TXT:
		a.texts = append(a.texts, joinTXT(rr.Txt))
	case *dns.CAA:
		a.caas = append(a.caas, CAARecord{Flags: rr.Flag, Tag: rr.Tag, Value: rr.Value})
	}
}

// joinTXT returns the octets of one TXT record: its strings without a gap.
func joinTXT(parts []string) string {
	if len(parts) == 1 {
		return unescape(parts[0])
	}
	var all []byte
	for _, p := range parts {
		all = append(all, unescape(p)...)
	}
	return string(all)
}

// negativeTTL returns how long the absence of a record may be kept (RFC 2308
// section 5), or -1 if the authority section has no SOA.
func negativeTTL(ns []dns.RR) time.Duration {
	for _, rr := range ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return time.Duration(min(soa.Hdr.Ttl, soa.Minttl)) * time.Second
		}
	}
	return -1
}
