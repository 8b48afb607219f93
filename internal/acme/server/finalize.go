package server

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"net/http"
	"slices"
	"time"

	"chancery/internal/acme"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/httpd"
	"chancery/internal/pki"
)

var (
	// All that must hold at the signature is read again here, in the
	// transaction that commits the intent to sign. The conditions stand in FILTER
	// so that only the ids can be searched for: PostgreSQL, while it knows little
	// of the table, else reads every valid authorization there is.
	qClaim = db.SQL("acme.claim_order", `UPDATE acme_order SET state = 'processing', csr = $2, certificate_id = $3, claimed_at = $4, claim_token = $5
		WHERE id = $1 AND state = 'ready' AND expires_at > $4
			AND EXISTS (SELECT 1 FROM acme_account WHERE id = $6 AND thumbprint = $7 AND state = 'valid')
			AND (SELECT count(*) FILTER (WHERE state = 'valid' AND expires_at > $4) FROM acme_authz WHERE id = ANY($8::text[])) = $9
			AND ($10::text = '' OR EXISTS (SELECT 1 FROM acme_delegation WHERE id = $10 AND ended_at IS NULL))`)
	qFinish = db.SQL("acme.finish_order", `UPDATE acme_order SET state = 'valid' WHERE id = $1 AND state = 'processing' AND claim_token = $2`)
	qGiveUp = db.SQL("acme.release_order", `UPDATE acme_order SET state = 'ready', csr = NULL, certificate_id = NULL, claimed_at = NULL, claim_token = NULL
		WHERE id = $1 AND state = 'processing' AND claim_token = $2`)
)

// maxCSR bounds a certificate request, in octets of DER: about what the
// largest body can hold. An ML-DSA-87 key with its signature takes 7 KB of it.
const maxCSR = 35 << 10

// finalize answers the finalize URL of an order (RFC 8555 section 7.4). It
// issues before it answers. The same request again gets the same certificate;
// of two at once one issues, and the other is told what it made.
func (s *Server) finalize(m *message) (reply *httpd.Reply, err error) {
	span := m.step("acme.finalize")
	defer func() { measure(s.ops.finalize, m.now, err); span.End(err) }()
	o, err := s.order(m, m.PathValue("id"))
	if err != nil {
		return nil, err
	}
	req, err := decode[acme.Finalize](m)
	if err != nil {
		return nil, err
	}
	der, err := req.DER()
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(s.cfg.FinalizeWait)
	for {
		if state := o.StateAt(m.now); state != acme.OrderReady {
			if done, err := answers(&o, state, der); err != nil || done || time.Now().After(deadline) {
				if err != nil {
					return nil, err
				}
				return s.orderReply(m, &o, http.StatusOK)
			}
		} else if err := s.try(m, &o, der); err == nil {
			fault.Point("acme.after_finalize")
			return s.orderReply(m, &o, http.StatusOK)
		} else if !errors.Is(err, errNotClaimed) {
			return nil, err
		} else if time.Now().After(deadline) {
			return nil, fault.New(fault.Unavailable, "the order changes all the time; try again").Retry(time.Second)
		}
		if err := s.await(m.ctx, o.ID); err != nil {
			return nil, err
		}
		if o, err = s.order(m, o.ID); err != nil {
			return nil, err
		}
		if err := s.stillActive(m); err != nil {
			return nil, err
		}
	}
}

// stillActive reads the signer's account past the cache: the claim of an order
// fails for one that was deactivated, or whose key was changed, on the way.
func (s *Server) stillActive(m *message) error {
	a, err := s.current(m)
	if err != nil {
		return err
	}
	if a.State != acme.AccountValid {
		return inactive(a.State)
	}
	if !a.key.Equal(m.key) {
		return fault.New(fault.Unauthorized, "the account's key was changed")
	}
	return nil
}

// answers says what a finalize request means for an order that is not ready.
// done is false while another request issues for the same CSR.
func answers(o *Order, state acme.OrderStatus, csr []byte) (done bool, err error) {
	switch {
	case state == acme.OrderPending:
		return true, fault.New(fault.OrderNotReady, "the order is pending: %d of its authorizations are not valid yet", o.AuthzPending)
	case state == acme.OrderInvalid:
		return true, fault.New(fault.OrderNotReady, "the order is invalid; make a new one")
	case !bytes.Equal(o.CSR, csr):
		return true, fault.New(fault.OrderNotReady, "the order was finalized with another certificate request; make a new order")
	}
	return state == acme.OrderValid, nil
}

// errNotClaimed means that the order was not ready any more when it was to be
// claimed, or that somebody in this process is at it.
var errNotClaimed = errors.New("the order was not claimed")

var claimed = db.ExactlyOne(errNotClaimed)

// try issues for a ready order, unless another request of this process does.
func (s *Server) try(m *message, o *Order, der []byte) error {
	csr, err := checkCSR(o, der, m.key.Key)
	if err != nil {
		return err
	}
	if err := s.fits(m.ctx, o, csr); err != nil {
		if u := (*unusable)(nil); errors.As(err, &u) {
			return s.give(m.ctx, o, u)
		}
		return err
	}
	s.mu.Lock()
	if s.finalizing[o.ID] != nil {
		s.mu.Unlock()
		return errNotClaimed
	}
	done := make(chan struct{})
	s.finalizing[o.ID] = done
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.finalizing, o.ID)
		s.mu.Unlock()
		close(done)
	}()
	if o.Replaces != "" {
		return s.issue(m, o, csr)
	}
	refund, err := s.limits.certificate(o.Identifiers, m.now)
	if err != nil {
		return err
	}
	if err := s.issue(m, o, csr); err != nil {
		refund()
		return err
	}
	return nil
}

// await waits until whoever issues for an order in this process is done, or
// long enough to see what another replica did.
func (s *Server) await(ctx context.Context, id string) error {
	s.mu.Lock()
	done := s.finalizing[id]
	s.mu.Unlock()
	pause := time.NewTimer(50 * time.Millisecond)
	defer pause.Stop()
	select {
	case <-done: // nil, and so never, if nobody here is at it
	case <-pause.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// parseCSR parses a certificate request for an order.
func (o *Order) parseCSR(der []byte) (*pki.CSR, error) {
	if slices.ContainsFunc(o.Identifiers, pki.Identifier.Device) {
		return pki.ParseDeviceCSR(der, maxCSR)
	}
	if slices.ContainsFunc(o.Identifiers, person) {
		return pki.ParsePersonCSR(der, maxCSR)
	}
	return pki.ParseCSR(der, maxCSR)
}

// checkCSR parses a certificate request and holds it against its order.
func checkCSR(o *Order, der []byte, account crypto.PublicKey) (*pki.CSR, error) {
	csr, err := o.parseCSR(der)
	if err != nil {
		return nil, err
	}
	if key, ok := csr.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || key.Equal(account) {
		return nil, fault.New(fault.BadCSR, "the key to certify is the account's key; make one for the certificate alone (RFC 8555 section 11.1)")
	}
	if !csr.Speaks(o.Identifiers) {
		return nil, fault.New(fault.BadCSR, "the names in the certificate request are not exactly those of the order")
	}
	return csr, nil
}

// issue makes the certificate of a ready order.
func (s *Server) issue(m *message, o *Order, csr *pki.CSR) error {
	grant, cleared, err := s.evidence(m.ctx, m.ca, o, m.now)
	if u := (*unusable)(nil); errors.As(err, &u) {
		return s.give(m.ctx, o, u)
	}
	if err != nil {
		return err
	}
	fault.Point("acme.before_finalize")
	s.recent.drop(o.AccountID, o.ID)
	w := &work{s: s, order: o, token: db.NewID(m.now), now: m.now, cleared: cleared}
	w.claim = func(tx *db.Tx, _ string) {
		tx.Queue(qClaim, claimed, &o.ID, &csr.DER, &w.intent, &w.now, &w.token, &o.AccountID, &m.key.Thumbprint,
			o.stands, len(o.stands), &o.DelegationID)
	}
	return w.run(m.ctx, grant, csr, m.actor())
}

// work is the issuance for one order under one claim.
type work struct {
	s       *Server
	order   *Order
	token   string // of the claim
	now     time.Time
	cleared []clearedName
	claim   func(tx *db.Tx, certificateID string)
	intent  string    // id of the certificate, once the claim was tried
	plan    *schedule // of an order that renews itself
}

// run issues; the order takes part in both transactions of it. If it fails
// after the claim, the serial is abandoned and the order is ready again, as if
// the request had never been.
func (w *work) run(ctx context.Context, grant ca.Grant, csr *pki.CSR, actor string) error {
	s, o := w.s, w.order
	profile, err := s.cfg.Issuer.Profile(ctx, o.ProfileHash)
	if err != nil {
		return err
	}
	var from, to time.Time
	w.plan, from, to = o.firstStar(w.now)
	cert, err := s.cfg.Issuer.Issue(ctx, ca.Request{CA: o.CA, Profile: profile, Grant: grant, CSR: csr, NotBefore: from, NotAfter: to,
		OrderID: o.ID, AccountID: o.AccountID, Actor: actor, Claim: w.onClaim, Complete: w.onComplete})
	if err != nil {
		return w.failed(ctx, err)
	}
	o.State, o.CertificateID, o.CSR = acme.OrderValid, cert.ID, csr.DER
	if w.plan != nil {
		o.ExpiresAt = w.plan.end
	}
	if o.Open {
		o.ExpiresAt = cert.NotAfter
	}
	s.recent.issued(o, cert, w.now)
	if s.cfg.OnIssue != nil {
		s.cfg.OnIssue(context.WithoutCancel(ctx), cert)
	}
	return nil
}

// onClaim joins the transaction of the intent.
func (w *work) onClaim(_ context.Context, tx *db.Tx, certificateID string) error {
	w.intent = certificateID
	w.claim(tx, certificateID)
	for _, c := range w.cleared {
		tx.Queue(qStoreCAA, nil, c.authzID, c.sealed)
	}
	return nil
}

// onComplete joins the transaction of the certificate.
func (w *work) onComplete(_ context.Context, tx *db.Tx, certificateID string) error {
	tx.Queue(qFinish, claimed, &w.order.ID, &w.token)
	if w.order.Open {
		tx.Queue(qOpenUntil, nil, w.order.ID, certificateID)
	}
	if w.plan != nil {
		w.plan.begin(tx, w.order.ID, certificateID, w.order.AutoRenewal.AllowCertificateGet)
	}
	return nil
}

// failed undoes the claim, if there was one. Whether it was committed may be
// unknown, so the undoing depends on the token. If even that fails, Recover
// does it.
func (w *work) failed(ctx context.Context, cause error) error {
	if w.intent == "" || errors.Is(cause, errNotClaimed) {
		return cause
	}
	ctx = context.WithoutCancel(ctx)
	err := w.s.db.Write(ctx, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, qGiveUp, w.order.ID, w.token)
		if err != nil || n == 0 {
			return err
		}
		return ca.Abandon(ctx, tx, w.intent, time.Now())
	})
	if err != nil {
		w.s.log.ErrorContext(ctx, "order stays in processing", "order", w.order.ID, "error", err)
	}
	return cause
}
