package inventory

import (
	"context"
	"errors"

	"chancery/internal/db"
)

// Successor chains: the linked certificates of one lineage and owner, in the
// order of not_before, each pointing at the next. Only neighbours are ever
// touched, so that ten thousand certificates for "localhost" cost no more than
// two. The caller holds the lock of structural changes.

// linkable is the condition on members of a chain.
const linkable = `lineage IS NOT NULL AND status IN ('active', 'superseded', 'expired')`

var (
	qOlder = db.SQL("inventory.read_older", `SELECT `+memberColumns+` FROM inventory c
		WHERE lineage = $1 AND owner = $2 AND `+linkable+` AND (not_before, id) < ($3::bigint, $4::text)
		ORDER BY not_before DESC, id DESC LIMIT 1`)
	qNewer = db.SQL("inventory.read_newer", `SELECT `+memberColumns+` FROM inventory c
		WHERE lineage = $1 AND owner = $2 AND `+linkable+` AND (not_before, id) > ($3::bigint, $4::text)
		ORDER BY not_before, id LIMIT 1`)
	// Not linkable: with that condition SQLite takes the index of statuses.
	qLineages       = db.SQL("inventory.list_lineages", `SELECT lineage FROM inventory WHERE lineage = ANY($1::bigint[]) AND lineage IS NOT NULL`)
	qSetSuccessor   = db.SQL("inventory.update_successor", `UPDATE inventory SET successor_id = $2 WHERE id = $1`)
	qPreviousMember = db.SQL("inventory.list_previous", `SELECT `+memberColumns+` FROM inventory c WHERE successor_id = $1 ORDER BY c.id`)
)

// neighbour returns the row of q beside m, or nil.
func (c *change) neighbour(ctx context.Context, q *db.Stmt, m *member) (*member, error) {
	n, err := db.Get(ctx, c.tx, q, scanMember, m.lineage, m.owner, m.notBefore, m.id)
	if errors.Is(err, db.ErrNotFound) {
		return nil, nil
	}
	return n, err
}

// link puts m, whose row is stored and linkable, in its place in the chain.
func (c *change) link(ctx context.Context, m *member, now int64) error {
	if m.lineage == 0 || !m.status.linked() {
		return nil
	}
	older, err := c.neighbour(ctx, qOlder, m)
	if err != nil {
		return err
	}
	newer, err := c.neighbour(ctx, qNewer, m)
	if err != nil {
		return err
	}
	if older != nil {
		c.setSuccessor(older, m.id, now)
	}
	if newer != nil {
		c.setSuccessor(m, newer.id, now)
	}
	return nil
}

// unlink takes m out of its chain and closes the gap. Its own status is then
// that of a certificate without a successor.
func (c *change) unlink(ctx context.Context, m *member, now int64) error {
	if m.lineage == 0 {
		return nil
	}
	before, err := db.List(ctx, c.tx, qPreviousMember, scanMember, m.id)
	if err != nil {
		return err
	}
	for _, p := range before {
		c.setSuccessor(p, m.successor, now)
	}
	c.setSuccessor(m, "", now)
	return nil
}

func (c *change) setSuccessor(m *member, id string, now int64) {
	if m.successor == id {
		return
	}
	m.successor = id
	c.tx.Queue(qSetSuccessor, nil, m.id, nullable(id))
	c.setStatus(m, now)
}

// nullable is nil for "".
func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}
