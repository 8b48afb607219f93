package api

import (
	"context"
	"encoding/base64"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/acme/server"
)

// Account is an ACME account.
type Account struct {
	ID         string     `json:"id"`
	CA         string     `json:"ca"`
	State      string     `json:"state" enum:"valid,deactivated,revoked"`
	Thumbprint string     `json:"thumbprint" doc:"Of its key (RFC 7638)"`
	Contact    []string   `json:"contact" nullable:"false"`
	EABKey     string     `json:"eab_key,omitempty" doc:"Id of the external account binding key that it was made with"`
	AgreedAt   *time.Time `json:"tos_agreed_at,omitempty"`
	CreatedAt  time.Time  `json:"created_at"`
	CreatedIP  string     `json:"created_ip"`
}

// Order is an ACME order.
type Order struct {
	ID          string     `json:"id"`
	CA          string     `json:"ca"`
	Account     string     `json:"account"`
	State       string     `json:"state" enum:"pending,ready,processing,valid,invalid"`
	Profile     string     `json:"profile"`
	Names       []string   `json:"names" nullable:"false"`
	Certificate string     `json:"certificate,omitempty" doc:"Id of the certificate that it became"`
	Replaces    string     `json:"replaces,omitempty" doc:"ARI id of the certificate that it renews"`
	Delegation  string     `json:"delegation,omitempty" doc:"Id of the delegation that it was made under"`
	Error       string     `json:"error,omitempty" doc:"Why it is invalid"`
	CreatedAt   time.Time  `json:"created_at"`
	ExpiresAt   *time.Time `json:"expires_at,omitempty"`

	Authorizations []string `json:"authorizations" nullable:"false" doc:"Ids of the authorizations that it needs"`
}

// Authorization is the right of an account to one identifier.
type Authorization struct {
	ID          string     `json:"id"`
	CA          string     `json:"ca"`
	Account     string     `json:"account"`
	Order       string     `json:"order,omitempty" doc:"Id of the order that it was made for"`
	Type        string     `json:"type" doc:"Of the identifier: dns, ip, ..."`
	Name        string     `json:"name" doc:"The identifier, with *. for a wildcard"`
	State       string     `json:"state" enum:"pending,valid,invalid,deactivated,expired,revoked"`
	Method      string     `json:"method,omitempty" doc:"Challenge type that proved it"`
	ValidatedAt *time.Time `json:"validated_at,omitempty"`
	CreatedAt   time.Time  `json:"created_at"`
	ExpiresAt   time.Time  `json:"expires_at"`
	Error       string     `json:"error,omitempty" doc:"Why a challenge of it failed"`

	Evidence []Corroboration `json:"evidence" nullable:"false" doc:"What remote network perspectives said of it, each time that they were asked"`
}

// Corroboration is one question to all remote network perspectives.
type Corroboration struct {
	At           time.Time     `json:"at"`
	Kind         string        `json:"kind" enum:"validation,caa" doc:"A validation with its CAA check, or a later CAA check alone"`
	Name         string        `json:"name" doc:"The identifier that they looked at"`
	Method       string        `json:"method"`
	Corroborated bool          `json:"corroborated" doc:"Whether a quorum saw what this server saw"`
	Perspectives []Observation `json:"perspectives" nullable:"false"`
}

// Observation is what one remote network perspective said.
type Observation struct {
	Perspective string    `json:"perspective"`
	Region      string    `json:"region"`
	Verdict     string    `json:"verdict" enum:"agrees,disagrees,silent"`
	At          time.Time `json:"at"`
	TookMS      int64     `json:"took_ms"`
	Problem     string    `json:"problem,omitempty" doc:"Why it does not agree"`
	Addresses   []string  `json:"addresses,omitempty" doc:"Every address that its DNS gave"`
	Used        []string  `json:"used,omitempty" doc:"Those that it was answered from"`
	Queries     []string  `json:"queries,omitempty" doc:"Names whose TXT records it read"`
	CAA         []string  `json:"caa,omitempty" doc:"The CAA records that it found relevant"`
}

// EABKey is a key for external account binding (RFC 8555 section 7.3.4),
// without its secret.
type EABKey struct {
	ID       string `json:"id" doc:"The key id that a client sends"`
	CA       string `json:"ca"`
	Label    string `json:"label" doc:"Whom it was made for"`
	Account  string `json:"account,omitempty" doc:"Id of the account that used it last"`
	Accounts int    `json:"accounts" doc:"How many accounts it makes"`
	Used     int    `json:"used" doc:"How many it has made"`

	Profiles     []string `json:"profiles,omitempty" doc:"Profiles that its accounts may order; any when absent"`
	Identifiers  []string `json:"identifiers,omitempty" doc:"Patterns of what its accounts may order; anything when absent"`
	OrdersPerDay int      `json:"orders_per_day,omitempty" doc:"Quota of each of its accounts; none when absent"`

	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	UsedAt    *time.Time `json:"used_at,omitempty"`
	RevokedAt *time.Time `json:"revoked_at,omitempty"`
}

// NewEABKey is a key that was just made.
type NewEABKey struct {
	EABKey
	Secret string `json:"secret" doc:"HMAC key in base64url, as clients take it. It is shown now and never again"`
}

func (s *Server) acme() {
	op := func(id, method, path, summary string, status int) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: "/acme" + path, Summary: summary, DefaultStatus: status, Tags: []string{"ACME"}}
	}
	register(s, op("list-accounts", http.MethodGet, "/accounts", "List accounts, the oldest first", 200), s.listAccounts)
	register(s, op("get-account", http.MethodGet, "/accounts/{id}", "One account", 200), s.getAccount)
	register(s, op("deactivate-account", http.MethodPost, "/accounts/{id}/deactivate", "End an account and its open orders for good; its certificates stay", 200), s.deactivateAccount)
	register(s, op("list-orders", http.MethodGet, "/orders", "List orders, the oldest first", 200), s.listOrders)
	register(s, op("get-order", http.MethodGet, "/orders/{id}", "One order", 200), s.getOrder)
	register(s, op("get-authorization", http.MethodGet, "/authorizations/{id}", "One authorization, with what remote perspectives said of it", 200), s.getAuthorization)
	register(s, op("list-eab-keys", http.MethodGet, "/eab", "List external account binding keys", 200), s.listEAB)
	register(s, op("create-eab-key", http.MethodPost, "/eab", "Make a key for one account; its secret is shown once", 201), s.createEAB)
	register(s, op("revoke-eab-key", http.MethodDelete, "/eab/{id}", "Withdraw a key; an account that it made stays", 204), s.revokeEAB)
}

func viewAccount(a *server.Account) Account {
	return Account{ID: a.ID, CA: a.CA, State: string(a.State), Thumbprint: a.Thumbprint, Contact: a.Contact, EABKey: a.EABKeyID,
		AgreedAt: instant(a.ToSAgreedAt), CreatedAt: a.CreatedAt, CreatedIP: a.CreatedIP}
}

func (s *Server) listAccounts(ctx context.Context, in *ListInput) (*pageOf[Account], error) {
	after, err := decodeID(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := server.ListAccounts(ctx, s.cfg.DB.Read(), after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(a *server.Account) string { return a.ID }, viewAccount), nil
}

func (s *Server) getAccount(ctx context.Context, in *IDInput) (*bodyOf[Account], error) {
	a, err := server.GetAccount(ctx, s.cfg.DB.Read(), in.ID)
	if err != nil {
		return nil, err
	}
	return &bodyOf[Account]{viewAccount(&a)}, nil
}

func (s *Server) deactivateAccount(ctx context.Context, in *IDInput) (*bodyOf[Account], error) {
	if err := s.cfg.ACME.DeactivateAccount(ctx, in.ID, actorOf(ctx)); err != nil {
		return nil, err
	}
	return s.getAccount(ctx, in)
}

func viewOrder(o *server.Order) Order {
	v := Order{ID: o.ID, CA: o.CA, Account: o.AccountID, State: string(o.StateAt(now())), Profile: o.Profile, Names: []string{},
		Certificate: o.CertificateID, Replaces: o.Replaces, Delegation: o.DelegationID, CreatedAt: o.CreatedAt, ExpiresAt: instant(o.ExpiresAt),
		Authorizations: slices.Concat([]string{}, o.AuthzIDs)}
	for _, id := range o.Identifiers {
		v.Names = append(v.Names, id.Value)
	}
	if o.Error != nil {
		v.Error = o.Error.Detail
	}
	return v
}

func (s *Server) listOrders(ctx context.Context, in *ListInput) (*pageOf[Order], error) {
	after, err := decodeID(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := server.ListOrders(ctx, s.cfg.DB.Read(), after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(o *server.Order) string { return o.ID }, viewOrder), nil
}

func (s *Server) getOrder(ctx context.Context, in *IDInput) (*bodyOf[Order], error) {
	o, err := server.GetOrder(ctx, s.cfg.DB.Read(), in.ID)
	if err != nil {
		return nil, err
	}
	return &bodyOf[Order]{viewOrder(&o)}, nil
}

func viewAuthorization(z *server.Authorization, evidence []server.Evidence) Authorization {
	v := Authorization{ID: z.ID, CA: z.CA, Account: z.AccountID, Order: z.OrderID, Type: string(z.Identifier.Type), Name: z.Identifier.Value,
		State: string(z.StateAt(now())), Method: string(z.Method), ValidatedAt: instant(z.Validated), CreatedAt: z.CreatedAt, ExpiresAt: z.ExpiresAt,
		Evidence: []Corroboration{}}
	for _, c := range z.Challenges {
		if c.Error != nil {
			v.Error = c.Error.Detail
		}
	}
	for i := range evidence {
		v.Evidence = append(v.Evidence, viewEvidence(&evidence[i]))
	}
	return v
}

func viewEvidence(e *server.Evidence) Corroboration {
	v := Corroboration{At: e.At, Kind: string(e.Kind), Name: e.Identifier.Value, Method: string(e.Method), Corroborated: e.Corroborated, Perspectives: []Observation{}}
	for i := range e.Observations {
		o := &e.Observations[i]
		w := Observation{Perspective: o.Perspective, Region: o.Region, Verdict: string(o.Verdict), At: o.At, TookMS: o.Millis, Problem: o.Problem, CAA: o.CAARecords}
		for _, s := range o.Steps {
			for _, a := range s.Resolved {
				w.Addresses = append(w.Addresses, a.String())
			}
			if s.Used.IsValid() {
				w.Used = append(w.Used, s.Used.String())
			}
			if s.Query != "" {
				w.Queries = append(w.Queries, s.Query)
			}
		}
		v.Perspectives = append(v.Perspectives, w)
	}
	return v
}

func (s *Server) getAuthorization(ctx context.Context, in *IDInput) (*bodyOf[Authorization], error) {
	q := s.cfg.DB.Read()
	z, err := server.GetAuthorization(ctx, q, in.ID)
	if err != nil {
		return nil, err
	}
	evidence, err := server.ListEvidence(ctx, q, z.ID)
	if err != nil {
		return nil, err
	}
	return &bodyOf[Authorization]{viewAuthorization(&z, evidence)}, nil
}

func viewEAB(k *server.EABKey) EABKey {
	return EABKey{ID: k.KID, CA: k.CA, Label: k.Label, Account: k.AccountID, CreatedAt: k.CreatedAt, ExpiresAt: instant(k.ExpiresAt),
		UsedAt: instant(k.UsedAt), RevokedAt: instant(k.RevokedAt), Accounts: k.Accounts, Used: k.Used,
		Profiles: k.Policy.Profiles, Identifiers: k.Policy.Identifiers, OrdersPerDay: k.Policy.OrdersPerDay}
}

func (s *Server) listEAB(ctx context.Context, in *ListInput) (*pageOf[EABKey], error) {
	after, err := decodeID(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := server.ListEAB(ctx, s.cfg.DB.Read(), after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(k *server.EABKey) string { return k.KID }, viewEAB), nil
}

type createEABInput struct {
	Body struct {
		CA      string `json:"ca" maxLength:"63"`
		Label   string `json:"label" minLength:"1" maxLength:"128" doc:"Whom it is for"`
		Expires string `json:"expires,omitempty" maxLength:"32" doc:"How long it can be used, such as 7d; for ever when it is not given"`

		Accounts     int      `json:"accounts,omitempty" minimum:"1" maximum:"1000000" doc:"How many accounts it makes; 1 when it is not given"`
		Profiles     []string `json:"profiles,omitempty" maxItems:"100" doc:"Profiles that its accounts may order, the first by default; any when it is not given"`
		Identifiers  []string `json:"identifiers,omitempty" maxItems:"1000" doc:"What its accounts may order: example.com, *.example.com (all below), 10.0.0.0/8; anything when it is not given"`
		OrdersPerDay int      `json:"orders_per_day,omitempty" minimum:"1" maximum:"1000000" doc:"How many orders each of its accounts may make in 24 hours; no quota when it is not given"`
	}
}

type newEABOutput struct {
	CacheControl string `header:"Cache-Control"`
	Body         NewEABKey
}

func (s *Server) createEAB(ctx context.Context, in *createEABInput) (*newEABOutput, error) {
	life, err := parsePeriod(in.Body.Expires)
	if err != nil {
		return nil, err
	}
	if _, err := s.cfg.CA.Issuing(in.Body.CA); err != nil {
		return nil, err
	}
	k, secret, err := server.CreateEAB(ctx, s.cfg.DB, s.cfg.Secrets, server.EABSpec{CA: in.Body.CA, Label: in.Body.Label, Life: life, Accounts: in.Body.Accounts,
		Policy: server.EABPolicy{Profiles: in.Body.Profiles, Identifiers: in.Body.Identifiers, OrdersPerDay: in.Body.OrdersPerDay}}, actorOf(ctx))
	if err != nil {
		return nil, err
	}
	return &newEABOutput{CacheControl: "no-store", Body: NewEABKey{viewEAB(&k), base64.RawURLEncoding.EncodeToString(secret)}}, nil
}

func (s *Server) revokeEAB(ctx context.Context, in *IDInput) (*struct{}, error) {
	return nil, server.RevokeEAB(ctx, s.cfg.DB, in.ID, actorOf(ctx))
}
