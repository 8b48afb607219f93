package audit

import (
	"context"
	"fmt"

	"chancery/internal/db"
)

var (
	qRecent = db.SQL("audit.list_recent", `SELECT seq, hash, id, at, kind, actor, subject, data FROM journal
		WHERE seq < $1 ORDER BY seq DESC LIMIT $2`)
	qTotal = db.SQL("audit.count_entries", `SELECT COALESCE((SELECT seq FROM journal_head WHERE id = 1), 0)
		+ (SELECT count(*) FROM journal WHERE seq IS NULL)`)
)

// Recent returns up to limit placed entries before seq, the newest first.
func Recent(ctx context.Context, q db.Q, before int64, limit int) ([]Record, error) {
	return db.List(ctx, q, qRecent, scanRecord, before, limit)
}

// Total returns the number of entries that were ever committed: those placed
// and those that wait for a place. It grows with every change of trust, in one
// look at the head and the few that wait, so it is a version of everything that
// the journal records.
func Total(ctx context.Context, q db.Q) (int64, error) {
	n, err := db.Get(ctx, q, qTotal, (*db.Row).Int64)
	if err != nil {
		return 0, fmt.Errorf("count journal entries: %w", err)
	}
	return n, nil
}
