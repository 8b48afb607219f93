package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/mldsa"
	"fmt"
	"net/http"
	"strings"
	"time"

	"chancery/internal/acme"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/httpd"
	"chancery/internal/obs"
	"chancery/internal/pki"
)

// maxBody is the most that any request may have, in bytes.
const maxBody = acme.MaxBody

// signer says whose signature a resource takes (RFC 8555 section 6.2).
type signer uint8

const (
	byAccount signer = iota + 1 // "kid": an account of this CA
	byKey                       // "jwk": a key that may have no account yet
	byEither                    // revoke-cert: an account, or a certificate's key
)

// message is a signed request that passed every check of section 6.
type message struct {
	*httpd.Request
	ctx  context.Context
	now  time.Time
	ca   *authority
	jws  acme.JWS // in memory of the request
	key  *acme.PublicKey
	acct *account      // nil when the key itself signed
	idle time.Duration // that it waited for others

	scratch [nonceBytes]byte // of nonces, which a cipher would put on the heap
}

// step begins a part of the request's trace.
func (m *message) step(name string) (s *obs.Span) {
	m.ctx, s = obs.Step(m.ctx, name)
	return s
}

// post wraps the handler of a signed request. Every answer, an error too,
// carries a fresh nonce (RFC 8555 section 6.5) and the way to the directory.
func (s *Server) post(who signer, h postHandler) httpd.Handler { return s.posted(who, false, h) }

// posted is post for requests that begin something new or do not.
func (s *Server) posted(who signer, begins bool, h postHandler) httpd.Handler {
	return func(r *httpd.Request) (*httpd.Reply, error) {
		a, err := s.authority(r)
		if err != nil {
			return nil, err
		}
		m := &message{Request: r, ctx: r.Context(), now: time.Now(), ca: a}
		r.SetHeader("Replay-Nonce", s.nonces.issue(&m.scratch))
		r.SetHeader("Link", a.index)
		reply, err := s.gated(m, who, begins, h)
		if err != nil && m.acct != nil {
			s.damper.park(m.ctx, m.acct.ID, m.now)
		}
		if reply != nil && reply.CacheControl == "" {
			reply.CacheControl = "no-store"
		}
		return reply, err
	}
}

// gated counts a request while it is at work, or turns it away.
func (s *Server) gated(m *message, who signer, begins bool, h postHandler) (*httpd.Reply, error) {
	if err := s.gate.enter(begins); err != nil {
		return nil, err
	}
	defer func() { s.gate.leave(m.now, m.idle) }()
	return s.serve(m, who, h)
}

// serve runs the handler of a request that is admitted.
func (s *Server) serve(m *message, who signer, h postHandler) (*httpd.Reply, error) {
	if err := s.admit(m, who); err != nil {
		return nil, err
	}
	reply, err := h(m)
	if err != nil && m.acct != nil {
		s.damper.note(m.acct.ID, err, m.now)
	}
	return reply, err
}

// admit checks a request from cheap to costly, the signature last.
func (s *Server) admit(m *message, who signer) error {
	if err := m.MediaType("application/jose+json"); err != nil {
		return err
	}
	if err := s.readJWS(m); err != nil {
		return err
	}
	if !s.sameURL(m) {
		return fault.New(fault.Unauthorized, `the "url" of the message is not the URL of the request, %s`, s.cfg.BaseURL+m.URL.Path)
	}
	if err := s.redeem(m); err != nil {
		return err
	}
	if err := s.identify(m, who); err != nil {
		return err
	}
	if m.acct != nil {
		if err := s.damper.check(m); err != nil {
			return err
		}
	}
	if err := s.limits.verification(m, m.key); err != nil {
		return err
	}
	return m.jws.Verify(m.key)
}

// readJWS reads and parses the body, in memory that ends with the request.
func (s *Server) readJWS(m *message) error {
	body, err := m.ReadBodyTo(m.Scratch(int(min(max(m.ContentLength, 0), s.cfg.MaxBody))+1), s.cfg.MaxBody)
	if err != nil {
		return err
	}
	return m.jws.Parse(body, m.Scratch(2*len(body)))
}

// sameURL compares the signed URL with that of the request, byte for byte
// (RFC 8555 section 6.4).
func (s *Server) sameURL(m *message) bool {
	rest, ok := strings.CutPrefix(m.jws.Header.URL, s.cfg.BaseURL)
	return ok && rest == m.Target()
}

// redeem uses up the nonce, here or on the replica that made it.
func (s *Server) redeem(m *message) error {
	verdict, owner := s.nonces.redeem(&m.scratch, m.jws.Header.Nonce)
	if verdict == nonceForeign && s.cfg.RedeemForeign != nil {
		ok, err := s.cfg.RedeemForeign(m.ctx, owner, m.jws.Header.Nonce)
		if err != nil {
			s.log.WarnContext(m.ctx, "nonce owner does not answer", "replica", owner, "error", err)
		}
		if ok && err == nil {
			verdict = nonceOK
		}
	}
	if verdict == nonceOK {
		return nil
	}
	return fault.New(fault.BadNonce, "the nonce was used before, is too old, or was made elsewhere; try again with the one in Replay-Nonce")
}

// identify finds the key that must have signed, and its account.
func (s *Server) identify(m *message, who signer) error {
	if m.jws.Header.KID == "" {
		if who == byAccount {
			return fault.New(fault.Malformed, `this resource takes messages of an account: sign with "kid", not "jwk"`)
		}
		if err := m.useKey(who); err != nil {
			return err
		}
		if who == byKey && s.cfg.WeakKeys.Contains(m.key.Key) {
			return fault.New(fault.BadPublicKey, "this key is on a list of weak keys; make a new key")
		}
		return nil
	}
	if who == byKey {
		return fault.New(fault.Malformed, `this resource takes messages of a key: sign with "jwk", not "kid"`)
	}
	id, ok := strings.CutPrefix(m.jws.Header.KID, m.ca.accounts)
	if !ok || !db.ValidID(id) {
		return fault.New(fault.AccountDoesNotExist, `"kid" is not the URL of an account of this CA`)
	}
	acct, err := s.account(m.ctx, id, m.now)
	if err != nil {
		return err
	}
	if acct == nil || acct.CA != m.ca.name {
		return fault.New(fault.AccountDoesNotExist, "there is no such account; it may have been removed")
	}
	if acct.State != acme.AccountValid {
		return inactive(acct.State)
	}
	m.acct, m.key = acct, acct.key
	return nil
}

// inactive is the error of an account that may do nothing (RFC 8555 section
// 7.3.6 asks for 401).
func inactive(state acme.AccountStatus) error {
	e := fault.New(fault.Unauthorized, "the account is %s", state)
	e.HTTPStatus = http.StatusUnauthorized
	return e
}

// stillValid checks a statement that is about a valid account only.
var stillValid = db.ExactlyOne(inactive(acme.AccountDeactivated))

// useKey takes the key of the header. One that asks for an account must be
// sound; one that revokes its own certificate had better be revoked if weak.
func (m *message) useKey(who signer) (err error) {
	if m.key, err = m.jws.Header.JWK.PublicKey(); err != nil || who != byKey {
		return err
	}
	return pki.CheckKey(m.key.Key)
}

// weight is the cost of one verification with key, in units of a P-256 one.
func weight(key *acme.PublicKey) int {
	switch k := key.Key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize > 256 {
			return 11
		}
	case *mldsa.PublicKey:
		switch key.Algs[0] {
		case acme.MLDSA44:
			return 2
		case acme.MLDSA65:
			return 3
		}
		return 5
	}
	return 1
}

// decode reads the payload of m, which must not be empty.
func decode[T any](m *message) (T, error) {
	if m.jws.PostAsGet() {
		var zero T
		return zero, fault.New(fault.Malformed, "the payload is empty; send a JSON object")
	}
	return acme.Decode[T](m.jws.Payload)
}

// postAsGet refuses a payload (RFC 8555 section 6.3).
func (m *message) postAsGet() error {
	if !m.jws.PostAsGet() {
		return fault.New(fault.Malformed, "this is a POST-as-GET resource: the payload must be the empty string")
	}
	return nil
}

// mine refuses what belongs to another account.
func (m *message) mine(what, accountID, ca string) error {
	if accountID != m.acct.ID || ca != m.ca.name {
		return fault.New(fault.Unauthorized, "this %s belongs to another account", what)
	}
	return nil
}

// actor is how the journal names who signed m.
func (m *message) actor() string {
	if m.acct == nil {
		return "key:" + m.key.Thumbprint
	}
	return "account:" + m.acct.ID
}

// link adds a Link header.
func (m *message) link(url, rel string) { link(m.Request, url, rel) }

func link(r *httpd.Request, url, rel string) { r.AddHeader("Link", "<"+url+`>;rel="`+rel+`"`) }

// encodes is what writes itself as JSON.
type encodes interface{ AppendJSON([]byte) []byte }

// object returns a reply with o as its body.
func object(r *httpd.Request, status int, o encodes) *httpd.Reply {
	return &httpd.Reply{Status: status, ContentType: "application/json", Body: o.AppendJSON(r.Scratch(768))}
}

// noSuch is the error for what is not there.
func noSuch(what string) error {
	return fault.New(fault.NotFound, "there is no such %s", what)
}

// wrap names what failed, for the log.
func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}
