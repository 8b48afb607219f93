// Package token keeps the bearer tokens of the control plane: who may call it,
// and in which role.
//
// A token reads "cy_ID_SECRET". ID finds the row, SECRET is 256 random bits of
// which only the SHA-256 is stored: the text is shown once, when the token is
// made, and cannot be recovered. A plain hash is enough because the secret is
// not chosen by a person.
package token

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
)

// Token is a bearer token as it is stored: without its secret.
type Token struct {
	ID        string
	Name      string // for people: who or what uses it
	Role      Role
	Scope     Scope
	CreatedAt time.Time
	ExpiresAt time.Time // zero: never
	RevokedAt time.Time // zero: not revoked

	hash []byte // SHA-256 of the secret part
}

// Live reports whether t may be used at now.
func (t *Token) Live(now time.Time) bool {
	return t.RevokedAt.IsZero() && (t.ExpiresAt.IsZero() || now.Before(t.ExpiresAt))
}

const columns = `id, name, role, created_at, expires_at, revoked_at, hash, scope`

var (
	qInsert = db.SQL("token.insert_token", `INSERT INTO api_token (id, name, hash, role, created_at, expires_at, scope) VALUES ($1, $2, $3, $4, $5, $6, $7)`)
	qGet    = db.SQL("token.get_token", `SELECT `+columns+` FROM api_token WHERE id = $1`)
	qList   = db.SQL("token.list_tokens", `SELECT `+columns+` FROM api_token WHERE id > $1 ORDER BY id LIMIT $2`)
	qRevoke = db.SQL("token.revoke_token", `UPDATE api_token SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL`)
)

func scan(r *db.Row) Token {
	t := Token{ID: r.Text(), Name: r.Text(), Role: Role(r.Text()), CreatedAt: r.Time(), ExpiresAt: r.Time(),
		RevokedAt: r.Time(), hash: r.Bytes()}
	t.Scope = DecodeScope(r.Text())
	return t
}

// Sizes of a token's parts.
const (
	prefix    = "cy_"
	secretLen = 43 // 256 bits in base64url
	// textLen is the length of every token: prefix, id, "_", secret.
	textLen = len(prefix) + 26 + 1 + secretLen
)

// errBad is the one answer to every token that does not open the door, so that
// a stranger learns nothing about which tokens exist.
func errBad() error {
	return &fault.Error{Code: fault.Unauthorized, HTTPStatus: 401,
		Detail: "the token is unknown, expired or revoked; make a new one with `chancery config token create`"}
}

// newSecret returns 256 random bits as text.
func newSecret() string {
	var raw [32]byte
	rand.Read(raw[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(raw[:])
}

// split takes a token apart; ok is false for anything that is not one.
func split(text string) (id, secret string, ok bool) {
	if len(text) != textLen || !strings.HasPrefix(text, prefix) {
		return "", "", false
	}
	id, secret, ok = strings.Cut(text[len(prefix):], "_")
	return id, secret, ok && db.ValidID(id)
}

// Spec describes a token to be made.
type Spec struct {
	Name    string        // 1 to 64 characters
	Role    Role          //
	Scope   Scope         // narrows the role; zero = everything
	Expires time.Duration // from now; 0 = never
}

const maxName = 64

func (s *Spec) check() error {
	switch {
	case s.Name == "" || len(s.Name) > maxName || strings.ContainsFunc(s.Name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fault.New(fault.Invalid, "a token needs a name of 1 to %d printable characters that says who uses it", maxName)
	case !s.Role.Valid():
		return fault.New(fault.Invalid, "role %.32q is unknown; choose one of %v", s.Role, Roles)
	case s.Expires < 0:
		return fault.New(fault.Invalid, "a token cannot expire in the past; give a positive duration, or none")
	}
	return s.Scope.Check()
}

// Create makes a token and returns it with its text, which is not stored.
func Create(ctx context.Context, d *db.DB, spec Spec, actor string, now time.Time) (t Token, text string, err error) {
	if err := spec.check(); err != nil {
		return Token{}, "", err
	}
	t, text = mint(spec, now)
	err = d.Write(ctx, func(tx *db.Tx) error { return t.insert(tx, actor) })
	if err != nil {
		return Token{}, "", fmt.Errorf("store token: %w", err)
	}
	return t, text, nil
}

// mint makes a token and its text; nothing is stored yet.
func mint(spec Spec, now time.Time) (Token, string) {
	secret := newSecret()
	hash := sha256.Sum256([]byte(secret))
	t := Token{ID: db.NewID(now), Name: spec.Name, Role: spec.Role, Scope: spec.Scope, CreatedAt: now.UTC().Truncate(time.Millisecond), hash: hash[:]}
	if spec.Expires > 0 {
		t.ExpiresAt = t.CreatedAt.Add(spec.Expires)
	}
	return t, prefix + t.ID + "_" + secret
}

func (t *Token) insert(tx *db.Tx, actor string) error {
	tx.Queue(qInsert, nil, t.ID, t.Name, t.hash, t.Role, t.CreatedAt, t.ExpiresAt, EncodeScope(t.Scope))
	return audit.Append(tx, audit.Entry{At: t.CreatedAt, Kind: "token.create", Actor: actor, Subject: "token:" + t.ID,
		Data: map[string]any{"name": t.Name, "role": t.Role, "scope": t.Scope}})
}

// Verify returns the token that text names if its secret is right and it may
// be used at now; every other text gets the same unauthorized fault (HTTP 401).
func Verify(ctx context.Context, q db.Q, text string, now time.Time) (Token, error) {
	id, secret, ok := split(text)
	if !ok {
		return Token{}, errBad()
	}
	t, err := db.Get(ctx, q, qGet, scan, id)
	if err != nil && !errors.Is(err, db.ErrNotFound) {
		return Token{}, fmt.Errorf("look up token: %w", err)
	}
	sum := sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare(sum[:], t.hash) != 1 || !t.Live(now) || !t.Role.Valid() {
		return Token{}, errBad()
	}
	return t, nil
}

// Get returns the token with id, or a notFound fault.
func Get(ctx context.Context, q db.Q, id string) (Token, error) {
	t, err := db.Get(ctx, q, qGet, scan, id)
	if errors.Is(err, db.ErrNotFound) {
		return t, fault.New(fault.NotFound, "there is no token with this id")
	}
	return t, err
}

// List returns up to limit tokens in order of creation, after the one with id
// after ("" = from the first), revoked and expired ones too.
func List(ctx context.Context, q db.Q, after string, limit int) ([]Token, error) {
	return db.List(ctx, q, qList, scan, after, limit)
}

// Revoke ends a token for good. Revoking it twice is a conflict fault.
func Revoke(ctx context.Context, d *db.DB, id, actor string, now time.Time) error {
	if _, err := Get(ctx, d.Read(), id); err != nil {
		return err
	}
	return d.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qRevoke, db.ExactlyOne(fault.New(fault.Conflict, "the token is already revoked")), id, now)
		return journalRevoke(tx, id, actor, now)
	})
}

func journalRevoke(tx *db.Tx, id, actor string, now time.Time) error {
	return audit.Append(tx, audit.Entry{At: now, Kind: "token.revoke", Actor: actor, Subject: "token:" + id})
}
