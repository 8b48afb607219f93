package status

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/pki"
)

// result is how a request was answered. The first three are the statuses of a
// signed answer, in the order of pki.OCSPStatus.
type result int

const (
	resultGood         = result(pki.OCSPGood)
	resultRevoked      = result(pki.OCSPRevoked)
	resultUnknown      = result(pki.OCSPUnknown)
	resultUnauthorized = resultUnknown + 1
	resultMalformed    = resultUnknown + 2
	resultTryLater     = resultUnknown + 3
	resultUnavailable  = resultUnknown + 4
	results            = int(resultUnavailable) + 1
)

var resultNames = [results]string{resultGood: "good", resultRevoked: "revoked", resultUnknown: "unknown",
	resultUnauthorized: "unauthorized", resultMalformed: "malformed", resultTryLater: "try_later", resultUnavailable: "unavailable"}

const (
	getMethod = iota
	postMethod
	methods
)

// metrics are the figures of this package, their children resolved.
type metrics struct {
	requests              [methods][results]prometheus.Counter
	seconds               [methods]prometheus.Observer
	presigned, lazy, live prometheus.Counter
	crlBuilt, crlRefused  prometheus.Counter
	crlLost               prometheus.Counter
	crlEntries            prometheus.Gauge
	undelivered           map[sink]*atomic.Int64 // Unix seconds of the oldest change that waits; 0 = none
	oldest                atomic.Int64           // Unix seconds of the oldest kept answer; 0 = unknown
	oldestCRL             atomic.Int64           // Unix seconds of the oldest published CRL
}

func newMetrics(reg prometheus.Registerer, s *Service) *metrics {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chancery_ocsp_requests_total",
		Help: "OCSP requests by method and result."}, []string{"method", "result"})
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "chancery_ocsp_request_duration_seconds",
		Help:    "Time to make an OCSP answer, without reading and writing it.",
		Buckets: []float64{.000005, .00001, .000025, .00005, .0001, .00025, .001, .005, .025, .1, .5}}, []string{"method"})
	signed := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chancery_ocsp_signatures_total",
		Help: "OCSP answers signed: ahead of time, when first asked for, or for one client alone."}, []string{"kind"})
	crls := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chancery_crl_builds_total",
		Help: "CRLs by outcome: published, lost to another replica, or refused by the checker."}, []string{"result"})
	m := &metrics{
		presigned: signed.WithLabelValues("presigned"), lazy: signed.WithLabelValues("lazy"), live: signed.WithLabelValues("live"),
		crlBuilt: crls.WithLabelValues("published"), crlLost: crls.WithLabelValues("lost"), crlRefused: crls.WithLabelValues("refused"),
		crlEntries: prometheus.NewGauge(prometheus.GaugeOpts{Name: "chancery_crl_entries", Help: "Entries of all current CRLs."}),
	}
	for i, method := range []string{"get", "post"} {
		m.seconds[i] = seconds.WithLabelValues(method)
		for j, name := range resultNames {
			m.requests[i][j] = requests.WithLabelValues(method, name)
		}
	}
	age := func(name, help string, at *atomic.Int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			if at.Load() == 0 {
				return 0
			}
			return s.now().Sub(time.Unix(at.Load(), 0)).Seconds()
		})
	}
	m.undelivered = map[sink]*atomic.Int64{sinkPurge: {}, sinkBucket: {}}
	waiting := func(k sink, what string) prometheus.Collector {
		return age("chancery_status_oldest_un"+what+"_age_seconds", "Age of the oldest change that was not "+what+" yet; 0: there is none.", m.undelivered[k])
	}
	reg.MustRegister(waiting(sinkPurge, "purged"), waiting(sinkBucket, "uploaded"))
	reg.MustRegister(requests, seconds, signed, crls, m.crlEntries,
		age("chancery_ocsp_oldest_answer_age_seconds", "Age of the oldest OCSP answer that is kept.", &m.oldest),
		age("chancery_crl_oldest_age_seconds", "Age of the oldest current CRL of an authority whose key is here.", &m.oldestCRL),
		age("chancery_status_journal_age_seconds", "Time since the journal was last read: how much revocations of other replicas may be late.", &s.asOf),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "chancery_ocsp_serials", Help: "Serials that can be answered for."},
			func() float64 { return float64(s.Serials()) }))
	return m
}

// Serials returns the number of serials that can be answered for.
func (s *Service) Serials() (n int) {
	for _, b := range *s.books.Load() {
		n += b.size()
	}
	return n
}

func (m *metrics) observe(method int, res result, d time.Duration) {
	m.requests[method][res].Inc()
	m.seconds[method].Observe(d.Seconds())
}
