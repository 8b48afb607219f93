package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/scan/source"
)

func (s *Server) sourceOperations() {
	tag := []string{"Sources"}
	op := func(id, method, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: "/scan/sources" + path, Tags: tag, Summary: summary}
	}
	register(s, op("list-sources", http.MethodGet, "", "List the places that keep certificates"), s.listSources)
	register(s, op("get-source", http.MethodGet, "/{id}", "One place that keeps certificates, by name"), s.getSource)
	register(s, op("list-source-items", http.MethodGet, "/{id}/items", "List the certificates of a source, as the provider names them"), s.listSourceItems)
	register(s, op("run-source", http.MethodPost, "/{id}/run", "Begin a complete list at once"), s.runSource)
	check := op("check-source", http.MethodPost, "/{id}/check", "Send a source one cheap request")
	check.Description = "Says whether the credentials work and the provider answers. An error says what to mend."
	register(s, check, s.checkSource)
}

// Source is a place that keeps certificates.
type Source struct {
	Name       string      `json:"name"`
	Kind       string      `json:"kind"`
	State      string      `json:"state" enum:"waiting,listing,watching,ok,failed"`
	Error      string      `json:"error,omitempty" doc:"Why the last list failed; what it had before stays"`
	Failures   int         `json:"failures" doc:"In a row"`
	Watched    bool        `json:"watched" doc:"Changes are followed as they happen"`
	Configured bool        `json:"configured" doc:"In the configuration of the process that answers"`
	Enabled    bool        `json:"enabled"`
	Tally      SourceTally `json:"tally" doc:"Of the last complete list"`
	DueAt      *time.Time  `json:"due_at,omitempty"`
	StartedAt  *time.Time  `json:"started_at,omitempty"`
	FinishedAt *time.Time  `json:"finished_at,omitempty"`
	ListedAt   *time.Time  `json:"listed_at,omitempty" doc:"When the last complete list ended"`
}

// SourceTally is what a complete list found.
type SourceTally struct {
	Listed  int `json:"listed" doc:"Certificates of the source"`
	New     int `json:"new" doc:"That the inventory did not know"`
	Changed int `json:"changed" doc:"New or renewed in the source"`
	Gone    int `json:"gone" doc:"Not in the source any more"`
	Refused int `json:"refused" doc:"That cannot be read"`
}

func viewSource(v *source.Status) Source {
	return Source{Name: v.Name, Kind: v.Kind, State: string(v.State), Error: v.Error, Failures: v.Failures, Watched: v.Watches, Configured: v.Configured, Enabled: v.Enabled,
		Tally: SourceTally(v.Tally), DueAt: instant(v.DueAt), StartedAt: instant(v.StartedAt), FinishedAt: instant(v.FinishedAt), ListedAt: instant(v.ListedAt)}
}

func (s *Server) listSources(ctx context.Context, in *ListInput) (*pageOf[Source], error) {
	after, err := decodeKey(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := s.cfg.Sources.List(ctx, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(v *source.Status) string { return v.Name }, viewSource), nil
}

func (s *Server) getSource(ctx context.Context, in *IDInput) (*bodyOf[Source], error) {
	v, err := s.cfg.Sources.Get(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &bodyOf[Source]{viewSource(&v)}, nil
}

func (s *Server) runSource(ctx context.Context, in *IDInput) (*bodyOf[Source], error) {
	if err := s.cfg.Sources.Run(ctx, in.ID, actorOf(ctx), now()); err != nil {
		return nil, err
	}
	return s.getSource(ctx, in)
}

func (s *Server) checkSource(ctx context.Context, in *IDInput) (*bodyOf[Source], error) {
	if err := s.cfg.Sources.Check(ctx, in.ID); err != nil {
		return nil, err
	}
	return s.getSource(ctx, in)
}

// SourceItem is one certificate of a source.
type SourceItem struct {
	Ref         string     `json:"ref" doc:"What the provider calls it"`
	Version     string     `json:"version"`
	Certificate string     `json:"certificate,omitempty" doc:"Fingerprint in the inventory; none when it could not be read"`
	Account     string     `json:"account,omitempty"`
	Region      string     `json:"region,omitempty"`
	Error       string     `json:"error,omitempty" doc:"Why it could not be read"`
	SeenAt      time.Time  `json:"seen_at"`
	GoneAt      *time.Time `json:"gone_at,omitempty" doc:"When it was missing in a complete list"`
}

type listSourceItemsInput struct {
	IDInput
	ListInput
}

func (s *Server) listSourceItems(ctx context.Context, in *listSourceItemsInput) (*pageOf[SourceItem], error) {
	after, err := decodeKey(in.Cursor)
	if err != nil {
		return nil, err
	}
	if _, err := s.cfg.Sources.Get(ctx, in.ID); err != nil {
		return nil, err
	}
	rows, err := s.cfg.Sources.Items(ctx, in.ID, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(v *source.Item) string { return v.Ref }, func(v *source.Item) SourceItem {
		return SourceItem{v.Ref, v.Version, v.Fingerprint, v.Account, v.Region, v.Error, v.SeenAt, instant(v.GoneAt)}
	}), nil
}
