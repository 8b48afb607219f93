// Package globalsign is the issuer for GlobalSign Atlas by the HVCA API. The
// account's validation policy must take PKCS #10 requests as public keys.
package globalsign

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"chancery/internal/issuer"
	"chancery/internal/issuer/rest"
)

// Config is an [issuer.NAME] section of kind "globalsign".
type Config struct {
	URL         string        `toml:"url" doc:"URL of the API."`
	KeyFile     string        `toml:"key_file" doc:"File with the API key."`
	SecretFile  string        `toml:"secret_file" doc:"File with the API secret."`
	CertFile    string        `toml:"cert_file" doc:"File with the client certificate (PEM) that GlobalSign asks for."`
	CertKeyFile string        `toml:"cert_key_file" doc:"File with its key (PEM)."`
	Days        int           `toml:"days" doc:"Lifetime in days."`
	Deadline    time.Duration `toml:"deadline" doc:"How long an order may take. 0: that of all issuers, 10 minutes if there is none."`
	RootsFile   string        `toml:"roots_file" doc:"File with the roots (PEM) of the API's certificate. Empty: those of the system."`
	Timeout     time.Duration `toml:"timeout" doc:"Longest time for one request."`
}

// Kind is the plug-in.
var Kind = issuer.Kind{
	Name: "globalsign",
	Doc:  "GlobalSign Atlas (HVCA).",
	Config: func() any {
		return &Config{URL: "https://emea.api.hvca.globalsign.com:8443/v2", Days: 47, Timeout: time.Minute}
	},
	Open: func(env issuer.Env, config any) (issuer.Issuer, error) { return open(env, config.(*Config)) },
}

type globalsign struct {
	rest.Flow
	c           *Config
	key, secret rest.Secret
	api         *rest.Client

	mu    sync.Mutex
	token string
	until time.Time
}

func open(env issuer.Env, c *Config) (*globalsign, error) {
	base, err := rest.CheckURL("url", c.URL)
	if err != nil {
		return nil, err
	}
	g := &globalsign{c: c, key: rest.Secret(c.KeyFile), secret: rest.Secret(c.SecretFile)}
	if err := errors.Join(g.key.Check("key_file"), g.secret.Check("secret_file")); err != nil {
		return nil, err
	}
	if c.Days <= 0 {
		return nil, errors.New("days: must be set")
	}
	hc, err := rest.NewHTTP(rest.TLS{Roots: c.RootsFile, Cert: c.CertFile, Key: c.CertKeyFile}, c.Timeout)
	if err != nil {
		return nil, err
	}
	g.api = &rest.Client{Base: base, HTTP: hc, Authorize: g.authorize}
	g.Flow = rest.Flow{Deadline: rest.Deadline(env, c.Deadline), Submit: g.submit, Collect: g.collect}
	return g, nil
}

// tokenLife is less than the ten minutes that a token is good for.
const tokenLife = 8 * time.Minute

// authorize adds a token, and gets one if there is none. Two callers may sign
// in at the same time; both tokens are good.
func (g *globalsign) authorize(ctx context.Context, r *http.Request) error {
	if strings.HasSuffix(r.URL.Path, "/login") {
		return nil
	}
	g.mu.Lock()
	token, until := g.token, g.until
	g.mu.Unlock()
	if token == "" || time.Now().After(until) {
		var err error
		if token, err = g.login(ctx); err != nil {
			return err
		}
	}
	r.Header.Set("Authorization", "Bearer "+token)
	return nil
}

func (g *globalsign) login(ctx context.Context) (string, error) {
	key, err := g.key.Read()
	if err != nil {
		return "", err
	}
	secret, err := g.secret.Read()
	if err != nil {
		return "", err
	}
	var out struct {
		Token string `json:"access_token"`
	}
	if _, err := g.api.Do(ctx, http.MethodPost, "/login", map[string]string{"api_key": key, "api_secret": secret}, &out); err != nil {
		return "", err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.token, g.until = out.Token, time.Now().Add(tokenLife)
	return g.token, nil
}

func (g *globalsign) submit(ctx context.Context, r *issuer.Request) (string, [][]byte, error) {
	cn, dns, ips := rest.Names(r)
	from, until := time.Now(), time.Now().AddDate(0, 0, g.c.Days)
	if !r.NotAfter.IsZero() {
		until = r.NotAfter
	}
	san := map[string][]string{}
	if len(dns) > 0 {
		san["dns_names"] = dns
	}
	if len(ips) > 0 {
		san["ip_addresses"] = ips
	}
	in := map[string]any{"validity": map[string]int64{"not_before": from.Unix(), "not_after": until.Unix()},
		"subject": map[string]string{"common_name": cn}, "san": san, "public_key": rest.CSR(r)}
	res, err := g.api.Do(ctx, http.MethodPost, "/certificates", in, nil)
	if err != nil {
		return "", nil, err
	}
	u, err := url.Parse(res.Header.Get("Location"))
	if err != nil || path.Base(u.Path) == "." || path.Base(u.Path) == "/" {
		return "", nil, &issuer.Error{Class: issuer.Unavailable, Err: errors.New("GlobalSign took the request and named no serial number")}
	}
	return path.Base(u.Path), nil, nil
}

func (g *globalsign) collect(ctx context.Context, serial string) ([][]byte, error) {
	var out struct {
		Certificate string `json:"certificate"`
		Status      string `json:"status"`
	}
	res, err := g.api.Do(ctx, http.MethodGet, "/certificates/"+url.PathEscape(serial), nil, nil)
	if err != nil {
		return nil, err
	}
	if res.Status == http.StatusAccepted {
		return nil, rest.ErrPending
	}
	if err := res.JSON(&out); err != nil {
		return nil, err
	}
	switch {
	case out.Status == "REVOKED" || out.Status == "REJECTED":
		return nil, rest.Rejected("GlobalSign certificate %s is %s", serial, out.Status)
	case out.Status != "ISSUED" || out.Certificate == "":
		return nil, fmt.Errorf("certificate is %q: %w", rest.Tidy(out.Status), rest.ErrPending)
	}
	var trust []string
	if _, err := g.api.Do(ctx, http.MethodGet, "/trustchain", nil, &trust); err != nil {
		return nil, err
	}
	return issuer.ReadChain([]byte(out.Certificate + "\n" + strings.Join(trust, "\n")))
}

// Revoke implements issuer.Revoker. The API takes no reason.
func (g *globalsign) Revoke(ctx context.Context, leaf *x509.Certificate, _ int) error {
	_, err := g.api.Do(ctx, http.MethodDelete, fmt.Sprintf("/certificates/%X", leaf.SerialNumber.Bytes()), nil, nil)
	var e *rest.Error
	if errors.As(err, &e) && e.Status == http.StatusConflict {
		return nil // it is revoked
	}
	return rest.Classify(ctx, err)
}

// Check implements issuer.Checker.
func (g *globalsign) Check(ctx context.Context) error {
	_, err := g.api.Do(ctx, http.MethodGet, "/validationpolicy", nil, nil)
	return rest.Classify(ctx, err)
}
