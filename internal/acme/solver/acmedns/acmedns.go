// Package acmedns sets the records of an acme-dns server: names are delegated to
// it by an alias, so that no credentials of their zones are needed here. It
// keeps the last two values of a name and removes none.
package acmedns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"chancery/internal/acme/solver"
	"chancery/internal/issuer/rest"
)

// Config is the configuration of a provider.
type Config struct {
	URL          string        `toml:"url" doc:"URL of the acme-dns server."`
	AccountsFile string        `toml:"accounts_file" doc:"File with the accounts as acme-dns clients keep them: a JSON object of {fulldomain, subdomain, username, password} by name."`
	RootsFile    string        `toml:"roots_file" doc:"File with the roots (PEM) of the server's certificate. Empty: those of the system."`
	Timeout      time.Duration `toml:"timeout" doc:"Longest time for one request."`
}

// Kind is the plug-in.
var Kind = solver.Kind{
	Name:   "acme-dns",
	Doc:    "acme-dns: names are delegated by an alias to a server made for challenges.",
	Config: func() any { return &Config{Timeout: 30 * time.Second} },
	Open:   func(_ solver.Env, config any) (solver.Provider, error) { return open(config.(*Config)) },
}

// account is one registration at the server.
type account struct {
	FullDomain string `json:"fulldomain"`
	Subdomain  string `json:"subdomain"`
	Username   string `json:"username"`
	Password   string `json:"password"`
}

type provider struct {
	api  *rest.Client
	file string
}

func open(c *Config) (*provider, error) {
	base, err := rest.CheckURL("url", c.URL)
	if err != nil {
		return nil, err
	}
	hc, err := rest.NewHTTP(rest.TLS{Roots: c.RootsFile}, c.Timeout)
	if err != nil {
		return nil, err
	}
	p := &provider{&rest.Client{Base: base, HTTP: hc}, c.AccountsFile}
	_, err = p.accounts()
	return p, err
}

// accounts reads the file, which other tools write, by full domain.
func (p *provider) accounts() (map[string]account, error) {
	text, err := os.ReadFile(p.file)
	if err != nil {
		return nil, fmt.Errorf("accounts_file: %w", err)
	}
	var byName map[string]account
	if err := json.Unmarshal(text, &byName); err != nil || len(byName) == 0 {
		return nil, errors.New("accounts_file: it is not a JSON object of acme-dns accounts")
	}
	out := map[string]account{}
	for _, a := range byName {
		out[strings.ToLower(strings.TrimSuffix(a.FullDomain, "."))] = a
	}
	return out, nil
}

// maxValues is how many values the server keeps for a name.
const maxValues = 2

// Apply implements solver.Provider. Nothing is removed: the server drops the
// older values itself.
func (p *provider) Apply(ctx context.Context, _ string, add, _ []solver.Record) error {
	if len(add) == 0 {
		return nil
	}
	accounts, err := p.accounts()
	if err != nil {
		return err
	}
	for _, s := range solver.Sets(add, nil) {
		a, ok := accounts[s.Name]
		if !ok {
			return fmt.Errorf("%s is no full domain of an account in accounts_file", s.Name)
		}
		if len(s.Add) > maxValues {
			return fmt.Errorf("%s gets %d values at once, and acme-dns keeps %d; delegate each name to an account of its own", s.Name, len(s.Add), maxValues)
		}
		for _, v := range s.Add {
			if err := p.update(ctx, a, v); err != nil {
				return rest.Classify(ctx, err)
			}
		}
	}
	return nil
}

func (p *provider) update(ctx context.Context, a account, value string) error {
	c := *p.api
	c.Authorize = func(_ context.Context, r *http.Request) error {
		r.Header.Set("X-Api-User", a.Username)
		r.Header.Set("X-Api-Key", a.Password)
		return nil
	}
	_, err := c.Do(ctx, http.MethodPost, "/update", map[string]string{"subdomain": a.Subdomain, "txt": value}, nil)
	return err
}

// Check implements solver.Checker.
func (p *provider) Check(ctx context.Context) error {
	_, err := p.api.Do(ctx, http.MethodGet, "/health", nil, nil)
	return rest.Classify(ctx, err)
}
