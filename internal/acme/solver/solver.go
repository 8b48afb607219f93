package solver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"chancery/internal/dns"
	"chancery/internal/issuer"
	"chancery/internal/pki"
)

// Challenge types that a Solver presents.
const (
	HTTP01       = "http-01"
	DNS01        = "dns-01"
	TLSALPN01    = "tls-alpn-01"
	DNSAccount01 = "dns-account-01"
	DNSPersist01 = "dns-persist-01"
)

// Config is what a Solver needs.
type Config struct {
	// Routes say which provider account has which zones.
	Routes []Route
	// Resolver finds zones and aliases, and asks authoritative servers.
	// Required with Routes and Persist.
	Resolver *dns.Resolver
	// Window is how long changes are collected after the last of them came,
	// and MaxWindow after the first; 2 s and 5 s if 0. Negative: not at all.
	Window, MaxWindow time.Duration
	// Linger is how long records that are not needed any more may stay, so
	// that one change removes many; 1 min if 0.
	Linger time.Duration
	// HTTP presents http-01, ALPN tls-alpn-01; nil: not offered.
	HTTP *HTTP
	ALPN *ALPN
	// HTTPNames and ALPNNames are the names whose servers are answered for;
	// empty: all.
	HTTPNames, ALPNNames []pki.Pattern
	// Persist are the names that have dns-persist-01 records.
	Persist []pki.Pattern
	Log     *slog.Logger // nil: discard
}

// Route is one provider account.
type Route struct {
	Account string // of the configuration, e.g. "route53-main"; errors name it "dns/route53-main"
	// Zones are the names below which the account may change records; empty:
	// all, as is needed for names that lead elsewhere by an alias.
	Zones    []string
	Provider Provider
	// Nameservers are asked in place of those that the zone names.
	Nameservers []netip.AddrPort
	// Wait is how long a change may take to reach all servers; 90 s if 0.
	// Negative: it is not waited for.
	Wait time.Duration
	TTL  time.Duration // of the records; DefaultTTL if 0
}

// Solver is the one solver of a process.
type Solver struct {
	cfg    Config
	ctx    context.Context // of everything that goes on in the background
	cancel context.CancelFunc
	done   chan struct{} // closed when nothing runs after Close

	mu      sync.Mutex
	closed  bool
	running int // flushes planned or under way
	groups  map[groupKey]*group
	servers map[string]known // by zone
}

type known struct {
	servers []netip.AddrPort
	until   time.Time
}

// New returns a Solver. It starts nothing.
func New(c Config) (*Solver, error) {
	if c.Resolver == nil && (len(c.Routes) > 0 || len(c.Persist) > 0) {
		return nil, errors.New("make solver: DNS needs a resolver")
	}
	if c.Window == 0 {
		c.Window = 2 * time.Second
	}
	if c.MaxWindow == 0 {
		c.MaxWindow = 5 * time.Second
	}
	if c.Linger <= 0 {
		c.Linger = time.Minute
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	for i := range c.Routes {
		r := &c.Routes[i]
		if r.Wait == 0 {
			r.Wait = 90 * time.Second
		}
		if r.TTL <= 0 {
			r.TTL = DefaultTTL
		}
	}
	s := &Solver{cfg: c, groups: map[groupKey]*group{}, servers: map[string]known{}, done: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Methods implements issuer.Solver. What the configuration names expressly
// comes first: standing records, then a provider of the name's zone; then HTTP
// and TLS, then a provider for all zones.
func (s *Solver) Methods(id pki.Identifier) []string {
	var out []string
	if len(s.cfg.Persist) > 0 && pki.MatchAny(s.cfg.Persist, id.Base()) {
		out = append(out, DNSPersist01)
	}
	route, express := s.route(id.Base().Value)
	dns := id.Type == pki.DNS && route != nil
	if dns && express {
		out = append(out, DNS01, DNSAccount01)
	}
	if id.Base() == id {
		if s.cfg.HTTP != nil && listed(s.cfg.HTTPNames, id) {
			out = append(out, HTTP01)
		}
		if s.cfg.ALPN != nil && listed(s.cfg.ALPNNames, id) {
			out = append(out, TLSALPN01)
		}
	}
	if dns && !express {
		out = append(out, DNS01, DNSAccount01)
	}
	return out
}

// Only returns a solver that presents challenges of one type through s.
func Only(s issuer.Solver, method string) issuer.Solver { return only{s, method} }

type only struct {
	issuer.Solver
	method string
}

// Methods implements issuer.Solver.
func (o only) Methods(id pki.Identifier) []string {
	if slices.Contains(o.Solver.Methods(id), o.method) {
		return []string{o.method}
	}
	return nil
}

func listed(names []pki.Pattern, id pki.Identifier) bool {
	return len(names) == 0 || pki.MatchAny(names, id)
}

// route finds the account for a name: that with the longest zone. express says
// that the configuration names a zone of it.
func (s *Solver) route(name string) (r *Route, express bool) {
	best := -1
	for i := range s.cfg.Routes {
		c := &s.cfg.Routes[i]
		if len(c.Zones) == 0 && best < 0 {
			r, best = c, 0
		}
		for _, z := range c.Zones {
			if (name == z || strings.HasSuffix(name, "."+z)) && len(z) > best {
				r, best, express = c, len(z), true
			}
		}
	}
	return r, express
}

// Present implements issuer.Solver.
func (s *Solver) Present(ctx context.Context, responses []issuer.Response) (func(), error) {
	var undo []func()
	clean := sync.OnceFunc(func() {
		for _, f := range undo {
			f()
		}
	})
	var records []issuer.Response
	for _, r := range responses {
		var err error
		var f func()
		switch r.Type {
		case HTTP01:
			f, err = s.http(r)
		case TLSALPN01:
			f, err = s.alpn(r)
		case DNSPersist01:
			err = s.verifyPersist(ctx, r)
		case DNS01, DNSAccount01:
			records = append(records, r)
		default:
			err = &issuer.Error{Class: issuer.Permanent, Identifier: r.Identifier.Value, Err: fmt.Errorf("challenges of type %q are not presented", r.Type)}
		}
		if f != nil {
			undo = append(undo, f)
		}
		if err != nil {
			clean()
			return nil, err
		}
	}
	if len(records) > 0 {
		f, err := s.records(ctx, records)
		if err != nil {
			clean()
			return nil, err
		}
		undo = append(undo, f)
	}
	return clean, nil
}

func (s *Solver) http(r issuer.Response) (func(), error) {
	if s.cfg.HTTP == nil {
		return nil, &issuer.Error{Class: issuer.Permanent, Identifier: r.Identifier.Value, Err: errors.New("there is no HTTP responder")}
	}
	f, err := s.cfg.HTTP.Add(r.Token, r.KeyAuthorization)
	if err != nil {
		return nil, &issuer.Error{Class: issuer.Provider, Provider: "http", Identifier: r.Identifier.Value, Err: err}
	}
	return f, nil
}

func (s *Solver) alpn(r issuer.Response) (func(), error) {
	if s.cfg.ALPN == nil {
		return nil, &issuer.Error{Class: issuer.Permanent, Identifier: r.Identifier.Value, Err: errors.New("there is no TLS responder")}
	}
	f, err := s.cfg.ALPN.Add(r.Identifier, r.KeyAuthorization)
	if err != nil {
		return nil, &issuer.Error{Class: issuer.Provider, Provider: "tls", Identifier: r.Identifier.Value, Err: err}
	}
	return f, nil
}

// Close removes what is still there and ends. ctx bounds how long.
func (s *Solver) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	for _, g := range s.groups {
		g.sweepLocked()
	}
	s.endLocked()
	s.mu.Unlock()
	defer s.cancel()
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("remove challenge records: %w", ctx.Err())
	}
}

// endLocked tells Close when the last flush is over.
func (s *Solver) endLocked() {
	if !s.closed || s.running > 0 {
		return
	}
	select {
	case <-s.done:
	default:
		close(s.done)
	}
}
