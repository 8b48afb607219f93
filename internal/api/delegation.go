package api

import (
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/acme/server"
	"chancery/internal/fault"
)

// Delegation lets an account order certificates for names that another account
// has authorized (RFC 9115).
type Delegation struct {
	ID        string            `json:"id"`
	CA        string            `json:"ca"`
	Account   string            `json:"account" doc:"Id of the account that may order"`
	Owner     string            `json:"owner" doc:"Id of the account whose authorizations count"`
	Profile   string            `json:"profile" doc:"That its orders have"`
	Template  any               `json:"csr_template" doc:"What requests must look like (RFC 9115 section 4)"`
	CNAMEs    map[string]string `json:"cname_map,omitempty" doc:"Delegated names and what they are aliases of, both with a dot at the end"`
	CreatedAt time.Time         `json:"created_at"`
	EndedAt   *time.Time        `json:"ended_at,omitempty"`
}

func (s *Server) delegations() {
	op := func(id, method, path, summary string, status int) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: "/acme/delegations" + path, Summary: summary, DefaultStatus: status, Tags: []string{"ACME"}}
	}
	register(s, op("list-delegations", http.MethodGet, "", "List delegations, the oldest first", 200), s.listDelegations)
	register(s, op("get-delegation", http.MethodGet, "/{id}", "One delegation", 200), s.getDelegation)
	register(s, op("create-delegation", http.MethodPost, "", "Let an account order certificates for names of another account", 201), s.createDelegation)
	register(s, op("end-delegation", http.MethodDelete, "/{id}", "End a delegation: its open orders, and those that renew themselves; other certificates stay", 204), s.endDelegation)
}

func viewDelegation(d *server.Delegation) Delegation {
	v := Delegation{ID: d.ID, CA: d.CA, Account: d.AccountID, Owner: d.OwnerID, Profile: d.Profile, CNAMEs: d.CNAMEs, CreatedAt: d.CreatedAt,
		EndedAt: instant(d.EndedAt)}
	if json.Unmarshal([]byte(d.Template), &v.Template) != nil {
		v.Template = nil // it was checked when it was stored
	}
	return v
}

func (s *Server) listDelegations(ctx context.Context, in *ListInput) (*pageOf[Delegation], error) {
	after, err := decodeID(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := server.ListDelegations(ctx, s.cfg.DB.Read(), after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(d *server.Delegation) string { return d.ID }, viewDelegation), nil
}

func (s *Server) getDelegation(ctx context.Context, in *IDInput) (*bodyOf[Delegation], error) {
	d, err := server.GetDelegation(ctx, s.cfg.DB.Read(), in.ID)
	if err != nil {
		return nil, err
	}
	return &bodyOf[Delegation]{viewDelegation(&d)}, nil
}

type createDelegationInput struct {
	Body struct {
		CA       string            `json:"ca" maxLength:"63"`
		Account  string            `json:"account" minLength:"1" maxLength:"64" doc:"Id of the account that may order"`
		Owner    string            `json:"owner" minLength:"1" maxLength:"64" doc:"Id of the account whose authorizations count"`
		Profile  string            `json:"profile,omitempty" maxLength:"63" doc:"That its orders have; the default of the CA when it is not given"`
		Template map[string]any    `json:"csr_template" doc:"What requests must look like (RFC 9115 section 4)"`
		CNAMEs   map[string]string `json:"cname_map,omitempty" doc:"Delegated names and what they are aliases of, both with a dot at the end"`
	}
}

func (s *Server) createDelegation(ctx context.Context, in *createDelegationInput) (*bodyOf[Delegation], error) {
	b := &in.Body
	template, err := json.Marshal(b.Template, json.Deterministic(true), jsontext.AllowInvalidUTF8(false))
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "the CSR template is not JSON")
	}
	d, err := s.cfg.ACME.CreateDelegation(ctx, server.Delegation{CA: b.CA, AccountID: b.Account, OwnerID: b.Owner, Profile: b.Profile,
		Template: string(template), CNAMEs: b.CNAMEs}, actorOf(ctx))
	if err != nil {
		return nil, err
	}
	return &bodyOf[Delegation]{viewDelegation(&d)}, nil
}

func (s *Server) endDelegation(ctx context.Context, in *IDInput) (*struct{}, error) {
	return nil, s.cfg.ACME.EndDelegation(ctx, in.ID, actorOf(ctx))
}
