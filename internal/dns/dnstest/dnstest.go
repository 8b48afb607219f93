// Package dnstest runs a real DNS server on loopback for tests: UDP and TCP on
// one port, records that may change while it runs, dynamic updates (RFC 2136)
// for the DNS plug-ins of foreign clients, and faults on demand.
//
// By default it behaves like a recursive resolver that happens to know every
// name: it follows aliases inside its own records and answers NXDOMAIN with an
// SOA for the rest. It is not for production: it trusts whoever can reach it.
package dnstest

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Fault is what the server does wrong with a question. The zero Fault answers
// as usual; fields combine.
type Fault struct {
	Rcode     int           // answer this code (dns.RcodeServerFailure, ...) without records
	Drop      bool          // do not answer
	Delay     time.Duration // wait before answering
	Truncate  bool          // over UDP, answer without records and with TC set
	NoCase    bool          // answer the question in lower case
	WrongID   bool          // over UDP, send an answer with another id first
	WrongName bool          // over UDP, send answers to another question first
	NoEDNS    bool          // answer FORMERR without a question while the query has EDNS
	Hold      chan struct{} // if not nil, wait until it is closed
	Times     int           // how often the fault happens; 0 is always

	// Edit changes an answer before it is packed.
	Edit func(m *dns.Msg)
	// Raw, if not nil, is asked for the octets to send instead of an answer;
	// nil octets send nothing.
	Raw func(query *dns.Msg) []byte
}

// Query is one question the server received.
type Query struct {
	Name string // lower case, without the final dot
	Type string // "A", ...
	TCP  bool
	Port uint16 // the asker's source port
	ID   uint16
	Case string // the name as sent, with its letter case
}

type key struct {
	name  string
	qtype uint16
}

// Server is a running DNS server.
type Server struct {
	udp, tcp *dns.Server
	addr     string

	mu       sync.Mutex
	records  map[string][]dns.RR // by lower-case name with the final dot
	faults   map[key]*Fault
	queries  []Query
	negative uint32
	partial  bool
}

// Options of New.
type Options struct {
	Addr  string            // "127.0.0.1:0" if empty
	TSIGs map[string]string // keys for dynamic updates: name with final dot -> base64 secret; updates need no key if empty
}

// Start runs a server until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	s, err := New(Options{})
	if err != nil {
		t.Fatalf("start dns server: %v", err)
	}
	t.Cleanup(s.Close)
	return s
}

// New runs a server until Close.
func New(o Options) (*Server, error) {
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	s := &Server{records: make(map[string][]dns.RR), faults: make(map[key]*Fault), negative: 60}
	pc, l, err := listen(o.Addr)
	if err != nil {
		return nil, err
	}
	s.addr = l.Addr().String()
	accept := func(h dns.Header) dns.MsgAcceptAction {
		if h.Bits&(1<<15) != 0 {
			return dns.MsgIgnore
		}
		return dns.MsgAccept
	}
	var ready sync.WaitGroup
	ready.Add(2)
	s.udp = &dns.Server{PacketConn: pc, Handler: s, TsigSecret: o.TSIGs, MsgAcceptFunc: accept, NotifyStartedFunc: ready.Done, UDPSize: 4096}
	s.tcp = &dns.Server{Listener: l, Handler: s, TsigSecret: o.TSIGs, MsgAcceptFunc: accept, NotifyStartedFunc: ready.Done}
	go s.udp.ActivateAndServe()
	go s.tcp.ActivateAndServe()
	ready.Wait()
	return s, nil
}

// listen opens one port for both transports; with port 0 a free one is found.
func listen(addr string) (net.PacketConn, net.Listener, error) {
	var last error
	for range 20 {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, nil, fmt.Errorf("listen for dns: %w", err)
		}
		pc, err := net.ListenPacket("udp", l.Addr().String())
		if err == nil {
			return pc, l, nil
		}
		last = err
		l.Close()
	}
	return nil, nil, fmt.Errorf("listen for dns: %w", last)
}

// Addr returns host:port, for both UDP and TCP.
func (s *Server) Addr() string { return s.addr }

// Close stops the server.
func (s *Server) Close() {
	s.udp.Shutdown()
	s.tcp.Shutdown()
}

// Add adds records in zone-file form: "www.example.test. 60 IN A 127.0.0.1".
// A line that is no record panics: it is a mistake in the test.
func (s *Server) Add(lines ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range lines {
		rr, err := dns.NewRR(line)
		if err != nil || rr == nil {
			panic(fmt.Sprintf("dnstest: record %q: %v", line, err))
		}
		s.insert(rr)
	}
}

// AddRR adds a record that has no zone-file form.
func (s *Server) AddRR(rr dns.RR) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.insert(rr)
}

func (s *Server) insert(rr dns.RR) {
	name := canonical(rr.Header().Name)
	s.records[name] = append(s.records[name], rr)
}

// Remove deletes every record of name.
func (s *Server) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.records, canonical(name))
}

// Fail makes questions for name and type ("A", "TXT", ..., or "*" for each)
// meet f. Fault{} ends an earlier one.
func (s *Server) Fail(name, qtype string, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := key{canonical(name), dns.StringToType[qtype]}
	s.faults[k] = &f
}

// NegativeTTL sets the SOA minimum of negative answers outside zones whose SOA
// was added, in seconds; a negative number leaves every SOA out. It is 60 at
// first.
func (s *Server) NegativeTTL(seconds int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.negative = noSOA
	if seconds >= 0 {
		s.negative = uint32(seconds)
	}
}

const noSOA = 1<<32 - 1

// Partial makes the server answer an alias alone, as an authoritative server
// does when the target is in another zone.
func (s *Server) Partial(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.partial = on
}

// Queries returns every question received so far, in order.
func (s *Server) Queries() []Query {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Query(nil), s.queries...)
}

// Count returns how often name and type were asked; type "*" counts each.
func (s *Server) Count(name, qtype string) int {
	n := 0
	for _, q := range s.Queries() {
		if q.Name == strings.TrimSuffix(canonical(name), ".") && (qtype == "*" || q.Type == qtype) {
			n++
		}
	}
	return n
}

// Forget empties the list of questions.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queries = nil
}

func canonical(name string) string { return dns.CanonicalName(name) }
