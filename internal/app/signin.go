package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"strings"
	"time"

	"chancery/internal/api"
	"chancery/internal/config"
	"chancery/internal/fault"
	"chancery/internal/limit"
	"chancery/internal/loop"
	"chancery/internal/token"
)

// access adds to an API configuration who may sign in, how fast callers may
// be, and what needs two.
func (a *App) access(c *api.Config) (err error) {
	cfg := a.cfg
	a.sessions = token.NewSessions(a.db, cfg.SignIn.Life, cfg.SignIn.Idle)
	c.Sessions = a.sessions
	c.Approval = api.Approval{Operations: cfg.Approval.Operations, Expires: cfg.Approval.Expires, BreakGlass: cfg.Approval.BreakGlass}
	if cfg.Limits.Enabled {
		r := cfg.Limits.API
		if c.Limiter, err = limit.New("api", limit.Rate{Count: r.Count, Per: r.Per, Burst: r.Burst}, 0); err != nil {
			return err
		}
	}
	c.Providers = map[string]*api.Provider{}
	for name, o := range cfg.OIDC {
		if c.Providers[name], err = provider(name, o, cfg.Server.URL); err != nil {
			return err
		}
	}
	return nil
}

// provider translates an [oidc.NAME] section.
func provider(name string, o config.OIDC, base string) (*api.Provider, error) {
	title := o.Title
	if title == "" {
		title = name
	}
	pc := api.ProviderConfig{Name: name, Title: title, Issuer: o.Issuer, ClientID: o.ClientID, Scopes: o.Scopes, Claim: o.Claim,
		Redirect: api.CallbackURL(base, name), Secret: func() (string, error) { return fileSecret(o.ClientSecretFile) }}
	for _, g := range o.Grants {
		scope := token.Scope{Owners: g.Owners, CAs: g.CAs, Profiles: g.Profiles}
		if err := scope.Check(); err != nil {
			return nil, err
		}
		pc.Grants = append(pc.Grants, api.Grant{Value: g.Value, Role: token.Role(g.Role), Scope: scope})
	}
	if o.RootsFile != "" {
		pem, err := os.ReadFile(o.RootsFile)
		roots := x509.NewCertPool()
		if err != nil || !roots.AppendCertsFromPEM(pem) {
			return nil, fault.Wrap(err, fault.Invalid, "oidc.%s.roots_file: %s holds no certificates in PEM", name, o.RootsFile)
		}
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
		pc.HTTP = &http.Client{Timeout: 15 * time.Second, Transport: transport}
	}
	return api.NewProvider(pc), nil
}

// fileSecret reads a secret from a file; "" for no file.
func fileSecret(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	b, err := os.ReadFile(path)
	return strings.TrimSpace(string(b)), err
}

// accessLoops end what has had its time.
func (a *App) accessLoops(every func(string, time.Duration, loop.Tick) loop.Every) []loop.Every {
	return []loop.Every{
		every("token.sessions", time.Minute, func(ctx context.Context) (loop.Count, error) {
			n, err := a.sessions.Tick(ctx, time.Now())
			return loop.Count{Claimed: n, Done: n}, err
		}),
		every("api.requests", 10*time.Minute, func(ctx context.Context) (loop.Count, error) {
			return loop.Count{}, a.api.Tick(ctx, time.Now())
		}),
	}
}
