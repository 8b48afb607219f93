package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/token"
)

// Token is a bearer token, without its secret.
type Token struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Role      token.Role `json:"role" enum:"viewer,auditor,approver,operator,admin"`
	Scope     *Scope     `json:"scope,omitempty" doc:"The part of the estate that the role is limited to"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	RevokedAt *time.Time `json:"revoked_at,omitempty"`
	Live      bool       `json:"live" doc:"It can be used now"`
}

// Scope is a part of the estate. Entries are names, or patterns with *.
type Scope struct {
	Owners   []string `json:"owners,omitempty" maxItems:"64" doc:"Owners of certificates; none = all, also those without one"`
	CAs      []string `json:"cas,omitempty" maxItems:"64" doc:"Names of authorities as in the ACME path; none = all"`
	Profiles []string `json:"profiles,omitempty" maxItems:"64" doc:"Certificate profiles; none = all"`
}

func viewScope(s token.Scope) *Scope {
	if s.Whole() {
		return nil
	}
	return &Scope{s.Owners, s.CAs, s.Profiles}
}

// scope returns the rule; nil restricts nothing.
func (s *Scope) scope() token.Scope {
	if s == nil {
		return token.Scope{}
	}
	return token.Scope{Owners: s.Owners, CAs: s.CAs, Profiles: s.Profiles}
}

// NewToken is a token that was just made.
type NewToken struct {
	Token
	Secret string `json:"secret" doc:"The token itself. It is shown now and never again"`
}

func (s *Server) tokenOperations() {
	tag := []string{"Tokens"}
	register(s, huma.Operation{OperationID: "list-tokens", Method: http.MethodGet, Path: "/tokens", Tags: tag, Summary: "List tokens, also those that ended"}, s.listTokens)
	register(s, huma.Operation{OperationID: "create-token", Method: http.MethodPost, Path: "/tokens", Tags: tag, Summary: "Make a token; its text is shown once", DefaultStatus: http.StatusCreated}, s.createToken)
	register(s, huma.Operation{OperationID: "revoke-token", Method: http.MethodDelete, Path: "/tokens/{id}", Tags: tag, Summary: "End a token for good", DefaultStatus: http.StatusNoContent}, s.revokeToken)
}

func viewToken(t *token.Token) Token {
	return Token{ID: t.ID, Name: t.Name, Role: t.Role, Scope: viewScope(t.Scope), CreatedAt: t.CreatedAt, ExpiresAt: instant(t.ExpiresAt), RevokedAt: instant(t.RevokedAt), Live: t.Live(now())}
}

func (s *Server) listTokens(ctx context.Context, in *ListInput) (*pageOf[Token], error) {
	after, err := decodeID(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := token.List(ctx, s.cfg.DB.Read(), after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(t *token.Token) string { return t.ID }, viewToken), nil
}

type createTokenInput struct {
	Body struct {
		Name    string     `json:"name" minLength:"1" maxLength:"64" doc:"Who or what uses it"`
		Role    token.Role `json:"role,omitempty" default:"viewer" enum:"viewer,auditor,approver,operator,admin"`
		Scope   *Scope     `json:"scope,omitempty" doc:"Limit the role to a part of the estate"`
		Expires string     `json:"expires,omitempty" maxLength:"32" doc:"How long it works, such as 90d; for ever when it is not given"`
	}
}

type secretOutput struct {
	CacheControl string `header:"Cache-Control"`
	Body         NewToken
}

func (s *Server) createToken(ctx context.Context, in *createTokenInput) (*secretOutput, error) {
	life, err := parsePeriod(in.Body.Expires)
	if err != nil {
		return nil, err
	}
	t, text, err := token.Create(ctx, s.cfg.DB, token.Spec{Name: in.Body.Name, Role: in.Body.Role, Scope: in.Body.Scope.scope(), Expires: life}, actorOf(ctx), now())
	if err != nil {
		return nil, err
	}
	return &secretOutput{CacheControl: "no-store", Body: NewToken{viewToken(&t), text}}, nil
}

func (s *Server) revokeToken(ctx context.Context, in *IDInput) (*struct{}, error) {
	if err := token.Revoke(ctx, s.cfg.DB, in.ID, actorOf(ctx), now()); err != nil {
		return nil, err
	}
	s.tokens.forget()
	return nil, nil
}
