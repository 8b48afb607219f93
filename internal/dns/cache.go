package dns

import (
	"container/list"
	"hash/maphash"
	"sync"
	"time"
)

const shards = 16

// entry is a finished lookup.
type entry struct {
	answer
	at     time.Time // arrival of the (oldest) message
	server string
}

// fresh reports whether e may serve a lookup at now that accepts maxAge. A
// failure to learn is only remembered for callers who did not limit the age.
func (e *entry) fresh(now time.Time, maxAge time.Duration) bool {
	age := now.Sub(e.at)
	if age < 0 || age >= e.ttl {
		return false
	}
	if maxAge == 0 {
		return true
	}
	return age <= maxAge && (e.class == "" || e.class.Authoritative())
}

// flight is a lookup in progress, shared by those who ask the same meanwhile.
type flight struct {
	begun time.Time
	done  chan struct{} // closed when result is set
	entry *entry
}

// cache keeps entries by question, the least recently used leaving first, and
// the flights under way. It is split to keep its locks short.
type cache struct {
	seed   maphash.Seed
	shards [shards]shard
}

type shard struct {
	mu      sync.Mutex
	limit   int
	entries map[question]*list.Element // of *item
	used    list.List                  // most recent first
	flights map[question]*flight
}

type item struct {
	q question
	e *entry
}

func newCache(limit int) *cache {
	c := &cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].limit = max(1, limit/shards)
		c.shards[i].entries = make(map[question]*list.Element)
		c.shards[i].flights = make(map[question]*flight)
	}
	return c
}

func (c *cache) shard(q question) *shard {
	return &c.shards[maphash.Comparable(c.seed, q)%shards]
}

// get returns a usable entry, or the flight to wait for; lead is true if the
// caller must fly it. With NoCache the flight is private and nobody joins it.
func (c *cache) get(q question, now time.Time, maxAge time.Duration) (e *entry, f *flight, lead bool) {
	if maxAge == NoCache {
		return nil, &flight{begun: now, done: make(chan struct{})}, true
	}
	s := c.shard(q)
	s.mu.Lock()
	defer s.mu.Unlock()
	if el := s.entries[q]; el != nil {
		if it := el.Value.(*item); it.e.fresh(now, maxAge) {
			s.used.MoveToFront(el)
			return it.e, nil, false
		}
	}
	if f := s.flights[q]; f != nil && (maxAge == 0 || now.Sub(f.begun) <= maxAge) {
		return nil, f, false
	}
	f = &flight{begun: now, done: make(chan struct{})}
	s.flights[q] = f
	return nil, f, true
}

// land ends a flight and keeps its entry, unless a newer one is there. A spent
// budget is the asker's own affair and is not kept.
func (c *cache) land(q question, f *flight, e *entry) {
	f.entry = e
	s := c.shard(q)
	s.mu.Lock()
	if s.flights[q] == f {
		delete(s.flights, q)
	}
	if e.class != Exhausted && e.class != Canceled && e.ttl > 0 {
		s.put(q, e)
	}
	s.mu.Unlock()
	close(f.done)
}

// put stores e; the caller holds the lock.
func (s *shard) put(q question, e *entry) {
	if el := s.entries[q]; el != nil {
		if it := el.Value.(*item); !it.e.at.After(e.at) {
			it.e = e
		}
		s.used.MoveToFront(el)
		return
	}
	s.entries[q] = s.used.PushFront(&item{q, e})
	if s.used.Len() > s.limit {
		last := s.used.Back()
		delete(s.entries, s.used.Remove(last).(*item).q)
	}
}

// size returns the number of answers kept.
func (c *cache) size() int {
	n := 0
	for i := range c.shards {
		c.shards[i].mu.Lock()
		n += c.shards[i].used.Len()
		c.shards[i].mu.Unlock()
	}
	return n
}
