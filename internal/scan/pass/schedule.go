package pass

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
	"unicode"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/inventory"
	"chancery/internal/scan"
	"chancery/internal/scan/probe"
)

// Bounds of a schedule.
const (
	MaxTargetText = 256 << 10 // bytes of target expressions
	MinPeriod     = time.Minute
	MaxPeriod     = 366 * 24 * time.Hour
	maxName       = 64
)

// Schedule is a scan that is repeated.
type Schedule struct {
	ID   string
	Name string // unique
	// Targets are expressions as scan.Targets reads them, one a line. The line
	// "inventory" stands for every endpoint that the inventory knows,
	// "inventory:*.example.com" for those of hosts below example.com.
	Targets   string
	Kind      scan.Kind
	Site      string        // whose processes run it; "" = those without a site
	Period    time.Duration // between the beginnings of passes
	Jitter    time.Duration // at most so much is added to it
	Enabled   bool
	NextAt    time.Time
	CreatedBy string
	CreatedAt time.Time
	UpdatedAt time.Time
}

const scheduleColumns = `id, name, targets, kind, site, period_ms, jitter_ms, enabled, next_at, created_by, created_at, updated_at`

func scanSchedule(r *db.Row) Schedule {
	return Schedule{ID: r.Text(), Name: r.Text(), Targets: r.Text(), Kind: scan.Kind(r.Text()), Site: r.Text(),
		Period: time.Duration(r.Int64()) * time.Millisecond, Jitter: time.Duration(r.Int64()) * time.Millisecond, Enabled: r.Bool(),
		NextAt: r.Time(), CreatedBy: r.Text(), CreatedAt: r.Time(), UpdatedAt: r.Time()}
}

var (
	qSchedule  = db.SQL("pass.get_schedule", `SELECT `+scheduleColumns+` FROM scan_schedule WHERE id = $1`)
	qNamed     = db.SQL("pass.get_schedule_by_name", `SELECT `+scheduleColumns+` FROM scan_schedule WHERE name = $1`)
	qSchedules = db.SQL("pass.list_schedules", `SELECT `+scheduleColumns+` FROM scan_schedule WHERE name > $1 ORDER BY name LIMIT $2`)
	qDue       = db.SQL("pass.list_due", `SELECT `+scheduleColumns+` FROM scan_schedule WHERE site = $1 AND enabled = 1 AND next_at <= $2 ORDER BY next_at LIMIT 1`)
	qInsert    = db.SQL("pass.insert_schedule", `INSERT INTO scan_schedule (`+scheduleColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11) ON CONFLICT DO NOTHING`)
	qUpdate    = db.SQL("pass.update_schedule", `UPDATE scan_schedule SET name = $2, targets = $3, kind = $4, site = $5, period_ms = $6, jitter_ms = $7,
		enabled = $8, next_at = $9, updated_at = $10 WHERE id = $1`)
	qDelete  = db.SQL("pass.delete_schedule", `DELETE FROM scan_schedule WHERE id = $1`)
	qRunNow  = db.SQL("pass.run_schedule", `UPDATE scan_schedule SET next_at = $2, enabled = 1, updated_at = $2 WHERE id = $1`)
	qAdvance = db.SQL("pass.advance_schedule", `UPDATE scan_schedule SET next_at = $3 WHERE id = $1 AND next_at = $2`)
)

// check refuses what cannot be run.
func (s *Schedule) check() error {
	bad := func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }
	switch {
	case s.Name == "" || len(s.Name) > maxName || strings.ContainsFunc(s.Name, bad):
		return fault.New(fault.Invalid, "the name of a schedule has 1 to %d characters and no spaces", maxName)
	case len(s.Site) > maxName || strings.ContainsFunc(s.Site, bad):
		return fault.New(fault.Invalid, "the site is one word of at most %d characters", maxName)
	case !s.Kind.Valid():
		return fault.New(fault.Invalid, "the kind %.32q is none of observe, fetch, dual, features", s.Kind)
	case s.Period < MinPeriod || s.Period > MaxPeriod:
		return fault.New(fault.Invalid, "the interval is not between 1m and 366d")
	case s.Jitter < 0 || s.Jitter > s.Period:
		return fault.New(fault.Invalid, "the jitter is not between 0 and the interval")
	case len(s.Targets) > MaxTargetText:
		return fault.New(fault.TooLarge, "the targets are longer than %d bytes; use ranges, or the line \"inventory\"", MaxTargetText)
	}
	return checkTargets(s.Targets)
}

// inventoryLine reads a line that stands for endpoints of the inventory.
func inventoryLine(line string) (host string, ok bool) {
	if line == "inventory" {
		return "", true
	}
	return strings.CutPrefix(line, "inventory:")
}

// lines yields the expressions of a target text.
func lines(text string) []string {
	var out []string
	for line := range strings.SplitSeq(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

// checkTargets parses a target text without looking anything up.
func checkTargets(text string) error {
	all := lines(text)
	if len(all) == 0 {
		return fault.New(fault.Invalid, "the schedule has no targets")
	}
	targets := scan.NewTargets(scan.TargetConfig{})
	for _, line := range all {
		if _, ok := inventoryLine(line); ok {
			continue
		}
		if err := targets.Add(line); err != nil {
			return err
		}
	}
	return nil
}

// List returns up to limit schedules in the order of their names, after a name.
func (s *Service) List(ctx context.Context, after string, limit int) ([]Schedule, error) {
	return db.List(ctx, s.cfg.DB.Read(), qSchedules, scanSchedule, after, limit)
}

// Get returns the schedule with an id or a name, or a notFound fault.
func (s *Service) Get(ctx context.Context, ref string) (Schedule, error) {
	q := qNamed
	if db.ValidID(ref) {
		q = qSchedule
	}
	v, err := db.Get(ctx, s.cfg.DB.Read(), q, scanSchedule, ref)
	if errors.Is(err, db.ErrNotFound) {
		return v, fault.New(fault.NotFound, "there is no schedule %.80q", ref)
	}
	return v, err
}

// Save stores v: a new schedule when v.ID is "", else in place of the one with
// that id. Its next pass begins at v.NextAt, or at once when that is zero.
// Errors are *fault.Error: invalid, conflict for a name that is taken, notFound.
func (s *Service) Save(ctx context.Context, v Schedule, actor string, now time.Time) (Schedule, error) {
	if err := v.check(); err != nil {
		return v, err
	}
	if v.NextAt.IsZero() {
		v.NextAt = now
	}
	fresh := v.ID == ""
	if fresh {
		v.ID, v.CreatedBy, v.CreatedAt = db.NewID(now), actor, now
	}
	v.UpdatedAt = now
	if other, err := s.Get(ctx, v.Name); err == nil && other.ID != v.ID {
		return v, taken(v.Name)
	}
	err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		n, err := int64(0), error(nil)
		if fresh {
			n, err = tx.Exec(ctx, qInsert, v.ID, v.Name, v.Targets, string(v.Kind), v.Site, v.Period.Milliseconds(), v.Jitter.Milliseconds(), v.Enabled, v.NextAt, actor, now)
		} else {
			n, err = tx.Exec(ctx, qUpdate, v.ID, v.Name, v.Targets, string(v.Kind), v.Site, v.Period.Milliseconds(), v.Jitter.Milliseconds(), v.Enabled, v.NextAt, now)
		}
		switch {
		case err != nil:
			return err
		case n == 0 && fresh:
			return taken(v.Name)
		case n == 0:
			return fault.New(fault.NotFound, "there is no schedule %s", v.ID)
		}
		return audit.Append(tx, audit.Entry{At: now, Kind: "schedule.save", Actor: actor, Subject: "schedule:" + v.ID, Data: map[string]any{"name": v.Name, "site": v.Site, "enabled": v.Enabled}})
	})
	return v, err
}

func taken(name string) error {
	return fault.New(fault.Conflict, "there is a schedule named %s already", name)
}

// Delete removes a schedule. Its passes stay; one that runs is finished.
func (s *Service) Delete(ctx context.Context, id, actor string, now time.Time) error {
	return s.change(ctx, qDelete, "schedule.delete", id, actor, now)
}

// RunNow lets the next pass of a schedule begin at once, also when it was
// switched off.
func (s *Service) RunNow(ctx context.Context, id, actor string, now time.Time) error {
	return s.change(ctx, qRunNow, "schedule.run", id, actor, now, now)
}

func (s *Service) change(ctx context.Context, q *db.Stmt, kind audit.Kind, id, actor string, now time.Time, args ...any) error {
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, q, append([]any{id}, args...)...)
		if err == nil && n == 0 {
			err = fault.New(fault.NotFound, "there is no schedule %.80q", id)
		}
		if err != nil {
			return err
		}
		return audit.Append(tx, audit.Entry{At: now, Kind: kind, Actor: actor, Subject: "schedule:" + id})
	})
}

// expand turns the text of a schedule into targets.
func (s *Service) expand(ctx context.Context, text string) (*scan.Targets, error) {
	targets := scan.NewTargets(scan.TargetConfig{Max: s.cfg.MaxTargets})
	for _, line := range lines(text) {
		host, ok := inventoryLine(line)
		if !ok {
			if err := targets.Add(line); err != nil {
				return nil, err
			}
			continue
		}
		if err := s.endpoints(ctx, host, targets); err != nil {
			return nil, err
		}
	}
	return targets, nil
}

// endpoints adds what the inventory knows.
func (s *Service) endpoints(ctx context.Context, host string, targets *scan.Targets) error {
	q := inventory.EndpointQuery{Host: host, Limit: inventory.MaxLimit}
	for {
		page, err := s.cfg.Inventory.Endpoints(ctx, q)
		if err != nil {
			return err
		}
		for i := range page.Endpoints {
			t := scan.TargetOf(&page.Endpoints[i])
			text := t.String()
			if t.Protocol == probe.TLS {
				text = "tls://" + text // whatever its port stands for
			}
			if err := targets.Add(text); err != nil {
				return err
			}
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			return nil
		}
	}
}

// next is when the pass after one that is due now begins.
func (v *Schedule) next(now time.Time) time.Time {
	at := now.Add(v.Period)
	if v.Jitter > 0 {
		at = at.Add(rand.N(v.Jitter))
	}
	return at
}

// begin is the tick that starts passes that are due, one at a time.
func (s *Service) begin(ctx context.Context, now time.Time) (begun bool, err error) {
	v, err := db.Get(ctx, s.cfg.DB.Read(), qDue, scanSchedule, s.cfg.Site, now)
	if errors.Is(err, db.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("find due schedule: %w", err)
	}
	if _, err := db.Get(ctx, s.cfg.DB.Read(), qRunning, (*db.Row).Text, v.ID); !errors.Is(err, db.ErrNotFound) {
		if err == nil {
			s.cfg.Log.WarnContext(ctx, "scan is not begun: its last pass has not ended", "schedule", v.Name)
			err = s.advance(ctx, &v, now, nil, nil)
		}
		return true, err
	}
	p := &Pass{ID: db.NewID(now), ScheduleID: v.ID, Kind: v.Kind, Site: v.Site, State: Running, StartedAt: now}
	targets, err := s.expand(ctx, v.Targets)
	if f, refused := errors.AsType[*fault.Error](err); refused && f.Code != fault.Unavailable {
		p.State, p.Error, p.FinishedAt = Failed, f.Detail, now
		return true, s.advance(ctx, &v, now, p, nil)
	}
	if err != nil {
		return false, fmt.Errorf("read targets of schedule %s: %w", v.Name, err)
	}
	p.Targets, p.Duplicates = len(targets.List()), targets.Duplicates()
	if p.Targets == 0 {
		p.State, p.FinishedAt = Done, now
	}
	return true, s.advance(ctx, &v, now, p, targets.List())
}

// advance moves a schedule on and stores the pass that begins, if any. Of
// several processes one succeeds.
func (s *Service) advance(ctx context.Context, v *Schedule, now time.Time, p *Pass, targets []scan.Target) error {
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, qAdvance, v.ID, v.NextAt, v.next(now))
		if err != nil || n == 0 || p == nil {
			return err
		}
		return p.insert(ctx, tx, targets, s.cfg.ShardSize)
	})
}
