package obs

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func read(t *testing.T, m *Metrics) Reading {
	t.Helper()
	r, err := Read(m.Registry)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReading(t *testing.T) {
	m := NewMetrics(Build{})
	m.Op("renew").Observe(time.Second, nil)
	m.Op("renew").Observe(time.Second, errors.New("x"))
	m.Op("deploy").Observe(time.Second, nil)
	m.Queue("a").Set(3)
	m.Queue("b").Set(4)
	r := read(t, m)
	if got := r.Sum("certificate_operations_total", "status", StatusSuccess); got != 2 {
		t.Errorf("%v successes, want 2", got)
	}
	if got := r.Sum("certificate_operations_total", "status", StatusFailure, "operation", "deploy"); got != 0 {
		t.Errorf("%v failed deployments, want none", got)
	}
	if got := r.Count("certificate_operation_duration_seconds", "operation", "renew"); got != 2 {
		t.Errorf("%d renewals, want 2", got)
	}
	if by := r.By("certificate_queue_size", "queue_type"); by["a"] != 3 || by["b"] != 4 || r.Max("certificate_queue_size") != 4 {
		t.Errorf("queues: %v", by)
	}
	if r.Sum("no_such_metric") != 0 || r.Max("no_such_metric") != 0 || len(r.Durations("no_such_metric", "")) != 0 {
		t.Error("a family that is not there has a value")
	}
}

func TestDistribution(t *testing.T) {
	m := NewMetrics(Build{})
	op := m.Op("issue")
	all := func() Distribution { return read(t, m).Durations("certificate_operation_duration_seconds", "")[""] }
	if _, ok := all().Quantile(0.5); ok {
		t.Error("a quantile of nothing")
	}
	for range 90 {
		op.Observe(2*time.Millisecond, nil) // in the bucket from 1 to 2.5 ms
	}
	before := all()
	for range 100 {
		op.Observe(200*time.Millisecond, nil) // from 100 to 250 ms
	}
	d := all().Since(before)
	if d.Count != 100 || math.Abs(d.Sum-20) > 0.001 {
		t.Errorf("since: %d, %v s", d.Count, d.Sum)
	}
	for q, want := range map[float64]float64{0.5: 0.175, 1: 0.25} {
		if got, _ := d.Quantile(q); math.Abs(got-want) > 1e-9 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if got, _ := all().Quantile(0.25); got < 0.001 || got > 0.0025 {
		t.Errorf("quantile 0.25 of all is %v", got)
	}
	op.Observe(time.Hour, nil) // beyond the last bound, which is 600 s
	if got, _ := all().Quantile(1); got != 600 {
		t.Errorf("beyond the last bound: %v", got)
	}
	// A process that began anew has fewer: all of it is new.
	if got := before.Since(all()); got.Count != 90 {
		t.Errorf("after a restart: %d", got.Count)
	}
}

func TestReadSaysWhatIsBroken(t *testing.T) {
	m := NewMetrics(Build{})
	m.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ok"}, func() float64 { return 1 }), broken{})
	r, err := Read(m.Registry)
	if err == nil || r.Sum("ok") != 1 {
		t.Errorf("%v, and %v of what works", err, r.Sum("ok"))
	}
}

// broken is a collector that has nothing but an error.
type broken struct{}

var brokenDesc = prometheus.NewDesc("broken", "broken", nil, nil)

func (broken) Describe(c chan<- *prometheus.Desc) { c <- brokenDesc }

func (broken) Collect(c chan<- prometheus.Metric) {
	c <- prometheus.NewInvalidMetric(brokenDesc, errors.New("broken"))
}
