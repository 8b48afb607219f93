package audit

import (
	"context"
	"errors"
	"fmt"

	"chancery/internal/db"
)

var (
	qRecent = db.SQL("audit.list_recent", `SELECT seq, hash, id, at, kind, actor, subject, data FROM journal
		WHERE seq < $1 ORDER BY seq DESC LIMIT $2`)
	qNewest = db.SQL("audit.read_newest", `SELECT id FROM journal ORDER BY id DESC LIMIT 1`)
)

// Recent returns up to limit placed entries before seq, the newest first.
func Recent(ctx context.Context, q db.Q, before int64, limit int) ([]Record, error) {
	return db.List(ctx, q, qRecent, scanRecord, before, limit)
}

// Version returns a text that changes when trust changes anywhere: two index
// look-ups, whatever the size of the journal. An entry shows in it when it is
// committed, or, where clocks of replicas differ, when it is placed.
func Version(ctx context.Context, q db.Q) (string, error) {
	var seq int64
	err := q.One(ctx, qHead, func(r *db.Row) { seq = r.Int64(); r.Bytes() })
	if err != nil && !errors.Is(err, db.ErrNotFound) {
		return "", fmt.Errorf("read journal head: %w", err)
	}
	id, err := db.Get(ctx, q, qNewest, (*db.Row).Text)
	if err != nil && !errors.Is(err, db.ErrNotFound) {
		return "", fmt.Errorf("read newest journal entry: %w", err)
	}
	return fmt.Sprintf("%d-%s", seq, id), nil
}
