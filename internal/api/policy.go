package api

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"chancery/internal/fault"
	"chancery/internal/inventory"
	"chancery/internal/inventory/cbom"
)

func (s *Server) policies() {
	op := func(id, method, path, summary, text string, status int) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Tags: []string{"Policies"}, Summary: summary, Description: text, DefaultStatus: status}
	}
	register(s, op("list-policies", http.MethodGet, "/policies", "List policies: what certificates must not be", "", 200), s.listPolicies)
	register(s, op("get-policy", http.MethodGet, "/policies/{id}", "One policy, by name", "", 200), s.getPolicy)
	register(s, op("put-policy", http.MethodPut, "/policies/{id}", "Make a policy, or change the one of this name",
		"A policy is a query of the inventory: what it finds violates it. In the mode shadow that is all. In the mode enforce our own authorities refuse what would violate it, within seconds on every process; the query may then use key, name, issuer, expires and words alone.", 200), s.putPolicy)
	register(s, op("delete-policy", http.MethodDelete, "/policies/{id}", "Delete a policy", "", 204), s.deletePolicy)
	register(s, op("check-policy", http.MethodGet, "/inventory/violations", "What a policy would find in the whole inventory, stored or not; nothing is changed",
		"Counts come from roll-ups where they have the answer, else they are lower bounds: the cost does not grow with the inventory.", 200), s.checkPolicy)
	export := op("export-cbom", http.MethodGet, "/inventory/cbom", "The certificates that fit a query, their keys and algorithms as a cryptography bill of materials (CycloneDX 1.6, JSON)",
		"It is streamed; a document that ends without its last line was cut off by an error. One at a time is written.", 200)
	export.Responses = map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{"application/vnd.cyclonedx+json": {}}}}
	register(s, export, s.exportCBOM)
}

// PolicySpec is what a policy consists of.
type PolicySpec struct {
	Query    string `json:"q" minLength:"1" maxLength:"2000" doc:"What violates the policy; without a status: active certificates" example:"key:weak"`
	Severity string `json:"severity,omitempty" enum:"info,warning,critical" default:"warning"`
	Mode     string `json:"mode,omitempty" enum:"shadow,enforce" default:"shadow" doc:"shadow reports; enforce also has our own authorities refuse"`
	Note     string `json:"note,omitempty" maxLength:"255" doc:"For those who are refused"`
}

// Policy is a rule about certificates.
type Policy struct {
	Name string `json:"name"`
	PolicySpec
	CreatedBy string    `json:"created_by"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedBy string    `json:"updated_by"`
	UpdatedAt time.Time `json:"updated_at"`
}

func viewPolicy(p *inventory.Policy) Policy {
	return Policy{p.Name, PolicySpec{p.Query, p.Severity, string(p.Mode), p.Note}, p.CreatedBy, p.CreatedAt, p.UpdatedBy, p.UpdatedAt}
}

func (s *Server) listPolicies(ctx context.Context, in *ListInput) (*pageOf[Policy], error) {
	after, err := decodeKey(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := s.cfg.Inventory.Policies(ctx, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(p *inventory.Policy) string { return p.Name }, viewPolicy), nil
}

func (s *Server) getPolicy(ctx context.Context, in *IDInput) (*bodyOf[Policy], error) {
	p, err := s.cfg.Inventory.Policy(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &bodyOf[Policy]{viewPolicy(&p)}, nil
}

type putPolicyInput struct {
	IDInput
	Body PolicySpec
}

func (s *Server) putPolicy(ctx context.Context, in *putPolicyInput) (*bodyOf[Policy], error) {
	b := &in.Body
	p, err := s.cfg.Inventory.PutPolicy(ctx, inventory.Policy{Name: in.ID, Query: b.Query, Severity: b.Severity, Mode: inventory.PolicyMode(b.Mode), Note: b.Note}, actorOf(ctx), now())
	if err != nil {
		return nil, err
	}
	return &bodyOf[Policy]{viewPolicy(&p)}, nil
}

func (s *Server) deletePolicy(ctx context.Context, in *IDInput) (*struct{}, error) {
	return nil, s.cfg.Inventory.DropPolicy(ctx, in.ID, actorOf(ctx), now())
}

// PolicyReport is what a policy finds.
type PolicyReport struct {
	Query      string  `json:"q" doc:"What was looked for; relative times have become instants"`
	Violations Count   `json:"violations"`
	Active     Count   `json:"active" doc:"All active certificates, to compare with"`
	ByOwner    Facet   `json:"by_owner"`
	ByIssuer   Facet   `json:"by_issuer"`
	Sample     []Known `json:"sample" nullable:"false" doc:"Those that end first"`
}

type checkPolicyInput struct {
	Query string `query:"q" required:"true" minLength:"1" maxLength:"2000" doc:"What violates the policy" example:"key:weak"`
}

func (s *Server) checkPolicy(ctx context.Context, in *checkPolicyInput) (*bodyOf[PolicyReport], error) {
	r, err := s.cfg.Inventory.CheckPolicy(ctx, in.Query, now())
	if err != nil {
		return nil, err
	}
	v := PolicyReport{Query: r.Query, Violations: Count{r.Violations.N, r.Violations.Exact}, Active: Count{r.Of.N, r.Of.Exact},
		ByOwner: viewFacet(&r.Owners), ByIssuer: viewFacet(&r.Issuers), Sample: make([]Known, len(r.Sample))}
	for i := range r.Sample {
		v.Sample[i] = viewKnown(&r.Sample[i])
	}
	return &bodyOf[PolicyReport]{v}, nil
}

// How long a reader may take for a part of a stream, and for all of it: only
// one is served at a time.
const (
	exportWrite = 30 * time.Second
	exportWhole = 20 * time.Minute
)

func (s *Server) exportCBOM(ctx context.Context, in *QueryInput) (*huma.StreamResponse, error) {
	at := now()
	f, err := inventory.Parse(in.Query, at)
	if err != nil {
		return nil, err
	}
	// It reads everything: one at a time is enough for everybody.
	if !s.exporting.TryLock() {
		return nil, fault.New(fault.Unavailable, "a bill of materials is being written for somebody else; try again when that is done").Retry(defaultRetry)
	}
	return &huma.StreamResponse{Body: func(c huma.Context) {
		defer s.exporting.Unlock()
		ctx, cancel := context.WithTimeout(ctx, exportWhole)
		defer cancel()
		c.SetHeader("Content-Type", "application/vnd.cyclonedx+json; version=1.6")
		c.SetHeader("Content-Disposition", `attachment; filename="chancery.cdx.json"`)
		c.SetHeader("Cache-Control", "no-store")
		_, w := humago.Unwrap(c)
		out := patient{c.BodyWriter(), http.NewResponseController(w)}
		err := cbom.Write(ctx, out, s.cfg.Inventory, cbom.Options{Query: inventory.Query{Filter: f, Text: in.Query}, Version: s.cfg.Build.Version, Now: at})
		if err != nil {
			s.log.LogAttrs(ctx, slog.LevelWarn, "bill of materials was cut off", slog.Any("error", err))
			panic(http.ErrAbortHandler) // the reader must not take it for whole
		}
	}}, nil
}

// patient gives the reader of a long answer time for each part of it.
type patient struct {
	io.Writer
	control *http.ResponseController
}

// Write implements io.Writer.
func (p patient) Write(b []byte) (int, error) {
	_ = p.control.SetWriteDeadline(time.Now().Add(exportWrite)) // a transport without deadlines needs none
	return p.Writer.Write(b)
}
