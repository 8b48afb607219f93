package httpd

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the HTTP platform's figures. Labels are route patterns and
// status classes: their number is fixed when the program starts.
type Metrics struct {
	requests *prometheus.CounterVec   // route, class
	seconds  *prometheus.HistogramVec // route
	panics   prometheus.Counter
	inFlight prometheus.Gauge
}

// NewMetrics returns the figures, registered with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "chancery_http_requests_total",
			Help: "HTTP requests by route and status class.",
		}, []string{"route", "class"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "chancery_http_request_duration_seconds",
			Help:    "Time from the first header byte read to the last byte handed to the kernel.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}, []string{"route"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "chancery_http_panics_total",
			Help: "Handlers that panicked. Each is a bug: the log has the stack.",
		}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "chancery_http_requests_in_flight",
			Help: "HTTP requests being handled now.",
		}),
	}
	reg.MustRegister(m.requests, m.seconds, m.panics, m.inFlight)
	return m
}

// route resolves the children of one route.
func (m *Metrics) route(pattern string) (seconds prometheus.Observer, total [6]prometheus.Counter) {
	for class := 1; class < len(total); class++ {
		total[class] = m.requests.WithLabelValues(pattern, strconv.Itoa(class)+"xx")
	}
	return m.seconds.WithLabelValues(pattern), total
}
