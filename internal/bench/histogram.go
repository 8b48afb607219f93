package bench

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// Shape of a histogram: 64 buckets per power of two bound the relative error
// of a quantile to 1/128; durations from 1 ns to 73 minutes.
const (
	subBits    = 6
	subBuckets = 1 << subBits
	maxBits    = 42
	buckets    = (maxBits - subBits + 1) * subBuckets
)

// Histogram counts durations in log-linear buckets. It is safe for concurrent
// use; the zero Histogram is empty. It takes 19 KB whatever it holds.
type Histogram struct {
	counts [buckets]atomic.Uint64
	n, sum atomic.Uint64
	max    atomic.Uint64
}

// bucketOf returns the bucket of v nanoseconds.
func bucketOf(v uint64) int {
	if v >= 1<<maxBits {
		return buckets - 1
	}
	shift := max(bits.Len64(v)-subBits-1, 0)
	return shift<<subBits + int(v>>shift)
}

// middle returns the value in the middle of bucket i.
func middle(i int) uint64 {
	if i < 2*subBuckets {
		return uint64(i)
	}
	shift := i>>subBits - 1
	low := uint64(i-shift<<subBits) << shift
	return low + 1<<shift/2
}

// Record counts one duration. A negative one counts as zero.
func (h *Histogram) Record(d time.Duration) {
	v := uint64(max(d, 0))
	h.counts[bucketOf(v)].Add(1)
	h.n.Add(1)
	h.sum.Add(v)
	for {
		old := h.max.Load()
		if v <= old || h.max.CompareAndSwap(old, v) {
			return
		}
	}
}

// Add counts everything that other has counted.
func (h *Histogram) Add(other *Histogram) {
	for i := range other.counts {
		if c := other.counts[i].Load(); c != 0 {
			h.counts[i].Add(c)
		}
	}
	h.n.Add(other.n.Load())
	h.sum.Add(other.sum.Load())
	h.max.Store(max(h.max.Load(), other.max.Load()))
}

// Count returns how many durations were recorded.
func (h *Histogram) Count() int64 { return int64(h.n.Load()) }

// Mean returns the exact mean, or 0 when nothing was recorded.
func (h *Histogram) Mean() time.Duration {
	n := h.n.Load()
	if n == 0 {
		return 0
	}
	return time.Duration(h.sum.Load() / n)
}

// Quantile returns the smallest duration that at least the share q (0..1) of
// all recorded ones do not exceed, within 0.8 %. Quantile(1) is the exact
// maximum. It is 0 when nothing was recorded.
func (h *Histogram) Quantile(q float64) time.Duration {
	n, largest := h.n.Load(), h.max.Load()
	rank := uint64(math.Ceil(q * float64(n)))
	if rank >= n {
		return time.Duration(largest)
	}
	rank = max(rank, 1)
	seen := uint64(0)
	for i := range h.counts {
		if seen += h.counts[i].Load(); seen >= rank {
			return time.Duration(min(middle(i), largest))
		}
	}
	return time.Duration(largest)
}

// Latency is what a report says of a histogram, in milliseconds.
type Latency struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean_ms"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P95   float64 `json:"p95_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p999_ms"`
	Max   float64 `json:"max_ms"`
}

// Latency summarizes h.
func (h *Histogram) Latency() Latency {
	return Latency{Count: h.Count(), Mean: millis(h.Mean()), P50: millis(h.Quantile(.5)), P90: millis(h.Quantile(.9)),
		P95: millis(h.Quantile(.95)), P99: millis(h.Quantile(.99)), P999: millis(h.Quantile(.999)), Max: millis(h.Quantile(1))}
}

// millis returns d in milliseconds, rounded to a microsecond.
func millis(d time.Duration) float64 {
	return math.Round(float64(d)/float64(time.Microsecond)) / 1000
}
