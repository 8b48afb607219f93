package alert

import "github.com/prometheus/client_golang/prometheus"

// meters are the figures of the service. Channels come from the configuration.
type meters struct {
	firing     *prometheus.GaugeVec   // severity
	deliveries *prometheus.CounterVec // channel, outcome
	waiting    *prometheus.GaugeVec   // channel
}

func newMeters(r prometheus.Registerer) meters {
	m := meters{
		firing: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "chancery_alerts_firing",
			Help: "Alerts that fire, by severity; the same on every replica."}, []string{"severity"}),
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chancery_alert_deliveries_total",
			Help: "Tries to send a message to a channel, by outcome: sent, retry or failed."}, []string{"channel", "outcome"}),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "chancery_alert_oldest_delivery_seconds",
			Help: "Age of the oldest message that a channel has not taken; 0 = none waits."}, []string{"channel"}),
	}
	if r != nil {
		r.MustRegister(m.firing, m.deliveries, m.waiting)
	}
	return m
}
