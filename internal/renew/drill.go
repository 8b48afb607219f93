package renew

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/loop"
)

// Drill is a rehearsal of replacing many certificates at once: for each of a
// slice of the fleet one is really ordered, at an issuer of choice, and thrown
// away. It shows how long a mass revocation would keep us busy, and with which
// names something is wrong, before one happens.
type Drill struct {
	ID         string
	Issuer     string
	Owner      string // whose certificates; "" = everybody's
	Total      int
	Done       int
	Failed     int
	Actor      string
	StartedAt  time.Time
	FinishedAt time.Time // zero: under way
}

// Took is how long it took, or has taken so far.
func (d *Drill) Took(now time.Time) time.Duration {
	if !d.FinishedAt.IsZero() {
		now = d.FinishedAt
	}
	return now.Sub(d.StartedAt)
}

func scanDrill(r *db.Row) Drill {
	return Drill{ID: r.Text(), Issuer: r.Text(), Owner: r.Text(), Total: r.Int(), Done: r.Int(), Failed: r.Int(), Actor: r.Text(), StartedAt: r.Time(), FinishedAt: r.Time()}
}

const drillColumns = `id, issuer, owner, total, done, failed, actor, started_at, finished_at`

var (
	qDrillInsert = db.SQL("renew.insert_drill", `INSERT INTO renew_drill (id, issuer, owner, total, done, failed, actor, started_at) VALUES ($1, $2, $3, $4, 0, 0, $5, $6)`)
	qDrill       = db.SQL("renew.get_drill", `SELECT `+drillColumns+` FROM renew_drill WHERE id = $1`)
	qDrills      = db.SQL("renew.list_drills", `SELECT `+drillColumns+` FROM renew_drill ORDER BY id DESC LIMIT $1`)
	qDrillState  = db.SQL("renew.count_drill", `SELECT state, count(*), max(updated_at) FROM managed WHERE drill_id = $1 GROUP BY state`)
	qDrillEnd    = db.SQL("renew.finish_drill", `UPDATE renew_drill SET done = $2, failed = $3, finished_at = $4 WHERE id = $1 AND finished_at IS NULL`)
	qDrillItems  = db.SQL("renew.list_drill_items", `SELECT id FROM managed WHERE drill_id = $1 ORDER BY id LIMIT $2`)
	qDrillIdle   = db.SQL("renew.update_drill_item", `UPDATE managed SET state = 'idle', work_id = NULL, updated_at = $2 WHERE id = $1`)
)

// maxDrill bounds a drill, in certificates.
const maxDrill = 100_000

// StartDrill begins a rehearsal over at most limit certificates, at an issuer
// that should be a staging one: whoever runs it pays for real orders.
func (e *Engine) StartDrill(ctx context.Context, name, owner string, limit int, actor string) (Drill, error) {
	if e.issuers[name] == nil {
		return Drill{}, fault.New(fault.Invalid, "there is no issuer %.64q; %s", name, e.choices())
	}
	if limit < 1 || limit > maxDrill {
		return Drill{}, fault.New(fault.Invalid, "a drill is for 1 to %d certificates", maxDrill)
	}
	now := e.now().UTC().Truncate(time.Millisecond)
	d := Drill{ID: db.NewID(now), Issuer: name, Owner: owner, Actor: actor, StartedAt: now}
	for after := ""; d.Total < limit; {
		page, err := List(ctx, e.db.Read(), ListQuery{After: after, Limit: maxClaim})
		if err != nil {
			return d, err
		}
		var shadows []*Managed
		for i := range page {
			m := &page[i]
			if after = m.ID; owner != "" && m.Owner != owner || d.Total+len(shadows) >= limit {
				continue
			}
			shadows = append(shadows, &Managed{ID: db.NewID(now), DrillID: d.ID, State: Due, CreatedAt: now, UpdatedAt: now, Spec: Spec{Names: m.Names,
				Name: fmt.Sprintf("drill-%s-%d", d.ID, d.Total+len(shadows)), Owner: m.Owner, Issuer: name, KeyType: m.KeyType, KeyPolicy: NewKey}})
		}
		if err := e.shadow(ctx, shadows, now); err != nil {
			return d, err
		}
		if d.Total += len(shadows); len(page) < maxClaim {
			break
		}
	}
	if d.Total == 0 {
		return d, fault.New(fault.NotFound, "no managed certificate fits; `chancery renew list` shows them")
	}
	err := e.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qDrillInsert, nil, d.ID, d.Issuer, d.Owner, d.Total, actor, d.StartedAt)
		return audit.Append(tx, audit.Entry{At: now, Kind: "drill.start", Actor: actor, Subject: "drill:" + d.ID,
			Data: map[string]any{"issuer": name, "certificates": d.Total}})
	})
	if err != nil {
		return d, fmt.Errorf("store drill: %w", err)
	}
	e.Wake()
	return d, nil
}

// shadow stores the members of a drill.
func (e *Engine) shadow(ctx context.Context, ms []*Managed, now time.Time) error {
	if len(ms) == 0 {
		return nil
	}
	var rows, due [][]any
	for _, m := range ms {
		rows = append(rows, m.row())
		due = append(due, []any{m.ID, now, string(issue), m.Issuer, 0, ""})
	}
	err := e.db.Write(ctx, func(tx *db.Tx) error {
		if err := tx.Insert(ctx, putManaged, rows); err != nil {
			return err
		}
		return tx.Insert(ctx, putSchedule, due)
	})
	if err != nil {
		return fmt.Errorf("store drill: %w", err)
	}
	return nil
}

// endDrillItem throws the certificate of a rehearsal away.
func (e *Engine) endDrillItem(ctx context.Context, l lease, m *Managed, w *issuance) error {
	now := e.now()
	return e.db.Write(ctx, func(tx *db.Tx) error {
		l.release(tx, now, hold, l.ca, 0)
		tx.Queue(qDrillIdle, nil, m.ID, now)
		tx.Queue(qDrop, nil, w.ID)
		return nil
	})
}

// GetDrill returns a drill and how far it is, or a notFound fault.
func GetDrill(ctx context.Context, q db.Q, id string) (Drill, error) {
	d, err := db.Get(ctx, q, qDrill, scanDrill, id)
	if errors.Is(err, db.ErrNotFound) {
		return d, fault.New(fault.NotFound, "there is no drill %.64q", id)
	}
	if err != nil || !d.FinishedAt.IsZero() {
		return d, err
	}
	_, err = d.count(ctx, q)
	return d, err
}

// count sets Done and Failed, and returns when the last member ended.
func (d *Drill) count(ctx context.Context, q db.Q) (last time.Time, err error) {
	d.Done, d.Failed = 0, 0
	err = q.All(ctx, qDrillState, func(r *db.Row) error {
		state, n, at := State(r.Text()), r.Int(), r.Time()
		switch state {
		case Idle:
			d.Done += n
		case Stopped:
			d.Failed += n
		default:
			return nil
		}
		if at.After(last) {
			last = at
		}
		return nil
	}, d.ID)
	return last, err
}

// Drills returns the latest drills, the newest first.
func Drills(ctx context.Context, q db.Q, limit int) ([]Drill, error) {
	ds, err := db.List(ctx, q, qDrills, scanDrill, limit)
	for i := range ds {
		if err == nil && ds[i].FinishedAt.IsZero() {
			_, err = ds[i].count(ctx, q)
		}
	}
	return ds, err
}

// FinishDrills is a tick: it closes drills whose members have all ended, and
// removes what is left of them.
func (e *Engine) FinishDrills(ctx context.Context) (n loop.Count, err error) {
	ds, err := db.List(ctx, e.db.Read(), qDrills, scanDrill, 20)
	if err != nil {
		return n, err
	}
	for _, d := range ds {
		if d.FinishedAt.IsZero() {
			last, err := d.count(ctx, e.db.Read())
			if err != nil {
				return n, err
			}
			if d.Done+d.Failed < d.Total {
				continue
			}
			err = e.db.Write(ctx, func(tx *db.Tx) error {
				tx.Queue(qDrillEnd, nil, d.ID, d.Done, d.Failed, last)
				return audit.Append(tx, audit.Entry{At: e.now(), Kind: "drill.finish", Actor: "system", Subject: "drill:" + d.ID,
					Data: map[string]any{"done": d.Done, "failed": d.Failed, "seconds": int(last.Sub(d.StartedAt).Seconds())}})
			})
			if err != nil {
				return n, fmt.Errorf("close drill: %w", err)
			}
			n.Done++
		}
		if err := e.sweepDrill(ctx, d.ID); err != nil {
			return n, err
		}
	}
	return n, nil
}

// sweepDrill removes the members of a finished drill.
func (e *Engine) sweepDrill(ctx context.Context, id string) error {
	for {
		ids, err := db.List(ctx, e.db.Read(), qDrillItems, (*db.Row).Text, id, maxClaim)
		if err != nil || len(ids) == 0 {
			return err
		}
		err = e.db.Write(ctx, func(tx *db.Tx) error {
			for _, item := range ids {
				for _, q := range []*db.Stmt{qRemoveRow, qRemoveWork, qRemoveTargets, qRemoveEvents, qRemove} {
					tx.Queue(q, nil, item)
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("remove members of a drill: %w", err)
		}
	}
}
