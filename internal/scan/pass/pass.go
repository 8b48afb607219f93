package pass

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/scan"
	"chancery/internal/scan/probe"
	"chancery/internal/scan/verdict"
)

// State is where a pass stands.
type State string

// States of a pass. Only Running changes.
const (
	Running   State = "running"
	Done      State = "done"
	Cancelled State = "cancelled"
	Failed    State = "failed" // see Error
)

// Pass is one run of a schedule.
type Pass struct {
	ID         string
	ScheduleID string
	Kind       scan.Kind
	Site       string
	State      State
	Targets    int // without duplicates
	Duplicates int
	Summary    Tally
	Error      string
	StartedAt  time.Time
	FinishedAt time.Time // zero while it runs
}

// Tally accounts for the targets of a pass: Targets = Stored + Untried +
// what is still waiting.
type Tally struct {
	Stored   int                     `json:"stored"`  // results in the inventory
	Untried  int                     `json:"untried"` // this machine could not try; says nothing about the endpoint
	Refused  int                     `json:"refused"` // of Stored, certificates that the inventory did not take
	Healthy  int                     `json:"healthy"`
	Classes  map[probe.Class]int     `json:"classes"`
	Problems map[verdict.Problem]int `json:"problems"`
	Slowed   int                     `json:"slowed"`  // batches that had to wait
	Shards   int                     `json:"shards"`  // done
	Open     int                     `json:"open"`    // shards not done
	Retries  int                     `json:"retries"` // shards that were scanned again
}

// add adds what a shard reports.
func (s *Tally) add(o *Tally) {
	s.Stored, s.Untried, s.Refused, s.Healthy = s.Stored+o.Stored, s.Untried+o.Untried, s.Refused+o.Refused, s.Healthy+o.Healthy
	s.Slowed, s.Retries = s.Slowed+o.Slowed, s.Retries+o.Retries
	if s.Classes == nil {
		s.Classes, s.Problems = map[probe.Class]int{}, map[verdict.Problem]int{}
	}
	for k, n := range o.Classes {
		s.Classes[k] += n
	}
	for k, n := range o.Problems {
		s.Problems[k] += n
	}
}

// shardSummary is what a scan of a shard found. Stored counts what the writer
// is to store.
func shardSummary(sum *scan.Summary) Tally {
	out := Tally{Healthy: sum.Healthy, Classes: maps.Clone(sum.Classes), Problems: maps.Clone(sum.Problems), Slowed: sum.Slowed,
		Untried: sum.Classes[probe.Local] + sum.Classes[probe.Canceled]}
	out.Stored = sum.Done - out.Untried
	return out
}

const passColumns = `id, schedule_id, kind, site, state, targets, duplicates, summary, error, started_at, finished_at`

func scanPass(r *db.Row) Pass {
	p := Pass{ID: r.Text(), ScheduleID: r.Text(), Kind: scan.Kind(r.Text()), Site: r.Text(), State: State(r.Text()), Targets: r.Int(), Duplicates: r.Int()}
	p.Summary = readSummary(r.Text())
	p.Error, p.StartedAt, p.FinishedAt = r.Text(), r.Time(), r.Time()
	return p
}

// readSummary reads a stored summary; only this package writes them.
func readSummary(text string) (s Tally) {
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return Tally{}
	}
	return s
}

var (
	qInsertPass = db.SQL("pass.insert_pass", `INSERT INTO scan_pass (`+passColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`)
	qPass       = db.SQL("pass.get_pass", `SELECT `+passColumns+` FROM scan_pass WHERE id = $1`)
	qPasses     = db.SQL("pass.list_passes", `SELECT `+passColumns+` FROM scan_pass WHERE schedule_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3`)
	qRecent     = db.SQL("pass.list_recent", `SELECT `+passColumns+` FROM scan_pass WHERE id < $1 ORDER BY id DESC LIMIT $2`)
	qRunning    = db.SQL("pass.get_running", `SELECT id FROM scan_pass WHERE schedule_id = $1 AND state = 'running' LIMIT 1`)
	qAllRunning = db.SQL("pass.list_running", `SELECT `+passColumns+` FROM scan_pass WHERE state = 'running' ORDER BY schedule_id LIMIT 100`)
	qEnd        = db.SQL("pass.end_pass", `UPDATE scan_pass SET state = $2, summary = $3, error = $4, finished_at = $5 WHERE id = $1 AND state = 'running'`)
	qShards     = db.SQL("pass.list_shards", `SELECT state, attempts, lease_until, refused, summary FROM scan_shard WHERE pass_id = $1 ORDER BY number`)
	qDropShards = db.SQL("pass.delete_shards", `DELETE FROM scan_shard WHERE pass_id = $1`)
	qDropMarks  = db.SQL("pass.delete_batches", `DELETE FROM scan_batch WHERE pass_id = $1`)
	qDropPasses = db.SQL("pass.delete_passes", `DELETE FROM scan_pass WHERE id < $1 AND state <> 'running'`)

	putShards = db.BulkInsert("pass.insert_shards", "scan_shard", false, "pass_id", "number", "site", "targets", "size", "state", "attempts", "lease_until",
		"lease_token", "batches", "stored", "results", "refused", "summary")
)

// insert stores a pass that begins, with its shards.
func (p *Pass) insert(ctx context.Context, tx *db.Tx, targets []scan.Target, size int) error {
	var finished any
	if !p.FinishedAt.IsZero() {
		finished = p.FinishedAt
	}
	if _, err := tx.Exec(ctx, qInsertPass, p.ID, p.ScheduleID, string(p.Kind), p.Site, string(p.State), p.Targets, p.Duplicates, "{}", p.Error, p.StartedAt, finished); err != nil {
		return err
	}
	var rows [][]any
	for n := 0; len(targets) > 0; n++ {
		part := targets[:min(size, len(targets))]
		targets = targets[len(part):]
		var text strings.Builder
		for _, t := range part {
			text.WriteString(t.String())
			text.WriteByte('\n')
		}
		rows = append(rows, []any{p.ID, n, p.Site, text.String(), len(part), "waiting", 0, 0, "", 0, 0, 0, 0, "{}"})
	}
	return tx.Insert(ctx, putShards, rows)
}

// Pass returns a pass, with what is known so far when it runs, or a notFound
// fault.
func (s *Service) Pass(ctx context.Context, id string) (Pass, error) {
	p, err := db.Get(ctx, s.cfg.DB.Read(), qPass, scanPass, id)
	if errors.Is(err, db.ErrNotFound) {
		return p, fault.New(fault.NotFound, "there is no pass %.80q", id)
	}
	if err != nil || p.State != Running {
		return p, err
	}
	sum, _, err := s.progress(ctx, id, time.Now())
	p.Summary = sum
	return p, err
}

// Passes returns up to limit passes, of one schedule or ("") of all, the newest
// first, before the pass with an id ("" = from the newest).
func (s *Service) Passes(ctx context.Context, schedule, before string, limit int) ([]Pass, error) {
	if before == "" {
		before = "~" // after every id
	}
	if schedule == "" {
		return db.List(ctx, s.cfg.DB.Read(), qRecent, scanPass, before, limit)
	}
	return db.List(ctx, s.cfg.DB.Read(), qPasses, scanPass, schedule, before, limit)
}

// progress sums up the shards of a pass. stuck says that one was given up too
// often to be tried again.
func (s *Service) progress(ctx context.Context, id string, now time.Time) (sum Tally, stuck bool, err error) {
	err = s.cfg.DB.Read().All(ctx, qShards, func(r *db.Row) error {
		state, attempts, until, refused := r.Text(), r.Int(), r.Time(), r.Int()
		text := r.Text()
		sum.Retries += max(attempts-1, 0)
		if state != "done" {
			sum.Open++
			stuck = stuck || attempts >= maxAttempts && until.Before(now)
			return nil
		}
		part := readSummary(text)
		part.Refused = refused
		sum.add(&part)
		sum.Shards++
		return nil
	}, id)
	if err != nil {
		return sum, false, fmt.Errorf("read shards: %w", err)
	}
	return sum, stuck, nil
}

// Cancel ends a pass: what was found stays, the rest is not scanned.
func (s *Service) Cancel(ctx context.Context, id string, now time.Time) error {
	p, err := s.Pass(ctx, id)
	if err != nil {
		return err
	}
	if p.State != Running {
		return fault.New(fault.Conflict, "the pass %s has ended already: it is %s", id, p.State)
	}
	return s.end(ctx, &p, Cancelled, "", now)
}

// end gives a running pass its last state. Its shards go: whoever scans one
// finds its lease gone.
func (s *Service) end(ctx context.Context, p *Pass, to State, why string, now time.Time) error {
	text, err := json.Marshal(p.Summary)
	if err != nil {
		return fmt.Errorf("encode summary: %w", err)
	}
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, qEnd, p.ID, string(to), string(text), why, now)
		if err != nil || n == 0 {
			return err
		}
		tx.Queue(qDropShards, nil, p.ID)
		tx.Queue(qDropMarks, nil, p.ID)
		return nil
	})
}

// keepPasses is how long passes are remembered.
const keepPasses = 90 * 24 * time.Hour

// finish ends passes of which every shard is done.
func (s *Service) finish(ctx context.Context, now time.Time) (ended int, err error) {
	running, err := db.List(ctx, s.cfg.DB.Read(), qAllRunning, scanPass)
	if err != nil {
		return 0, fmt.Errorf("list running passes: %w", err)
	}
	for i := range running {
		p := &running[i]
		var stuck bool
		if p.Summary, stuck, err = s.progress(ctx, p.ID, now); err != nil {
			return ended, err
		}
		switch {
		case p.Summary.Open == 0:
			err = s.end(ctx, p, Done, "", now)
			s.cfg.Log.InfoContext(ctx, "scan pass done", "pass", p.ID, "schedule", p.ScheduleID, "targets", p.Targets, "stored", p.Summary.Stored, "untried", p.Summary.Untried, "duration_ms", now.Sub(p.StartedAt).Milliseconds())
		case stuck:
			err = s.end(ctx, p, Failed, fmt.Sprintf("%d parts could not be scanned in %d attempts each; see the log of the scanners", p.Summary.Open, maxAttempts), now)
		default:
			continue
		}
		if err != nil {
			return ended, fmt.Errorf("end pass %s: %w", p.ID, err)
		}
		ended++
	}
	return ended, nil
}

// tidy forgets old passes.
func (s *Service) tidy(ctx context.Context, now time.Time) error {
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, qDropPasses, db.NewID(now.Add(-keepPasses)))
		return err
	})
}
