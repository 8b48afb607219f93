package server

import (
	"context"
	"encoding/hex"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/acme/tkauth"
	"chancery/internal/db"
	"chancery/internal/fault"
)

// qSpendToken uses up an authority token; no row means that it was used before.
var (
	qSpendToken = db.SQL("acme.spend_token", `INSERT INTO acme_spent_token (authority, token_id, expires_at) VALUES ($1, $2, $3)
		ON CONFLICT DO NOTHING`)
	qExpireTokens = db.SQL("acme.delete_expired_tokens", `DELETE FROM acme_spent_token WHERE (authority, token_id) IN
		(SELECT authority, token_id FROM acme_spent_token WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)`)
)

// errSpent means that an authority token was presented before.
var errSpent = fault.New(fault.IncorrectResponse, "the authority token was used before (jti); get a new one")

// authorityToken returns the token of a response to tkauth-01 (RFC 9447
// section 3).
func authorityToken(r acme.ChallengeResponse) (string, error) {
	if r.TKAuth == "" {
		return "", fault.New(fault.Malformed, `the response to %s needs "tkauth", an authority token`, challenge.TKAuth01)
	}
	return r.TKAuth, nil
}

// authorityOf returns what the validator of a trial by tkauth-01 needs.
func (s *Server) authorityOf(ctx context.Context, t *trial) (*challenge.AuthorityToken, error) {
	p, err := s.profileOf(ctx, t)
	if err != nil {
		return nil, err
	}
	return &challenge.AuthorityToken{Text: t.token, Policy: p.Tokens}, nil
}

// spend uses up the token behind a proof in the transaction that stores it.
func spend(tx *db.Tx, proof challenge.Proof) {
	if v := proof.Vouched(); v != nil {
		tx.Queue(qSpendToken, db.ExactlyOne(errSpent), hex.EncodeToString(v.Root), v.ID, proof.Until())
	}
}

// vouches reports why the authority token behind a proof does not count for an
// order of a profile now, or "".
func (a *authority) vouches(proof challenge.Proof, profile string) string {
	v := proof.Vouched()
	if v == nil {
		return ""
	}
	if p := a.profiles[profile]; p == nil || !p.Tokens.Trusts(v.Root) {
		return "the profile does not trust the authority of its token"
	}
	return ""
}

// presentToken fills a challenge of tkauth-01 (RFC 9447 section 3).
func (a *authority) presentToken(c *acme.Challenge) {
	c.TKAuthType, c.TokenAuthority = tkauth.Type, a.TokenAuthority
}
