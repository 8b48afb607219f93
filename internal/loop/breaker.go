package loop

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// BreakerConfig says when a Breaker opens and how it closes.
type BreakerConfig struct {
	Name     string        // labels metrics and errors: "issuer.digicert"
	Failures int           // consecutive failures that open it; 0 = 5
	Open     time.Duration // how long it stays open first; 0 = 5 s
	MaxOpen  time.Duration // each failed probe doubles Open up to this; 0 = 5 min

	// Counts says whether an error is the other side's fault. nil: all are.
	// An error that is the caller's own (a bad request) must not count.
	Counts func(error) bool

	Metrics *Metrics // nil: not measured
}

// BreakerState is the state of a Breaker.
type BreakerState string

// States of a breaker.
const (
	Closed   BreakerState = "closed"    // calls go through
	HalfOpen BreakerState = "half-open" // one probe is under way
	Open     BreakerState = "open"      // calls are refused
)

// OpenError refuses a call while the other side is down.
type OpenError struct {
	Name       string
	RetryAfter time.Duration // until the next probe may go
	Cause      error         // the failure that opened the breaker
}

// Error implements error.
func (e *OpenError) Error() string {
	return fmt.Sprintf("%s is not being called for another %s after repeated failures: %v", e.Name, e.RetryAfter.Round(time.Millisecond), e.Cause)
}

// Unwrap returns the failure that opened the breaker.
func (e *OpenError) Unwrap() error { return e.Cause }

// Breaker stops calls to something that keeps failing, and lets one probe at
// a time find out when it is back. It is safe for concurrent use.
type Breaker struct {
	cfg   BreakerConfig
	gauge prometheus.Gauge

	mu       sync.Mutex // guards what follows
	state    BreakerState
	failures int           // consecutive, while closed
	openFor  time.Duration // length of the current open period
	until    time.Time     // end of the open period
	cause    error         // the failure that opened it
	epoch    int           // grows with each change; results of older calls are ignored
}

// NewBreaker returns a closed breaker.
func NewBreaker(cfg BreakerConfig) *Breaker {
	if cfg.Failures <= 0 {
		cfg.Failures = 5
	}
	if cfg.Open <= 0 {
		cfg.Open = 5 * time.Second
	}
	if cfg.MaxOpen <= 0 {
		cfg.MaxOpen = 5 * time.Minute
	}
	b := &Breaker{cfg: cfg, state: Closed, openFor: cfg.Open}
	if cfg.Metrics != nil {
		b.gauge = cfg.Metrics.breakers.WithLabelValues(cfg.Name)
	}
	return b
}

// Do calls fn unless the breaker is open, when it returns an *OpenError.
func (b *Breaker) Do(fn func() error) error {
	epoch, err := b.enter(time.Now())
	if err != nil {
		return err
	}
	err = errPanicked // counts as a failure when fn panics
	defer func() { b.leave(epoch, err, time.Now()) }()
	err = fn()
	return err
}

// errPanicked stands for a call that never returned.
var errPanicked = errors.New("call panicked")

// State returns the state now.
func (b *Breaker) State() BreakerState {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state
}

// enter asks for permission to call.
func (b *Breaker) enter(now time.Time) (epoch int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.state == Closed:
	case b.state == Open && !now.Before(b.until):
		b.change(HalfOpen)
	default:
		wait := b.until.Sub(now)
		if b.state == HalfOpen {
			wait = b.cfg.Open // the probe is under way
		}
		return 0, &OpenError{b.cfg.Name, wait, b.cause}
	}
	return b.epoch, nil
}

// leave books the result of a call.
func (b *Breaker) leave(epoch int, err error, now time.Time) {
	failed := err != nil && (b.cfg.Counts == nil || errors.Is(err, errPanicked) || b.cfg.Counts(err))
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case epoch != b.epoch: // began before the last change: says nothing about now
	case !failed:
		b.failures, b.openFor = 0, b.cfg.Open
		if b.state == HalfOpen {
			b.change(Closed)
		}
	case b.state == HalfOpen:
		b.openFor = min(2*b.openFor, b.cfg.MaxOpen)
		b.open(err, now)
	default:
		if b.failures++; b.failures >= b.cfg.Failures {
			b.open(err, now)
		}
	}
}

// open refuses calls for a while. mu is held.
func (b *Breaker) open(cause error, now time.Time) {
	b.failures, b.cause, b.until = 0, cause, now.Add(b.openFor)
	b.change(Open)
}

// change moves to another state. mu is held.
func (b *Breaker) change(to BreakerState) {
	b.state = to
	b.epoch++
	if b.gauge != nil {
		b.gauge.Set(map[BreakerState]float64{Closed: 0, HalfOpen: 1, Open: 2}[to])
	}
}
