// Package powerdns changes zones by the HTTP API of the PowerDNS authoritative
// server.
package powerdns

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"chancery/internal/acme/solver"
	"chancery/internal/issuer/rest"
)

// Config is the configuration of a provider.
type Config struct {
	URL       string        `toml:"url" doc:"URL of the web server, such as https://dns.example:8081."`
	KeyFile   string        `toml:"key_file" doc:"File with the API key (api-key)."`
	ServerID  string        `toml:"server_id" doc:"Name of the server in the API."`
	RootsFile string        `toml:"roots_file" doc:"File with the roots (PEM) that the server's certificate must chain to. Empty: those of the system."`
	Timeout   time.Duration `toml:"timeout" doc:"Longest time for one request."`
}

// Kind is the plug-in.
var Kind = solver.Kind{
	Name:   "powerdns",
	Doc:    "PowerDNS authoritative server, by its HTTP API.",
	Config: func() any { return &Config{ServerID: "localhost", Timeout: 30 * time.Second} },
	Open:   func(_ solver.Env, config any) (solver.Provider, error) { return open(config.(*Config)) },
}

type provider struct{ api *rest.Client }

func open(c *Config) (*provider, error) {
	if c.ServerID == "" {
		return nil, errors.New("server_id: must be set; it is localhost unless there is a proxy")
	}
	api, err := rest.Access{URL: c.URL, TLS: rest.TLS{Roots: c.RootsFile}, Timeout: c.Timeout, Secret: rest.Secret(c.KeyFile), SecretKey: "key_file",
		Sign: func(r *http.Request, secret string) { r.Header.Set("X-API-Key", secret) }}.Open()
	if err != nil {
		return nil, err
	}
	api.Base += "/api/v1/servers/" + url.PathEscape(c.ServerID)
	api.MaxReply = 64 << 20
	return &provider{api}, nil
}

// rrset is a record set of the API.
type rrset struct {
	Name       string   `json:"name"`
	Type       string   `json:"type"`
	TTL        int64    `json:"ttl,omitempty"`
	ChangeType string   `json:"changetype,omitempty"`
	Records    []record `json:"records"`
}

type record struct {
	Content  string `json:"content"`
	Disabled bool   `json:"disabled"`
}

type zoneDoc struct {
	RRsets []rrset `json:"rrsets"`
}

// fewNames is up to how many names are read one by one; beyond it the whole
// zone is read.
const fewNames = 8

// Apply implements solver.Provider. The API replaces whole sets, so their
// values are read first; the change itself is one request and one transaction.
func (p *provider) Apply(ctx context.Context, zone string, add, remove []solver.Record) error {
	sets := solver.Sets(add, remove)
	path := "/zones/" + url.PathEscape(zone+".")
	have, err := p.read(ctx, path, sets)
	if err != nil {
		return err
	}
	var doc zoneDoc
	for _, s := range sets {
		after, changed := s.Merge(have[s.Name])
		if !changed {
			continue
		}
		set := rrset{Name: s.Name + ".", Type: "TXT", ChangeType: "DELETE", Records: []record{}}
		if len(after) > 0 {
			set.ChangeType, set.TTL = "REPLACE", int64(s.TTL/time.Second)
		}
		for _, v := range after {
			set.Records = append(set.Records, record{Content: solver.Quote(v)})
		}
		doc.RRsets = append(doc.RRsets, set)
	}
	if len(doc.RRsets) == 0 {
		return nil
	}
	_, err = p.api.Do(ctx, http.MethodPatch, path, doc, nil)
	return rest.Classify(ctx, err)
}

// read returns the values of TXT sets by name.
func (p *provider) read(ctx context.Context, path string, sets []solver.Set) (map[string][]string, error) {
	out := map[string][]string{}
	queries := []string{"?rrsets=true"}
	if len(sets) <= fewNames {
		queries = nil
		for _, s := range sets {
			queries = append(queries, "?rrsets=true&rrset_type=TXT&rrset_name="+url.QueryEscape(s.Name+"."))
		}
	}
	for _, q := range queries {
		var doc zoneDoc
		if _, err := p.api.Do(ctx, http.MethodGet, path+q, nil, &doc); err != nil {
			return nil, rest.Classify(ctx, err)
		}
		for _, s := range doc.RRsets {
			// Servers before 4.6 ignore the filter and send the whole zone.
			name := strings.ToLower(strings.TrimSuffix(s.Name, "."))
			if s.Type != "TXT" || out[name] != nil || !slices.ContainsFunc(sets, func(w solver.Set) bool { return w.Name == name }) {
				continue
			}
			for _, r := range s.Records {
				out[name] = append(out[name], solver.Unquote(r.Content))
			}
		}
	}
	return out, nil
}

// Check implements solver.Checker.
func (p *provider) Check(ctx context.Context) error {
	_, err := p.api.Do(ctx, http.MethodGet, "", nil, nil)
	return rest.Classify(ctx, err)
}
