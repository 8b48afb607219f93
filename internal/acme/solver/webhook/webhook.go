// Package webhook changes zones by a request to a service of the operator: a
// POST of the document that the exec kind gives its program. The service
// answers 2xx when the zone has all of add and none of remove. 429 and 503 may
// carry Retry-After.
package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"chancery/internal/acme/solver"
	"chancery/internal/acme/solver/exec"
	"chancery/internal/issuer/rest"
)

// Config is the configuration of a provider.
type Config struct {
	URL        string        `toml:"url" doc:"URL that gets a POST for each batch."`
	TokenFile  string        `toml:"token_file" doc:"File with a bearer token for the Authorization header. Empty: none."`
	SecretFile string        `toml:"secret_file" doc:"File with the key of a signature: the header X-Chancery-Signature is sha256=HEX of HMAC-SHA-256 over the body. Empty: none."`
	RootsFile  string        `toml:"roots_file" doc:"File with the roots (PEM) that the server's certificate must chain to. Empty: those of the system."`
	CertFile   string        `toml:"cert_file" doc:"File with a client certificate (PEM). Empty: none."`
	CertKey    string        `toml:"cert_key_file" doc:"File with its key (PEM)."`
	Timeout    time.Duration `toml:"timeout" doc:"Longest time for one request."`
}

// Kind is the plug-in.
var Kind = solver.Kind{
	Name:   "webhook",
	Doc:    "A service of yours, which gets the changes of a batch as JSON.",
	Config: func() any { return &Config{Timeout: time.Minute} },
	Open:   func(_ solver.Env, config any) (solver.Provider, error) { return open(config.(*Config)) },
}

type provider struct{ api *rest.Client }

func open(c *Config) (*provider, error) {
	base, err := rest.CheckURL("url", c.URL)
	if err != nil {
		return nil, err
	}
	token, secret := rest.Secret(c.TokenFile), rest.Secret(c.SecretFile)
	for key, s := range map[string]rest.Secret{"token_file": token, "secret_file": secret} {
		if s != "" {
			if err := s.Check(key); err != nil {
				return nil, err
			}
		}
	}
	hc, err := rest.NewHTTP(rest.TLS{Roots: c.RootsFile, Cert: c.CertFile, Key: c.CertKey}, c.Timeout)
	if err != nil {
		return nil, err
	}
	sign := func(_ context.Context, r *http.Request) error { return authorize(r, token, secret) }
	return &provider{&rest.Client{Base: base, HTTP: hc, Authorize: sign}}, nil
}

// authorize adds token and signature.
func authorize(r *http.Request, token, secret rest.Secret) error {
	if token != "" {
		t, err := token.Read()
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+t)
	}
	if secret == "" {
		return nil
	}
	key, err := secret.Read()
	if err != nil {
		return err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write(body)
	r.Header.Set("X-Chancery-Signature", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	return nil
}

// Apply implements solver.Provider.
func (p *provider) Apply(ctx context.Context, zone string, add, remove []solver.Record) error {
	doc, err := json.Marshal(exec.NewChange(zone, add, remove))
	if err != nil {
		return fmt.Errorf("encode change: %w", err)
	}
	_, err = p.api.Do(ctx, http.MethodPost, "", json.RawMessage(doc), nil)
	return rest.Classify(ctx, err)
}
