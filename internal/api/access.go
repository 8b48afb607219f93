package api

import (
	"context"
	"net/http"
	"strings"

	"chancery/internal/fault"
	"chancery/internal/token"
)

// access says who may call an operation, and how it is answered.
type access struct {
	role        token.Role // "" = anybody, without a token
	conditional bool       // a GET whose answer changes only with the journal and the clock: ETag, 304, memory
}

// Rules of the access table.
var (
	public  = access{}
	viewer  = access{role: token.Viewer}
	listing = access{role: token.Viewer, conditional: true}
	admin   = access{role: token.Admin}
)

// accessTable holds one row for each operation. New fails when one is missing.
var accessTable = map[string]access{
	"list-certificates":    listing,
	"get-certificate":      viewer,
	"download-certificate": viewer,
	"revoke-certificate":   admin,
	"revoke-certificates":  admin,

	"list-authorities":       viewer,
	"get-authority":          viewer,
	"create-root":            admin,
	"create-issuing":         admin,
	"request-issuing":        admin,
	"import-issuing":         admin,
	"cross-sign-authority":   admin,
	"sign-authority-request": admin,
	"retire-authority":       admin,

	"list-profiles": viewer,
	"get-profile":   viewer,

	"list-accounts":      viewer,
	"get-account":        viewer,
	"deactivate-account": admin,
	"list-orders":        viewer,
	"get-order":          viewer,
	"list-eab-keys":      admin,
	"create-eab-key":     admin,
	"revoke-eab-key":     admin,

	"list-managed":    viewer,
	"get-managed":     viewer,
	"explain-managed": viewer,
	"create-managed":  admin,
	"adopt-managed":   admin,
	"update-managed":  admin,
	"remove-managed":  admin,
	"renew-managed":   admin,
	"renew-many":      admin,
	"pause-managed":   admin,
	"resume-managed":  admin,
	"list-queues":     viewer,
	"change-queue":    admin,
	"plan-renewals":   viewer,
	"list-drift":      viewer,
	"list-drills":     viewer,
	"get-drill":       viewer,
	"start-drill":     admin,

	"list-tokens":  admin,
	"create-token": admin,
	"revoke-token": admin,

	"list-journal":   viewer,
	"verify-journal": viewer,

	"get-health":  public,
	"get-version": public,
	"get-summary": viewer,
	"get-openapi": public,
}

// caller is who sent a request.
type caller struct{ token token.Token }

// actor names the caller in the journal.
func (c caller) actor() string {
	if c.token.ID == "" {
		return "anonymous"
	}
	return "token:" + c.token.ID
}

type callerKey struct{}

func withCaller(ctx context.Context, c caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// actorOf returns the journal's name of who sent the request.
func actorOf(ctx context.Context) string {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c.actor()
}

// admit authenticates a request and holds its role against the table.
func (s *Server) admit(r *http.Request, need access) (caller, error) {
	if need.role == "" {
		return caller{}, nil
	}
	text, err := bearer(r.Header.Values("Authorization"))
	if err != nil {
		return caller{}, err
	}
	t, err := s.tokens.verify(r.Context(), s.cfg.DB, text, now())
	if err != nil {
		return caller{}, err
	}
	if !t.Role.Allows(need.role) {
		return caller{}, fault.New(fault.Forbidden, "this needs the role %s, the token %q has %s; ask an administrator for a token with that role", need.role, t.Name, t.Role)
	}
	return caller{t}, nil
}

// bearer returns the token of an Authorization header (RFC 6750 section 2.1).
func bearer(headers []string) (string, error) {
	missing := &fault.Error{Code: fault.Unauthorized, HTTPStatus: http.StatusUnauthorized,
		Detail: "send a token as \"Authorization: Bearer cy_...\"; the first one is in DIR/admin.token"}
	if len(headers) != 1 {
		return "", missing
	}
	scheme, text, ok := strings.Cut(headers[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return "", missing
	}
	return strings.TrimSpace(text), nil
}
