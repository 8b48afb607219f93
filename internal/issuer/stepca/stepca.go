// Package stepca is the issuer for smallstep's step-ca by its own API: a
// one-time token of a JWK provisioner stands for the right to the names. (By
// ACME, step-ca is an issuer of kind acme.)
package stepca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"chancery/internal/acme"
	"chancery/internal/issuer"
	"chancery/internal/issuer/rest"
)

// Config is an [issuer.NAME] section of kind "stepca".
type Config struct {
	URL         string        `toml:"url" doc:"URL of step-ca, such as https://ca.internal:9000."`
	Provisioner string        `toml:"provisioner" doc:"Name of a JWK provisioner."`
	KeyFile     string        `toml:"key_file" doc:"File with the provisioner's P-256 key (PEM, not encrypted); step crypto jwe decrypt and step crypto key format make it."`
	KeyID       string        `toml:"key_id" doc:"Key id of the provisioner's key. Empty: its thumbprint, as step-ca itself names keys."`
	Lifetime    time.Duration `toml:"lifetime" doc:"Lifetime to ask for. 0: that of the provisioner."`
	RootsFile   string        `toml:"roots_file" doc:"File with the root (PEM) of step-ca. Empty: the roots of the system."`
	Timeout     time.Duration `toml:"timeout" doc:"Longest time for one request."`
}

// Kind is the plug-in.
var Kind = issuer.Kind{
	Name:   "stepca",
	Doc:    "smallstep's step-ca, by a JWK provisioner.",
	Config: func() any { return &Config{Timeout: 30 * time.Second} },
	Open:   func(_ issuer.Env, config any) (issuer.Issuer, error) { return open(config.(*Config)) },
}

type stepCA struct {
	rest.Flow
	c    *Config
	base string
	key  *ecdsa.PrivateKey
	kid  string
	api  *rest.Client
}

func open(c *Config) (*stepCA, error) {
	base, err := rest.CheckURL("url", c.URL)
	if err != nil {
		return nil, err
	}
	if c.Provisioner == "" {
		return nil, errors.New("provisioner: must be set")
	}
	key, err := readKey(c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("key_file: %w", err)
	}
	pub, err := acme.NewPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("key_file: %w", err)
	}
	hc, err := rest.NewHTTP(rest.TLS{Roots: c.RootsFile}, c.Timeout)
	if err != nil {
		return nil, err
	}
	s := &stepCA{c: c, base: base, key: key, kid: rest.Or(c.KeyID, pub.Thumbprint), api: &rest.Client{Base: base, HTTP: hc}}
	s.Submit = s.sign
	return s, nil
}

func readKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("it is not PEM")
	}
	if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		return p256(key)
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("it holds no key that can be read; encrypted ones cannot")
	}
	return p256(any)
}

func p256(key any) (*ecdsa.PrivateKey, error) {
	if k, ok := key.(*ecdsa.PrivateKey); ok && k.Curve.Params().BitSize == 256 {
		return k, nil
	}
	return nil, errors.New("it is not a P-256 key")
}

// tokenLife is how long a one-time token is good; step-ca takes 5 minutes.
const tokenLife = 4 * time.Minute

// token makes the one-time token for one request (a JWT, RFC 7519).
func (s *stepCA) token(path, subject string, sans []string) (string, error) {
	now := time.Now()
	claims := map[string]any{"aud": s.base + path, "iss": s.c.Provisioner, "sub": subject, "jti": rand.Text(),
		"nbf": now.Add(-time.Minute).Unix(), "iat": now.Unix(), "exp": now.Add(tokenLife).Unix()}
	if sans != nil {
		claims["sans"] = sans
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encode token: %w", err)
	}
	header, err := json.Marshal(map[string]string{"alg": "ES256", "typ": "JWT", "kid": s.kid})
	if err != nil {
		return "", fmt.Errorf("encode token: %w", err)
	}
	enc := base64.RawURLEncoding
	text := enc.EncodeToString(header) + "." + enc.EncodeToString(payload)
	h := crypto.SHA256.New()
	h.Write([]byte(text))
	r, t, err := ecdsa.Sign(rand.Reader, s.key, h.Sum(nil))
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	t.FillBytes(sig[32:])
	return text + "." + enc.EncodeToString(sig), nil
}

func (s *stepCA) sign(ctx context.Context, r *issuer.Request) (string, [][]byte, error) {
	cn, dns, ips := rest.Names(r)
	ott, err := s.token("/1.0/sign", cn, append(dns, ips...))
	if err != nil {
		return "", nil, err
	}
	in := map[string]any{"csr": rest.CSR(r), "ott": ott}
	switch {
	case !r.NotAfter.IsZero():
		in["notAfter"] = r.NotAfter.UTC().Format(time.RFC3339)
	case s.c.Lifetime > 0:
		in["notAfter"] = s.c.Lifetime.String()
	}
	var out struct {
		Certificate string   `json:"crt"`
		CA          string   `json:"ca"`
		Chain       []string `json:"certChain"`
	}
	if _, err := s.api.Do(ctx, http.MethodPost, "/1.0/sign", in, &out); err != nil {
		return "", nil, err
	}
	if len(out.Chain) == 0 {
		out.Chain = []string{out.Certificate, out.CA}
	}
	chain, err := issuer.ReadChain([]byte(strings.Join(out.Chain, "\n")))
	return "", chain, err
}

// Revoke implements issuer.Revoker. step-ca keeps it from being renewed, and
// lists it if it has CRLs.
func (s *stepCA) Revoke(ctx context.Context, leaf *x509.Certificate, reason int) error {
	serial := leaf.SerialNumber.String()
	ott, err := s.token("/1.0/revoke", serial, nil)
	if err != nil {
		return err
	}
	in := map[string]any{"serial": serial, "ott": ott, "reasonCode": reason, "passive": true}
	_, err = s.api.Do(ctx, http.MethodPost, "/1.0/revoke", in, nil)
	var e *rest.Error
	if errors.As(err, &e) && e.Status == http.StatusBadRequest && strings.Contains(e.Message, "already revoked") {
		return nil
	}
	return rest.Classify(ctx, err)
}

// Check implements issuer.Checker: step-ca has nothing that takes a token and
// issues nothing, so only its health and the name of the provisioner are seen.
func (s *stepCA) Check(ctx context.Context) error {
	for cursor := ""; ; {
		var out struct {
			Provisioners []struct {
				Type, Name string
				Key        struct {
					ID string `json:"kid"`
				}
			}
			NextCursor string `json:"nextCursor"`
		}
		if _, err := s.api.Do(ctx, http.MethodGet, "/1.0/provisioners?limit=100&cursor="+cursor, nil, &out); err != nil {
			return rest.Classify(ctx, err)
		}
		for _, p := range out.Provisioners {
			if p.Name == s.c.Provisioner && p.Type == "JWK" && p.Key.ID == s.kid {
				return nil
			}
		}
		if cursor = out.NextCursor; cursor == "" {
			return rest.Rejected("step-ca has no JWK provisioner %q with the key %s", s.c.Provisioner, s.kid)
		}
	}
}
