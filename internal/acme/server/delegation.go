package server

import (
	"context"
	"encoding/json/v2"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"chancery/internal/acme"
	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/httpd"
	"chancery/internal/pki"
)

// Delegation lets one account order certificates for names that another one
// has authorized (RFC 9115): the operator, on behalf of the owner of the names,
// makes it for an account that it trusts with a key of its own.
type Delegation struct {
	ID        string
	CA        string
	AccountID string // that may order
	OwnerID   string // account whose authorizations count
	Profile   string // that its orders have
	Template  string // CSR template, JSON
	CNAMEs    map[string]string
	CreatedAt time.Time
	EndedAt   time.Time // zero: it holds

	template *acme.Template
}

const delegationColumns = `id, ca, account_id, owner_id, profile, csr_template, cname_map, created_at, ended_at`

var (
	qDelegation       = db.SQL("acme.get_delegation", `SELECT `+delegationColumns+` FROM acme_delegation WHERE id = $1`)
	qInsertDelegation = db.SQL("acme.insert_delegation", `INSERT INTO acme_delegation (`+delegationColumns+`)
		SELECT $1::text, $2::text, $3::text, $4::text, $5::text, $6::text, $7::text, $8::bigint, NULL
		WHERE (SELECT count(*) FROM acme_account WHERE id IN ($3, $4) AND ca = $2 AND state = 'valid') = 2`)
	qAccountDelegations = db.SQL("acme.list_account_delegations", `SELECT id FROM acme_delegation
		WHERE account_id = $1 AND id > $2 AND ended_at IS NULL ORDER BY id LIMIT $3`)
	qDelegations   = db.SQL("acme.list_delegations", `SELECT `+delegationColumns+` FROM acme_delegation WHERE id > $1 ORDER BY id LIMIT $2`)
	qEndDelegation = db.SQL("acme.end_delegation", `UPDATE acme_delegation SET ended_at = $2 WHERE id = $1 AND ended_at IS NULL`)
	qDropDelegated = db.SQL("acme.invalidate_delegated_orders", `UPDATE acme_order SET state = 'invalid', error = $2
		WHERE delegation_id = $1 AND state IN ('pending', 'ready')`)
	qCancelDelegated = db.SQL("acme.cancel_delegated_star", `UPDATE acme_star SET state = 'canceled', next_at = NULL
		WHERE order_id IN (SELECT id FROM acme_order WHERE delegation_id = $1) AND state = 'active'`)
	qOpenUntil = db.SQL("acme.keep_open_order", `UPDATE acme_order SET expires_at = (SELECT not_after FROM certificate WHERE id = $2) WHERE id = $1`)
)

func scanDelegation(r *db.Row) (Delegation, error) {
	d := Delegation{ID: r.Text(), CA: r.Text(), AccountID: r.Text(), OwnerID: r.Text(), Profile: r.Text(), Template: r.Text()}
	names := r.Text()
	d.CreatedAt, d.EndedAt = r.Time(), r.Time()
	var err error
	if names != "" {
		err = decodeText(names, &d.CNAMEs)
	}
	var bad error
	d.template, bad = acme.ParseTemplate([]byte(d.Template))
	return d, wrap("read delegation "+d.ID, errors.Join(err, bad))
}

// GetDelegation returns the delegation with id, or a notFound fault.
func GetDelegation(ctx context.Context, q db.Q, id string) (d Delegation, err error) {
	one := q.One(ctx, qDelegation, func(r *db.Row) { d, err = scanDelegation(r) }, id)
	if errors.Is(one, db.ErrNotFound) {
		return d, noSuch("delegation")
	}
	return d, errors.Join(one, err)
}

// ListDelegations returns up to limit delegations after the one with id after
// ("" = from the first), in order of creation, also those that ended.
func ListDelegations(ctx context.Context, q db.Q, after string, limit int) ([]Delegation, error) {
	var list []Delegation
	err := q.All(ctx, qDelegations, func(r *db.Row) error {
		d, err := scanDelegation(r)
		list = append(list, d)
		return err
	}, after, limit)
	return list, err
}

// CreateDelegation makes a delegation from CA, AccountID, OwnerID, Profile
// ("": the CA's default), Template and CNAMEs of d. actor is for the journal.
func (s *Server) CreateDelegation(ctx context.Context, d Delegation, actor string) (Delegation, error) {
	now := time.Now()
	d.ID, d.CreatedAt, d.EndedAt = db.NewID(now), stored(now), time.Time{}
	profile, err := s.delegable(&d)
	if err != nil {
		return d, err
	}
	d.Profile = profile.Name
	var names *string
	if len(d.CNAMEs) > 0 {
		b, err := json.Marshal(d.CNAMEs, json.Deterministic(true))
		if err != nil {
			return d, wrap("encode CNAME map", err)
		}
		names = new(string(b))
	}
	missing := fault.New(fault.Invalid, "the account and the owner must be two valid accounts of CA %s", d.CA)
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qInsertDelegation, db.ExactlyOne(missing), d.ID, d.CA, d.AccountID, d.OwnerID, d.Profile, d.Template, names, d.CreatedAt)
		return audit.Append(tx, audit.Entry{At: now, Kind: "delegation.create", Actor: actor, Subject: "delegation:" + d.ID,
			Data: map[string]string{"account": d.AccountID, "owner": d.OwnerID, "profile": d.Profile}})
	})
	return d, wrap("store delegation", err)
}

// delegable checks what the operator wants to delegate, and returns its profile.
func (s *Server) delegable(d *Delegation) (*Profile, error) {
	a := s.cas[d.CA]
	if a == nil {
		return nil, noSuch("certificate authority")
	}
	if !a.Delegation {
		return nil, fault.New(fault.Invalid, "CA %s does not delegate; set ca.%s.delegation", d.CA, d.CA)
	}
	profile, err := a.profile(d.Profile)
	if err != nil {
		return nil, err
	}
	if d.template, err = acme.ParseTemplate([]byte(d.Template)); err != nil {
		return nil, err
	}
	if err := d.template.CheckCNAMEs(d.CNAMEs); err != nil {
		return nil, err
	}
	return profile, d.template.Permits(profile.KeyUsage, profile.ExtKeyUsage)
}

// EndDelegation terminates a delegation (RFC 9115 section 2.3.6): nothing more
// is issued under it, and orders that renew themselves are canceled. Other
// certificates stay until somebody revokes them.
func (s *Server) EndDelegation(ctx context.Context, id, actor string) error {
	d, err := GetDelegation(ctx, s.db.Read(), id)
	if err != nil {
		return err
	}
	now := time.Now()
	why := problemText(fault.New(fault.Unauthorized, "the delegation was terminated"))
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qEndDelegation, db.ExactlyOne(noSuch("delegation that has not ended")), d.ID, now)
		tx.Queue(qDropDelegated, nil, d.ID, why)
		tx.Queue(qCancelDelegated, nil, d.ID)
		return audit.Append(tx, audit.Entry{At: now, Kind: "delegation.end", Actor: actor, Subject: "delegation:" + d.ID})
	})
	return wrap("end delegation", err)
}

func (a *authority) delegationURL(id string) string { return a.base + "/delegation/" + id }

// listDelegations answers POST-as-GET of an account's delegations (RFC 9115
// section 2.3.1.2).
func (s *Server) listDelegations(m *message) (*httpd.Reply, error) {
	if err := m.postAsGet(); err != nil {
		return nil, err
	}
	if !m.ca.Delegation {
		return nil, noSuch("list of delegations")
	}
	ids, err := s.pageOf(m, "delegations", qAccountDelegations)
	if err != nil {
		return nil, err
	}
	page := acme.DelegationList{Delegations: make([]string, len(ids))}
	for i, id := range ids {
		page.Delegations[i] = m.ca.delegationURL(id)
	}
	body, err := json.Marshal(&page)
	return &httpd.Reply{ContentType: "application/json", Body: body}, wrap("encode delegations", err)
}

// getDelegation answers POST-as-GET of a delegation (RFC 9115 section 2.3.1.3).
func (s *Server) getDelegation(m *message) (*httpd.Reply, error) {
	if err := m.postAsGet(); err != nil {
		return nil, err
	}
	d, err := s.delegation(m, m.ca.delegationURL(m.PathValue("id")))
	if fault.Is(err, fault.UnknownDelegation) {
		return nil, noSuch("delegation")
	}
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(&acme.Delegation{CSRTemplate: []byte(d.Template), CNAMEMap: d.CNAMEs}, json.Deterministic(true))
	return &httpd.Reply{ContentType: "application/json", Body: body}, wrap("encode delegation", err)
}

// delegation returns the delegation at url if the signer may use it. Everything
// else is unknown to it (RFC 9115 section 2.3.1.3).
func (s *Server) delegation(m *message, url string) (Delegation, error) {
	unknown := fault.New(fault.UnknownDelegation, "this account has no such delegation; its account object leads to those it has")
	id, ok := strings.CutPrefix(url, m.ca.delegationURL(""))
	if !ok || !m.ca.Delegation || !db.ValidID(id) {
		return Delegation{}, unknown
	}
	d, err := GetDelegation(m.ctx, s.db.Read(), id)
	if fault.Is(err, fault.NotFound) || err == nil && (d.AccountID != m.acct.ID || d.CA != m.ca.name || !d.EndedAt.IsZero()) {
		return Delegation{}, unknown
	}
	return d, err
}

// delegate applies the delegation that an order names: its profile, its
// template, and what RFC 9115 sections 2.3.2 and 2.3.3 want of the request.
func (s *Server) delegate(m *message, req *acme.NewOrder) (d Delegation, err error) {
	if !m.ca.Delegation {
		return d, fault.New(fault.Malformed, "this server does not offer delegation (RFC 9115); see the directory's meta")
	}
	if d, err = s.delegation(m, req.Delegation); err != nil {
		return d, err
	}
	open := req.AllowCertificateGet
	if req.AutoRenewal != nil {
		open = req.AutoRenewal.AllowCertificateGet
	}
	switch {
	case !open:
		return d, fault.New(fault.Malformed, "an order under a delegation must set allow-certificate-get")
	case req.Profile != "" && req.Profile != d.Profile:
		return d, fault.New(fault.InvalidProfile, "orders under this delegation have the profile %s", d.Profile)
	}
	req.Profile = d.Profile
	return d, nil
}

// under binds a new order to a delegation: its names are those of the template,
// which the owner has authorized. So it is ready at once, without
// authorizations of its own.
func (s *Server) under(m *message, o *Order, d *Delegation, p *Profile) error {
	if err := d.template.CheckNames(o.Identifiers); err != nil {
		return err
	}
	if err := d.template.Permits(p.KeyUsage, p.ExtKeyUsage); err != nil {
		return fault.Wrap(err, fault.ServerInternal, "the profile %s does not fit the delegation any more; the operator must mend it", p.Name)
	}
	o.DelegationID, o.OwnerID = d.ID, d.OwnerID
	have, err := s.reusable(m.ctx, m.ca, d.OwnerID, o.Identifiers, p, o.need(m.now))
	if err != nil {
		return err
	}
	var bad []fault.Sub
	for _, id := range o.Identifiers {
		z, ok := have.find(id)
		if !ok {
			bad = append(bad, fault.Sub{Code: fault.Unauthorized, Detail: "the owner of " + id.Value + " has not authorized it, or not for that long",
				IdentifierType: string(id.Type), IdentifierValue: id.Value})
			continue
		}
		if z.ExpiresAt.Before(o.ExpiresAt) {
			o.ExpiresAt = z.ExpiresAt
		}
	}
	if len(bad) > 0 {
		return refusal(bad)
	}
	o.State = acme.OrderReady
	return nil
}

// ofOwner returns the valid authorizations that a delegated order stands on.
func (s *Server) ofOwner(ctx context.Context, a *authority, o *Order, now time.Time) ([]string, error) {
	p := a.profiles[o.Profile]
	if p == nil {
		return nil, fault.New(fault.InvalidProfile, "the profile %s is not offered any more", o.Profile)
	}
	have, err := s.reusable(ctx, a, o.OwnerID, o.Identifiers, p, now)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, id := range o.Identifiers {
		if z, ok := have.find(id); ok && !slices.Contains(ids, z.ID) {
			ids = append(ids, z.ID)
		}
	}
	return ids, nil
}

// fits holds the request of a delegated order against the delegation's
// template. A request that does not fit ends the order (RFC 9115 section 2.2).
func (s *Server) fits(ctx context.Context, o *Order, csr *pki.CSR) error {
	if o.DelegationID == "" {
		return nil
	}
	d, err := GetDelegation(ctx, s.db.Read(), o.DelegationID)
	if err != nil {
		return err
	}
	if err := d.template.Check(csr); err != nil {
		f := fault.As(err)
		f.HTTPStatus = http.StatusForbidden
		return &unusable{err: f}
	}
	return nil
}
