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

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/bus"
	"chancery/internal/fault"
)

func testHints(t *testing.T, r *rig) {
	b, other := r.process(), r.process()
	got := make(chan bus.Hint, 100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := b.Watch(ctx, "cache.*.gone", func(h bus.Hint) { got <- h }); err != nil {
		t.Fatal(err)
	}
	// In a cluster the other node hears of the subscription a moment later.
	until(t, "the first hint", func() bool { other.Notify("cache.0.gone", []byte("0")); return len(got) > 0 })
	for len(got) > 0 {
		<-got
	}
	for i := 1; i <= 20; i++ {
		other.Notify("cache.x", []byte("not watched"))
		other.Notify(fmt.Sprintf("cache.%d.gone", i), fmt.Append(nil, i))
	}
	for want := 1; want <= 20; {
		h := receive(t, "a hint", got)
		if h.Subject == "cache.0.gone" {
			continue
		}
		if h.Subject != fmt.Sprintf("cache.%d.gone", want) || string(h.Data) != fmt.Sprint(want) || h.Missed {
			t.Fatalf("hint %d is %+v", want, h)
		}
		want++
	}
	b.Notify("not a subject", nil) // no effect
	if err := b.Watch(ctx, "a b", nil); err == nil {
		t.Error("a bad pattern was accepted")
	}
}

func testWakeMerges(t *testing.T, r *rig) {
	reg := prometheus.NewRegistry()
	r.cfg.Metrics = bus.NewMetrics(reg)
	b := r.process()
	wake, err := b.Wake(t.Context(), "due")
	if err != nil {
		t.Fatal(err)
	}
	var seen atomic.Int64
	if err := b.Watch(t.Context(), "due", func(bus.Hint) { seen.Add(1) }); err != nil {
		t.Fatal(err)
	}
	const n = 2000
	sent := func(outcome string) int { return int(metric(t, reg, "chancery_bus_hints_total", outcome)) }
	for range n {
		b.Notify("due", nil)
	}
	merged := sent("merged")
	receive(t, "a wake-up", wake)
	if merged < n*9/10 {
		t.Errorf("only %d of %d hints were merged", merged, n)
	}
	// The hints held back are sent as one, after the last call.
	until(t, "the last hint", func() bool { return sent("sent") > n-merged && seen.Load() == int64(sent("sent")) })
	if s := sent("sent"); s > n/10 {
		t.Errorf("%d hints are %d messages", n, s)
	}
}

func testSlowWatcherIsTold(t *testing.T, r *rig) {
	b := r.process()
	release, missed := make(chan struct{}), make(chan bus.Hint, 1)
	once := sync.OnceFunc(func() { <-release })
	err := b.Watch(t.Context(), "feed", func(h bus.Hint) {
		once()
		if h.Missed {
			select {
			case missed <- h:
			default:
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 5000 {
		b.Notify("feed", []byte("x"))
	}
	if err := b.Raw().Flush(); err != nil {
		t.Fatal(err)
	}
	close(release)
	if h := receive(t, "word of the gap", missed); h.Subject != "feed" {
		t.Errorf("%+v", h)
	}
}

func testRequests(t *testing.T, r *rig) {
	b, other := r.process(), r.process()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := b.Serve(ctx, "nonce.r1.*", func(ctx context.Context, subject string, data []byte) ([]byte, error) {
		switch string(data) {
		case "bad":
			return nil, fault.New(fault.BadNonce, "used before").Retry(1500e6)
		case "internal":
			return nil, errors.New("a secret of the server")
		case "panic":
			panic("bad request")
		case "slow":
			<-ctx.Done()
		}
		return []byte(subject + "=" + string(data)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(data string) (string, error) {
		reply, err := other.Request(t.Context(), "nonce.r1.redeem", []byte(data))
		return string(reply), err
	}
	until(t, "an answer", func() bool { _, err := ask("x"); return err == nil })
	if got, err := ask("17"); got != "nonce.r1.redeem=17" || err != nil {
		t.Error(got, err)
	}
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if _, err := ask("x"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	_, err = ask("bad")
	if f := fault.As(err); f.Code != fault.BadNonce || f.Detail != "used before" || f.RetryAfter != 1500e6 {
		t.Errorf("%+v", f)
	}
	for _, data := range []string{"internal", "panic"} {
		if _, err = ask(data); !fault.Is(err, fault.ServerInternal) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", data, err)
		}
	}
	short, cancelShort := context.WithTimeout(t.Context(), 50e6)
	defer cancelShort()
	if _, err = other.Request(short, "nonce.r1.redeem", []byte("slow")); !errors.Is(err, bus.ErrDown) || !fault.Is(err, fault.Unavailable) {
		t.Errorf("time-out: %v", err)
	}
	if _, err = other.Request(t.Context(), "nonce.r2.redeem", nil); !errors.Is(err, bus.ErrNobody) || !fault.Is(err, fault.Unavailable) {
		t.Errorf("nobody: %v", err)
	}
	cancel()
	until(t, "the server to be gone", func() bool { _, err := ask("x"); return errors.Is(err, bus.ErrNobody) })
}

// cache returns a handle.
func cache(t *testing.T, b *bus.Bus, name string) *bus.Cache {
	t.Helper()
	c, err := b.Cache(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// holds waits until a key has a value in a cache; "" is absence.
func holds(t *testing.T, c *bus.Cache, key, want string) {
	t.Helper()
	until(t, fmt.Sprintf("%q to hold %q", key, want), func() bool {
		got, ok := c.Get(t.Context(), key)
		return string(got) == want && ok == (want != "")
	})
}

func testCache(t *testing.T, r *rig) {
	b, o := cache(t, r.process(), "blob"), cache(t, r.process(), "blob")
	holds(t, b, "a", "")
	for _, key := range []string{"a", "a.b", "*", "$KV.>", "\x00 \xff\r\n", strings.Repeat("k", 400)} {
		until(t, "put", func() bool { return b.Put(t.Context(), key, []byte("v of "+key)) == nil })
		holds(t, o, key, "v of "+key)
	}
	if err := o.Put(t.Context(), "a", []byte("newer")); err != nil {
		t.Fatal(err)
	}
	holds(t, b, "a", "newer")
	if err := b.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	holds(t, o, "a", "")
	holds(t, o, "a.b", "v of a.b")
	for _, key := range []string{"", strings.Repeat("k", 401)} {
		if _, ok := b.Get(t.Context(), key); ok || b.Put(t.Context(), key, nil) == nil {
			t.Errorf("a key of %d bytes is accepted", len(key))
		}
	}
	if err := b.Put(t.Context(), "a", make([]byte, 1<<20+1)); !fault.Is(err, fault.TooLarge) {
		t.Errorf("too large: %v", err)
	}
	short := cache(t, r.first, "small")
	if err := short.Put(t.Context(), "brief", []byte("x")); err != nil {
		t.Fatal(err)
	}
	holds(t, short, "brief", "") // its TTL is a second
}

func testCacheIsBounded(t *testing.T, r *rig) {
	r.cfg.Caches[1].TTL = 0
	c := cache(t, r.process(), "small")
	value := strings.Repeat("x", 1000)
	for i := range 100 {
		until(t, "put", func() bool { return c.Put(t.Context(), fmt.Sprint(i), []byte(value)) == nil })
	}
	holds(t, c, "99", value) // the newest is there, for the oldest there was no room
	holds(t, c, "0", "")
	kept := 0
	for i := range 100 {
		if _, ok := c.Get(t.Context(), fmt.Sprint(i)); ok {
			kept++
		}
	}
	if kept < 15 || kept > 32 {
		t.Errorf("32 KiB hold %d values of 1 kB", kept)
	}
}

func testCacheWatch(t *testing.T, r *rig) {
	b, o := cache(t, r.process(), "blob"), cache(t, r.process(), "blob")
	got := make(chan bus.Change, 1000)
	if err := b.Watch(t.Context(), func(c bus.Change) { got <- c }); err != nil {
		t.Fatal(err)
	}
	until(t, "the first change", func() bool { _ = o.Put(t.Context(), "first", []byte("1")); return len(got) > 0 })
	if err := o.Put(t.Context(), "a.b c", []byte("2")); err != nil {
		t.Fatal(err)
	}
	if err := o.Delete(t.Context(), "a.b c"); err != nil {
		t.Fatal(err)
	}
	var changes []string
	for !slices.Contains(changes, "true ") {
		if c := receive(t, "a change", got); c.Key == "a.b c" {
			changes = append(changes, fmt.Sprint(c.Deleted, " ", string(c.Value)))
		}
	}
	if !slices.Equal(changes, []string{"false 2", "true "}) {
		t.Errorf("%q", changes)
	}
}
