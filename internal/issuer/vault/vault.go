// Package vault is the issuer for the PKI secrets engine of HashiCorp Vault and
// OpenBao: the request is signed at once (path sign/ROLE).
package vault

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"chancery/internal/issuer"
	"chancery/internal/issuer/rest"
)

// Config is an [issuer.NAME] section of kind "vault".
type Config struct {
	URL          string        `toml:"url" doc:"URL of the server, such as https://vault.example:8200."`
	Mount        string        `toml:"mount" doc:"Path of the PKI secrets engine."`
	Role         string        `toml:"role" doc:"Role that signs orders which name no profile; the profile of others is a role."`
	TTL          time.Duration `toml:"ttl" doc:"Lifetime to ask for. 0: that of the role."`
	Namespace    string        `toml:"namespace" doc:"Namespace. Empty: none."`
	TokenFile    string        `toml:"token_file" doc:"File with a token, such as the sink of an agent. Read at each request."`
	RoleID       string        `toml:"role_id" doc:"Role id of an AppRole, in place of token_file."`
	SecretIDFile string        `toml:"secret_id_file" doc:"File with its secret id."`
	AppRole      string        `toml:"approle_mount" doc:"Path of the AppRole auth method."`
	RootsFile    string        `toml:"roots_file" doc:"File with the roots (PEM) of the server's certificate. Empty: those of the system."`
	Timeout      time.Duration `toml:"timeout" doc:"Longest time for one request."`
}

// Kind is the plug-in.
var Kind = issuer.Kind{
	Name:   "vault",
	Doc:    "The PKI secrets engine of HashiCorp Vault or OpenBao.",
	Config: func() any { return &Config{Mount: "pki", AppRole: "approle", Timeout: 30 * time.Second} },
	Open:   func(_ issuer.Env, config any) (issuer.Issuer, error) { return open(config.(*Config)) },
}

type vault struct {
	rest.Flow
	c   *Config
	api *rest.Client

	mu    sync.Mutex
	token string // of the AppRole
	until time.Time
}

func open(c *Config) (*vault, error) {
	base, err := rest.CheckURL("url", c.URL)
	if err != nil {
		return nil, err
	}
	switch {
	case c.Mount == "" || c.Role == "":
		return nil, errors.New("mount and role: must be set")
	case (c.TokenFile == "") == (c.RoleID == ""):
		return nil, errors.New("token_file: set it, or role_id with secret_id_file")
	case c.TokenFile != "":
		err = rest.Secret(c.TokenFile).Check("token_file")
	default:
		err = rest.Secret(c.SecretIDFile).Check("secret_id_file")
	}
	if err != nil {
		return nil, err
	}
	hc, err := rest.NewHTTP(rest.TLS{Roots: c.RootsFile}, c.Timeout)
	if err != nil {
		return nil, err
	}
	v := &vault{c: c}
	v.api = &rest.Client{Base: base + "/v1", HTTP: hc, Authorize: v.authorize}
	v.Submit = v.sign
	return v, nil
}

func (v *vault) authorize(ctx context.Context, r *http.Request) error {
	if v.c.Namespace != "" {
		r.Header.Set("X-Vault-Namespace", v.c.Namespace)
	}
	r.Header.Set("X-Vault-Request", "true")
	if strings.HasSuffix(r.URL.Path, "/login") {
		return nil
	}
	token, err := v.current(ctx)
	r.Header.Set("X-Vault-Token", token)
	return err
}

// current returns a token that is valid for a while. Two callers may sign in
// at the same time; both tokens are good.
func (v *vault) current(ctx context.Context) (string, error) {
	if v.c.TokenFile != "" {
		return rest.Secret(v.c.TokenFile).Read()
	}
	v.mu.Lock()
	token, until := v.token, v.until
	v.mu.Unlock()
	if token != "" && time.Now().Before(until) {
		return token, nil
	}
	secret, err := rest.Secret(v.c.SecretIDFile).Read()
	if err != nil {
		return "", err
	}
	var out struct {
		Auth struct {
			Token string `json:"client_token"`
			Lease int64  `json:"lease_duration"`
		} `json:"auth"`
	}
	in := map[string]string{"role_id": v.c.RoleID, "secret_id": secret}
	if _, err := v.api.Do(ctx, http.MethodPost, "/auth/"+strings.Trim(v.c.AppRole, "/")+"/login", in, &out); err != nil {
		return "", err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.token, v.until = out.Auth.Token, time.Now().Add(time.Duration(min(max(out.Auth.Lease, 0), 24*3600))*time.Second*9/10)
	return v.token, nil
}

// forget drops a token that the server refused.
func (v *vault) forget(err error) {
	var e *rest.Error
	if errors.As(err, &e) && e.Status == http.StatusForbidden {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.token = ""
	}
}

func (v *vault) path(parts ...string) string {
	out := "/" + strings.Trim(v.c.Mount, "/")
	for _, p := range parts {
		out += "/" + url.PathEscape(p)
	}
	return out
}

// sign asks for a certificate. The role decides what it takes from the request.
func (v *vault) sign(ctx context.Context, r *issuer.Request) (string, [][]byte, error) {
	cn, dns, ips := rest.Names(r)
	in := map[string]any{"csr": rest.CSR(r), "common_name": cn, "alt_names": strings.Join(dns, ","), "ip_sans": strings.Join(ips, ","), "format": "pem"}
	if ttl := v.c.TTL; ttl > 0 {
		in["ttl"] = fmt.Sprint(int64(ttl/time.Second), "s")
	}
	if !r.NotAfter.IsZero() {
		delete(in, "ttl")
		in["not_after"] = r.NotAfter.UTC().Format(time.RFC3339)
	}
	var out struct {
		Data struct {
			Certificate string   `json:"certificate"`
			Issuing     string   `json:"issuing_ca"`
			Chain       []string `json:"ca_chain"`
		} `json:"data"`
	}
	if _, err := v.api.Do(ctx, http.MethodPost, v.path("sign", rest.Or(r.Profile, v.c.Role)), in, &out); err != nil {
		v.forget(err)
		return "", nil, err
	}
	text := out.Data.Certificate + "\n" + strings.Join(out.Data.Chain, "\n")
	if len(out.Data.Chain) == 0 {
		text += "\n" + out.Data.Issuing
	}
	chain, err := issuer.ReadChain([]byte(text))
	return "", chain, err
}

// Revoke implements issuer.Revoker. The engine takes no reason.
func (v *vault) Revoke(ctx context.Context, leaf *x509.Certificate, _ int) error {
	var parts []string
	for _, b := range leaf.SerialNumber.Bytes() {
		parts = append(parts, hex.EncodeToString([]byte{b}))
	}
	_, err := v.api.Do(ctx, http.MethodPost, v.path("revoke"), map[string]string{"serial_number": strings.Join(parts, ":")}, nil)
	v.forget(err)
	return rest.Classify(ctx, err)
}

// Check implements issuer.Checker.
func (v *vault) Check(ctx context.Context) error {
	_, err := v.api.Do(ctx, http.MethodGet, "/auth/token/lookup-self", nil, nil)
	v.forget(err)
	return rest.Classify(ctx, err)
}
