package pass

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/bus"
	"chancery/internal/db"
	"chancery/internal/inventory"
	"chancery/internal/loop"
	"chancery/internal/obs"
	"chancery/internal/scan"
)

// Stream is the stream of the bus that results travel on.
const Stream = "scan"

// Config of a Service. Zero fields take the default named.
type Config struct {
	DB        *db.DB
	Bus       *bus.Bus
	Inventory *inventory.Store

	// Scan scans targets and gives the results to sink, as scan.Scanner does.
	// Several may run at once: see Scanners.
	Scan func(ctx context.Context, kind scan.Kind, targets []scan.Target, sink scan.Sink) (scan.Summary, error)

	Site       string        // whose schedules are run here
	MaxTargets int           // of one pass, 1,000,000
	ShardSize  int           // targets of a shard, 2,000: a few seconds of work to lose
	Scanners   int           // shards scanned at once in this process, 2
	Writers    int           // batches stored at once in this process, 2: the store's own pool
	Lease      time.Duration // of a shard that is scanned, 30 s
	StoreLease time.Duration // of one whose results are on their way, 5 min since the last one was stored

	Log      *slog.Logger          // nil: discard
	Registry prometheus.Registerer // nil: not measured
	Loops    *loop.Metrics
}

// Service runs schedules. All methods are safe for concurrent use, by any
// number of replicas.
type Service struct {
	cfg Config
	m   *metrics
}

// New returns a Service. It starts nothing.
func New(cfg Config) *Service {
	if cfg.MaxTargets <= 0 {
		cfg.MaxTargets = 1_000_000
	}
	if cfg.ShardSize <= 0 {
		cfg.ShardSize = 2000
	}
	cfg.Scanners, cfg.Writers = max(cfg.Scanners, 0), max(cfg.Writers, 0)
	if cfg.Scanners == 0 {
		cfg.Scanners = 2
	}
	if cfg.Writers == 0 {
		cfg.Writers = 2
	}
	if cfg.Lease <= 0 {
		cfg.Lease = 30 * time.Second
	}
	if cfg.StoreLease <= 0 {
		cfg.StoreLease = 5 * time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = obs.Discard()
	}
	return &Service{cfg: cfg, m: newMetrics(cfg.Registry)}
}

// shardTimeout ends the scan of one shard, which the number of its targets and
// their rates bound well below.
const shardTimeout = 2 * time.Hour

// ScanLoops are the loops of a scanner: passes begin, shards are scanned.
func (s *Service) ScanLoops() []loop.Every {
	loops := []loop.Every{s.every("scan.begin", time.Second, func(ctx context.Context) (loop.Count, error) {
		begun, err := s.begin(ctx, time.Now())
		n := loop.Count{More: begun}
		if begun {
			n.Claimed, n.Done = 1, 1
		}
		return n, err
	})}
	for i := range s.cfg.Scanners {
		l := s.every(fmt.Sprintf("scan.work_%d", i), time.Second, s.work)
		l.Timeout = shardTimeout
		loops = append(loops, l)
	}
	return loops
}

// WriterLoops are the loops of the writer beside Write: passes end.
func (s *Service) WriterLoops() []loop.Every {
	return []loop.Every{
		s.every("scan.finish", time.Second, func(ctx context.Context) (loop.Count, error) {
			n, err := s.finish(ctx, time.Now())
			return loop.Count{Claimed: n, Done: n}, err
		}),
		s.every("scan.tidy", time.Hour, func(ctx context.Context) (loop.Count, error) {
			return loop.Count{}, s.tidy(ctx, time.Now())
		}),
	}
}

func (s *Service) every(name string, interval time.Duration, tick loop.Tick) loop.Every {
	return loop.Every{Name: name, Interval: interval, Tick: tick, Log: s.cfg.Log, Metrics: s.cfg.Loops}
}

// metrics are the figures of scanner and writer. There is no series per
// endpoint.
type metrics struct {
	results *prometheus.CounterVec
	slowed  prometheus.Counter
	written prometheus.Counter
	flush   prometheus.Histogram
	size    prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		results: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chancery_scan_results_total", Help: "Results of scheduled scans that were handed to the bus, by class."}, []string{"class"}),
		slowed:  prometheus.NewCounter(prometheus.CounterOpts{Name: "chancery_scan_slowed_total", Help: "Batches of results that had to wait for the bus."}),
		written: prometheus.NewCounter(prometheus.CounterOpts{Name: "chancery_scan_stored_total", Help: "Results of scans that were put into the inventory."}),
		flush:   prometheus.NewHistogram(prometheus.HistogramOpts{Name: "chancery_scan_store_seconds", Help: "Time to store one batch of results.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}),
		size:    prometheus.NewHistogram(prometheus.HistogramOpts{Name: "chancery_scan_batch_size", Help: "Results in one batch.", Buckets: []float64{1, 5, 10, 20, 30, 40, 50, 100, 500}}),
	}
	if reg != nil {
		reg.MustRegister(m.results, m.slowed, m.written, m.flush, m.size)
	}
	return m
}

func (m *metrics) published(results []scan.Result) {
	for i := range results {
		m.results.WithLabelValues(string(results[i].Class)).Inc()
	}
}

func (m *metrics) stored(n int, took time.Duration) {
	m.written.Add(float64(n))
	m.size.Observe(float64(n))
	m.flush.Observe(took.Seconds())
}
