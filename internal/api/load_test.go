package api_test

import (
	"errors"
	"testing"
	"time"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
)

func TestLoadShowsWhatWasMeasured(t *testing.T) {
	w := newWorld(t, dbtest.SQLiteURL(t))
	op := w.metrics.Op("finalize")
	op.Observe(3*time.Millisecond, nil)
	op.Observe(2*time.Millisecond, fault.New(fault.Malformed, "the caller"))
	op.Observe(40*time.Millisecond, errors.New("the server"))
	w.metrics.Query("acme.get_order").Observe(0.002)
	w.metrics.Query("acme.claim_order").Observe(0.2)
	w.metrics.Queue("renew").Set(17)

	before := time.Now()
	first, err := client.Get[api.Load](ctx, w.viewer, "/load", nil)
	check(t, err)
	if len(first.Operations) != 1 {
		t.Fatalf("operations: %+v", first.Operations)
	}
	got := first.Operations[0]
	if got.Operation != "finalize" || got.Success != 1 || got.Rejected != 1 || got.Failure != 1 || got.Seconds.Count != 3 {
		t.Errorf("finalize: %+v", got)
	}
	if q, ok := got.Seconds.Quantile(0.99); !ok || q < 0.025 || q > 0.05 {
		t.Errorf("p99 %v, want within the bucket of 40 ms", q)
	}
	if d := first.Database; d.Seconds.Count != 2 || len(d.Busiest) != 2 || d.Busiest[0].Statement != "acme.claim_order" {
		t.Errorf("database: %+v", d)
	}
	if first.Queues["renew"] != 17 || first.Runtime.Goroutines < 1 || first.Process == "" || first.Build.Version != "v9" {
		t.Errorf("load: %+v", first)
	}
	// However many look: one reading a second.
	op.Observe(time.Millisecond, nil)
	second, err := client.Get[api.Load](ctx, w.admin, "/load", nil)
	check(t, err)
	if time.Since(before) < time.Second && (second.At != first.At || second.Operations[0].Seconds.Count != 3) {
		t.Errorf("read again within a second: %s and %s", first.At, second.At)
	}
	limit, tick := time.After(10*time.Second), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for {
		l, err := client.Get[api.Load](ctx, w.viewer, "/load", nil)
		check(t, err)
		if l.Operations[0].Seconds.Count == 4 && l.At.After(first.At) && l.Process == first.Process {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("the new figure does not appear: %+v", l.Operations)
		}
	}
}

func TestLoadOfAProcessThatMeasuresNothing(t *testing.T) {
	w := newWorld(t, dbtest.SQLiteURL(t), func(c *api.Config) { c.Metrics = nil })
	if _, err := client.Get[api.Load](ctx, w.viewer, "/load", nil); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v", err)
	}
}
