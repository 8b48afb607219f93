package server

import (
	"context"
	"errors"
	"net/http"
	"time"

	"chancery/internal/acme"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/fault"
)

var (
	qStuck = db.SQL("acme.list_stuck_orders", `SELECT `+orderColumns+` FROM acme_order WHERE state = 'processing' AND claimed_at < $1
		ORDER BY claimed_at LIMIT $2`)
	qTakeOver = db.SQL("acme.take_over_order", `UPDATE acme_order SET claim_token = $4, claimed_at = $5
		WHERE id = $1 AND state = 'processing' AND claim_token = $2 AND certificate_id = $3`)
	qReissue = db.SQL("acme.reissue_order", `UPDATE acme_order SET certificate_id = $3, claimed_at = $4
		WHERE id = $1 AND state = 'processing' AND claim_token = $2
			AND EXISTS (SELECT 1 FROM acme_account WHERE id = $5 AND state = 'valid')
			AND (SELECT count(*) FILTER (WHERE state = 'valid' AND expires_at > $4) FROM acme_authz WHERE id = ANY($6::text[])) = $7
			AND ($8::text = '' OR EXISTS (SELECT 1 FROM acme_delegation WHERE id = $8 AND ended_at IS NULL))`)
	qFailStuck = db.SQL("acme.fail_stuck_order", `UPDATE acme_order SET state = 'invalid', error = $3
		WHERE id = $1 AND state = 'processing' AND claim_token = $2`)
)

// recoverBatch is how many orders one Recover looks at.
const recoverBatch = 100

// Recover settles orders that have been in processing since before
// claimedBefore because a process ended in between (invariant I6), and returns
// how many. The old serial is abandoned, for it may have been signed, and the
// stored request is issued again under a new one; an order for which that is
// refused becomes invalid, one for which it cannot be done now becomes ready
// again. Any number of replicas may run it: an order is taken over by a new
// token, with which its former owner can no longer complete it.
func (s *Server) Recover(ctx context.Context, claimedBefore time.Time) (int, error) {
	var stuck []Order
	err := s.db.Read().All(ctx, qStuck, func(r *db.Row) error {
		o, err := scanOrder(r)
		stuck = append(stuck, o)
		return err
	}, claimedBefore, recoverBatch)
	if err != nil {
		return 0, wrap("find stuck orders", err)
	}
	n := 0
	for i := range stuck {
		start := time.Now()
		taken, e := s.resume(ctx, &stuck[i])
		if taken {
			measure(s.ops.recover, start, e)
			n++
		}
		err = errors.Join(err, e)
	}
	return n, err
}

// resume takes an order over and settles it; taken is false if another
// replica was faster.
func (s *Server) resume(ctx context.Context, o *Order) (taken bool, err error) {
	w := &work{s: s, order: o, token: db.NewID(time.Now()), now: time.Now()}
	defer s.recent.drop(o.AccountID, o.ID)
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, qTakeOver, o.ID, o.claimToken, o.CertificateID, w.token, w.now)
		if err != nil || n == 0 {
			taken = false
			return err
		}
		taken = true
		return ca.Abandon(ctx, tx, o.CertificateID, w.now)
	})
	if err != nil || !taken {
		return false, wrap("take over order "+o.ID, err)
	}
	fault.Point("acme.after_recover_claim")
	err = w.again(ctx)
	if errors.Is(err, errNotClaimed) { // account or authorization ended meanwhile
		err = fault.New(fault.Unauthorized, "the account or an authorization is not valid any more")
	}
	if err == nil {
		fault.Point("acme.after_recover")
		s.log.InfoContext(ctx, "order recovered", "order", o.ID, "certificate", o.CertificateID)
		return true, nil
	}
	return true, w.bury(ctx, err)
}

// again issues the stored request under the new claim.
func (w *work) again(ctx context.Context) error {
	s, o := w.s, w.order
	a := s.cas[o.CA]
	if a == nil {
		return fault.New(fault.Unauthorized, "the CA %s is not served any more", o.CA)
	}
	csr, err := o.parseCSR(o.CSR)
	if err != nil {
		return err
	}
	grant, cleared, err := s.evidence(ctx, a, o, w.now)
	if err != nil {
		return err
	}
	w.cleared = cleared
	w.claim = func(tx *db.Tx, certificateID string) {
		tx.Queue(qReissue, claimed, o.ID, w.token, certificateID, w.now, o.AccountID, o.stands, len(o.stands), o.DelegationID)
	}
	return w.run(ctx, grant, csr, "system")
}

// bury ends an order that could not be issued again: a refusal is final, and a
// failure of our own gives the client another chance. What run has released
// already stays released.
func (w *work) bury(ctx context.Context, cause error) error {
	refused := fault.As(cause).Status() < http.StatusInternalServerError
	err := w.s.db.Write(context.WithoutCancel(ctx), func(tx *db.Tx) error {
		if refused {
			tx.Queue(qFailStuck, nil, w.order.ID, w.token, problemText(cause))
			return nil
		}
		tx.Queue(qGiveUp, nil, w.order.ID, w.token)
		return nil
	})
	w.s.log.WarnContext(ctx, "order not recovered", "order", w.order.ID, "refused", refused, "error", cause)
	if refused {
		w.order.State = acme.OrderInvalid
		return err
	}
	return errors.Join(cause, err)
}
