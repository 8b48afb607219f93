package alert

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/db"
	"chancery/internal/loop"
	"chancery/internal/obs"
)

// Config is what a Service needs. The zero value of a duration is its default.
type Config struct {
	DB       *db.DB
	Channels []Channel
	URL      string // of the UI, for links
	Instance string // name of the installation

	Interval  time.Duration // between looks for rules that are due; 0 = 15 s
	GroupWait time.Duration // how long a message waits for more alerts of its rule; negative = not, 0 = 30 s
	GiveUp    time.Duration // how long a message is tried; 0 = 24 h
	Keep      time.Duration // how long what is over can be read; 0 = 90 days

	Log      *slog.Logger          // nil: discard
	Registry prometheus.Registerer // nil: not measured
	Loops    *loop.Metrics         // nil: not measured
}

// Service evaluates rules and tells channels. It is safe for concurrent use.
type Service struct {
	cfg   Config
	db    *db.DB
	log   *slog.Logger
	token string // of this process's leases
	meter meters
	wake  map[string]chan struct{} // of the channels' loops
	pause loop.Backoff             // between tries to send
	lease time.Duration
}

// New returns a Service.
func New(cfg Config) *Service {
	or := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	or(&cfg.Interval, 15*time.Second)
	or(&cfg.GroupWait, 30*time.Second)
	or(&cfg.GiveUp, 24*time.Hour)
	or(&cfg.Keep, 90*24*time.Hour)
	if cfg.Log == nil {
		cfg.Log = obs.Discard()
	}
	s := &Service{cfg: cfg, db: cfg.DB, log: cfg.Log, token: db.NewID(time.Now()), meter: newMeters(cfg.Registry), wake: map[string]chan struct{}{},
		pause: loop.Backoff{Base: 15 * time.Second, Max: 15 * time.Minute}, lease: time.Minute}
	slices.SortFunc(cfg.Channels, func(a, b Channel) int { return strings.Compare(a.Name, b.Name) })
	for _, c := range cfg.Channels {
		s.wake[c.Name] = make(chan struct{}, 1)
	}
	return s
}

// names returns the names of the channels.
func (s *Service) names() []string {
	names := []string{}
	for _, c := range s.cfg.Channels {
		names = append(names, c.Name)
	}
	return names
}

// Channels returns the configured channels.
func (s *Service) Channels() []Channel { return s.cfg.Channels }

// Loops are the loops of the service.
func (s *Service) Loops() []loop.Every {
	every := func(name string, interval time.Duration, tick loop.Tick) loop.Every {
		return loop.Every{Name: name, Interval: interval, Tick: tick, Log: s.log, Metrics: s.cfg.Loops}
	}
	at := func(f func(context.Context, time.Time) (loop.Count, error)) loop.Tick {
		return func(ctx context.Context) (loop.Count, error) { return f(ctx, time.Now()) }
	}
	loops := []loop.Every{
		every("alert.evaluate", s.cfg.Interval, at(s.Evaluate)),
		every("alert.notify", min(s.cfg.Interval, 5*time.Second), at(s.Notify)),
		every("alert.sweep", time.Minute, at(s.Sweep)),
	}
	for _, c := range s.cfg.Channels {
		l := every("alert.send."+c.Name, 5*time.Second, at(func(ctx context.Context, now time.Time) (loop.Count, error) { return s.Deliver(ctx, c.Name, now) }))
		l.Wake, l.Timeout = s.wake[c.Name], 10*time.Minute
		loops = append(loops, l)
	}
	return loops
}

// run is a row of alert_run.
type run struct {
	rule     string
	number   int64
	position string
	kept     string
	nextAt   time.Time
	finished time.Time
	problem  string
}

var (
	qRuns = db.SQL("alert.list_runs", `SELECT rule, number, position, kept, next_at, finished_at, error FROM alert_run`, db.Scan("one row per rule"))
	qOpen = db.SQL("alert.insert_run", `INSERT INTO alert_run (rule, number, position, kept, next_at, error, lease_until, lease_token)
		VALUES ($1, 1, '', '', 0, '', 0, '') ON CONFLICT DO NOTHING`)
	qHold = db.SQL("alert.claim_run", `UPDATE alert_run SET lease_until = $3, lease_token = $4
		WHERE rule = $1 AND next_at <= $2 AND (lease_until < $2 OR lease_token = $4)
		RETURNING rule, number, position, kept, next_at, finished_at, error`)
	qMove = db.SQL("alert.move_run", `UPDATE alert_run SET number = $3, position = $4, kept = $5, next_at = COALESCE($6::bigint, 0), finished_at = COALESCE($7::bigint, finished_at), error = $8, lease_until = $9
		WHERE rule = $1 AND lease_token = $2`)
	qFence = db.SQL("alert.check_run", `UPDATE alert_run SET lease_until = $3 WHERE rule = $1 AND lease_token = $2`)
)

func scanRun(r *db.Row) run {
	return run{rule: r.Text(), number: r.Int64(), position: r.Text(), kept: r.Text(), nextAt: r.Time(), finished: r.Time(), problem: r.Text()}
}

// errLost says that another process holds the lease now.
var errLost = errors.New("another process has taken over")

// claim takes the lease of a row that is due; ok is false when it is not, or
// another process is at it.
func (s *Service) claim(ctx context.Context, name string, now time.Time) (r run, ok bool, err error) {
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := tx.Exec(ctx, qOpen, name); err != nil {
			return err
		}
		r, err = db.Get(ctx, tx, qHold, scanRun, name, now, now.Add(s.lease), s.token)
		if ok = err == nil; errors.Is(err, db.ErrNotFound) {
			err = nil
		}
		return err
	})
	if err != nil {
		return r, false, fmt.Errorf("claim %s: %w", name, err)
	}
	return r, ok, nil
}

// move stores where a run stands. End, if set, is when its pass ended.
func (s *Service) move(tx *db.Tx, r *run, end, lease time.Time) {
	tx.Queue(qMove, db.ExactlyOne(errLost), r.rule, s.token, r.number, r.position, r.kept, r.nextAt, end, r.problem, lease)
}
