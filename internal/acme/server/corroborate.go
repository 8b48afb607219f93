package server

import (
	"context"
	"encoding/json/v2"
	"errors"
	"time"

	"chancery/internal/acme/challenge"
	"chancery/internal/acme/perspective"
	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Evidence is what remote network perspectives said of an authorization at one
// time: each of them, whether they confirmed it together or not.
type Evidence struct {
	ID           string
	AuthzID      string
	Kind         EvidenceKind
	Identifier   pki.Identifier // looked at; another than the authorization's for what is below a domain
	Method       challenge.Type
	Corroborated bool
	At           time.Time // of the question
	Observations []challenge.Observation
}

// EvidenceKind says what the perspectives were asked.
type EvidenceKind string

// Kinds of evidence.
const (
	EvidenceValidation EvidenceKind = "validation" // to validate and to check CAA
	EvidenceCAA        EvidenceKind = "caa"        // to check CAA again
)

var (
	qInsertEvidence = db.SQL("acme.insert_evidence", `INSERT INTO acme_evidence (id, authz_id, kind, identifier, method, corroborated, at, observations)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`)
	qListEvidence = db.SQL("acme.list_evidence", `SELECT id, authz_id, kind, identifier, method, corroborated, at, observations FROM acme_evidence
		WHERE authz_id = $1 ORDER BY id LIMIT $2`)
	qExpireEvidence = db.SQL("acme.delete_expired_evidence", `DELETE FROM acme_evidence WHERE authz_id IN
		(SELECT id FROM acme_authz WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)`)
)

// maxEvidence is how many times of one authorization are shown.
const maxEvidence = 100

// ListEvidence returns what is known of an authorization, the oldest first.
func ListEvidence(ctx context.Context, q db.Q, authzID string) (list []Evidence, err error) {
	err = q.All(ctx, qListEvidence, func(r *db.Row) error {
		e := Evidence{ID: r.Text(), AuthzID: r.Text(), Kind: EvidenceKind(r.Text()), Identifier: identifierOf(r.Text(), false)}
		e.Method, e.Corroborated, e.At = challenge.Type(r.Text()), r.Bool(), r.Time()
		err := decodeText(r.Text(), &e.Observations)
		list = append(list, e)
		return err
	}, authzID, maxEvidence)
	return list, wrap("read evidence of authorization "+authzID, err)
}

// GetAuthorization returns one authorization.
func GetAuthorization(ctx context.Context, q db.Q, id string) (z Authorization, err error) {
	one := q.One(ctx, qAuthz, func(r *db.Row) { z, err = scanAuthz(r) }, id)
	if errors.Is(one, db.ErrNotFound) {
		return z, fault.New(fault.NotFound, "there is no authorization %.64q", id)
	}
	return z, wrap("read authorization", errors.Join(one, err))
}

// minRemotes is how many remote perspectives must have been asked for what is
// issued at now: by the operator's choice, or by the trust profile's if that
// is stricter.
func (a *authority) minRemotes(now time.Time) int {
	return max(a.MinPerspectives, a.Trust.At(now).MinRemotes)
}

// enoughRemotes refuses to look at an identifier in vain.
func (s *Server) enoughRemotes(a *authority, id pki.Identifier, now time.Time) error {
	if have, need := s.cfg.Perspectives.Len(), a.minRemotes(now); have < need && networked(id) {
		return fault.New(fault.Unavailable, "this CA must look at %s from %d remote network perspectives and has %d; its operator must configure more", id.Value, need, have).
			Retry(time.Hour)
	}
	return nil
}

// networked reports whether control of id is shown over the network, where
// remote perspectives can look.
func networked(id pki.Identifier) bool { return id.Type == pki.DNS || id.Type == pki.IP }

// confirmed returns from how many remote perspectives an identifier's proof
// and CAA check were confirmed. Addresses have no CAA records.
func confirmed(id pki.Identifier, p challenge.Proof, c challenge.Clearance) int {
	if id.Type == pki.IP {
		return p.Corroboration().Remotes
	}
	return min(p.Corroboration().Remotes, c.Corroboration().Remotes)
}

// recordData is the journal's share of a record. The whole is in the table.
type recordData struct {
	Identifier string   `json:"identifier"`
	Method     string   `json:"method"`
	Kind       string   `json:"kind"`
	Agree      []string `json:"agree"`
	Disagree   []string `json:"disagree,omitempty"`
	Silent     []string `json:"silent,omitempty"`
}

// noteRecord adds what the perspectives said of an authorization to tx, and to
// the journal. A nil record is nothing.
func noteRecord(tx *db.Tx, authzID string, id pki.Identifier, method challenge.Type, r *perspective.Record, actor string) error {
	if r == nil {
		return nil
	}
	text, err := json.Marshal(r.Observations)
	if err != nil {
		return wrap("encode observations", err)
	}
	kind, verb := EvidenceValidation, audit.Kind("authorization.corroborate")
	if r.CAAOnly {
		kind = EvidenceCAA
	}
	if !r.Corroborated {
		verb = "authorization.contradict"
	}
	tx.Queue(qInsertEvidence, nil, db.NewID(r.At), authzID, kind, id.String(), method, r.Corroborated, r.At, string(text))
	data := recordData{Identifier: id.Value, Method: string(method), Kind: string(kind), Agree: []string{}}
	for _, o := range r.Observations {
		switch o.Verdict {
		case challenge.Agrees:
			data.Agree = append(data.Agree, o.Perspective)
		case challenge.Disagrees:
			data.Disagree = append(data.Disagree, o.Perspective)
		default:
			data.Silent = append(data.Silent, o.Perspective)
		}
	}
	return audit.Append(tx, audit.Entry{At: r.At, Kind: verb, Actor: actor, Subject: "authorization:" + authzID, Data: data})
}

// keepRecord stores a record by itself, when nothing else is written. That it
// could not be is no reason to refuse, or to permit, anything.
func (s *Server) keepRecord(authzID string, id pki.Identifier, method challenge.Type, r *perspective.Record, actor string) {
	if r == nil {
		return
	}
	ctx, done := context.WithTimeout(context.WithoutCancel(s.ctx), settleTimeout)
	defer done()
	err := s.db.Write(ctx, func(tx *db.Tx) error { return noteRecord(tx, authzID, id, method, r, actor) })
	if err != nil {
		s.log.ErrorContext(ctx, "evidence not stored", "authorization", authzID, "error", err)
	}
}

// actor names the account of a trial in the journal.
func (t *trial) actor() string { return "account:" + t.authz.AccountID }

// note adds the record of a trial to tx.
func (t *trial) note(tx *db.Tx) error {
	return noteRecord(tx, t.authz.ID, t.authz.Identifier, t.challenge().Type, t.record, t.actor())
}
