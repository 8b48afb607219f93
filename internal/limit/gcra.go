// Package limit decides who may do how much how fast, with the generic cell
// rate algorithm (GCRA): one timestamp per key, no counters and no windows
// with edges to game. The rule itself is a pure function over that timestamp,
// so it may live in memory (Limiter) or in a database row. A Ledger does both:
// requests are judged in memory, and what much was spent of survives restarts and
// is known to all replicas.
//
// The package knows keys and costs, not HTTP.
package limit

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Rate allows Count units of cost per Per, with up to Burst units at once.
//
// A Burst of 0 means Count: a full period's worth at once. A Count of 0 means
// no limit, so that the zero value never locks anybody out by accident; use
// Deny to forbid.
type Rate struct {
	Count int           // units refilled per Per; 0 = unlimited
	Per   time.Duration // refill period
	Burst int           // most units at once; 0 = Count
	Deny  bool          // refuse everything, whatever Count says
}

// Forever is the retry-after of a request that can never succeed: it costs
// more than the whole burst, or the key is denied.
const Forever = time.Duration(math.MaxInt64)

// Unlimited reports whether r never refuses.
func (r Rate) Unlimited() bool { return r.Count == 0 && !r.Deny }

// String returns "300 per 3h0m0s, burst 50".
func (r Rate) String() string {
	switch {
	case r.Deny:
		return "denied"
	case r.Count == 0:
		return "unlimited"
	}
	return fmt.Sprintf("%d per %s, burst %d", r.Count, r.Per, r.burst())
}

// Validate reports whether r makes sense.
func (r Rate) Validate() error {
	switch {
	case r.Count < 0 || r.Burst < 0:
		return errors.New("count and burst may not be negative")
	case r.Count > 0 && r.Per <= 0:
		return errors.New("per must be positive when count is set")
	case r.Count > 0 && r.interval() <= 0:
		return errors.New("more than one unit per nanosecond")
	case r.Count > 0 && float64(r.interval())*float64(r.burst()) > float64(Forever)/4:
		return errors.New("burst takes longer than 70 years to refill")
	}
	return nil
}

// burst is the effective burst.
func (r Rate) burst() int {
	if r.Burst == 0 {
		return r.Count
	}
	return r.Burst
}

// interval is the time one unit takes to refill (the emission interval T).
func (r Rate) interval() time.Duration { return r.Per / time.Duration(r.Count) }

// tolerance is how far ahead of now the stored time may run (tau + T).
func (r Rate) tolerance() time.Duration { return r.interval() * time.Duration(r.burst()) }

// Take is GCRA: it spends cost units at now from a key whose theoretical
// arrival time is tat, both in Unix nanoseconds (0 = never used).
//
// When allowed, next is the new tat to store and retry is 0. When refused,
// next equals tat and retry is the time until the same request would be
// allowed, or Forever. A cost of 0 asks without spending; a negative cost
// gives back (never beyond a full burst).
func (r Rate) Take(tat, now int64, cost int) (next int64, ok bool, retry time.Duration) {
	switch {
	case r.Deny && cost > 0:
		return tat, false, Forever
	case r.Count <= 0 || r.Deny:
		return tat, true, 0
	case cost > r.burst():
		return tat, false, Forever
	case cost == 0:
		_, ok, retry = r.Take(tat, now, 1)
		return tat, ok, retry
	}
	// A clock that was set back, or a limit that was tightened, must not lock
	// a key out for longer than one full refill.
	start := min(max(tat, now), now+int64(r.tolerance()))
	next = start + int64(r.interval())*int64(max(cost, -r.burst()))
	if cost < 0 {
		return max(next, now), true, 0
	}
	if wait := next - now - int64(r.tolerance()); wait > 0 {
		return tat, false, time.Duration(wait)
	}
	return next, true, 0
}

// Left returns how many units the key could spend at once at now.
func (r Rate) Left(tat, now int64) int {
	switch {
	case r.Deny:
		return 0
	case r.Count <= 0:
		return math.MaxInt
	}
	debt := max(tat-now, 0)
	return max(int((int64(r.tolerance())-debt)/int64(r.interval())), 0)
}
