package renew

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chancery/internal/db"
)

// kind says what is to be done with a scheduled certificate.
type kind string

const (
	check kind = "check" // look whether it is time, ask the issuer for its window
	issue kind = "issue" // obtain the next certificate
	hold  kind = "hold"  // paused or stopped: nothing
)

// heartbeat is the longest that a certificate is not looked at, whatever its
// plans: rows that a clock ahead of time wrote come back, and every look checks
// that a certificate has a plan at all.
const heartbeat = 24 * time.Hour

// maxClaim bounds one claim.
const maxClaim = 500

var (
	qClaim = db.SQL("renew.claim_due", `UPDATE managed_schedule SET due_at = $4, lease_token = $5 WHERE managed_id IN (
			SELECT managed_id FROM managed_schedule WHERE kind = $1 AND ca = $2 AND due_at <= $3 ORDER BY due_at LIMIT $6 FOR UPDATE SKIP LOCKED)
		RETURNING managed_id`)
	// Leased rows lie within one lease of the now of whoever claimed or extended
	// them, which may be later than that of this transaction: it waited for the
	// lock.
	qInFlight = db.SQL("renew.count_leased", `SELECT count(*) FROM managed_schedule WHERE kind = $1 AND ca = $2 AND due_at > $3 AND due_at <= $4 AND lease_token <> ''`)
	qNextDue  = db.SQL("renew.next_due", `SELECT due_at FROM managed_schedule WHERE kind = $1 AND ca = $2 ORDER BY due_at LIMIT 1`)
	qNextCA   = db.SQL("renew.next_lane", `SELECT ca FROM managed_schedule WHERE kind = $1 AND ca > $2 ORDER BY ca LIMIT 1`)
	qTouch    = db.SQL("renew.extend_lease", `UPDATE managed_schedule SET due_at = $3 WHERE managed_id = $1 AND lease_token = $2`)
	qRelease  = db.SQL("renew.release_lease", `UPDATE managed_schedule SET due_at = $3, kind = $4, ca = $5, attempt = $6, lease_token = '' WHERE managed_id = $1 AND lease_token = $2`)
	// Rows that a clock ahead of time, or a lease of one, put out of reach.
	qReach = db.SQL("renew.pull_back", `UPDATE managed_schedule SET due_at = $3, lease_token = '' WHERE managed_id IN (
			SELECT managed_id FROM managed_schedule WHERE kind = $1 AND ca = $2 AND due_at > $4 ORDER BY due_at LIMIT $5)`)
	qReachLease = db.SQL("renew.pull_back_leases", `UPDATE managed_schedule SET due_at = $3, lease_token = '' WHERE managed_id IN (
			SELECT managed_id FROM managed_schedule WHERE kind = $1 AND ca = $2 AND due_at > $4 AND lease_token <> '' ORDER BY due_at LIMIT $5)`)
	qFar      = db.SQL("renew.find_far", `SELECT due_at FROM managed_schedule WHERE kind = $1 AND ca = $2 AND due_at > $3 ORDER BY due_at LIMIT 1`)
	qFarLease = db.SQL("renew.count_far_leases", `SELECT count(*) FROM managed_schedule WHERE kind = $1 AND ca = $2 AND due_at > $3 AND lease_token <> ''`)
	qWaiting  = db.SQL("renew.count_waiting", `SELECT count(*) FROM managed_schedule WHERE kind = $1 AND ca = $2 AND due_at <= $3`)
	qLeased   = db.SQL("renew.get_lease", `SELECT lease_token FROM managed_schedule WHERE managed_id = $1`)
)

// errLost means that somebody else has the lease: this process was too slow,
// or a person paused or changed the certificate. The work stops at once.
var errLost = errors.New("the lease was lost")

// lease is the right to work on one managed certificate until it ends.
type lease struct {
	id    string // of the managed certificate
	token string
	ca    string // of the lane it was claimed from
}

// touch extends the lease within a transaction, or fails it: the first
// statement of every write of a holder.
func (l lease) touch(tx *db.Tx, until time.Time) {
	tx.Queue(qTouch, db.ExactlyOne(errLost), l.id, l.token, until)
}

// release ends the lease within a transaction and says what comes next.
func (l lease) release(tx *db.Tx, at time.Time, k kind, ca string, attempt int) {
	tx.Queue(qRelease, db.ExactlyOne(errLost), l.id, l.token, at, string(k), ca, attempt)
}

// lanesOf returns every CA that has rows of a kind: a walk over the index, one
// step per CA.
func lanesOf(ctx context.Context, q db.Q, k kind) ([]string, error) {
	var out []string
	for at := ""; ; {
		next, err := db.Get(ctx, q, qNextCA, (*db.Row).Text, string(k), at)
		if errors.Is(err, db.ErrNotFound) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list lanes: %w", err)
		}
		out, at = append(out, next), next
	}
}

// nextDue returns when the first row of a lane is due, or the zero time.
func nextDue(ctx context.Context, q db.Q, k kind, ca string) (time.Time, error) {
	at, err := db.Get(ctx, q, qNextDue, (*db.Row).Time, string(k), ca)
	if errors.Is(err, db.ErrNotFound) {
		return time.Time{}, nil
	}
	return at, err
}

// claimed is the outcome of a claim.
type claimed struct {
	leases []lease
	lane   Lane
	wake   time.Time // when the lane can move again if it is held back, zero = when rows are due
	full   bool      // its cap is used up by work that is under way
}

// claimChecks takes due rows of a check lane. They cost the issuer next to
// nothing, so that only free workers bound them.
func (e *Engine) claimChecks(ctx context.Context, ca string, free int, now time.Time) (c claimed, err error) {
	token := db.NewID(now)
	ids, err := e.claimRows(ctx, check, ca, token, free, now)
	for _, id := range ids {
		c.leases = append(c.leases, lease{id, token, ca})
	}
	return c, err
}

func (e *Engine) claimRows(ctx context.Context, k kind, ca, token string, n int, now time.Time) (ids []string, err error) {
	err = e.db.Write(ctx, func(tx *db.Tx) error {
		ids, err = db.List(ctx, tx, qClaim, (*db.Row).Text, string(k), ca, now, now.Add(e.leaseFor), token, min(n, maxClaim))
		return err
	})
	return ids, err
}

// claimIssues takes due rows of an issue lane: as many as there are workers
// here, as the cap leaves free in the whole fleet, as breaker and pause allow,
// and as the account's budgets let through.
func (e *Engine) claimIssues(ctx context.Context, ca string, free int, now time.Time) (c claimed, err error) {
	iss := e.issuer(ca)
	token := db.NewID(now)
	err = e.db.Write(ctx, func(tx *db.Tx) error {
		c = claimed{}
		if c.lane, err = lockLane(ctx, tx, IssuerLane, ca, now); err != nil {
			return err
		}
		flying, err := db.Get(ctx, tx, qInFlight, (*db.Row).Int, string(issue), ca, now, now.Add(2*e.leaseFor))
		if err != nil {
			return err
		}
		n := min(free, c.lane.allow(now, iss.workers())-flying, maxClaim)
		if n <= 0 {
			c.wake = c.lane.until(now)
			c.full = c.wake.IsZero()
			return nil
		}
		left, retry, err := accountLeft(ctx, tx, ca, iss.budgets(), now)
		if err != nil {
			return err
		}
		if n = min(n, left); n <= 0 {
			c.wake = now.Add(retry)
			return nil
		}
		ids, err := db.List(ctx, tx, qClaim, (*db.Row).Text, string(issue), ca, now, now.Add(e.leaseFor), token, n)
		for _, id := range ids {
			c.leases = append(c.leases, lease{id, token, ca})
		}
		return err
	})
	return c, err
}

// reach brings rows back that are further away than any rule puts them. As a
// rule there are none, and nothing is written.
func (e *Engine) reach(ctx context.Context, k kind, ca string, now time.Time) error {
	far, bound := now.Add(2*heartbeat), qReach
	if k == issue {
		leased, err := db.Get(ctx, e.db.Read(), qFarLease, (*db.Row).Int, string(k), ca, now.Add(2*e.leaseFor))
		if err == nil && leased > 0 {
			far, bound = now.Add(2*e.leaseFor), qReachLease
		} else if err != nil {
			return err
		}
	}
	if bound == qReach {
		_, err := db.Get(ctx, e.db.Read(), qFar, (*db.Row).Time, string(k), ca, far)
		if errors.Is(err, db.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return e.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, bound, string(k), ca, now, far, maxClaim)
		return err
	})
}
