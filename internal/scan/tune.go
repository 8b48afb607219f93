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
// serves without delay of its own. Any fixed number is wrong: too few waste a quiet
// machine, and too many make a busy one see time-outs that are not the
// endpoints' fault.
type tuner struct {
	min, max int
	latency  time.Duration // local delay that is still fine
	limit    atomic.Int64
	peak     atomic.Int64

	sample         []metrics.Sample
	waits, answers atomic.Int64 // of peers since the last step: nanoseconds, and how many
	peers          patience

	before                  []uint64 // counts of the histogram at the last step
	taken, delayed, stalled uint64   // of the tokens, likewise
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

// delay is how late this machine is.
type delay int

// Delays: none is at most the bound, mild more, severe probe.Stall times more.
const (
	none delay = iota
	mild
	severe
)

// next is the rule: grow by a tenth while there is demand and no delay, hold
// while the delay is mild, shrink by a fifth when it is severe.
//
// Between mild and severe (20 and 100 ms by default) shrinking does harm: when
// other programs want the processors too, every wake-up takes a time slice or
// two of theirs, however few targets are in flight, and a limit that shrinks
// for it falls to its floor and takes several times as long. A time-out of
// seconds does not mind 100 ms.
func (t *tuner) next(limit int, d delay, demand bool) int {
	switch {
	case d == severe:
		limit -= max(limit/5, 1)
	case d == none && demand:
		limit += max(limit/10, 1)
	}
	return min(max(limit, t.min), t.max)
}

// run adapts the limit until ctx ends. demand reports whether targets wait for
// a place; changed is called after each change.
func (t *tuner) run(ctx context.Context, every time.Duration, tokens *probe.Tokens, demand func() bool, changed func()) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	t.look(tokens) // forget what was before
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := int(t.limit.Load())
		if n := t.next(now, t.look(tokens), demand()); n != now {
			t.set(n)
			changed()
		}
	}
}

// answered notes how long a peer that answered let us wait.
func (t *tuner) answered(wait time.Duration) {
	t.waits.Add(int64(wait))
	t.answers.Add(1)
}

// patience compares how long peers let us wait now with how long they did when
// fewer were in flight. When they take half as long again, something between
// us is full: theirs or the network's queues grow, and more in flight makes
// them longer, not the scan shorter.
type patience struct {
	sum, n float64 // of about the last half second, fading
	best   float64 // smallest mean so far; 0: none
}

const (
	patienceFade    = 0.9 // per step
	patienceSamples = 50
	patienceLimit   = 1.5
)

// add takes the answers of one step and reports whether peers are slower than
// they could be.
func (p *patience) add(sum time.Duration, n int64) bool {
	p.sum, p.n = p.sum*patienceFade+float64(sum), p.n*patienceFade+float64(n)
	if p.n < patienceSamples {
		return false
	}
	mean := p.sum / p.n
	if p.best == 0 || mean < p.best {
		p.best = mean
	}
	return mean > patienceLimit*p.best
}

// look returns the delay since the last call: what one in a hundred goroutines
// waited for a processor, or for a CPU token. Peers that have become slow are
// a mild one.
func (t *tuner) look(tokens *probe.Tokens) delay {
	taken, delayed, stalled := tokens.Counts()
	d := grade(delayed-t.delayed, stalled-t.stalled, taken-t.taken)
	t.taken, t.delayed, t.stalled = taken, delayed, stalled
	if t.peers.add(time.Duration(t.waits.Swap(0)), t.answers.Swap(0)) {
		d = max(d, mild)
	}
	return max(d, t.scheduler())
}

// grade turns counts into a delay; one in a hundred is noise.
func grade(delayed, stalled, all uint64) delay {
	switch {
	case stalled*100 > all:
		return severe
	case delayed*100 > all:
		return mild
	}
	return none
}

// scheduler reads the scheduling latencies since the last call.
func (t *tuner) scheduler() delay {
	metrics.Read(t.sample)
	if t.sample[0].Value.Kind() != metrics.KindFloat64Histogram {
		return none
	}
	h := t.sample[0].Value.Float64Histogram()
	if len(t.before) != len(h.Counts) {
		t.before = make([]uint64, len(h.Counts))
	}
	var delayed, stalled, all uint64
	for i, n := range h.Counts {
		n, t.before[i] = n-t.before[i], n
		all += n
		if lower := h.Buckets[i]; lower >= t.latency.Seconds() {
			delayed += n
			if lower >= (probe.Stall * t.latency).Seconds() {
				stalled += n
			}
		}
	}
	return grade(delayed, stalled, all)
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
