package server

import (
	"context"
	"errors"
	"hash/maphash"
	"sync"
	"time"

	"chancery/internal/db"
)

// accountTTL is how long an account may be served from memory. A change on
// another replica is seen after that long by reads; writes check the account
// inside their own transaction and see it at once.
const accountTTL = 5 * time.Second

const (
	accountShards = 32
	shardAccounts = 512 // per shard: 16,384 accounts in all
)

// accountCache keeps parsed accounts, so that a signed request of a known
// account costs neither a query nor the parsing of a key.
type accountCache struct {
	seed  maphash.Seed
	shard [accountShards]accountShard
}

type accountShard struct {
	mu      sync.Mutex
	byID    map[string]cachedAccount
	forgets uint64 // how often an account was dropped because it changed
}

type cachedAccount struct {
	*account
	loaded time.Time
}

func newAccountCache() *accountCache {
	c := &accountCache{seed: maphash.MakeSeed()}
	for i := range c.shard {
		c.shard[i].byID = map[string]cachedAccount{}
	}
	return c
}

func (c *accountCache) of(id string) *accountShard {
	return &c.shard[maphash.String(c.seed, id)%accountShards]
}

// get returns the account if it is known and fresh, else nil and what put
// needs to know about this instant.
func (c *accountCache) get(id string, now time.Time) (a *account, seen uint64) {
	s := c.of(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.byID[id]
	if !ok || now.Sub(e.loaded) > accountTTL || now.Before(e.loaded) {
		return nil, s.forgets
	}
	return e.account, s.forgets
}

// put remembers a as of loaded, and drops an arbitrary other when full. What
// was read before a change (see get) is not remembered after it.
func (c *accountCache) put(a *account, loaded time.Time, seen uint64) {
	s := c.of(a.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.forgets != seen {
		return
	}
	if len(s.byID) >= shardAccounts {
		for id := range s.byID {
			delete(s.byID, id)
			break
		}
	}
	s.byID[a.ID] = cachedAccount{a, loaded}
}

// forget drops an account that changed.
func (c *accountCache) forget(id string) {
	s := c.of(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgets++
	delete(s.byID, id)
}

// account returns the account with id, or nil. It may be accountTTL old.
func (s *Server) account(ctx context.Context, id string, now time.Time) (*account, error) {
	a, seen := s.accounts.get(id, now)
	if a != nil {
		return a, nil
	}
	a, err := db.Get(ctx, s.db.Read(), qAccount, scanAccount, id)
	if errors.Is(err, db.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, wrap("read account", err)
	}
	if err := a.parse(); err != nil {
		return nil, err
	}
	s.accounts.put(a, now, seen)
	return a, nil
}
