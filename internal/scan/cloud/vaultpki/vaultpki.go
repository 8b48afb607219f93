// Package vaultpki is the source for a PKI secrets engine of HashiCorp Vault or
// OpenBao: a list of serial numbers, of which the new ones are fetched.
package vaultpki

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"

	"chancery/internal/fault"
	"chancery/internal/scan/cloud"
)

// Config are the keys of a source of this kind.
type Config struct {
	// URL of the server, such as https://vault.example.com:8200
	URL string `toml:"url" format:"url"`

	// Path of the secrets engine.
	Mount string `toml:"mount"`

	// Namespace of the engine. Empty: the root.
	Namespace string `toml:"namespace"`

	// File whose first line is the token. Read for each request, so that an
	// agent may renew it. It needs list and read below the mount.
	TokenFile string `toml:"token_file"`

	// PEM file with the roots that the server must chain to. Empty: the
	// system's.
	CAFile string `toml:"ca_file"`
}

// Kind is the plug-in.
var Kind = cloud.Kind{Name: "vault-pki", Provider: "vault", Doc: "a PKI secrets engine of HashiCorp Vault or OpenBao",
	Config: func() any { return &Config{Mount: "pki"} },
	Open:   func(env cloud.Env, config any) (cloud.Source, error) { return open(env, config.(*Config)) }}

// rates spare a server that others need to live.
var rates = map[string]cloud.Rate{"": {PerSecond: 200, Burst: 50}}

// page is how many certificates are fetched before they are handed on.
const page = 50

type source struct {
	rest  cloud.REST
	base  string // URL of the mount
	mount string
}

func open(env cloud.Env, c *Config) (cloud.Source, error) {
	u, err := url.Parse(c.URL)
	mount := strings.Trim(c.Mount, "/")
	switch {
	case err != nil || u.Host == "":
		return nil, fault.New(fault.Invalid, "url: must be set, such as https://vault.example.com:8200")
	case mount == "" || strings.ContainsAny(mount, "?#%"):
		return nil, fault.New(fault.Invalid, "mount: must be the path of a secrets engine, such as pki")
	case c.TokenFile == "":
		return nil, fault.New(fault.Invalid, "token_file: must be set")
	}
	base, err := cloud.Transport(c.CAFile, nil)
	if err != nil {
		return nil, err
	}
	scope := env.Scope("vault", u.Host+"/"+c.Namespace, "", rates)
	scope.Hosts = []string{u.Host}
	authorize := func(_ context.Context, r *http.Request) error {
		token, err := cloud.Secret("token_file", c.TokenFile)
		if err != nil {
			return err
		}
		r.Header.Set("X-Vault-Token", token)
		r.Header.Set("X-Vault-Request", "true")
		if c.Namespace != "" {
			r.Header.Set("X-Vault-Namespace", c.Namespace)
		}
		return nil
	}
	return &source{cloud.REST{Client: env.Gates.Client(scope, base), Authorize: authorize}, c.URL + "/v1/" + mount, mount}, nil
}

// keys reads a list of serial numbers. An empty one is a 404 without errors.
func (s *source) keys(ctx context.Context, operation, path string) ([]string, error) {
	var a struct {
		Data struct {
			Keys []string `json:"keys"`
		} `json:"data"`
	}
	err := s.rest.Get(ctx, operation, "LIST", s.base+path, &a)
	if se, ok := errors.AsType[*cloud.StatusError](err); ok && (se.Status == http.StatusNotFound && emptyList(se.Text) || se.Status == http.StatusMethodNotAllowed) {
		return nil, nil
	}
	if len(a.Data.Keys) > cloud.MaxItems {
		return nil, fault.New(fault.TooLarge, "the engine has more than %d certificates", cloud.MaxItems)
	}
	return a.Data.Keys, err
}

// emptyList tells the 404 of an empty list from that of a path that is none.
func emptyList(text string) bool { return strings.ReplaceAll(text, " ", "") == `{"errors":[]}` }

// Check implements cloud.Checker.
func (s *source) Check(ctx context.Context) error {
	_, err := s.keys(ctx, "ListCertificates", "/certs")
	return err
}

// List implements cloud.Source.
func (s *source) List(ctx context.Context, since cloud.Since) iter.Seq2[cloud.Cert, error] {
	return func(yield func(cloud.Cert, error) bool) {
		serials, err := s.keys(ctx, "ListCertificates", "/certs")
		var list []string
		if err == nil {
			// Servers before Vault 1.12 have no such list: revocations of known
			// certificates are not seen there.
			if list, err = s.keys(ctx, "ListRevoked", "/certs/revoked"); unsupported(err) {
				err = nil
			}
		}
		if err != nil {
			yield(cloud.Cert{}, err)
			return
		}
		revoked := make(map[string]bool, len(list))
		for _, serial := range list {
			revoked[plain(serial)] = true
		}
		for len(serials) > 0 {
			n := min(page, len(serials))
			p := cloud.Page{Get: s.get}
			for _, serial := range serials[:n] {
				c := cloud.Cert{Item: cloud.Item{Ref: serial, Version: "issued"}, Account: s.mount}
				if revoked[plain(serial)] {
					c.Version = "revoked"
				}
				p.Certs = append(p.Certs, c)
			}
			if serials = serials[n:]; !p.Yield(ctx, &since, yield) {
				return
			}
		}
	}
}

func unsupported(err error) bool {
	se, ok := errors.AsType[*cloud.StatusError](err)
	return ok && se.Status == http.StatusNotFound
}

// plain is a serial number without the separators that lists write differently.
func plain(serial string) string { return strings.NewReplacer(":", "", "-", "").Replace(serial) }

// isSerial reports whether s may stand in a path.
func isSerial(s string) bool {
	return s != "" && len(s) <= 200 && strings.Trim(s, "0123456789abcdefABCDEF:-") == ""
}

// get fetches one certificate.
func (s *source) get(ctx context.Context, c *cloud.Cert) error {
	if !isSerial(c.Ref) {
		c.Err = fault.New(fault.Invalid, "%.200q is not a serial number", c.Ref)
		return nil
	}
	var a struct {
		Data struct {
			Certificate    string `json:"certificate"`
			RevocationTime int64  `json:"revocation_time"`
		} `json:"data"`
	}
	err := s.rest.Get(ctx, "GetCertificate", http.MethodGet, s.base+"/cert/"+c.Ref, &a)
	if se, ok := errors.AsType[*cloud.StatusError](err); ok && se.Status == http.StatusNotFound {
		c.Gone = true
		return nil
	}
	if err != nil {
		return err
	}
	if a.Data.RevocationTime > 0 {
		c.RevokedAt = time.Unix(a.Data.RevocationTime, 0)
	}
	c.DER, c.Err = cloud.LeafPEM(c.Ref, []byte(a.Data.Certificate))
	return nil
}
