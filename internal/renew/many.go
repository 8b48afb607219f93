package renew

import (
	"context"
	"fmt"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
)

// Selection says which managed certificates a bulk renewal is about. At least
// one part is set; what is set must fit.
type Selection struct {
	Issuer string    // that issued the live certificate
	Owner  string    //
	Ends   time.Time // only those whose certificate ends before
}

var (
	qSelect = db.SQL("renew.select_managed", `SELECT id FROM managed WHERE id > $1 AND drill_id IS NULL AND paused = 0 AND live_id IS NOT NULL
		AND ($2::text = '' OR issued_by = $2::text) AND ($3::text = '' OR owner = $3::text) AND ($4::bigint IS NULL OR not_after < $4::bigint)
		ORDER BY id LIMIT $5`)
	qSelectCount = db.SQL("renew.count_selected", `SELECT count(*) FROM managed WHERE drill_id IS NULL AND paused = 0 AND live_id IS NOT NULL
		AND ($1::text = '' OR issued_by = $1::text) AND ($2::text = '' OR owner = $2::text) AND ($3::bigint IS NULL OR not_after < $3::bigint)`,
		db.Scan("the plan of a bulk action may be about every certificate"), db.Long("the same"))
	// The same for one owner, who has an index.
	qSelectOwned = db.SQL("renew.select_managed_of_owner", `SELECT id FROM managed WHERE owner = $3 AND id > $1 AND drill_id IS NULL AND paused = 0 AND live_id IS NOT NULL
		AND ($2::text = '' OR issued_by = $2::text) AND ($4::bigint IS NULL OR not_after < $4::bigint) ORDER BY id LIMIT $5`)
	qCountOwned = db.SQL("renew.count_selected_of_owner", `SELECT count(*) FROM managed WHERE owner = $2 AND drill_id IS NULL AND paused = 0 AND live_id IS NOT NULL
		AND ($1::text = '' OR issued_by = $1::text) AND ($3::bigint IS NULL OR not_after < $3::bigint)`)
	qManyNow = db.SQL("renew.reschedule_many", `UPDATE managed_schedule SET due_at = $2, kind = 'issue', attempt = 0, lease_token = '',
		ca = (SELECT m.issuer FROM managed m WHERE m.id = managed_schedule.managed_id) WHERE managed_id = ANY($1::text[]) AND kind = 'check'`)
	qManyUrgent = db.SQL("renew.hurry_many", `UPDATE managed SET urgent = 1, updated_at = $2 WHERE id = ANY($1::text[])`)
	putEvents   = db.BulkInsert("renew.insert_events", "managed_event", false, "managed_id", "id", "at", "rule", "detail")
)

func (s *Selection) check() error {
	if s.Issuer == "" && s.Owner == "" && s.Ends.IsZero() {
		return fault.New(fault.Invalid, "say which certificates: by issuer, by owner, or by when they end")
	}
	return nil
}

// statements returns those that count and that list what is selected.
func (s *Selection) statements() (count, list *db.Stmt) {
	if s.Owner != "" {
		return qCountOwned, qSelectOwned
	}
	return qSelectCount, qSelect
}

// CountSelected returns how many certificates a bulk renewal would be about.
func CountSelected(ctx context.Context, q db.Q, s Selection) (int64, error) {
	if err := s.check(); err != nil {
		return 0, err
	}
	count, _ := s.statements()
	return db.Get(ctx, q, count, (*db.Row).Int64, s.Issuer, s.Owner, s.Ends)
}

// RenewMany orders the next certificate of every selected one at once, in
// chunks that each are one transaction; those that are being obtained already
// are left alone. It returns how many were put into the queue, also when it
// fails half-way: to repeat it is harmless.
func (e *Engine) RenewMany(ctx context.Context, s Selection, actor string) (n int, err error) {
	if err := s.check(); err != nil {
		return 0, err
	}
	_, list := s.statements()
	for after := ""; ; {
		ids, err := db.List(ctx, e.db.Read(), list, (*db.Row).Text, after, s.Issuer, s.Owner, s.Ends, seedChunk)
		if err != nil {
			return n, fmt.Errorf("select certificates: %w", err)
		}
		if len(ids) > 0 {
			moved, err := e.hurry(ctx, ids, actor)
			if err != nil {
				return n, fmt.Errorf("renew certificates: %w", err)
			}
			n += int(moved)
			after = ids[len(ids)-1]
			e.Wake()
		}
		if len(ids) < seedChunk {
			return n, nil
		}
	}
}

// hurry makes a chunk due at once.
func (e *Engine) hurry(ctx context.Context, ids []string, actor string) (moved int64, err error) {
	now := e.now()
	err = e.db.Write(ctx, func(tx *db.Tx) error {
		if moved, err = tx.Exec(ctx, qManyNow, ids, now); err != nil {
			return err
		}
		tx.Queue(qManyUrgent, nil, ids, now)
		events := make([][]any, len(ids))
		for i, id := range ids {
			events[i] = []any{id, db.NewID(now), now, "renew", "renewed at once with many others, by " + actor}
		}
		if err := tx.Insert(ctx, putEvents, events); err != nil {
			return err
		}
		return audit.Append(tx, audit.Entry{At: now, Kind: "managed.renew_many", Actor: actor, Subject: "managed:" + ids[0],
			Data: map[string]any{"certificates": moved, "first": ids[0], "last": ids[len(ids)-1]}})
	})
	return moved, err
}
