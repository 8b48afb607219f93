package bus

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the figures of the bus. Label values are the names of streams,
// consumers and caches: never a key or a subject.
type Metrics struct {
	published   *prometheus.CounterVec // stream, outcome
	handled     *prometheus.CounterVec // stream, consumer, outcome
	redelivered *prometheus.CounterVec // stream, consumer
	depth       *prometheus.GaugeVec   // stream, consumer, state
	hints       *prometheus.CounterVec // outcome
	requests    *prometheus.CounterVec // outcome
	cache       *prometheus.CounterVec // cache, outcome
	reconnects  prometheus.Counter
	connected   prometheus.Gauge
}

// NewMetrics returns the figures, registered with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		published:   counter("chancery_bus_published_total", "Messages by outcome: stored, duplicate, refused (stream full) or failed.", "stream", "outcome"),
		handled:     counter("chancery_bus_handled_total", "Deliveries by outcome: done, retried, discarded, dead (too many attempts), returned (by a shutdown), panicked or unsettled (the answer did not reach the server).", "stream", "consumer", "outcome"),
		redelivered: counter("chancery_bus_redelivered_total", "Deliveries that were not the first of their message.", "stream", "consumer"),
		depth: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "chancery_bus_depth", Help: "Messages waiting (pending) and in the hands of handlers (in_flight), as last asked for.",
		}, []string{"stream", "consumer", "state"}),
		hints:      counter("chancery_bus_hints_total", "Hints by outcome: sent, merged, dropped (no connection), received or missed (gaps announced).", "outcome"),
		requests:   counter("chancery_bus_requests_total", "Requests by outcome: answered, refused, nobody or failed.", "outcome"),
		cache:      counter("chancery_bus_cache_total", "Look-ups by outcome: hit, miss or failed.", "cache", "outcome"),
		reconnects: prometheus.NewCounter(prometheus.CounterOpts{Name: "chancery_bus_reconnects_total", Help: "Connections to the server made again."}),
		connected:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "chancery_bus_connected", Help: "1 while there is a connection to the server."}),
	}
	reg.MustRegister(m.published, m.handled, m.redelivered, m.depth, m.hints, m.requests, m.cache, m.reconnects, m.connected)
	return m
}
