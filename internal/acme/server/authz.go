package server

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/acme/perspective"
	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/httpd"
	"chancery/internal/pki"
)

// Authorization is the right of an account to one identifier.
type Authorization struct {
	ID         string
	AccountID  string
	CA         string
	OrderID    string                   // of the order it was made for, or ""
	Identifier pki.Identifier           // with "*." for a wildcard
	Subdomains bool                     // it covers what is below the identifier too (RFC 9444)
	State      acme.AuthorizationStatus // as stored; see StateAt
	Challenges []Challenge
	Method     challenge.Type // that proved it, or ""
	Proof      []byte         // sealed
	CAA        []byte         // sealed clearance of the last CAA check
	Validated  time.Time
	ExpiresAt  time.Time
	CreatedAt  time.Time

	part1, mailDomain string // of a new one with email-reply-00: what is mailed, and from where

	record *perspective.Record // what remote perspectives said, of one proved when it was made
}

// Challenge is one way to prove an authorization, as stored.
type Challenge struct {
	Type      challenge.Type       `json:"type"`
	Token     string               `json:"token"` // base64url, 128 random bits; "" for dns-persist-01
	State     acme.ChallengeStatus `json:"status"`
	Validated time.Time            `json:"validated,omitzero"`
	Error     *acme.Problem        `json:"error,omitempty"`
}

const authzColumns = `id, account_id, ca, order_id, identifier, wildcard, state, challenges, method, proof, caa, validated_at, expires_at, created_at, subdomains`

var (
	qAuthz       = db.SQL("acme.get_authorization", `SELECT `+authzColumns+` FROM acme_authz WHERE id = $1`)
	qAuthzs      = db.SQL("acme.list_authorizations", `SELECT `+authzColumns+` FROM acme_authz WHERE id = ANY($1::text[])`)
	qInsertAuthz = db.SQL("acme.insert_authorization", `INSERT INTO acme_authz (`+authzColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`)
	qReusable = db.SQL("acme.find_valid_authorizations", `SELECT id, identifier, wildcard, method, expires_at, subdomains FROM acme_authz
		WHERE account_id = $1 AND identifier = ANY($2::text[]) AND state = 'valid' AND expires_at > $3`)
	qEndAuthz = db.SQL("acme.deactivate_authorization", `UPDATE acme_authz SET state = $2 WHERE id = $1 AND state IN ('pending', 'valid')`)
	// The pattern is an identifier of ours between two quotes.
	qEndOrders = db.SQL("acme.invalidate_orders_of_authorization", `UPDATE acme_order SET state = 'invalid', error = $3
		WHERE account_id = $1 AND state IN ('pending', 'ready') AND authz_ids LIKE $2`)
	qGuard = db.SQL("acme.guard_account", `UPDATE acme_account SET state = 'valid' WHERE id = $1 AND thumbprint = $2 AND state = 'valid'`)
)

func scanAuthz(r *db.Row) (Authorization, error) {
	z := Authorization{ID: r.Text(), AccountID: r.Text(), CA: r.Text(), OrderID: r.Text()}
	z.Identifier = identifierOf(r.Text(), r.Bool())
	z.State = acme.AuthorizationStatus(r.Text())
	challenges := r.Text()
	z.Method, z.Proof, z.CAA = challenge.Type(r.Text()), r.Bytes(), r.Bytes()
	z.Validated, z.ExpiresAt, z.CreatedAt = r.Time(), r.Time(), r.Time()
	z.Subdomains = r.Bool()
	return z, wrap("read authorization "+z.ID, decodeText(challenges, &z.Challenges))
}

// identifierOf reads the two columns of an identifier: "type:value" without
// "*.", and whether it stands for the wildcard.
func identifierOf(text string, wildcard bool) pki.Identifier {
	typ, value, _ := strings.Cut(text, ":")
	if wildcard {
		value = "*." + value
	}
	return pki.Identifier{Type: pki.IdentifierType(typ), Value: value}
}

// offers returns the challenge types of a profile that may prove id.
func (s *Server) offers(p *Profile, id pki.Identifier) []challenge.Type {
	out := make([]challenge.Type, 0, len(p.Challenges))
	for _, t := range p.Challenges {
		if s.cfg.Validators.Supports(t, id) {
			out = append(out, t)
		}
	}
	return out
}

// newAuthorization returns a pending authorization of the signer.
func newAuthorization(m *message, id pki.Identifier, types []challenge.Type, expires time.Time) Authorization {
	z := Authorization{ID: db.NewID(m.now), AccountID: m.acct.ID, CA: m.ca.name, Identifier: id, State: acme.AuthorizationPending,
		ExpiresAt: expires, CreatedAt: m.now, Challenges: make([]Challenge, len(types))}
	for i, t := range types {
		z.Challenges[i] = Challenge{Type: t, State: acme.ChallengePending}
		if t != challenge.DNSPersist01 { // its record is about the account, not about one challenge
			z.Challenges[i].Token = newToken()
		}
		if t == challenge.EmailReply00 {
			z.part1, z.mailDomain = newPart1(), domainOf(m.ca.mailbox)
		}
	}
	return z
}

// newToken returns 128 random bits in base64url (RFC 8555 section 8.1).
func newToken() string {
	var b [16]byte
	rand.Read(b[:]) // never fails; see crypto/rand
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// insert adds z to tx.
func (z *Authorization) insert(tx *db.Tx) {
	row := &struct{ identifier, challenges string }{z.Identifier.Base().String(), encodeChallenges(z.Challenges)}
	tx.Queue(qInsertAuthz, nil, &z.ID, &z.AccountID, &z.CA, null(&z.OrderID), &row.identifier, z.Identifier.Wildcard(),
		(*string)(&z.State), &row.challenges, null((*string)(&z.Method)), &z.Proof, &z.CAA, &z.Validated, &z.ExpiresAt, &z.CreatedAt, z.Subdomains)
	z.announce(tx)
}

// buffers are for the text of challenges.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// encodeChallenges returns what encoding/json would write for the list.
func encodeChallenges(list []Challenge) string {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	b := append((*buf)[:0], '[')
	for i := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = list[i].appendStored(b)
	}
	*buf = append(b, ']')
	return string(*buf)
}

// appendStored appends c as it is stored. Types, tokens and states need no
// escapes.
func (c *Challenge) appendStored(b []byte) []byte {
	b = append(append(b, `{"type":"`...), c.Type...)
	b = append(append(b, `","token":"`...), c.Token...)
	b = append(append(b, `","status":"`...), c.State...)
	b = append(b, '"')
	if !c.Validated.IsZero() {
		b = append(c.Validated.AppendFormat(append(b, `,"validated":"`...), time.RFC3339Nano), '"')
	}
	if c.Error != nil {
		b = c.Error.AppendJSON(append(b, `,"error":`...))
	}
	return append(b, '}')
}

// StateAt returns the state at an instant: what was not used before it expired
// has expired, without anybody having written so.
func (z *Authorization) StateAt(now time.Time) acme.AuthorizationStatus {
	if (z.State == acme.AuthorizationPending || z.State == acme.AuthorizationValid) && !now.Before(z.ExpiresAt) {
		return acme.AuthorizationExpired
	}
	return z.State
}

// reuseMargin is how long an authorization must still be valid to be used for
// a new order, so that the order does not expire at once.
const reuseMargin = 10 * time.Minute

// reusable returns the valid authorizations of an account for ids, and for
// domains above them if those count here, that were proved by a method that
// the profile allows and that count beyond need.
func (s *Server) reusable(ctx context.Context, a *authority, account string, ids []pki.Identifier, p *Profile, need time.Time) (held, error) {
	var have held
	err := s.db.Read().All(ctx, qReusable, func(r *db.Row) error {
		have.add(a, p, scanReusable(r))
		return nil
	}, account, a.authorizedBy(ids), need)
	return have, wrap("find valid authorizations", err)
}

// scanReusable reads what must be known of an authorization to use it again.
func scanReusable(r *db.Row) Authorization {
	z := Authorization{ID: r.Text(), Identifier: identifierOf(r.Text(), r.Bool()), Method: challenge.Type(r.Text()), ExpiresAt: r.Time()}
	z.Subdomains = r.Bool()
	return z
}

// authorizedBy returns what authorizations for ids may be about, as stored.
func (a *authority) authorizedBy(ids []pki.Identifier) []string {
	texts := make([]string, 0, len(ids))
	for _, id := range ids {
		texts = append(texts, id.Base().String())
		if a.Subdomains {
			for _, parent := range parents(id) {
				texts = append(texts, parent.String())
			}
		}
	}
	return texts
}

// add keeps z if it was proved by a method that the profile allows.
func (h *held) add(a *authority, p *Profile, z Authorization) {
	if !slices.Contains(p.Challenges, z.Method) || z.Method == challenge.DeviceAttest01 {
		return // an attestation speaks for one key, and the next request has another
	}
	if h.exact == nil {
		h.exact, h.above = map[pki.Identifier]Authorization{}, map[pki.Identifier]Authorization{}
	}
	keepLonger(h.exact, z)
	if z.Subdomains && a.Subdomains {
		keepLonger(h.above, z)
	}
}

// authz returns an authorization of the signer.
func (s *Server) authz(m *message, id string) (z Authorization, err error) {
	if !db.ValidID(id) {
		return z, noSuch("authorization")
	}
	if z, ok := s.recent.getAuthz(m.acct.ID, id, m.now); ok {
		return z, m.mine("authorization", z.AccountID, z.CA)
	}
	one := s.db.Read().One(m.ctx, qAuthz, func(r *db.Row) { z, err = scanAuthz(r) }, id)
	if errors.Is(one, db.ErrNotFound) {
		return z, noSuch("authorization")
	}
	if err := errors.Join(one, err); err != nil {
		return z, wrap("read authorization", err)
	}
	return z, m.mine("authorization", z.AccountID, z.CA)
}

// object returns the authorization object (RFC 8555 section 7.1.4). running is
// the type of the challenge that is being validated right now, or "".
func (z *Authorization) object(a *authority, now time.Time, running challenge.Type) *acme.Authorization {
	o := &acme.Authorization{Identifier: z.Identifier.Base(), Status: z.StateAt(now), Expires: acme.At(z.ExpiresAt),
		Wildcard: z.Identifier.Wildcard(), SubdomainAuthAllowed: z.Subdomains, Challenges: make([]acme.Challenge, 0, len(z.Challenges))}
	for i := range z.Challenges {
		c := z.Challenges[i].object(a, z, running)
		if z.State.Final() && c.Status == acme.ChallengePending || z.State == acme.AuthorizationValid && c.Status != acme.ChallengeValid {
			continue // RFC 8555 section 7.1.4: only what was tried
		}
		o.Challenges = append(o.Challenges, c)
	}
	return o
}

// object returns the challenge object (RFC 8555 section 7.1.5).
func (c *Challenge) object(a *authority, z *Authorization, running challenge.Type) acme.Challenge {
	o := acme.Challenge{Type: string(c.Type), URL: a.challengeURL(z.ID, c.Type), Status: c.State, Token: c.Token, Error: c.Error}
	if !c.Validated.IsZero() {
		o.Validated = acme.At(c.Validated)
	}
	if c.State == acme.ChallengePending && running == c.Type {
		o.Status = acme.ChallengeProcessing
	}
	if c.Type == challenge.DNSPersist01 {
		a.present(&o, z.AccountID)
	}
	if c.Type == challenge.TKAuth01 {
		a.presentToken(&o)
	}
	if c.Type == challenge.EmailReply00 {
		o.From = a.mailbox
	}
	return o
}

// postAuthz answers POST to an authorization: read, or deactivate (RFC 8555
// section 7.5.2).
func (s *Server) postAuthz(m *message) (*httpd.Reply, error) {
	z, err := s.authz(m, m.PathValue("id"))
	if err != nil {
		return nil, err
	}
	if !m.jws.PostAsGet() {
		if err := s.endAuthz(m, &z); err != nil {
			return nil, err
		}
	}
	running := s.running(&z)
	r := object(m.Request, http.StatusOK, z.object(m.ca, m.now, running))
	if running != "" {
		r.RetryAfter = time.Second
	}
	return r, nil
}

func (s *Server) endAuthz(m *message, z *Authorization) error {
	req, err := decode[acme.AuthorizationUpdate](m)
	if err != nil {
		return err
	}
	if req.Status != acme.AuthorizationDeactivated {
		return fault.New(fault.Malformed, `an authorization's "status" can only be changed to "deactivated"`)
	}
	if !z.StateAt(m.now).CanBecome(acme.AuthorizationDeactivated) {
		return fault.New(fault.Malformed, "the authorization is %s already", z.StateAt(m.now))
	}
	err = s.db.Write(m.ctx, func(tx *db.Tx) error {
		tx.Queue(qGuard, stillValid, m.acct.ID, m.key.Thumbprint)
		s.endQueued(tx, z, acme.AuthorizationDeactivated, m.actor(), m.now)
		return audit.Append(tx, audit.Entry{At: m.now, Kind: "authorization.deactivate", Actor: m.actor(), Subject: "authorization:" + z.ID,
			Data: map[string]string{"identifier": z.Identifier.Value}})
	})
	s.recent.dropAll(z.AccountID)
	if err == nil {
		z.State = acme.AuthorizationDeactivated
	}
	return wrap("deactivate authorization", err)
}

// endQueued ends an authorization and the open orders that count on it.
func (s *Server) endQueued(tx *db.Tx, z *Authorization, state acme.AuthorizationStatus, actor string, now time.Time) {
	gone := fault.New(fault.Conflict, "the authorization was changed at the same time")
	tx.Queue(qEndAuthz, db.ExactlyOne(gone), z.ID, state)
	why := fault.New(fault.Unauthorized, "the authorization of %s is %s", z.Identifier.Value, state)
	tx.Queue(qEndOrders, nil, z.AccountID, `%"`+z.ID+`"%`, problemText(why))
}

// newAuthz answers new-authz: authorization before any order (RFC 8555 section
// 7.4.1).
func (s *Server) newAuthz(m *message) (reply *httpd.Reply, err error) {
	span := m.step("acme.new_authz")
	defer func() { measure(s.ops.newAuthz, m.now, err); span.End(err) }()
	req, err := decode[acme.NewAuthorization](m)
	if err != nil {
		return nil, err
	}
	name, err := m.acct.policy.profile("")
	if err != nil {
		return nil, err
	}
	profile, err := m.ca.profile(name)
	if err != nil {
		return nil, err
	}
	id, err := s.identifier(m, req.Identifier.PKI(), profile)
	if err != nil {
		return nil, err
	}
	if id.Wildcard() {
		return nil, fault.New(fault.Malformed, "a wildcard cannot be authorized in advance (RFC 8555 section 7.4.1); order it")
	}
	have, err := s.reusable(m.ctx, m.ca, m.acct.ID, []pki.Identifier{id}, profile, m.now.Add(reuseMargin))
	if err != nil {
		return nil, err
	}
	below := req.Identifier.SubdomainAuthAllowed && m.ca.speaksBelow(id)
	z, ok := have.exact[id]
	if below {
		z, ok = have.above[id]
	}
	if ok {
		full, err := s.authz(m, z.ID)
		if err != nil {
			return nil, err
		}
		m.SetHeader("Location", m.ca.authzURL(z.ID))
		return object(m.Request, http.StatusOK, full.object(m.ca, m.now, "")), nil
	}
	if err := charges(m.now, with(nil, s.limits.OrdersPerAccount, m.acct.ID, 1)); err != nil {
		err = ofAccount{err}
		return nil, err
	}
	fresh := []Authorization{s.fresh(m, profile, id, below, m.now.Add(s.cfg.PendingLifetime))}
	if err := s.mayMail(fresh, m.now); err != nil {
		return nil, err
	}
	s.justInTime(m, fresh, m.now.Add(reuseMargin))
	return s.storeAuthz(m, fresh[0])
}

func (s *Server) storeAuthz(m *message, z Authorization) (*httpd.Reply, error) {
	s.known.add(z.AccountID, z.Identifier.Base().String())
	err := s.db.Write(m.ctx, func(tx *db.Tx) error {
		tx.Queue(qGuard, stillValid, m.acct.ID, m.key.Thumbprint)
		z.insert(tx)
		return z.noteProved(tx, m.actor(), m.now)
	})
	if err != nil {
		return nil, wrap("store authorization", err)
	}
	m.SetHeader("Location", m.ca.authzURL(z.ID))
	return object(m.Request, http.StatusCreated, z.object(m.ca, m.now, "")), nil
}
