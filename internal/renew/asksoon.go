package renew

import (
	"context"
	"fmt"
	"time"

	"chancery/internal/db"
	"chancery/internal/renew/rule"
)

var (
	qLater = db.SQL("renew.list_later", `SELECT managed_id FROM managed_schedule WHERE kind = 'check' AND ca = $1 AND due_at > $2 ORDER BY due_at LIMIT $3`)
	qSoon  = db.SQL("renew.bring_forward", `UPDATE managed_schedule SET due_at = $2, lease_token = '' WHERE managed_id = ANY($1::text[]) AND kind = 'check'`)
	qAsk   = db.SQL("renew.ask_now", `UPDATE managed SET ask_at = $2 WHERE id = ANY($1::text[])`)
)

// AskSoon asks an issuer for the windows of all its certificates within the
// given time, because something happened there that moves them: an incident, a
// mass revocation. It returns how many were brought forward.
func (e *Engine) AskSoon(ctx context.Context, name string, within time.Duration) (n int, err error) {
	now := e.now()
	for {
		ids, err := db.List(ctx, e.db.Read(), qLater, (*db.Row).Text, name, now.Add(within), maxClaim)
		if err != nil {
			return n, fmt.Errorf("list certificates of issuer %s: %w", name, err)
		}
		if len(ids) == 0 {
			return n, nil
		}
		err = e.db.Write(ctx, func(tx *db.Tx) error {
			tx.Queue(qSoon, nil, ids, now.Add(rule.Scale(within, random())))
			tx.Queue(qAsk, nil, ids, now)
			return nil
		})
		if err != nil {
			return n, fmt.Errorf("bring certificates of issuer %s forward: %w", name, err)
		}
		n += len(ids)
		e.Wake()
	}
}
