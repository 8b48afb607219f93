package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/fault"
	"chancery/internal/inventory"
	"chancery/internal/renew"
)

// Queue is what waits for one issuer or deployment target.
type Queue struct {
	Kind       string     `json:"kind" enum:"issuer,target"`
	Name       string     `json:"name"`
	Paused     bool       `json:"paused"`
	Divert     string     `json:"divert,omitempty" doc:"Issuer that gets what is due here"`
	Breaker    string     `json:"breaker" enum:"closed,half-open,open"`
	SleepUntil *time.Time `json:"sleep_until,omitempty" doc:"Nothing is begun before: the other side is down, or asked for it"`
	Waiting    int64      `json:"waiting" doc:"Due, not begun"`
	InFlight   int64      `json:"in_flight"`
	Cap        int        `json:"cap" doc:"Most at once, in the whole fleet"`
	Allowed    int        `json:"allowed" doc:"As many of cap as may be in flight now"`
	Oldest     *time.Time `json:"oldest,omitempty" doc:"Since when the first of those waiting is due"`
	Next       *time.Time `json:"next,omitempty" doc:"When the next one is due, if none is"`
	Error      string     `json:"error,omitempty"`
}

// RenewalPlan is the load of the days ahead.
type RenewalPlan struct {
	Days    []PlanDay    `json:"days" nullable:"false"`
	Issuers []IssuerPlan `json:"issuers" nullable:"false"`
}

// PlanDay is one UTC day of a plan.
type PlanDay struct {
	Date     string         `json:"date" format:"date"`
	Orders   int            `json:"orders"`
	ByIssuer map[string]int `json:"by_issuer,omitempty"`
	Deferred int            `json:"deferred,omitempty" doc:"Orders that wait for another day, because a budget is used up"`
}

// IssuerPlan sums up one issuer in a plan.
type IssuerPlan struct {
	Name         string  `json:"name"`
	Certificates int     `json:"certificates"`
	PerDay       float64 `json:"per_day" doc:"Orders a day in the long run"`
	PerDayNow    float64 `json:"per_day_now" doc:"The same with the lives that certificates have now"`
	Peak         int     `json:"peak"`
	PeakAt       string  `json:"peak_at,omitempty" format:"date"`
	Capacity     float64 `json:"capacity,omitempty" doc:"Orders a day that the account's budget allows; none when it is not limited"`
	Budget       string  `json:"budget,omitempty"`
	ClearedAt    string  `json:"cleared_at,omitempty" format:"date" doc:"When nothing waits for the budget any more"`
	Enough       bool    `json:"enough" doc:"Nothing waits for the budget at the end of the plan"`
}

// Drift is an endpoint that serves something else than it should.
type Drift struct {
	Host       string     `json:"host"`
	Port       int        `json:"port"`
	SNI        string     `json:"sni,omitempty"`
	Address    string     `json:"address,omitempty"`
	Desired    string     `json:"desired" doc:"Id of the certificate that should be served"`
	Served     string     `json:"served,omitempty" doc:"Id of the certificate that was found; none when nobody has looked yet"`
	LastSeenAt *time.Time `json:"last_seen_at,omitempty"`
	Failure    string     `json:"failure,omitempty"`
}

// Drill is a rehearsal of replacing many certificates.
type Drill struct {
	ID         string     `json:"id"`
	Issuer     string     `json:"issuer"`
	Owner      string     `json:"owner,omitempty"`
	Total      int        `json:"total"`
	Done       int        `json:"done"`
	Failed     int        `json:"failed"`
	StartedAt  time.Time  `json:"started_at"`
	FinishedAt *time.Time `json:"finished_at,omitempty"`
	Seconds    float64    `json:"seconds" doc:"How long it took, or has taken"`
	PerSecond  float64    `json:"per_second" doc:"Certificates a second"`
}

func (s *Server) queues() {
	op := func(id, method, path, summary string, status int) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, DefaultStatus: status, Tags: []string{"Renewal"}}
	}
	register(s, op("list-queues", http.MethodGet, "/queues", "What waits for each issuer and target", 200), s.listQueues)
	register(s, op("change-queue", http.MethodPatch, "/queues/{kind}/{id}", "Pause, resume, divert or reset a queue", 200), s.changeQueue)
	register(s, op("plan-renewals", http.MethodGet, "/renewal-plan", "The load of the days ahead, against the budgets of issuers", 200), s.planRenewals)
	register(s, op("list-drift", http.MethodGet, "/drift", "Endpoints that serve something else than they should", 200), s.listDrift)
	register(s, op("list-drills", http.MethodGet, "/drills", "The latest rehearsals", 200), s.listDrills)
	register(s, op("get-drill", http.MethodGet, "/drills/{id}", "One rehearsal", 200), s.getDrill)
	register(s, op("start-drill", http.MethodPost, "/drills", "Rehearse the replacement of many certificates", 201), s.startDrill)
}

func viewQueue(l *renew.LaneView) Queue {
	return Queue{Kind: string(l.Kind), Name: l.Name, Paused: l.Paused, Divert: l.Divert, Breaker: string(l.Breaker), SleepUntil: instant(l.SleepUntil),
		Waiting: l.Waiting, InFlight: l.InFlight, Cap: l.Cap, Allowed: l.Allowed, Oldest: instant(l.Oldest), Next: instant(l.Next), Error: l.Error}
}

func (s *Server) listQueues(ctx context.Context, in *ListInput) (*pageOf[Queue], error) {
	lanes, err := s.cfg.Renew.Lanes(ctx)
	if err != nil {
		return nil, err
	}
	return pageOfAll(lanes, in, func(l *renew.LaneView) string { return string(l.Kind) + "/" + l.Name }, viewQueue)
}

type changeQueueInput struct {
	Kind string `path:"kind" enum:"issuer,target"`
	IDInput
	Body struct {
		Paused *bool   `json:"paused,omitempty" doc:"true: nothing new is begun; what is under way ends"`
		Divert *string `json:"divert,omitempty" maxLength:"64" doc:"Issuer that gets what is due here from now on; empty: none"`
		Reset  bool    `json:"reset,omitempty" doc:"Try again now: closes the breaker, wakes the account"`
	}
}

func (s *Server) changeQueue(ctx context.Context, in *changeQueueInput) (*bodyOf[Queue], error) {
	kind := renew.LaneKind(in.Kind)
	err := s.cfg.Renew.EditLane(ctx, kind, in.ID, renew.LaneEdit{Paused: in.Body.Paused, Divert: in.Body.Divert, Reset: in.Body.Reset}, actorOf(ctx))
	if err != nil {
		return nil, err
	}
	lanes, err := s.cfg.Renew.Lanes(ctx)
	if err != nil {
		return nil, err
	}
	for i := range lanes {
		if lanes[i].Kind == kind && lanes[i].Name == in.ID {
			return &bodyOf[Queue]{viewQueue(&lanes[i])}, nil
		}
	}
	return nil, fault.New(fault.NotFound, "there is no %s %.64q", in.Kind, in.ID)
}

type planInput struct {
	Days     int    `query:"days" minimum:"1" maximum:"400" default:"60"`
	Lifetime string `query:"lifetime" maxLength:"32" doc:"Life of every certificate from its next renewal on, such as 47d; as it is now when not given"`
	Issuer   string `query:"issuer" maxLength:"64"`
	Import   int    `query:"import" minimum:"0" maximum:"100000000" doc:"Certificates that come on top, today, at issuer"`
}

// date formats a day; "" for none.
func date(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateOnly)
}

func (s *Server) planRenewals(ctx context.Context, in *planInput) (*bodyOf[RenewalPlan], error) {
	life, err := parsePeriod(in.Lifetime)
	if err != nil {
		return nil, err
	}
	p, err := s.cfg.Renew.Plan(ctx, renew.PlanQuery{Days: in.Days, Lifetime: life, Issuer: in.Issuer, Import: in.Import})
	if err != nil {
		return nil, err
	}
	out := RenewalPlan{Days: make([]PlanDay, len(p.Days)), Issuers: make([]IssuerPlan, len(p.Issuers))}
	for i, d := range p.Days {
		out.Days[i] = PlanDay{date(d.Date), d.Orders, d.ByIssuer, d.Deferred}
	}
	for i, x := range p.Issuers {
		out.Issuers[i] = IssuerPlan{x.Name, x.Certificates, x.PerDay, x.PerDayNow, x.Peak, date(x.PeakAt), x.Capacity, x.Budget, date(x.ClearedAt), x.Enough}
	}
	return &bodyOf[RenewalPlan]{out}, nil
}

func viewDrift(e *inventory.Endpoint) Drift {
	return Drift{e.Host, e.Port, e.SNI, e.Address, e.DesiredID, e.CertificateID, instant(e.LastSeenAt), e.Failure}
}

func (s *Server) listDrift(ctx context.Context, in *ListInput) (*pageOf[Drift], error) {
	p, err := s.cfg.Renew.Drift(ctx, in.Cursor, in.Limit)
	if err != nil {
		return nil, err
	}
	out := &pageOf[Drift]{Page[Drift]{Items: make([]Drift, 0, len(p.Endpoints)), Next: p.Next}}
	for i := range p.Endpoints {
		out.Body.Items = append(out.Body.Items, viewDrift(&p.Endpoints[i]))
	}
	return out, nil
}

func viewDrill(d *renew.Drill) Drill {
	took := d.Took(now())
	v := Drill{ID: d.ID, Issuer: d.Issuer, Owner: d.Owner, Total: d.Total, Done: d.Done, Failed: d.Failed, StartedAt: d.StartedAt,
		FinishedAt: instant(d.FinishedAt), Seconds: took.Seconds()}
	if took > 0 {
		v.PerSecond = float64(d.Done) / took.Seconds()
	}
	return v
}

func (s *Server) listDrills(ctx context.Context, in *ListInput) (*pageOf[Drill], error) {
	ds, err := renew.Drills(ctx, s.cfg.DB.Read(), maxPage)
	if err != nil {
		return nil, err
	}
	// The newest first: the key counts down.
	after, err := decodeID(in.Cursor)
	if err != nil {
		return nil, err
	}
	for len(ds) > 0 && after != "" && ds[0].ID >= after {
		ds = ds[1:]
	}
	return pageFrom(ds[:min(len(ds), in.Limit+1)], in.Limit, func(d *renew.Drill) string { return d.ID }, viewDrill), nil
}

func (s *Server) getDrill(ctx context.Context, in *IDInput) (*bodyOf[Drill], error) {
	d, err := renew.GetDrill(ctx, s.cfg.DB.Read(), in.ID)
	if err != nil {
		return nil, err
	}
	return &bodyOf[Drill]{viewDrill(&d)}, nil
}

type startDrillInput struct {
	Body struct {
		Issuer string `json:"issuer" maxLength:"64" doc:"Where the certificates are ordered; a staging issuer, as a rule"`
		Owner  string `json:"owner,omitempty" maxLength:"255" doc:"Only certificates of this owner"`
		Limit  int    `json:"limit" minimum:"1" maximum:"100000" default:"1000" doc:"At most so many certificates"`
	}
}

func (s *Server) startDrill(ctx context.Context, in *startDrillInput) (*bodyOf[Drill], error) {
	d, err := s.cfg.Renew.StartDrill(ctx, in.Body.Issuer, in.Body.Owner, in.Body.Limit, actorOf(ctx))
	if err != nil {
		return nil, err
	}
	return &bodyOf[Drill]{viewDrill(&d)}, nil
}
