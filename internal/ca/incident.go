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
}

// Bounds of an IncidentSpec.
const (
	maxIncidentName = 200
	maxIncidentList = 200_000
)

func (spec *IncidentSpec) check(now time.Time) error {
	if spec.Name == "" || len(spec.Name) > maxIncidentName {
		return fault.New(fault.Invalid, "an incident needs a name of at most %d characters", maxIncidentName)
	}
	if u, err := url.Parse(spec.ExplanationURL); spec.ExplanationURL != "" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "") {
		return fault.New(fault.Invalid, "%.100q is not an http(s) URL that explains the incident", spec.ExplanationURL)
	}
	if _, err := CheckReason(int(spec.Reason)); err != nil {
		return err
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

// IncidentPlan is what an incident would do.
type IncidentPlan struct {
	Matched int           // issued, unexpired, unrevoked certificates that fit
	Sample  []Certificate // the first 20 of them, as Find returns them
}

// planSample is how many certificates a plan shows.
const planSample = 20

// PlanIncident counts what a selection stands for now. It reads everything that
// may fit, one bounded page after the other: a query that no index serves takes
// seconds for each million certificates.
func PlanIncident(ctx context.Context, q db.Q, sel Selection, now time.Time) (IncidentPlan, error) {
	var plan IncidentPlan
	for at := ""; ; {
		page, next, err := sel.page(ctx, q, at, now, now)
		if err != nil {
			return plan, err
		}
		plan.Matched += len(page)
		plan.Sample = append(plan.Sample, page[:min(len(page), planSample-len(plan.Sample))]...)
		if at = next; at == "" {
			return plan, nil
		}
	}
}

// page returns some certificates of a selection that can be revoked, and the
// position behind them, "" at the end. Relative times in the query count from
// frozen.
func (sel *Selection) page(ctx context.Context, q db.Q, at string, frozen, now time.Time) (found []Certificate, next string, err error) {
	query, err := sel.query(frozen)
	if err != nil {
		return nil, "", err
	}
	var page Page
	if len(sel.Certificates) > 0 {
		page, err = sel.listed(ctx, q, at)
	} else {
		page, err = Find(ctx, q, query, at, revokeChunk)
	}
	found = slices.DeleteFunc(page.Certificates, func(c Certificate) bool {
		return c.Status(now) != StatusIssued || c.CreatedAt.After(frozen)
	})
	return found, page.Next, err
}

var qListIDs = db.SQL("ca.list_by_ids", `SELECT `+listColumns+` FROM certificate WHERE id = ANY($1::text[])`)

// listed is one page of a list; the position is the last id before it.
func (sel *Selection) listed(ctx context.Context, q db.Q, at string) (page Page, err error) {
	ids := sel.Certificates
	if i := slices.Index(ids, at); i >= 0 {
		ids = ids[i+1:]
	}
	if len(ids) > revokeChunk {
		ids = ids[:revokeChunk]
		page.Next = ids[revokeChunk-1]
	}
	page.Certificates, err = db.List(ctx, q, qListIDs, scanListed, ids)
	return page, err
}

const incidentColumns = `id, name, explanation_url, selection, reason, block_keys, state, actor, created_at, revoke_at, finished_at, pass_at,
	position, marked, revoked, skipped, lease_token`

var (
	qInsertIncident = db.SQL("ca.insert_incident", `INSERT INTO incident (id, name, explanation_url, selection, reason, block_keys, state, actor,
		created_at, revoke_at, position, marked, revoked, skipped, due_at, lease_token)
		VALUES ($1, $2, $3, $4, $5, $6, 'marking', $7, $8, $9, '', 0, 0, 0, $8, '')`)
	qIncident  = db.SQL("ca.get_incident", `SELECT `+incidentColumns+` FROM incident WHERE id = $1`)
	qIncidents = db.SQL("ca.list_incidents", `SELECT `+incidentColumns+` FROM incident WHERE id < $1 ORDER BY id DESC LIMIT $2`)
	qCancel    = db.SQL("ca.cancel_incident", `UPDATE incident SET state = 'cancelled', finished_at = $2, lease_token = ''
		WHERE id = $1 AND state IN ('marking', 'waiting')`)
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

// CreateIncident records an incident; RunIncidents does the rest.
func (s *Service) CreateIncident(ctx context.Context, spec IncidentSpec) (*Incident, error) {
	now := time.Now().UTC().Truncate(time.Millisecond)
	if err := spec.check(now); err != nil {
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
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qInsertIncident, nil, i.ID, i.Name, i.ExplanationURL, string(selection), int64(i.Reason), i.BlockKeys, i.Actor, i.CreatedAt, i.RevokeAt)
		return i.journal(tx, "incident.create", i.Actor, map[string]any{"name": i.Name, "reason": i.Reason.String(),
			"revoke_at": i.RevokeAt.Format(time.RFC3339), "query": spec.Selection.Query, "listed": len(spec.Selection.Certificates)})
	})
	if err != nil {
		return nil, fmt.Errorf("store incident: %w", err)
	}
	return i, nil
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
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qCancel, db.ExactlyOne(fault.New(fault.Conflict, "the incident is %s; only one that has not begun to revoke can be cancelled", i.State)), id, now)
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
