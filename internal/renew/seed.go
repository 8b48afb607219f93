package renew

import (
	"context"
	"fmt"
	"time"

	"chancery/internal/db"
	"chancery/internal/renew/rule"
)

// seedChunk is how many rows one transaction of Seed stores.
const seedChunk = 5000

// Seed adds n copies of a managed certificate that is idle, for measurements:
// their next looks are spread over one interval of asking, their renewals over
// the life of the certificate.
func Seed(ctx context.Context, d *db.DB, like Managed, n int, now time.Time) error {
	for made := 0; made < n; {
		size := min(seedChunk, n-made)
		rows, due := make([][]any, 0, size), make([][]any, 0, size)
		for range size {
			m := like
			m.ID = db.NewID(now)
			m.Name = fmt.Sprintf("seed-%d-%s", made+len(rows), m.ID[18:])
			m.AskAt = now.Add(rule.Scale(rule.DefaultAsk, rule.Fraction("ask", m.ID)))
			m.RenewAt = now.Add(24*time.Hour + rule.Scale(30*24*time.Hour, rule.Fraction("renew", m.ID)))
			rows = append(rows, m.row())
			due = append(due, []any{m.ID, m.AskAt, string(check), m.IssuedBy, 0, ""})
		}
		err := d.Write(ctx, func(tx *db.Tx) error {
			if err := tx.Insert(ctx, putManaged, rows); err != nil {
				return err
			}
			return tx.Insert(ctx, putSchedule, due)
		})
		if err != nil {
			return fmt.Errorf("seed managed certificates: %w", err)
		}
		made += size
	}
	return nil
}
