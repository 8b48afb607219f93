package renew

import (
	"context"
	"time"

	"chancery/internal/db"
)

// Event is one decision about a managed certificate.
type Event struct {
	ID     string
	At     time.Time
	Rule   string // a word: "due", "order", "budget", "retry", "fallback", "issued", "deploy", ...
	Detail string // for people
}

// keptEvents is how many decisions are kept for each certificate.
const keptEvents = 60

var (
	qRecord = db.SQL("renew.insert_event", `INSERT INTO managed_event (managed_id, id, at, rule, detail) VALUES ($1, $2, $3, $4, $5)`)
	qEvents = db.SQL("renew.list_events", `SELECT id, at, rule, detail FROM managed_event WHERE managed_id = $1 ORDER BY id DESC LIMIT $2`)
	qForget = db.SQL("renew.delete_events", `DELETE FROM managed_event WHERE managed_id = $1 AND id NOT IN (
		SELECT id FROM managed_event WHERE managed_id = $1 ORDER BY id DESC LIMIT $2)`)
)

// record adds a decision to the log of a certificate, within the transaction
// that acts on it.
func record(tx *db.Tx, id string, now time.Time, rule, detail string) {
	tx.Queue(qRecord, nil, id, db.NewID(now), now, rule, clip(detail))
}

// prune bounds the log of a certificate.
func prune(tx *db.Tx, id string) { tx.Queue(qForget, nil, id, keptEvents) }

// Events returns the last decisions about a managed certificate, the newest
// first.
func Events(ctx context.Context, q db.Q, id string, limit int) ([]Event, error) {
	return db.List(ctx, q, qEvents, func(r *db.Row) Event { return Event{r.Text(), r.Time(), r.Text(), r.Text()} }, id, min(limit, keptEvents))
}
