package loop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/obs"
)

// value returns the sum of one metric family over the given label value.
func value(t *testing.T, reg *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && strings.Contains(fmt.Sprint(m.GetLabel()), `"`+label+`"`) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// run runs e for d of bubble time and then stops it.
func run(t *testing.T, e Every, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := e.Run(ctx); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestTicksKeepTheirIntervalButNotInStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		run(t, Every{Name: "x", Interval: time.Minute, Tick: func(context.Context) (Count, error) {
			at = append(at, time.Now())
			return Count{}, nil
		}}, time.Hour)
		if len(at) < 54 || len(at) > 67 {
			t.Fatalf("%d ticks in an hour of minutes", len(at))
		}
		gaps := map[time.Duration]bool{}
		for i := range at[1:] {
			gap := at[i+1].Sub(at[i])
			gaps[gap] = true
			if gap < 54*time.Second || gap > 66*time.Second {
				t.Errorf("gap %s", gap)
			}
		}
		if len(gaps) < 10 {
			t.Error("there is no jitter")
		}
	})
}

func TestFullBatchIsFollowedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left, start := 1000, time.Time{}
		run(t, Every{Name: "x", Interval: time.Minute, Tick: func(context.Context) (Count, error) {
			if start.IsZero() {
				start = time.Now()
			}
			n := min(left, 100)
			if left -= n; n > 0 && left == 0 && time.Since(start) > time.Second {
				t.Errorf("the backlog took %s", time.Since(start))
			}
			return Count{Claimed: n, Done: n, More: n == 100}, nil
		}}, 2*time.Minute)
		if left != 0 {
			t.Errorf("%d left", left)
		}
	})
}

func TestWakeUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wake, ticks := make(chan struct{}, 1), 0
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		e := Every{Name: "x", Interval: 24 * time.Hour, Wake: wake, Tick: func(context.Context) (Count, error) { ticks++; return Count{}, nil }}
		go func() { done <- e.Run(ctx) }()
		for want := 1; want <= 3; want++ {
			Nudge(wake)
			Nudge(wake) // does not block
			synctest.Wait()
			if ticks < want {
				t.Errorf("%d ticks after %d wake-ups", ticks, want)
			}
		}
		cancel()
		<-done
	})
}

func TestFailuresBackOffAndPanicsDoNotEndTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg, lines := prometheus.NewRegistry(), new(bytes.Buffer)
		ticks := 0
		run(t, Every{
			Name: "x", Interval: time.Second, Log: obs.NewLogger(lines, obs.JSON, slog.LevelInfo), Metrics: NewMetrics(reg),
			Tick: func(context.Context) (Count, error) {
				if ticks++; ticks%2 == 0 {
					panic("bad row")
				}
				return Count{}, errors.New("database is away")
			},
		}, time.Hour)
		if ticks > 3600/4 || ticks < 3600/16 {
			t.Errorf("%d failing ticks in an hour: no back-off, or no retry", ticks)
		}
		if got := value(t, reg, "chancery_loop_panics_total", "x"); got != float64(ticks/2) {
			t.Errorf("%v panics counted of %d", got, ticks/2)
		}
		if got := value(t, reg, "chancery_loop_runs_total", "failure"); got != float64(ticks) {
			t.Errorf("%v failures counted of %d", got, ticks)
		}
		if !strings.Contains(lines.String(), "database is away") || !strings.Contains(lines.String(), "bad row") {
			t.Error("the log does not say why")
		}
	})
}

func TestTickTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var took time.Duration
		run(t, Every{Name: "x", Interval: time.Second, Timeout: 5 * time.Second, Tick: func(ctx context.Context) (Count, error) {
			start := time.Now()
			<-ctx.Done()
			took = max(took, time.Since(start))
			return Count{}, ctx.Err()
		}}, 10*time.Second)
		if took != 5*time.Second {
			t.Errorf("the tick was cut off after %s", took)
		}
	})
}

func TestStopWaitsForTheTickAndIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg, wake := prometheus.NewRegistry(), make(chan struct{}, 1)
		ctx, cancel := context.WithCancel(t.Context())
		cleaned, done := false, make(chan error)
		e := Every{Name: "x", Interval: time.Hour, Wake: wake, Metrics: NewMetrics(reg), Tick: func(ctx context.Context) (Count, error) {
			<-ctx.Done()
			time.Sleep(time.Second) // writes down what it has
			cleaned = true
			return Count{}, ctx.Err()
		}}
		go func() { done <- e.Run(ctx) }()
		Nudge(wake)
		synctest.Wait()
		cancel()
		if err := <-done; err != nil || !cleaned {
			t.Errorf("Run returned %v, cleaned=%v", err, cleaned)
		}
		if got := value(t, reg, "chancery_loop_runs_total", "failure"); got != 0 {
			t.Errorf("%v failures", got)
		}
	})
}

func TestLogsOnlyWhatItDid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines, ticks := new(bytes.Buffer), 0
		run(t, Every{Name: "renew.claim", Interval: time.Second, Log: obs.NewLogger(lines, obs.JSON, slog.LevelInfo), Tick: func(ctx context.Context) (Count, error) {
			if ticks++; ticks == 5 {
				obs.Set(ctx, slog.String("issuer", "local"))
				return Count{Claimed: 3, Done: 2, Failed: 1, Backlog: 9}, nil
			}
			return Count{}, nil
		}}, time.Minute)
		var e map[string]any
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("want exactly one line: %v\n%s", err, lines)
		}
		if e["loop"] != "renew.claim" || e["claimed"] != 3.0 || e["failed"] != 1.0 || e["backlog"] != 9.0 || e["issuer"] != "local" {
			t.Error(e)
		}
	})
}

func TestBackoffIsBoundedAndSpread(t *testing.T) {
	b := Backoff{Base: time.Second, Max: 30 * time.Second}
	for attempt, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		if got := b.Bound(attempt); got != want*time.Second {
			t.Errorf("bound of retry %d is %s", attempt, got)
		}
	}
	if got := b.Bound(1 << 30); got != 30*time.Second {
		t.Errorf("bound of a late retry is %s", got)
	}
	seen := map[time.Duration]bool{}
	for range 100 {
		d := b.Delay(3)
		seen[d.Truncate(time.Second)] = true
		if d <= 0 || d > 8*time.Second {
			t.Errorf("delay %s", d)
		}
	}
	if len(seen) < 4 {
		t.Error("delays are not spread")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (Backoff{Base: time.Hour, Max: time.Hour}).Sleep(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("sleep: %v", err)
	}
}

func TestPoolBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool(PoolConfig{Name: "p", Workers: 8, PerKey: 2, Queue: 1000})
		var all, a, most, mostA atomic.Int64
		for i := range 200 {
			key := "a"
			if i%2 == 1 {
				key = fmt.Sprint(i % 20)
			}
			err := p.Submit(t.Context(), key, func() {
				raise(&most, all.Add(1))
				if key == "a" {
					raise(&mostA, a.Add(1))
					defer a.Add(-1)
				}
				time.Sleep(time.Second)
				all.Add(-1)
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		p.Close()
		if most.Load() != 8 || mostA.Load() != 2 {
			t.Errorf("%d at once (want 8), %d of one key (want 2)", most.Load(), mostA.Load())
		}
		if err := p.Submit(t.Context(), "a", func() {}); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		if r, w := p.Load(); r != 0 || w != 0 || len(p.queues) != 0 {
			t.Errorf("left behind: %d running, %d waiting, %d keys", r, w, len(p.queues))
		}
	})
}

// raise sets m to v if that is more.
func raise(m *atomic.Int64, v int64) {
	for old := m.Load(); v > old && !m.CompareAndSwap(old, v); old = m.Load() {
	}
}

// TestSlowKeyDoesNotDelayOthers: tasks of a busy key wait without a worker.
func TestSlowKeyDoesNotDelayOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool(PoolConfig{Name: "p", Workers: 4, PerKey: 1, Queue: 100})
		start, fast := time.Now(), time.Duration(0)
		for range 50 {
			p.Submit(t.Context(), "slow", func() { time.Sleep(time.Minute) })
		}
		p.Submit(t.Context(), "fast", func() { fast = time.Since(start) })
		p.Wait()
		if fast != 0 {
			t.Errorf("the other key waited %s", fast)
		}
		if total := time.Since(start); total != 50*time.Minute {
			t.Errorf("the slow key took %s, want one after the other", total)
		}
	})
}

func TestOrderWithinAKey(t *testing.T) {
	p := NewPool(PoolConfig{Name: "p", Workers: 4, PerKey: 1, Queue: 100})
	var got []int
	for i := range 100 {
		if err := p.Submit(t.Context(), "k", func() { got = append(got, i) }); err != nil {
			t.Fatal(err)
		}
	}
	p.Wait()
	if !slices.IsSorted(got) || len(got) != 100 {
		t.Error(got)
	}
}

func TestBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool(PoolConfig{Name: "p", Workers: 1, Queue: 2})
		for range 3 {
			p.Submit(t.Context(), "k", func() { time.Sleep(time.Minute) })
		}
		if err := p.TrySubmit("k", func() {}); !errors.Is(err, ErrFull) {
			t.Errorf("a full pool took work: %v", err)
		}
		start := time.Now()
		if err := p.Submit(t.Context(), "k", func() {}); err != nil || time.Since(start) != time.Minute {
			t.Errorf("Submit returned %v after %s, want to block for one task", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		p.Submit(t.Context(), "k", func() {})
		if err := p.Submit(ctx, "k", func() { t.Error("ran") }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Submit with a deadline: %v", err)
		}
		p.Wait()
	})
}

func TestDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		p := NewPool(PoolConfig{Name: "p", Workers: 1, Queue: 10, Metrics: NewMetrics(reg)})
		boom := errors.New("boom")
		if err := p.Do(t.Context(), "k", func(context.Context) error { return boom }); !errors.Is(err, boom) {
			t.Errorf("Do: %v", err)
		}
		if err := p.Do(t.Context(), "k", func(context.Context) error { panic("bad") }); err == nil {
			t.Error("a panic is no error")
		}
		synctest.Wait() // it is counted when the caller has its answer already
		if got := value(t, reg, "chancery_loop_panics_total", "p"); got != 1 {
			t.Errorf("%v panics counted", got)
		}
		p.Submit(t.Context(), "k", func() { time.Sleep(time.Minute) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Do(ctx, "k", func(context.Context) error { t.Error("ran after its caller left"); return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Do with a deadline: %v", err)
		}
		p.Close()
	})
}

func TestKeyLimitChangesWhileRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := 1
		p := NewPool(PoolConfig{Name: "p", Workers: 10, Queue: 100, KeyLimit: func(string) int { return limit }})
		start := time.Now()
		for range 5 {
			p.Submit(t.Context(), "k", func() { time.Sleep(time.Minute) })
		}
		synctest.Wait()
		limit = 4
		p.Wait()
		if got := time.Since(start); got != 2*time.Minute {
			t.Errorf("took %s, want one minute alone and one for the other four", got)
		}
	})
}

func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		down, mine := errors.New("connection refused"), errors.New("bad request")
		b := NewBreaker(BreakerConfig{Name: "ca", Failures: 3, Open: 10 * time.Second, MaxOpen: 30 * time.Second, Metrics: NewMetrics(reg),
			Counts: func(err error) bool { return !errors.Is(err, mine) }})
		calls := 0
		call := func(err error) error { return b.Do(func() error { calls++; return err }) }

		for range 10 {
			call(mine)
		}
		call(down)
		call(down)
		call(nil) // resets the count
		call(down)
		call(down)
		if b.State() != Closed {
			t.Fatal("opened too early")
		}
		call(down)
		calls = 0
		var open *OpenError
		if err := call(nil); !errors.As(err, &open) || open.RetryAfter != 10*time.Second || !errors.Is(err, down) || calls != 0 {
			t.Fatalf("open breaker: %v, %d calls", err, calls)
		}
		if got := value(t, reg, "chancery_breaker_state", "ca"); got != 2 {
			t.Errorf("gauge %v", got)
		}
		for _, wait := range []time.Duration{10, 20, 30, 30} { // each failed probe doubles the pause
			time.Sleep(wait*time.Second - 1)
			if err := call(nil); !errors.As(err, &open) || open.RetryAfter != 1 {
				t.Fatalf("a moment before %ds: %v", wait, err)
			}
			time.Sleep(1)
			if err := call(down); !errors.Is(err, down) || errors.As(err, &open) {
				t.Fatalf("the probe was not let through: %v", err)
			}
		}
		time.Sleep(30 * time.Second)
		if err := call(nil); err != nil || b.State() != Closed {
			t.Errorf("after a good probe: %v, %s", err, b.State())
		}
	})
}

func TestBreakerLetsOneProbeThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBreaker(BreakerConfig{Failures: 1, Open: time.Second})
		b.Do(func() error { return errors.New("down") })
		time.Sleep(time.Second)
		var ran, refused atomic.Int64
		for range 20 {
			go func() {
				if b.Do(func() error { ran.Add(1); time.Sleep(time.Minute); return nil }) != nil {
					refused.Add(1)
				}
			}()
		}
		synctest.Wait()
		if ran.Load() != 1 || refused.Load() != 19 {
			t.Errorf("%d probes, %d refused", ran.Load(), refused.Load())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if b.State() != Closed {
			t.Error(b.State())
		}
	})
}

func TestBreakerCountsAPanic(t *testing.T) {
	b := NewBreaker(BreakerConfig{Failures: 1})
	func() {
		defer func() { recover() }()
		b.Do(func() error { panic("x") })
	}()
	if b.State() != Open {
		t.Error(b.State())
	}
}

// TestEach: what fails does not stop the rest, and no more run at once than may.
func TestEach(t *testing.T) {
	const atOnce = 3
	var now, most, calls atomic.Int64
	odd := errors.New("odd")
	claimed := []int{1, 2, 3, 4, 5, 6, 7}
	n, err := Each(claimed, atOnce, func(v *int) error {
		for here := now.Add(1); ; {
			if m := most.Load(); here <= m || most.CompareAndSwap(m, here) {
				break
			}
		}
		defer now.Add(-1)
		calls.Add(1)
		if *v%2 == 1 {
			return fmt.Errorf("%d: %w", *v, odd)
		}
		return nil
	})
	if n != (Count{Claimed: 7, Done: 3, Failed: 4}) || calls.Load() != 7 || most.Load() > atOnce {
		t.Errorf("%+v, %d calls, %d at once", n, calls.Load(), most.Load())
	}
	if !errors.Is(err, odd) || !strings.Contains(err.Error(), "7: odd") {
		t.Errorf("error %v", err)
	}
	if n, err := Each(claimed[:0], atOnce, func(*int) error { return odd }); n != (Count{}) || err != nil {
		t.Errorf("of nothing: %+v, %v", n, err)
	}
}
