// Package follow keeps the inventory up to date with our own authorities: what
// they issue, revoke and are. It follows the journal from a stored position,
// after one walk over what there was before.
//
// A certificate has the same id here and in the inventory. Everything is done
// at least once and may be done twice: storing what is known changes nothing.
package follow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery/internal/audit"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/inventory"
	"chancery/internal/loop"
)

// Bounds of one tick. Batches are small because nobody else writes to SQLite
// while one is stored: issuance must not wait behind them.
const (
	journalPage = 500 // entries of the journal
	batch       = 100 // certificates in one transaction
	pages       = 10  // pages before the tick ends
)

// lease is how long one process goes on moving the position; half of it must
// be left when a page begins.
const lease = 20 * time.Second

// name is the row of this follower.
const name = "inventory"

var (
	qPosition = db.SQL("follow.get_position", `SELECT seq, backfill FROM follower WHERE name = $1`)
	qBegin    = db.SQL("follow.insert_position", `INSERT INTO follower (name, seq, backfill, lease_until, lease_token)
		VALUES ($1, $2, '', 0, '') ON CONFLICT DO NOTHING`)
	qClaim = db.SQL("follow.claim", `UPDATE follower SET lease_until = $3, lease_token = $4
		WHERE name = $1 AND (lease_until < $2 OR lease_token = $4)`)
	qMove = db.SQL("follow.move", `UPDATE follower SET seq = $3, backfill = $4 WHERE name = $1 AND lease_token = $2`)

	qIssued   = db.SQL("follow.list_issued", `SELECT id, der, issued_at, revoked_at FROM certificate WHERE id = ANY($1::text[]) AND state = 'issued'`)
	qBackfill = db.SQL("follow.list_all_issued", `SELECT id, der, issued_at, revoked_at FROM certificate WHERE id > $1 AND state = 'issued' ORDER BY id LIMIT $2`)
)

// Follower is one process's part in following. Use it from one loop.
type Follower struct {
	db    *db.DB
	ca    *ca.Service
	store *inventory.Store
	lease time.Duration
	token string    // of this process's leases
	until time.Time // of the lease that it holds
}

// New returns a Follower of the journal in d.
func New(d *db.DB, authorities *ca.Service, store *inventory.Store) *Follower {
	return &Follower{db: d, ca: authorities, store: store, lease: lease, token: db.NewID(time.Now())}
}

// position is where the follower stands.
type position struct {
	seq      int64
	walking  bool   // over the certificates from before
	backfill string // the last id of the walk
}

// Tick brings the inventory closer to the journal: up to ten pages, or
// whatever there is. It does nothing while another process holds the lease.
func (f *Follower) Tick(ctx context.Context) (n loop.Count, err error) {
	p, err := f.position(ctx)
	if err != nil {
		return n, err
	}
	for range pages {
		head, err := audit.Head(ctx, f.db.Read())
		if err != nil {
			return n, fmt.Errorf("read head of journal: %w", err)
		}
		n.Backlog = int(head - p.seq)
		if !p.walking && p.seq >= head {
			return n, nil
		}
		if held, err := f.hold(ctx, time.Now()); err != nil || !held {
			return n, err
		}
		done, err := f.page(ctx, &p)
		n.Claimed, n.Done = n.Claimed+done, n.Done+done
		if err != nil {
			return n, err
		}
	}
	n.More = true
	return n, nil
}

// position reads where to go on, and makes the row if there is none.
func (f *Follower) position(ctx context.Context) (position, error) {
	read := func() (position, error) {
		return db.Get(ctx, f.db.Read(), qPosition, func(r *db.Row) position {
			p := position{seq: r.Int64(), walking: !r.Null()}
			p.backfill = r.Text()
			return p
		}, name)
	}
	p, err := read()
	if !errors.Is(err, db.ErrNotFound) {
		return p, err
	}
	head, err := audit.Head(ctx, f.db.Read())
	if err != nil {
		return p, fmt.Errorf("read head of journal: %w", err)
	}
	err = f.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, qBegin, name, head)
		return err
	})
	if err != nil {
		return p, fmt.Errorf("begin to follow: %w", err)
	}
	return read()
}

// hold makes sure that this process has the lease for a while.
func (f *Follower) hold(ctx context.Context, now time.Time) (bool, error) {
	if now.Add(f.lease / 2).Before(f.until) {
		return true, nil
	}
	until, held := now.Add(f.lease), int64(0)
	err := f.db.Write(ctx, func(tx *db.Tx) (err error) {
		held, err = tx.Exec(ctx, qClaim, name, now, until, f.token)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("claim the journal's follower: %w", err)
	}
	if held == 1 {
		f.until = until
	}
	return held == 1, nil
}

// errLost says that another process moves the position now.
var errLost = errors.New("another process follows the journal")

// page stores one page and moves the position.
func (f *Follower) page(ctx context.Context, p *position) (n int, err error) {
	if p.walking {
		n, err = f.walk(ctx, p)
	} else {
		n, err = f.follow(ctx, p)
	}
	if err != nil {
		return n, err
	}
	var backfill any
	if p.walking {
		backfill = p.backfill
	}
	err = f.db.Write(ctx, func(tx *db.Tx) error {
		moved, err := tx.Exec(ctx, qMove, name, f.token, p.seq, backfill)
		if err == nil && moved == 0 {
			err = errLost
		}
		return err
	})
	if errors.Is(err, errLost) {
		f.until = time.Time{}
	}
	return n, err
}

// walk stores the next certificates from before.
func (f *Follower) walk(ctx context.Context, p *position) (int, error) {
	if p.backfill == "" {
		if err := f.authorities(ctx); err != nil {
			return 0, err
		}
	}
	found, last, err := f.read(ctx, qBackfill, p.backfill, batch)
	if err != nil {
		return 0, err
	}
	p.walking = len(found) == batch
	if p.walking {
		p.backfill = last
	}
	return len(found), f.put(ctx, found)
}

// follow stores what the next entries of the journal are about.
func (f *Follower) follow(ctx context.Context, p *position) (int, error) {
	page, err := ca.ReadChanges(ctx, f.db.Read(), p.seq, journalPage, "certificate.issue", "certificate.revoke")
	if err != nil {
		return 0, fmt.Errorf("follow journal: %w", err)
	}
	if page.Authorities {
		if err := f.authorities(ctx); err != nil {
			return 0, err
		}
	}
	slices.Sort(page.IDs)
	for chunk := range slices.Chunk(slices.Compact(page.IDs), batch) {
		found, _, err := f.read(ctx, qIssued, chunk)
		if err != nil {
			return 0, err
		}
		if err := f.put(ctx, found); err != nil {
			return 0, err
		}
	}
	p.seq = page.Last
	return page.Entries, nil
}

// read turns rows into observations, and returns the last id.
func (f *Follower) read(ctx context.Context, q *db.Stmt, args ...any) (found []inventory.Observation, last string, err error) {
	err = f.db.Read().All(ctx, q, func(r *db.Row) error {
		o := inventory.Observation{ID: r.Text(), DER: r.Bytes(), Source: inventory.FromCA, SeenAt: r.Time(), RevokedAt: r.Time()}
		last = o.ID
		found = append(found, o)
		return nil
	}, args...)
	if err != nil {
		return nil, "", fmt.Errorf("read issued certificates: %w", err)
	}
	return found, last, nil
}

// authorities stores the certificates of roots and issuing authorities.
func (f *Follower) authorities(ctx context.Context) error {
	if err := f.ca.Reload(ctx); err != nil {
		return fmt.Errorf("reload authorities: %w", err)
	}
	var found []inventory.Observation
	for _, a := range f.ca.Authorities() {
		if a.Role != ca.RoleOCSP && len(a.DER) > 0 {
			found = append(found, inventory.Observation{DER: a.DER, Source: inventory.FromCA, SeenAt: a.CreatedAt})
		}
	}
	return f.put(ctx, found)
}

// put stores observations. A row that is refused is damaged: `doctor issuance`
// says what is wrong with it, and the others must not wait for it.
func (f *Follower) put(ctx context.Context, found []inventory.Observation) error {
	if len(found) == 0 {
		return nil
	}
	res, err := f.store.Put(ctx, found, time.Now())
	if err != nil {
		return err
	}
	for _, r := range res.Refused {
		if !fault.Is(r.Err, fault.Invalid) && !fault.Is(r.Err, fault.TooLarge) {
			return fmt.Errorf("certificate %s: %w", found[r.Index].ID, r.Err)
		}
	}
	return nil
}
