package perspective

import (
	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/acme/challenge"
)

// metrics of a Set; label values are names of the configuration.
type metrics struct {
	verdicts *prometheus.CounterVec   // perspective, verdict
	seconds  *prometheus.HistogramVec // perspective
	rounds   *prometheus.CounterVec   // outcome
}

func newMetrics(r prometheus.Registerer) metrics {
	m := metrics{
		verdicts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chancery_perspective_answers_total",
			Help: "Answers of remote perspectives: agrees, disagrees, silent (none in time, or none that can be used) or late (nobody waited for it)."},
			[]string{"perspective", "verdict"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "chancery_perspective_answer_seconds",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20}, Help: "Time until a remote perspective had answered."},
			[]string{"perspective"}),
		rounds: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chancery_perspective_rounds_total",
			Help: "Validations and CAA checks that were put to the remote perspectives after they had succeeded here, by whether a quorum confirmed them."},
			[]string{"outcome"}),
	}
	if r != nil {
		r.MustRegister(m.verdicts, m.seconds, m.rounds)
	}
	return m
}

// meter is the metrics of one perspective.
type meter struct {
	agrees, disagrees, silent, late prometheus.Counter
	seconds                         prometheus.Observer
}

func (m *metrics) of(name string) meter {
	v := func(verdict string) prometheus.Counter { return m.verdicts.WithLabelValues(name, verdict) }
	return meter{v("agrees"), v("disagrees"), v("silent"), v("late"), m.seconds.WithLabelValues(name)}
}

func (m *meter) observe(o *challenge.Observation) {
	switch {
	case o.Verdict == challenge.Agrees:
		m.agrees.Inc()
	case o.Verdict == challenge.Disagrees:
		m.disagrees.Inc()
	case o.Problem == late:
		m.late.Inc()
		return
	default:
		m.silent.Inc()
	}
	m.seconds.Observe(float64(o.Millis) / 1000)
}

func (m *metrics) round(err error) {
	outcome := "corroborated"
	if err != nil {
		outcome = "refused"
	}
	m.rounds.WithLabelValues(outcome).Inc()
}
