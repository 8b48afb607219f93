package server

import (
	"context"
	"time"

	"chancery/internal/db"
	"chancery/internal/loop"
)

// expireBatch is how many rows of a table one tick deletes.
const expireBatch = 1000

var (
	qExpireOrders = db.SQL("acme.delete_expired_orders", `DELETE FROM acme_order WHERE id IN
		(SELECT id FROM acme_order WHERE expires_at < $1 AND state <> 'processing' ORDER BY expires_at LIMIT $2)`)
	qExpireAuthz = db.SQL("acme.delete_expired_authorizations", `DELETE FROM acme_authz WHERE id IN
		(SELECT id FROM acme_authz WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)`)
)

var qExpireStar = db.SQL("acme.delete_expired_star", `DELETE FROM acme_star WHERE order_id IN
	(SELECT order_id FROM acme_star WHERE end_at < $1 ORDER BY end_at LIMIT $2)`)

// Expire deletes one batch of orders and authorizations that expired longer
// than the retention ago. Certificates and their status stay: they belong to
// package ca, and outlive their orders.
func (s *Server) Expire(ctx context.Context, now time.Time) (loop.Count, error) {
	s.damper.sweep(now)
	var orders, authz int64
	before := now.Add(-s.cfg.Retention)
	err := s.db.Write(ctx, func(tx *db.Tx) (err error) {
		if orders, err = tx.Exec(ctx, qExpireOrders, before, expireBatch); err != nil {
			return err
		}
		tx.Queue(qExpireStar, nil, before, expireBatch)
		tx.Queue(qExpireMail, nil, now.Add(-s.cfg.PendingLifetime-s.cfg.Retention), expireBatch)
		tx.Queue(qExpireTokens, nil, now, expireBatch)      // one that expired is refused as such
		tx.Queue(qExpireEvidence, nil, before, expireBatch) // of the authorizations that go next
		authz, err = tx.Exec(ctx, qExpireAuthz, before, expireBatch)
		return err
	})
	if err != nil {
		return loop.Count{Backlog: -1}, wrap("delete expired orders", err)
	}
	n := int(orders + authz)
	if n > 0 {
		s.recent.clear()
	}
	return loop.Count{Claimed: n, Done: n, Backlog: -1, More: orders == expireBatch || authz == expireBatch}, nil
}
