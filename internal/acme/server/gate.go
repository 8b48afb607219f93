package server

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"chancery/internal/fault"
)

// gate decides, before anything costly is done, whether a request may come in.
//
// Beyond what the machine can do, every order that is let in makes all others
// slower, until none is done in time. So when many requests are being answered
// at once, those that begin something (new-order, new-account, new-authz) are
// turned away with 503 and Retry-After, and those that finish what was begun
// go on. Requests that wait long for a validation do not count: they keep
// nothing busy, and the validation pool has bounds of its own.
//
// With B requests at work and R of them done per second each takes B/R seconds,
// whatever the load: the bound on B is one on the time. How many R are depends on
// the machine and on who else uses it, so the bound shrinks as requests take
// longer than they should.
type gate struct {
	busy  atomic.Int64
	begin int64        // requests at work from which on nothing new begins
	most  int64        // and from which on nothing is taken at all
	took  atomic.Int64 // nanoseconds that a request takes, a running mean
}

// Bounds of a gate: per core, and at least; and what a request may take before
// they shrink, down to a floor.
const (
	beginPerCore = 96
	beginAtLeast = 256
	mostFactor   = 8
	beginFloor   = 16
	fastEnough   = 150 * time.Millisecond
)

// limit is how many requests may be at work for one more to begin something.
func (g *gate) limit() int64 {
	took := g.took.Load()
	if took <= int64(fastEnough) {
		return g.begin
	}
	return min(g.begin, max(beginFloor, int64(float64(g.begin)*float64(fastEnough)/float64(took))))
}

// newGate returns a gate that lets work begin while fewer requests than begin
// are being answered; 0: as the cores allow; negative: always.
func newGate(begin int) *gate {
	switch {
	case begin < 0:
		return &gate{begin: 1 << 40, most: 1 << 40}
	case begin == 0:
		begin = max(beginAtLeast, beginPerCore*runtime.GOMAXPROCS(0))
	}
	return &gate{begin: int64(begin), most: int64(begin) * mostFactor}
}

// enter counts a request; the caller leaves when it is answered, unless there
// is an error.
func (g *gate) enter(begins bool) error {
	n := g.busy.Add(1)
	if !begins && n <= g.most || n <= g.limit() {
		return nil
	}
	g.busy.Add(-1)
	// Not all at once again.
	return fault.New(fault.Unavailable, "the server is at its limit and takes on nothing new now; try again").
		Retry(time.Second + rand.N(4*time.Second))
}

// meanOver is over about how many requests their time is averaged.
const meanOver = 64

// leave counts a request out that came in at start.
func (g *gate) leave(start time.Time, waited time.Duration) {
	g.busy.Add(-1)
	took := g.took.Load() // a lost update of a mean does no harm
	g.took.Store(took + (int64(time.Since(start)-waited)-took)/meanOver)
}

// patience is how long a request that waits for a validation still counts: one
// that takes longer waits for others, not for this machine.
const patience = 250 * time.Millisecond

// wait waits for done, the end of ctx or at most d, and counts the request as
// long as it may be this machine that takes the time.
func (g *gate) wait(ctx context.Context, done <-chan struct{}, d time.Duration) (ok bool, idle time.Duration) {
	timer := time.NewTimer(min(d, patience))
	defer timer.Stop()
	select {
	case <-done:
		return true, 0
	case <-ctx.Done():
		return false, 0
	case <-timer.C:
	}
	if d <= patience {
		return false, 0
	}
	start := time.Now()
	g.busy.Add(-1)
	defer g.busy.Add(1)
	timer.Reset(d - patience)
	select {
	case <-done:
		ok = true
	case <-ctx.Done():
	case <-timer.C:
	}
	return ok, time.Since(start)
}
