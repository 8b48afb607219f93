// Package clouddns changes managed zones of Google Cloud DNS: a batch is one
// change, which is applied as a whole or, if somebody else was faster, not at
// all.
package clouddns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/jwt"

	"chancery/internal/acme/solver"
	"chancery/internal/issuer/rest"
)

// Config is the configuration of a provider.
type Config struct {
	Project     string        `toml:"project" doc:"Id of the project. Empty: that of key_file."`
	KeyFile     string        `toml:"key_file" doc:"File with the key of a service account (JSON). Empty: the machine's own service account."`
	URL         string        `toml:"url" doc:"URL of the API."`
	MetadataURL string        `toml:"metadata_url" doc:"URL of the machine's metadata service."`
	Timeout     time.Duration `toml:"timeout" doc:"Longest time for one request."`
}

// Kind is the plug-in.
var Kind = solver.Kind{
	Name: "google",
	Doc:  "Google Cloud DNS.",
	Config: func() any {
		return &Config{URL: "https://dns.googleapis.com", MetadataURL: "http://metadata.google.internal", Timeout: 30 * time.Second}
	},
	Open: func(_ solver.Env, config any) (solver.Provider, error) { return open(config.(*Config)) },
}

type provider struct{ api *rest.Client }

const scope = "https://www.googleapis.com/auth/ndev.clouddns.readwrite"

func open(c *Config) (*provider, error) {
	base, err := rest.CheckURL("url", c.URL)
	if err != nil {
		return nil, err
	}
	hc, err := rest.NewHTTP(rest.TLS{}, c.Timeout)
	if err != nil {
		return nil, err
	}
	project, fetch := c.Project, func(ctx context.Context) (*oauth2.Token, error) {
		return rest.MetadataToken(ctx, hc, c.MetadataURL+"/computeMetadata/v1/instance/service-accounts/default/token?scopes="+scope, "Metadata-Flavor", "Google")
	}
	if c.KeyFile != "" {
		key, own, err := readKey(c.KeyFile)
		if err != nil {
			return nil, err
		}
		project = rest.Or(project, own)
		fetch = func(ctx context.Context) (*oauth2.Token, error) {
			return key.TokenSource(context.WithValue(ctx, oauth2.HTTPClient, hc)).Token()
		}
	}
	if project == "" {
		return nil, errors.New("project: must be set")
	}
	tokens := &rest.Tokens{Fetch: fetch}
	return &provider{&rest.Client{Base: base + "/dns/v1/projects/" + url.PathEscape(project) + "/managedZones", HTTP: hc, MaxReply: 16 << 20, Authorize: tokens.Authorize}}, nil
}

// readKey reads the key of a service account as Google hands it out.
func readKey(path string) (*jwt.Config, string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, "", fmt.Errorf("key_file: %w", err)
	}
	var k struct {
		Type     string `json:"type"`
		Project  string `json:"project_id"`
		KeyID    string `json:"private_key_id"`
		Key      string `json:"private_key"`
		Email    string `json:"client_email"`
		TokenURI string `json:"token_uri"`
	}
	if json.Unmarshal(text, &k) != nil || k.Type != "service_account" || k.Key == "" || k.Email == "" {
		return nil, "", errors.New("key_file: it is not the JSON key of a service account")
	}
	token, err := rest.CheckURL("key_file: token_uri", rest.Or(k.TokenURI, "https://oauth2.googleapis.com/token"))
	return &jwt.Config{Email: k.Email, PrivateKey: []byte(k.Key), PrivateKeyID: k.KeyID, TokenURL: token, Scopes: []string{scope}}, k.Project, err
}

// rrset is a record set of the API.
type rrset struct {
	Name    string   `json:"name"`
	Type    string   `json:"type"`
	TTL     int64    `json:"ttl"`
	RRDatas []string `json:"rrdatas"`
}

const (
	maxSets  = 400 // of one change: 1000 records each way
	fewNames = 8   // up to which names are read one by one
	maxPages = 1000
	maxRaces = 5
)

// Apply implements solver.Provider.
func (p *provider) Apply(ctx context.Context, zone string, add, remove []solver.Record) error {
	if len(add)+len(remove) == 0 {
		return nil
	}
	id, err := p.zone(ctx, zone)
	if err != nil {
		return rest.Classify(ctx, err)
	}
	for part := range slices.Chunk(solver.Sets(add, remove), maxSets) {
		err := p.change(ctx, id, part)
		for race := 1; race < maxRaces && (rest.IsStatus(err, http.StatusConflict) || rest.IsStatus(err, http.StatusPreconditionFailed)); race++ {
			err = p.change(ctx, id, part) // somebody else changed a set meanwhile
		}
		if err != nil {
			return rest.Classify(ctx, err)
		}
	}
	return nil
}

func (p *provider) change(ctx context.Context, id string, sets []solver.Set) error {
	have, err := p.read(ctx, id, sets)
	if err != nil {
		return err
	}
	var in struct {
		Additions []rrset `json:"additions,omitempty"`
		Deletions []rrset `json:"deletions,omitempty"`
	}
	for _, s := range sets {
		old, exists := have[s.Name]
		after, changed := s.Merge(values(old))
		if !changed {
			continue
		}
		if exists {
			in.Deletions = append(in.Deletions, old)
		}
		if len(after) == 0 {
			continue
		}
		next := rrset{Name: s.Name + ".", Type: "TXT", TTL: int64(s.TTL / time.Second)}
		for _, v := range after {
			next.RRDatas = append(next.RRDatas, solver.Quote(v))
		}
		in.Additions = append(in.Additions, next)
	}
	if len(in.Additions)+len(in.Deletions) == 0 {
		return nil
	}
	_, err = p.api.Do(ctx, http.MethodPost, "/"+url.PathEscape(id)+"/changes", in, nil)
	return err
}

func values(s rrset) []string {
	var out []string
	for _, v := range s.RRDatas {
		out = append(out, solver.Unquote(v))
	}
	return out
}

// zone finds the public managed zone of a name.
func (p *provider) zone(ctx context.Context, name string) (string, error) {
	var out struct {
		Zones []struct {
			Name       string `json:"name"`
			DNSName    string `json:"dnsName"`
			Visibility string `json:"visibility"`
		} `json:"managedZones"`
	}
	if _, err := p.api.Do(ctx, http.MethodGet, "?dnsName="+url.QueryEscape(name+"."), nil, &out); err != nil {
		return "", err
	}
	for _, z := range out.Zones {
		if z.DNSName == name+"." && z.Visibility != "private" {
			return z.Name, nil
		}
	}
	return "", fmt.Errorf("the project has no public zone %s", name)
}

// read returns TXT sets by name.
func (p *provider) read(ctx context.Context, id string, sets []solver.Set) (map[string]rrset, error) {
	out, queries := map[string]rrset{}, []string{""}
	if len(sets) <= fewNames {
		queries = nil
		for _, s := range sets {
			queries = append(queries, "&type=TXT&name="+url.QueryEscape(s.Name+"."))
		}
	}
	for _, q := range queries {
		token := ""
		for range maxPages {
			var page struct {
				Sets []rrset `json:"rrsets"`
				Next string  `json:"nextPageToken"`
			}
			if _, err := p.api.Do(ctx, http.MethodGet, "/"+url.PathEscape(id)+"/rrsets?pageToken="+url.QueryEscape(token)+q, nil, &page); err != nil {
				return nil, err
			}
			for _, s := range page.Sets {
				if s.Type == "TXT" {
					out[strings.ToLower(strings.TrimSuffix(s.Name, "."))] = s
				}
			}
			if token = page.Next; token == "" {
				break
			}
		}
	}
	return out, nil
}

// Check implements solver.Checker.
func (p *provider) Check(ctx context.Context) error {
	_, err := p.api.Do(ctx, http.MethodGet, "?maxResults=1", nil, nil)
	return rest.Classify(ctx, err)
}
