package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/fleet"
	"chancery/internal/httpd"
)

// Token is an enrolment token as it is stored: without its secret.
type Token struct {
	ID          string
	NamePattern string // of the agent's name, with * for any text; "": any name
	Owner       string // that the agent gets
	CIDR        string // where it may be used from; "": anywhere
	CreatedBy   string
	CreatedAt   time.Time
	ExpiresAt   time.Time
	UsedAt      time.Time // zero: not used
	AgentID     string    // that it enrolled

	hash []byte
}

// TokenSpec describes a token to be made.
type TokenSpec struct {
	NamePattern, Owner, CIDR string
	Expires                  time.Duration // 0 = 1 h
}

// maxTokenLife bounds the life of an enrolment token.
const maxTokenLife = 30 * 24 * time.Hour

const tokenColumns = `id, hash, name_pattern, owner, cidr, created_by, created_at, expires_at, used_at, agent_id`

var (
	qInsertToken = db.SQL("fleet.insert_token", `INSERT INTO agent_token (id, hash, name_pattern, owner, cidr, created_by, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`)
	qToken       = db.SQL("fleet.get_token", `SELECT `+tokenColumns+` FROM agent_token WHERE id = $1`)
	qTokens      = db.SQL("fleet.list_tokens", `SELECT `+tokenColumns+` FROM agent_token WHERE id > $1 ORDER BY id LIMIT $2`)
	qUseToken    = db.SQL("fleet.use_token", `UPDATE agent_token SET used_at = $2, agent_id = $3 WHERE id = $1 AND used_at IS NULL`)
	qEndToken    = db.SQL("fleet.end_token", `UPDATE agent_token SET expires_at = $2 WHERE id = $1 AND used_at IS NULL AND expires_at > $2`)
)

func scanToken(r *db.Row) Token {
	return Token{ID: r.Text(), hash: r.Bytes(), NamePattern: r.Text(), Owner: r.Text(), CIDR: r.Text(), CreatedBy: r.Text(),
		CreatedAt: r.Time(), ExpiresAt: r.Time(), UsedAt: r.Time(), AgentID: r.Text()}
}

func (t *TokenSpec) check() error {
	if _, err := path.Match(t.NamePattern, "x"); err != nil || len(t.NamePattern) > 128 || strings.ContainsAny(t.NamePattern, "/\x00") || !utf8.ValidString(t.NamePattern) {
		return fault.New(fault.Invalid, "name_pattern %.140q is not a name or a pattern with *", t.NamePattern)
	}
	if len(t.Owner) > 128 || !utf8.ValidString(t.Owner) || strings.ContainsFunc(t.Owner, func(r rune) bool { return r < ' ' }) {
		return fault.New(fault.Invalid, "owner must be at most 128 printable characters")
	}
	if t.CIDR != "" {
		p, err := netip.ParsePrefix(t.CIDR)
		if err != nil || p != p.Masked() {
			return fault.New(fault.Invalid, "cidr %.80q is not a network such as 10.0.0.0/8", t.CIDR)
		}
	}
	if t.Expires < 0 || t.Expires > maxTokenLife {
		return fault.New(fault.Invalid, "a token lives at most 30 days, and not less than no time")
	}
	return nil
}

// CreateToken makes a token and returns it with its text, which is not stored.
func (s *Server) CreateToken(ctx context.Context, spec TokenSpec, actor string, now time.Time) (Token, string, error) {
	if err := spec.check(); err != nil {
		return Token{}, "", err
	}
	pin, err := s.cfg.Pin()
	if err != nil {
		return Token{}, "", err
	}
	if spec.Expires == 0 {
		spec.Expires = time.Hour
	}
	var raw [32]byte
	rand.Read(raw[:]) // never fails
	secret := base64.RawURLEncoding.EncodeToString(raw[:])
	hash := sha256.Sum256([]byte(secret))
	now = now.UTC().Truncate(time.Millisecond)
	t := Token{ID: db.NewID(now), hash: hash[:], NamePattern: spec.NamePattern, Owner: spec.Owner, CIDR: spec.CIDR, CreatedBy: actor, CreatedAt: now, ExpiresAt: now.Add(spec.Expires)}
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qInsertToken, nil, t.ID, t.hash, t.NamePattern, t.Owner, t.CIDR, actor, t.CreatedAt, t.ExpiresAt)
		return audit.Append(tx, audit.Entry{At: now, Kind: "agent_token.create", Actor: actor, Subject: "agent_token:" + t.ID,
			Data: map[string]any{"name_pattern": t.NamePattern, "owner": t.Owner, "cidr": t.CIDR}})
	})
	return t, fleet.Token{ID: t.ID, Secret: secret, Pin: pin}.String(), err
}

// Tokens returns up to limit tokens in order of creation, after the one with id
// after, used and expired ones too.
func (s *Server) Tokens(ctx context.Context, after string, limit int) ([]Token, error) {
	return db.List(ctx, s.cfg.DB.Read(), qTokens, scanToken, after, limit)
}

// EndToken makes a token useless before its time.
func (s *Server) EndToken(ctx context.Context, id, actor string, now time.Time) error {
	if _, err := db.Get(ctx, s.cfg.DB.Read(), qToken, scanToken, id); errors.Is(err, db.ErrNotFound) {
		return fault.New(fault.NotFound, "there is no enrolment token with this id")
	} else if err != nil {
		return err
	}
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qEndToken, db.ExactlyOne(fault.New(fault.Conflict, "the token was used, or has expired")), id, now)
		return audit.Append(tx, audit.Entry{At: now, Kind: "agent_token.revoke", Actor: actor, Subject: "agent_token:" + id})
	})
}

// admit returns the token that a request for an identity may use. A stranger
// hears the same whatever is wrong with it.
func (s *Server) admit(ctx context.Context, text, name string, from netip.Addr, now time.Time) (Token, error) {
	id, secret, _ := strings.Cut(text, ".")
	var t Token
	var err error
	if db.ValidID(id) {
		if t, err = db.Get(ctx, s.cfg.DB.Read(), qToken, scanToken, id); err != nil && !errors.Is(err, db.ErrNotFound) {
			return t, err
		}
	}
	sum := sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare(sum[:], t.hash) != 1 || !t.UsedAt.IsZero() || !now.Before(t.ExpiresAt) {
		return t, s.refuse("token", &fault.Error{Code: fault.Unauthorized, HTTPStatus: 401,
			Detail: "the enrolment token is unknown, used or expired; make a new one with `chancery agents token create`"})
	}
	if p, err := netip.ParsePrefix(t.CIDR); t.CIDR != "" && (err != nil || !p.Contains(from.Unmap())) {
		return t, s.refuse("address", fault.New(fault.Forbidden, "this enrolment token may not be used from %s", from.Unmap()))
	}
	if ok, err := path.Match(t.NamePattern, name); t.NamePattern != "" && (!ok || err != nil) {
		return t, s.refuse("name", fault.New(fault.Forbidden, "this enrolment token is for agents named %s", t.NamePattern))
	}
	return t, nil
}

// network is the key under which attempts of an address count.
func network(ip netip.Addr) string {
	bits := 32
	if ip = ip.Unmap(); ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return ""
	}
	return p.String()
}

// enroll gives a host an identity for a token.
func (s *Server) enroll(r *httpd.Request) (*httpd.Reply, error) {
	now := time.Now().UTC()
	if ok, retry := s.attempts.Allow(network(r.ClientIP), 1, now); !ok {
		return nil, s.refuse("rate", fault.New(fault.RateLimited, "too many enrolments from this network").Retry(retry))
	}
	var m fleet.Enroll
	if err := message(r, &m); err != nil {
		return nil, err
	}
	if !fleet.ValidName(m.Name) || len(m.Version) > 128 || m.Instance == "" || len(m.Instance) > 64 || !utf8.ValidString(m.Version+m.Instance) {
		return nil, fault.New(fault.Malformed, "an agent's name is 1 to 128 lower-case letters, digits, dots and hyphens")
	}
	ctx := r.Context()
	t, err := s.admit(ctx, m.Token, m.Name, r.ClientIP, now)
	if err != nil {
		return nil, err
	}
	old, err := db.Get(ctx, s.cfg.DB.Read(), qAgentByName, scanAgent, m.Name)
	switch {
	case errors.Is(err, db.ErrNotFound):
		old = Agent{}
	case err != nil:
		return nil, err
	case old.State == Active:
		return nil, s.refuse("name", fault.New(fault.Conflict, "an agent named %s is enrolled; choose another --name, or revoke it first", m.Name))
	}
	return s.identity(ctx, &m, &t, old, r.ClientIP, now)
}

// identity certifies an agent and stores it; only now is the token used.
func (s *Server) identity(ctx context.Context, m *fleet.Enroll, t *Token, old Agent, from netip.Addr, now time.Time) (*httpd.Reply, error) {
	id, generation := old.ID, old.Generation+1
	if id == "" {
		id = db.NewID(now)
	}
	chain, leaf, hash, err := s.certify(ctx, id, m.CSR)
	if err != nil {
		return nil, err
	}
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qUseToken, db.ExactlyOne(fault.New(fault.Unauthorized, "the enrolment token was used meanwhile")), t.ID, now, id)
		if old.ID == "" {
			tx.Queue(qInsertAgent, nil, id, m.Name, t.Owner, hash, leaf.NotAfter, m.Instance, m.Version, from.Unmap().String(), now)
		} else {
			tx.Queue(qReenroll, db.ExactlyOne(fault.New(fault.Conflict, "agent %s was enrolled meanwhile", m.Name)), id, t.Owner, hash, leaf.NotAfter, generation, m.Instance, m.Version, from.Unmap().String(), now)
			tx.Queue(qForgetKeys, nil, id, now)
		}
		return audit.Append(tx, audit.Entry{At: now, Kind: "agent.enroll", Actor: "agent_token:" + t.ID, Subject: "agent:" + id,
			Data: map[string]any{"name": m.Name, "owner": t.Owner, "address": from.Unmap().String(), "generation": generation}})
	})
	if err != nil {
		return nil, err
	}
	return httpd.JSON(http.StatusCreated, fleet.Identity{ID: id, Generation: generation, Chain: chain, Roots: s.cfg.Roots()})
}

// certify issues the certificate of an agent.
func (s *Server) certify(ctx context.Context, id string, csr []byte) (chain [][]byte, leaf *x509.Certificate, hash []byte, err error) {
	if len(csr) > fleet.MaxCSR {
		return nil, nil, nil, fault.New(fault.BadCSR, "the certificate request is larger than %d bytes", fleet.MaxCSR)
	}
	if chain, err = s.cfg.Identify(ctx, id, csr); err != nil {
		return nil, nil, nil, err
	}
	if leaf, err = x509.ParseCertificate(chain[0]); err != nil {
		return nil, nil, nil, err
	}
	sum := sha256.Sum256(chain[0])
	return chain, leaf, sum[:], nil
}

// renew gives an agent its next certificate.
func (s *Server) renew(r *httpd.Request) (*httpd.Reply, error) {
	now := time.Now().UTC()
	var m fleet.Renew
	if err := message(r, &m); err != nil {
		return nil, err
	}
	a, used, err := s.authenticate(r, now)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	repeated, err := s.check(ctx, &a, &m.Session, now)
	if err != nil {
		return nil, err
	}
	if m.Next == "" {
		return nil, fault.New(fault.Malformed, "a renewal needs the next instance")
	}
	chain, leaf, hash, err := s.certify(ctx, a.ID, m.CSR)
	if err != nil {
		return nil, err
	}
	generation := a.Generation
	if !repeated {
		generation++
	}
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qRenew, db.ExactlyOne(fault.New(fault.Conflict, "the agent asked twice at once; ask again").Retry(time.Second)),
			a.ID, generation, m.Next, hash, used, leaf.NotAfter, a.Generation, a.instance)
		return audit.Append(tx, audit.Entry{At: now, Kind: "agent.renew", Actor: "agent:" + a.Name, Subject: "agent:" + a.ID, Data: map[string]any{"generation": generation}})
	})
	if err != nil {
		return nil, err
	}
	return httpd.JSON(http.StatusOK, fleet.Identity{ID: a.ID, Generation: generation, Chain: chain, Roots: s.cfg.Roots()})
}
