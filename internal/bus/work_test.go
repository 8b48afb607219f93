package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/bus"
	"chancery/internal/fault"
)

// tally counts handled messages by id.
type tally struct {
	mu  sync.Mutex
	ids map[string]int
}

func (y *tally) add(id string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.ids == nil {
		y.ids = map[string]int{}
	}
	y.ids[id]++
}

func (y *tally) count(id string) int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.ids[id]
}

func (y *tally) len() int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return len(y.ids)
}

func testPublishAndConsume(t *testing.T, r *rig) {
	b, other := r.process(), r.process()
	c := consumer(t, b, bus.ConsumerConfig{})
	const n = 200
	var seen tally
	start := time.Now()
	run(t, c, func(_ context.Context, m bus.Message) error {
		if m.Attempt != 1 || m.Subject != "work.key."+m.ID || string(m.Data) != "data of "+m.ID {
			t.Errorf("message %+v", m)
		}
		if m.PublishedAt.Before(start.Add(-time.Second)) || m.PublishedAt.After(time.Now().Add(time.Second)) {
			t.Errorf("published at %s", m.PublishedAt)
		}
		seen.add(m.ID)
		return nil
	})
	for i := range n {
		id := fmt.Sprint(i)
		publish(t, other, "work.key."+id, id, "data of "+id)
		publish(t, b, "work.key."+id, id, "data of "+id) // the same id: no second message
	}
	until(t, "all messages handled", func() bool { return seen.len() == n })
	drained(t, c)
	for i := range n {
		if got := seen.count(fmt.Sprint(i)); got != 1 {
			t.Errorf("message %d was handled %d times", i, got)
		}
	}
}

func testCapHoldsOverProcesses(t *testing.T, r *rig) {
	const n, low, high = 120, 5, 8
	gate, inFlight, handled := make(chan struct{}), gauge{}, atomic.Int64{}
	var first *bus.Consumer
	for range 3 {
		c := consumer(t, r.process(), bus.ConsumerConfig{Cap: low, Workers: 4})
		if first == nil {
			first = c
		}
		run(t, c, func(ctx context.Context, _ bus.Message) error {
			inFlight.enter()
			defer inFlight.leave()
			select {
			case <-gate:
			case <-ctx.Done():
				return ctx.Err()
			}
			handled.Add(1)
			return nil
		})
	}
	for i := range n {
		publish(t, r.first, "work", fmt.Sprint(i), "x")
	}
	until(t, "the cap to be used up", func() bool { return inFlight.now.Load() == low })
	until(t, "the server to agree", func() bool {
		d := depth(t, first)
		return d.InFlight == low && d.Pending == n-low
	})
	if most := inFlight.most.Load(); most != low {
		t.Errorf("%d in flight with a cap of %d", most, low)
	}
	if err := first.SetCap(t.Context(), high); err != nil {
		t.Fatal(err)
	}
	until(t, "the new cap to be used up", func() bool { return inFlight.now.Load() == high })
	for range n / 2 {
		gate <- struct{}{}
	}
	if err := first.SetCap(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	until(t, "the third cap", func() bool {
		select {
		case gate <- struct{}{}:
		default:
		}
		return inFlight.now.Load() == 1
	})
	close(gate)
	drained(t, first)
	if most := inFlight.most.Load(); most != high || handled.Load() != n {
		t.Errorf("%d in flight with a cap of %d; %d handled of %d", most, high, handled.Load(), n)
	}
}

func testBusyProcessHoldsNothingBack(t *testing.T, r *rig) {
	const n = 20
	busy, release := make(chan struct{}), make(chan struct{})
	slow := consumer(t, r.process(), bus.ConsumerConfig{Workers: 1})
	run(t, slow, func(context.Context, bus.Message) error {
		busy <- struct{}{}
		<-release
		return nil
	})
	publish(t, r.first, "work", "0", "x")
	receive(t, "the first message", busy)
	var seen tally
	fast := consumer(t, r.process(), bus.ConsumerConfig{Workers: 1})
	run(t, fast, func(_ context.Context, m bus.Message) error { seen.add(m.ID); return nil })
	for i := 1; i < n; i++ {
		publish(t, r.first, "work", fmt.Sprint(i), "x")
	}
	until(t, "the idle process to do all the rest", func() bool { return seen.len() == n-1 })
	close(release)
	drained(t, fast)
}

func testFullStreamRefuses(t *testing.T, r *rig) {
	reg := prometheus.NewRegistry()
	r.cfg.Metrics = bus.NewMetrics(reg)
	b := r.process()
	c := consumer(t, b, bus.ConsumerConfig{Stream: "tiny"})
	payload, accepted := strings.Repeat("x", 4000), 0
	var refused error
	for refused == nil && accepted < 100 {
		if refused = b.Publish(t.Context(), "tiny", fmt.Sprint(accepted), []byte(payload)); refused == nil {
			accepted++
		}
	}
	f := fault.As(refused)
	if !errors.Is(refused, bus.ErrFull) || errors.Is(refused, bus.ErrDown) || f.Code != fault.Unavailable || f.RetryAfter <= 0 || f.Status() != 503 {
		t.Fatalf("refused with %v", refused)
	}
	if accepted < 12 || accepted > 16 {
		t.Errorf("a stream of 64 KiB took %d messages of 4 kB", accepted)
	}
	waiting(t, c, accepted)
	if got := metric(t, reg, "chancery_bus_published_total", "refused"); got != 1 {
		t.Errorf("%v refusals counted", got)
	}
	var seen tally
	run(t, c, func(_ context.Context, m bus.Message) error { seen.add(m.ID); return nil })
	publish(t, b, "tiny", fmt.Sprint(accepted), payload) // room again, by itself
	until(t, "everything accepted to be handled", func() bool { return seen.len() == accepted+1 })
}

func testDeadProcess(t *testing.T, r *rig) {
	survivor, victim := r.process(), r.process()
	started, release := make(chan struct{}), make(chan struct{})
	cfg := bus.ConsumerConfig{Cap: 1, AckWait: time.Second}
	run(t, consumer(t, victim, cfg), func(context.Context, bus.Message) error {
		close(started)
		<-release
		return nil
	})
	publish(t, survivor, "work", "1", "x")
	receive(t, "the victim to begin", started)
	victim.Crash()
	got := make(chan bus.Message, 1)
	c := consumer(t, survivor, cfg)
	run(t, c, func(_ context.Context, m bus.Message) error { got <- m; return nil })
	if m := receive(t, "redelivery", got); m.ID != "1" || m.Attempt < 2 {
		t.Errorf("%+v", m)
	}
	close(release)
	drained(t, c)
}

func testOutcomes(t *testing.T, r *rig) {
	reg := prometheus.NewRegistry()
	r.cfg.Metrics = bus.NewMetrics(reg)
	b := r.process()
	c := consumer(t, b, bus.ConsumerConfig{MaxDeliver: 3})
	var seen tally
	run(t, c, func(_ context.Context, m bus.Message) error {
		seen.add(m.ID)
		switch {
		case m.ID == "discard":
			return bus.Discard(errors.New("row is gone"))
		case m.ID == "dead", m.ID == "later" && m.Attempt == 1:
			return bus.Later(time.Millisecond, errors.New("not now"))
		case m.ID == "fault" && m.Attempt == 1:
			return fault.New(fault.Unavailable, "busy").Retry(time.Millisecond)
		case m.ID == "panic" && m.Attempt < 3:
			panic("bad row")
		case m.ID == "error" && m.Attempt < 3:
			return errors.New("no route")
		}
		return nil
	})
	want := map[string]int{"discard": 1, "dead": 3, "later": 2, "fault": 2, "panic": 3, "error": 3, "fine": 1}
	for id := range want {
		publish(t, b, "work", id, "x")
	}
	drained(t, c)
	for id, n := range want {
		if got := seen.count(id); got != n {
			t.Errorf("%s: %d attempts, want %d", id, got, n)
		}
	}
	for outcome, n := range map[string]float64{"done": 5, "discarded": 1, "dead": 1, "panicked": 2, "retried": 9} {
		if got := metric(t, reg, "chancery_bus_handled_total", outcome); got != n {
			t.Errorf("%s: counted %v, want %v", outcome, got, n)
		}
	}
	if got := metric(t, reg, "chancery_bus_redelivered_total", ""); got != 9 {
		t.Errorf("%v redeliveries, want 9", got)
	}
}

func testLongHandlerKeepsItsMessage(t *testing.T, r *rig) {
	b := r.process()
	extensions := make(chan *nats.Msg, 64)
	sub, err := b.Raw().ChanSubscribe("$JS.ACK."+b.ServerName("work")+".>", extensions)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	c := consumer(t, b, bus.ConsumerConfig{AckWait: 2 * time.Second})
	release, begun := make(chan struct{}), make(chan int, 8)
	run(t, c, func(ctx context.Context, m bus.Message) error {
		begun <- m.Attempt
		select {
		case <-release:
		case <-ctx.Done():
			t.Errorf("cancelled: %v", context.Cause(ctx))
		}
		return nil
	})
	publish(t, b, "work", "1", "x")
	receive(t, "the handler", begun)
	for range 4 { // a third of AckWait each: more than AckWait
		if m := receive(t, "an extension", extensions); string(m.Data) != "+WPI" {
			t.Errorf("%q was sent", m.Data)
		}
	}
	close(release)
	drained(t, c)
	if len(begun) > 0 {
		t.Error("the message was handed out again while its handler ran")
	}
}

func testShutdownHandsBack(t *testing.T, r *rig) {
	started, got := make(chan struct{}), make(chan bus.Message, 1)
	cfg := bus.ConsumerConfig{Cap: 1, AckWait: 10 * time.Minute}
	stop := run(t, consumer(t, r.process(), cfg), func(ctx context.Context, _ bus.Message) error {
		close(started)
		<-ctx.Done()
		return ctx.Err()
	})
	publish(t, r.first, "work", "1", "x")
	receive(t, "the first handler", started)
	c := consumer(t, r.process(), cfg)
	run(t, c, func(_ context.Context, m bus.Message) error { got <- m; return nil })
	stop()
	if m := receive(t, "the message, long before AckWait", got); m.ID != "1" || m.Attempt < 2 {
		t.Errorf("%+v", m)
	}
	drained(t, c)
}

func testPauseAndResume(t *testing.T, r *rig) {
	b := r.process()
	c := consumer(t, b, bus.ConsumerConfig{})
	got := make(chan string, 8)
	run(t, c, func(_ context.Context, m bus.Message) error { got <- m.ID; return nil })
	publish(t, b, "work", "before", "x")
	receive(t, "a message", got)
	until(t, "pause", func() bool { return c.Pause(t.Context(), time.Now().Add(time.Hour)) == nil })
	if err := c.SetCap(t.Context(), 7); err != nil { // does not end the pause
		t.Error(err)
	}
	publish(t, b, "work", "during", "x")
	waiting(t, c, 1)
	if d := depth(t, c); d.InFlight != 0 || len(got) != 0 {
		t.Errorf("paused: %+v, %d handled", d, len(got))
	}
	until(t, "resume", func() bool { return c.Resume(t.Context()) == nil })
	if id := receive(t, "the message", got); id != "during" {
		t.Error(id)
	}
}

func testDepth(t *testing.T, r *rig) {
	b := r.process()
	a := consumer(t, b, bus.ConsumerConfig{Name: "a", Filter: "work.a.>"})
	z := consumer(t, b, bus.ConsumerConfig{Name: "z", Filter: "work.z"})
	if d := depth(t, a); d != (bus.Depth{}) {
		t.Errorf("at first: %+v", d)
	}
	before := time.Now().Add(-time.Second)
	for i := range 10 {
		publish(t, b, fmt.Sprintf("work.a.%d", i), "", "x")
	}
	publish(t, b, "work.z", "", "x")
	check := func(c *bus.Consumer, pending, inFlight int) {
		t.Helper()
		until(t, fmt.Sprintf("%d pending, %d in flight", pending, inFlight), func() bool {
			d := depth(t, c)
			return d.Pending == pending && d.InFlight == inFlight && d.Oldest.After(before) && !d.Oldest.After(time.Now().Add(time.Second))
		})
	}
	check(a, 10, 0) // no consumer has run: what an autoscaler at zero sees
	check(z, 1, 0)
	release := make(chan struct{})
	run(t, consumer(t, b, bus.ConsumerConfig{Name: "a", Filter: "work.a.>", Workers: 3}), func(context.Context, bus.Message) error { <-release; return nil })
	check(a, 7, 3)
	close(release)
	drained(t, a)
	check(z, 1, 0)
}

func testUnique(t *testing.T, r *rig) {
	b := r.process()
	c := consumer(t, b, bus.ConsumerConfig{Stream: "rows"})
	for range 5 {
		for _, row := range []string{"1", "2"} {
			publish(t, b, "rows."+row, "", "x")
		}
	}
	waiting(t, c, 2)
	var seen tally
	stop := run(t, c, func(_ context.Context, m bus.Message) error { seen.add(m.Subject); return nil })
	drained(t, c)
	stop()
	publish(t, b, "rows.1", "", "x") // done, so it may be due again
	waiting(t, c, 1)
	if seen.count("rows.1") != 1 || seen.count("rows.2") != 1 {
		t.Errorf("handled %v", seen.ids)
	}
}

func testLostStreamAndConsumer(t *testing.T, r *rig) {
	b := r.process()
	c := consumer(t, b, bus.ConsumerConfig{})
	var seen tally
	run(t, c, func(_ context.Context, m bus.Message) error { seen.add(m.ID); return nil })
	handled := func(id string) {
		t.Helper()
		publish(t, b, "work", id, "x")
		until(t, id, func() bool { return seen.count(id) > 0 })
	}
	handled("at first")
	if err := c.LoseConsumer(t.Context()); err != nil {
		t.Fatal(err)
	}
	handled("without the consumer")
	if err := b.Lose(t.Context(), "work"); err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(t.Context(), "work", "early", []byte("x")); err != nil && (!errors.Is(err, bus.ErrDown) || fault.As(err).RetryAfter <= 0) {
		t.Errorf("without the stream: %v", err)
	}
	handled("without the stream")
}

func TestMistakesAreErrors(t *testing.T) {
	r := newRig(t, nil, "mistakes")
	b := r.process()
	for _, subject := range []string{"", "other", "work.", "work..x", "work.*", "work.>", "work.a b", "work.\r\nPUB x", "work." + strings.Repeat("x", 600)} {
		if err := b.Publish(t.Context(), subject, "", nil); err == nil {
			t.Errorf("publish to %q worked", subject)
		}
	}
	if err := b.Publish(t.Context(), "work", "", make([]byte, 1<<20+1)); !fault.Is(err, fault.TooLarge) {
		t.Errorf("too large: %v", err)
	}
	for _, cfg := range []bus.ConsumerConfig{
		{Stream: "other", Name: "x"}, {Stream: "work", Name: "a.b"}, {Stream: "work"}, {Stream: "work", Name: "x", Cap: -1},
		{Stream: "work", Name: "x", Filter: "work.>.x"},
	} {
		if _, err := b.Consumer(cfg); err == nil {
			t.Errorf("%+v is a consumer", cfg)
		}
	}
	if _, err := b.Cache("other"); err == nil {
		t.Error("there is an undeclared cache")
	}
	for _, cfg := range []bus.Config{
		{Prefix: "a.b"}, {URL: "nats://%zz"}, {URL: "nats://127.0.0.1:1", Creds: "/does/not/exist"},
		{Streams: []bus.Stream{{Name: "x"}, {Name: "x"}}}, {Streams: []bus.Stream{{}}}, {Caches: []bus.CacheSpec{{Name: "a*"}}},
	} {
		if b, err := bus.Open(t.Context(), cfg); err == nil {
			t.Errorf("%+v opened", cfg)
			b.Close()
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Publish(ctx, "work", "", nil); !errors.Is(err, context.Canceled) || errors.Is(err, bus.ErrDown) {
		t.Errorf("cancelled: %v", err)
	}
}

func FuzzToken(f *testing.F) {
	for _, s := range []string{"", "letsencrypt", "a.b", "*", ">", "=", "=2E", "ä\x00\xff", " "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		token := bus.Token(s)
		if strings.ContainsAny(token, ". *>\t\r\n") || slices.ContainsFunc([]byte(token), func(c byte) bool { return c < '!' || c > '~' }) {
			t.Errorf("token %q", token)
		}
		if back, ok := bus.Untoken(token); !ok || back != s {
			t.Errorf("%q became %q became %q", s, token, back)
		}
		bus.Untoken(s) // does not panic
	})
}
