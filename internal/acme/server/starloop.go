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
	"chancery/internal/httpd"
	"chancery/internal/loop"
	"chancery/internal/obs"
)

const (
	starBatch  = 100             // orders that one tick renews
	starAtOnce = 8               // of these, at the same time
	starLease  = time.Minute     // after which another replica may try
	starRetry  = 5 * time.Minute // longest pause after a failure
)

var (
	qClaimStar = db.SQL("acme.claim_star", `UPDATE acme_star SET lease_until = $2, lease_token = $3
		WHERE order_id IN (SELECT order_id FROM acme_star WHERE state = 'active' AND next_at IS NOT NULL AND next_at <= $1 AND lease_until <= $1
			ORDER BY next_at LIMIT $4 FOR UPDATE SKIP LOCKED) RETURNING `+starColumns)
	// All that must hold at the signature is read again here, in the
	// transaction that commits the intent to sign.
	qIntendStar = db.SQL("acme.intend_star", `UPDATE acme_star SET intent_id = $3
		WHERE order_id = $1 AND lease_token = $2 AND state = 'active' AND end_at > $4
			AND EXISTS (SELECT 1 FROM acme_account WHERE id = $5 AND state = 'valid')
			AND (SELECT count(*) FILTER (WHERE state = 'valid' AND expires_at > $4) FROM acme_authz WHERE id = ANY($6::text[])) = $7
			AND ($8::text = '' OR EXISTS (SELECT 1 FROM acme_delegation WHERE id = $8 AND ended_at IS NULL))`)
	qRenewStar = db.SQL("acme.renew_star", `UPDATE acme_star SET certificate_id = $3, intent_id = NULL, next_at = $4, lease_until = 0, error = NULL
		WHERE order_id = $1 AND lease_token = $2 AND state = 'active'`)
	qForgetIntent = db.SQL("acme.forget_star_intent", `UPDATE acme_star SET intent_id = NULL WHERE order_id = $1 AND intent_id = $2`)
	qLaterStar    = db.SQL("acme.postpone_star", `UPDATE acme_star SET next_at = $3, lease_until = 0, error = $4
		WHERE order_id = $1 AND lease_token = $2 AND state = 'active'`)
	qStopStar = db.SQL("acme.stop_star", `UPDATE acme_star SET state = 'stopped', next_at = NULL, lease_until = 0, error = $3
		WHERE order_id = $1 AND lease_token = $2 AND state = 'active'`)
)

// RenewStar issues what is due of self-renewing orders (RFC 8739), each in the
// order of steps of any other issuance, with proofs and CAA judged anew. It
// returns what it did. Any number of replicas may run it: an order is leased
// to one, and a lease that ends with a signature under way has its serial
// abandoned before the next try.
func (s *Server) RenewStar(ctx context.Context, now time.Time) (loop.Count, error) {
	token := db.NewID(now)
	due, err := s.claimStars(ctx, token, now)
	if err != nil {
		return loop.Count{Backlog: -1}, wrap("claim orders that renew themselves", err)
	}
	count, err := loop.Each(due, starAtOnce, func(d *star) error { return s.renewOne(ctx, d, token, now) })
	count.Backlog, count.More = -1, len(due) == starBatch
	return count, err
}

// claimStars leases what is due, and abandons what was being signed under
// leases that ended.
func (s *Server) claimStars(ctx context.Context, token string, now time.Time) (due []star, err error) {
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		due, err = db.List(ctx, tx, qClaimStar, scanStar, now, now.Add(starLease), token, starBatch)
		if err != nil {
			return err
		}
		for i := range due {
			if due[i].intentID == "" {
				continue
			}
			if err := ca.Abandon(ctx, tx, due[i].intentID, now); err != nil {
				return err
			}
			tx.Queue(qForgetIntent, nil, due[i].orderID, due[i].intentID)
		}
		return nil
	})
	return due, err
}

// renewOne issues the certificate that is due of one leased order. An error is
// a failure of our own; what ends the order is written down and no error.
func (s *Server) renewOne(ctx context.Context, v *star, token string, now time.Time) error {
	start := time.Now()
	ctx, span := obs.Begin(ctx, "acme.renew_star")
	err := s.renewal(ctx, v, token, now)
	measure(s.ops.renewStar, start, err)
	span.End(err)
	if err == nil {
		return nil
	}
	stop, u := errors.Is(err, errNotClaimed), (*unusable)(nil)
	if errors.As(err, &u) || stop {
		if stop {
			err = fault.New(fault.Unauthorized, "the account or an authorization is not valid any more")
		}
		s.log.InfoContext(ctx, "order stops renewing itself", "order", v.orderID, "error", err)
		return s.settleStar(ctx, qStopStar, v.orderID, token, problemText(err))
	}
	later := now.Add(min(max(v.lifetime/16, time.Second), starRetry))
	if e := s.settleStar(ctx, qLaterStar, v.orderID, token, later, problemText(err)); e != nil {
		return errors.Join(err, e)
	}
	s.log.WarnContext(ctx, "order not renewed, will try again", "order", v.orderID, "at", later, "error", err)
	if fault.As(err).Status() < http.StatusInternalServerError {
		return nil // a refusal, such as CAA: the owner of the name may change it
	}
	return err
}

func (s *Server) settleStar(ctx context.Context, q *db.Stmt, args ...any) error {
	return s.db.Write(context.WithoutCancel(ctx), func(tx *db.Tx) error {
		tx.Queue(q, nil, args...)
		return nil
	})
}

// renewal issues the newest certificate that is due.
func (s *Server) renewal(ctx context.Context, v *star, token string, now time.Time) error {
	o, err := GetOrder(ctx, s.db.Read(), v.orderID)
	if err != nil {
		return err
	}
	a := s.cas[o.CA]
	if a == nil {
		return fault.New(fault.Unavailable, "the CA %s is not served by this process", o.CA)
	}
	i, ok := v.at(now)
	if !ok || i == 0 { // the end has come, or this is early
		return s.settleStar(ctx, qRenewStar, o.ID, token, v.certificateID, v.soonest(now))
	}
	csr, err := o.parseCSR(o.CSR)
	if err != nil {
		return err
	}
	profile, err := s.cfg.Issuer.Profile(ctx, o.ProfileHash)
	if err != nil {
		return err
	}
	grant, cleared, err := s.evidence(ctx, a, &o, now)
	if err != nil {
		return err
	}
	from, to := v.window(i)
	if early := now.Add(-profile.Backdate); from.Before(early) {
		from = early // we are late; what is past needs no certificate
	}
	r := &starWork{s: s, order: &o, token: token, now: now, cleared: cleared, next: v.next(i)}
	cert, err := s.cfg.Issuer.Issue(ctx, ca.Request{CA: o.CA, Profile: profile, Grant: grant, CSR: csr, NotBefore: from, NotAfter: to,
		OrderID: o.ID, AccountID: o.AccountID, Actor: "system", Claim: r.onClaim, Complete: r.onComplete})
	if err != nil {
		return err
	}
	if s.cfg.OnIssue != nil {
		s.cfg.OnIssue(context.WithoutCancel(ctx), cert)
	}
	return nil
}

// starWork is the issuance of one renewal under one lease.
type starWork struct {
	s       *Server
	order   *Order
	token   string
	now     time.Time
	cleared []clearedName
	next    time.Time // when the certificate after this one is due
}

// onClaim joins the transaction of the intent.
func (w *starWork) onClaim(_ context.Context, tx *db.Tx, certificateID string) error {
	o := w.order
	tx.Queue(qIntendStar, claimed, o.ID, w.token, certificateID, w.now, o.AccountID, o.stands, len(o.stands), o.DelegationID)
	for _, c := range w.cleared {
		tx.Queue(qStoreCAA, nil, c.authzID, c.sealed)
	}
	return nil
}

// onComplete joins the transaction of the certificate. An order that was
// canceled meanwhile gets none.
func (w *starWork) onComplete(_ context.Context, tx *db.Tx, certificateID string) error {
	tx.Queue(qRenewStar, claimed, w.order.ID, w.token, certificateID, w.next)
	return nil
}

// firstStar returns the schedule of an order whose first certificate is made
// now, and the life of that certificate; nil unless it renews itself.
func (o *Order) firstStar(now time.Time) (p *schedule, from, to time.Time) {
	if o.AutoRenewal == nil {
		return nil, o.NotBefore, o.NotAfter
	}
	plan := scheduleOf(o.AutoRenewal, now)
	from, to = plan.window(0)
	if o.AutoRenewal.StartDate.IsZero() {
		from = time.Time{} // as early as the profile says
	}
	return &plan, from, to
}

// orderReply answers with an order, in full when it renews itself.
func (s *Server) orderReply(m *message, o *Order, status int) (r *httpd.Reply, err error) {
	var v *star
	if o.AutoRenewal != nil && o.State == acme.OrderValid {
		if v, err = s.star(m.ctx, o.ID); err != nil {
			return nil, err
		}
	}
	return o.reply(m, v, status), nil
}
