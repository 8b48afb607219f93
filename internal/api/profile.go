package api

import (
	"context"
	"maps"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/ca"
	"chancery/internal/fault"
)

// Profile is what certificates of one kind have in common.
type Profile struct {
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	Hash        string   `json:"hash" doc:"SHA-256 of its content: what an order pins"`
	Period      string   `json:"period" doc:"Life of a certificate"`
	KeyTypes    []string `json:"key_types" nullable:"false" doc:"Keys that are accepted"`
	Identifiers []string `json:"identifiers" nullable:"false" doc:"Kinds of names that are certified"`
	CommonName  string   `json:"common_name" doc:"Rule for the subject's common name"`
	MustStaple  bool     `json:"must_staple" doc:"A request may ask for OCSP must-staple"`
	Wildcard    bool     `json:"wildcard" doc:"Wildcard names are certified"`
	Permitted   []string `json:"permitted,omitempty" doc:"DNS suffixes; any when it is absent"`
	Excluded    []string `json:"excluded,omitempty" doc:"DNS suffixes that are not certified; they win over permitted"`
	OCSP        bool     `json:"ocsp" doc:"Certificates name an OCSP responder"`
	CRL         bool     `json:"crl" doc:"Certificates name a CRL"`
	Lint        string   `json:"lint" doc:"Which rules a certificate is held against before it is signed"`
}

func (s *Server) profiles() {
	tag := []string{"Profiles"}
	register(s, huma.Operation{OperationID: "list-profiles", Method: http.MethodGet, Path: "/profiles", Tags: tag, Summary: "List the configured profiles"}, s.listProfiles)
	register(s, huma.Operation{OperationID: "get-profile", Method: http.MethodGet, Path: "/profiles/{id}", Tags: tag, Summary: "One profile, by name or hash; by hash also one that is configured no more"}, s.getProfile)
}

func viewProfile(p *ca.Profile) Profile {
	v := Profile{Name: p.Name, Description: p.Description, Hash: p.Hash(), Period: p.Period.String(), KeyTypes: []string{}, Identifiers: []string{},
		CommonName: string(p.CommonName), MustStaple: p.MustStaple, Wildcard: p.Wildcard, Permitted: p.Permitted, Excluded: p.Excluded,
		OCSP: !p.NoOCSP, CRL: !p.NoCRL, Lint: string(p.Lint)}
	for _, k := range p.KeyTypes {
		v.KeyTypes = append(v.KeyTypes, string(k))
	}
	for _, t := range p.Identifiers {
		v.Identifiers = append(v.Identifiers, string(t))
	}
	return v
}

func (s *Server) listProfiles(_ context.Context, in *ListInput) (*pageOf[Profile], error) {
	names := slices.Sorted(maps.Keys(s.cfg.Profiles))
	return pageOfAll(names, in, func(n *string) string { return *n }, func(n *string) Profile { return viewProfile(s.cfg.Profiles[*n]) })
}

func (s *Server) getProfile(ctx context.Context, in *IDInput) (*bodyOf[Profile], error) {
	if p := s.cfg.Profiles[in.ID]; p != nil {
		return &bodyOf[Profile]{viewProfile(p)}, nil
	}
	p, err := s.cfg.CA.Profile(ctx, in.ID)
	if err != nil {
		return nil, fault.Wrap(err, fault.NotFound, "there is no profile %.64q; `chancery ca profiles` shows them", in.ID)
	}
	return &bodyOf[Profile]{viewProfile(p)}, nil
}
