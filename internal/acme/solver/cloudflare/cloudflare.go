// Package cloudflare changes zones at Cloudflare: all changes of a zone are one
// batch request.
package cloudflare

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"chancery/internal/acme/solver"
	"chancery/internal/issuer/rest"
)

// Config is the configuration of a provider.
type Config struct {
	TokenFile string        `toml:"token_file" doc:"File with an API token that may read zones and edit DNS."`
	URL       string        `toml:"url" doc:"URL of the API."`
	Timeout   time.Duration `toml:"timeout" doc:"Longest time for one request."`
}

// Kind is the plug-in.
var Kind = solver.Kind{
	Name: "cloudflare",
	Doc:  "Cloudflare DNS.",
	Config: func() any {
		return &Config{URL: "https://api.cloudflare.com/client/v4", Timeout: 30 * time.Second}
	},
	Open: func(_ solver.Env, config any) (solver.Provider, error) { return open(config.(*Config)) },
}

type provider struct{ api *rest.Client }

func open(c *Config) (*provider, error) {
	api, err := rest.Access{URL: c.URL, Timeout: c.Timeout, Secret: rest.Secret(c.TokenFile), SecretKey: "token_file"}.Open()
	if err != nil {
		return nil, err
	}
	api.MaxReply = 16 << 20
	return &provider{api}, nil
}

// record is a DNS record of the API.
type record struct {
	ID      string `json:"id,omitempty"`
	Type    string `json:"type,omitempty"`
	Name    string `json:"name,omitempty"`
	Content string `json:"content,omitempty"`
	TTL     int    `json:"ttl,omitempty"`
}

const (
	pageSize   = 500
	maxPages   = 200
	maxChanges = 200 // of one batch; what every plan may do
	fewNames   = 4   // up to which names are read one by one
)

// Apply implements solver.Provider.
func (p *provider) Apply(ctx context.Context, zone string, add, remove []solver.Record) error {
	if len(add)+len(remove) == 0 {
		return nil
	}
	return rest.Classify(ctx, p.apply(ctx, zone, add, remove))
}

func (p *provider) apply(ctx context.Context, zone string, add, remove []solver.Record) error {
	id, err := p.zone(ctx, zone)
	if err != nil {
		return err
	}
	path := "/zones/" + url.PathEscape(id) + "/dns_records"
	sets := solver.Sets(add, remove)
	have, err := p.read(ctx, path, sets)
	if err != nil {
		return err
	}
	type batch struct {
		Deletes []record `json:"deletes,omitempty"`
		Posts   []record `json:"posts,omitempty"`
	}
	var changes []batch
	for _, s := range sets {
		after, _ := s.Merge(values(have[s.Name]))
		for _, r := range have[s.Name] {
			if !slices.Contains(after, solver.Unquote(r.Content)) {
				changes = append(changes, batch{Deletes: []record{{ID: r.ID}}})
			}
		}
		for _, v := range after {
			if !slices.Contains(values(have[s.Name]), v) {
				changes = append(changes, batch{Posts: []record{{Type: "TXT", Name: s.Name, Content: solver.Quote(v), TTL: max(int(s.TTL/time.Second), 60)}}})
			}
		}
	}
	for part := range slices.Chunk(changes, maxChanges) {
		var one batch
		for _, c := range part {
			one.Deletes, one.Posts = append(one.Deletes, c.Deletes...), append(one.Posts, c.Posts...)
		}
		if _, err := p.api.Do(ctx, http.MethodPost, path+"/batch", one, nil); err != nil {
			return err
		}
	}
	return nil
}

func values(list []record) []string {
	var out []string
	for _, r := range list {
		out = append(out, solver.Unquote(r.Content))
	}
	return out
}

func (p *provider) zone(ctx context.Context, name string) (string, error) {
	var out struct {
		Result []struct {
			ID   string `json:"id"`
			Name string `json:"name"`
		} `json:"result"`
	}
	if _, err := p.api.Do(ctx, http.MethodGet, "/zones?name="+url.QueryEscape(name), nil, &out); err != nil {
		return "", err
	}
	for _, z := range out.Result {
		if z.Name == name {
			return z.ID, nil
		}
	}
	return "", fmt.Errorf("the account has no zone %s, or the token may not see it", name)
}

// read returns the TXT records of names: by name when they are few, or else of
// the whole zone.
func (p *provider) read(ctx context.Context, path string, sets []solver.Set) (map[string][]record, error) {
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
				Result []record `json:"result"`
				Info   struct {
					Pages int `json:"total_pages"`
				} `json:"result_info"`
			}
			if _, err := p.api.Do(ctx, http.MethodGet, path+"?type=TXT&per_page="+strconv.Itoa(pageSize)+"&page="+strconv.Itoa(page)+q, nil, &got); err != nil {
				return nil, err
			}
			for _, r := range got.Result {
				out[strings.ToLower(r.Name)] = append(out[strings.ToLower(r.Name)], r)
			}
			if page >= got.Info.Pages {
				break
			}
		}
	}
	return out, nil
}

// Check implements solver.Checker.
func (p *provider) Check(ctx context.Context) error {
	_, err := p.api.Do(ctx, http.MethodGet, "/user/tokens/verify", nil, nil)
	return rest.Classify(ctx, err)
}
