package renew

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/deploy"
	"chancery/internal/fault"
	"chancery/internal/obs"
	"chancery/internal/renew/rule"
)

// Place is an opened target.
type Place struct {
	// Run puts a batch into service and returns an outcome for each item. It
	// is called by one batch at a time in the whole fleet.
	Run func(ctx context.Context, items []deploy.Item) []deploy.Outcome

	Collect time.Duration // how long the first item of a batch waits for others; 0 = not at all
	// NextOpen returns the first instant from now on at which the target may be
	// changed; nil = always. Urgent certificates do not wait for it.
	NextOpen func(now time.Time) time.Time
	MaxBatch int           // most items at once; 0 = 500
	Timeout  time.Duration // of one batch; 0 = 8 min
}

// DefaultCollect is how long items of one target are collected when nothing
// else is said: a reload costs a server milliseconds per certificate it holds.
const DefaultCollect = 15 * time.Minute

// defaultBatchTime is how long one batch may take.
const defaultBatchTime = 8 * time.Minute

func (p *Place) timeout() time.Duration {
	if p.Timeout <= 0 {
		return defaultBatchTime
	}
	return p.Timeout
}

func (p *Place) maxBatch() int {
	if p.MaxBatch <= 0 || p.MaxBatch > maxClaim {
		return maxClaim
	}
	return p.MaxBatch
}

// open returns the first instant from now on at which the target may be changed.
func (p *Place) open(now time.Time) time.Time {
	if p.NextOpen == nil {
		return now
	}
	return p.NextOpen(now)
}

// place returns the target with a name, or one on which everything fails with
// the reason.
func (e *Engine) place(name string) *Place {
	if p := e.targets[name]; p != nil {
		return p
	}
	return &Place{Run: func(_ context.Context, items []deploy.Item) []deploy.Outcome {
		out := make([]deploy.Outcome, len(items))
		for i := range out {
			out[i] = deploy.Outcome{ID: items[i].ID, Err: errors.New("there is no [target." + name + "] in the configuration; add it, or take it off the certificate")}
		}
		return out
	}}
}

// Placement is what one target should serve, and serves, of a certificate.
type Placement struct {
	ManagedID string
	Target    string
	WantID    string // issuance
	LiveID    string // issuance, "" = none yet
	DueAt     time.Time
	Urgent    bool
	Attempt   int
	Error     string
	Detail    string // what the target's program said
	UpdatedAt time.Time
	BatchID   string // that decided it last, "" = none yet
}

// Live reports whether the target serves what it should.
func (p *Placement) Live() bool { return p.WantID == p.LiveID }

func scanPlacement(r *db.Row) Placement {
	return Placement{ManagedID: r.Text(), Target: r.Text(), WantID: r.Text(), LiveID: r.Text(), DueAt: r.Time(), Urgent: r.Bool(), Attempt: r.Int(),
		Error: r.Text(), Detail: r.Text(), UpdatedAt: r.Time(), BatchID: r.Text()}
}

const placementColumns = `managed_id, target, want_id, live_id, due_at, urgent, attempt, error, detail, updated_at, batch_id`

var (
	qPlacements = db.SQL("renew.list_placements", `SELECT `+placementColumns+` FROM managed_target WHERE managed_id = $1 ORDER BY target`)
	qWant       = db.SQL("renew.upsert_target", `INSERT INTO managed_target (managed_id, target, want_id, due_at, urgent, attempt, lease_token, error, detail, updated_at)
		VALUES ($1, $2, $3, $4, $5, 0, '', '', '', $6)
		ON CONFLICT (managed_id, target) DO UPDATE SET want_id = excluded.want_id, due_at = excluded.due_at, urgent = excluded.urgent, attempt = 0,
			lease_token = '', error = '', detail = '', updated_at = excluded.updated_at`)
	qUnwant     = db.SQL("renew.delete_other_targets", `DELETE FROM managed_target WHERE managed_id = $1 AND NOT (target = ANY($2::text[]))`)
	qNextTarget = db.SQL("renew.next_target", `SELECT target FROM managed_target WHERE due_at IS NOT NULL AND target > $1 ORDER BY target LIMIT 1`)
	qTargetDue  = db.SQL("renew.next_target_due", `SELECT due_at FROM managed_target WHERE target = $1 AND due_at IS NOT NULL ORDER BY due_at LIMIT 1`)
	qTake       = db.SQL("renew.claim_targets", `UPDATE managed_target SET due_at = $3, lease_token = $4 WHERE target = $1 AND managed_id IN (
			SELECT managed_id FROM managed_target WHERE target = $1 AND due_at IS NOT NULL AND due_at <= $5 AND (attempt = 0 OR due_at <= $2)
				AND (urgent = 1 OR $6::bigint = 1) ORDER BY due_at LIMIT $7 FOR UPDATE SKIP LOCKED)
		RETURNING managed_id, want_id, attempt`)
	qPlaced = db.SQL("renew.update_placed", `UPDATE managed_target SET live_id = want_id, due_at = NULL, urgent = 0, attempt = 0, lease_token = '', error = '', detail = '', updated_at = $4, batch_id = $3
		WHERE managed_id = $1 AND target = $2 AND lease_token = $3`)
	qUnplaced = db.SQL("renew.update_unplaced", `UPDATE managed_target SET due_at = $4, attempt = $5, lease_token = '', error = $6, detail = $7, updated_at = $8, batch_id = $3
		WHERE managed_id = $1 AND target = $2 AND lease_token = $3`)
	qVerified = db.SQL("renew.update_verified", `UPDATE managed SET state = 'verified', updated_at = $2 WHERE id = $1 AND state = 'deploying'
		AND NOT EXISTS (SELECT 1 FROM managed_target t WHERE t.managed_id = $1 AND (t.live_id IS NULL OR t.live_id <> t.want_id))`)
	qCheckNow    = db.SQL("renew.check_now", `UPDATE managed_schedule SET due_at = $2, lease_token = '' WHERE managed_id = $1 AND kind = 'check'`)
	qIssuances   = db.SQL("renew.list_issuances", `SELECT `+issuanceColumns+` FROM managed_issuance WHERE id = ANY($1::text[])`)
	qManyManaged = db.SQL("renew.list_managed_by_ids", `SELECT `+managedColumns+` FROM managed m WHERE m.id = ANY($1::text[])`)
)

// Placements returns what the targets of a managed certificate serve.
func Placements(ctx context.Context, q db.Q, id string) ([]Placement, error) {
	return db.List(ctx, q, qPlacements, scanPlacement, id)
}

// nearEnd is how much life the certificate before must have left for a
// deployment to wait for a maintenance window.
const nearEnd = 48 * time.Hour

// wantTargets says to every target of m that it should serve an issuance.
func (e *Engine) wantTargets(tx *db.Tx, m *Managed, id string, now time.Time) error {
	names := make([]string, len(m.Targets))
	hurry := m.Urgent || m.LiveID != "" && m.left(now) < nearEnd
	for i, t := range m.Targets {
		names[i] = t.Name
		p, due := e.place(t.Name), now
		if !hurry {
			due = p.open(now.Add(p.Collect))
		}
		tx.Queue(qWant, nil, m.ID, t.Name, id, due, hurry, now)
	}
	tx.Queue(qUnwant, nil, m.ID, names)
	return nil
}

// stepTargets starts a batch on every target that has one due.
func (e *Engine) stepTargets(ctx context.Context) (next time.Time, err error) {
	for at := ""; ; {
		name, err := db.Get(ctx, e.db.Read(), qNextTarget, (*db.Row).Text, at)
		if errors.Is(err, db.ErrNotFound) {
			return next, nil
		}
		if err != nil {
			return next, fmt.Errorf("list targets: %w", err)
		}
		due, err := e.stepTarget(ctx, name)
		if err != nil {
			return next, err
		}
		next, at = rule.Soonest(next, due), name
	}
}

// maxBatches bounds the batches under way in one process, one per target.
const maxBatches = 32

// stepTarget starts a batch on one target if one is due.
func (e *Engine) stepTarget(ctx context.Context, name string) (next time.Time, err error) {
	now := e.now()
	due, err := db.Get(ctx, e.db.Read(), qTargetDue, (*db.Row).Time, name)
	if errors.Is(err, db.ErrNotFound) || err == nil && due.After(now) {
		return due, nil
	}
	if err != nil {
		return next, err
	}
	key := laneKey{"deploy", name}
	e.mu.Lock()
	mine, batches := e.busy[key], 0
	for k, n := range e.busy {
		if k.kind == "deploy" {
			batches += n
		}
	}
	e.mu.Unlock()
	if mine > 0 || batches >= maxBatches {
		return time.Time{}, nil // a batch that ends wakes us
	}
	b, wake, err := e.claimTarget(ctx, name, now)
	if err != nil || b == nil {
		return wake, err
	}
	e.mu.Lock()
	e.busy[key]++
	e.mu.Unlock()
	e.work.Go(func() {
		defer e.Wake()
		defer func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			delete(e.busy, key)
		}()
		defer e.guard(ctx, lease{id: "target:" + name})
		if err := e.deploy(ctx, b); err != nil && ctx.Err() == nil {
			e.log.ErrorContext(ctx, "deployment not finished", "target", name, "error", err)
		}
	})
	return time.Time{}, nil
}

// batch is what one target gets at once.
type batch struct {
	target string
	token  string
	rows   []batchRow
}

type batchRow struct {
	id, want string
	attempt  int
}

// claimTarget takes the target and what is due there, and what would be due
// within the time of collecting.
func (e *Engine) claimTarget(ctx context.Context, name string, now time.Time) (b *batch, wake time.Time, err error) {
	p := e.place(name)
	open := p.open(now)
	until := now.Add(p.timeout() * 5 / 4)
	err = e.db.Write(ctx, func(tx *db.Tx) error {
		b, wake = nil, now.Add(retry)
		l, err := lockLane(ctx, tx, TargetLane, name, now)
		if err != nil {
			return err
		}
		if l.LeaseToken != "" && l.LeaseUntil.After(now) && l.LeaseUntil.Sub(now) <= 2*p.timeout() {
			return nil // another replica is at it
		}
		if l.allow(now, 1) == 0 {
			if wake = l.until(now); wake.IsZero() {
				wake = now.Add(maxSleep) // paused
			}
			return nil
		}
		fresh := &batch{target: name, token: db.NewID(now)}
		fresh.rows, err = db.List(ctx, tx, qTake, func(r *db.Row) batchRow { return batchRow{r.Text(), r.Text(), r.Int()} },
			name, now, until, fresh.token, now.Add(p.Collect), !open.After(now), p.maxBatch())
		if err != nil || len(fresh.rows) == 0 {
			wake = rule.Soonest(open, now.Add(maxSleep))
			if !open.After(now) {
				wake = now.Add(retry)
			}
			return err
		}
		l.LeaseToken, l.LeaseUntil = fresh.token, until
		l.save(tx, now)
		b = fresh
		return nil
	})
	return b, wake, err
}

// deploy runs a batch and stores what became of it.
func (e *Engine) deploy(ctx context.Context, b *batch) (err error) {
	ctx, span := obs.Begin(ctx, "renew.deploy")
	defer func() { span.End(err) }()
	span.Str("deploy.target", b.target)
	span.Int("deploy.items", len(b.rows))
	items, unfit, err := e.items(ctx, b)
	if err != nil {
		return errors.Join(err, e.freeTarget(ctx, b, nil, nil))
	}
	p := e.place(b.target)
	fault.Point("renew.before_deploy")
	run, cancel := context.WithTimeout(ctx, p.timeout())
	defer cancel()
	began := e.now()
	timer := e.meters.deploy.start(began)
	var outcomes []deploy.Outcome
	if len(items) > 0 {
		outcomes = p.Run(run, items)
	}
	outcomes = append(outcomes, unfit...)
	fault.Point("renew.after_deploy")
	if ctx.Err() != nil {
		return ctx.Err() // told to stop: the rows come back, and deploying twice is harmless
	}
	byID := make(map[string]deploy.Outcome, len(outcomes))
	var failed error
	for _, o := range outcomes {
		byID[o.ID] = o
		if o.Err != nil {
			failed = o.Err
		}
	}
	ended := e.now()
	timer.end(ended, failed)
	report := Batch{ID: b.token, Target: b.target, BeganAt: began, Took: ended.Sub(began), Items: len(b.rows)}
	for _, r := range b.rows {
		o, told := byID[r.id]
		if !told {
			o = deploy.Outcome{ID: r.id, Err: errors.New("the target did not say what became of it")}
		}
		if o.Live && o.Err == nil {
			report.Live++
		} else {
			report.Error, report.Detail = clip(whyNot(o).Error()), clip(o.Stderr)
		}
		if err := e.placed(ctx, b, r, o); err != nil {
			return err
		}
	}
	if report.Live > 0 || len(outcomes) == 0 {
		failed = nil
	}
	return e.freeTarget(ctx, b, &report, failed)
}

// freeTarget gives the target back, and keeps what became of the batch unless
// nothing was tried; failed is why all of its items failed.
func (e *Engine) freeTarget(ctx context.Context, b *batch, report *Batch, failed error) error {
	now := e.now()
	return editLane(context.WithoutCancel(ctx), e.db, TargetLane, b.target, now, func(tx *db.Tx, l *Lane) error {
		if report != nil {
			report.queue(tx)
		}
		if l.LeaseToken != b.token {
			return nil
		}
		l.LeaseToken, l.LeaseUntil = "", time.Time{}
		if failed != nil {
			l.failed(now, failed.Error())
		} else if !l.calm() {
			l.succeeded()
		}
		return nil
	})
}

// items reads what a batch deploys, and what cannot be deployed by anybody. A
// certificate that was removed meanwhile is left out.
func (e *Engine) items(ctx context.Context, b *batch) (out []deploy.Item, unfit []deploy.Outcome, err error) {
	ids, wants := make([]string, len(b.rows)), make([]string, len(b.rows))
	for i, r := range b.rows {
		ids[i], wants[i] = r.id, r.want
	}
	ms, err := db.List(ctx, e.db.Read(), qManyManaged, scanManaged, ids)
	if err != nil {
		return nil, nil, err
	}
	ws, err := db.List(ctx, e.db.Read(), qIssuances, scanIssuance, wants)
	if err != nil {
		return nil, nil, err
	}
	byID := map[string]*issuance{}
	for i := range ws {
		byID[ws[i].ID] = &ws[i]
	}
	for _, r := range b.rows {
		i := slices.IndexFunc(ms, func(m Managed) bool { return m.ID == r.id })
		w := byID[r.want]
		if i < 0 || w == nil || len(w.Chain) == 0 {
			continue
		}
		key, err := e.openKey(w)
		if err != nil {
			unfit = append(unfit, deploy.Outcome{ID: r.id, Err: err})
			continue
		}
		item := deploy.Item{ID: r.id, Names: ms[i].values(), Chain: w.Chain, Key: key}
		for _, t := range ms[i].Targets {
			if t.Name == b.target {
				item.Params = t.Params
			}
		}
		out = append(out, item)
	}
	return out, unfit, nil
}

// How failed deployments are repeated.
const (
	deployStep  = time.Minute
	deployCap   = 6 * time.Hour
	deployAlert = 3 // every so many failures in a row, a person should know of it (again)
)

// placed stores what became of one item.
func (e *Engine) placed(ctx context.Context, b *batch, r batchRow, o deploy.Outcome) error {
	now := e.now()
	fault.Point("renew.before_placed")
	err := e.db.Write(ctx, func(tx *db.Tx) error {
		if o.Live && o.Err == nil {
			n, err := tx.Exec(ctx, qPlaced, r.id, b.target, b.token, now)
			if err != nil || n == 0 { // another certificate is wanted meanwhile
				return err
			}
			record(tx, r.id, now, "deploy", fmt.Sprintf("%s serves it, in a batch of %d that took %s", b.target, len(b.rows), o.Took.Round(time.Millisecond)))
			if n, err = tx.Exec(ctx, qVerified, r.id, now); n == 1 {
				tx.Queue(qCheckNow, nil, r.id, now)
			}
			if err != nil || r.attempt < deployAlert {
				return err
			}
			// The end of what managed.deploy_failed began.
			return audit.Append(tx, audit.Entry{At: now, Kind: "managed.deploy_recovered", Actor: "system", Subject: "managed:" + r.id,
				Data: map[string]any{"target": b.target, "attempts": r.attempt}})
		}
		return e.unplaced(ctx, tx, b, r, o, now)
	})
	fault.Point("renew.after_placed")
	return err
}

// whyNot is why an item is not in service.
func whyNot(o deploy.Outcome) error {
	if o.Err != nil {
		return o.Err
	}
	return errors.New("the target does not serve it")
}

// unplaced stores the failure of one item.
func (e *Engine) unplaced(ctx context.Context, tx *db.Tx, b *batch, r batchRow, o deploy.Outcome, now time.Time) error {
	why := whyNot(o)
	step := deployStep << min(r.attempt, 12)
	at := now.Add(max(rule.Scale(min(step, deployCap), random()), deployStep/2))
	n, err := tx.Exec(ctx, qUnplaced, r.id, b.target, b.token, at, r.attempt+1, clip(why.Error()), clip(o.Stderr), now)
	if err != nil || n == 0 {
		return err
	}
	record(tx, r.id, now, "deploy", fmt.Sprintf("%s does not serve it: %s; next try at %s", b.target, clip(why.Error()), at.UTC().Format(time.RFC3339)))
	if (r.attempt+1)%deployAlert != 0 {
		return nil
	}
	return audit.Append(tx, audit.Entry{At: now, Kind: "managed.deploy_failed", Actor: "system", Subject: "managed:" + r.id,
		Data: map[string]any{"target": b.target, "attempts": r.attempt + 1, "error": clip(why.Error())}})
}
