package ca

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Incident is a reason to replace and revoke many certificates: a bug, a
// compromised key, a name that changed hands. From the moment it is made, the
// renewal windows of its certificates lie in the past and point to an
// explanation (RFC 9773 section 4.2), so clients renew; at RevokeAt what is
// left is revoked. Its work is done in small transactions by RunIncidents, on
// any replica, and survives a crash anywhere.
type Incident struct {
	ID             string
	Name           string // short, for people
	ExplanationURL string // "": none
	Selection      Selection
	Reason         pki.Reason
	BlockKeys      bool // also forbid the keys for ever; with keyCompromise only
	State          IncidentState
	Actor          string
	CreatedAt      time.Time
	RevokeAt       time.Time
	FinishedAt     time.Time // zero: open

	Marked  int64 // certificates found so far, whose windows have moved
	Revoked int64 // of these, revoked by this incident
	Skipped int64 // of these, revoked by somebody else meanwhile

	passAt   time.Time // when the last search for its certificates began; zero: never
	position string    // where the stage goes on
	token    string    // of the lease
}

// IncidentState is where an incident stands.
type IncidentState string

// States of an incident.
const (
	IncidentMarking   IncidentState = "marking"   // finding its certificates
	IncidentWaiting   IncidentState = "waiting"   // until RevokeAt, or for a last look (see settle)
	IncidentRevoking  IncidentState = "revoking"  //
	IncidentDone      IncidentState = "done"      //
	IncidentCancelled IncidentState = "cancelled" // nothing more is revoked, renewal windows are as before
)

// Valid reports whether s is a known state.
func (s IncidentState) Valid() bool { return slices.Contains(incidentStates, s) }

var incidentStates = []IncidentState{IncidentMarking, IncidentWaiting, IncidentRevoking, IncidentDone, IncidentCancelled}

// Open reports whether work is left.
func (s IncidentState) Open() bool { return s != IncidentDone && s != IncidentCancelled }

// Selection says which certificates an incident is about: those that fit
// Query (see ParseQuery), or exactly the listed ones.
type Selection struct {
	Query        string   `json:"query,omitzero"`
	Certificates []string `json:"certificates,omitempty"` // ids
}

// IncidentSpec asks for an incident.
type IncidentSpec struct {
	Name           string
	ExplanationURL string
	Selection      Selection
	Reason         pki.Reason
	BlockKeys      bool
	RevokeAt       time.Time // not after now: at once
	Actor          string

	// RequestKey makes the request repeatable: a second one with the same key
	// returns the incident of the first, or a conflict fault when RequestHash,
	// which stands for all that was asked, differs. "": each makes an incident.
	RequestKey, RequestHash string
}

// Bounds of an IncidentSpec.
const (
	maxIncidentName = 200
	maxIncidentList = 200_000
	maxRequestKey   = 256
)

// Check returns a fault when spec makes no sense.
func (spec *IncidentSpec) Check(now time.Time) error {
	if spec.Name == "" || len(spec.Name) > maxIncidentName {
		return fault.New(fault.Invalid, "an incident needs a name of at most %d characters", maxIncidentName)
	}
	if u, err := url.Parse(spec.ExplanationURL); spec.ExplanationURL != "" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "") {
		return fault.New(fault.Invalid, "%.100q is not an http(s) URL that explains the incident", spec.ExplanationURL)
	}
	if _, err := CheckReason(int(spec.Reason)); err != nil {
		return err
	}
	if len(spec.RequestKey) > maxRequestKey {
		return fault.New(fault.Invalid, "the key of a request has at most %d characters", maxRequestKey)
	}
	if spec.BlockKeys && spec.Reason != pki.KeyCompromise {
		return fault.New(fault.Invalid, "keys are blocked with the reason keyCompromise only")
	}
	_, err := spec.Selection.query(now)
	return err
}

// query returns the parsed query of a selection, which must be one of its two
// kinds.
func (sel *Selection) query(now time.Time) (Query, error) {
	if (sel.Query == "") == (len(sel.Certificates) == 0) {
		return Query{}, fault.New(fault.Invalid, "select certificates by a query or by a list, one of them")
	}
	if len(sel.Certificates) > maxIncidentList {
		return Query{}, fault.New(fault.Invalid, "a list holds at most %d certificates; split it, or use a query", maxIncidentList)
	}
	for _, id := range sel.Certificates {
		if !db.ValidID(id) {
			return Query{}, fault.New(fault.Invalid, "%.64q is not the id of a certificate; find it with a query", id)
		}
	}
	return ParseQuery(sel.Query, now)
}

const incidentColumns = `id, name, explanation_url, selection, reason, block_keys, state, actor, created_at, revoke_at, finished_at, pass_at,
	position, marked, revoked, skipped, lease_token`

var (
	qInsertIncident = db.SQL("ca.insert_incident", `INSERT INTO incident (id, name, explanation_url, selection, reason, block_keys, state, actor,
		created_at, revoke_at, position, marked, revoked, skipped, due_at, lease_token, request_key, request_hash)
		VALUES ($1, $2, $3, $4, $5, $6, 'marking', $7, $8, $9, '', 0, 0, 0, $8, '', $10, $11) ON CONFLICT DO NOTHING`)
	qRequested = db.SQL("ca.get_requested_incident", `SELECT request_hash, `+incidentColumns+` FROM incident WHERE request_key = $1`)
	qIncident  = db.SQL("ca.get_incident", `SELECT `+incidentColumns+` FROM incident WHERE id = $1`)
	qIncidents = db.SQL("ca.list_incidents", `SELECT `+incidentColumns+` FROM incident WHERE id < $1 ORDER BY id DESC LIMIT $2`)
	qCancel    = db.SQL("ca.cancel_incident", `UPDATE incident SET state = 'cancelled', finished_at = $2, lease_token = ''
		WHERE id = $1 AND state IN ('marking', 'waiting') AND revoked + skipped = 0`)
	// A certificate belongs to the incident that revokes it first, so those that
	// would have revoked later look again for what is theirs now.
	qMarkAgain = db.SQL("ca.mark_again", `UPDATE incident SET state = 'marking', position = '', due_at = $2, lease_token = '', finished_at = NULL
		WHERE id <> $1 AND state <> 'cancelled' AND revoke_at >= $3`, db.Scan("incidents are few, cancelled ones fewer"))
)

func scanIncident(r *db.Row) Incident {
	i := Incident{ID: r.Text(), Name: r.Text(), ExplanationURL: r.Text()}
	selection := r.Text()
	i.Reason, i.BlockKeys, i.State, i.Actor = pki.Reason(r.Int()), r.Bool(), IncidentState(r.Text()), r.Text()
	i.CreatedAt, i.RevokeAt, i.FinishedAt, i.passAt = r.Time(), r.Time(), r.Time(), r.Time()
	i.position, i.Marked, i.Revoked, i.Skipped, i.token = r.Text(), r.Int64(), r.Int64(), r.Int64(), r.Text()
	// Written by this package only. A selection that does not parse is empty,
	// which is an error to whoever uses it.
	_ = json.Unmarshal([]byte(selection), &i.Selection)
	return i
}

// CreateIncident records an incident; RunIncidents does the rest. With a
// RequestKey that was used before it returns the incident of that time.
func (s *Service) CreateIncident(ctx context.Context, spec IncidentSpec) (*Incident, error) {
	now := time.Now().UTC().Truncate(time.Millisecond)
	if err := spec.Check(now); err != nil {
		return nil, err
	}
	if spec.RevokeAt.Before(now) {
		spec.RevokeAt = now
	}
	selection, err := json.Marshal(spec.Selection)
	if err != nil {
		return nil, fmt.Errorf("encode selection: %w", err)
	}
	i := &Incident{ID: db.NewID(now), Name: spec.Name, ExplanationURL: spec.ExplanationURL, Selection: spec.Selection, Reason: spec.Reason,
		BlockKeys: spec.BlockKeys, State: IncidentMarking, Actor: spec.Actor, CreatedAt: now, RevokeAt: spec.RevokeAt.UTC()}
	made := false
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, qInsertIncident, i.ID, i.Name, i.ExplanationURL, string(selection), int64(i.Reason), i.BlockKeys, i.Actor,
			i.CreatedAt, i.RevokeAt, orNull(&spec.RequestKey), orNull(&spec.RequestHash))
		if made = n == 1; err != nil || !made {
			return err
		}
		return i.journal(tx, "incident.create", i.Actor, map[string]any{"name": i.Name, "reason": i.Reason.String(), "explanation_url": i.ExplanationURL,
			"revoke_at": i.RevokeAt.Format(time.RFC3339), "query": spec.Selection.Query, "listed": len(spec.Selection.Certificates)})
	})
	if err != nil {
		return nil, fmt.Errorf("store incident: %w", err)
	}
	if !made {
		return RequestedIncident(ctx, s.db.Read(), spec.RequestKey, spec.RequestHash)
	}
	return i, nil
}

// RequestedIncident returns the incident that a request with this key made, a
// notFound fault if there is none, or a conflict fault if that request was
// another one.
func RequestedIncident(ctx context.Context, q db.Q, key, hash string) (*Incident, error) {
	var i Incident
	var asked string
	err := q.One(ctx, qRequested, func(r *db.Row) { asked = r.Text(); i = scanIncident(r) }, key)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return nil, fault.New(fault.NotFound, "no request had this key")
	case err != nil:
		return nil, fmt.Errorf("read incident of a request: %w", err)
	case asked != hash:
		return nil, fault.New(fault.Conflict, "this key was used for another request, which made incident %s; use a new key for a new incident", i.ID)
	}
	return &i, nil
}

func (i *Incident) journal(tx *db.Tx, kind audit.Kind, actor string, data map[string]any) error {
	return audit.Append(tx, audit.Entry{At: time.Now(), Kind: kind, Actor: actor, Subject: "incident:" + i.ID, Data: data})
}

// GetIncident returns the incident with an id, or a notFound fault.
func GetIncident(ctx context.Context, q db.Q, id string) (Incident, error) {
	i, err := db.Get(ctx, q, qIncident, scanIncident, id)
	if errors.Is(err, db.ErrNotFound) {
		return i, fault.New(fault.NotFound, "there is no incident %q", id)
	}
	return i, err
}

// ListIncidents returns up to limit incidents before the one with id before
// ("" = from the newest), newest first.
func ListIncidents(ctx context.Context, q db.Q, before string, limit int) ([]Incident, error) {
	if before == "" {
		before = "~" // behind every id
	}
	return db.List(ctx, q, qIncidents, scanIncident, before, limit)
}

// CancelIncident ends an incident that has not begun to revoke. The renewal
// windows of its certificates are as before, within explanationAge.
func (s *Service) CancelIncident(ctx context.Context, id, actor string) error {
	i, err := GetIncident(ctx, s.db.Read(), id)
	if err != nil {
		return err
	}
	now := time.Now()
	tooLate := fault.New(fault.Conflict, "the incident is %s and has revoked %d certificates; only one that has not begun to revoke can be cancelled", i.State, i.Revoked)
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qCancel, db.ExactlyOne(tooLate), id, now)
		tx.Queue(qMarkAgain, nil, id, now, i.RevokeAt)
		return i.journal(tx, "incident.cancel", actor, nil)
	})
	s.explanations.Delete(id)
	return err
}

// explanationAge is how long an explanation is remembered: how long another
// replica may not know that an incident was cancelled.
const explanationAge = 15 * time.Second

// explanation is what Explanation remembers of one incident.
type explanation struct {
	url   string
	since time.Time // zero: cancelled
	at    time.Time // when it was read
}

// Explanation returns since when c should be renewed at once because of its
// incident, and the URL that says why. ok is false for a certificate without
// one, or whose incident was cancelled. The database is asked only once in a
// while.
func (s *Service) Explanation(ctx context.Context, c *Certificate, now time.Time) (since time.Time, url string, ok bool, err error) {
	if c.IncidentID == "" {
		return since, "", false, nil
	}
	if e, found := s.explanations.Load(c.IncidentID); found && now.Sub(e.(explanation).at) < explanationAge {
		e := e.(explanation)
		return e.since, e.url, !e.since.IsZero(), nil
	}
	i, err := GetIncident(ctx, s.db.Read(), c.IncidentID)
	if err != nil {
		return since, "", false, fmt.Errorf("read incident of certificate %s: %w", c.ID, err)
	}
	e := explanation{url: i.ExplanationURL, since: i.CreatedAt, at: now}
	if i.State == IncidentCancelled {
		e.since = time.Time{}
	}
	s.explanations.Store(i.ID, e)
	return e.since, e.url, !e.since.IsZero(), nil
}
