package ca

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/db"
	"chancery/internal/loop"
)

// CheckerConfig is what a Checker needs. A zero number means its default.
type CheckerConfig struct {
	// Rate is how many certificates are judged in a second, on all replicas
	// together (50). One costs a few milliseconds, nearly all of it lints.
	Rate int
	// Every is the time between the starts of two walks over all certificates
	// (24 h); a walk that takes longer is followed by the next at once.
	Every time.Duration

	Registry prometheus.Registerer // nil: not measured
	Loops    *loop.Metrics         // nil: not measured
}

// Checker re-reads every issued certificate in the background (see Judge): new
// ones a few minutes after they were issued, all of them again and again, so
// that new rules and old mistakes meet.
type Checker struct {
	s        *Service
	cfg      CheckerConfig
	checked  prometheus.Counter
	findings atomic.Int64
	passed   atomic.Int64 // Unix seconds of the end of the last walk over all
}

// NewChecker returns a checker; run its Loop.
func NewChecker(s *Service, cfg CheckerConfig) *Checker {
	if cfg.Rate <= 0 {
		cfg.Rate = 50
	}
	if cfg.Every <= 0 {
		cfg.Every = 24 * time.Hour
	}
	c := &Checker{s: s, cfg: cfg, checked: prometheus.NewCounter(prometheus.CounterOpts{Name: "chancery_checker_certificates_total",
		Help: "Certificates that the background checker judged."})}
	if cfg.Registry != nil {
		cfg.Registry.MustRegister(c.checked,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "chancery_checker_findings", Help: "Findings about issued certificates; 0 is right."},
				func() float64 { return float64(c.findings.Load()) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "chancery_checker_last_pass_timestamp_seconds", Help: "End of the last walk over all certificates; 0: not seen yet."},
				func() float64 { return float64(c.passed.Load()) }))
	}
	return c
}

// Loop returns the background work.
func (c *Checker) Loop() loop.Every {
	return loop.Every{Name: "ca.checker", Interval: time.Second, Timeout: time.Minute, Tick: c.Tick, Log: c.s.log, Metrics: c.cfg.Loops}
}

// walk is one of the two ways over the certificates.
type walk string

const (
	walkNew walk = "new" // what was issued lately, once
	walkAll walk = "all" // everything, from the start again and again
)

const (
	// checkerAge is how old an intent is when the new walk passes it: whatever
	// comes of it has come by then.
	checkerAge = 2 * time.Minute
	// checkerLease is how long one page may take.
	checkerLease = time.Minute
)

var (
	qInsertWalk = db.SQL("ca.insert_walk", `INSERT INTO checker (name, position, checked, started_at, due_at) VALUES ($1, $2, 0, $3, $3) ON CONFLICT DO NOTHING`)
	qClaimWalk  = db.SQL("ca.claim_walk", `UPDATE checker SET due_at = $3 WHERE name = $1 AND due_at <= $2 RETURNING position, checked, started_at`)
	qMoveWalk   = db.SQL("ca.move_walk", `UPDATE checker SET position = $3, checked = $4, started_at = $5, due_at = $6,
		finished_at = COALESCE($7::bigint, finished_at) WHERE name = $1 AND position = $2`)
	qWalks  = db.SQL("ca.list_walks", `SELECT name, checked, started_at, finished_at FROM checker ORDER BY name`, db.Scan("two rows"))
	qLastID = db.SQL("ca.get_last_id", `SELECT id FROM certificate ORDER BY id DESC LIMIT 1`)
)

// Look is how far one walk of the background checker is.
type Look struct {
	Name       string    // "new": what was issued lately, once; "all": everything, again and again
	Checked    int64     // certificates, in the walk that is under way
	StartedAt  time.Time // of that walk; in the future: the next one waits until then
	FinishedAt time.Time // end of the last whole walk; zero: none yet
}

// Looks returns the walks of the checker. There are none before it first ran.
func Looks(ctx context.Context, q db.Q) ([]Look, error) {
	return db.List(ctx, q, qWalks, func(r *db.Row) Look { return Look{r.Text(), r.Int64(), r.Time(), r.Time()} })
}

var errWalked = errors.New("another replica has moved the checker")

// Tick judges at most Rate certificates.
func (c *Checker) Tick(ctx context.Context) (n loop.Count, err error) {
	for _, w := range []walk{walkNew, walkAll} {
		if err := c.step(ctx, w, c.cfg.Rate-n.Claimed, &n); err != nil {
			return n, fmt.Errorf("check certificates: %w", err)
		}
		if n.Claimed >= c.cfg.Rate {
			break
		}
	}
	found, err := db.Get(ctx, c.s.db.Read(), qCountFindings, (*db.Row).Int64)
	c.findings.Store(found)
	return n, err
}

// stage is where a walk stands.
type stage struct {
	position  string // id of the last certificate that was looked at
	checked   int64  // in this walk
	startedAt time.Time
}

// claim takes a walk for checkerLease, or returns false.
func (c *Checker) claim(ctx context.Context, w walk, now time.Time) (at stage, ok bool, err error) {
	start := ""
	if w == walkNew { // what is older is for the other
		start, err = db.Get(ctx, c.s.db.Read(), qLastID, (*db.Row).Text)
		if err != nil && !errors.Is(err, db.ErrNotFound) {
			return at, false, err
		}
	}
	err = c.s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qInsertWalk, nil, w, start, now)
		found, err := db.List(ctx, tx, qClaimWalk, func(r *db.Row) stage { return stage{r.Text(), r.Int64(), r.Time()} }, w, now, now.Add(checkerLease))
		if ok = len(found) == 1; ok {
			at = found[0]
		}
		return err
	})
	return at, ok, err
}

// step judges one page of a walk.
func (c *Checker) step(ctx context.Context, w walk, limit int, n *loop.Count) error {
	now := time.Now()
	at, ok, err := c.claim(ctx, w, now)
	if err != nil || !ok {
		return err
	}
	page, err := db.List(ctx, c.s.db.Read(), qWalk, scanCertificate, at.position, limit)
	if err != nil {
		return err
	}
	next := stage{position: at.position, checked: at.checked, startedAt: at.startedAt}
	end := len(page) < limit
	for i := range page {
		if page[i].CreatedAt.After(now.Add(-checkerAge)) {
			page, end = page[:i], true
			break
		}
		next.position = page[i].ID
	}
	store, err := c.s.examine(ctx, page, now)
	if err != nil {
		return err
	}
	next.checked += int64(len(page))
	if err := c.move(ctx, w, at, next, end, now, store); err != nil {
		return err
	}
	c.checked.Add(float64(len(page)))
	n.Claimed += len(page)
	n.Done += len(page)
	return nil
}

// move stores the outcome of a page and where the walk stands now.
func (c *Checker) move(ctx context.Context, w walk, at, next stage, end bool, now time.Time, store func(*db.Tx)) error {
	due := now.Add(time.Second / 2) // the loop ticks once a second
	var finished time.Time
	switch {
	case end && w == walkAll:
		finished = now
		c.passed.Store(now.Unix())
		c.s.log.InfoContext(ctx, "all certificates checked", "checked", next.checked, "duration_ms", now.Sub(at.startedAt).Milliseconds())
		due = at.startedAt.Add(c.cfg.Every)
		if due.Before(now) {
			due = now
		}
		next = stage{startedAt: due}
	case end:
		due = now.Add(10 * time.Second)
	}
	err := c.s.db.Write(ctx, func(tx *db.Tx) error {
		store(tx)
		tx.Queue(qMoveWalk, db.ExactlyOne(errWalked), w, at.position, next.position, next.checked, next.startedAt, due, finished)
		return nil
	})
	if errors.Is(err, errWalked) {
		return nil // its findings are the same
	}
	return err
}
