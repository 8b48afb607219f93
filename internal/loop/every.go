package loop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"

	"chancery/internal/obs"
)

// Count is what one tick did.
type Count struct {
	Claimed int // rows taken on
	Done    int // of these, finished
	Failed  int // of these, failed; they will come back by themselves
	Backlog int // known to be waiting still; negative = unknown

	// More says that the batch was full: the next tick follows at once.
	More bool
}

// Each works on what a tick claimed, at most atOnce at a time, and counts it.
// What fails does not stop the rest; the error joins all failures.
func Each[T any](claimed []T, atOnce int, do func(*T) error) (Count, error) {
	failed := make([]error, len(claimed))
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i := range claimed {
		g.Go(func() error {
			failed[i] = do(&claimed[i])
			return nil
		})
	}
	_ = g.Wait() // each has its own
	n := Count{Claimed: len(claimed)}
	for _, err := range failed {
		if err != nil {
			n.Failed++
		}
	}
	n.Done = n.Claimed - n.Failed
	return n, errors.Join(failed...)
}

// Tick does one bounded batch. It must honour ctx, and it must be safe to be
// cut off anywhere: what it claimed comes back when its lease ends.
type Tick func(ctx context.Context) (Count, error)

// Every runs a tick again and again.
type Every struct {
	// Name labels metrics and log lines: "renew.claim".
	Name string

	// Interval is the time between the end of one tick and the start of the
	// next, give or take a tenth, so that replicas do not march in step. The
	// first tick comes after a random part of it. 0 = 1 minute.
	Interval time.Duration

	// Timeout ends one tick; 0 = ten times the interval, at least 30 s.
	Timeout time.Duration

	// Wake starts the next tick early. Use a channel of capacity 1 and send
	// without blocking: see Nudge. May be nil.
	Wake <-chan struct{}

	// Backoff spaces ticks that fail; the zero value is one interval, growing
	// to sixteen.
	Backoff Backoff

	Tick    Tick
	Log     *slog.Logger // nil: discard
	Metrics *Metrics     // nil: not measured
}

// Nudge sends on a wake-up channel unless a wake-up is waiting already.
func Nudge(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// Run ticks until ctx ends and returns nil; a tick that is running is told to
// stop and waited for.
func (e Every) Run(ctx context.Context) error {
	e = e.withDefaults()
	m := e.Metrics.loop(e.Name)
	pause, failures := time.Duration(rand.Int64N(int64(e.Interval)+1)), 0
	for e.wait(ctx, pause) {
		n, err := e.tick(ctx, m)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil // cut off by the shutdown: not a failure
		case err != nil:
			pause = e.Backoff.Delay(failures)
			failures++
		case n.More:
			pause, failures = 0, 0
		default:
			pause, failures = jitter(e.Interval), 0
		}
	}
	return nil
}

// withDefaults fills in what was left out.
func (e Every) withDefaults() Every {
	if e.Interval <= 0 {
		e.Interval = time.Minute
	}
	if e.Timeout <= 0 {
		e.Timeout = max(10*e.Interval, 30*time.Second)
	}
	if e.Backoff == (Backoff{}) {
		e.Backoff = Backoff{Base: e.Interval, Max: 16 * e.Interval}
	}
	if e.Log == nil {
		e.Log = obs.Discard()
	}
	return e
}

// wait pauses, and reports false when ctx ended.
func (e Every) wait(ctx context.Context, pause time.Duration) bool {
	if pause <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-e.Wake:
	case <-ctx.Done():
		return false
	}
	return ctx.Err() == nil
}

// tick runs one tick, measures it, and logs it if it did anything.
func (e Every) tick(ctx context.Context, m *meters) (Count, error) {
	ev := obs.NewEvent(ctx, "", obs.Trace{})
	ev.Set(slog.String("loop", e.Name))
	tickCtx, cancel := context.WithTimeout(ev, e.Timeout)
	defer cancel()
	start := time.Now()
	n, err := e.guarded(tickCtx, m)
	if errors.Is(err, context.DeadlineExceeded) && tickCtx.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("tick exceeded %s: %w", e.Timeout, err)
	}
	d := time.Since(start)
	stopped := err != nil && ctx.Err() != nil
	m.observe(d, n, err, stopped)
	e.report(ev, d, n, err, stopped)
	return n, err
}

// guarded turns a panic into an error, so that one bad row cannot end a loop.
func (e Every) guarded(ctx context.Context, m *meters) (n Count, err error) {
	defer func() {
		if p := recover(); p != nil {
			m.panicked()
			e.Log.LogAttrs(ctx, slog.LevelError, "tick panicked", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			n, err = Count{Backlog: -1}, fmt.Errorf("tick panicked: %v", p)
		}
	}()
	return e.Tick(ctx)
}

// report logs a tick that did something or failed.
func (e Every) report(ctx context.Context, d time.Duration, n Count, err error, stopped bool) {
	level := slog.LevelInfo
	switch {
	case err != nil && !stopped:
		level = slog.LevelError
	case n.Claimed == 0 && n.Done == 0 && n.Failed == 0:
		return
	}
	attrs := make([]slog.Attr, 0, 6)
	attrs = append(attrs, slog.Int("claimed", n.Claimed), slog.Int("done", n.Done), slog.Int("failed", n.Failed), slog.Int64("duration_ms", d.Milliseconds()))
	if n.Backlog > 0 {
		attrs = append(attrs, slog.Int("backlog", n.Backlog))
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	e.Log.LogAttrs(ctx, level, "tick", attrs...)
}

// jitter returns d give or take a tenth.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + time.Duration(rand.Int64N(int64(d/5)+1))
}
