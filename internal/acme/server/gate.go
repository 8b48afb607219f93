package server

import (
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
// go on. Requests that wait for a validation do not count: they keep nothing
// busy, and the validation pool has bounds of its own.
//
// With B requests at work and R of them done per second each takes B/R seconds,
// whatever the load: the bound on B is one on the time.
type gate struct {
	busy  atomic.Int64
	begin int64 // requests at work from which on nothing new begins
	most  int64 // and from which on nothing is taken at all
}

// Bounds of a gate: per core, and at least.
const (
	beginPerCore = 96
	beginAtLeast = 256
	mostFactor   = 8
)

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
	if n <= g.begin || !begins && n <= g.most {
		return nil
	}
	g.busy.Add(-1)
	// Not all at once again.
	return fault.New(fault.Unavailable, "the server is at its limit and takes on nothing new now; try again").
		Retry(time.Second + rand.N(4*time.Second))
}

func (g *gate) leave() { g.busy.Add(-1) }

// pause stops counting a request that waits for others; the returned function
// counts it again.
func (g *gate) pause() (resume func()) {
	g.busy.Add(-1)
	return func() { g.busy.Add(1) }
}
