package limit

import (
	"maps"
	"slices"
	"time"
)

// Scope says what a limit's key stands for. It is documentation for people
// and tools; the limiter itself only sees text.
type Scope string

// Scopes of the limits in use.
const (
	PerIP         Scope = "ip"         // one IPv4 address
	PerNet        Scope = "net"        // an IPv4 /24 or IPv6 /48
	PerAccount    Scope = "account"    // ACME account id
	PerName       Scope = "name"       // account id and identifier
	PerDomain     Scope = "domain"     // registered domain (eTLD+1) or address
	PerNameSet    Scope = "name-set"   // the exact set of identifiers
	PerAuthority  Scope = "authority"  // one certificate authority
	PerCredential Scope = "credential" // an API token or agent
)

// Definition is one named limit.
type Definition struct {
	Name    string // as users see it: "new-orders-per-account"
	Scope   Scope
	Rate    Rate
	MaxKeys int // 0: DefaultMaxKeys
}

// Set holds the limiters of a program by name.
type Set struct {
	byName map[string]*Limiter
	scopes map[string]Scope
}

// NewSet makes a limiter for each definition.
func NewSet(defs ...Definition) (*Set, error) {
	s := &Set{byName: map[string]*Limiter{}, scopes: map[string]Scope{}}
	for _, d := range defs {
		l, err := New(d.Name, d.Rate, d.MaxKeys)
		if err != nil {
			return nil, err
		}
		s.byName[d.Name], s.scopes[d.Name] = l, d.Scope
	}
	return s, nil
}

// Get returns the limiter of that name, or nil when there is none. A nil
// limiter does not exist as a "no limit": resolve names at start-up.
func (s *Set) Get(name string) *Limiter { return s.byName[name] }

// Scope returns what the keys of the named limit stand for.
func (s *Set) Scope(name string) Scope { return s.scopes[name] }

// Names returns the names of all limits, sorted.
func (s *Set) Names() []string { return slices.Sorted(maps.Keys(s.byName)) }

// Charge is one limit that a request draws on.
type Charge struct {
	Limit *Limiter
	Key   string
	Cost  int
}

// AllowAll spends every charge, or none: what was spent before a refusal is
// given back. It returns the charge that refused.
func AllowAll(now time.Time, charges ...Charge) (refused *Charge, retry time.Duration) {
	for i := range charges {
		c := &charges[i]
		ok, wait := c.Limit.Allow(c.Key, c.Cost, now)
		if ok {
			continue
		}
		for _, spent := range charges[:i] {
			spent.Limit.Refund(spent.Key, spent.Cost, now)
		}
		return c, wait
	}
	return nil, 0
}
