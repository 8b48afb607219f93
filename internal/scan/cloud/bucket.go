package cloud

import (
	"context"
	"sync"
	"time"
)

// Rate is what a provider allows: so many requests a second, and so many at
// once after a pause.
type Rate struct {
	PerSecond float64
	Burst     float64
}

// Bucket is a token bucket whose rate follows the provider: halved when it
// throttles, and grown back slowly. It is safe for concurrent use; waiters are
// served one after the other.
type Bucket struct {
	turn chan struct{} // held by the one waiter whose turn it is

	mu       sync.Mutex
	limit    Rate
	rate     float64 // now, at most limit.PerSecond
	tokens   float64
	filledAt time.Time
	pausedTo time.Time // nobody gets a token before
	grownAt  time.Time
}

// slowest is the part of its rate that a bucket keeps however often it is
// throttled.
const slowest = 1.0 / 64

// recovery is how much of the full rate comes back in each second without a
// throttle.
const recovery = 0.05

// NewBucket returns a full bucket.
func NewBucket(limit Rate, now time.Time) *Bucket {
	limit.Burst = max(limit.Burst, 1)
	return &Bucket{turn: make(chan struct{}, 1), limit: limit, rate: limit.PerSecond, tokens: limit.Burst, filledAt: now, grownAt: now}
}

// take takes a token, or says how long to wait before the next try.
func (b *Bucket) take(now time.Time) (wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.Before(b.pausedTo) {
		return b.pausedTo.Sub(now)
	}
	b.tokens = min(b.limit.Burst, b.tokens+b.rate*max(now.Sub(b.filledAt).Seconds(), 0))
	b.filledAt = now
	if b.tokens >= 1 {
		b.tokens--
		return 0
	}
	return time.Duration((1-b.tokens)/b.rate*float64(time.Second)) + 1
}

// Wait takes a token as soon as there is one.
func (b *Bucket) Wait(ctx context.Context) error {
	select {
	case b.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-b.turn }()
	for {
		wait := b.take(time.Now())
		if wait <= 0 {
			return ctx.Err()
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// maxPause bounds what a provider's Retry-After may ask for: an hour is an
// outage, and the next poll comes anyway.
const maxPause = time.Hour

// Throttled halves the rate, and gives nobody a token for as long as the
// provider asked (0: not said).
func (b *Bucket) Throttled(now time.Time, retryAfter time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rate = max(b.rate/2, b.limit.PerSecond*slowest)
	b.tokens = min(b.tokens, 0)
	b.filledAt, b.grownAt = now, now
	if to := now.Add(min(retryAfter, maxPause)); retryAfter > 0 && to.After(b.pausedTo) {
		b.pausedTo, b.filledAt = to, to
	}
}

// Succeeded lets the rate grow back.
func (b *Bucket) Succeeded(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rate = min(b.limit.PerSecond, b.rate+b.limit.PerSecond*recovery*max(now.Sub(b.grownAt).Seconds(), 0))
	b.grownAt = now
}

// Rate returns the requests a second that it gives now.
func (b *Bucket) Rate() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rate
}
