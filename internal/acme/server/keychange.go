package server

import (
	"context"
	"errors"
	"net/http"

	"chancery/internal/acme"
	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/httpd"
	"chancery/internal/pki"
)

var qChangeKey = db.SQL("acme.change_key", `UPDATE acme_account SET thumbprint = $3, jwk = $4
	WHERE id = $1 AND thumbprint = $2 AND state = 'valid'`)

// keyChange answers key-change (RFC 8555 section 7.3.5).
func (s *Server) keyChange(m *message) (reply *httpd.Reply, err error) {
	span := m.step("acme.key_change")
	defer func() { measure(s.ops.keyChange, m.now, err); span.End(err) }()
	if m.jws.PostAsGet() {
		return nil, fault.New(fault.Malformed, "the payload must be a message signed by the new key")
	}
	next, err := acme.VerifyKeyChange(&m.jws, m.ca.accountURL(m.acct.ID), m.key)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(s.limits.verification(m, next), pki.CheckKey(next.Key)); err != nil {
		return nil, err
	}
	if err := s.taken(m.ctx, m, next); err != nil {
		return nil, err
	}
	moved := fault.New(fault.Conflict, "the account's key was changed, or the account deactivated, at the same time")
	err = s.db.Write(m.ctx, func(tx *db.Tx) error {
		tx.Queue(qChangeKey, db.ExactlyOne(moved), m.acct.ID, m.key.Thumbprint, next.Thumbprint, string(next.JWK()))
		tx.Queue(qKeepKey, nil, m.acct.ID, m.key.Thumbprint, m.now)
		return audit.Append(tx, audit.Entry{At: m.now, Kind: "account.change_key", Actor: m.actor(), Subject: "account:" + m.acct.ID,
			Data: map[string]string{"from": m.key.Thumbprint, "to": next.Thumbprint}})
	})
	s.accounts.forget(m.acct.ID)
	if errors.Is(err, db.ErrConflict) { // another account took the key meanwhile
		if err := s.taken(m.ctx, m, next); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, wrap("change key", err)
	}
	a, err := s.current(m)
	if err != nil {
		return nil, err
	}
	return a.reply(m, http.StatusOK)
}

// taken returns the 409 with the Location of the account that has the key, if
// there is one.
func (s *Server) taken(ctx context.Context, m *message, key *acme.PublicKey) error {
	a, err := db.Get(ctx, s.db.Read(), qAccountByKey, scanAccount, m.ca.name, key.Thumbprint)
	if errors.Is(err, db.ErrNotFound) {
		return nil
	}
	if err != nil {
		return wrap("find account", err)
	}
	m.SetHeader("Location", m.ca.accountURL(a.ID))
	return fault.New(fault.Conflict, "the new key is the key of an account already")
}
