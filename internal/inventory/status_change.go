package inventory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
)

var (
	qEnded = db.SQL("inventory.list_ended", `SELECT `+memberColumns+` FROM inventory c
		WHERE c.status = $1 AND c.not_after <= $2 ORDER BY c.not_after, c.id LIMIT $3`)
	qSetRevoked = db.SQL("inventory.update_revoked", `UPDATE inventory SET revoked_at = $2 WHERE id = $1`)
	qSetRetired = db.SQL("inventory.update_retired", `UPDATE inventory SET retired_at = $2 WHERE id = $1`)
)

// Sweep marks up to limit certificates whose end has passed as expired and
// returns how many; call it again at once when it returns limit.
func (s *Store) Sweep(ctx context.Context, now time.Time, limit int) (n int, err error) {
	ms := now.UnixMilli()
	due := false
	for _, st := range []Status{Active, Superseded} { // without the lock when there is nothing to do
		rows, err := db.List(ctx, s.db.Read(), qEnded, scanMember, st, ms, 1)
		if err != nil {
			return 0, fmt.Errorf("sweep inventory: %w", err)
		}
		due = due || len(rows) > 0
	}
	if !due {
		return 0, nil
	}
	err = s.change(ctx, func(ctx context.Context, c *change) error {
		n = 0
		for _, st := range []Status{Active, Superseded} {
			rows, err := db.List(ctx, c.tx, qEnded, scanMember, st, ms, limit-n)
			if err != nil {
				return err
			}
			for _, m := range rows {
				c.setStatus(m, ms)
			}
			n += len(rows)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("sweep inventory: %w", err)
	}
	return n, nil
}

// Revoke records that the certificate with an id or fingerprint was revoked at
// an instant. The certificate that it had succeeded counts as active again.
func (s *Store) Revoke(ctx context.Context, ref string, at, now time.Time) error {
	return s.move(ctx, ref, now, func(c *change, m *member) {
		if m.revokedAt == 0 {
			m.revokedAt = at.UnixMilli()
			c.tx.Queue(qSetRevoked, nil, m.id, at)
		}
	})
}

// Retire takes a certificate out of view; Purge deletes it after the retention
// time. Sightings are still recorded.
func (s *Store) Retire(ctx context.Context, ref string, now time.Time) error {
	return s.move(ctx, ref, now, func(c *change, m *member) { c.retire(m, true, now) })
}

// Restore brings a retired certificate back.
func (s *Store) Restore(ctx context.Context, ref string, now time.Time) error {
	return s.move(ctx, ref, now, func(c *change, m *member) { c.retire(m, false, now) })
}

// retire changes the fact, not yet the status.
func (c *change) retire(m *member, retired bool, now time.Time) {
	if m.retired == retired {
		return
	}
	m.retired = retired
	var at any
	if retired {
		at = now
	}
	c.tx.Queue(qSetRetired, nil, m.id, at)
}

// move changes facts of one certificate and everything that follows from them.
func (s *Store) move(ctx context.Context, ref string, now time.Time, edit func(*change, *member)) error {
	id, err := s.resolve(ctx, ref)
	if err != nil {
		return err
	}
	err = s.change(ctx, func(ctx context.Context, c *change) error {
		ms, err := c.members(ctx, []string{id})
		if err != nil {
			return err
		}
		if len(ms) == 0 {
			return db.ErrNotFound
		}
		return c.move(ctx, ms[0], now.UnixMilli(), func() { edit(c, ms[0]) })
	})
	if errors.Is(err, db.ErrNotFound) {
		return orNotFound(ref, nil)
	}
	if err != nil {
		return fmt.Errorf("change certificate: %w", err)
	}
	return nil
}

// move runs edit, which changes facts or the owner of m, with m out of its
// chain, and links it again if it still belongs in one.
func (c *change) move(ctx context.Context, m *member, now int64, edit func()) error {
	if err := c.unlink(ctx, m, now); err != nil {
		return err
	}
	c.recount(m, edit)
	c.setStatus(m, now)
	return c.link(ctx, m, now)
}

var (
	// Retired certificates go when they were retired before, others when they
	// ended before; not while an endpoint serves them.
	qPurgeRetired = db.SQL("inventory.list_purgeable_retired", `SELECT `+memberColumns+` FROM inventory c
		WHERE c.status = 'retired' AND c.retired_at < $1 AND (c.not_after, c.id) > ($3::bigint, $4::text)
			AND NOT EXISTS (SELECT 1 FROM endpoint e WHERE e.inventory_id = c.id AND e.last_seen_at >= $1)
		ORDER BY c.not_after, c.id LIMIT $2`)
	qPurgeEnded = db.SQL("inventory.list_purgeable", `SELECT `+memberColumns+` FROM inventory c
		WHERE c.not_after < $1 AND (c.not_after, c.id) > ($3::bigint, $4::text)
			AND NOT EXISTS (SELECT 1 FROM endpoint e WHERE e.inventory_id = c.id AND e.last_seen_at >= $1)
		ORDER BY c.not_after, c.id LIMIT $2`)
	qForget = []*db.Stmt{
		db.SQL("inventory.delete_rows", `DELETE FROM inventory WHERE id = ANY($1::text[])`),
		db.SQL("inventory.delete_ders", `DELETE FROM inventory_der WHERE inventory_id = ANY($1::text[])`),
		db.SQL("inventory.delete_seen", `DELETE FROM inventory_seen WHERE inventory_id = ANY($1::text[])`),
		db.SQL("inventory.delete_names", `DELETE FROM inventory_name WHERE inventory_id = ANY($1::text[])`),
		db.SQL("inventory.delete_tags", `DELETE FROM inventory_tag WHERE inventory_id = ANY($1::text[])`),
		db.SQL("inventory.delete_endpoints", `DELETE FROM endpoint WHERE inventory_id = ANY($1::text[])`),
	}
	qOldEdits = db.SQL("inventory.delete_old_edits", `DELETE FROM inventory_edit WHERE state = 'done' AND created_at < $1`)
)

// Purge deletes up to limit certificates that ended, or were retired, before
// an instant, and that no endpoint has served since; and the records of
// finished bulk edits from before it. It returns how many certificates went.
func (s *Store) Purge(ctx context.Context, before, now time.Time, limit int) (n int, err error) {
	if before.After(now) {
		return 0, fault.New(fault.Invalid, "certificates are kept at least until they end")
	}
	err = s.change(ctx, func(ctx context.Context, c *change) error {
		n = 0
		for _, q := range []*db.Stmt{qPurgeRetired, qPurgeEnded} {
			gone, err := db.List(ctx, c.tx, q, scanMember, before, limit-n, int64(minInstant), "")
			if err != nil {
				return err
			}
			if err := c.forget(ctx, gone, now.UnixMilli()); err != nil {
				return err
			}
			n += len(gone)
		}
		c.tx.Queue(qOldEdits, nil, before)
		c.tx.Queue(qMove, nil, endpoints)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("purge inventory: %w", err)
	}
	return n, nil
}

// forget deletes certificates and everything about them.
func (c *change) forget(ctx context.Context, gone []*member, now int64) error {
	ids := make([]string, 0, len(gone))
	for _, m := range gone {
		again, err := c.members(ctx, []string{m.id}) // a neighbour's departure may have changed it
		if err != nil {
			return err
		}
		if err := c.unlink(ctx, again[0], now); err != nil {
			return err
		}
		c.counts.add(again[0].dims, -1)
		ids = append(ids, m.id)
	}
	if len(ids) == 0 {
		return nil
	}
	for _, q := range qForget {
		c.tx.Queue(q, nil, ids)
	}
	return nil
}
