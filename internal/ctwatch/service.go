package ctwatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/net/publicsuffix"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/inventory"
	"chancery/internal/loop"
	"chancery/internal/obs"
	"chancery/internal/scan/cloud"
)

// Config of a Service. Zero durations take the default named.
type Config struct {
	DB        *db.DB
	Inventory *inventory.Store
	Logs      []Log
	// Domains are ours, with everything below them.
	Domains []string
	// FromInventory adds the registered domains of certificates that were
	// obtained by us.
	FromInventory bool
	Interval      time.Duration // between two looks at a log; 30 s
	Grace         time.Duration // before a finding is told of; 10 min
	Lease         time.Duration // of a log that is followed; 2 min
	Gates         *cloud.Gates  // nil: of its own
	Log           *slog.Logger  // nil: discard
	Registry      prometheus.Registerer
	Loops         *loop.Metrics
}

// Service follows logs. Its methods are safe for concurrent use, by any number
// of replicas: one process follows a log at a time.
type Service struct {
	cfg Config
	m   *metrics

	mu      sync.Mutex
	matcher *matcher  // nil: not made yet
	madeAt  time.Time // of matcher
}

// New returns a Service. It starts nothing.
func New(cfg Config) *Service {
	for _, d := range []struct {
		at  *time.Duration
		def time.Duration
	}{{&cfg.Interval, 30 * time.Second}, {&cfg.Grace, 10 * time.Minute}, {&cfg.Lease, 2 * time.Minute}} {
		if *d.at <= 0 {
			*d.at = d.def
		}
	}
	if cfg.Log == nil {
		cfg.Log = obs.Discard()
	}
	if cfg.Gates == nil {
		cfg.Gates = cloud.NewGates(nil)
	}
	return &Service{cfg: cfg, m: newMetrics(cfg.Registry)}
}

// State is where a log stands.
type State string

// States of a log.
const (
	Waiting   State = "waiting"
	Following State = "following"
	Failing   State = "failing" // see Error; the position stays
	Forked    State = "forked"  // see Proof; it is not followed until Reset
)

// Status is a log as the database knows it.
type Status struct {
	Name       string
	URL        string
	Kind       Kind
	State      State
	Error      string
	Failures   int
	Size       int64 // every entry before is looked at and verified
	HeadSize   int64 // entries that the log has
	HeadAt     time.Time
	Entries    int64     // looked at since the log is followed
	Matches    int64     // of them, for our names
	Unreadable int64     // of them, not to be read as a certificate
	EntryAt    time.Time // when the last entry that was looked at was logged
	CheckedAt  time.Time
	Proof      string // of a fork: both signed statements

	frontier frontier
	headRoot tlog.Hash
	head     string
	dueAt    time.Time
}

// Lag is how many entries of the log are not looked at yet.
func (s *Status) Lag() int64 { return max(s.HeadSize-s.Size, 0) }

const logColumns = `name, url, kind, state, error, failures, size, frontier, head_size, head_root, head_at, head, proof, entries, matches, unreadable, entry_at, checked_at, due_at`

func scanLog(r *db.Row) Status {
	s := Status{Name: r.Text(), URL: r.Text(), Kind: Kind(r.Text()), State: State(r.Text()), Error: r.Text(), Failures: r.Int(), Size: r.Int64()}
	front := r.Bytes()
	s.HeadSize = r.Int64()
	if root := r.Bytes(); len(root) == tlog.HashSize {
		s.headRoot = tlog.Hash(root)
	}
	s.HeadAt, s.head, s.Proof = r.Time(), r.Text(), r.Text()
	s.Entries, s.Matches, s.Unreadable, s.EntryAt, s.CheckedAt, s.dueAt = r.Int64(), r.Int64(), r.Int64(), r.Time(), r.Time(), r.Time()
	var err error
	if s.frontier, err = readFrontier(s.Size, front); err != nil {
		s.State, s.Error = Failing, err.Error()
	}
	return s
}

var (
	qLog    = db.SQL("ctwatch.get_log", `SELECT `+logColumns+` FROM ct_log WHERE name = $1`)
	qLogs   = db.SQL("ctwatch.list_logs", `SELECT `+logColumns+` FROM ct_log WHERE name > $1 ORDER BY name LIMIT $2`)
	qEnsure = db.SQL("ctwatch.insert_log", `INSERT INTO ct_log (name, url, kind, state, error, failures, size, frontier, head_size, head_root, head_at, head, proof,
			entries, matches, unreadable, entry_at, due_at, lease_until, lease_token)
		VALUES ($1, $2, $3, 'waiting', '', 0, 0, $4, 0, $4, 0, '', '', 0, 0, 0, 0, 0, 0, '')
		ON CONFLICT (name) DO NOTHING`)
	qReset = db.SQL("ctwatch.reset_log", `UPDATE ct_log SET state = 'waiting', error = '', failures = 0, size = 0, frontier = $2, head_size = 0, head_root = $2, head_at = 0, head = '', proof = '',
			url = $3, kind = $4, due_at = 0, lease_until = 0, lease_token = '' WHERE name = $1`)
)

// Ensure makes the rows of configured logs.
func (s *Service) Ensure(ctx context.Context) error {
	for i := range s.cfg.Logs {
		l := &s.cfg.Logs[i]
		if _, err := newReader(*l, s.cfg.Gates); err != nil {
			return err
		}
		err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
			_, err := tx.Exec(ctx, qEnsure, l.Name, l.URL, string(l.Kind), []byte{})
			return err
		})
		if err != nil {
			return fmt.Errorf("make row of log %s: %w", l.Name, err)
		}
	}
	return nil
}

// Logs returns up to limit logs in the order of their names, after a name.
func (s *Service) Logs(ctx context.Context, after string, limit int) ([]Status, error) {
	return db.List(ctx, s.cfg.DB.Read(), qLogs, scanLog, after, limit)
}

// Get returns a log, or a notFound fault.
func (s *Service) Get(ctx context.Context, name string) (Status, error) {
	v, err := db.Get(ctx, s.cfg.DB.Read(), qLog, scanLog, name)
	if errors.Is(err, db.ErrNotFound) {
		return v, fault.New(fault.NotFound, "no log %.80q is followed; logs are [ct_log.NAME] sections with watch = true", name)
	}
	return v, err
}

// Reset forgets what is known of a log, so that it is followed anew: from its
// end, or from its beginning where the configuration says so. Findings stay.
func (s *Service) Reset(ctx context.Context, name, actor string, now time.Time) error {
	v, err := s.Get(ctx, name)
	if err != nil {
		return err
	}
	for i := range s.cfg.Logs {
		if l := &s.cfg.Logs[i]; l.Name == name {
			v.URL, v.Kind = l.URL, l.Kind
		}
	}
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if _, err := tx.Exec(ctx, qReset, name, []byte{}, v.URL, string(v.Kind)); err != nil {
			return err
		}
		return audit.Append(tx, audit.Entry{At: now, Kind: "ct.reset", Actor: actor, Subject: "ct_log:" + name, Data: map[string]any{"state": string(v.State), "size": v.Size}})
	})
}

// Bounds and freshness of our domains.
const (
	maxDomains = 100_000
	domainsFor = 5 * time.Minute
)

// ours returns the matcher of our domains.
func (s *Service) ours(ctx context.Context) (*matcher, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.matcher != nil && time.Since(s.madeAt) < domainsFor {
		return s.matcher, nil
	}
	domains := s.cfg.Domains
	if s.cfg.FromInventory {
		found, err := s.cfg.Inventory.ObtainedDomains(ctx, registered, maxDomains)
		if err != nil {
			return nil, fmt.Errorf("read our domains: %w", err)
		}
		domains = append(found, domains...)
	}
	s.matcher, s.madeAt = newMatcher(domains), time.Now()
	s.m.domains.Set(float64(s.matcher.count))
	return s.matcher, nil
}

// registered returns the registered domain of a name (the label before its
// public suffix), "" for addresses and bare suffixes.
func registered(name string) string {
	d, err := publicsuffix.EffectiveTLDPlusOne(name)
	if err != nil {
		return ""
	}
	return d
}

// Loops are the loops that follow logs, one for each.
func (s *Service) Loops() []loop.Every {
	var loops []loop.Every
	for i := range s.cfg.Logs {
		l := s.cfg.Logs[i]
		loops = append(loops, loop.Every{Name: "ct.follow", Interval: min(s.cfg.Interval, 2*time.Second), Timeout: 10 * time.Minute, Log: s.cfg.Log.With("log", l.Name), Metrics: s.cfg.Loops,
			Tick: func(ctx context.Context) (loop.Count, error) { return s.tick(ctx, &l) }})
	}
	return append(loops, loop.Every{Name: "ct.reconcile", Interval: min(s.cfg.Grace, 20*time.Second), Log: s.cfg.Log, Metrics: s.cfg.Loops,
		Tick: func(ctx context.Context) (loop.Count, error) { return s.reconcile(ctx, time.Now()) }})
}

// metrics are the figures of followed logs; requests are measured by
// cloud.Gates.
type metrics struct {
	entries *prometheus.CounterVec
	matches *prometheus.CounterVec
	lag     *prometheus.GaugeVec
	behind  *prometheus.GaugeVec
	headAge *prometheus.GaugeVec
	forked  *prometheus.GaugeVec
	domains prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"log"})
	}
	m := &metrics{
		entries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chancery_ct_entries_total", Help: "Entries of logs that were looked at and verified."}, []string{"log"}),
		matches: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chancery_ct_matches_total", Help: "Entries of logs that are for our names."}, []string{"log"}),
		lag:     gauge("chancery_ct_lag_entries", "Entries of a log that were not looked at yet."),
		behind:  gauge("chancery_ct_lag_seconds", "Age of the first entry that was not looked at yet, as far as known; 0 when there is none."),
		headAge: gauge("chancery_ct_head_timestamp_seconds", "When the log signed the newest head that we have."),
		forked:  gauge("chancery_ct_forked", "1 when the log signed statements that contradict each other."),
		domains: prometheus.NewGauge(prometheus.GaugeOpts{Name: "chancery_ct_domains", Help: "Domains that are looked for in logs."})}
	if reg != nil {
		reg.MustRegister(m.entries, m.matches, m.lag, m.behind, m.headAge, m.forked, m.domains)
	}
	return m
}

func (m *metrics) position(v *Status, now time.Time) {
	m.lag.WithLabelValues(v.Name).Set(float64(v.Lag()))
	behind := 0.0
	if v.Lag() > 0 && !v.EntryAt.IsZero() {
		behind = now.Sub(v.EntryAt).Seconds()
	}
	m.behind.WithLabelValues(v.Name).Set(behind)
	m.headAge.WithLabelValues(v.Name).Set(float64(v.HeadAt.Unix()))
	forked := 0.0
	if v.State == Forked {
		forked = 1
	}
	m.forked.WithLabelValues(v.Name).Set(forked)
}
