package server

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"chancery/internal/fault"
	"chancery/internal/limit"
)

// damper keeps an account that goes on and on after it was refused from taking
// the machine away from the others. A client that heeds Retry-After never
// meets it. Of one that does not
//
//   - the answers are held back, the longer the more of them wait, so that as
//     many connections as it likes send about floodRate requests a second;
//   - new orders are refused from memory, without a signature being checked or
//     the database being asked, while a limit of the account itself lasts.
//
// Only refusals of requests whose signature was good count: nobody can put
// another's account in here. The zero value is ready.
type damper struct {
	mu     sync.Mutex
	by     map[string]*offender // by account
	parked atomic.Int64
}

// offender is an account that was refused lately.
type offender struct {
	tat   int64     // of strikes (see limit.Rate.Take)
	until time.Time // until when it counts as flooding

	refusal *fault.Error // of a limit of the account, or nil
	since   time.Time    // of refusal

	parked int // answers that are held back
}

const (
	// floodLasts is how long an account is slowed down for one refusal too many.
	floodLasts = 10 * time.Second
	// parkTime is how long an answer is held back at least, on average, and
	// parkMost at most: clients and proxies wait for 30 s as a rule.
	parkTime = 2 * time.Second
	parkMost = 8 * time.Second
	// floodRate is how many answers a second an account gets that floods, about.
	floodRate = 25
	// maxParked bounds how many answers are held back at once; each holds a
	// connection that its client holds, too.
	maxParked = 4096
	// maxOffenders bounds the memory; beyond it all are forgiven.
	maxOffenders = 1 << 16
)

// strikes is how many refusals an account may collect without being slowed.
func strikes() limit.Rate { return limit.Rate{Count: 10, Per: time.Second, Burst: 30} }

// ofAccount marks the refusal by a limit that counts by account: whatever the
// account orders next, it would be refused, too.
type ofAccount struct{ error }

// Unwrap returns the refusal itself.
func (e ofAccount) Unwrap() error { return e.error }

// check refuses an order of an account that floods, before the costly part of
// looking at it. Orders that replace a certificate are exempt from limits.
func (g *damper) check(m *message) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.by) == 0 {
		return nil
	}
	o := g.by[m.acct.ID]
	if o == nil || o.refusal == nil || !m.now.Before(o.until) || !orders(m) || bytes.Contains(m.jws.Payload, []byte(`"replaces"`)) {
		return nil
	}
	left := o.refusal.RetryAfter - m.now.Sub(o.since)
	if left <= 0 {
		return nil
	}
	again := *o.refusal
	again.RetryAfter = left
	return &again
}

// orders reports whether m asks for what limits of an account count.
func orders(m *message) bool {
	return strings.HasSuffix(m.URL.Path, "/new-order") || strings.HasSuffix(m.URL.Path, "/new-authz")
}

// note counts the refusal of a request whose signature was good.
func (g *damper) note(account string, err error, now time.Time) {
	if status := fault.As(err).Status(); status >= 500 {
		return // our fault
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.by == nil || len(g.by) >= maxOffenders {
		g.by = map[string]*offender{}
	}
	o := g.by[account]
	if o == nil {
		o = &offender{}
		g.by[account] = o
	}
	if mine := (ofAccount{}); errors.As(err, &mine) {
		o.refusal, o.since = fault.As(err), now
	}
	next, ok, _ := strikes().Take(o.tat, now.UnixNano(), 1)
	if o.tat = next; !ok {
		o.until = now.Add(floodLasts)
	}
}

// hold is how long one more answer is held back, on average, when so many are.
func hold(parked int) time.Duration {
	return min(max(parkTime, time.Duration(parked)*time.Second/floodRate), parkMost)
}

// park holds an answer back if the account floods.
func (g *damper) park(ctx context.Context, account string, now time.Time) {
	defer g.parked.Add(-1)
	if g.parked.Add(1) > maxParked {
		return
	}
	g.mu.Lock()
	o := g.by[account]
	if o == nil || !now.Before(o.until) {
		g.mu.Unlock()
		return
	}
	o.parked++
	mean := hold(o.parked)
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		o.parked--
		g.mu.Unlock()
	}()
	timer := time.NewTimer(mean/2 + rand.N(mean))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// sweep forgets accounts that have behaved since. It is a part of Expire.
func (g *damper) sweep(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, o := range g.by {
		if now.After(o.until) && now.UnixNano() > o.tat && o.parked == 0 {
			delete(g.by, id)
		}
	}
}
