package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"chancery/internal/fault"
	"chancery/internal/token"
)

// access says who may call an operation, and how it is answered.
type access struct {
	need   token.Permission // token.Public = anybody, without a sign-in
	feed   feed             // a GET whose answer changes only with this feed and the clock: ETag, 304, memory
	lag    time.Duration    // with feed: so long it may be answered from memory after a change elsewhere
	quiet  bool             // it changes something, but nothing that a feed follows before it is answered
	secret bool             // its answer holds a secret, which is never kept
	keyed  bool             // its handler honours Idempotency-Key itself, in the transaction of the change
	reach  reach            // for a caller whose scope is a part of the estate
}

// reach says what an operation is to a caller whose scope is a part of the
// estate.
type reach string

// Reaches. What is in no row is refused: an operation that cannot be held
// against a scope concerns the whole estate.
const (
	whole  reach = ""       // refused
	judged reach = "judged" // its handler holds what it shows and changes against the scope
	owners reach = "owners" // the same, for a scope of owners alone; other scopes are refused
	issued reach = "issued" // the same, for a scope of authorities and profiles alone
	open   reach = "open"   // says nothing about anybody's certificates, and changes nothing of theirs
)

// Rules of the access table.
var (
	public   = access{}
	viewer   = access{need: token.Read}
	common   = access{need: token.Read, reach: open}
	part     = access{need: token.Read, reach: judged}
	books    = access{need: token.Read, feed: journalFeed, reach: issued}
	listing  = access{need: token.Read, feed: certificateFeed, reach: owners, lag: listingLag}
	counts   = access{need: token.Read, feed: certificateFeed, reach: owners, lag: countsLag}
	places   = access{need: token.Read, feed: endpointFeed}
	auditor  = access{need: token.Audit}
	operator = access{need: token.Operate}
	scoped   = access{need: token.Operate, reach: judged}
	asking   = access{need: token.Operate, reach: judged, quiet: true}
	approver = access{need: token.Approve}
	admin    = access{need: token.Administer}
	secretly = access{need: token.Administer, secret: true}
)

// accessTable holds one row for each operation. New fails when one is missing.
var accessTable = map[string]access{
	"list-issued":         books,
	"list-certificates":   listing,
	"count-inventory":     counts,
	"list-facets":         counts,
	"list-timeline":       counts,
	"list-endpoints":      places,
	"plan-edit":           operator,
	"edit-inventory":      operator,
	"import-certificates": operator,
	"export-cbom":         viewer,
	"list-policies":       viewer,
	"get-policy":          viewer,
	"check-policy":        viewer,
	"put-policy":          admin,
	"delete-policy":       admin,
	"list-views":          viewer,
	"create-view":         operator,
	"update-view":         operator,
	"delete-view":         operator,

	"list-schedules":  viewer,
	"get-schedule":    viewer,
	"create-schedule": operator,
	"update-schedule": operator,
	"delete-schedule": operator,
	"run-schedule":    operator,
	"list-passes":     viewer,
	"get-pass":        viewer,
	"cancel-pass":     operator,
	"store-results":   operator,

	"list-sources":      viewer,
	"get-source":        viewer,
	"list-source-items": viewer,
	"run-source":        operator,
	"check-source":      operator,

	"list-ct-logs":           viewer,
	"get-ct-log":             viewer,
	"reset-ct-log":           operator,
	"list-ct-findings":       viewer,
	"get-ct-finding":         viewer,
	"acknowledge-ct-finding": operator,
	"adopt-ct-finding":       operator,

	"get-certificate":      part,
	"download-certificate": part,
	"revoke-certificate":   scoped,
	"revoke-certificates":  operator,

	"create-incident": {need: token.Operate, keyed: true},
	"list-incidents":  viewer,
	"get-incident":    viewer,
	"cancel-incident": operator,
	"list-findings":   viewer,
	"get-checker":     viewer,

	"list-authorities":       common,
	"get-authority":          common,
	"create-root":            admin,
	"create-issuing":         admin,
	"request-issuing":        admin,
	"import-issuing":         admin,
	"cross-sign-authority":   admin,
	"sign-authority-request": admin,
	"retire-authority":       admin,

	"list-profiles": common,
	"get-profile":   common,

	"list-agents":            viewer,
	"get-agent":              viewer,
	"revoke-agent":           operator,
	"list-assignments":       viewer,
	"get-fleet":              viewer,
	"list-fleet-assignments": viewer,
	"get-assignment":         viewer,
	"create-assignment":      operator,
	"delete-assignment":      operator,
	"renew-assignment":       operator,
	"list-agent-tokens":      auditor,
	"create-agent-token":     secretly,
	"revoke-agent-token":     admin,
	"list-accounts":          viewer,
	"get-account":            viewer,
	"deactivate-account":     operator,
	"list-orders":            viewer,
	"get-order":              viewer,
	"get-authorization":      viewer,
	"list-eab-keys":          admin,
	"create-eab-key":         secretly,
	"revoke-eab-key":         admin,
	"list-delegations":       viewer,
	"get-delegation":         viewer,
	"create-delegation":      admin,
	"end-delegation":         admin,

	"list-managed":        part,
	"get-managed":         part,
	"explain-managed":     part,
	"create-managed":      operator,
	"adopt-managed":       operator,
	"update-managed":      operator,
	"remove-managed":      operator,
	"renew-managed":       asking,
	"renew-many":          asking,
	"pause-managed":       asking,
	"resume-managed":      asking,
	"list-queues":         viewer,
	"change-queue":        operator,
	"plan-renewals":       viewer,
	"list-drift":          viewer,
	"list-deployments":    viewer,
	"list-deploy-batches": viewer,
	"list-drills":         viewer,
	"get-drill":           viewer,
	"start-drill":         operator,

	"list-limits":           viewer,
	"list-limit-overrides":  viewer,
	"put-limit-override":    admin,
	"delete-limit-override": admin,

	"list-tokens":  auditor,
	"create-token": secretly,
	"revoke-token": admin,

	"list-journal":      viewer,
	"verify-journal":    viewer,
	"export-journal":    viewer,
	"list-checkpoints":  viewer,
	"list-journal-keys": viewer,
	"prove-entry":       viewer,
	"prove-consistency": viewer,

	"get-health":  public,
	"get-version": public,
	"get-summary": viewer,
	"get-load":    viewer,
	"get-openapi": public,

	"get-session":   public,
	"open-session":  public,
	"close-session": {need: token.Read, reach: open},
	"list-sign-ins": public,

	"list-alerts":           viewer,
	"list-alert-rules":      viewer,
	"list-alert-kinds":      common,
	"list-alert-silences":   viewer,
	"list-alert-deliveries": viewer,
	"get-alert-delivery":    viewer,
	"list-alert-channels":   viewer,
	"preview-alert-rule":    operator,
	"create-alert-silence":  operator,
	"end-alert-silence":     operator,
	"test-alert-channel":    operator,
	"put-alert-rule":        admin,
	"delete-alert-rule":     admin,

	"list-approvals":    part,
	"get-approval":      part,
	"decide-approval":   approver,
	"withdraw-approval": part,
}

// caller is who sent a request.
type caller struct {
	actor   string // journal's name: "token:ID", "user:PROVIDER/SUBJECT", "anonymous"
	name    string // for people
	role    token.Role
	scope   token.Scope
	tokenID string         // "" for those who came through a provider
	session *token.Session // nil for bearers of tokens
	csrf    string         // of a session
}

type callerKey struct{}

func withCaller(ctx context.Context, c caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	if c.actor == "" {
		c.actor = "anonymous"
	}
	return c
}

// actorOf returns the journal's name of who sent the request.
func actorOf(ctx context.Context) string { return callerOf(ctx).actor }

// admit authenticates a request and holds its role against the table.
func (s *Server) admit(r *http.Request, need access) (caller, error) {
	if need.need == token.Public {
		return caller{actor: "anonymous"}, nil
	}
	c, err := s.authenticate(r)
	if err != nil {
		return c, err
	}
	if err := need.refusal(c); err != nil {
		return c, err
	}
	return c, s.limit(c)
}

// refusal says why a caller may not call an operation, whatever they ask of it;
// nil if they may. The words name nothing of the operation, so that what is
// refused for one reason can be told together (Session.Withheld).
func (a access) refusal(c caller) error {
	if a.need != token.Public && !c.role.Allows(a.need) {
		return fault.New(fault.Forbidden, "this needs the permission %s, which the roles %s have; %q has the role %s; ask an administrator",
			a.need, roleList(a.need), c.name, c.role)
	}
	byOwner, byIssuer := len(c.scope.Owners) > 0, len(c.scope.CAs)+len(c.scope.Profiles) > 0
	switch {
	case a.need == token.Public || c.scope.Whole():
	case a.reach == whole:
		return fault.New(fault.Forbidden, "this concerns the whole estate, and your sign-in is limited to a part; ask an administrator")
	case a.reach == owners && byIssuer:
		return fault.New(fault.Forbidden, "your sign-in is limited to authorities or profiles, which lists of the inventory cannot be held against; list what was issued instead (GET %s/issued)", Prefix)
	case a.reach == issued && byOwner:
		return fault.New(fault.Forbidden, "your sign-in is limited to owners, which the books of the CA do not know; list certificates instead (GET %s/certs)", Prefix)
	}
	return nil
}

func roleList(p token.Permission) string {
	var names []string
	for _, r := range token.Needing(p) {
		names = append(names, string(r))
	}
	return strings.Join(names, ", ")
}

// limit refuses a caller who is too fast.
func (s *Server) limit(c caller) error {
	if s.cfg.Limiter == nil {
		return nil
	}
	if ok, retry := s.cfg.Limiter.Allow(c.actor, 1, now()); !ok {
		return fault.New(fault.RateLimited, "too many requests by %s: more than %s; wait, or ask an administrator to raise limits.api", c.actor, s.cfg.Limiter.Rate(c.actor)).Retry(retry)
	}
	return nil
}

// authenticate finds out who sent a request: the bearer of a token, or a
// browser that is signed in.
func (s *Server) authenticate(r *http.Request) (caller, error) {
	headers := r.Header.Values("Authorization")
	if cookie, ok := sessionCookie(r); ok && len(headers) == 0 {
		return s.signedIn(r, cookie)
	}
	text, err := bearer(headers)
	if err != nil {
		return caller{}, err
	}
	t, err := s.tokens.verify(r.Context(), s.cfg.DB, text, now())
	if err != nil {
		return caller{}, err
	}
	return tokenCaller(&t), nil
}

func tokenCaller(t *token.Token) caller {
	return caller{actor: "token:" + t.ID, name: t.Name, role: t.Role, scope: t.Scope, tokenID: t.ID}
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
