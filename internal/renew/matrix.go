package renew

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"chancery/internal/db"
)

// Batch is what one target got at once, with one reload.
type Batch struct {
	ID      string
	Target  string
	BeganAt time.Time
	Took    time.Duration
	Items   int // certificates
	Live    int // of them, verified in service; for the others the target serves what it did before
	Error   string
	Detail  string // what the target's program said
}

func scanBatch(r *db.Row) Batch {
	return Batch{ID: r.Text(), Target: r.Text(), BeganAt: r.Time(), Took: time.Duration(r.Int64()) * time.Millisecond, Items: r.Int(), Live: r.Int(), Error: r.Text(), Detail: r.Text()}
}

const batchColumns = `id, target, began_at, took_ms, items, live, error, detail`

// keepBatches is how long it is known what became of a batch.
const keepBatches = 30 * 24 * time.Hour

// maxPurge bounds how many old batches are forgotten at once.
const maxPurge = 5000

var (
	qBatch      = db.SQL("renew.insert_batch", `INSERT INTO deploy_batch (`+batchColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`)
	qBatches    = db.SQL("renew.list_batches", `SELECT `+batchColumns+` FROM deploy_batch WHERE id < $1 ORDER BY id DESC LIMIT $2`)
	qBatchesOf  = db.SQL("renew.list_batches_of_target", `SELECT `+batchColumns+` FROM deploy_batch WHERE target = $1 AND id < $2 ORDER BY id DESC LIMIT $3`)
	qOldBatches = db.SQL("renew.delete_batches", `DELETE FROM deploy_batch WHERE id IN (SELECT id FROM deploy_batch WHERE id < $1 AND began_at < $2 ORDER BY id LIMIT $3)`)

	qPlacedIDs    = db.SQL("renew.list_placed", `SELECT DISTINCT managed_id FROM managed_target WHERE managed_id > $1 ORDER BY managed_id LIMIT $2`)
	qPlacedAt     = db.SQL("renew.list_placed_at", `SELECT managed_id FROM managed_target WHERE target = $3 AND managed_id > $1 ORDER BY managed_id LIMIT $2`)
	qFailing      = db.SQL("renew.list_failing", `SELECT DISTINCT managed_id FROM managed_target WHERE attempt > 0 AND managed_id > $1 ORDER BY managed_id LIMIT $2`)
	qFailingAt    = db.SQL("renew.list_failing_at", `SELECT managed_id FROM managed_target WHERE attempt > 0 AND managed_id > $1 AND target = $3 ORDER BY managed_id LIMIT $2`)
	qPlacementsOf = db.SQL("renew.list_placements_of", `SELECT `+placementColumns+` FROM managed_target WHERE managed_id = ANY($1::text[]) ORDER BY managed_id, target`)
)

func (b *Batch) queue(tx *db.Tx) {
	tx.Queue(qBatch, nil, b.ID, b.Target, b.BeganAt, b.Took.Milliseconds(), b.Items, b.Live, b.Error, b.Detail)
}

// Batches returns up to limit batches, of one target or ("") of all, the newest
// first, before the one with an id ("" = from the newest).
func Batches(ctx context.Context, q db.Q, target, before string, limit int) ([]Batch, error) {
	if before == "" {
		before = "~" // after every id
	}
	if target == "" {
		return db.List(ctx, q, qBatches, scanBatch, before, limit)
	}
	return db.List(ctx, q, qBatchesOf, scanBatch, target, before, limit)
}

// forgetBatches deletes old batches.
func (e *Engine) forgetBatches(ctx context.Context, now time.Time) (n int64, err error) {
	before := now.Add(-keepBatches)
	err = e.db.Write(ctx, func(tx *db.Tx) error {
		n, err = tx.Exec(ctx, qOldBatches, db.NewID(before), before, maxPurge)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("forget batches: %w", err)
	}
	return n, nil
}

// Deployed is a managed certificate and what each of its targets serves.
type Deployed struct {
	Managed
	Placements []Placement
}

// DeployedQuery says what Deployments lists.
type DeployedQuery struct {
	Target  string // only what this target should serve; "" = any
	Failing bool   // only what a target refused the last time
	After   string // id of the managed certificate before the first; "" = from the first
	Limit   int
}

// Deployments returns the managed certificates that have targets, by id, each
// with all of its placements.
func Deployments(ctx context.Context, q db.Q, of DeployedQuery) ([]Deployed, error) {
	stmt, args := qPlacedIDs, []any{of.After, of.Limit}
	switch {
	case of.Failing && of.Target != "":
		stmt, args = qFailingAt, append(args, of.Target)
	case of.Failing:
		stmt = qFailing
	case of.Target != "":
		stmt, args = qPlacedAt, append(args, of.Target)
	}
	ids, err := db.List(ctx, q, stmt, (*db.Row).Text, args...)
	if err != nil {
		return nil, err
	}
	ms, err := db.List(ctx, q, qManyManaged, scanManaged, ids)
	if err != nil {
		return nil, err
	}
	out := make([]Deployed, len(ids))
	for i, id := range ids { // one that is removed meanwhile has its id alone
		out[i].ID = id
	}
	at := func(id string) *Deployed {
		i, _ := slices.BinarySearchFunc(out, id, func(d Deployed, id string) int { return strings.Compare(d.ID, id) })
		return &out[i]
	}
	for i := range ms {
		at(ms[i].ID).Managed = ms[i]
	}
	placed, err := db.List(ctx, q, qPlacementsOf, scanPlacement, ids)
	if err != nil {
		return nil, err
	}
	for i := range placed {
		d := at(placed[i].ManagedID)
		d.Placements = append(d.Placements, placed[i])
	}
	return out, nil
}
