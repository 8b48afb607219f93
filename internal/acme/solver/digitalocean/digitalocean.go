// Package digitalocean changes zones at DigitalOcean, whose API has one request
// per record.
package digitalocean

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"chancery/internal/acme/solver"
	"chancery/internal/issuer/rest"
)

// Config is the configuration of a provider.
type Config struct {
	TokenFile string        `toml:"token_file" doc:"File with an API token that may read and write domains."`
	URL       string        `toml:"url" doc:"URL of the API."`
	Timeout   time.Duration `toml:"timeout" doc:"Longest time for one request."`
}

// Kind is the plug-in.
var Kind = solver.Kind{
	Name:   "digitalocean",
	Doc:    "DigitalOcean DNS.",
	Config: func() any { return &Config{URL: "https://api.digitalocean.com", Timeout: 30 * time.Second} },
	Open:   func(_ solver.Env, config any) (solver.Provider, error) { return open(config.(*Config)) },
}

type provider struct{ api *rest.Client }

func open(c *Config) (*provider, error) {
	api, err := rest.Access{URL: c.URL, Timeout: c.Timeout, Secret: rest.Secret(c.TokenFile), SecretKey: "token_file"}.Open()
	if err != nil {
		return nil, err
	}
	api.Base += "/v2"
	return &provider{api}, nil
}

// record is a domain record of the API.
type record struct {
	ID   int    `json:"id,omitempty"`
	Type string `json:"type"`
	Name string `json:"name"` // in the zone
	Data string `json:"data"`
	TTL  int    `json:"ttl,omitempty"`
}

const (
	pageSize = 200
	maxPages = 500
	fewNames = 4 // up to which names are read one by one
	atOnce   = 4 // requests; the API throttles by the minute
)

// Apply implements solver.Provider.
func (p *provider) Apply(ctx context.Context, zone string, add, remove []solver.Record) error {
	if len(add)+len(remove) == 0 {
		return nil
	}
	path := "/domains/" + url.PathEscape(zone) + "/records"
	sets := solver.Sets(add, remove)
	have, err := p.read(ctx, path, zone, sets)
	if err != nil {
		return rest.Classify(ctx, err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, s := range sets {
		name := solver.Relative(s.Name, zone)
		after, _ := s.Merge(values(have[name]))
		for _, r := range have[name] {
			if !slices.Contains(after, r.Data) {
				g.Go(func() error { return p.remove(ctx, path, r.ID) })
			}
		}
		for _, v := range after {
			if !slices.Contains(values(have[name]), v) {
				g.Go(func() error {
					_, err := p.api.Do(ctx, http.MethodPost, path, record{Type: "TXT", Name: name, Data: v, TTL: max(int(s.TTL/time.Second), 30)}, nil)
					return err
				})
			}
		}
	}
	return rest.Classify(ctx, g.Wait())
}

func (p *provider) remove(ctx context.Context, path string, id int) error {
	_, err := p.api.Do(ctx, http.MethodDelete, path+"/"+strconv.Itoa(id), nil, nil)
	if rest.IsStatus(err, http.StatusNotFound) {
		return nil
	}
	return err
}

func values(list []record) []string {
	var out []string
	for _, r := range list {
		out = append(out, r.Data)
	}
	return out
}

// read returns TXT records by their name in the zone.
func (p *provider) read(ctx context.Context, path, zone string, sets []solver.Set) (map[string][]record, error) {
	out, queries := map[string][]record{}, []string{""}
	if len(sets) <= fewNames {
		queries = nil
		for _, s := range sets {
			queries = append(queries, "&name="+url.QueryEscape(s.Name))
		}
	}
	for _, q := range queries {
		for page := 1; page <= maxPages; page++ {
			var got struct {
				Records []record `json:"domain_records"`
				Links   struct {
					Pages struct {
						Next string `json:"next"`
					} `json:"pages"`
				} `json:"links"`
			}
			if _, err := p.api.Do(ctx, http.MethodGet, path+"?type=TXT&per_page="+strconv.Itoa(pageSize)+"&page="+strconv.Itoa(page)+q, nil, &got); err != nil {
				return nil, err
			}
			for _, r := range got.Records {
				name := strings.ToLower(r.Name)
				out[name] = append(out[name], r)
			}
			if got.Links.Pages.Next == "" {
				break
			}
		}
	}
	return out, nil
}

// Check implements solver.Checker.
func (p *provider) Check(ctx context.Context) error {
	_, err := p.api.Do(ctx, http.MethodGet, "/domains?per_page=1", nil, nil)
	return rest.Classify(ctx, err)
}
