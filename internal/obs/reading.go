package obs

import (
	"fmt"
	"math"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Reading is what a registry holds at one moment, by the names of families: for
// those who show figures of this process inside the process.
type Reading map[string]*dto.MetricFamily

// Read gathers g. What a broken collector cannot say is missing from the
// reading, and is the error.
func Read(g prometheus.Gatherer) (Reading, error) {
	families, err := g.Gather()
	r := make(Reading, len(families))
	for _, f := range families {
		r[f.GetName()] = f
	}
	if err != nil {
		return r, fmt.Errorf("read metrics: %w", err)
	}
	return r, nil
}

// Distribution is a histogram of durations, since the start of the process.
type Distribution struct {
	Count   uint64  `json:"count"`
	Sum     float64 `json:"sum" doc:"Seconds"`
	Buckets []Bound `json:"buckets" nullable:"false" doc:"Each counts what took at most so long; the last, without a bound, is count"`
}

// Bound counts what took at most LE.
type Bound struct {
	LE    float64 `json:"le" doc:"Seconds"`
	Count uint64  `json:"count"`
}

// add joins the histogram of another series of the same family.
func (d *Distribution) add(h *dto.Histogram) {
	if d.Buckets == nil {
		d.Buckets = []Bound{}
	}
	d.Count += h.GetSampleCount()
	d.Sum += h.GetSampleSum()
	for _, b := range h.GetBucket() {
		if math.IsInf(b.GetUpperBound(), 1) {
			continue
		}
		i, ok := slices.BinarySearchFunc(d.Buckets, b.GetUpperBound(), func(x Bound, le float64) int {
			switch {
			case x.LE < le:
				return -1
			case x.LE > le:
				return 1
			}
			return 0
		})
		if !ok {
			d.Buckets = slices.Insert(d.Buckets, i, Bound{LE: b.GetUpperBound()})
		}
		d.Buckets[i].Count += b.GetCumulativeCount()
	}
}

// Since returns what was added after an earlier reading of the same process.
func (d Distribution) Since(before Distribution) Distribution {
	if len(before.Buckets) != len(d.Buckets) || before.Count > d.Count {
		return d
	}
	out := Distribution{Count: d.Count - before.Count, Sum: d.Sum - before.Sum, Buckets: slices.Clone(d.Buckets)}
	for i := range out.Buckets {
		out.Buckets[i].Count -= min(out.Buckets[i].Count, before.Buckets[i].Count)
	}
	return out
}

// Quantile estimates how long the share q of all took at most, in seconds, as
// histogram_quantile of Prometheus does: evenly spread within a bucket. What is
// beyond the last bound counts as that bound. ok is false when there is nothing.
func (d Distribution) Quantile(q float64) (seconds float64, ok bool) {
	if d.Count == 0 || len(d.Buckets) == 0 {
		return 0, false
	}
	rank := q * float64(d.Count)
	low, below := 0.0, 0.0
	for _, b := range d.Buckets {
		if n := float64(b.Count); n >= rank && n > below {
			return low + (b.LE-low)*(rank-below)/(n-below), true
		}
		low, below = b.LE, float64(b.Count)
	}
	return d.Buckets[len(d.Buckets)-1].LE, true
}

// value is the number that a series is, of counters and gauges alike.
func value(m *dto.Metric) float64 {
	return m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
}

// label returns the value of a label of a series, or "".
func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// Sum adds up the series of a family whose labels are as given, in pairs of
// name and value. A family that there is not is 0.
func (r Reading) Sum(family string, pairs ...string) (sum float64) {
	for _, m := range r[family].GetMetric() {
		if fits(m, pairs) {
			sum += value(m)
		}
	}
	return sum
}

// Count is Sum for a family of histograms: how many were observed.
func (r Reading) Count(family string, pairs ...string) (n uint64) {
	for _, m := range r[family].GetMetric() {
		if fits(m, pairs) {
			n += m.GetHistogram().GetSampleCount()
		}
	}
	return n
}

// fits reports whether a series has all labels of pairs of name and value.
func fits(m *dto.Metric, pairs []string) bool {
	for i := 0; i+1 < len(pairs); i += 2 {
		if label(m, pairs[i]) != pairs[i+1] {
			return false
		}
	}
	return true
}

// Max returns the largest series of a family, 0 when there is none.
func (r Reading) Max(family string) (most float64) {
	for i, m := range r[family].GetMetric() {
		if v := value(m); i == 0 || v > most {
			most = v
		}
	}
	return most
}

// By adds up the series of a family by the value of one label.
func (r Reading) By(family, name string) map[string]float64 {
	out := map[string]float64{}
	for _, m := range r[family].GetMetric() {
		out[label(m, name)] += value(m)
	}
	return out
}

// Durations joins the histograms of a family by the value of one label; by ""
// they are one.
func (r Reading) Durations(family, name string) map[string]Distribution {
	out := map[string]Distribution{}
	for _, m := range r[family].GetMetric() {
		if h := m.GetHistogram(); h != nil {
			key := label(m, name)
			d := out[key]
			d.add(h)
			out[key] = d
		}
	}
	return out
}
