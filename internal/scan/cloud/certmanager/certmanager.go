// Package certmanager is the source for Google Cloud's Certificate Manager, by
// REST: the list of all locations has the certificates themselves.
package certmanager

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"

	"chancery/internal/fault"
	"chancery/internal/scan/cloud"
)

// Config are the keys of a source of this kind.
type Config struct {
	// Project whose certificates are listed, in every location.
	Project string `toml:"project"`

	// JSON file with the key of a service account. Empty: the application
	// default credentials (variable, well-known file, metadata server).
	CredentialsFile string `toml:"credentials_file"`

	// Endpoint of the service, for private access. Empty: the public one.
	Endpoint string `toml:"endpoint" format:"url"`

	// PEM file with the roots that the endpoint must chain to. Empty: the
	// system's.
	CAFile string `toml:"ca_file"`
}

// Kind is the plug-in.
var Kind = cloud.Kind{Name: "gcp-certificatemanager", Provider: "gcp", Doc: "Certificate Manager of one Google Cloud project, all locations",
	Config: func() any { return &Config{} },
	Open:   func(env cloud.Env, config any) (cloud.Source, error) { return open(env, config.(*Config)) }}

// rates is the service's quota: 300 requests a minute for a project.
var rates = map[string]cloud.Rate{"": {PerSecond: 5, Burst: 30}}

const (
	publicEndpoint = "https://certificatemanager.googleapis.com"
	readScope      = "https://www.googleapis.com/auth/cloud-platform.read-only"
	page           = 1000
)

type source struct {
	rest    cloud.REST
	list    string // URL of the list
	project string
}

func open(env cloud.Env, c *Config) (cloud.Source, error) {
	if c.Project == "" || strings.ContainsAny(c.Project, "/?#% ") {
		return nil, fault.New(fault.Invalid, "project: must be the id of a project")
	}
	endpoint := c.Endpoint
	if endpoint == "" {
		endpoint = publicEndpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "endpoint: not a URL")
	}
	base, err := cloud.Transport(c.CAFile, nil)
	if err != nil {
		return nil, err
	}
	scope := env.Scope("gcp", c.Project, "", rates)
	scope.Hosts = []string{u.Host}
	tokens := &tokens{file: c.CredentialsFile, client: &http.Client{Transport: base, Timeout: time.Minute}}
	if c.CredentialsFile != "" {
		if _, err := tokens.source(); err != nil {
			return nil, err
		}
	}
	return &source{rest: cloud.REST{Client: env.Gates.Client(scope, base), Authorize: tokens.authorize},
		list: endpoint + "/v1/projects/" + url.PathEscape(c.Project) + "/locations/-/certificates", project: c.Project}, nil
}

// tokens gets access tokens, and keeps the current one. It is used by one
// source, whose methods are called one at a time.
type tokens struct {
	file   string
	client *http.Client // for the token endpoint
	from   oauth2.TokenSource
}

// source returns where tokens come from. It is made late: default credentials
// may be those of a metadata server.
func (t *tokens) source() (oauth2.TokenSource, error) {
	if t.from != nil {
		return t.from, nil
	}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, t.client)
	if t.file == "" {
		found, err := google.FindDefaultCredentials(ctx, readScope)
		if err != nil {
			return nil, fault.Wrap(err, fault.Precondition, "there are no Google credentials here; set credentials_file")
		}
		t.from = found.TokenSource
		return t.from, nil
	}
	text, err := os.ReadFile(t.file)
	if err != nil {
		return nil, fault.Wrap(err, fault.Precondition, "credentials_file: %s cannot be read", t.file)
	}
	key, err := google.JWTConfigFromJSON(text, readScope)
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "credentials_file: %s is not the key of a service account", t.file)
	}
	t.from = key.TokenSource(ctx)
	return t.from, nil
}

func (t *tokens) authorize(ctx context.Context, r *http.Request) error {
	from, err := t.source()
	if err != nil {
		return err
	}
	token, err := within(ctx, from)
	if re, ok := err.(*oauth2.RetrieveError); ok {
		return fault.Wrap(err, fault.Precondition, "Google refuses these credentials: %s %.200s", re.Response.Status, re.ErrorCode)
	}
	if err != nil {
		return fmt.Errorf("get access token: %w", err)
	}
	token.SetAuthHeader(r)
	return nil
}

// within gets a token, for as long as ctx allows: the library knows no contexts
// there. What is given up ends with the time-out of its client.
func within(ctx context.Context, from oauth2.TokenSource) (*oauth2.Token, error) {
	done := make(chan struct{})
	var got *oauth2.Token
	var failed error
	go func() {
		defer close(done)
		got, failed = from.Token()
	}()
	select {
	case <-done:
		return got, failed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// answer is a page of the list.
type answer struct {
	Certificates []struct {
		Name           string            `json:"name"`
		UpdateTime     string            `json:"updateTime"`
		ExpireTime     string            `json:"expireTime"`
		Labels         map[string]string `json:"labels"`
		PEMCertificate string            `json:"pemCertificate"`
		SelfManaged    struct {
			PEMCertificate string `json:"pemCertificate"`
		} `json:"selfManaged"`
	} `json:"certificates"`
	NextPageToken string   `json:"nextPageToken"`
	Unreachable   []string `json:"unreachable"`
}

func (s *source) page(ctx context.Context, size int, token string) (a answer, err error) {
	q := url.Values{"pageSize": {fmt.Sprint(size)}}
	if token != "" {
		q.Set("pageToken", token)
	}
	return a, s.rest.Get(ctx, "ListCertificates", http.MethodGet, s.list+"?"+q.Encode(), &a)
}

// Check implements cloud.Checker.
func (s *source) Check(ctx context.Context) error {
	_, err := s.page(ctx, 1, "")
	return err
}

// List implements cloud.Source. Locations that cannot be reached are an error
// at the end: what they have is not gone.
func (s *source) List(ctx context.Context, since cloud.Since) iter.Seq2[cloud.Cert, error] {
	return func(yield func(cloud.Cert, error) bool) {
		var pages cloud.Pages
		var away []string
		for token := ""; ; {
			a, err := s.page(ctx, page, token)
			if err == nil {
				token = a.NextPageToken
				err = pages.Next(len(a.Certificates), token)
			}
			if err != nil {
				yield(cloud.Cert{}, err)
				return
			}
			away = append(away, a.Unreachable...)
			p := cloud.Page{Certs: s.certs(&a)}
			if !p.Yield(ctx, &since, yield) {
				return
			}
			if token == "" {
				break
			}
		}
		if len(away) > 0 {
			yield(cloud.Cert{}, fmt.Errorf("list certificates: these locations did not answer: %.300s", strings.Join(away, ", ")))
		}
	}
}

func (s *source) certs(a *answer) []cloud.Cert {
	var out []cloud.Cert
	for i := range a.Certificates {
		in := &a.Certificates[i]
		text := in.PEMCertificate
		if text == "" {
			text = in.SelfManaged.PEMCertificate
		}
		if text == "" {
			continue // being provisioned
		}
		c := cloud.Cert{Item: cloud.Item{Ref: in.Name, Version: in.UpdateTime + " " + in.ExpireTime}, Tags: in.Labels, Account: s.project}
		if parts := strings.Split(in.Name, "/"); len(parts) == 6 && parts[2] == "locations" {
			c.Region = parts[3]
		}
		c.DER, c.Err = cloud.LeafPEM(in.Name, []byte(text))
		out = append(out, c)
	}
	return out
}
