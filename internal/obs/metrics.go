package obs

import (
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metrics is the program's metric registry and the five families that every
// part shares. Packages with metrics of their own make a struct of collectors
// and register it with Registry. There is no series per certificate, account
// or name: label values come from the code, never from a user.
type Metrics struct {
	Registry *prometheus.Registry

	opSeconds *prometheus.HistogramVec // operation, status
	opTotal   *prometheus.CounterVec   // operation, status
	queue     *prometheus.GaugeVec     // queue_type
	query     *prometheus.HistogramVec // query_type
	ca        *prometheus.HistogramVec // operation, status

	queries sync.Map // of query's children by name, which are looked up all the time
}

// Values of the status label.
const (
	StatusSuccess  = "success"  // it worked
	StatusRejected = "rejected" // the caller is to blame: no reason to wake anybody
	StatusFailure  = "failure"  // we, or somebody we depend on, failed
)

// fastBuckets span 100 microseconds to 10 seconds: what a database statement
// or a signature takes on good and on bad days.
var fastBuckets = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10}

// slowBuckets span one millisecond to ten minutes: orders wait for networks.
var slowBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 180, 600}

// NewMetrics returns a registry with the shared families, the Go runtime's
// and the process's own figures, and the build information.
func NewMetrics(build Build) *Metrics {
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		opSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "certificate_operation_duration_seconds", Buckets: slowBuckets,
			Help: "Time of one certificate operation (issue, renew, revoke, deploy, ...).",
		}, []string{"operation", "status"}),
		opTotal: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certificate_operations_total",
			Help: "Certificate operations by outcome: success, rejected (caller's fault) or failure (ours).",
		}, []string{"operation", "status"}),
		queue: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "certificate_queue_size",
			Help: "Work waiting, by queue.",
		}, []string{"queue_type"}),
		query: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "database_query_duration_seconds", Buckets: fastBuckets,
			Help: "Time of one database statement, by its name.",
		}, []string{"query_type"}),
		ca: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "ca_request_duration_seconds", Buckets: slowBuckets,
			Help: "Time of one request to a certificate authority, ours or a foreign one.",
		}, []string{"operation", "status"}),
	}
	m.Registry.MustRegister(m.opSeconds, m.opTotal, m.queue, m.query, m.ca,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		buildInfo(build))
	return m
}

// Op is one named operation with its label children resolved, so that
// observing it is two atomic additions and no look-up.
type Op struct {
	seconds [3]prometheus.Observer
	total   [3]prometheus.Counter // nil for families without a counter
}

// statuses in the order of Op's arrays.
var statuses = [3]string{StatusSuccess, StatusRejected, StatusFailure}

// Op returns the meter of a certificate operation, such as "issue".
func (m *Metrics) Op(operation string) *Op {
	o := meter(m.opSeconds, operation)
	for i, s := range statuses {
		o.total[i] = m.opTotal.WithLabelValues(operation, s)
	}
	return o
}

// CA returns the meter of a request to a certificate authority, such as "sign".
func (m *Metrics) CA(operation string) *Op { return meter(m.ca, operation) }

// Query returns the histogram of one database statement, by its name.
func (m *Metrics) Query(name string) prometheus.Observer {
	if o, ok := m.queries.Load(name); ok {
		return o.(prometheus.Observer)
	}
	o := m.query.WithLabelValues(name)
	m.queries.Store(name, o)
	return o
}

// Queue returns the gauge of one queue.
func (m *Metrics) Queue(name string) prometheus.Gauge { return m.queue.WithLabelValues(name) }

// meter resolves the children of one operation.
func meter(v *prometheus.HistogramVec, operation string) *Op {
	o := new(Op)
	for i, s := range statuses {
		o.seconds[i] = v.WithLabelValues(operation, s)
	}
	return o
}

// Timer measures one run of an operation. It is a value: no allocation.
type Timer struct {
	op    *Op
	start time.Time
}

// Start begins a measurement:
//
//	t := issue.Start()
//	cert, err := sign(...)
//	t.End(err)
func (o *Op) Start() Timer { return Timer{o, time.Now()} }

// End records the duration under the status that err stands for.
func (t Timer) End(err error) { t.op.Observe(time.Since(t.start), err) }

// Observe records one run that took d and ended in err.
func (o *Op) Observe(d time.Duration, err error) {
	i := outcome(err)
	o.seconds[i].Observe(d.Seconds())
	if o.total[i] != nil {
		o.total[i].Inc()
	}
}

// outcome returns the index of err's status. An error with an HTTP status
// below 500 (a *fault.Error) is the caller's.
func outcome(err error) int {
	if err == nil {
		return 0
	}
	var blame interface{ Status() int }
	if errors.As(err, &blame) && blame.Status() < 500 {
		return 1
	}
	return 2
}
