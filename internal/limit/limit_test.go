package limit

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// t0 is an instant far from the edges of int64 nanoseconds.
var t0 = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func newLimiter(t testing.TB, r Rate, maxKeys int) *Limiter {
	t.Helper()
	l, err := New("test", r, maxKeys)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestBurstThenSteadyRate(t *testing.T) {
	l := newLimiter(t, Rate{Count: 10, Per: time.Minute, Burst: 3}, 0)
	for i := range 3 {
		if ok, _ := l.Allow("a", 1, t0); !ok {
			t.Fatalf("request %d of the burst was refused", i)
		}
	}
	ok, retry := l.Allow("a", 1, t0)
	if ok || retry != 6*time.Second {
		t.Fatalf("after the burst: ok=%v retry=%s, want a refusal for 6s", ok, retry)
	}
	if ok, _ := l.Allow("b", 1, t0); !ok {
		t.Error("another key was refused")
	}
	if ok, _ := l.Allow("a", 1, t0.Add(retry-1)); ok {
		t.Error("allowed before retry was over")
	}
	if ok, _ := l.Allow("a", 1, t0.Add(retry)); !ok {
		t.Error("refused although retry was over")
	}
}

func TestRefusalSpendsNothing(t *testing.T) {
	l := newLimiter(t, Rate{Count: 1, Per: time.Minute}, 0)
	l.Allow("a", 1, t0)
	for range 100 {
		l.Allow("a", 1, t0)
	}
	if ok, _ := l.Allow("a", 1, t0.Add(time.Minute)); !ok {
		t.Error("refused requests moved the window")
	}
}

func TestCost(t *testing.T) {
	l := newLimiter(t, Rate{Count: 60, Per: time.Minute, Burst: 20}, 0)
	if ok, _ := l.Allow("a", 11, t0); !ok {
		t.Fatal("a P-384 check was refused with a full burst")
	}
	if ok, retry := l.Allow("a", 11, t0); ok || retry != 2*time.Second {
		t.Errorf("second one: ok=%v retry=%s, want refused for 2s", ok, retry)
	}
	if ok, retry := l.Allow("a", 21, t0.Add(time.Hour)); ok || retry != Forever {
		t.Errorf("more than the burst: ok=%v retry=%s, want never", ok, retry)
	}
}

func TestPeekAndRefund(t *testing.T) {
	l := newLimiter(t, Rate{Count: 1, Per: time.Hour}, 0)
	for range 3 {
		if ok, _ := l.Peek("a", t0); !ok {
			t.Fatal("peeking spent")
		}
	}
	l.Allow("a", 1, t0)
	if ok, retry := l.Peek("a", t0); ok || retry != time.Hour {
		t.Fatalf("peek: ok=%v retry=%s, want refused for 1h", ok, retry)
	}
	l.Refund("a", 5, t0)
	if ok, _ := l.Allow("a", 1, t0); !ok {
		t.Error("refused after the refund")
	}
	if ok, _ := l.Allow("a", 1, t0); ok {
		t.Error("a refund gave more than was spent")
	}
}

func TestZeroRateIsUnlimitedAndDenyIsNot(t *testing.T) {
	l := newLimiter(t, Rate{}, 0)
	if ok, _ := l.Allow("a", 1<<30, t0); !ok || l.Len() != 0 {
		t.Error("the zero rate limits or remembers")
	}
	if err := l.SetOverrides(map[string]Rate{"bad": {Deny: true}}); err != nil {
		t.Fatal(err)
	}
	if ok, retry := l.Allow("bad", 1, t0); ok || retry != Forever {
		t.Errorf("denied key: ok=%v retry=%s", ok, retry)
	}
}

func TestOverridesAreLive(t *testing.T) {
	l := newLimiter(t, Rate{Count: 1, Per: time.Hour}, 0)
	l.Allow("vip", 1, t0)
	if ok, _ := l.Allow("vip", 1, t0); ok {
		t.Fatal("no limit before the override")
	}
	if err := l.SetOverrides(map[string]Rate{"vip": {Count: 100, Per: time.Hour}}); err != nil {
		t.Fatal(err)
	}
	if ok, _ := l.Allow("vip", 1, t0); !ok {
		t.Error("the override does not hold")
	}
	if err := l.SetOverrides(map[string]Rate{"vip": {Count: -1}}); err == nil {
		t.Error("a senseless override was taken")
	}
	if err := l.SetRate(Rate{Count: 2, Per: time.Second}); err != nil || l.Rate("other").Count != 2 {
		t.Errorf("SetRate: %v, rate %v", err, l.Rate("other"))
	}
}

// TestClockSetBack: a stored time far in the future (a clock that was wrong,
// or a limit that was much slower) locks out for one refill at most.
func TestClockSetBack(t *testing.T) {
	r := Rate{Count: 10, Per: time.Minute}
	tat := t0.Add(1000 * time.Hour).UnixNano()
	_, ok, retry := r.Take(tat, t0.UnixNano(), 1)
	if ok || retry > time.Minute {
		t.Errorf("ok=%v retry=%s, want refused for at most a minute", ok, retry)
	}
}

func TestValidate(t *testing.T) {
	for _, r := range []Rate{
		{Count: -1, Per: time.Second}, {Count: 1}, {Count: 1, Per: -1}, {Count: 1, Per: time.Second, Burst: -1},
		{Count: 2, Per: 1}, {Count: 1, Per: math.MaxInt64, Burst: 1000},
	} {
		if _, err := New("x", r, 0); err == nil {
			t.Errorf("%+v was accepted", r)
		}
	}
}

// TestNeverMoreThanTheRate drives random requests and checks the promise of
// every window: at most burst + elapsed * rate units pass.
func TestNeverMoreThanTheRate(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		r := Rate{Count: 1 + rnd.IntN(100), Per: time.Minute, Burst: 1 + rnd.IntN(50)}
		var tat int64
		start := t0.UnixNano()
		now, spent := start, 0
		for range 500 {
			now += rnd.Int64N(int64(2 * time.Second))
			cost := 1 + rnd.IntN(3)
			next, ok, retry := r.Take(tat, now, cost)
			if ok {
				spent += cost
			} else if retry != Forever {
				if _, again, _ := r.Take(tat, now+int64(retry), cost); !again {
					t.Fatalf("%s: refused after waiting the %s it asked for", r, retry)
				}
			}
			tat = next
		}
		most := float64(r.Burst) + float64(now-start)/float64(r.interval())
		if float64(spent) > most+1e-6 {
			t.Fatalf("%s: %d units passed, at most %.1f may", r, spent, most)
		}
	}
}

func TestMemoryIsBoundedAndIdleKeysAreForgottenFirst(t *testing.T) {
	const limit = 64 * 100
	l := newLimiter(t, Rate{Count: 1, Per: time.Minute}, limit)
	for i := range 20 * limit {
		l.Allow(fmt.Sprintf("key-%d", i), 1, t0)
	}
	if n := l.Len(); n > limit {
		t.Fatalf("%d keys in memory, at most %d allowed", n, limit)
	}
	later := t0.Add(time.Hour)
	l.Allow("busy", 1, later)
	for i := range limit / 2 {
		l.Allow(fmt.Sprintf("other-%d", i), 1, later)
	}
	if ok, _ := l.Allow("busy", 1, later); ok {
		t.Error("a key in debt was forgotten while idle ones could be")
	}
}

func TestConcurrentUseLosesNothing(t *testing.T) {
	l := newLimiter(t, Rate{Count: 1000, Per: time.Hour}, 0)
	var passed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				if ok, _ := l.Allow("shared", 1, t0); ok {
					passed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if passed.Load() != 1000 {
		t.Errorf("%d of 4000 passed, want exactly 1000", passed.Load())
	}
}

func TestAllowAllIsAllOrNothing(t *testing.T) {
	s, err := NewSet(
		Definition{Name: "wide", Scope: PerIP, Rate: Rate{Count: 10, Per: time.Hour}},
		Definition{Name: "narrow", Scope: PerAccount, Rate: Rate{Count: 1, Per: time.Hour}},
	)
	if err != nil {
		t.Fatal(err)
	}
	wide, narrow := s.Get("wide"), s.Get("narrow")
	both := []Charge{{wide, "ip", 1}, {narrow, "acct", 1}}
	if refused, _ := AllowAll(t0, both...); refused != nil {
		t.Fatalf("refused by %s", refused.Limit.Name())
	}
	for range 50 {
		if refused, retry := AllowAll(t0, both...); refused == nil || refused.Limit != narrow || retry != time.Hour {
			t.Fatalf("want a refusal by narrow for 1h, got %v %s", refused, retry)
		}
	}
	if left := wide.Rate("ip").Left(wide.shardOf("ip").keys["ip"].tat, t0.UnixNano()); left != 9 {
		t.Errorf("%d units of wide are left, want 9: refusals must be refunded", left)
	}
	if s.Get("none") != nil || s.Scope("narrow") != PerAccount || len(s.Names()) != 2 {
		t.Error("the set does not know its limits")
	}
}

func FuzzTake(f *testing.F) {
	f.Add(int64(0), int64(1), 1, 10, int64(time.Minute), 5)
	f.Add(int64(math.MaxInt64), int64(1), -3, 1, int64(time.Hour), 0)
	f.Fuzz(func(t *testing.T, tat, now int64, cost, count int, per int64, burst int) {
		r := Rate{Count: count, Per: time.Duration(per), Burst: burst}
		if r.Validate() != nil || now < 0 || now > t0.AddDate(100, 0, 0).UnixNano() {
			t.Skip()
		}
		next, ok, retry := r.Take(tat, now, cost)
		if ok != (retry == 0) {
			t.Errorf("ok=%v but retry=%s", ok, retry)
		}
		if !ok && next != tat {
			t.Error("a refusal changed the stored time")
		}
		if retry < 0 {
			t.Errorf("negative retry %s", retry)
		}
	})
}

func BenchmarkAllow(b *testing.B) {
	l := newLimiter(b, Rate{Count: 1000, Per: time.Second}, 0)
	keys := make([]string, 1024)
	for i := range keys {
		keys[i] = fmt.Sprintf("198.51.100.%d", i)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		l.Allow(keys[i&1023], 1, t0.Add(time.Duration(i)*time.Microsecond))
		i++
	}
}
