package server

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"net/http"
	"net/mail"
	"strings"
	"time"

	"chancery/internal/acme"
	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/httpd"
)

// account is a row of acme_account with its parsed key. It is immutable once
// it is in the cache.
type account struct {
	Account
	jwk string
	eab string // the binding as it was sent, or ""
	key *acme.PublicKey

	persistAt  time.Time // first success of dns-persist-01; zero: never
	policyText string    // of the key that bound it, as stored; "": none
	policy     *boundPolicy
}

// Account is an ACME account as the control plane sees it.
type Account struct {
	ID          string
	CA          string
	Thumbprint  string // of the key, RFC 7638
	State       acme.AccountStatus
	Contact     []string
	EABKeyID    string    // "" when not bound
	ToSAgreedAt time.Time // zero: never
	CreatedAt   time.Time
	CreatedIP   string
}

const accountColumns = `id, ca, thumbprint, jwk, state, contact, eab_kid, eab, tos_agreed_at, created_at, created_ip, persist_at`

// accountSelect is a row with the policy of the key that bound it.
const accountSelect = accountColumns + `, (SELECT policy FROM eab_key WHERE kid = eab_kid)`

var (
	qAccount      = db.SQL("acme.get_account", `SELECT `+accountSelect+` FROM acme_account WHERE id = $1`)
	qAccountByKey = db.SQL("acme.get_account_by_key", `SELECT `+accountSelect+` FROM acme_account WHERE ca = $1 AND thumbprint = $2`)
	qInsertAcct   = db.SQL("acme.insert_account", `INSERT INTO acme_account (`+accountColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, NULL)`)
	qUpdateAcct = db.SQL("acme.update_account", `UPDATE acme_account SET contact = $3, tos_agreed_at = $4
		WHERE id = $1 AND thumbprint = $2 AND state = 'valid'`)
	qDeactivateAcct = db.SQL("acme.deactivate_account", `UPDATE acme_account SET state = $2 WHERE id = $1 AND state = 'valid'`)
	qDropOrders     = db.SQL("acme.invalidate_orders", `UPDATE acme_order SET state = 'invalid', error = $2
		WHERE account_id = $1 AND state IN ('pending', 'ready')`)
	qDropAuthz = db.SQL("acme.deactivate_authorizations", `UPDATE acme_authz SET state = 'deactivated' WHERE account_id = $1 AND state = 'valid'`)
)

func scanAccount(r *db.Row) *account {
	a := &account{}
	a.ID, a.CA, a.Thumbprint, a.jwk, a.State = r.Text(), r.Text(), r.Text(), r.Text(), acme.AccountStatus(r.Text())
	contact := r.Text()
	a.EABKeyID, a.eab, a.ToSAgreedAt, a.CreatedAt, a.CreatedIP = r.Text(), r.Text(), r.Time(), r.Time(), r.Text()
	a.persistAt, a.policyText = r.Time(), r.Text()
	if json.Unmarshal([]byte(contact), &a.Contact) != nil {
		a.Contact = nil // written by us alone; contacts carry no rights
	}
	return a
}

// parse fills key and policy.
func (a *account) parse() error {
	key, err := acme.ParseJWK([]byte(a.jwk))
	if err != nil || key.Thumbprint != a.Thumbprint {
		return fmt.Errorf("stored key of account %s is damaged: %w", a.ID, err)
	}
	a.key = key
	a.policy, err = readPolicy(a.policyText)
	return err
}

// reply returns the account object (RFC 8555 section 7.1.2).
func (a *account) reply(m *message, status int) (*httpd.Reply, error) {
	url := m.ca.accountURL(a.ID)
	m.SetHeader("Location", url)
	o := acme.Account{Status: a.State, Contact: a.Contact, TermsOfServiceAgreed: !a.ToSAgreedAt.IsZero(), Orders: url + "/orders"}
	if m.ca.Delegation {
		o.Delegations = url + "/delegations"
	}
	if a.eab != "" {
		o.ExternalAccountBinding = []byte(a.eab)
	}
	body, err := json.Marshal(&o)
	if err != nil {
		return nil, wrap("encode account", err)
	}
	return &httpd.Reply{Status: status, ContentType: "application/json", Body: body}, nil
}

// newAccount answers new-account (RFC 8555 section 7.3).
func (s *Server) newAccount(m *message) (reply *httpd.Reply, err error) {
	span := m.step("acme.new_account")
	defer func() { measure(s.ops.newAccount, m.now, err); span.End(err) }()
	req, err := decode[acme.NewAccount](m)
	if err != nil {
		return nil, err
	}
	if reply, err := s.existing(m); reply != nil || err != nil {
		return reply, err
	}
	if req.OnlyReturnExisting {
		return nil, fault.New(fault.AccountDoesNotExist, "no account has this key")
	}
	a, eab, err := s.prepareAccount(m, &req)
	if err != nil {
		return nil, err
	}
	err = s.db.Write(m.ctx, func(tx *db.Tx) error { return a.insert(tx, eab, m.now) })
	if errors.Is(err, db.ErrConflict) { // made by another request at the same time
		if reply, err := s.existing(m); reply != nil || err != nil {
			return reply, err
		}
	}
	if err != nil {
		return nil, wrap("store account", err)
	}
	fault.Point("acme.after_account")
	return a.reply(m, http.StatusCreated)
}

// existing answers for the account that has the key already, if there is one.
func (s *Server) existing(m *message) (*httpd.Reply, error) {
	a, err := db.Get(m.ctx, s.db.Read(), qAccountByKey, scanAccount, m.ca.name, m.key.Thumbprint)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, wrap("find account", err)
	case a.State != acme.AccountValid:
		return nil, inactive(a.State)
	}
	return a.reply(m, http.StatusOK)
}

// prepareAccount checks what a new account must bring.
func (s *Server) prepareAccount(m *message, req *acme.NewAccount) (*account, *binding, error) {
	a := &account{jwk: string(m.key.JWK()), key: m.key}
	a.Account = Account{ID: db.NewID(m.now), CA: m.ca.name, Thumbprint: m.key.Thumbprint, State: acme.AccountValid,
		Contact: req.Contact, CreatedAt: m.now, CreatedIP: m.ClientIP.String()}
	if err := checkContacts(req.Contact); err != nil {
		return nil, nil, err
	}
	if err := m.agree(req.TermsOfServiceAgreed); err != nil {
		return nil, nil, err
	}
	if m.ca.TermsOfService != "" {
		a.ToSAgreedAt = m.now
	}
	eab, err := s.bind(m, req.ExternalAccountBinding)
	if err != nil {
		return nil, nil, err
	}
	if eab != nil {
		a.EABKeyID, a.eab = eab.kid, string(req.ExternalAccountBinding)
	}
	return a, eab, s.limits.newAccount(m.ClientIP, m.now)
}

// agree demands the agreement to the terms of service, if there are any.
func (m *message) agree(agreed bool) error {
	if m.ca.TermsOfService == "" || agreed {
		return nil
	}
	m.link(m.ca.TermsOfService, "terms-of-service")
	e := fault.New(fault.UserActionRequired, "agree to the terms of service at %s and set termsOfServiceAgreed", m.ca.TermsOfService)
	e.Instance = m.ca.TermsOfService
	return e
}

// Bounds of contacts.
const (
	maxContacts = 10
	maxContact  = 320 // octets: the longest address of RFC 5321, and the scheme
)

// checkContacts accepts mailto URLs of one plain address (RFC 8555 section 7.3).
func checkContacts(contacts []string) error {
	if len(contacts) > maxContacts {
		return fault.New(fault.InvalidContact, "at most %d contacts are kept", maxContacts)
	}
	for _, c := range contacts {
		scheme, rest, ok := strings.Cut(c, ":")
		switch {
		case !ok || len(c) > maxContact:
			return fault.New(fault.InvalidContact, "contact %.80q is not a mailto URL", c)
		case !strings.EqualFold(scheme, "mailto"):
			return fault.New(fault.UnsupportedContact, "contact scheme %.40q is not supported; use mailto", scheme)
		case strings.ContainsAny(rest, "?,%"):
			return fault.New(fault.InvalidContact, "contact %.80q must be one address without header fields or escapes", c)
		}
		if addr, err := mail.ParseAddress(rest); err != nil || addr.Address != rest {
			return fault.New(fault.InvalidContact, "contact %.80q is not an e-mail address", c)
		}
	}
	return nil
}

// insert adds the account, its binding and the journal entry to tx.
func (a *account) insert(tx *db.Tx, eab *binding, now time.Time) error {
	contact, err := json.Marshal(a.Contact)
	if err != nil {
		return wrap("encode contacts", err)
	}
	if eab != nil {
		eab.use(tx, a.ID, now)
	}
	tx.Queue(qInsertAcct, nil, a.ID, a.CA, a.Thumbprint, a.jwk, a.State, string(contact), null(&a.EABKeyID), null(&a.eab),
		a.ToSAgreedAt, a.CreatedAt, a.CreatedIP)
	return audit.Append(tx, audit.Entry{At: now, Kind: "account.create", Actor: "account:" + a.ID, Subject: "account:" + a.ID,
		Data: accountData{CA: a.CA, Thumbprint: a.Thumbprint, EAB: a.EABKeyID}})
}

type accountData struct {
	CA         string `json:"ca,omitempty"`
	Thumbprint string `json:"thumbprint,omitempty"`
	EAB        string `json:"eab_kid,omitempty"`
}

// null makes "" a NULL.
func null(s *string) *string {
	if *s == "" {
		return nil
	}
	return s
}

// postAccount answers a POST to an account URL: read, update, deactivate (RFC
// 8555 sections 7.3.2, 7.3.3 and 7.3.6).
func (s *Server) postAccount(m *message) (*httpd.Reply, error) {
	if m.PathValue("id") != m.acct.ID {
		return nil, fault.New(fault.Unauthorized, "this is the URL of another account")
	}
	if m.jws.PostAsGet() {
		a, err := s.current(m)
		if err != nil {
			return nil, err
		}
		return a.reply(m, http.StatusOK)
	}
	req, err := decode[acme.AccountUpdate](m)
	if err != nil {
		return nil, err
	}
	switch req.Status {
	case "", acme.AccountValid:
		return s.updateAccount(m, &req)
	case acme.AccountDeactivated:
		return s.deactivate(m)
	}
	return nil, fault.New(fault.Malformed, `an account's "status" can only be changed to "deactivated"`)
}

// current reads the signer's account past the cache.
func (s *Server) current(m *message) (*account, error) {
	s.accounts.forget(m.acct.ID)
	a, err := s.account(m.ctx, m.acct.ID, m.now)
	if err != nil {
		return nil, err
	}
	if a == nil {
		return nil, noSuch("account")
	}
	return a, nil
}

func (s *Server) updateAccount(m *message, req *acme.AccountUpdate) (*httpd.Reply, error) {
	contacts, agreed := m.acct.Contact, m.acct.ToSAgreedAt
	if req.Contact != nil {
		contacts = *req.Contact
	}
	if err := checkContacts(contacts); err != nil {
		return nil, err
	}
	if req.TermsOfServiceAgreed && agreed.IsZero() && m.ca.TermsOfService != "" {
		agreed = m.now
	}
	text, err := json.Marshal(contacts)
	if err != nil {
		return nil, wrap("encode contacts", err)
	}
	err = s.db.Write(m.ctx, func(tx *db.Tx) error {
		tx.Queue(qUpdateAcct, stillValid, m.acct.ID, m.key.Thumbprint, string(text), agreed)
		return nil
	})
	if err != nil {
		return nil, wrap("update account", err)
	}
	a, err := s.current(m)
	if err != nil {
		return nil, err
	}
	return a.reply(m, http.StatusOK)
}

func (s *Server) deactivate(m *message) (*httpd.Reply, error) {
	defer s.recent.dropAll(m.acct.ID)
	if err := s.db.Write(m.ctx, func(tx *db.Tx) error {
		tx.Queue(qGuard, stillValid, m.acct.ID, m.key.Thumbprint)
		return deactivate(tx, m.acct.ID, acme.AccountDeactivated, m.actor(), m.now)
	}); err != nil {
		return nil, wrap("deactivate account", err)
	}
	a, err := s.current(m)
	if err != nil {
		return nil, err
	}
	return a.reply(m, http.StatusOK)
}

// deactivate ends an account and everything that it could still use.
func deactivate(tx *db.Tx, id string, state acme.AccountStatus, actor string, now time.Time) error {
	tx.Queue(qDeactivateAcct, db.ExactlyOne(fault.New(fault.Conflict, "the account is not active, or does not exist")), id, state)
	tx.Queue(qDropOrders, nil, id, problemText(fault.New(fault.Unauthorized, "the account was deactivated")))
	tx.Queue(qDropAuthz, nil, id)
	return audit.Append(tx, audit.Entry{At: now, Kind: "account.deactivate", Actor: actor, Subject: "account:" + id,
		Data: map[string]string{"state": string(state)}})
}

// problemText is err as stored with an order.
func problemText(err error) string { return string(acme.NewProblem(err).AppendJSON(nil)) }

var (
	qAccounts = db.SQL("acme.list_accounts", `SELECT `+accountSelect+` FROM acme_account WHERE id > $1 ORDER BY id LIMIT $2`)
)

// ListAccounts returns up to limit accounts after the one with id after ("" =
// from the first), in order of creation.
func ListAccounts(ctx context.Context, q db.Q, after string, limit int) ([]Account, error) {
	return db.List(ctx, q, qAccounts, func(r *db.Row) Account { return scanAccount(r).Account }, after, limit)
}

// GetAccount returns the account with id, or a notFound fault.
func GetAccount(ctx context.Context, q db.Q, id string) (Account, error) {
	a, err := db.Get(ctx, q, qAccount, scanAccount, id)
	if errors.Is(err, db.ErrNotFound) {
		return Account{}, noSuch("account")
	}
	if err != nil {
		return Account{}, err
	}
	return a.Account, nil
}

// DeactivateAccount ends an account on behalf of the operator: it becomes
// revoked, its open orders invalid. actor is for the journal. Other replicas
// refuse its writes at once and its reads within seconds.
func (s *Server) DeactivateAccount(ctx context.Context, id, actor string) error {
	if _, err := GetAccount(ctx, s.db.Read(), id); err != nil {
		return err
	}
	defer s.accounts.forget(id)
	defer s.recent.dropAll(id)
	return s.db.Write(ctx, func(tx *db.Tx) error {
		return deactivate(tx, id, acme.AccountRevoked, actor, time.Now())
	})
}
