package server

import (
	"context"
	"encoding/json/v2"
	"errors"
	"net/http"
	"time"

	"chancery/internal/acme"
	"chancery/internal/audit"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/httpd"
	"chancery/internal/pki"
)

// starState is where a self-renewing order stands once it is finalized.
type starState string

const (
	starActive   starState = "active"   // certificates follow until the end
	starCanceled starState = "canceled" // by its account (RFC 8739 section 3.1.2)
	starStopped  starState = "stopped"  // account or authorizations ended
)

// star is a row of acme_star: a finalized order that renews itself.
type star struct {
	schedule
	orderID       string
	state         starState
	open          bool   // anybody may fetch the certificate
	certificateID string // the newest
	intentID      string // one whose signing is under way, or was cut off
	problem       string // why it stopped, or why the last try failed
}

const starColumns = `order_id, state, start_at, end_at, lifetime, adjust, open, certificate_id, intent_id, error`

var (
	qStar       = db.SQL("acme.get_star", `SELECT `+starColumns+` FROM acme_star WHERE order_id = $1`)
	qInsertStar = db.SQL("acme.insert_star", `INSERT INTO acme_star (order_id, state, start_at, end_at, lifetime, adjust, open, certificate_id,
		next_at, lease_until, lease_token) VALUES ($1, 'active', $2, $3, $4, $5, $6, $7, $8, 0, '')`)
	qStarExpiry = db.SQL("acme.set_order_expiry", `UPDATE acme_order SET expires_at = $2 WHERE id = $1`)
	qCancelStar = db.SQL("acme.cancel_star", `UPDATE acme_star SET state = 'canceled', next_at = NULL
		WHERE order_id = $1 AND state = 'active' AND end_at > $2`)
)

func scanStar(r *db.Row) star {
	s := star{orderID: r.Text(), state: starState(r.Text())}
	s.start, s.end = r.Time(), r.Time()
	s.lifetime, s.adjust = time.Duration(r.Int())*time.Millisecond, time.Duration(r.Int())*time.Millisecond
	s.open, s.certificateID, s.intentID, s.problem = r.Bool(), r.Text(), r.Text(), r.Text()
	return s
}

// star returns the row of an order, or nil if there is none.
func (s *Server) star(ctx context.Context, orderID string) (*star, error) {
	v, err := db.Get(ctx, s.db.Read(), qStar, scanStar, orderID)
	if errors.Is(err, db.ErrNotFound) {
		return nil, nil
	}
	return &v, wrap("read renewal of order "+orderID, err)
}

// begin adds the row of a self-renewing order whose first certificate is made.
func (p schedule) begin(tx *db.Tx, orderID, certificateID string, open bool) {
	tx.Queue(qInsertStar, nil, orderID, p.start, p.end, p.lifetime.Milliseconds(), p.adjust.Milliseconds(), open, certificateID, p.next(0))
	tx.Queue(qStarExpiry, nil, orderID, p.end)
}

// renewalText is the "auto-renewal" of an order as stored, nil when it has none.
func (o *Order) renewalText() (*string, error) {
	if o.AutoRenewal == nil {
		return nil, nil
	}
	b, err := json.Marshal(o.AutoRenewal)
	text := string(b)
	return &text, wrap("encode auto-renewal", err)
}

// present fills v with what a self-renewing order shows in place of a
// certificate (RFC 8739 section 3.1.1).
func (v *star) present(o *acme.Order, a *authority, id string) {
	o.Certificate, o.StarCertificate = "", a.starURL(id)
	if v.state == starCanceled {
		o.Status = acme.OrderCanceled
	}
	if v.problem != "" && v.state == starStopped {
		o.Error = new(acme.Problem)
		if json.Unmarshal([]byte(v.problem), o.Error) != nil {
			o.Error = nil // written by us alone
		}
	}
}

func (a *authority) starURL(id string) string { return a.base + "/star/" + id }

// cancel answers POST of "canceled" to an order (RFC 8739 section 3.1.2).
func (s *Server) cancel(m *message, o *Order) (*httpd.Reply, error) {
	req, err := decode[acme.OrderUpdate](m)
	if err != nil {
		return nil, err
	}
	if req.Status != acme.OrderCanceled || o.AutoRenewal == nil {
		return nil, fault.New(fault.Malformed, `of an order only the "status" can be changed, to "canceled", and only if it renews itself`)
	}
	if o.DelegationID != "" {
		return nil, fault.New(fault.Unauthorized, "only the owner of the names ends what it delegated (RFC 9115 section 2.3.6)")
	}
	invalid := fault.New(fault.AutoRenewalCancellationInvalid, "only a valid order that still renews itself can be canceled")
	err = s.db.Write(m.ctx, func(tx *db.Tx) error {
		tx.Queue(qGuard, stillValid, m.acct.ID, m.key.Thumbprint)
		tx.Queue(qCancelStar, db.ExactlyOne(invalid), o.ID, m.now)
		tx.Queue(qStarExpiry, nil, o.ID, m.now)
		return audit.Append(tx, audit.Entry{At: m.now, Kind: "order.cancel", Actor: m.actor(), Subject: "order:" + o.ID})
	})
	if err != nil {
		return nil, wrap("cancel order", err)
	}
	o.ExpiresAt = m.now
	return s.orderReply(m, o, http.StatusOK)
}

// postStar answers POST-as-GET of a rolling certificate (RFC 8739 section 3.3).
func (s *Server) postStar(m *message) (*httpd.Reply, error) {
	if err := m.postAsGet(); err != nil {
		return nil, err
	}
	o, err := s.order(m, m.PathValue("id"))
	if err != nil {
		return nil, err
	}
	v, err := s.star(m.ctx, o.ID)
	if err != nil {
		return nil, err
	}
	return s.rolling(m.Request, v, m.now)
}

// getStar answers GET of a rolling certificate, which its order may allow to
// everybody (RFC 8739 section 3.4).
func (s *Server) getStar(r *httpd.Request, a *authority) (*httpd.Reply, error) {
	id := r.PathValue("id")
	if !a.AutoRenewal.AllowGet || !db.ValidID(id) {
		return unsigned(r, a)
	}
	v, err := s.star(r.Context(), id)
	if err != nil {
		return nil, err
	}
	if v == nil || !v.open {
		return unsigned(r, a)
	}
	if o, err := GetOrder(r.Context(), s.db.Read(), id); err != nil || o.CA != a.name {
		return unsigned(r, a)
	}
	return s.rolling(r, v, time.Now())
}

// rolling answers with the newest certificate of a self-renewing order.
func (s *Server) rolling(r *httpd.Request, v *star, now time.Time) (*httpd.Reply, error) {
	switch {
	case v == nil:
		return nil, noSuch("certificate")
	case v.state == starCanceled:
		return nil, fault.New(fault.AutoRenewalCanceled, "the order was canceled; make a new one")
	case !now.Before(v.end):
		return nil, fault.New(fault.AutoRenewalExpired, "the order ended at %s; make a new one", v.end.Format(time.RFC3339))
	}
	c, err := ca.Get(r.Context(), s.db.Read(), v.certificateID)
	if err != nil {
		return nil, err
	}
	auth := s.cfg.Issuer.Authority(c.AuthorityID)
	if c.State != ca.StateIssued || auth == nil || len(auth.Chains) == 0 {
		return nil, noSuch("certificate")
	}
	if v.state == starStopped && !now.Before(c.NotAfter) {
		return nil, fault.New(fault.AutoRenewalExpired, "the order stopped renewing itself, see its error; make a new one")
	}
	r.SetHeader("Cert-Not-Before", httpDate(c.NotBefore))
	r.SetHeader("Cert-Not-After", httpDate(c.NotAfter))
	reply := httpd.Bytes(typeChain, append(pki.EncodeChain(c.DER), auth.Chains[0]...))
	reply.CacheControl = "no-cache"
	return reply, nil
}

// httpDate is the value of Cert-Not-Before and Cert-Not-After: an HTTP-date in
// double quotes (RFC 8739 section 3.3).
func httpDate(t time.Time) string { return `"` + t.UTC().Format(http.TimeFormat) + `"` }

// refuseStar refuses to revoke a certificate of a self-renewing order (RFC
// 8739 section 3.1.2): the order is to be canceled.
func (s *Server) refuseStar(ctx context.Context, c *ca.Certificate) error {
	v, err := s.star(ctx, c.OrderID)
	if err != nil || v == nil {
		return err
	}
	return fault.New(fault.AutoRenewalRevocationNotSupported, "certificates of an order that renews itself are not revoked; cancel the order")
}
