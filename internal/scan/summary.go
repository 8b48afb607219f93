package scan

import (
	"math"
	"math/bits"
	"time"

	"chancery/internal/scan/probe"
	"chancery/internal/scan/verdict"
)

// Summary accounts for every target of a scan:
// Targets = Done + Skipped + Remaining, and Done is the sum of Classes.
type Summary struct {
	Targets    int `json:"targets"`    // without duplicates
	Done       int `json:"done"`       // results delivered
	Skipped    int `json:"skipped"`    // done before the scan was resumed
	Remaining  int `json:"remaining"`  // not scanned, or not delivered, when the scan ended early
	Duplicates int `json:"duplicates"` // targets named more than once

	Healthy   int                     `json:"healthy"`
	Classes   map[probe.Class]int     `json:"classes"`
	Problems  map[verdict.Problem]int `json:"problems"`
	Dual      int                     `json:"dual"`      // with an RSA and an ECDSA certificate
	Proven    int                     `json:"proven"`    // proved that they hold the key
	Retried   int                     `json:"retried"`   // tried again because the fault may have been ours
	Recovered int                     `json:"recovered"` // of those, answered
	Hybrid    int                     `json:"hybrid"`    // with a post-quantum key exchange

	StartedAt time.Time            `json:"started_at"`
	Elapsed   time.Duration        `json:"elapsed_ns"`
	Phases    map[string]Quantiles `json:"phases"` // dns, tcp, tls, wait, parse
	Limit     int                  `json:"limit"`  // the most that could be in flight
	Peak      int                  `json:"peak"`   // the highest limit that was tuned to
	Slowed    int                  `json:"slowed"` // batches that the sink put off
	Notes     []string             `json:"notes,omitempty"`
}

// Unhealthy returns how many targets failed or have a problem.
func (s *Summary) Unhealthy() int { return s.Done - s.Healthy }

// Quantiles of a phase, within 7 %.
type Quantiles struct {
	Count int           `json:"count"`
	P50   time.Duration `json:"p50_ns"`
	P95   time.Duration `json:"p95_ns"`
	P99   time.Duration `json:"p99_ns"`
	Max   time.Duration `json:"max_ns"`
}

// histogram counts durations in steps of 1/16 of their power of two.
type histogram struct {
	counts [64 * 16]uint32
	n      int
	max    time.Duration
}

// add counts d; a phase that was not reached is not counted.
func (h *histogram) add(d time.Duration) {
	if d <= 0 {
		return
	}
	h.counts[bucket(d)]++
	h.n++
	h.max = max(h.max, d)
}

// bucket is the index of d: the exponent and four bits of the mantissa.
func bucket(d time.Duration) int {
	exp := bits.Len64(uint64(d)) - 1
	if exp < 4 {
		return int(d)
	}
	return exp<<4 | int(uint64(d)>>(exp-4))&15
}

// upper is the largest duration of a bucket.
func upper(i int) time.Duration {
	exp, part := i>>4, i&15
	if exp < 4 {
		return time.Duration(i)
	}
	return time.Duration(uint64(16+part+1)<<(exp-4)) - 1
}

// quantile returns the duration that the part q does not exceed.
func (h *histogram) quantile(q float64) time.Duration {
	rank, seen := int(math.Ceil(q*float64(h.n))), 0
	for i, c := range h.counts {
		if seen += int(c); seen >= rank && c > 0 {
			return min(upper(i), h.max)
		}
	}
	return h.max
}

func (h *histogram) quantiles() Quantiles {
	return Quantiles{Count: h.n, P50: h.quantile(.5), P95: h.quantile(.95), P99: h.quantile(.99), Max: h.max}
}

// ledger adds up what was delivered.
type ledger struct {
	sum    Summary
	phases map[string]*histogram
}

func newLedger(now time.Time) *ledger {
	l := &ledger{phases: make(map[string]*histogram)}
	for _, name := range []string{"dns", "tcp", "tls", "wait", "parse"} {
		l.phases[name] = new(histogram)
	}
	l.sum = Summary{StartedAt: now, Classes: make(map[probe.Class]int), Problems: make(map[verdict.Problem]int)}
	return l
}

// add counts one result.
func (l *ledger) add(r *Result) {
	s := &l.sum
	s.Done++
	s.Classes[r.Class]++
	for _, p := range r.Verdict.Problems {
		s.Problems[p]++
	}
	count := func(n *int, is bool) {
		if is {
			*n++
		}
	}
	count(&s.Healthy, r.Healthy())
	count(&s.Proven, r.Proven)
	count(&s.Retried, r.Attempts > 1)
	count(&s.Recovered, r.Attempts > 1 && r.Class == probe.OK)
	count(&s.Dual, r.Dual != nil && r.Dual.ECDSA != nil && r.Dual.RSA != nil)
	count(&s.Hybrid, r.Support != nil && r.Support.Hybrid != 0)
	l.phases["dns"].add(r.Times.DNS)
	l.phases["tcp"].add(r.Times.TCP)
	l.phases["tls"].add(r.Times.TLS)
	l.phases["wait"].add(r.Times.Wait)
	l.phases["parse"].add(r.Times.Parse)
}

// close returns the finished summary.
func (l *ledger) close(now time.Time) Summary {
	s := l.sum
	s.Elapsed = now.Sub(s.StartedAt)
	s.Remaining = s.Targets - s.Done - s.Skipped
	s.Phases = make(map[string]Quantiles, len(l.phases))
	for name, h := range l.phases {
		s.Phases[name] = h.quantiles()
	}
	return s
}
