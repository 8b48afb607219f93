package server

import (
	"context"
	"encoding/json/v2"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"chancery/internal/acme"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/httpd"
	"chancery/internal/pki"
)

// Order is an ACME order.
type Order struct {
	ID            string
	AccountID     string
	CA            string
	State         acme.OrderStatus // as stored; see StateAt
	Profile       string
	ProfileHash   string           // pins the profile as it was
	Identifiers   []pki.Identifier // sorted
	AuthzIDs      []string
	AuthzPending  int // authorizations that are not valid yet
	NotBefore     time.Time
	NotAfter      time.Time
	Replaces      string // RFC 9773 identifier, or ""
	CSR           []byte // DER, once finalized
	CertificateID string // intended (processing) or issued (valid), or ""
	Error         *acme.Problem
	ExpiresAt     time.Time
	CreatedAt     time.Time
	ClaimedAt     time.Time // when finalization began; zero: not yet

	// AutoRenewal is set for an order that renews itself (RFC 8739).
	AutoRenewal *acme.AutoRenewal

	DelegationID string // that it was made under (RFC 9115), or ""
	OwnerID      string // account whose authorizations it stands on then, or ""
	Open         bool   // anybody may fetch its certificate (RFC 9115 section 2.3.5)

	stands []string // ids of the authorizations that evidence found for it

	claimToken string
	ancestors  map[pki.Identifier]pki.Identifier // of a new order: what to challenge in place of what (RFC 9444)
}

const orderColumns = `id, account_id, ca, state, profile, profile_hash, identifiers, authz_ids, authz_pending, not_before, not_after,
	replaces, csr, certificate_id, error, expires_at, created_at, claimed_at, claim_token, auto_renewal, delegation_id, owner_id, open`

var (
	qOrder = db.SQL("acme.get_order", `SELECT `+orderColumns+` FROM acme_order WHERE id = $1`)
	// What stands already, in one question: a same order that is open, and valid
	// authorizations.
	qStanding = db.SQL("acme.find_standing", `SELECT id, '' AS identifier, 0 AS wildcard, '' AS method, 0 AS expires_at, 0 AS subdomains
			FROM (SELECT id FROM acme_order WHERE account_id = $1 AND names_hash = $2 AND state IN ('pending', 'ready') AND expires_at > $3
				ORDER BY id DESC LIMIT 1) AS same
		UNION ALL SELECT id, identifier, wildcard, method, expires_at, subdomains FROM acme_authz
			WHERE account_id = $1 AND identifier = ANY($4::text[]) AND state = 'valid' AND expires_at > $5`)
	qOpen = db.SQL("acme.count_open_orders", `SELECT count(*) FROM (SELECT 1 FROM acme_order
		WHERE account_id = $1 AND state IN ('pending', 'ready') AND expires_at > $2 LIMIT $3) AS open`)
	// An order that expired is invalid (see StateAt) and must not keep its
	// certificate from being replaced by another.
	qFreeReplaces = db.SQL("acme.free_replaced", `UPDATE acme_order SET state = 'invalid'
		WHERE replaces = $1 AND replaces IS NOT NULL AND state <> 'invalid' AND state IN ('pending', 'ready') AND expires_at <= $2`)
	qInsertOrder = db.SQL("acme.insert_order", `INSERT INTO acme_order (id, account_id, ca, state, profile, profile_hash, identifiers, names_hash,
			authz_ids, authz_pending, not_before, not_after, replaces, expires_at, created_at, auto_renewal, delegation_id, owner_id, open)
		SELECT $1::text, $2::text, $3::text, $4::text, $5::text, $6::text, $7::text, $8::text, $9::text, $10::bigint, $11::bigint, $12::bigint,
			$13::text, $14::bigint, $15::bigint, $17::text, $18::text, $19::text, $20::bigint
		WHERE EXISTS (SELECT 1 FROM acme_account WHERE id = $2 AND thumbprint = $16 AND state = 'valid')`)
	qAccountOrders = db.SQL("acme.list_account_orders", `SELECT id FROM acme_order WHERE account_id = $1 AND id > $2 AND state <> 'invalid'
		ORDER BY id LIMIT $3`)
	qOrders = db.SQL("acme.list_orders", `SELECT `+orderColumns+` FROM acme_order WHERE id > $1 ORDER BY id LIMIT $2`)
)

func scanOrder(r *db.Row) (Order, error) {
	o := Order{ID: r.Text(), AccountID: r.Text(), CA: r.Text(), State: acme.OrderStatus(r.Text()), Profile: r.Text(), ProfileHash: r.Text()}
	identifiers, authz := r.Text(), r.Text()
	o.AuthzPending, o.NotBefore, o.NotAfter, o.Replaces, o.CSR, o.CertificateID = r.Int(), r.Time(), r.Time(), r.Text(), r.Bytes(), r.Text()
	problem := r.Text()
	o.ExpiresAt, o.CreatedAt, o.ClaimedAt, o.claimToken = r.Time(), r.Time(), r.Time(), r.Text()
	renewal := r.Text()
	o.DelegationID, o.OwnerID, o.Open = r.Text(), r.Text(), r.Bool()
	err := errors.Join(json.Unmarshal([]byte(identifiers), &o.Identifiers), json.Unmarshal([]byte(authz), &o.AuthzIDs))
	if problem != "" {
		o.Error = new(acme.Problem)
		err = errors.Join(err, json.Unmarshal([]byte(problem), o.Error))
	}
	if renewal != "" {
		o.AutoRenewal = new(acme.AutoRenewal)
		err = errors.Join(err, json.Unmarshal([]byte(renewal), o.AutoRenewal))
	}
	return o, wrap("read order "+o.ID, err)
}

// GetOrder returns the order with id, or a notFound fault.
func GetOrder(ctx context.Context, q db.Q, id string) (o Order, err error) {
	one := q.One(ctx, qOrder, func(r *db.Row) { o, err = scanOrder(r) }, id)
	if errors.Is(one, db.ErrNotFound) {
		return o, noSuch("order")
	}
	return o, errors.Join(one, err)
}

// ListOrders returns up to limit orders after the one with id after ("" =
// from the first), in order of creation.
func ListOrders(ctx context.Context, q db.Q, after string, limit int) ([]Order, error) {
	var list []Order
	err := q.All(ctx, qOrders, func(r *db.Row) error {
		o, err := scanOrder(r)
		list = append(list, o)
		return err
	}, after, limit)
	return list, err
}

// StateAt returns the state at an instant: an order that was not finalized
// before it expired is invalid, without anybody having written so.
func (o *Order) StateAt(now time.Time) acme.OrderStatus {
	if (o.State == acme.OrderPending || o.State == acme.OrderReady) && !now.Before(o.ExpiresAt) {
		return acme.OrderInvalid
	}
	return o.State
}

// owner is the account whose authorizations speak for the order.
func (o *Order) owner() string {
	if o.OwnerID != "" {
		return o.OwnerID
	}
	return o.AccountID
}

// reply returns the order object (RFC 8555 section 7.1.3); renewing is the row
// of an order that renews itself and is valid.
func (o *Order) reply(m *message, renewing *star, status int) *httpd.Reply {
	url := m.ca.orderURL(o.ID)
	m.SetHeader("Location", url)
	v := acme.Order{Status: o.StateAt(m.now), Expires: acme.At(o.ExpiresAt), Identifiers: o.Identifiers,
		NotBefore: acme.At(o.NotBefore), NotAfter: acme.At(o.NotAfter), Profile: o.Profile, Replaces: o.Replaces, Error: o.Error, AutoRenewal: o.AutoRenewal,
		AllowCertificateGet: o.Open, Authorizations: make([]string, len(o.AuthzIDs)), Finalize: url + "/finalize"}
	for i, id := range o.AuthzIDs {
		v.Authorizations[i] = m.ca.authzURL(id)
	}
	if o.DelegationID != "" {
		v.Delegation = m.ca.delegationURL(o.DelegationID)
	}
	if v.Status == acme.OrderValid {
		v.Certificate = m.ca.certURL(o.CertificateID)
	}
	if renewing != nil {
		renewing.present(&v, m.ca, o.ID)
	}
	r := object(m.Request, status, &v)
	if v.Status == acme.OrderProcessing {
		r.RetryAfter = time.Second
	}
	return r
}

// order returns an order of the signer.
func (s *Server) order(m *message, id string) (Order, error) {
	if !db.ValidID(id) {
		return Order{}, noSuch("order")
	}
	o, ok := s.recent.getOrder(m.acct.ID, id, m.now)
	if !ok {
		var err error
		if o, err = GetOrder(m.ctx, s.db.Read(), id); err != nil {
			return o, err
		}
	}
	return o, m.mine("order", o.AccountID, o.CA)
}

// postOrder answers POST to an order: read, or cancel one that renews itself.
func (s *Server) postOrder(m *message) (*httpd.Reply, error) {
	o, err := s.order(m, m.PathValue("id"))
	if err != nil {
		return nil, err
	}
	if !m.jws.PostAsGet() {
		return s.cancel(m, &o)
	}
	return s.orderReply(m, &o, http.StatusOK)
}

// orderPage is how many orders, or delegations, one page of an account's list
// holds.
const orderPage = 100

// pageOf returns the ids on a page of a list of the account in the path, which
// must be the signer's, and links to the next page.
func (s *Server) pageOf(m *message, what string, list *db.Stmt) ([]string, error) {
	if m.PathValue("id") != m.acct.ID {
		return nil, fault.New(fault.Unauthorized, "these are the %s of another account", what)
	}
	cursor := m.URL.Query().Get("cursor")
	if cursor != "" && !db.ValidID(cursor) {
		return nil, fault.New(fault.Malformed, "the cursor is not one that this server made")
	}
	ids, err := db.List(m.ctx, s.db.Read(), list, (*db.Row).Text, m.acct.ID, cursor, orderPage+1)
	if err != nil {
		return nil, wrap("list "+what, err)
	}
	if len(ids) > orderPage {
		ids = ids[:orderPage]
		m.link(m.ca.accountURL(m.acct.ID)+"/"+what+"?cursor="+ids[orderPage-1], "next")
	}
	return ids, nil
}

// listOrders answers POST-as-GET of an account's orders, oldest first (RFC
// 8555 section 7.1.2.1). Invalid ones are left out.
func (s *Server) listOrders(m *message) (*httpd.Reply, error) {
	if err := m.postAsGet(); err != nil {
		return nil, err
	}
	ids, err := s.pageOf(m, "orders", qAccountOrders)
	if err != nil {
		return nil, err
	}
	page := acme.OrderList{Orders: make([]string, len(ids))}
	for i, id := range ids {
		page.Orders[i] = m.ca.orderURL(id)
	}
	body, err := json.Marshal(&page)
	return &httpd.Reply{ContentType: "application/json", Body: body}, wrap("encode orders", err)
}

// newOrder answers new-order (RFC 8555 section 7.4).
func (s *Server) newOrder(m *message) (reply *httpd.Reply, err error) {
	span := m.step("acme.new_order")
	defer func() { measure(s.ops.newOrder, m.now, err); span.End(err) }()
	req, err := decode[acme.NewOrder](m)
	if err != nil {
		return nil, err
	}
	o, profile, err := s.planOrder(m, &req)
	if err != nil {
		return nil, err
	}
	hash := o.requestHash()
	same, valid, err := s.standing(m, o, hash, profile)
	if err != nil {
		return nil, err
	}
	if same != "" {
		if o, err := GetOrder(m.ctx, s.db.Read(), same); err == nil && o.StateAt(m.now) != acme.OrderInvalid {
			return s.orderReply(m, &o, http.StatusCreated)
		}
	}
	if err := s.openOrders(m, o); err != nil {
		return nil, err
	}
	if o.Replaces == "" {
		if err := s.limits.newOrder(m.acct.ID, o.Identifiers, m.now); err != nil {
			return nil, err
		}
	}
	var fresh []Authorization
	if o.DelegationID == "" {
		fresh = s.attach(m, o, profile, valid)
	}
	if err := s.mayMail(fresh, m.now); err != nil {
		return nil, err
	}
	if err := s.storeOrder(m, o, hash, fresh); err != nil {
		return nil, err
	}
	fault.Point("acme.after_new_order")
	return s.orderReply(m, o, http.StatusCreated)
}

// standing returns the id of an open order that is the same as this one, or
// "", and the valid authorizations that a new one can use.
func (s *Server) standing(m *message, o *Order, hash string, p *Profile) (same string, valid held, err error) {
	texts := m.ca.authorizedBy(o.Identifiers)
	if s.known.none(m.ctx, s.db.Read(), m.acct.ID, texts) {
		return "", valid, nil
	}
	err = s.db.Read().All(m.ctx, qStanding, func(r *db.Row) error {
		z := scanReusable(r)
		if z.Method == "" {
			same = z.ID
			return nil
		}
		valid.add(m.ca, p, z)
		return nil
	}, &m.acct.ID, hash, &m.now, texts, o.need(m.now))
	return same, valid, wrap("find what stands for an order", err)
}

// need is until when an authorization must be valid to serve a new order.
func (o *Order) need(now time.Time) time.Time {
	if o.AutoRenewal != nil { // what renews itself must be authorized to its end
		return o.AutoRenewal.EndDate.Time
	}
	return now.Add(reuseMargin)
}

// openOrders refuses when too many orders of the account are open, unless this
// one replaces a certificate.
func (s *Server) openOrders(m *message, o *Order) error {
	most := s.limits.PendingOrders
	if most <= 0 || s.open.add(m.acct.ID, most) || o.Replaces != "" {
		return nil
	}
	n, err := db.Get(m.ctx, s.db.Read(), qOpen, (*db.Row).Int, m.acct.ID, m.now, most)
	if err != nil {
		return wrap("count open orders", err)
	}
	if n >= most {
		return ofAccount{fault.New(fault.RateLimited, "%d orders of this account are open, which is the most; finalize some, or let them expire", n).
			Retry(time.Minute)}
	}
	s.open.set(m.acct.ID, n+1)
	return nil
}

// openBounds keeps an upper bound of the open orders of each account: what the
// database said last, plus what this process has made since. While it is below
// the limit nothing needs to be counted. Like the other limits it is kept by
// each replica for itself.
type openBounds struct {
	mu sync.Mutex
	by map[string]int
}

// maxBounds is how many accounts are remembered; forgetting one costs a count.
const maxBounds = 1 << 16

// add counts one more order, unless the bound is unknown or would exceed most.
func (b *openBounds) add(account string, most int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, known := b.by[account]
	if !known || n >= most {
		return false
	}
	b.by[account] = n + 1
	return true
}

func (b *openBounds) set(account string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.by == nil || len(b.by) >= maxBounds {
		b.by = make(map[string]int)
	}
	b.by[account] = n
}

// attach gives the order a valid authorization for each identifier that has
// one, and new ones, which it returns, for the others.
func (s *Server) attach(m *message, o *Order, profile *Profile, valid held) []Authorization {
	var fresh []Authorization
	made := map[pki.Identifier]bool{}
	for _, id := range o.Identifiers {
		if have, ok := valid.find(id); ok {
			o.count(have)
			continue
		}
		target, below := id, false
		if up, ok := o.ancestors[id]; ok {
			target, below = up, true
		} else if o.challenges(id) {
			below = true // one of the other names has it challenged for both
		}
		if made[target] {
			continue
		}
		z := s.fresh(m, profile, target, below, m.now.Add(s.cfg.PendingLifetime))
		if below && !z.Subdomains { // the profile has no method for it
			z = s.fresh(m, profile, id, false, z.ExpiresAt)
		}
		z.OrderID, made[z.Identifier] = o.ID, true
		fresh = append(fresh, z)
		o.AuthzIDs = append(o.AuthzIDs, z.ID)
	}
	s.justInTime(m, fresh, o.need(m.now))
	o.State = acme.OrderReady
	for i := range fresh {
		if fresh[i].State == acme.AuthorizationPending {
			o.State, o.AuthzPending = acme.OrderPending, o.AuthzPending+1
		}
		if end := fresh[i].ExpiresAt; end.Before(o.ExpiresAt) {
			o.ExpiresAt = end
		}
	}
	return fresh
}

// count adds a valid authorization to a new order, once.
func (o *Order) count(z Authorization) {
	if slices.Contains(o.AuthzIDs, z.ID) {
		return
	}
	o.AuthzIDs = append(o.AuthzIDs, z.ID)
	if z.ExpiresAt.Before(o.ExpiresAt) {
		o.ExpiresAt = z.ExpiresAt
	}
}

// challenges reports whether id is challenged in place of another name.
func (o *Order) challenges(id pki.Identifier) bool {
	for _, up := range o.ancestors {
		if up == id {
			return true
		}
	}
	return false
}

// storeOrder writes the order and its new authorizations in one transaction.
func (s *Server) storeOrder(m *message, o *Order, hash string, fresh []Authorization) error {
	row := &struct{ identifiers, authzIDs, hash string }{hash: hash}
	row.identifiers, row.authzIDs = string(appendIdentifiers(make([]byte, 0, 256), o.Identifiers)), encodeIDs(o.AuthzIDs)
	renewal, err := o.renewalText()
	if err != nil {
		return err
	}
	s.recent.add(o, fresh, m.now)
	for _, id := range o.Identifiers {
		s.known.add(o.AccountID, id.Base().String())
	}
	err = s.db.Write(m.ctx, func(tx *db.Tx) error {
		if err := m.acct.policy.spend(m.ctx, tx, m); err != nil {
			return err
		}
		if o.Replaces != "" {
			tx.Queue(qFreeReplaces, nil, o.Replaces, m.now)
		}
		tx.Queue(qInsertOrder, stillValid, &o.ID, &o.AccountID, &o.CA, (*string)(&o.State), &o.Profile,
			&o.ProfileHash, &row.identifiers, &row.hash, &row.authzIDs, o.AuthzPending, &o.NotBefore, &o.NotAfter, null(&o.Replaces), &o.ExpiresAt, &o.CreatedAt,
			&m.key.Thumbprint, renewal, null(&o.DelegationID), null(&o.OwnerID), o.Open)
		for i := range fresh {
			fresh[i].insert(tx)
			if err := fresh[i].noteProved(tx, m.actor(), m.now); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.recent.drop(o.AccountID, o.ID)
	}
	if errors.Is(err, db.ErrConflict) && o.Replaces != "" {
		return fault.New(fault.AlreadyReplaced, "the certificate is being replaced, or was replaced, by another order")
	}
	return wrap("store order", err)
}

// encodeIDs returns ids of ours as JSON; they need no escapes.
func encodeIDs(ids []string) string {
	if len(ids) == 0 {
		return "[]"
	}
	return `["` + strings.Join(ids, `","`) + `"]`
}

// appendIdentifiers appends ids as JSON; their values need no escapes.
func appendIdentifiers(dst []byte, ids []pki.Identifier) []byte {
	dst = append(dst, '[')
	for i, id := range ids {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"type":`...)
		dst = strconv.AppendQuote(dst, string(id.Type))
		dst = append(dst, `,"value":`...)
		dst = append(strconv.AppendQuote(dst, id.Value), '}')
	}
	return append(dst, ']')
}
