package dns

import (
	"context"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// NoCache as Limits.MaxAge makes every lookup ask the server anew.
const NoCache time.Duration = -1

// Limits bound one Session.
//
// Validation must see the present, not a cache: it sets MaxAge to NoCache, or
// to a second or so where one order repeats the same question. What the
// recursive server itself remembers is beyond us; an operator who wants less
// points Chancery at a resolver with a small maximum TTL.
type Limits struct {
	MaxAge  time.Duration // oldest acceptable answer, 0: while its TTL lasts, NoCache: none but a new one
	Queries int           // queries the session may cause, retries included; 0: no bound
}

// Session is a Resolver seen through Limits; it is safe for concurrent use.
type Session struct {
	r      *Resolver
	maxAge time.Duration
	budget *budget
}

// budget counts the queries left; nil is without bound.
type budget struct{ left atomic.Int64 }

// spend takes one query and reports whether it was there.
func (b *budget) spend() bool { return b == nil || b.left.Add(-1) >= 0 }

// Session returns a view of r with its own limits: one per validation.
func (r *Resolver) Session(l Limits) *Session {
	s := &Session{r: r, maxAge: l.MaxAge}
	if l.MaxAge < 0 {
		s.maxAge = NoCache
	}
	if l.Queries > 0 {
		s.budget = new(budget)
		s.budget.left.Store(int64(l.Queries))
	}
	return s
}

// Addrs returns the addresses of name, from the cache while its TTL lasts.
func (r *Resolver) Addrs(ctx context.Context, name string) (AddrAnswer, error) {
	return (&Session{r: r}).Addrs(ctx, name)
}

// TXT returns the TXT records of name, from the cache while its TTL lasts.
func (r *Resolver) TXT(ctx context.Context, name string) (TXTAnswer, error) {
	return (&Session{r: r}).TXT(ctx, name)
}

// CAA returns the relevant CAA set of name, from the cache while its TTL lasts.
func (r *Resolver) CAA(ctx context.Context, name string) (CAAAnswer, error) {
	return (&Session{r: r}).CAA(ctx, name)
}

// Addrs returns the addresses of name: A and AAAA, asked together. One family
// is enough; then the failure of the other, if it was one, is in Partial.
func (s *Session) Addrs(ctx context.Context, name string) (AddrAnswer, error) {
	host := normalize(name)
	if host == "" {
		return AddrAnswer{}, badName(name, "A")
	}
	if addrs, ok := s.r.hosts.find(host); ok {
		if len(addrs) == 0 {
			return AddrAnswer{}, &Error{Name: host, Type: "A", Class: NXDomain, Reason: "static"}
		}
		return AddrAnswer{Addrs: addrs, TTL: failureTTL, At: s.r.cfg.Now(), Static: true}, nil
	}
	p6 := s.begin(question{host, dns.TypeAAAA})
	p4 := s.begin(question{host, dns.TypeA})
	e6, err6 := s.await(ctx, p6)
	e4, err4 := s.await(ctx, p4)
	now := s.r.cfg.Now()
	switch {
	case err6 == nil && err4 == nil:
		both := make([]netip.Addr, 0, len(e6.addrs)+len(e4.addrs))
		both = append(append(both, e6.addrs...), e4.addrs...)
		return AddrAnswer{Addrs: both, Chain: longer(e6.chain, e4.chain), TTL: min(e6.left(now), e4.left(now)), At: earlier(e6.at, e4.at)}, nil
	case err6 == nil:
		return e6.one(now, err4), nil
	case err4 == nil:
		return e4.one(now, err6), nil
	default:
		return AddrAnswer{}, worse(err4, err6)
	}
}

// one is the answer when only one address family has records.
func (e *entry) one(now time.Time, other error) AddrAnswer {
	if ClassOf(other).Authoritative() {
		other = nil
	}
	return AddrAnswer{Addrs: e.addrs, Chain: e.chain, TTL: e.left(now), At: e.at, Partial: other}
}

// left is how much longer e may be used.
func (e *entry) left(now time.Time) time.Duration { return max(0, e.ttl-now.Sub(e.at)) }

// worse returns the error that says less about the name: a time-out hides what
// a NODATA of the other family would seem to tell.
func worse(a, b error) error {
	if ClassOf(a).Authoritative() && !ClassOf(b).Authoritative() {
		return b
	}
	return a
}

func longer(a, b []string) []string {
	if len(b) > len(a) {
		return b
	}
	return a
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// TXT returns the TXT records of name.
func (s *Session) TXT(ctx context.Context, name string) (TXTAnswer, error) {
	host := normalize(name)
	if host == "" {
		return TXTAnswer{}, badName(name, "TXT")
	}
	if _, ok := s.r.hosts.find(host); ok {
		return TXTAnswer{}, &Error{Name: host, Type: "TXT", Class: NoData, Reason: "static"}
	}
	e, err := s.await(ctx, s.begin(question{host, dns.TypeTXT}))
	if err != nil {
		return TXTAnswer{}, err
	}
	return TXTAnswer{Records: e.texts, Chain: e.chain, TTL: e.left(s.r.cfg.Now()), At: e.at}, nil
}

// CAA returns the relevant CAA record set of name (RFC 8659 section 3): the
// records at name, or else at the nearest parent that has any, up to and with
// the top-level domain. An alias is followed at each step, but the parents of
// its target are not climbed. Every step that comes before the first records
// must have been answered: SERVFAIL, REFUSED, a time-out or a malformed answer
// is an error, never an empty set. A wildcard's "*." is not part of name.
//
// All steps are asked at once: most names have no CAA record, so each answer
// is needed, and the top-level ones usually come from the cache.
func (s *Session) CAA(ctx context.Context, name string) (CAAAnswer, error) {
	host := normalize(name)
	if host == "" {
		return CAAAnswer{}, badName(name, "CAA")
	}
	now := s.r.cfg.Now()
	out := CAAAnswer{TTL: maxTTL, At: now}
	var steps []pending
	for at := host; at != ""; at = parent(at) {
		if _, ok := s.r.hosts.find(at); ok {
			out.Static = true
			break
		}
		steps = append(steps, s.begin(question{at, dns.TypeCAA}))
	}
	for _, p := range steps {
		e, err := s.await(ctx, p)
		if err != nil && !ClassOf(err).Authoritative() {
			return CAAAnswer{}, err
		}
		out.TTL, out.At = min(out.TTL, e.left(now)), earlier(out.At, e.at)
		if err == nil {
			out.Name, out.Records, out.Chain, out.Static = p.q.name, e.caas, e.chain, false
			break
		}
	}
	return out, nil
}

// pending is a question begun: an entry, or a flight to wait for.
type pending struct {
	q      question
	entry  *entry
	flight *flight
	mine   bool
}

// begin looks q up in the cache and asks for it otherwise.
func (s *Session) begin(q question) pending {
	e, f, lead := s.r.cache.get(q, s.r.cfg.Now(), s.maxAge)
	if lead && !s.r.launch(q, f, s.budget) {
		s.r.cache.land(q, f, &entry{answer: failed(Canceled, "the resolver is closed"), at: s.r.cfg.Now()})
	}
	return pending{q: q, entry: e, flight: f, mine: lead}
}

// await waits for p. The entry is not nil if the error is authoritative. The
// flight goes on when ctx ends: others may wait for it, and its answer will be
// in the cache.
func (s *Session) await(ctx context.Context, p pending) (*entry, error) {
	if p.flight != nil {
		select {
		case <-p.flight.done:
			p.entry = p.flight.entry
		case <-ctx.Done():
			return nil, &Error{Name: p.q.name, Type: dns.TypeToString[p.q.qtype], Class: Canceled, cause: context.Cause(ctx)}
		}
	}
	if p.entry.class == Exhausted && !p.mine { // it was another session's budget
		own := *s
		own.maxAge = NoCache
		return own.await(ctx, own.begin(p.q))
	}
	if p.entry.class == "" {
		return p.entry, nil
	}
	return p.entry, p.entry.failure(p.q)
}

// failure is e as an error.
func (e *entry) failure(q question) *Error {
	return &Error{Name: q.name, Type: dns.TypeToString[q.qtype], Class: e.class, Reason: e.why, Server: e.server, TTL: e.ttl}
}

// badName refuses a name that is not sent.
func badName(name, qtype string) *Error {
	return &Error{Name: clip(name), Type: qtype, Class: BadName, Reason: "not a host name"}
}

// clip makes a name that was never checked fit for a message: what cannot
// stand in a host name becomes a question mark.
func clip(name string) string {
	out := []byte(name[:min(len(name), maxName)])
	for i, c := range out {
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' && c != '*' {
			out[i] = '?'
		}
	}
	return string(out)
}
