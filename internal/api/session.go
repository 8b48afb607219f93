package api

import (
	"context"
	"crypto/subtle"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/fault"
	"chancery/internal/token"
)

// cookieName is the cookie of a sign-in. The prefix makes browsers refuse it
// unless it is Secure, for this host alone and for every path (RFC 6265bis
// section 4.1.3.2).
const cookieName = "__Host-chancery"

// csrfHeader carries the proof that a request comes from our own page.
const csrfHeader = "X-CSRF-Token"

// sessionCookie returns the text of the sign-in cookie, if the request has
// exactly one.
func sessionCookie(r *http.Request) (string, bool) {
	c := r.CookiesNamed(cookieName)
	if len(c) != 1 {
		return "", false
	}
	return c[0].Value, true
}

// signedIn authenticates a browser. What changes something must come from our
// own page: the browser says so (Sec-Fetch-Site, Origin), and the page proves
// it with a token that no other page can read.
func (s *Server) signedIn(r *http.Request, text string) (caller, error) {
	if s.cfg.Sessions == nil {
		return caller{}, fault.New(fault.Unauthorized, "sign-ins are not served here")
	}
	n, err := s.cfg.Sessions.Verify(r.Context(), text, now())
	if err != nil {
		return caller{}, err
	}
	c := caller{actor: n.Actor, name: n.Name, role: n.Role, scope: n.Scope, tokenID: n.TokenID, session: &n, csrf: token.CSRF(text)}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return c, nil
	}
	sent := r.Header.Get(csrfHeader)
	if s.crossOrigin.Check(r) != nil || subtle.ConstantTimeCompare([]byte(sent), []byte(c.csrf)) != 1 {
		return caller{}, fault.New(fault.Forbidden, "the request does not come from a page of this server; reload the page and try again")
	}
	return c, nil
}

func (s *Server) sessions() {
	tag := []string{"Session"}
	register(s, huma.Operation{OperationID: "get-session", Method: http.MethodGet, Path: "/session", Tags: tag,
		Summary: "Who is signed in, and what they may do"}, s.getSession)
	register(s, huma.Operation{OperationID: "open-session", Method: http.MethodPost, Path: "/session", Tags: tag,
		Summary: "Sign in with a token; the answer sets a cookie", DefaultStatus: http.StatusCreated}, s.openSession)
	register(s, huma.Operation{OperationID: "close-session", Method: http.MethodDelete, Path: "/session", Tags: tag,
		Summary: "Sign out", DefaultStatus: http.StatusNoContent}, s.closeSession)
	register(s, huma.Operation{OperationID: "list-sign-ins", Method: http.MethodGet, Path: "/session/providers", Tags: tag,
		Summary: "Where people can sign in"}, s.listSignIns)
}

// Session is who is signed in.
type Session struct {
	SignedIn    bool               `json:"signed_in"`
	Actor       string             `json:"actor,omitempty" doc:"As the journal names them"`
	Name        string             `json:"name,omitempty"`
	Role        token.Role         `json:"role,omitempty"`
	Permissions []token.Permission `json:"permissions" nullable:"false"`
	Scope       *Scope             `json:"scope,omitempty"`
	Withheld    []Withheld         `json:"withheld" nullable:"false" doc:"What they may not call, by the reason; all else is theirs, within their scope"`
	ExpiresAt   *time.Time         `json:"expires_at,omitempty"`
	CSRF        string             `json:"csrf,omitempty" doc:"Send it as X-CSRF-Token with whatever changes something"`
}

// Withheld is what a sign-in may not call for one reason.
type Withheld struct {
	Why        string           `json:"why" doc:"As a call is answered"`
	Permission token.Permission `json:"permission,omitempty" doc:"The permission that is missing; none: the scope is too narrow"`
	Operations []Call           `json:"operations" nullable:"false"`
}

// Call is an operation and how it is called.
type Call struct {
	ID     string `json:"id" doc:"operationId"`
	Method string `json:"method"`
	Path   string `json:"path" doc:"As in this document; {} are parameters"`
}

// withheld tells everything that a caller is refused, so that a page offers
// none of it.
func (s *Server) withheld(c caller) []Withheld {
	out := []Withheld{}
	for _, rt := range append(slices.Clip(s.routes), route{op: streamOperation, access: viewer}) {
		err := rt.access.refusal(c)
		if err == nil {
			continue
		}
		v := Withheld{Why: fault.As(err).Detail}
		if !c.role.Allows(rt.access.need) {
			v.Permission = rt.access.need
		}
		i := slices.IndexFunc(out, func(o Withheld) bool { return o.Why == v.Why })
		if i < 0 {
			i, out = len(out), append(out, v)
		}
		out[i].Operations = append(out[i].Operations, Call{rt.op.OperationID, rt.op.Method, rt.op.Path})
	}
	return out
}

func (s *Server) viewSession(c caller) Session {
	v := Session{SignedIn: true, Actor: c.actor, Name: c.name, Role: c.role, Permissions: c.role.Permissions(), Scope: viewScope(c.scope), Withheld: s.withheld(c), CSRF: c.csrf}
	if c.session != nil {
		v.ExpiresAt = instant(c.session.ExpiresAt)
	}
	return v
}

// noStore is an answer that no cache may keep.
type noStore[T any] struct {
	CacheControl string `header:"Cache-Control"`
	Body         T
}

type sessionInput struct {
	Authorization string      `header:"Authorization"`
	Cookie        http.Cookie `cookie:"__Host-chancery"`
}

// getSession is public: a page asks it before anybody is signed in.
func (s *Server) getSession(ctx context.Context, in *sessionInput) (*noStore[Session], error) {
	out := &noStore[Session]{CacheControl: "no-store", Body: Session{Permissions: []token.Permission{}, Withheld: []Withheld{}}}
	r := &http.Request{Method: http.MethodGet, Header: http.Header{}}
	if in.Authorization != "" {
		r.Header.Set("Authorization", in.Authorization)
	}
	if in.Cookie.Value != "" {
		r.AddCookie(&http.Cookie{Name: cookieName, Value: in.Cookie.Value})
	}
	c, err := s.authenticate(r.WithContext(ctx))
	switch {
	case err == nil:
		out.Body = s.viewSession(c)
	case !fault.Is(err, fault.Unauthorized):
		return nil, err
	}
	return out, nil
}

type openSessionInput struct {
	Body struct {
		Token string `json:"token" minLength:"1" maxLength:"128" doc:"A token, as chancery config token create shows it"`
	}
	peer string
}

// Resolve implements huma.Resolver: it notes who tries.
func (in *openSessionInput) Resolve(ctx huma.Context) []error {
	in.peer = ctx.RemoteAddr()
	return nil
}

type cookieOutput struct {
	SetCookie    string `header:"Set-Cookie"`
	CacheControl string `header:"Cache-Control"`
	Body         Session
}

func (s *Server) openSession(ctx context.Context, in *openSessionInput) (*cookieOutput, error) {
	if s.cfg.Sessions == nil {
		return nil, fault.New(fault.NotFound, "sign-ins are not served here; send the token with each request")
	}
	if ok, retry := s.attempts.Allow(network(in.peer), 1, now()); !ok {
		return nil, fault.New(fault.RateLimited, "too many sign-ins from your address; wait, then try again").Retry(retry)
	}
	t, err := token.Verify(ctx, s.cfg.DB.Read(), strings.TrimSpace(in.Body.Token), now())
	if err != nil {
		return nil, err
	}
	who := token.Who{Actor: "token:" + t.ID, Name: t.Name, Role: t.Role, Scope: t.Scope, TokenID: t.ID, Ends: t.ExpiresAt}
	n, text, err := s.cfg.Sessions.Open(ctx, who, now())
	if err != nil {
		return nil, err
	}
	c := tokenCaller(&t)
	c.session, c.csrf = &n, token.CSRF(text)
	return &cookieOutput{SetCookie: newCookie(text, n.ExpiresAt).String(), CacheControl: "no-store", Body: s.viewSession(c)}, nil
}

// network is the key under which attempts of an address count: all of a /64 or
// an IPv4 address together.
func network(peer string) string {
	ap, err := netip.ParseAddrPort(peer)
	if err != nil {
		return peer
	}
	a := ap.Addr().Unmap()
	bits := 64
	if a.Is4() {
		bits = 32
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return peer
	}
	return p.String()
}

// newCookie returns the sign-in cookie. Lax keeps it from requests that other
// sites make for the browser, but for following a link.
func newCookie(text string, until time.Time) *http.Cookie {
	return &http.Cookie{Name: cookieName, Value: text, Path: "/", Expires: until, Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode}
}

type closedOutput struct {
	SetCookie string `header:"Set-Cookie"`
}

func (s *Server) closeSession(ctx context.Context, _ *struct{}) (*closedOutput, error) {
	c := callerOf(ctx)
	if c.session == nil {
		return nil, fault.New(fault.Invalid, "you sent a token, which has no sign-in to end; revoke it to end it")
	}
	if err := s.cfg.Sessions.Close(ctx, c.session, now()); err != nil {
		return nil, err
	}
	gone := newCookie("", time.Unix(1, 0))
	gone.MaxAge = -1
	return &closedOutput{gone.String()}, nil
}

// SignIn is a place where people can sign in.
type SignIn struct {
	Name  string `json:"name"`
	Title string `json:"title" doc:"What to write on the button"`
	URL   string `json:"url" doc:"Send the browser there"`
}

func (s *Server) listSignIns(context.Context, *struct{}) (*bodyOf[Page[SignIn]], error) {
	out := Page[SignIn]{Items: []SignIn{}}
	for name, p := range s.cfg.Providers {
		out.Items = append(out.Items, SignIn{name, p.cfg.Title, loginPath + name})
	}
	slices.SortFunc(out.Items, func(a, b SignIn) int { return strings.Compare(a.Name, b.Name) })
	return &bodyOf[Page[SignIn]]{out}, nil
}
