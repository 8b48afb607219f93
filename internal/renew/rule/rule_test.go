package rule

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"chancery/internal/fault"
	"chancery/internal/issuer"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// RFC 9773 section 4.3.2 and 4.3.3: Retry-After is kept within bounds.
func TestNextAsk(t *testing.T) {
	for after, want := range map[time.Duration]time.Duration{time.Second: time.Minute, -time.Hour: time.Minute, 6 * time.Hour: 6 * time.Hour, 240 * time.Hour: 24 * time.Hour} {
		for _, r := range []float64{0, 0.5, 0.999} {
			got := NextAsk(t0, t0.Add(after), r).Sub(t0)
			if got < Scale(want, 0.9) || got > Scale(want, 1.1) {
				t.Errorf("after %s with %v: %s", after, r, got)
			}
		}
	}
	if got := NextAsk(t0, time.Time{}, 0.5).Sub(t0); got != DefaultAsk {
		t.Errorf("without Retry-After: %s", got)
	}
}

// The instant inside a window is the same for everybody, and those of a fleet
// spread evenly over it: the load of a window is level.
func TestInstantsSpreadOverTheirWindow(t *testing.T) {
	start, end := t0, t0.Add(24*time.Hour)
	var perHour [24]int
	const n = 24000
	for i := range n {
		id := fmt.Sprint("certificate-", i)
		at := within(id, start, end)
		if at != within(id, start, end) {
			t.Fatal("two looks, two instants")
		}
		if at.Before(start) || !at.Before(end) {
			t.Fatalf("%s lies outside", at)
		}
		perHour[int(at.Sub(start)/time.Hour)]++
	}
	for h, got := range perHour {
		if math.Abs(float64(got)-n/24) > 5*math.Sqrt(n/24) {
			t.Errorf("hour %d has %d of %d", h, got, n)
		}
	}
	if within("a", start, end) == within("a", start, end.Add(time.Hour)) {
		t.Error("another window, the same instant")
	}
	if got := within("a", start, start); got != start {
		t.Errorf("empty window: %s", got)
	}
}

// Two thirds of life, half under ten days, or earlier when asked.
func TestWindowByLife(t *testing.T) {
	for _, c := range []struct {
		days   int
		before time.Duration
		want   float64 // of life
	}{{90, 0, 2. / 3}, {47, 0, 2. / 3}, {6, 0, 0.5}, {90, 45 * 24 * time.Hour, 0.5}, {90, 24 * time.Hour, 2. / 3}} {
		end := t0.Add(time.Duration(c.days)*24*time.Hour - time.Second)
		s, e := window(t0, end, c.before)
		got := float64(s.Sub(t0)) / float64(end.Sub(t0))
		if math.Abs(got-c.want) > 0.01 || !e.After(s) || !e.Before(end) {
			t.Errorf("%d days, %s before: from %.3f of life, %s to %s", c.days, c.before, got, s, e)
		}
	}
}

// What has to wait after each class of failure, and what must not.
func TestDecide(t *testing.T) {
	for _, class := range []issuer.Class{issuer.Throttled, issuer.Unavailable, issuer.Validation, issuer.Provider, issuer.Permanent, issuer.Mismatch, Unknown, "new-one"} {
		for attempts := 1; attempts <= 40; attempts++ {
			for _, r := range []float64{0, 0.3, 0.9999} {
				for _, after := range []time.Duration{0, time.Hour, -time.Hour} {
					for _, left := range []time.Duration{0, time.Hour, 24 * time.Hour, 90 * 24 * time.Hour} {
						f := Failure{Error: &issuer.Error{Class: class, RetryAfter: after, Provider: "dns/main", Pending: attempts%2 == 0, Err: errors.New("x")}, Attempts: attempts, Random: r, Left: left, Staging: true}
						judge(t, f, Decide(f))
					}
				}
			}
		}
	}
}

func judge(t *testing.T, f Failure, v Verdict) {
	t.Helper()
	bad := func(what string) { t.Errorf("%+v: %s: %+v", f, what, v) }
	stops := f.Class == issuer.Permanent || f.Class == issuer.Mismatch
	switch {
	case v.Stop != stops:
		bad("stop")
	case (v.Sleep > 0) != (f.Class == issuer.Throttled):
		bad("only a throttle makes the account sleep")
	case v.Broken != (f.Class == issuer.Unavailable):
		bad("only an outage counts against the CA")
	case (v.Provider != "") != (f.Class == issuer.Provider):
		bad("only a provider's failure counts against it")
	case v.Blames != (f.Class != issuer.Throttled && f.Class != issuer.Unavailable && f.Class != issuer.Provider):
		bad("who is to blame")
	case v.Keep == v.Blames && !stops:
		bad("an order goes on exactly when it is not its own fault")
	case stops && v.Keep != f.Pending:
		bad("what the CA still works on is kept, and nothing else")
	case !stops && v.Wait < time.Second:
		bad("it spins")
	case f.RetryAfter > 0 && !stops && f.Class != issuer.Provider && v.Wait < f.RetryAfter:
		bad("Retry-After is not honoured")
	case f.Class == issuer.Validation && v.Trial != (f.Attempts >= TrialAfter):
		bad("rehearsal")
	case !stops && v.Wait > ladderCap+2*time.Hour:
		bad("it waits too long")
	case f.Left > 8*minWait && f.RetryAfter == 0 && v.Blames && !stops && v.Wait > f.Left/8:
		bad("fewer than eight tries are left")
	}
}

// The bound of the validation ladder: 15 minutes, doubled, up to a day.
func TestLadder(t *testing.T) {
	want := []time.Duration{15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 16 * time.Hour, 24 * time.Hour, 24 * time.Hour}
	for i, w := range want {
		if got := ladder(validationStep, Failure{Attempts: i + 1, Random: 1}); got != w {
			t.Errorf("failure %d: at most %s, want %s", i+1, got, w)
		}
	}
}

func TestClassify(t *testing.T) {
	named := &issuer.Error{Class: issuer.Provider, Provider: "p", Err: errors.New("x")}
	for _, c := range []struct {
		err  error
		want issuer.Class
	}{{fmt.Errorf("around: %w", named), issuer.Provider}, {context.DeadlineExceeded, issuer.Unavailable},
		{fault.New(fault.Unavailable, "full"), issuer.Unavailable}, {fault.New(fault.Invalid, "no"), Unknown}, {errors.New("strange"), Unknown}} {
		if got := Classify(c.err); got.Class != c.want || got.Err == nil {
			t.Errorf("%v is %s, want %s", c.err, got.Class, c.want)
		}
	}
}
