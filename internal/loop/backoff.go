package loop

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff spaces retries with full jitter: the delay before retry n is random
// between 0 and Base * 2^n, at most Max. Full jitter spreads callers that
// failed together better than any fixed schedule.
type Backoff struct {
	Base time.Duration // bound of the first delay; 0 = 1 s
	Max  time.Duration // bound of every delay; 0 = 1 min
}

// Bound returns the longest delay before retry attempt, counted from 0.
func (b Backoff) Bound(attempt int) time.Duration {
	base, limit := b.Base, b.Max
	if base <= 0 {
		base = time.Second
	}
	if limit <= 0 {
		limit = time.Minute
	}
	for range max(attempt, 0) {
		if base >= limit/2 {
			return limit
		}
		base *= 2
	}
	return min(base, limit)
}

// Delay returns a random delay before retry attempt, counted from 0. It is
// never 0, so that a caller cannot spin.
func (b Backoff) Delay(attempt int) time.Duration {
	return 1 + time.Duration(rand.Int64N(int64(b.Bound(attempt))))
}

// Sleep waits for a delay of attempt, or until ctx ends and returns its error.
func (b Backoff) Sleep(ctx context.Context, attempt int) error {
	t := time.NewTimer(b.Delay(attempt))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
