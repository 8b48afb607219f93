package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/fault"
	"chancery/internal/pki"
	"chancery/internal/renew"
)

// ManagedSpec says which certificate is wanted, from whom, and where.
type ManagedSpec struct {
	Name        string          `json:"name,omitempty" maxLength:"64" doc:"For people and files; made from the first name when it is not given"`
	Names       []string        `json:"names,omitempty" maxItems:"100" doc:"DNS names and IP addresses"`
	Owner       string          `json:"owner,omitempty" maxLength:"255"`
	Issuer      string          `json:"issuer,omitempty" maxLength:"64" doc:"[issuer.NAME] of the configuration; may be left out when there is only one"`
	Fallbacks   []string        `json:"fallbacks,omitempty" maxItems:"8" doc:"Issuers to use while issuer is down; those of its configuration when not given"`
	KeyType     pki.KeyType     `json:"key_type,omitempty" default:"p256" enum:"p256,p384,rsa2048,rsa3072,rsa4096,ed25519,ml-dsa-44,ml-dsa-65,ml-dsa-87"`
	KeyPolicy   string          `json:"key_policy,omitempty" default:"new" enum:"new,reuse" doc:"Whether each certificate has a key of its own"`
	Profile     string          `json:"profile,omitempty" maxLength:"128" doc:"Profile or product at the issuer; its default when not given"`
	Targets     []ManagedTarget `json:"targets,omitempty" maxItems:"64"`
	Endpoints   []string        `json:"endpoints,omitempty" maxItems:"64" doc:"host:port that should serve it; what scans find there is held against it"`
	RenewBefore string          `json:"renew_before,omitempty" maxLength:"32" doc:"Renew so long before the end, such as 30d, if the issuer's own window is not earlier"`
}

// ManagedTarget is where a certificate is deployed.
type ManagedTarget struct {
	Name   string            `json:"name" maxLength:"64" doc:"[target.NAME] of the configuration"`
	Params map[string]string `json:"params,omitempty" doc:"What that target wants to know of each certificate"`
}

// Managed is a certificate that is kept alive.
type Managed struct {
	ID string `json:"id"`
	ManagedSpec
	State       string      `json:"state" enum:"due,ordered,authz_pending,posted,ready,finalizing,issued,deploying,verified,idle,stopped"`
	Paused      bool        `json:"paused,omitempty"`
	Certificate string      `json:"certificate,omitempty" doc:"Id of the live certificate in the inventory"`
	IssuedBy    string      `json:"issued_by,omitempty"`
	NotBefore   *time.Time  `json:"not_before,omitempty"`
	NotAfter    *time.Time  `json:"not_after,omitempty"`
	RenewAt     *time.Time  `json:"renew_at,omitempty" doc:"When it will be renewed"`
	WindowStart *time.Time  `json:"window_start,omitempty" doc:"The window (RFC 9773) that renew_at was chosen from"`
	WindowEnd   *time.Time  `json:"window_end,omitempty"`
	AskAt       *time.Time  `json:"ask_at,omitempty" doc:"When the issuer is asked for its window again"`
	Explanation string      `json:"explanation,omitempty" doc:"URL that the issuer gave for its window"`
	Attempts    int         `json:"attempts,omitempty" doc:"Failures since the last success"`
	ErrorClass  string      `json:"error_class,omitempty" doc:"throttled, unavailable, validation, provider, permanent, mismatch or unknown"`
	Error       string      `json:"error,omitempty"`
	FailedAt    *time.Time  `json:"failed_at,omitempty"`
	CreatedAt   time.Time   `json:"created_at"`
	UpdatedAt   time.Time   `json:"updated_at"`
	Placements  []Placement `json:"placements,omitempty" doc:"What each target serves; only with one certificate"`
}

// Placement is a target's side of a managed certificate.
type Placement struct {
	Target    string     `json:"target"`
	Live      bool       `json:"live" doc:"It serves the newest certificate"`
	DueAt     *time.Time `json:"due_at,omitempty" doc:"When it is deployed"`
	Attempts  int        `json:"attempts,omitempty"`
	Error     string     `json:"error,omitempty"`
	Detail    string     `json:"detail,omitempty" doc:"What the target's own program said"`
	UpdatedAt time.Time  `json:"updated_at"`
	Batch     string     `json:"batch,omitempty" doc:"Id of the batch that decided it last"`
}

// Decision is one thing that was decided about a managed certificate.
type Decision struct {
	At     time.Time `json:"at"`
	Rule   string    `json:"rule"`
	Detail string    `json:"detail"`
}

// Explanation is a managed certificate and why it is as it is.
type Explanation struct {
	Managed   Managed    `json:"managed"`
	Decisions []Decision `json:"decisions" nullable:"false" doc:"The newest first"`
}

func (s *Server) managed() {
	op := func(id, method, path, summary string, status int) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: "/managed" + path, Summary: summary, DefaultStatus: status, Tags: []string{"Renewal"}}
	}
	register(s, op("list-managed", http.MethodGet, "", "List managed certificates", 200), s.listManaged)
	register(s, op("create-managed", http.MethodPost, "", "Manage a certificate; the first one is ordered at once", 201), s.createManaged)
	register(s, op("adopt-managed", http.MethodPost, "/adopt", "Manage the successors of a certificate of the inventory", 201), s.adoptManaged)
	register(s, op("get-managed", http.MethodGet, "/{id}", "One managed certificate, by id, name, or id of its certificate", 200), s.getManaged)
	register(s, op("update-managed", http.MethodPut, "/{id}", "Change what is wanted, from the next renewal on; targets at once", 200), s.updateManaged)
	register(s, op("remove-managed", http.MethodDelete, "/{id}", "Stop managing a certificate and forget its keys", 204), s.removeManaged)
	register(s, op("explain-managed", http.MethodGet, "/{id}/explain", "Why it was or was not renewed and deployed", 200), s.explainManaged)
	register(s, op("renew-managed", http.MethodPost, "/{id}/renew", "Renew at once, or repeat what failed", 200), s.renewManaged)
	register(s, op("renew-many", http.MethodPost, "/renew", "Renew all that fit at once", 200), s.renewMany)
	register(s, op("pause-managed", http.MethodPost, "/{id}/pause", "Do nothing about it until it is resumed", 200), s.pauseManaged)
	register(s, op("resume-managed", http.MethodPost, "/{id}/resume", "End a pause", 200), s.resumeManaged)
}

func viewManaged(m *renew.Managed) Managed {
	v := Managed{ID: m.ID, State: string(m.State), Paused: m.Paused, Certificate: m.CertificateID, IssuedBy: m.IssuedBy, NotBefore: instant(m.NotBefore),
		NotAfter: instant(m.NotAfter), RenewAt: instant(m.RenewAt), WindowStart: instant(m.WindowStart), WindowEnd: instant(m.WindowEnd), AskAt: instant(m.AskAt),
		Explanation: m.Explanation, Attempts: m.Attempts, ErrorClass: string(m.ErrorClass), Error: m.Error, FailedAt: instant(m.FailedAt),
		CreatedAt: m.CreatedAt, UpdatedAt: m.UpdatedAt}
	v.ManagedSpec = ManagedSpec{Name: m.Name, Owner: m.Owner, Issuer: m.Issuer, Fallbacks: m.Fallbacks, KeyType: m.KeyType, KeyPolicy: string(m.KeyPolicy),
		Profile: m.Profile, Endpoints: m.Endpoints}
	for _, n := range m.Names {
		v.Names = append(v.Names, n.Value)
	}
	for _, t := range m.Targets {
		v.Targets = append(v.Targets, ManagedTarget{t.Name, t.Params})
	}
	if m.RenewBefore > 0 {
		v.RenewBefore = m.RenewBefore.String()
	}
	return v
}

// spec turns a wish into what the engine takes.
func (b *ManagedSpec) spec() (renew.Spec, error) {
	before, err := parsePeriod(b.RenewBefore)
	if err != nil {
		return renew.Spec{}, err
	}
	names, err := pki.ParseNames(b.Names)
	if err != nil {
		return renew.Spec{}, err
	}
	out := renew.Spec{Name: b.Name, Names: names, Owner: b.Owner, Issuer: b.Issuer, Fallbacks: b.Fallbacks, KeyType: b.KeyType,
		KeyPolicy: renew.KeyPolicy(b.KeyPolicy), Profile: b.Profile, Endpoints: b.Endpoints, RenewBefore: before}
	for _, t := range b.Targets {
		out.Targets = append(out.Targets, renew.Target{Name: t.Name, Params: t.Params})
	}
	return out, nil
}

type listManagedInput struct {
	ListInput
	Issuer  string `query:"issuer" maxLength:"64" doc:"Only those that are wanted from this issuer"`
	Trouble bool   `query:"trouble" doc:"Only those whose last try failed"`
}

func (s *Server) listManaged(ctx context.Context, in *listManagedInput) (*pageOf[Managed], error) {
	after, err := decodeID(in.Cursor)
	if err != nil {
		return nil, err
	}
	if in.Issuer != "" && in.Trouble {
		return nil, fault.New(fault.Invalid, "ask by issuer or for trouble, not both")
	}
	query := renew.ListQuery{Issuer: in.Issuer, Trouble: in.Trouble, After: after, Limit: in.Limit + 1}
	if _, is := limited(ctx); is {
		return s.listPart(ctx, query, in.Limit)
	}
	ms, err := renew.List(ctx, s.cfg.DB.Read(), query)
	if err != nil {
		return nil, err
	}
	return pageFrom(ms, in.Limit, func(m *renew.Managed) string { return m.ID }, viewManaged), nil
}

// listPart lists what a caller with a scope may see.
func (s *Server) listPart(ctx context.Context, query renew.ListQuery, limit int) (*pageOf[Managed], error) {
	ms, next, err := s.listWithin(ctx, query, limit)
	if err != nil {
		return nil, err
	}
	out := &pageOf[Managed]{Page[Managed]{Items: make([]Managed, len(ms))}}
	for i := range ms {
		out.Body.Items[i] = viewManaged(&ms[i])
	}
	if next != "" {
		out.Body.Next = encodeKey(next)
	}
	return out, nil
}

// managedAnswer answers with a managed certificate.
func managedAnswer(m renew.Managed, err error) (*bodyOf[Managed], error) {
	if err != nil {
		return nil, err
	}
	return &bodyOf[Managed]{viewManaged(&m)}, nil
}

type managedInput struct{ Body ManagedSpec }

func (s *Server) createManaged(ctx context.Context, in *managedInput) (*bodyOf[Managed], error) {
	spec, err := in.Body.spec()
	if err != nil {
		return nil, err
	}
	return managedAnswer(s.cfg.Renew.Create(ctx, spec, actorOf(ctx)))
}

type adoptInput struct {
	Body struct {
		ManagedSpec
		Certificate string `json:"certificate" maxLength:"128" doc:"Id or SHA-256 fingerprint of the certificate in the inventory"`
	}
}

func (s *Server) adoptManaged(ctx context.Context, in *adoptInput) (*bodyOf[Managed], error) {
	spec, err := in.Body.spec()
	if err != nil {
		return nil, err
	}
	return managedAnswer(s.cfg.Renew.Adopt(ctx, in.Body.Certificate, spec, actorOf(ctx)))
}

// one returns a managed certificate with its placements.
func (s *Server) one(ctx context.Context, ref string) (Managed, error) {
	m, err := s.managedWithin(ctx, ref)
	if err != nil {
		return Managed{}, err
	}
	placed, err := renew.Placements(ctx, s.cfg.DB.Read(), m.ID)
	if err != nil {
		return Managed{}, err
	}
	v := viewManaged(&m)
	for _, p := range placed {
		v.Placements = append(v.Placements, viewPlacement(&p))
	}
	return v, nil
}

func (s *Server) getManaged(ctx context.Context, in *IDInput) (*bodyOf[Managed], error) {
	v, err := s.one(ctx, in.ID)
	return &bodyOf[Managed]{v}, err
}

type updateManagedInput struct {
	IDInput
	Body ManagedSpec
}

func (s *Server) updateManaged(ctx context.Context, in *updateManagedInput) (*bodyOf[Managed], error) {
	spec, err := in.Body.spec()
	if err != nil {
		return nil, err
	}
	return managedAnswer(s.cfg.Renew.Update(ctx, in.ID, spec, actorOf(ctx)))
}

func (s *Server) removeManaged(ctx context.Context, in *IDInput) (*struct{}, error) {
	return nil, s.cfg.Renew.Remove(ctx, in.ID, actorOf(ctx))
}

func (s *Server) explainManaged(ctx context.Context, in *IDInput) (*bodyOf[Explanation], error) {
	v, err := s.one(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	events, err := renew.Events(ctx, s.cfg.DB.Read(), v.ID, maxPage)
	if err != nil {
		return nil, err
	}
	out := Explanation{Managed: v, Decisions: make([]Decision, 0, len(events))}
	for _, e := range events {
		out.Decisions = append(out.Decisions, Decision{e.At, e.Rule, e.Detail})
	}
	return &bodyOf[Explanation]{out}, nil
}

// act does something with a managed certificate that the caller may touch.
func (s *Server) act(ctx context.Context, ref string, do func(ctx context.Context, ref, actor string) (renew.Managed, error)) (*bodyOf[Managed], error) {
	if _, err := s.managedWithin(ctx, ref); err != nil {
		return nil, err
	}
	return managedAnswer(do(ctx, ref, actorOf(ctx)))
}

func (s *Server) renewManaged(ctx context.Context, in *IDInput) (*bodyOf[Managed], error) {
	return s.act(ctx, in.ID, s.cfg.Renew.RenewNow)
}

// ManyRenewed says what a bulk renewal did, or would do.
type ManyRenewed struct {
	Matched int64 `json:"matched"`
	Queued  int   `json:"queued" doc:"Put into the queue; the others are being obtained already"`
}

type renewManyInput struct {
	Body struct {
		Issuer string `json:"issuer,omitempty" maxLength:"64" doc:"Issuer of the live certificate"`
		Owner  string `json:"owner,omitempty" maxLength:"255"`
		Ends   string `json:"ends,omitempty" maxLength:"32" doc:"Only those that end within this period, such as 14d"`
		DryRun bool   `json:"dry_run,omitempty" doc:"Count, and do nothing"`
	}
}

func (s *Server) renewMany(ctx context.Context, in *renewManyInput) (*bodyOf[ManyRenewed], error) {
	if scope, is := limited(ctx); is && !scope.Covers(in.Body.Owner, "", "") {
		return nil, fault.New(fault.Forbidden, "your sign-in is limited to a part of the estate: name an owner that belongs to it")
	}
	sel := renew.Selection{Issuer: in.Body.Issuer, Owner: in.Body.Owner}
	ends, err := parsePeriod(in.Body.Ends)
	if err != nil {
		return nil, err
	}
	if ends > 0 {
		sel.Ends = now().Add(ends)
	}
	out := ManyRenewed{}
	if out.Matched, err = renew.CountSelected(ctx, s.cfg.DB.Read(), sel); err != nil || in.Body.DryRun {
		return &bodyOf[ManyRenewed]{out}, err
	}
	out.Queued, err = s.cfg.Renew.RenewMany(ctx, sel, actorOf(ctx))
	return &bodyOf[ManyRenewed]{out}, err
}

func (s *Server) pauseManaged(ctx context.Context, in *IDInput) (*bodyOf[Managed], error) {
	return s.act(ctx, in.ID, s.cfg.Renew.Pause)
}

func (s *Server) resumeManaged(ctx context.Context, in *IDInput) (*bodyOf[Managed], error) {
	return s.act(ctx, in.ID, s.cfg.Renew.Resume)
}
