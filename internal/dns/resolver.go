package dns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Config tunes a Resolver; the zero value is usable.
type Config struct {
	Servers      []string                // address:port of recursive resolvers; the first is asked until it fails, then the one that answered last; empty: /etc/resolv.conf
	Timeout      time.Duration           // one attempt, 2 s if 0
	Attempts     int                     // attempts per question over all servers, 3 if 0
	MaxInFlight  int                     // questions on the wire at once, 512 if 0
	CacheEntries int                     // answers kept, 65,536 if 0
	MaxRecords   int                     // records accepted in one answer, 1,000 if 0
	NoMixedCase  bool                    // do not randomise the case of names (for servers that break it)
	Hosts        map[string][]netip.Addr // names never asked in DNS; a key "*.example" covers every name below example
	UseHostsFile bool                    // also read HostsFile, strictly; Hosts wins
	HostsFile    string                  // "/etc/hosts" if empty
	Now          func() time.Time        // time.Now if nil; decides what the cache may serve
}

const resolvConf = "/etc/resolv.conf"

// withDefaults fills the zero fields of c.
func (c Config) withDefaults() Config {
	if c.Timeout <= 0 {
		c.Timeout = 2 * time.Second
	}
	if c.Attempts <= 0 {
		c.Attempts = 3
	}
	if c.MaxInFlight <= 0 {
		c.MaxInFlight = 512
	}
	if c.CacheEntries <= 0 {
		c.CacheEntries = 1 << 16
	}
	if c.MaxRecords <= 0 {
		c.MaxRecords = 1000
	}
	if c.HostsFile == "" {
		c.HostsFile = "/etc/hosts"
	}
	if !c.UseHostsFile {
		c.HostsFile = ""
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Resolver asks recursive DNS servers. It is safe for concurrent use.
type Resolver struct {
	cfg     Config
	hosts   hosts
	servers []*upstream
	prefer  atomic.Uint32 // index of the server that answered last
	cache   *cache
	slots   chan struct{} // one per question on the wire

	closing sync.Mutex
	closed  chan struct{}
	flights sync.WaitGroup
}

// New returns a running resolver. It fails if a server or a line of the hosts
// file is malformed, and if there is nobody to ask: no server and no Hosts.
func New(cfg Config) (*Resolver, error) {
	cfg = cfg.withDefaults()
	h, err := newHosts(cfg.Hosts, cfg.HostsFile)
	if err != nil {
		return nil, err
	}
	servers, err := upstreams(cfg.Servers)
	if err != nil && (len(cfg.Servers) > 0 || len(h) == 0) {
		return nil, err
	}
	return &Resolver{
		cfg:     cfg,
		hosts:   h,
		servers: servers,
		cache:   newCache(cfg.CacheEntries),
		slots:   make(chan struct{}, cfg.MaxInFlight),
		closed:  make(chan struct{}),
	}, nil
}

// upstreams parses host:port addresses, or takes those of /etc/resolv.conf.
func upstreams(list []string) ([]*upstream, error) {
	if len(list) == 0 {
		conf, err := dns.ClientConfigFromFile(resolvConf)
		if errors.Is(err, os.ErrNotExist) || err == nil && len(conf.Servers) == 0 {
			return nil, fmt.Errorf("find a DNS server: %s names none; name one in the configuration", resolvConf)
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", resolvConf, err)
		}
		for _, s := range conf.Servers {
			list = append(list, net.JoinHostPort(s, conf.Port))
		}
	}
	var servers []*upstream
	for _, s := range list {
		addr, err := netip.ParseAddrPort(s)
		if err != nil || addr.Port() == 0 {
			return nil, fmt.Errorf("read DNS server %s: want address:port", strconv.Quote(s))
		}
		servers = append(servers, &upstream{addr: addr})
	}
	return servers, nil
}

// Close ends every lookup with class Canceled and frees the sockets. It
// returns when no goroutine of r is left asking, after one Timeout at most.
func (r *Resolver) Close() error {
	r.closing.Lock()
	select {
	case <-r.closed:
	default:
		close(r.closed)
	}
	r.closing.Unlock()
	for _, u := range r.servers {
		u.close()
	}
	r.flights.Wait()
	return nil
}

// launch runs a flight in the background, whoever waits for it. It reports
// false if r is closed.
func (r *Resolver) launch(q question, f *flight, b *budget) bool {
	r.closing.Lock()
	defer r.closing.Unlock()
	select {
	case <-r.closed:
		return false
	default:
	}
	r.flights.Add(1)
	go func() {
		defer r.flights.Done()
		r.cache.land(q, f, r.resolve(q, b))
	}()
	return true
}

// resolve asks for q and then for the ends of alias chains that leave the
// message, until there are records or a failure.
func (r *Resolver) resolve(q question, b *budget) *entry {
	total := answer{ttl: maxTTL}
	at := r.cfg.Now()
	asked := q
	for {
		part, server := r.ask(asked, b)
		total.ttl = min(total.ttl, part.ttl)
		name := asked.name
		for _, target := range part.chain {
			if target == q.name {
				return &entry{answer: failed(Malformed, "an alias loop"), at: at, server: server}
			}
			if why := total.extend(name, target); why != "" {
				return &entry{answer: failed(Malformed, why), at: at, server: server}
			}
			name = target
		}
		if part.next == "" {
			part.chain, part.ttl = total.chain, total.ttl
			return &entry{answer: part, at: at, server: server}
		}
		asked.name = part.next
	}
}

// ask puts one question to the servers in turn. A server that fails is not
// asked twice unless it only was silent.
func (r *Resolver) ask(q question, b *budget) (a answer, server string) {
	if len(r.servers) == 0 {
		return failed(ServFail, "no DNS server is configured"), ""
	}
	prefer := int(r.prefer.Load())
	for i := range max(r.cfg.Attempts, 1) {
		n := (prefer + i) % len(r.servers)
		u := r.servers[n]
		if i >= len(r.servers) && a.class != Timeout {
			return a, server
		}
		server = u.addr.String()
		if a = r.attempt(u, q, b); a.class == "" || a.class.Authoritative() {
			r.prefer.Store(uint32(n))
			return a, server
		}
		if a.class == Exhausted || a.class == Canceled {
			return a, server
		}
	}
	return a, server
}

// attempt asks one server once, over TCP too if UDP does not do.
func (r *Resolver) attempt(u *upstream, q question, b *budget) answer {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-r.closed:
		return failed(Canceled, "")
	}
	deadline := time.Now().Add(r.cfg.Timeout)
	for _, step := range [...]struct{ tcp, edns bool }{{false, true}, {true, true}, {true, false}} {
		if !b.spend() {
			return failed(Exhausted, "")
		}
		query := newQuery(q, step.edns, !step.tcp && !r.cfg.NoMixedCase)
		var got reply
		if step.tcp {
			got = u.exchangeTCP(query, deadline)
		} else {
			got = u.exchange(query, deadline, r.closed)
		}
		if got.err != nil {
			return unreachable(got.err)
		}
		if got.match == good {
			return parse(got.msg, q, r.cfg.MaxRecords)
		}
	}
	return failed(Malformed, "does not answer the question")
}

// unreachable is the answer of a server that gave none.
func unreachable(err error) answer {
	var ne net.Error
	switch {
	case errors.Is(err, errClosed):
		return failed(Canceled, "")
	case errors.Is(err, errTimeout), errors.As(err, &ne) && ne.Timeout():
		return failed(Timeout, "")
	default:
		return failed(Timeout, "the server is not reachable")
	}
}

// Cached returns how many answers the cache holds, for metrics.
func (r *Resolver) Cached() int { return r.cache.size() }
