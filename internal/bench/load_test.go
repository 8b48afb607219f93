package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"chancery/internal/acme"
	"chancery/internal/fault"
)

// take is an operation that takes so long, and ends early with its context.
func take(d time.Duration) func(context.Context, int, *Sample) error {
	return func(ctx context.Context, _ int, s *Sample) error {
		s.Phases[0] = d
		s.Requests = 2
		return sleep(ctx, d)
	}
}

func load(t *testing.T, p Plan, do func(context.Context, int, *Sample) error) ([]Point, error) {
	t.Helper()
	d := Driver{Plan: p}
	return d.Run(t.Context(), Workload{Name: "test", Unit: "operations", Phases: []string{"only"}, Do: do})
}

// near checks v within 1 %: what histogram buckets allow.
func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > .01*want+1e-9 {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

func TestClosedLoopMeasuresTheWindowOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		points, err := load(t, Plan{Clients: []int{1, 8}, Rounds: 3, Warmup: time.Second, Duration: 2 * time.Second, Drain: time.Second}, take(10*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		for i, clients := range []float64{1, 8} {
			p := points[i]
			if len(p.Rounds) != 3 || p.Clients != int(clients) {
				t.Fatalf("%+v", p)
			}
			near(t, "throughput", p.PerSecond.Median, 100*clients)
			near(t, "p50", p.Latency.P50, 10)
			near(t, "p99 of the phase", p.Phases[0].Latency.P99, 10)
			near(t, "requests", p.Requests, 2)
			if p.Latency.Count < int64(3*198*clients) || p.Latency.Count > int64(3*201*clients) || p.failed() != 0 {
				t.Errorf("%d measured, %d failed", p.Latency.Count, p.failed())
			}
		}
	})
}

func TestACountEndsTheRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		points, err := load(t, Plan{Clients: []int{7}, Rounds: 2, Count: 100, Drain: time.Second}, take(10*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range points[0].Rounds {
			if r.Operations != 100 {
				t.Errorf("%d operations, want 100", r.Operations)
			}
			near(t, "seconds", r.Seconds, .15)
		}
	})
}

// A server that stalls for a second must show in the latencies of everything
// that should have started meanwhile; the closed loop sees it once.
func TestOpenLoopDoesNotHideAStall(t *testing.T) {
	stallAt := func(at time.Time) func(context.Context, int, *Sample) error {
		return func(ctx context.Context, _ int, _ *Sample) error {
			if now := time.Now(); now.After(at) && now.Before(at.Add(time.Second)) {
				return sleep(ctx, at.Add(time.Second).Sub(now))
			}
			return sleep(ctx, time.Millisecond)
		}
	}
	plan := Plan{Clients: []int{1}, Rounds: 1, Duration: 10 * time.Second, Drain: 5 * time.Second}
	synctest.Test(t, func(t *testing.T) {
		points, err := load(t, plan, stallAt(time.Now().Add(4*time.Second+500*time.Microsecond)))
		if err != nil {
			t.Fatal(err)
		}
		near(t, "closed p99", points[0].Latency.P99, 1)
	})
	synctest.Test(t, func(t *testing.T) {
		plan.Rate = 100
		points, err := load(t, plan, stallAt(time.Now().Add(4*time.Second-5*time.Millisecond)))
		if err != nil {
			t.Fatal(err)
		}
		p := points[0]
		if p.Latency.Count != 1000 {
			t.Errorf("%d measured, want every intended start", p.Latency.Count)
		}
		// About 111 of 1000 operations are late by up to a second, evenly.
		if p.Latency.P95 < 300 || p.Latency.P99 < 850 || p.Latency.Max > 1000 {
			t.Errorf("latency hides the stall: %+v", p.Latency)
		}
		near(t, "p99 from the real start", p.Service.P99, 1)
		near(t, "throughput", p.PerSecond.Median, 100)
	})
}

// What an overloaded server never gets to is counted, not forgotten.
func TestOpenLoopCountsWhatNeverStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Two clients of 100 ms each manage 20/s of the 100/s asked for.
		points, err := load(t, Plan{Clients: []int{2}, Rate: 100, Rounds: 1, Duration: 5 * time.Second, Drain: time.Second}, take(100*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		p := points[0]
		if got := p.Latency.Count + p.failed(); got != 500 {
			t.Errorf("%d accounted for, want 500: %v", got, p.Errors)
		}
		near(t, "measured", float64(p.Latency.Count), 120)
		if got := p.PerSecond.Median; got < 19.5 || got > 20.5 {
			t.Errorf("throughput %v, want 20: what the drain finished is not of the window", got)
		}
		if p.Errors["not started"] < 350 {
			t.Errorf("errors %v", p.Errors)
		}
	})
}

// An operation that hangs is ended and counted when the drain is over.
func TestDrainEndsWhatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := atomic.Int64{}
		points, err := load(t, Plan{Clients: []int{4}, Rate: 10, Rounds: 1, Duration: time.Second, Drain: time.Second}, func(ctx context.Context, _ int, _ *Sample) error {
			if n.Add(1) == 5 {
				<-ctx.Done()
				return fmt.Errorf("read: %w", ctx.Err())
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if p := points[0]; p.Latency.Count != 9 || p.Errors["unfinished"] != 1 {
			t.Errorf("%d measured, errors %v", p.Latency.Count, p.Errors)
		}
	})
}

func TestErrorsAreCountedByClass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		points, err := load(t, Plan{Clients: []int{1}, Rounds: 1, Duration: 10 * time.Second}, func(ctx context.Context, _ int, _ *Sample) error {
			switch n++; n % 4 {
			case 1:
				return sleep(ctx, 10*time.Millisecond)
			case 2:
				return fmt.Errorf("order: %w", &refusal{&acme.Problem{Type: acme.TypeURI(fault.RateLimited), Status: 429, Detail: "slow down"}, 2 * time.Second})
			case 3:
				return &refusal{&acme.Problem{Type: "about:blank", Status: 503}, 0}
			}
			return errVerify
		})
		if err != nil {
			t.Fatal(err)
		}
		p := points[0]
		for _, class := range []string{"429 rateLimited", "503", "verify"} {
			if p.Errors[class] < 4 || p.Errors[class] > 5 {
				t.Errorf("%q counted %d times in about 5 cycles of 2 seconds: %v", class, p.Errors[class], p.Errors)
			}
		}
		if text := strings.Join(p.Examples, "\n"); !strings.Contains(text, "slow down") {
			t.Errorf("examples: %s", text)
		}
		near(t, "p99 (errors and waiting are not latency)", p.Latency.P99, 10)
	})
}

func TestARunThatCannotSucceedStopsAtOnce(t *testing.T) {
	for _, rate := range []float64{0, 50} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			broken := errors.New("the CA is on fire")
			points, err := load(t, Plan{Clients: []int{3}, Rate: rate, Rounds: 5, Warmup: time.Minute, Duration: time.Hour}, func(context.Context, int, *Sample) error { return broken })
			if !errors.Is(err, broken) || len(points) != 0 {
				t.Errorf("rate %v: %d points, error %v", rate, len(points), err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("rate %v: it took %v to give up", rate, took)
			}
		})
	}
}

func TestCancelKeepsFinishedPoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		told := 0
		d := Driver{Plan: Plan{Clients: []int{1, 2, 3}, Rounds: 1, Duration: time.Second}, OnPoint: func(Point) { told++ }}
		points, err := d.Run(ctx, Workload{Do: take(time.Millisecond)})
		if !errors.Is(err, context.DeadlineExceeded) || len(points) != 2 || told != 2 {
			t.Errorf("%d points, told %d, error %v", len(points), told, err)
		}
	})
}

func TestProgressOnlyGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []Progress
		d := Driver{Plan: Plan{Clients: []int{1, 2}, Rounds: 2, Warmup: time.Second, Duration: 2 * time.Second, Drain: time.Second}, Progress: func(p Progress) { seen = append(seen, p) }}
		if _, err := d.Run(t.Context(), Workload{Do: take(10 * time.Millisecond)}); err != nil {
			t.Fatal(err)
		}
		last := 0.0
		for _, p := range seen {
			if p.Share < last || p.Share > 1 {
				t.Errorf("share %v after %v", p.Share, last)
			}
			last = p.Share
		}
		if last < .9 || len(seen) < 30 {
			t.Errorf("%d calls, the last at %v", len(seen), last)
		}
	})
}

func TestPlansThatMakeNoSense(t *testing.T) {
	good := Plan{Clients: []int{1}, Rounds: 1, Duration: time.Second}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Plan){
		"no clients":            func(p *Plan) { p.Clients = nil },
		"zero clients":          func(p *Plan) { p.Clients = []int{0} },
		"too many":              func(p *Plan) { p.Clients = []int{1e6} },
		"no rounds":             func(p *Plan) { p.Rounds = 0 },
		"no end":                func(p *Plan) { p.Duration = 0 },
		"negative rate":         func(p *Plan) { p.Rate = -1 },
		"rate without duration": func(p *Plan) { p.Rate, p.Duration, p.Count = 5, 0, 10 },
		"negative warm-up":      func(p *Plan) { p.Warmup = -1 },
	} {
		p := good
		spoil(&p)
		if err := p.Check(); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
