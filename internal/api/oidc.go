package api

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json/v2"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/httpd"
	"chancery/internal/obs"
	"chancery/internal/token"
)

// Grant gives a role to everybody who has a value in a claim.
type Grant struct {
	Value string // of the claim; * and ? as in path.Match
	Role  token.Role
	Scope token.Scope
}

// ProviderConfig describes an OpenID provider.
type ProviderConfig struct {
	Name     string // in URLs and in the journal
	Title    string // on the button
	Issuer   string // URL; its discovery document must name the same issuer
	ClientID string
	// Secret returns the client's secret; "" for a public client, which PKCE
	// protects alone. It is asked at each sign-in, so a new file counts at once.
	Secret   func() (string, error)
	Scopes   []string // beside openid
	Claim    string   // whose values the grants speak of, e.g. "groups"; a string or a list of strings
	Grants   []Grant  // the first that matches decides; nobody else gets in
	Redirect string   // URL of our callback
	HTTP     *http.Client
}

// Provider signs people in through OpenID Connect: authorization code flow
// with PKCE, state and nonce (OpenID Connect Core 1.0 section 3.1, RFC 7636).
type Provider struct {
	cfg ProviderConfig

	mu    sync.Mutex
	found *oidc.Provider // nil until the discovery document was read
}

// NewProvider returns a provider. It asks nothing over the network yet.
func NewProvider(cfg ProviderConfig) *Provider {
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Client{Timeout: 15 * time.Second}
	}
	return &Provider{cfg: cfg}
}

// discover reads the provider's configuration, once.
func (p *Provider) discover(ctx context.Context) (*oidc.Provider, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.found != nil {
		return p.found, nil
	}
	// The key set keeps this context: it must not end with the request.
	found, err := oidc.NewProvider(oidc.ClientContext(context.WithoutCancel(ctx), p.cfg.HTTP), p.cfg.Issuer)
	if err != nil {
		return nil, fault.Wrap(err, fault.Unavailable, "the sign-in service %s does not answer as expected", p.cfg.Title).Retry(defaultRetry)
	}
	p.found = found
	return found, nil
}

func (p *Provider) client(found *oidc.Provider) (*oauth2.Config, error) {
	secret, err := p.cfg.Secret()
	if err != nil {
		return nil, fmt.Errorf("read client secret of %s: %w", p.cfg.Name, err)
	}
	return &oauth2.Config{ClientID: p.cfg.ClientID, ClientSecret: secret, Endpoint: found.Endpoint(), RedirectURL: p.cfg.Redirect,
		Scopes: append([]string{oidc.ScopeOpenID}, p.cfg.Scopes...)}, nil
}

// Paths of the flow.
const (
	loginPath    = "/auth/login/"
	callbackPath = "/auth/callback/"
)

// CallbackURL returns where a provider must send browsers back to.
func CallbackURL(base, name string) string { return base + callbackPath + name }

// loginCookie keeps what belongs to one attempt, sealed, in the browser.
const loginCookie = "__Host-chancery-login"

// loginTime is how long somebody may take at the provider.
const loginTime = 10 * time.Minute

// attempt is one sign-in under way.
type attempt struct {
	Provider string    `json:"provider"`
	State    string    `json:"state"`
	Nonce    string    `json:"nonce"`
	Verifier string    `json:"verifier"`
	Return   string    `json:"return"`
	Expires  time.Time `json:"expires"`
}

// signInRoutes mounts what browsers visit.
func (s *Server) signInRoutes(g *httpd.Group) {
	if len(s.cfg.Providers) == 0 || s.cfg.Sessions == nil {
		return
	}
	g.HandleStd("GET "+loginPath+"{provider}", s.page(s.login), 1<<10)
	g.HandleStd("GET "+callbackPath+"{provider}", s.page(s.callback), 1<<10)
}

// refusal is what a person sees when signing in fails.
var refusal = template.Must(template.New("refusal").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Chancery: not signed in</title>
<h1>Not signed in</h1><p>{{.Detail}}</p><p>Request {{.Request}}</p><p><a href="/">Back</a></p></html>
`))

// page runs a handler of the flow and shows its error to a person.
func (s *Server) page(h func(http.ResponseWriter, *http.Request, *Provider) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Referrer-Policy", "no-referrer") // the URL holds a code
		p, ok := s.cfg.Providers[r.PathValue("provider")]
		err := error(fault.New(fault.NotFound, "there is no such sign-in service"))
		if ok {
			err = h(w, r, p)
		}
		if err == nil {
			return
		}
		f := fault.As(err)
		obs.Set(r.Context(), slog.String("refused", f.Error()))
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		w.WriteHeader(f.Status())
		if err := refusal.Execute(w, map[string]string{"Detail": f.Detail, "Request": obs.RequestID(r.Context())}); err != nil {
			s.log.Debug("page was not sent", "error", err)
		}
	})
}

// login sends the browser to the provider.
func (s *Server) login(w http.ResponseWriter, r *http.Request, p *Provider) error {
	if ok, retry := s.attempts.Allow(network(r.RemoteAddr), 1, now()); !ok {
		return fault.New(fault.RateLimited, "too many sign-ins from your address; wait, then try again").Retry(retry)
	}
	found, err := p.discover(r.Context())
	if err != nil {
		return err
	}
	client, err := p.client(found)
	if err != nil {
		return err
	}
	a := attempt{Provider: p.cfg.Name, State: oauth2.GenerateVerifier(), Nonce: oauth2.GenerateVerifier(), Verifier: oauth2.GenerateVerifier(),
		Return: localPath(r.URL.Query().Get("return")), Expires: now().Add(loginTime)}
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	sealed := base64.RawURLEncoding.EncodeToString(s.cfg.Secrets.Seal(text, []byte(loginCookie)))
	http.SetCookie(w, &http.Cookie{Name: loginCookie, Value: sealed, Path: "/", MaxAge: int(loginTime.Seconds()), Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
	http.Redirect(w, r, client.AuthCodeURL(a.State, oidc.Nonce(a.Nonce), oauth2.S256ChallengeOption(a.Verifier)), http.StatusFound)
	return nil
}

// localPath returns a path of this server, and "/" for anything else: nobody
// is sent to another site after signing in.
func localPath(p string) string {
	if !strings.HasPrefix(p, "/") || strings.HasPrefix(p, "//") || strings.ContainsAny(p, "\\\r\n\t") || len(p) > 2000 {
		return "/"
	}
	return p
}

// callback takes the browser back from the provider.
func (s *Server) callback(w http.ResponseWriter, r *http.Request, p *Provider) error {
	a, err := s.attempt(r, p)
	http.SetCookie(w, &http.Cookie{Name: loginCookie, Path: "/", MaxAge: -1, Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
	if err != nil {
		return err
	}
	who, err := p.identify(r.Context(), a, r.URL.Query().Get("code"))
	if err != nil {
		s.denied(r.Context(), p, who, err)
		return err
	}
	n, text, err := s.cfg.Sessions.Open(r.Context(), who, now())
	if err != nil {
		return err
	}
	http.SetCookie(w, newCookie(text, n.ExpiresAt))
	http.Redirect(w, r, a.Return, http.StatusFound)
	return nil
}

// denied journals that somebody whom the provider knows did not get in.
func (s *Server) denied(ctx context.Context, p *Provider, who token.Who, cause error) {
	if who.Actor == "" || !fault.Is(cause, fault.Forbidden) {
		return
	}
	err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		return audit.Append(tx, audit.Entry{At: now(), Kind: "session.deny", Actor: who.Actor, Subject: "provider:" + p.cfg.Name})
	})
	if err != nil {
		s.log.LogAttrs(ctx, slog.LevelError, "denied sign-in was not recorded", slog.Any("error", err))
	}
}

// attempt opens the cookie of the sign-in that the browser comes back with.
func (s *Server) attempt(r *http.Request, p *Provider) (attempt, error) {
	again := func(cause error) error {
		return fault.Wrap(cause, fault.Forbidden, "this sign-in was not begun here, or too long ago; begin again")
	}
	cookies := r.CookiesNamed(loginCookie)
	if len(cookies) != 1 {
		return attempt{}, again(errors.New("no sign-in cookie"))
	}
	var a attempt
	sealed, err := base64.RawURLEncoding.DecodeString(cookies[0].Value)
	if err == nil {
		sealed, err = s.cfg.Secrets.Open(sealed, []byte(loginCookie))
	}
	if err == nil {
		err = json.Unmarshal(sealed, &a)
	}
	if err != nil {
		return a, again(err)
	}
	q := r.URL.Query()
	if subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(a.State)) != 1 || a.Provider != p.cfg.Name || now().After(a.Expires) {
		return a, again(errors.New("state, provider or time does not fit"))
	}
	if code := q.Get("error"); code != "" {
		return a, fault.New(fault.Forbidden, "%s did not sign you in: %.100q", p.cfg.Title, code)
	}
	return a, nil
}

// identify exchanges a code for who the person is and what they may do.
func (p *Provider) identify(ctx context.Context, a attempt, code string) (token.Who, error) {
	ctx = oidc.ClientContext(ctx, p.cfg.HTTP)
	refused := func(cause error) error {
		return fault.Wrap(cause, fault.Forbidden, "%s did not confirm who you are; begin again", p.cfg.Title)
	}
	found, err := p.discover(ctx)
	if err != nil {
		return token.Who{}, err
	}
	client, err := p.client(found)
	if err != nil {
		return token.Who{}, err
	}
	tokens, err := client.Exchange(ctx, code, oauth2.VerifierOption(a.Verifier))
	if err != nil {
		return token.Who{}, refused(exchangeError(err))
	}
	raw, _ := tokens.Extra("id_token").(string)
	id, err := found.Verifier(&oidc.Config{ClientID: p.cfg.ClientID}).Verify(ctx, raw)
	if err != nil {
		return token.Who{}, refused(err)
	}
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(a.Nonce)) != 1 {
		return token.Who{}, refused(errors.New("the nonce of the ID token is not that of the sign-in"))
	}
	var claims map[string]any
	if err := id.Claims(&claims); err != nil {
		return token.Who{}, refused(err)
	}
	if _, ok := claims[p.cfg.Claim]; !ok {
		if err := p.more(ctx, found, tokens, id.Subject, claims); err != nil {
			// The answer may repeat the token that the question held.
			return token.Who{}, refused(errors.New(strings.ReplaceAll(err.Error(), tokens.AccessToken, "[hidden]")))
		}
	}
	return p.grant(id.Subject, claims)
}

// exchangeError takes the provider's answer out of the refusal of a code: it is
// logged, and some answers repeat the request with the client's secret. The
// error code is one of RFC 6749 section 5.2.
func exchangeError(err error) error {
	var r *oauth2.RetrieveError
	if !errors.As(err, &r) || r.Response == nil {
		return err
	}
	switch r.ErrorCode {
	case "invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope":
		return fmt.Errorf("exchange code: %s: %s", r.Response.Status, r.ErrorCode)
	}
	return fmt.Errorf("exchange code: %s", r.Response.Status)
}

// more adds the claims of the user info endpoint, for providers that keep the
// ID token small (OpenID Connect Core 1.0 section 5.3).
func (p *Provider) more(ctx context.Context, found *oidc.Provider, tokens *oauth2.Token, subject string, claims map[string]any) error {
	if found.UserInfoEndpoint() == "" {
		return nil
	}
	info, err := found.UserInfo(ctx, oauth2.StaticTokenSource(tokens))
	if err != nil {
		return err
	}
	if info.Subject != subject { // section 5.3.2
		return errors.New("the user info is about somebody else")
	}
	var extra map[string]any
	if err := info.Claims(&extra); err != nil {
		return err
	}
	for k, v := range extra {
		if _, ok := claims[k]; !ok {
			claims[k] = v
		}
	}
	return nil
}

// grant decides what somebody may do. With the error, the name is known.
func (p *Provider) grant(subject string, claims map[string]any) (token.Who, error) {
	who := token.Who{Actor: "user:" + p.cfg.Name + "/" + subject, Name: subject}
	for _, k := range []string{"email", "preferred_username", "name"} {
		if v, ok := claims[k].(string); ok && v != "" {
			who.Name = v
		}
	}
	values := values(claims[p.cfg.Claim])
	for _, g := range p.cfg.Grants {
		for _, v := range values {
			if ok, err := path.Match(g.Value, v); ok && err == nil {
				who.Role, who.Scope = g.Role, g.Scope
				return who, nil
			}
		}
	}
	return who, fault.New(fault.Forbidden, "%s knows you as %.100q, but nothing is granted to you here; ask an administrator to add one of your %s to sign_in.oidc.%s.grants",
		p.cfg.Title, who.Name, p.cfg.Claim, p.cfg.Name)
}

// values returns a claim that is a string or a list of strings.
func values(claim any) []string {
	switch v := claim.(type) {
	case string:
		return []string{v}
	case []any:
		var out []string
		for _, e := range v {
			if s, ok := e.(string); ok {
				out = append(out, s)
			}
		}
		return out
	}
	return nil
}
