package bus_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/bus"
	"chancery/internal/bus/bustest"
	"chancery/internal/fault"
)

func TestServerRestart(t *testing.T) {
	servers, reg := bustest.Start(t, 1), prometheus.NewRegistry()
	r := newRig(t, servers, "restart")
	r.cfg.Metrics = bus.NewMetrics(reg)
	b := r.process()
	c, blob := consumer(t, b, bus.ConsumerConfig{}), cache(t, b, "blob")
	wake, err := b.Wake(t.Context(), "due")
	if err != nil {
		t.Fatal(err)
	}
	gap := make(chan bus.Hint, 10)
	if err := b.Watch(t.Context(), "due", func(h bus.Hint) { gap <- h }); err != nil {
		t.Fatal(err)
	}
	const n = 50
	for i := range n {
		publish(t, b, "work", fmt.Sprint(i), "x")
	}
	var seen tally
	hold := make(chan struct{})
	run(t, c, func(_ context.Context, m bus.Message) error { <-hold; seen.add(m.ID); return nil })
	until(t, "messages in flight", func() bool { return depth(t, c).InFlight > 0 })

	servers.Stop(0)
	until(t, "the loss to be seen", func() bool { return metric(t, reg, "chancery_bus_connected", "") == 0 })
	start := time.Now()
	err = b.Publish(t.Context(), "work", "lost", []byte("x"))
	if f := fault.As(err); !errors.Is(err, bus.ErrDown) || f.Code != fault.Unavailable || f.RetryAfter <= 0 {
		t.Errorf("publish while down: %v", err)
	}
	if _, ok := blob.Get(t.Context(), "a"); ok {
		t.Error("a value from a cache that is away")
	}
	if err := blob.Delete(t.Context(), "a"); !errors.Is(err, bus.ErrDown) {
		t.Errorf("delete while down: %v", err)
	}
	if _, err := b.Request(t.Context(), "x", nil); !errors.Is(err, bus.ErrDown) {
		t.Errorf("request while down: %v", err)
	}
	if _, err := c.Depth(t.Context()); !errors.Is(err, bus.ErrDown) {
		t.Errorf("depth while down: %v", err)
	}
	b.Notify("due", nil)
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %s to learn that the bus is down", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Ready(ctx); !fault.Is(err, fault.Unavailable) {
		t.Errorf("ready while down: %v", err)
	}

	servers.StartAgain(0)
	close(hold)
	receive(t, "a wake-up after the gap", wake)
	if h := receive(t, "word of the gap", gap); !h.Missed {
		t.Errorf("%+v", h)
	}
	until(t, "every stored message to be handled", func() bool { return seen.len() == n })
	until(t, "the cache", func() bool { return blob.Put(t.Context(), "a", []byte("x")) == nil })
	if err := b.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	if got := metric(t, reg, "chancery_bus_reconnects_total", ""); got != 1 {
		t.Errorf("%v reconnects", got)
	}
}

func TestServerAwayAtTheStart(t *testing.T) {
	servers := bustest.Start(t, 1)
	servers.Stop(0)
	r := newRig(t, servers, "away")
	b := bustest.Open(t, r.cfg)
	c := consumer(t, b, bus.ConsumerConfig{})
	got := make(chan bus.Message, 1)
	run(t, c, func(_ context.Context, m bus.Message) error { got <- m; return nil })
	wake, err := b.Wake(t.Context(), "due")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(t.Context(), "work", "", nil); !errors.Is(err, bus.ErrDown) {
		t.Errorf("publish: %v", err)
	}
	servers.StartAgain(0)
	receive(t, "a wake-up, for there may have been hints", wake)
	publish(t, b, "work", "1", "x")
	receive(t, "the message", got)
}

// ledger is what became of the messages of a cluster that loses nodes.
type ledger struct {
	mu    sync.Mutex
	acked []string
	seen  tally
	inFly gauge
}

// behind is how many messages are stored and not handled.
func (l *ledger) behind() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked) - l.seen.len()
}

// feed publishes until stopped, trying again what was refused.
func (l *ledger) feed(t *testing.T, b *bus.Bus, name string, stop <-chan struct{}) {
	retry := time.NewTicker(5 * time.Millisecond)
	defer retry.Stop()
	for i := 0; ; {
		if id := fmt.Sprintf("%s-%d", name, i); l.behind() < 100 && b.Publish(t.Context(), "work", id, []byte("x")) == nil {
			l.mu.Lock()
			l.acked = append(l.acked, id)
			l.mu.Unlock()
			if i++; i%10 > 0 {
				continue
			}
		}
		select {
		case <-stop:
			return
		case <-retry.C:
		}
	}
}

// progress waits until n more messages are stored, and n more handled.
func (l *ledger) progress(t *testing.T, n int) {
	t.Helper()
	l.mu.Lock()
	acked, seen := len(l.acked), l.seen.len()
	l.mu.Unlock()
	until(t, fmt.Sprintf("%d more messages", n), func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.acked) >= acked+n && l.seen.len() >= seen+n
	})
}

func TestClusterLosesLeaders(t *testing.T) {
	const limit = 3
	servers := bustest.Start(t, 3)
	r := newRig(t, servers, "lose")
	var l ledger
	var consumers []*bus.Consumer
	stop := make(chan struct{})
	var feeding sync.WaitGroup
	for i := range 3 {
		b := r.process()
		c := consumer(t, b, bus.ConsumerConfig{Cap: limit, AckWait: 2 * time.Second})
		consumers = append(consumers, c)
		run(t, c, func(_ context.Context, m bus.Message) error {
			l.inFly.enter()
			defer l.inFly.leave()
			runtime.Gosched()
			l.seen.add(m.ID)
			return nil
		})
		feeding.Go(func() { l.feed(t, b, fmt.Sprint(i), stop) })
	}
	end := sync.OnceFunc(func() { close(stop); feeding.Wait() })
	defer end()
	l.progress(t, 50)
	for range 2 {
		leader := servers.Leader(r.first.ServerName("work"))
		until(t, "a leader", func() bool { leader = servers.Leader(r.first.ServerName("work")); return leader >= 0 })
		servers.Stop(leader)
		l.progress(t, 50) // two of three go on
		servers.StartAgain(leader)
		l.progress(t, 50)
	}
	end()
	drained(t, consumers[0])
	for _, id := range l.acked {
		if l.seen.count(id) == 0 {
			t.Errorf("message %s was stored and never handled", id)
		}
	}
	if most := l.inFly.most.Load(); most > limit {
		t.Errorf("%d in flight with a cap of %d", most, limit)
	}
	t.Logf("%d messages stored, at most %d in flight", len(l.acked), l.inFly.most.Load())
}

func TestEmbeddedKeepsToItself(t *testing.T) {
	dir := t.TempDir()
	goroutines := runtime.NumGoroutine()
	start := time.Now()
	b, err := bus.Open(t.Context(), bus.Config{Dir: dir, Streams: []bus.Stream{{Name: "work"}}, Caches: []bus.CacheSpec{{Name: "blob"}}})
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	t.Logf("opened in %s", took)
	if took > time.Second { // 20 times the promise, for machines that are busy
		t.Errorf("opening took %s", took)
	}
	if a := b.ListenAddr(); a != nil {
		t.Errorf("it listens on %s", a)
	}
	if err := b.Publish(t.Context(), "work", "", []byte("x")); err != nil {
		t.Error(err)
	}
	var wg sync.WaitGroup
	var handled atomic.Int64
	c := consumer(t, b, bus.ConsumerConfig{})
	wg.Go(func() {
		if err := c.Run(t.Context(), func(context.Context, bus.Message) error { handled.Add(1); return nil }); err != nil {
			t.Error(err)
		}
	})
	until(t, "the message", func() bool { return handled.Load() == 1 })
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait() // Close ends consumers
	if err := b.Publish(t.Context(), "work", "", nil); !errors.Is(err, bus.ErrDown) {
		t.Errorf("publish after Close: %v", err)
	}
	if err := c.Run(t.Context(), nil); !errors.Is(err, bus.ErrDown) {
		t.Errorf("run after Close: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	until(t, "all goroutines to end", func() bool { return runtime.NumGoroutine() <= goroutines })
}

// TestClaimLost: a handler whose message can no longer be kept is told before
// the server gives the message to another.
func TestClaimLost(t *testing.T) {
	servers := bustest.Start(t, 1)
	r := newRig(t, servers, "claim")
	b := r.process()
	c := consumer(t, b, bus.ConsumerConfig{AckWait: time.Second})
	started, lost := make(chan struct{}, 8), make(chan error, 8)
	run(t, c, func(ctx context.Context, _ bus.Message) error {
		started <- struct{}{}
		<-ctx.Done()
		lost <- context.Cause(ctx)
		return nil
	})
	publish(t, b, "work", "1", "x")
	receive(t, "the handler", started)
	servers.Stop(0)
	if err := receive(t, "the handler's end", lost); !errors.Is(err, bus.ErrClaimLost) {
		t.Errorf("cancelled by %v", err)
	}
}
