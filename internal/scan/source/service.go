// Package source lists the places that keep certificates (clouds, clusters,
// secret managers) into the inventory, each at its interval.
//
// One process lists a source at a time: it holds the lease of the source's row.
// What a source has is remembered with its version (source_item), so that a
// list that brings nothing new fetches no certificate; what is missing in a
// complete list is marked as gone. A list that fails half-way has stored what
// it had, and marks nothing.
package source

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/inventory"
	"chancery/internal/loop"
	"chancery/internal/obs"
	"chancery/internal/scan/cloud"
)

// Config of a Service.
type Config struct {
	DB        *db.DB
	Inventory *inventory.Store
	Sources   map[string]Settings   // by name
	Lease     time.Duration         // of a source that is listed; 0: 30 s
	Log       *slog.Logger          // nil: discard
	Registry  prometheus.Registerer // nil: not measured
	Loops     *loop.Metrics
}

// Settings are how one source is listed.
type Settings struct {
	Kind     cloud.Kind
	Open     func(env cloud.Env) (cloud.Source, error) // the kind's, with its configuration
	Enabled  bool
	Interval time.Duration // between the beginnings of two complete lists
	Timeout  time.Duration // of one list
	Rate     cloud.Rate    // zero: the kind's own

	Account                           string // "": what the provider says
	OwnerTag, TeamTag, EnvironmentTag string // "": none
}

// Service lists sources. Its methods are safe for concurrent use, by any number
// of replicas.
type Service struct {
	cfg   Config
	gates *cloud.Gates
	m     *metrics
}

// New returns a Service. It starts nothing.
func New(cfg Config) *Service {
	if cfg.Lease <= 0 {
		cfg.Lease = 30 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = obs.Discard()
	}
	return &Service{cfg: cfg, gates: cloud.NewGates(cfg.Registry), m: newMetrics(cfg.Registry)}
}

// Gates are what the requests of all sources pass through; others may share
// them.
func (s *Service) Gates() *cloud.Gates { return s.gates }

// State is where a source stands.
type State string

// States of a source.
const (
	Waiting  State = "waiting" // never listed
	Listing  State = "listing"
	Watching State = "watching"
	OK       State = "ok"
	Failed   State = "failed" // see Error; what it had before stays
)

// Tally is what the last complete list found.
type Tally struct {
	Listed  int `json:"listed"`  // certificates of the source
	New     int `json:"new"`     // to the inventory
	Changed int `json:"changed"` // new or renewed in the source
	Gone    int `json:"gone"`    // not there any more
	Refused int `json:"refused"` // that cannot be read
}

// Status is a source as the database knows it.
type Status struct {
	Name       string
	Kind       string
	State      State
	Error      string
	Failures   int // in a row
	Watches    bool
	Tally      Tally
	DueAt      time.Time
	StartedAt  time.Time // of the last list or watch
	FinishedAt time.Time
	ListedAt   time.Time // when the last complete list ended
	Configured bool      // in this process
	Enabled    bool      // in this process

	cursor     string
	generation int64
	askedAt    time.Time
}

const columns = `name, kind, state, error, failures, cursor, generation, tally, due_at, asked_at, started_at, finished_at, listed_at`

func scanStatus(r *db.Row) Status {
	s := Status{Name: r.Text(), Kind: r.Text(), State: State(r.Text()), Error: r.Text(), Failures: r.Int(), cursor: r.Text(), generation: r.Int64()}
	if err := json.Unmarshal([]byte(r.Text()), &s.Tally); err != nil {
		s.Tally = Tally{} // only this package writes them
	}
	s.DueAt, s.askedAt, s.StartedAt, s.FinishedAt, s.ListedAt = r.Time(), r.Time(), r.Time(), r.Time(), r.Time()
	s.Watches = s.cursor != ""
	return s
}

var (
	qGet    = db.SQL("source.get_source", `SELECT `+columns+` FROM source WHERE name = $1`)
	qList   = db.SQL("source.list_sources", `SELECT `+columns+` FROM source WHERE name > $1 ORDER BY name LIMIT $2`)
	qEnsure = db.SQL("source.insert_source", `INSERT INTO source (name, kind, state, error, failures, cursor, generation, tally, due_at, asked_at, lease_until, lease_token)
		VALUES ($1, $2, 'waiting', '', 0, '', 0, '{}', 0, 0, 0, '') ON CONFLICT (name) DO UPDATE SET kind = $2, cursor = '', due_at = 0 WHERE source.kind <> $2`)
	qAsk   = db.SQL("source.ask_source", `UPDATE source SET asked_at = $2, due_at = 0 WHERE name = $1`)
	qItems = db.SQL("source.list_items", `SELECT ref, version, fingerprint, account, region, error, seen_at, gone_at FROM source_item
		WHERE source = $1 AND ref > $2 ORDER BY ref LIMIT $3`)
)

// Ensure makes the rows of configured sources.
func (s *Service) Ensure(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(s.cfg.Sources)) {
		err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
			_, err := tx.Exec(ctx, qEnsure, name, s.cfg.Sources[name].Kind.Name)
			return err
		})
		if err != nil {
			return fmt.Errorf("make row of source %s: %w", name, err)
		}
	}
	return nil
}

func (s *Service) configured(v Status) Status {
	c, ok := s.cfg.Sources[v.Name]
	v.Configured, v.Enabled = ok, ok && c.Enabled
	return v
}

// List returns up to limit sources in the order of their names, after a name.
// It has those of other processes, too, and those that no process has any
// more.
func (s *Service) List(ctx context.Context, after string, limit int) ([]Status, error) {
	all, err := db.List(ctx, s.cfg.DB.Read(), qList, scanStatus, after, limit)
	for i := range all {
		all[i] = s.configured(all[i])
	}
	return all, err
}

// Get returns a source, or a notFound fault.
func (s *Service) Get(ctx context.Context, name string) (Status, error) {
	v, err := db.Get(ctx, s.cfg.DB.Read(), qGet, scanStatus, name)
	if errors.Is(err, db.ErrNotFound) {
		return v, fault.New(fault.NotFound, "there is no source %.80q; sources are [source.NAME] sections of the configuration", name)
	}
	return s.configured(v), err
}

// Run lets a complete list begin at once.
func (s *Service) Run(ctx context.Context, name, actor string, now time.Time) error {
	if _, err := s.Get(ctx, name); err != nil {
		return err
	}
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if _, err := tx.Exec(ctx, qAsk, name, now); err != nil {
			return err
		}
		return audit.Append(tx, audit.Entry{At: now, Kind: "source.run", Actor: actor, Subject: "source:" + name})
	})
}

// Check sends a source one cheap request from this process. The error is a
// *fault.Error.
func (s *Service) Check(ctx context.Context, name string) error {
	c, ok := s.cfg.Sources[name]
	if !ok {
		return fault.New(fault.NotFound, "the configuration of this process has no [source.%.80s]", name)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	src, err := s.open(name, &c)
	if err == nil {
		if checker, ok := src.(cloud.Checker); ok {
			err = checker.Check(ctx)
		}
	}
	if _, known := errors.AsType[*fault.Error](err); err != nil && !known {
		err = fault.Wrap(err, fault.Unavailable, "the source %s does not answer as it should: %.300s", name, err)
	}
	return err
}

func (s *Service) open(name string, c *Settings) (cloud.Source, error) {
	return c.Open(cloud.Env{Name: name, Log: s.cfg.Log, Gates: s.gates, Rate: c.Rate, WantTags: c.OwnerTag != "" || c.TeamTag != "" || c.EnvironmentTag != ""})
}

// Item is one certificate of a source.
type Item struct {
	Ref         string
	Version     string
	Fingerprint string // of the certificate in the inventory, "" when it was refused
	Account     string
	Region      string
	Error       string // why it was refused
	SeenAt      time.Time
	GoneAt      time.Time // zero: it is there
}

func scanItem(r *db.Row) Item {
	return Item{Ref: r.Text(), Version: r.Text(), Fingerprint: r.Text(), Account: r.Text(), Region: r.Text(), Error: r.Text(), SeenAt: r.Time(), GoneAt: r.Time()}
}

// Items returns up to limit certificates of a source, after one.
func (s *Service) Items(ctx context.Context, name, after string, limit int) ([]Item, error) {
	return db.List(ctx, s.cfg.DB.Read(), qItems, scanItem, name, after, limit)
}

// Loops are the loops that list: one for each source, so that a slow one holds
// up nobody.
func (s *Service) Loops() []loop.Every {
	var loops []loop.Every
	for _, name := range slices.Sorted(maps.Keys(s.cfg.Sources)) {
		c := s.cfg.Sources[name]
		if !c.Enabled {
			continue
		}
		loops = append(loops, loop.Every{Name: "find.sources", Interval: 2 * time.Second, Timeout: c.Timeout + maxWatch + time.Minute,
			Tick: func(ctx context.Context) (loop.Count, error) { return s.tick(ctx, name, &c) }, Log: s.cfg.Log.With("source", name), Metrics: s.cfg.Loops})
	}
	return loops
}

// metrics are the figures of lists; requests are measured by cloud.Gates.
type metrics struct {
	lists    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	certs    *prometheus.GaugeVec
	listed   *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		lists:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chancery_source_lists_total", Help: "Complete lists of sources, by outcome."}, []string{"source", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "chancery_source_list_seconds", Help: "Time of one complete list.", Buckets: prometheus.ExponentialBuckets(0.1, 3, 10)}, []string{"source"}),
		certs:    prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "chancery_source_certificates", Help: "Certificates of a source in its last complete list."}, []string{"source"}),
		listed:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "chancery_source_listed_timestamp_seconds", Help: "When the last complete list of a source ended."}, []string{"source"})}
	if reg != nil {
		reg.MustRegister(m.lists, m.duration, m.certs, m.listed)
	}
	return m
}
