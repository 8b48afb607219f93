package limit

import (
	"fmt"
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// shards is the number of locks; a power of two well above the core count.
const shards = 64

// DefaultMaxKeys bounds a Limiter's memory: about 100 bytes a key.
const DefaultMaxKeys = 1 << 18

// Limiter holds one named limit for many keys in memory. It is safe for
// concurrent use. By itself each replica limits on its own; with a Ledger they
// count together.
//
// Memory is bounded: a key whose burst has refilled is forgotten, which
// changes nothing, and when more than MaxKeys are still in debt an arbitrary
// one is forgotten, which forgives it.
type Limiter struct {
	name string
	rate atomic.Pointer[Rate]
	seed maphash.Seed

	overrides atomic.Pointer[map[string]Rate] // copy on write; nil when none
	mu        sync.Mutex                      // serialises writers of overrides

	perShard int
	kept     bool // by a Ledger
	shard    [shards]shard
}

// debt is what is known of one key.
type debt struct {
	tat    int64 // theoretical arrival time, Unix nanoseconds
	unsent int64 // of that, nanoseconds that the Ledger has not been told of
	due    bool  // it is to be told
}

// shard is one lock and the keys it guards, padded against false sharing.
type shard struct {
	mu    sync.Mutex
	keys  map[string]debt
	due   []string // keys that the Ledger is to be told of
	sweep int      // Allow calls until the next look for idle keys
	_     [16]byte
}

// put stores what is known of a key; due says that the Ledger is to be told. The
// caller holds mu.
func (s *shard) put(key string, d debt, due bool) {
	if due && !d.due {
		d.due = true
		s.due = append(s.due, key)
	}
	s.keys[key] = d
}

// New returns a limiter. maxKeys 0 means DefaultMaxKeys.
func New(name string, rate Rate, maxKeys int) (*Limiter, error) {
	if err := rate.Validate(); err != nil {
		return nil, fmt.Errorf("limit %s: %w", name, err)
	}
	if maxKeys <= 0 {
		maxKeys = DefaultMaxKeys
	}
	l := &Limiter{name: name, seed: maphash.MakeSeed(), perShard: max(maxKeys/shards, 1)}
	l.rate.Store(&rate)
	for i := range l.shard {
		l.shard[i].keys = make(map[string]debt)
	}
	return l, nil
}

// Name returns the limit's name, as shown to users and in metrics.
func (l *Limiter) Name() string { return l.name }

// Rate returns the rate that holds for key.
func (l *Limiter) Rate(key string) Rate {
	if o := l.overrides.Load(); o != nil {
		if r, ok := (*o)[key]; ok {
			return r
		}
	}
	return *l.rate.Load()
}

// SetRate changes the rate of every key without an override. Debts stay.
func (l *Limiter) SetRate(rate Rate) error {
	if err := rate.Validate(); err != nil {
		return fmt.Errorf("limit %s: %w", l.name, err)
	}
	l.rate.Store(&rate)
	return nil
}

// SetOverrides replaces all overrides, each the rate of one key. A key whose
// rate changes by it starts with a full burst: its debt was counted in time,
// and the time meant another number of units.
func (l *Limiter) SetOverrides(byKey map[string]Rate) error {
	own := make(map[string]Rate, len(byKey))
	for key, r := range byKey {
		if err := r.Validate(); err != nil {
			return fmt.Errorf("limit %s: override for %q: %w", l.name, key, err)
		}
		own[key] = r
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.overrides.Swap(&own)
	for key, r := range own {
		if old == nil || (*old)[key] != r {
			l.forget(key)
		}
	}
	return nil
}

// forget drops the debt of one key.
func (l *Limiter) forget(key string) {
	s := l.shardOf(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.keys, key)
}

// Allow spends cost units of key at now. When refused nothing is spent, and
// retry says how long the same request must wait, or Forever.
func (l *Limiter) Allow(key string, cost int, now time.Time) (ok bool, retry time.Duration) {
	rate := l.Rate(key)
	if rate.Unlimited() {
		return true, 0
	}
	at := now.UnixNano()
	s := l.shardOf(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	d, known := s.keys[key]
	next, ok, retry := rate.Take(d.tat, at, cost)
	if ok && next > at {
		if !known {
			s.makeRoom(l.perShard, at)
		}
		d.tat = next
		if l.kept && cost > 0 {
			d.unsent += int64(rate.interval()) * int64(cost)
		}
		s.put(key, d, l.kept && d.unsent != 0 && rate.worthARow(next-at))
	} else if known && d.tat <= at {
		delete(s.keys, key)
	}
	return ok, retry
}

// Peek asks whether one unit could be spent, and spends nothing.
func (l *Limiter) Peek(key string, now time.Time) (ok bool, retry time.Duration) {
	return l.Allow(key, 0, now)
}

// Refund gives cost units back, for work that another limit then refused.
func (l *Limiter) Refund(key string, cost int, now time.Time) {
	s := l.shardOf(key)
	rate, at := l.Rate(key), now.UnixNano()
	s.mu.Lock()
	defer s.mu.Unlock()
	d, known := s.keys[key]
	if !known {
		return
	}
	next, _, _ := rate.Take(d.tat, at, -cost)
	if l.kept && rate.Count > 0 && !rate.Deny {
		d.unsent -= int64(rate.interval()) * int64(cost)
	}
	d.tat = next
	if next > at || d.unsent < 0 { // the Ledger has been told of what was spent
		s.put(key, d, d.unsent < 0)
		return
	}
	delete(s.keys, key)
}

// Len returns the number of keys in memory.
func (l *Limiter) Len() int {
	n := 0
	for i := range l.shard {
		s := &l.shard[i]
		s.mu.Lock()
		n += len(s.keys)
		s.mu.Unlock()
	}
	return n
}

// shardOf returns the shard that guards key. The seed is random, so nobody
// can aim at one lock.
func (l *Limiter) shardOf(key string) *shard {
	return &l.shard[maphash.String(l.seed, key)%shards]
}

// makeRoom is called before a key is added. Every limit-many additions it
// drops the keys that have refilled, which makes the cost per call constant;
// if the shard is still full it forgets one of a few it looks at: the one that
// will have refilled first. The caller holds mu.
func (s *shard) makeRoom(limit int, now int64) {
	s.sweep--
	if len(s.keys) >= limit && s.sweep <= 0 {
		for key, d := range s.keys {
			if d.tat <= now {
				delete(s.keys, key)
			}
		}
		s.sweep = limit / 4
	}
	if len(s.keys) < limit {
		return
	}
	victim, soonest, looked := "", int64(math.MaxInt64), 0
	for key, d := range s.keys { // the order of a map is random
		if d.tat < soonest {
			victim, soonest = key, d.tat
		}
		if looked++; looked == victims || soonest <= now {
			break
		}
	}
	delete(s.keys, victim)
}

// victims is how many keys makeRoom looks at to choose the one to forget.
const victims = 16
