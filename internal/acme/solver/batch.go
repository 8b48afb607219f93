package solver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"chancery/internal/issuer"
)

// groupKey is what shares changes: a zone at a provider account.
type groupKey struct{ account, zone string }

// group collects the changes of one zone.
type group struct {
	s       *Solver
	route   *Route
	zone    string
	servers []netip.AddrPort // authoritative; what was found last

	apply sync.Mutex // one change set at a time; held over I/O, and only then

	// Guarded by Solver.mu.
	entries map[recordKey]*entry
	first   time.Time   // when the oldest waiting addition came
	timer   *time.Timer // of the next flush
	due     time.Time   // of timer
	urgent  bool        // an addition must not wait
	fails   int         // removals that failed in a row
}

type recordKey struct{ name, value string }

// entry is one record that somebody wants, or wanted.
type entry struct {
	refs  int
	state entryState
	try   *attempt
	bad   bool // it is there in part, if at all, and only to be removed
}

type entryState int

const (
	wanted   entryState = iota // waits for the next change set
	adding                     // is in one
	live                       // visible
	removing                   // is being removed
)

// attempt is one try to make a record visible; all who want it share it.
type attempt struct {
	done chan struct{}
	err  error // after done
}

func (a *attempt) end(err error) {
	a.err = err
	close(a.done)
}

// place is where a record goes.
type place struct {
	key     recordKey
	route   *Route
	zone    string
	servers []netip.AddrPort
	urgent  bool
}

// locating bounds the questions that are asked at once to find zones.
const locating = 16

// records makes TXT records visible.
func (s *Solver) records(ctx context.Context, list []issuer.Response) (func(), error) {
	places := make([]place, len(list))
	g, find := errgroup.WithContext(ctx)
	g.SetLimit(locating)
	for i := range list {
		g.Go(func() (err error) {
			places[i], err = s.locate(find, list[i])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, expired(ctx, err, "dns")
	}
	var undo []func()
	clean := func() {
		for _, f := range undo {
			f()
		}
	}
	var tries []*attempt
	for _, p := range places {
		try, drop := s.want(p)
		undo = append(undo, drop)
		tries = append(tries, try)
	}
	for i, t := range tries {
		select {
		case <-t.done:
			if t.err != nil {
				clean()
				return nil, t.err
			}
		case <-ctx.Done():
			clean()
			return nil, expired(ctx, ctx.Err(), "dns/"+places[i].route.Account)
		}
	}
	return clean, nil
}

// expired blames the provider when a time limit passed, and not the CA.
func expired(ctx context.Context, err error, provider string) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &issuer.Error{Class: issuer.Provider, Provider: provider, Err: fmt.Errorf("records are not visible in time: %w", err)}
	}
	return err
}

// locate finds out where a record goes: to the end of the aliases of its name
// (so a name may be delegated to a zone made for challenges), into the zone
// that has it.
func (s *Solver) locate(ctx context.Context, r issuer.Response) (place, error) {
	fail := func(err error) error {
		return &issuer.Error{Class: issuer.Provider, Provider: "dns", Identifier: r.Identifier.Value, Err: fmt.Errorf("find the zone of %s: %w", r.Record, err)}
	}
	target, err := s.cfg.Resolver.Target(ctx, r.Record)
	if err != nil {
		return place{}, fail(err)
	}
	route, _ := s.route(target)
	if route == nil {
		return place{}, &issuer.Error{Class: issuer.Permanent, Identifier: r.Identifier.Value,
			Err: fmt.Errorf("no DNS provider is configured for %s", target)}
	}
	zone, err := s.cfg.Resolver.ZoneOf(ctx, target)
	if err != nil {
		return place{}, fail(err)
	}
	p := place{key: recordKey{target, r.Value}, route: route, zone: zone, servers: route.Nameservers, urgent: r.Urgent}
	if len(p.servers) == 0 && route.Wait > 0 {
		if p.servers, err = s.serversOf(ctx, zone); err != nil {
			return place{}, fail(err)
		}
	}
	return p, nil
}

// serversAge is how long the servers of a zone are remembered.
const serversAge = 10 * time.Minute

func (s *Solver) serversOf(ctx context.Context, zone string) ([]netip.AddrPort, error) {
	now := time.Now()
	s.mu.Lock()
	k, ok := s.servers[zone]
	s.mu.Unlock()
	if ok && now.Before(k.until) {
		return k.servers, nil
	}
	list, err := s.cfg.Resolver.ServersOf(ctx, zone)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.servers) > 10_000 {
		clear(s.servers)
	}
	s.servers[zone] = known{list, now.Add(serversAge)}
	return list, nil
}

// want puts a record into the next change set of its zone, unless it is
// visible or on its way. drop gives it up again.
func (s *Solver) want(p place) (try *attempt, drop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		try = &attempt{done: make(chan struct{})}
		try.end(errors.New("the solver is closed"))
		return try, func() {}
	}
	k := groupKey{p.route.Account, p.zone}
	g := s.groups[k]
	if g == nil {
		g = &group{s: s, route: p.route, zone: p.zone, entries: map[recordKey]*entry{}}
		s.groups[k] = g
	}
	g.servers = p.servers
	e := g.entries[p.key]
	if e == nil || e.state == removing || e.bad {
		e = &entry{state: wanted, try: &attempt{done: make(chan struct{})}}
		g.entries[p.key] = e
	}
	e.refs++
	if e.state == wanted {
		g.collectLocked(p.urgent)
	}
	return e.try, sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		g.dropLocked(p.key, e)
	})
}

// collectLocked sets the time of the next change set: when no addition has
// come for Window, and at most MaxWindow after the first.
func (g *group) collectLocked(urgent bool) {
	now := time.Now()
	if g.first.IsZero() {
		g.first = now
	}
	at := now.Add(g.s.cfg.Window)
	if limit := g.first.Add(g.s.cfg.MaxWindow); at.After(limit) {
		at = limit
	}
	if g.urgent = g.urgent || urgent || g.s.cfg.Window < 0; g.urgent {
		at = now
	}
	g.wakeLocked(at)
}

// wakeLocked makes the group flush at an instant, and not at the one that was
// planned before.
func (g *group) wakeLocked(at time.Time) {
	if g.timer != nil && g.timer.Stop() {
		g.s.running-- // it will not run
	}
	g.due = at
	g.s.running++
	g.timer = time.AfterFunc(time.Until(at), func() {
		g.flush()
		g.s.mu.Lock()
		defer g.s.mu.Unlock()
		g.s.running--
		g.s.endLocked()
	})
}

// dropLocked gives up one claim on a record.
func (g *group) dropLocked(k recordKey, e *entry) {
	if e.bad {
		return // nobody has it
	}
	if e.refs--; e.refs > 0 {
		return
	}
	switch {
	case e.state == wanted && g.entries[k] == e:
		delete(g.entries, k)
		e.try.end(errors.New("nobody wants it any more"))
	case e.state == live || e.state == adding:
		g.tidyLocked()
	}
}

// tidyLocked makes sure that a removal is planned.
func (g *group) tidyLocked() {
	if g.s.closed {
		g.sweepLocked()
		return
	}
	at := time.Now().Add(g.s.cfg.Linger << min(g.fails, 5))
	if g.timer == nil || g.due.Before(time.Now()) {
		g.wakeLocked(at)
	}
}

// sweepLocked flushes a group that has anything at once.
func (g *group) sweepLocked() {
	if len(g.entries) > 0 {
		g.wakeLocked(time.Now())
	}
}

// flush sends one change set: all additions that wait, and all removals.
func (g *group) flush() {
	g.apply.Lock()
	add, remove := g.take()
	if len(add)+len(remove) == 0 {
		g.apply.Unlock()
		return
	}
	ctx, cancel := context.WithTimeout(g.s.ctx, max(g.route.Wait, 0)+2*time.Minute)
	defer cancel()
	begin := time.Now()
	err := g.route.Provider.Apply(ctx, g.zone, g.listOf(add), g.listOf(remove))
	g.apply.Unlock()
	log := g.s.cfg.Log.With(slog.String("provider", g.route.Account), slog.String("zone", g.zone), slog.Int("added", len(add)),
		slog.Int("removed", len(remove)), slog.Duration("took", time.Since(begin)))
	if err != nil {
		log.WarnContext(ctx, "dns records could not be changed", slog.Any("error", err))
	} else {
		log.InfoContext(ctx, "dns records changed")
	}
	g.removed(remove, err)
	if err != nil {
		err = g.blame(err)
		for _, e := range add {
			g.finish(e, err)
		}
		return
	}
	g.propagate(ctx, add)
}

// taken is an entry with its key.
type taken struct {
	recordKey
	*entry
}

// take moves what is to be done into the hands of the caller.
func (g *group) take() (add, remove []taken) {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	g.first, g.urgent = time.Time{}, false
	for k, e := range g.entries {
		switch {
		case e.state == wanted:
			e.state = adding
			add = append(add, taken{k, e})
		case e.state == live && e.refs == 0:
			e.state = removing
			remove = append(remove, taken{k, e})
		}
	}
	return add, remove
}

func (g *group) listOf(list []taken) []Record {
	out := make([]Record, len(list))
	for i, t := range list {
		out[i] = Record{Name: t.name, Value: t.value, TTL: g.route.TTL}
	}
	return out
}

// maxRemovals is how often a removal is tried.
const maxRemovals = 6

// removed forgets what is gone, and plans again what is not.
func (g *group) removed(list []taken, err error) {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	if len(list) == 0 {
		return
	}
	again := err != nil && g.fails < maxRemovals && !g.s.closed
	g.fails++
	if err == nil {
		g.fails = 0
	}
	for _, t := range list {
		if g.entries[t.recordKey] != t.entry {
			continue // it is wanted again, and will be added again
		}
		if again {
			t.state = live
			continue
		}
		delete(g.entries, t.recordKey)
		if err != nil {
			g.s.cfg.Log.Error("dns record is left behind", slog.String("provider", g.route.Account), slog.String("zone", g.zone), slog.String("name", t.name))
		}
	}
	if again {
		g.tidyLocked()
	}
	if k := (groupKey{g.route.Account, g.zone}); len(g.entries) == 0 && g.s.groups[k] == g {
		delete(g.s.groups, k)
	}
}

// blame makes an error of the provider one of class Provider.
func (g *group) blame(err error) error {
	e := &issuer.Error{Class: issuer.Provider, Provider: "dns/" + g.route.Account, Err: fmt.Errorf("change zone %s: %w", g.zone, err)}
	var known *issuer.Error
	if errors.As(err, &known) {
		e.RetryAfter = known.RetryAfter
	}
	return e
}

// finish ends the attempt to make a record visible. What failed may be there
// in part, and is removed later like the rest.
func (g *group) finish(t taken, err error) {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	t.state, t.bad = live, err != nil
	t.try.end(err)
	if t.bad {
		t.refs = 0 // whoever wants it next starts a new attempt
	}
	if t.refs == 0 {
		g.tidyLocked()
	}
}
