package token

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
)

// Session is the sign-in of a person at a browser, as it is stored: without
// its secret, which the browser holds in a cookie.
type Session struct {
	ID        string
	Actor     string // journal's name of who it is: "user:PROVIDER/SUBJECT" or "token:ID"
	Name      string // for people
	Role      Role
	Scope     Scope
	TokenID   string // of the token that it was made with, and ends with; "" = none
	CreatedAt time.Time
	UsedAt    time.Time // moves about once a minute
	ExpiresAt time.Time

	hash []byte
}

const sessionColumns = `id, actor, name, role, scope, COALESCE(token_id, ''), created_at, used_at, expires_at, hash`

var (
	qInsertSession = db.SQL("token.insert_session", `INSERT INTO session (id, hash, actor, name, role, scope, token_id, created_at, used_at, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`)
	qGetSession = db.SQL("token.get_session", `SELECT `+sessionColumns+` FROM session WHERE id = $1`)
	qUseSession = db.SQL("token.use_session", `UPDATE session SET used_at = $2 WHERE id = $1 AND used_at < $2`)
	qEndSession = db.SQL("token.end_session", `DELETE FROM session WHERE id = $1`)
	qEndAll     = db.SQL("token.end_sessions_of", `DELETE FROM session WHERE actor = $1`, db.Scan("one row per person who is signed in"))
	qSweep      = db.SQL("token.sweep_sessions", `DELETE FROM session WHERE expires_at < $1`)
)

func scanSession(r *db.Row) Session {
	s := Session{ID: r.Text(), Actor: r.Text(), Name: r.Text(), Role: Role(r.Text())}
	s.Scope = DecodeScope(r.Text())
	s.TokenID, s.CreatedAt, s.UsedAt, s.ExpiresAt, s.hash = r.Text(), r.Time(), r.Time(), r.Time(), r.Bytes()
	return s
}

// Sessions keeps sign-ins. It is safe for concurrent use.
type Sessions struct {
	db   *db.DB
	life time.Duration // from sign-in
	idle time.Duration // from the last use

	mu   sync.Mutex
	used map[string]time.Time // since the last Tick, by id
}

// NewSessions returns the sign-ins of d, which end life after they were made
// and idle after they were last used.
func NewSessions(d *db.DB, life, idle time.Duration) *Sessions {
	return &Sessions{db: d, life: life, idle: idle, used: map[string]time.Time{}}
}

// Who is somebody who signs in.
type Who struct {
	Actor   string
	Name    string
	Role    Role
	Scope   Scope
	TokenID string    // when signing in with a token
	Ends    time.Time // not later than this; zero = as configured
}

// Open signs somebody in and returns the text of the cookie, which is not
// stored.
func (s *Sessions) Open(ctx context.Context, who Who, now time.Time) (Session, string, error) {
	if !who.Role.Valid() {
		return Session{}, "", fmt.Errorf("open session: role %q is unknown", who.Role)
	}
	secret := newSecret()
	hash := sha256.Sum256([]byte(secret))
	now = now.UTC().Truncate(time.Millisecond)
	n := Session{ID: db.NewID(now), Actor: who.Actor, Name: clip(who.Name), Role: who.Role, Scope: who.Scope, TokenID: who.TokenID,
		CreatedAt: now, UsedAt: now, ExpiresAt: now.Add(s.life), hash: hash[:]}
	if !who.Ends.IsZero() && who.Ends.Before(n.ExpiresAt) {
		n.ExpiresAt = who.Ends
	}
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		var tokenID any
		if n.TokenID != "" {
			tokenID = n.TokenID
		}
		tx.Queue(qInsertSession, nil, n.ID, n.hash, n.Actor, n.Name, n.Role, EncodeScope(n.Scope), tokenID, n.CreatedAt, n.UsedAt, n.ExpiresAt)
		return audit.Append(tx, audit.Entry{At: now, Kind: "session.open", Actor: n.Actor, Subject: "session:" + n.ID,
			Data: map[string]any{"name": n.Name, "role": n.Role, "scope": n.Scope}})
	})
	if err != nil {
		return Session{}, "", fmt.Errorf("store session: %w", err)
	}
	return n, n.ID + "_" + secret, nil
}

// clip bounds a name that somebody else chose.
func clip(name string) string {
	name = strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, name), "")
	if r := []rune(name); len(r) > maxName {
		name = string(r[:maxName])
	}
	return name
}

// errSignedOut is the one answer to every cookie that does not open the door.
func errSignedOut() error {
	return &fault.Error{Code: fault.Unauthorized, HTTPStatus: 401, Detail: "you are not signed in, or no longer; sign in again"}
}

// Verify returns the session of a cookie's text if it may be used at now, or
// an unauthorized fault (HTTP 401), the same for every reason.
func (s *Sessions) Verify(ctx context.Context, text string, now time.Time) (Session, error) {
	id, secret, ok := strings.Cut(text, "_")
	if !ok || len(secret) != secretLen || !db.ValidID(id) {
		return Session{}, errSignedOut()
	}
	n, err := db.Get(ctx, s.db.Read(), qGetSession, scanSession, id)
	if err != nil && !errors.Is(err, db.ErrNotFound) {
		return Session{}, fmt.Errorf("look up session: %w", err)
	}
	sum := sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare(sum[:], n.hash) != 1 || !n.Role.Valid() || !now.Before(n.ExpiresAt) || s.idled(&n, now) {
		return Session{}, errSignedOut()
	}
	if n.TokenID != "" {
		t, err := Get(ctx, s.db.Read(), n.TokenID)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return Session{}, err
		}
		if err != nil || !t.Live(now) {
			return Session{}, errSignedOut()
		}
	}
	s.Use(id, now)
	return n, nil
}

// idled reports whether a session was not used for too long.
func (s *Sessions) idled(n *Session, now time.Time) bool {
	s.mu.Lock()
	last := s.used[n.ID]
	s.mu.Unlock()
	if last.Before(n.UsedAt) {
		last = n.UsedAt
	}
	return s.idle > 0 && now.Sub(last) > s.idle
}

// Use notes that a session was used; Tick stores it.
func (s *Sessions) Use(id string, now time.Time) {
	s.mu.Lock()
	s.used[id] = now
	s.mu.Unlock()
}

// Tick stores when sessions were last used and removes those that ended.
func (s *Sessions) Tick(ctx context.Context, now time.Time) (n int, err error) {
	s.mu.Lock()
	used := s.used
	s.used = map[string]time.Time{}
	s.mu.Unlock()
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		for id, at := range used {
			tx.Queue(qUseSession, nil, id, at)
		}
		tx.Queue(qSweep, nil, now)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("store use of sessions: %w", err)
	}
	return len(used), nil
}

// Close signs a session out.
func (s *Sessions) Close(ctx context.Context, n *Session, now time.Time) error {
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qEndSession, nil, n.ID)
		return audit.Append(tx, audit.Entry{At: now, Kind: "session.close", Actor: n.Actor, Subject: "session:" + n.ID})
	})
	if err != nil {
		return fmt.Errorf("close session: %w", err)
	}
	return nil
}

// CloseAll signs out every session of an actor.
func (s *Sessions) CloseAll(ctx context.Context, actor, by string, now time.Time) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qEndAll, nil, actor)
		return audit.Append(tx, audit.Entry{At: now, Kind: "session.close_all", Actor: by, Subject: actor})
	})
}

// CSRF returns the token that a page must repeat in a header with every
// request that changes something, made from the text of its cookie. Another
// site cannot read it, and the cookie cannot be computed from it.
func CSRF(text string) string {
	sum := sha256.Sum256([]byte("csrf " + text))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
