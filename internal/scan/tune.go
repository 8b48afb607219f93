package scan

import (
	"context"
	"fmt"
	"math"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"chancery/internal/scan/probe"
)

// tuner finds how many targets may be in flight: as many as this machine
// serves without delay. Any fixed number is wrong: too few waste a quiet
// machine, and too many make a busy one see time-outs that are not the
// endpoints' fault.
type tuner struct {
	min, max int
	latency  time.Duration // local delay that is still fine
	limit    atomic.Int64
	peak     atomic.Int64

	sample     []metrics.Sample
	before     []uint64 // counts of the histogram at the last step
	taken, bad uint64   // of the tokens, likewise
}

const schedLatencies = "/sched/latencies:seconds"

func newTuner(start, least, most int, latency time.Duration) *tuner {
	t := &tuner{min: least, max: most, latency: latency, sample: []metrics.Sample{{Name: schedLatencies}}}
	t.set(min(max(start, least), most))
	return t
}

func (t *tuner) set(n int) {
	t.limit.Store(int64(n))
	if p := t.peak.Load(); int64(n) > p {
		t.peak.Store(int64(n))
	}
}

// next is the rule: grow by a tenth while there is demand and no delay, shrink
// by a fifth when there is delay.
func (t *tuner) next(limit int, delayed, demand bool) int {
	switch {
	case delayed:
		limit -= max(limit/5, 1)
	case demand:
		limit += max(limit/10, 1)
	}
	return min(max(limit, t.min), t.max)
}

// run adapts the limit until ctx ends. demand reports whether targets wait for
// a place; changed is called after each change.
func (t *tuner) run(ctx context.Context, every time.Duration, tokens *probe.Tokens, demand func() bool, changed func()) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	t.delayed(tokens) // forget what was before
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := int(t.limit.Load())
		if n := t.next(now, t.delayed(tokens), demand()); n != now {
			t.set(n)
			changed()
		}
	}
}

// delayed reports whether, since the last call, one in a hundred goroutines
// waited longer than the bound for a processor, or for a CPU token.
func (t *tuner) delayed(tokens *probe.Tokens) bool {
	taken, bad := tokens.Counts()
	slowTokens := exceeds(bad-t.bad, taken-t.taken)
	t.taken, t.bad = taken, bad
	return t.slowScheduler() || slowTokens
}

// exceeds reports whether bad is more than 1 % of all.
func exceeds(bad, all uint64) bool { return bad > 0 && bad*100 > all }

// slowScheduler reads the scheduling latencies since the last call.
func (t *tuner) slowScheduler() bool {
	metrics.Read(t.sample)
	if t.sample[0].Value.Kind() != metrics.KindFloat64Histogram {
		return false
	}
	h := t.sample[0].Value.Float64Histogram()
	if len(t.before) != len(h.Counts) {
		t.before = make([]uint64, len(h.Counts))
	}
	var bad, all uint64
	for i, n := range h.Counts {
		delta := n - t.before[i]
		t.before[i] = n
		all += delta
		if lower := h.Buckets[i]; !math.IsInf(lower, -1) && lower >= t.latency.Seconds() {
			bad += delta
		}
	}
	return exceeds(bad, all)
}

// flightBounds returns the least and most targets in flight for a process that
// may open descriptors files, and a note for the user if that is what bounds
// it.
func flightBounds(cfg Config, descriptors uint64) (least, most int, note string) {
	most = cfg.MaxInFlight
	share := uint64(float64(descriptors) * cfg.DescriptorShare)
	if share < uint64(most) {
		most = max(int(share), 1)
		need := uint64(math.Ceil(float64(cfg.MaxInFlight) / cfg.DescriptorShare))
		note = fmt.Sprintf("the limit of %d open files allows %d connections at once, not %d; raise it with: ulimit -n %d", descriptors, most, cfg.MaxInFlight, need)
	}
	return min(cfg.MinInFlight, most), most, note
}
