// Package acme is the issuer for any ACME CA (RFC 8555): Let's Encrypt,
// ZeroSSL, Google Trust Services, step-ca, another Chancery.
package acme

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/mail"
	"os"
	"slices"
	"strings"
	"time"

	"chancery/internal/acme/client"
	"chancery/internal/issuer"
	"chancery/internal/issuer/rest"
	"chancery/internal/pki"
)

// Preset is a public CA that configuration may name in place of a URL.
type Preset struct {
	Name, Directory string
	EAB             bool   // accounts must be bound to a customer's
	Note            string // for people
}

// Presets are the public CAs that are known by name.
func Presets() []Preset {
	return []Preset{
		{"letsencrypt", "https://acme-v02.api.letsencrypt.org/directory", false, "Let's Encrypt"},
		{"letsencrypt-staging", "https://acme-staging-v02.api.letsencrypt.org/directory", false, "Let's Encrypt for tests: browsers do not trust it"},
		{"zerossl", "https://acme.zerossl.com/v2/DV90", true, "ZeroSSL; the binding is in its console"},
		{"google", "https://dv.acme-v02.api.pki.goog/directory", true, "Google Trust Services; gcloud publicca makes the binding"},
		{"google-staging", "https://dv.acme-v02.test-api.pki.goog/directory", true, "Google Trust Services for tests"},
		{"buypass", "https://api.buypass.com/acme/directory", false, "Buypass Go; ask Buypass whether it still issues to you"},
		{"buypass-staging", "https://api.test4.buypass.no/acme/directory", false, "Buypass Go for tests"},
	}
}

// Config is an [issuer.NAME] section of kind "acme".
type Config struct {
	Directory  string        `toml:"directory" doc:"URL of the CA's directory, or one of letsencrypt, letsencrypt-staging, zerossl, google, google-staging, buypass, buypass-staging."`
	Contact    []string      `toml:"contact" doc:"Mail addresses of the account. The CA may write to them."`
	EABKeyID   string        `toml:"eab_key_id" doc:"Key id of the external account binding that the CA handed out. Empty: none."`
	EABKeyFile string        `toml:"eab_key_file" doc:"File with its MAC key in base64 or base64url."`
	KeyType    pki.KeyType   `toml:"key_type" doc:"Key type of the account: p256, p384, rsa2048, ed25519 and others, if the CA takes them."`
	Profile    string        `toml:"profile" doc:"Profile of orders that ask for none. Empty: the CA's default."`
	Chain      string        `toml:"preferred_chain" doc:"Common name of the root, or of the last issuer, of the chain to use if the CA offers several. Empty: the CA's default."`
	RootsFile  string        `toml:"roots_file" doc:"File with the roots (PEM) that the CA's HTTPS certificate must chain to. Empty: those of the system."`
	Wait       time.Duration `toml:"wait" doc:"How long one step waits for the CA before the order is put aside and asked for later."`
}

// Kind is the plug-in.
var Kind = issuer.Kind{
	Name:   "acme",
	Doc:    "Any ACME CA, such as Let's Encrypt.",
	Config: func() any { return &Config{KeyType: pki.P256, Wait: 30 * time.Second} },
	Open:   func(env issuer.Env, config any) (issuer.Issuer, error) { return open(env, config.(*Config)) },
}

// ca is an opened issuer.
type ca struct {
	*client.Engine
	wire    *client.Client
	account *client.Account
}

func open(env issuer.Env, c *Config) (*ca, error) {
	directory, eab, err := directoryOf(c)
	if err != nil {
		return nil, err
	}
	contact, err := contacts(c.Contact)
	if err != nil {
		return nil, err
	}
	if c.KeyType != "" && !slices.Contains(pki.KeyTypes, c.KeyType) {
		return nil, fmt.Errorf("key_type: %q is not one of %v", c.KeyType, pki.KeyTypes)
	}
	roots, err := readRoots(c.RootsFile)
	if err != nil {
		return nil, err
	}
	wire, err := client.New(client.Config{Directory: directory, HTTP: client.NewHTTP(roots)})
	if err != nil {
		return nil, err
	}
	account, err := client.NewAccount(client.AccountConfig{Client: wire, KeyType: c.KeyType, Contact: contact, EAB: eab, Keep: env.Keep, Kept: env.Kept, Log: env.Log})
	if err != nil {
		return nil, err
	}
	e := client.NewEngine(client.EngineConfig{Account: account, Solver: env.Solver, Profile: c.Profile, Chain: c.Chain, Wait: c.Wait, Log: env.Log})
	return &ca{e, wire, account}, nil
}

// directoryOf returns the URL and the binding.
func directoryOf(c *Config) (string, client.EAB, error) {
	url, needs := c.Directory, false
	for _, p := range Presets() {
		if p.Name == c.Directory {
			url, needs = p.Directory, p.EAB
		}
	}
	if !strings.Contains(url, "://") {
		return "", client.EAB{}, fmt.Errorf("directory: %q is neither a URL nor the name of a known CA", c.Directory)
	}
	if _, err := rest.CheckURL("directory", url); err != nil {
		return "", client.EAB{}, err
	}
	if c.EABKeyID == "" {
		if needs {
			return "", client.EAB{}, fmt.Errorf("eab_key_id: must be set; %s takes accounts of its customers only", c.Directory)
		}
		return url, client.EAB{}, nil
	}
	key, err := eabKey(c.EABKeyFile)
	return url, client.EAB{KeyID: c.EABKeyID, Key: key}, err
}

func eabKey(path string) ([]byte, error) {
	s := rest.Secret(path)
	if err := s.Check("eab_key_file"); err != nil {
		return nil, err
	}
	text, err := s.Read()
	if err != nil {
		return nil, err
	}
	text = strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(text, "="))
	key, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(key) < 16 {
		return nil, errors.New("eab_key_file: its first line is not a key in base64")
	}
	return key, nil
}

// contacts makes mailto: URLs (RFC 8555 section 7.3).
func contacts(list []string) ([]string, error) {
	var out []string
	for _, c := range list {
		address := strings.TrimPrefix(c, "mailto:")
		a, err := mail.ParseAddress(address)
		if err != nil || a.Address != address {
			return nil, fmt.Errorf("contact: %q is not a mail address", c)
		}
		out = append(out, "mailto:"+address)
	}
	return out, nil
}

func readRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("roots_file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("roots_file: %s has no certificate in PEM", path)
	}
	return pool, nil
}

// RenewalInfo implements issuer.Informer.
func (c *ca) RenewalInfo(ctx context.Context, leaf *x509.Certificate) (issuer.RenewalInfo, error) {
	return c.wire.RenewalInfo(ctx, leaf)
}

// Revoke implements issuer.Revoker.
func (c *ca) Revoke(ctx context.Context, leaf *x509.Certificate, reason int) error {
	return c.account.Revoke(ctx, leaf, reason)
}

// Check implements issuer.Checker.
func (c *ca) Check(ctx context.Context) error { return c.account.Check(ctx) }
