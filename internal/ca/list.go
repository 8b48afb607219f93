package ca

import (
	"context"
	"time"

	"chancery/internal/db"
)

var (
	qCountExpiring = db.SQL("ca.count_expiring", `SELECT count(*) FROM (SELECT 1 FROM certificate
		WHERE state = 'issued' AND not_after >= $1 AND not_after < $2 LIMIT $3) AS some`)
	qCountIntents = db.SQL("ca.count_intents", `SELECT count(*) FROM certificate WHERE state = 'intent'`)
)

// CountExpiring returns how many issued certificates end within d from now. It
// stops counting at most, and then more is true.
func CountExpiring(ctx context.Context, q db.Q, now time.Time, d time.Duration, most int64) (n int64, more bool, err error) {
	n, err = db.Get(ctx, q, qCountExpiring, (*db.Row).Int64, now, now.Add(d), most+1)
	return min(n, most), n > most, err
}

// CountIntents returns the number of open intents, which are few: those whose
// signature is under way.
func CountIntents(ctx context.Context, q db.Q) (int64, error) {
	return db.Get(ctx, q, qCountIntents, (*db.Row).Int64)
}
