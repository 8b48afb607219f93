package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/v2"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/ca"
	"chancery/internal/fault"
)

// Limits of an incident.
const (
	// maxIncidentBody lets 200,000 serial numbers through, in bytes.
	maxIncidentBody = 9 << 20
	// planTime is how long a plan is counted; the answer says when it was cut.
	planTime = 30 * time.Second
)

func (s *Server) incidents() {
	tag := []string{"Incidents"}
	register(s, huma.Operation{OperationID: "create-incident", Method: http.MethodPost, Path: "/incidents", Tags: tag, MaxBodyBytes: maxIncidentBody,
		Summary: "Plan or begin the replacement and revocation of many certificates",
		Description: "From the moment it is made, the renewal windows of its certificates (RFC 9773) lie in the past and point to explanation_url; at revoke_at what is left is revoked, in the background, in chunks that survive a crash anywhere. " +
			"Call it with dry_run first, then again with the plan that it returned. More than 10 certificates need confirm. With an Idempotency-Key the same request may be sent again: it returns the incident that was made."}, s.createIncident)
	register(s, huma.Operation{OperationID: "list-incidents", Method: http.MethodGet, Path: "/incidents", Tags: tag, Summary: "List incidents, newest first"}, s.listIncidents)
	register(s, huma.Operation{OperationID: "get-incident", Method: http.MethodGet, Path: "/incidents/{id}", Tags: tag, Summary: "One incident and how far it is"}, s.getIncident)
	register(s, huma.Operation{OperationID: "cancel-incident", Method: http.MethodPost, Path: "/incidents/{id}/cancel", Tags: tag,
		Summary: "End an incident that has revoked nothing yet", Description: "Renewal windows are then as before, on every replica within 15 seconds."}, s.cancelIncident)
}

// IncidentRequest asks for an incident.
type IncidentRequest struct {
	Name           string   `json:"name" minLength:"1" maxLength:"200" doc:"What happened, for people"`
	ExplanationURL string   `json:"explanation_url,omitempty" maxLength:"2048" doc:"Page that tells subscribers why; clients get it with the renewal window"`
	Query          string   `json:"q,omitempty" maxLength:"1024" doc:"Which certificates, as in list-certificates; or give a list"`
	Certificates   []string `json:"certificates,omitempty" maxItems:"200000" doc:"Ids or serial numbers"`
	Reason         string   `json:"reason,omitempty" default:"unspecified" maxLength:"32" doc:"As in revoke-certificate"`
	BlockKeys      bool     `json:"block_keys,omitempty" doc:"Also refuse their keys for ever; with keyCompromise only"`
	RevokeAt       string   `json:"revoke_at,omitempty" maxLength:"40" doc:"RFC 3339 instant, or a period from now such as 5d; at once when it is not given" example:"5d"`
	DryRun         bool     `json:"dry_run,omitempty" doc:"Only say what would be done"`
	Confirm        bool     `json:"confirm,omitempty" doc:"Needed for more than 10 certificates"`
	Plan           string   `json:"plan,omitempty" maxLength:"64" doc:"plan of a dry run: refuse if other certificates fit by now"`
}

type createIncidentInput struct {
	Key  string `header:"Idempotency-Key" maxLength:"128" pattern:"^[!-~]*$" doc:"The same key with the same request returns the incident that was made"`
	Body IncidentRequest
}

// IncidentPlan is the plan of an incident, and the incident if it was made.
type IncidentPlan struct {
	DryRun   bool          `json:"dry_run"`
	Plan     string        `json:"plan,omitempty" doc:"Names exactly the certificates that fit; none when they were not all counted"`
	Matched  int           `json:"matched" doc:"Issued, unexpired, unrevoked certificates that fit"`
	Whole    bool          `json:"whole" doc:"All were counted; otherwise there are at least so many, and counting them takes longer than a request may"`
	Sample   []Certificate `json:"sample" nullable:"false" doc:"The first 20 of them"`
	Incident *Incident     `json:"incident,omitempty"`
}

// Incident is the replacement and revocation of many certificates.
type Incident struct {
	ID             string           `json:"id"`
	Name           string           `json:"name"`
	ExplanationURL string           `json:"explanation_url,omitempty"`
	Query          string           `json:"q,omitempty" doc:"What it selects; none when it is a list"`
	Listed         int              `json:"listed,omitempty" doc:"How many certificates its list has"`
	Reason         string           `json:"reason" doc:"Name of the reason in RFC 5280"`
	BlockKeys      bool             `json:"block_keys"`
	State          ca.IncidentState `json:"state" enum:"marking,waiting,revoking,done,cancelled" doc:"marking: finds its certificates and moves their windows; waiting: until revoke_at, or two minutes after it was made, for a last look"`
	Actor          string           `json:"actor"`
	CreatedAt      time.Time        `json:"created_at"`
	RevokeAt       time.Time        `json:"revoke_at"`
	FinishedAt     *time.Time       `json:"finished_at,omitempty"`
	Marked         int64            `json:"marked" doc:"Certificates found so far, whose renewal windows have moved"`
	Revoked        int64            `json:"revoked" doc:"Of these, revoked by this incident"`
	Skipped        int64            `json:"skipped" doc:"Of these, revoked by somebody else meanwhile"`
	Left           int64            `json:"left" doc:"marked, less revoked and skipped"`
}

func viewIncident(i *ca.Incident) Incident {
	return Incident{ID: i.ID, Name: i.Name, ExplanationURL: i.ExplanationURL, Query: i.Selection.Query, Listed: len(i.Selection.Certificates),
		Reason: i.Reason.String(), BlockKeys: i.BlockKeys, State: i.State, Actor: i.Actor, CreatedAt: i.CreatedAt, RevokeAt: i.RevokeAt,
		FinishedAt: instant(i.FinishedAt), Marked: i.Marked, Revoked: i.Revoked, Skipped: i.Skipped, Left: max(i.Marked-i.Revoked-i.Skipped, 0)}
}

func (s *Server) createIncident(ctx context.Context, in *createIncidentInput) (*bodyOf[IncidentPlan], error) {
	spec, err := s.incidentSpec(ctx, in)
	if err != nil {
		return nil, err
	}
	if spec.RequestKey != "" && !in.Body.DryRun {
		i, err := ca.RequestedIncident(ctx, s.cfg.DB.Read(), spec.RequestKey, spec.RequestHash)
		if err == nil {
			v := viewIncident(i)
			return &bodyOf[IncidentPlan]{IncidentPlan{Matched: int(i.Marked), Sample: []Certificate{}, Incident: &v}}, nil
		}
		if !fault.Is(err, fault.NotFound) {
			return nil, err
		}
	}
	if spec.Selection.Certificates, err = s.resolved(ctx, in.Body.Certificates); err != nil {
		return nil, err
	}
	if err := spec.Check(now()); err != nil {
		return nil, err
	}
	out, err := s.planIncident(ctx, &in.Body, spec)
	if err != nil || in.Body.DryRun {
		return &bodyOf[IncidentPlan]{out}, err
	}
	i, err := s.cfg.CA.CreateIncident(ctx, spec)
	if err != nil {
		return nil, err
	}
	s.changed()
	v := viewIncident(i)
	out.Incident = &v
	return &bodyOf[IncidentPlan]{out}, nil
}

// incidentSpec reads a request, but for its list of certificates.
func (s *Server) incidentSpec(ctx context.Context, in *createIncidentInput) (spec ca.IncidentSpec, err error) {
	b := &in.Body
	spec = ca.IncidentSpec{Name: b.Name, ExplanationURL: b.ExplanationURL, Selection: ca.Selection{Query: b.Query}, BlockKeys: b.BlockKeys, Actor: actorOf(ctx)}
	if spec.Reason, err = parseReason(b.Reason); err != nil {
		return spec, err
	}
	if spec.RevokeAt, err = parseWhen(b.RevokeAt, now()); err != nil || in.Key == "" {
		return spec, err
	}
	asked := *b
	asked.DryRun, asked.Confirm, asked.Plan = false, false, ""
	text, err := json.Marshal(asked)
	sum := sha256.Sum256(text)
	spec.RequestKey, spec.RequestHash = spec.Actor+" "+in.Key, hex.EncodeToString(sum[:])
	return spec, err
}

// parseWhen reads an instant that may be given as a period from now.
func parseWhen(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return now, nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		if at.Before(now.Add(-time.Minute)) {
			return at, fault.New(fault.Invalid, "revoke_at %s is in the past; leave it out to revoke at once", text)
		}
		return at.UTC(), nil
	}
	d, err := parsePeriod(text)
	if err != nil {
		return now, fault.New(fault.Invalid, "revoke_at %.40q is neither an instant such as 2027-01-31T12:00:00Z nor a period such as 5d", text)
	}
	return now.Add(d), nil
}

// resolved returns the ids that a list stands for.
func (s *Server) resolved(ctx context.Context, refs []string) ([]string, error) {
	if len(refs) == 0 {
		return nil, nil
	}
	return ca.ResolveCertificates(ctx, s.cfg.DB.Read(), refs)
}

// planIncident counts as far as the decision needs it: all for a dry run or to
// compare with a plan, a few to know whether confirm is missing.
func (s *Server) planIncident(ctx context.Context, b *IncidentRequest, spec ca.IncidentSpec) (IncidentPlan, error) {
	ctx, cancel := context.WithTimeout(ctx, planTime)
	defer cancel()
	most := confirmAbove + 1
	if b.DryRun || b.Plan != "" {
		most = 0
	}
	plan, err := ca.PlanIncident(ctx, s.cfg.DB.Read(), spec.Selection, most, now())
	if err != nil {
		return IncidentPlan{}, err
	}
	out := IncidentPlan{DryRun: b.DryRun, Plan: plan.Digest, Matched: plan.Matched, Whole: plan.Whole, Sample: []Certificate{}}
	for i := range plan.Sample {
		out.Sample = append(out.Sample, viewCertificate(&plan.Sample[i], now()))
	}
	switch {
	case b.DryRun:
	case b.Plan != "" && !plan.Whole:
		err = fault.New(fault.Unavailable, "counting the certificates to compare them with the plan takes too long now; try again, or send confirm without plan").Retry(defaultRetry)
	case b.Plan != "" && b.Plan != plan.Digest:
		err = fault.New(fault.Conflict, "other certificates fit than when the plan was made (now %d); look at a new plan with dry_run", plan.Matched)
	case plan.Matched > confirmAbove && !b.Confirm:
		err = fault.New(fault.Precondition, "this revokes more than %d certificates; look at the plan with dry_run, then send confirm", confirmAbove)
	}
	return out, err
}

func (s *Server) listIncidents(ctx context.Context, in *ListInput) (*pageOf[Incident], error) {
	before, err := decodeID(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := ca.ListIncidents(ctx, s.cfg.DB.Read(), before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(i *ca.Incident) string { return i.ID }, viewIncident), nil
}

func (s *Server) getIncident(ctx context.Context, in *IDInput) (*bodyOf[Incident], error) {
	i, err := ca.GetIncident(ctx, s.cfg.DB.Read(), in.ID)
	if err != nil {
		return nil, err
	}
	return &bodyOf[Incident]{viewIncident(&i)}, nil
}

// cancelIncident is done once and may be asked again.
func (s *Server) cancelIncident(ctx context.Context, in *IDInput) (*bodyOf[Incident], error) {
	err := s.cfg.CA.CancelIncident(ctx, in.ID, actorOf(ctx))
	if err != nil && !fault.Is(err, fault.Conflict) {
		return nil, err
	}
	s.changed()
	v, gerr := s.getIncident(ctx, in)
	if gerr != nil || err != nil && v.Body.State != ca.IncidentCancelled {
		return nil, firstOf(gerr, err)
	}
	return v, nil
}

// firstOf returns the first error there is.
func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
