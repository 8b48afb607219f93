package bench

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// Every value falls into a bucket whose middle is within 1/128 of it, and
// buckets are in the order of values.
func TestBucketsAreFineAndOrdered(t *testing.T) {
	last := -1
	for v := uint64(0); v < 1<<maxBits; v += 1 + v/1000 {
		i := bucketOf(v)
		if i < last || i >= buckets {
			t.Fatalf("value %d is in bucket %d, after %d", v, i, last)
		}
		last = i
		if diff := math.Abs(float64(middle(i)) - float64(v)); diff > float64(v)/128 {
			t.Fatalf("value %d is in the bucket of %d", v, middle(i))
		}
	}
	if i := bucketOf(math.MaxUint64); i != buckets-1 {
		t.Errorf("the largest value is in bucket %d", i)
	}
	for i := range buckets {
		if got := bucketOf(middle(i)); got != i {
			t.Errorf("the middle of bucket %d is in bucket %d", i, got)
		}
	}
}

// Quantiles agree with sorting, within the promised error.
func TestQuantilesAgreeWithSorting(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var h, other Histogram
	var all []time.Duration
	for i := range 20000 {
		d := time.Duration(math.Exp(rng.NormFloat64()*1.5+14)) + 1
		all = append(all, d)
		if i%3 == 0 {
			other.Record(d)
		} else {
			h.Record(d)
		}
	}
	h.Add(&other)
	slices.Sort(all)
	for _, q := range []float64{0.001, .5, .9, .95, .99, .999} {
		want := all[int(math.Ceil(q*float64(len(all))))-1]
		if got := h.Quantile(q); math.Abs(float64(got-want)) > .008*float64(want) {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if got, want := h.Quantile(1), all[len(all)-1]; got != want {
		t.Errorf("maximum %v, want %v exactly", got, want)
	}
	if h.Count() != int64(len(all)) {
		t.Errorf("%d recorded, want %d", h.Count(), len(all))
	}
}

func TestHistogramAtItsEdges(t *testing.T) {
	var h Histogram
	if l := h.Latency(); l != (Latency{}) {
		t.Errorf("an empty histogram says %+v", l)
	}
	h.Record(-time.Second) // a clock that went back
	h.Record(3 * time.Millisecond)
	if got := h.Quantile(.5); got != 0 {
		t.Errorf("median %v, want the lower of the two", got)
	}
	if got := h.Quantile(0); got != 0 {
		t.Errorf("quantile 0 is %v", got)
	}
	if got := h.Mean(); got != 1500*time.Microsecond {
		t.Errorf("mean %v", got)
	}
	h.Record(10 * time.Hour)
	if got := h.Quantile(1); got != 10*time.Hour {
		t.Errorf("maximum %v, want 10h even beyond the last bucket", got)
	}
}
