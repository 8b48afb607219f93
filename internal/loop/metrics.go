package loop

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the figures that every loop and pool gets for free.
type Metrics struct {
	runs     *prometheus.CounterVec   // loop, status
	seconds  *prometheus.HistogramVec // loop
	success  *prometheus.GaugeVec     // loop; Unix seconds
	rows     *prometheus.CounterVec   // loop, outcome
	backlog  *prometheus.GaugeVec     // loop
	panics   *prometheus.CounterVec   // loop
	running  *prometheus.GaugeVec     // pool
	waiting  *prometheus.GaugeVec     // pool
	breakers *prometheus.GaugeVec     // breaker; 0 closed, 1 half open, 2 open
}

// NewMetrics returns the figures, registered with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		runs: counter("chancery_loop_runs_total", "Ticks by outcome.", "loop", "status"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "chancery_loop_duration_seconds", Help: "Time of one tick.",
			Buckets: []float64{.001, .005, .025, .1, .5, 1, 5, 15, 60, 300},
		}, []string{"loop"}),
		success:  gauge("chancery_loop_last_success_timestamp_seconds", "When the loop last succeeded, Unix time.", "loop"),
		rows:     counter("chancery_loop_rows_total", "Rows by outcome: claimed, done, failed.", "loop", "outcome"),
		backlog:  gauge("chancery_loop_backlog", "Rows known to be waiting.", "loop"),
		panics:   counter("chancery_loop_panics_total", "Ticks and tasks that panicked. Each is a bug: the log has the stack.", "loop"),
		running:  gauge("chancery_pool_running", "Tasks running.", "pool"),
		waiting:  gauge("chancery_pool_waiting", "Tasks waiting for a worker or for their key.", "pool"),
		breakers: gauge("chancery_breaker_state", "0 closed, 1 half open, 2 open.", "breaker"),
	}
	reg.MustRegister(m.runs, m.seconds, m.success, m.rows, m.backlog, m.panics, m.running, m.waiting, m.breakers)
	return m
}

// meters are the resolved children of one loop; nil measures nothing.
type meters struct {
	ok, failed            prometheus.Counter
	seconds               prometheus.Observer
	success, backlog      prometheus.Gauge
	claimed, done, undone prometheus.Counter
	panics                prometheus.Counter
}

// loop resolves the children of a loop. m may be nil.
func (m *Metrics) loop(name string) *meters {
	if m == nil {
		return nil
	}
	return &meters{
		ok: m.runs.WithLabelValues(name, "success"), failed: m.runs.WithLabelValues(name, "failure"),
		seconds: m.seconds.WithLabelValues(name), success: m.success.WithLabelValues(name),
		backlog: m.backlog.WithLabelValues(name), panics: m.panics.WithLabelValues(name),
		claimed: m.rows.WithLabelValues(name, "claimed"), done: m.rows.WithLabelValues(name, "done"),
		undone: m.rows.WithLabelValues(name, "failed"),
	}
}

// observe records one tick. A tick that the shutdown cut off counts neither
// as success nor as failure.
func (m *meters) observe(d time.Duration, n Count, err error, stopped bool) {
	if m == nil {
		return
	}
	m.seconds.Observe(d.Seconds())
	m.claimed.Add(float64(max(n.Claimed, 0)))
	m.done.Add(float64(max(n.Done, 0)))
	m.undone.Add(float64(max(n.Failed, 0)))
	if n.Backlog >= 0 {
		m.backlog.Set(float64(n.Backlog))
	}
	switch {
	case err == nil:
		m.ok.Inc()
		m.success.SetToCurrentTime()
	case !stopped:
		m.failed.Inc()
	}
}

// panicked counts one panic.
func (m *meters) panicked() {
	if m != nil {
		m.panics.Inc()
	}
}
