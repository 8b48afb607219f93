// Package azuredns changes zones of Azure DNS, whose API has one request per
// record set. ETags keep changes of others from being lost.
package azuredns

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
	"golang.org/x/sync/errgroup"

	"chancery/internal/acme/solver"
	"chancery/internal/issuer/rest"
)

// Config is the configuration of a provider.
type Config struct {
	Subscription  string        `toml:"subscription" doc:"Id of the subscription."`
	ResourceGroup string        `toml:"resource_group" doc:"Resource group of the zones."`
	Tenant        string        `toml:"tenant" doc:"Id of the tenant, with client_id."`
	ClientID      string        `toml:"client_id" doc:"Id of a service principal, or of a user-assigned managed identity. Empty: the machine's own managed identity."`
	SecretFile    string        `toml:"client_secret_file" doc:"File with the secret of the service principal. Empty: client_id is a managed identity."`
	URL           string        `toml:"url" doc:"URL of the Resource Manager."`
	LoginURL      string        `toml:"login_url" doc:"URL that service principals sign in at."`
	IdentityURL   string        `toml:"identity_url" doc:"URL that managed identities get tokens from."`
	Timeout       time.Duration `toml:"timeout" doc:"Longest time for one request."`
}

// Kind is the plug-in.
var Kind = solver.Kind{
	Name: "azure",
	Doc:  "Azure DNS.",
	Config: func() any {
		return &Config{URL: "https://management.azure.com", LoginURL: "https://login.microsoftonline.com", IdentityURL: "http://169.254.169.254", Timeout: 30 * time.Second}
	},
	Open: func(_ solver.Env, config any) (solver.Provider, error) { return open(config.(*Config)) },
}

type provider struct{ api *rest.Client }

func open(c *Config) (*provider, error) {
	base, err := rest.CheckURL("url", c.URL)
	if err != nil {
		return nil, err
	}
	if c.Subscription == "" || c.ResourceGroup == "" {
		return nil, errors.New("subscription and resource_group: must be set")
	}
	hc, err := rest.NewHTTP(rest.TLS{}, c.Timeout)
	if err != nil {
		return nil, err
	}
	tokens, err := source(c, base, hc)
	if err != nil {
		return nil, err
	}
	group := "/subscriptions/" + url.PathEscape(c.Subscription) + "/resourceGroups/" + url.PathEscape(c.ResourceGroup) + "/providers/Microsoft.Network/dnsZones"
	return &provider{&rest.Client{Base: base + group, HTTP: hc, Authorize: tokens.Authorize}}, nil
}

// source returns where tokens come from.
func source(c *Config, base string, hc *http.Client) (*rest.Tokens, error) {
	if c.SecretFile == "" {
		q := url.Values{"api-version": {"2018-02-01"}, "resource": {base + "/"}}
		if c.ClientID != "" {
			q.Set("client_id", c.ClientID)
		}
		return &rest.Tokens{Fetch: func(ctx context.Context) (*oauth2.Token, error) {
			return rest.MetadataToken(ctx, hc, c.IdentityURL+"/metadata/identity/oauth2/token?"+q.Encode(), "Metadata", "true")
		}}, nil
	}
	if c.Tenant == "" || c.ClientID == "" {
		return nil, errors.New("tenant and client_id: must be set with client_secret_file")
	}
	login, err := rest.CheckURL("login_url", c.LoginURL)
	if err != nil {
		return nil, err
	}
	secret := rest.Secret(c.SecretFile)
	if err := secret.Check("client_secret_file"); err != nil {
		return nil, err
	}
	return &rest.Tokens{Fetch: func(ctx context.Context) (*oauth2.Token, error) {
		s, err := secret.Read()
		if err != nil {
			return nil, err
		}
		cc := clientcredentials.Config{ClientID: c.ClientID, ClientSecret: s, TokenURL: login + "/" + url.PathEscape(c.Tenant) + "/oauth2/v2.0/token",
			Scopes: []string{base + "/.default"}, AuthStyle: oauth2.AuthStyleInParams}
		return cc.Token(context.WithValue(ctx, oauth2.HTTPClient, hc))
	}}, nil
}

// txtSet is a record set of the API.
type txtSet struct {
	ETag       string `json:"etag,omitempty"`
	Properties struct {
		TTL     int64 `json:"TTL"`
		Records []txt `json:"TXTRecords"`
	} `json:"properties"`
}

type txt struct {
	Value []string `json:"value"` // pieces of at most 255 octets
}

const (
	version  = "?api-version=2018-05-01"
	atOnce   = 8 // record sets
	maxRaces = 5
)

// Apply implements solver.Provider.
func (p *provider) Apply(ctx context.Context, zone string, add, remove []solver.Record) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, s := range solver.Sets(add, remove) {
		g.Go(func() error {
			path := "/" + url.PathEscape(zone) + "/TXT/" + url.PathEscape(solver.Relative(s.Name, zone)) + version
			for range maxRaces {
				err := p.change(ctx, path, s)
				if !rest.IsStatus(err, http.StatusPreconditionFailed) {
					return err
				}
			}
			return fmt.Errorf("the record set %s keeps changing", s.Name)
		})
	}
	return rest.Classify(ctx, g.Wait())
}

// change reads one set and writes what it becomes, if nobody changed it
// meanwhile.
func (p *provider) change(ctx context.Context, path string, s solver.Set) error {
	var set txtSet
	_, err := p.api.Do(ctx, http.MethodGet, path, nil, &set)
	exists := err == nil
	if err != nil && !rest.IsStatus(err, http.StatusNotFound) {
		return err
	}
	after, changed := s.Merge(values(set))
	c := *p.api
	c.Authorize = func(ctx context.Context, r *http.Request) error {
		if exists {
			r.Header.Set("If-Match", set.ETag)
		} else {
			r.Header.Set("If-None-Match", "*")
		}
		return p.api.Authorize(ctx, r)
	}
	switch {
	case !changed:
		return nil
	case len(after) == 0:
		_, err = c.Do(ctx, http.MethodDelete, path, nil, nil)
		return err
	}
	next := txtSet{}
	next.Properties.TTL = int64(s.TTL / time.Second)
	for _, v := range after {
		next.Properties.Records = append(next.Properties.Records, txt{[]string{v}})
	}
	_, err = c.Do(ctx, http.MethodPut, path, next, nil)
	return err
}

func values(set txtSet) []string {
	var out []string
	for _, r := range set.Properties.Records {
		v := ""
		for _, piece := range r.Value {
			v += piece
		}
		out = append(out, v)
	}
	return out
}

// Check implements solver.Checker.
func (p *provider) Check(ctx context.Context) error {
	_, err := p.api.Do(ctx, http.MethodGet, version+"&$top=1", nil, nil)
	return rest.Classify(ctx, err)
}
