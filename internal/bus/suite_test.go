package bus_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/bus"
	"chancery/internal/bus/bustest"
	"chancery/internal/loop"
)

// patience bounds every wait for something that must happen: longer than the
// AckWait of consumers that name none, for a delivery that was lost comes again
// after that.
const patience = 2 * time.Minute

// rig is one place to run a bus in, and one test's part of it.
type rig struct {
	t       *testing.T
	servers *bustest.Servers // nil: embedded
	cfg     bus.Config
	first   *bus.Bus
}

// cases are the behaviours that every topology has.
var cases = []struct {
	name string
	run  func(*testing.T, *rig)
}{
	{"PublishAndConsume", testPublishAndConsume},
	{"CapHoldsOverProcesses", testCapHoldsOverProcesses},
	{"BusyProcessHoldsNothingBack", testBusyProcessHoldsNothingBack},
	{"FullStreamRefuses", testFullStreamRefuses},
	{"DeadProcess", testDeadProcess},
	{"Outcomes", testOutcomes},
	{"LongHandlerKeepsItsMessage", testLongHandlerKeepsItsMessage},
	{"ShutdownHandsBack", testShutdownHandsBack},
	{"PauseAndResume", testPauseAndResume},
	{"Depth", testDepth},
	{"Unique", testUnique},
	{"LostStreamAndConsumer", testLostStreamAndConsumer},
	{"Hints", testHints},
	{"WakeMerges", testWakeMerges},
	{"SlowWatcherIsTold", testSlowWatcherIsTold},
	{"Requests", testRequests},
	{"Cache", testCache},
	{"CacheIsBounded", testCacheIsBounded},
	{"CacheWatch", testCacheWatch},
}

func TestSuite(t *testing.T) {
	for _, top := range []struct {
		name    string
		servers int
	}{{"embedded", 0}, {"external", 1}, {"cluster", 3}} {
		t.Run(top.name, func(t *testing.T) {
			var servers *bustest.Servers
			if top.servers > 0 {
				servers = bustest.Start(t, top.servers)
			}
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) { c.run(t, newRig(t, servers, c.name)) })
			}
		})
	}
}

// newRig returns a rig with names of its own.
func newRig(t *testing.T, servers *bustest.Servers, prefix string) *rig {
	r := &rig{t: t, servers: servers, cfg: bus.Config{
		Prefix:  prefix,
		Streams: []bus.Stream{{Name: "work"}, {Name: "tiny", MaxBytes: 64 << 10}, {Name: "rows", Unique: true}},
		Caches:  []bus.CacheSpec{{Name: "blob"}, {Name: "small", MaxBytes: 32 << 10, TTL: time.Second}},
	}}
	if servers != nil {
		r.cfg.URL = servers.URL()
	}
	return r
}

// process opens a bus as another process would.
func (r *rig) process() *bus.Bus {
	r.t.Helper()
	if r.first != nil && r.servers == nil {
		b, err := r.first.Attach(r.t.Context())
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() {
			if err := b.Close(); err != nil {
				r.t.Error(err)
			}
		})
		return b
	}
	b := bustest.Open(r.t, r.cfg)
	if r.first == nil {
		r.first = b
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	if err := b.Ready(ctx); err != nil {
		r.t.Fatal(err)
	}
	return b
}

// consumer returns a handle.
func consumer(t *testing.T, b *bus.Bus, cfg bus.ConsumerConfig) *bus.Consumer {
	t.Helper()
	if cfg.Stream == "" {
		cfg.Stream = "work"
	}
	if cfg.Name == "" {
		cfg.Name = "workers"
	}
	if cfg.Backoff == (loop.Backoff{}) {
		cfg.Backoff = loop.Backoff{Base: time.Millisecond, Max: 10 * time.Millisecond}
	}
	c, err := b.Consumer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// run runs a consumer until the returned function is called or the test ends.
func run(t *testing.T, c *bus.Consumer, h bus.Handler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := c.Run(ctx, h); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(stop)
	return stop
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for tick := time.NewTicker(2 * time.Millisecond); ; {
		if ok() {
			tick.Stop()
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited %s in vain: %s", patience, what)
		}
	}
}

// receive waits for a value.
func receive[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited %s in vain: %s", patience, what)
		panic("unreachable")
	}
}

// publish publishes, trying again while the bus refuses.
func publish(t *testing.T, b *bus.Bus, subject, id string, data string) {
	t.Helper()
	var err error
	until(t, "publish "+subject, func() bool {
		err = b.Publish(t.Context(), subject, id, []byte(data))
		return err == nil
	})
}

// depth asks for a depth, trying again while there is no leader.
func depth(t *testing.T, c *bus.Consumer) (d bus.Depth) {
	t.Helper()
	until(t, "ask for the depth", func() bool {
		var err error
		d, err = c.Depth(t.Context())
		return err == nil
	})
	return d
}

// waiting waits until a consumer has n messages pending.
func waiting(t *testing.T, c *bus.Consumer, n int) {
	t.Helper()
	until(t, fmt.Sprintf("%d messages to be pending", n), func() bool { return depth(t, c).Pending == n })
}

// drained waits until a consumer has nothing left.
func drained(t *testing.T, c *bus.Consumer) {
	t.Helper()
	var d bus.Depth
	var err error
	defer func() {
		if t.Failed() {
			t.Logf("depth %+v, error %v", d, err)
		}
	}()
	until(t, "empty stream", func() bool {
		d, err = c.Depth(t.Context())
		return err == nil && d == bus.Depth{}
	})
}

// gauge counts what runs at once, and keeps the most.
type gauge struct{ now, most atomic.Int64 }

// enter counts one more, and leave one less.
func (g *gauge) enter() {
	n := g.now.Add(1)
	for old := g.most.Load(); n > old && !g.most.CompareAndSwap(old, n); old = g.most.Load() {
	}
}

func (g *gauge) leave() { g.now.Add(-1) }

// metric returns the sum of a family over the given label value; an empty
// label value matches all.
func metric(t *testing.T, reg *prometheus.Registry, name, label string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			match := label == ""
			for _, l := range m.GetLabel() {
				match = match || l.GetValue() == label
			}
			if f.GetName() == name && match {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}
