// Package entrust is the issuer for Entrust Certificate Services Enterprise by
// its REST API.
package entrust

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"chancery/internal/issuer"
	"chancery/internal/issuer/rest"
)

// Config is an [issuer.NAME] section of kind "entrust".
type Config struct {
	URL          string        `toml:"url" doc:"URL of the API."`
	User         string        `toml:"user" doc:"User name of the API account."`
	PasswordFile string        `toml:"password_file" doc:"File with its password (API key)."`
	CertFile     string        `toml:"cert_file" doc:"File with the client certificate (PEM) that Entrust asks for."`
	CertKeyFile  string        `toml:"cert_key_file" doc:"File with its key (PEM)."`
	Product      string        `toml:"product" doc:"Type of orders that name no profile, such as STANDARD_SSL, ADVANTAGE_SSL or PRIVATE_SSL."`
	Client       int           `toml:"client" doc:"Number of the client (organization). 1 is the account's own."`
	Requester    string        `toml:"requester" doc:"Name of the person that orders are filed under."`
	Email        string        `toml:"email" doc:"Mail address of that person."`
	Phone        string        `toml:"phone" doc:"Telephone number of that person."`
	Days         int           `toml:"days" doc:"Lifetime in days."`
	Deadline     time.Duration `toml:"deadline" doc:"How long an order may take. 0: that of all issuers, 10 minutes if there is none."`
	RootsFile    string        `toml:"roots_file" doc:"File with the roots (PEM) of the API's certificate. Empty: those of the system."`
	Timeout      time.Duration `toml:"timeout" doc:"Longest time for one request."`
}

// Kind is the plug-in.
var Kind = issuer.Kind{
	Name: "entrust",
	Doc:  "Entrust Certificate Services Enterprise.",
	Config: func() any {
		return &Config{URL: "https://api.entrust.net/enterprise/v2", Client: 1, Days: 47, Timeout: time.Minute}
	},
	Open: func(env issuer.Env, config any) (issuer.Issuer, error) { return open(env, config.(*Config)) },
}

type entrust struct {
	rest.Flow
	c   *Config
	api *rest.Client
}

func open(env issuer.Env, c *Config) (*entrust, error) {
	if c.User == "" || c.Product == "" || c.Requester == "" || c.Email == "" || c.Phone == "" || c.Client <= 0 || c.Days <= 0 {
		return nil, errors.New("user, product, requester, email, phone, client and days: must be set")
	}
	api, err := rest.Access{URL: c.URL, TLS: rest.TLS{Roots: c.RootsFile, Cert: c.CertFile, Key: c.CertKeyFile}, Timeout: c.Timeout,
		Secret: rest.Secret(c.PasswordFile), SecretKey: "password_file",
		Sign: func(r *http.Request, secret string) { r.SetBasicAuth(c.User, secret) }}.Open()
	if err != nil {
		return nil, err
	}
	e := &entrust{c: c, api: api}
	e.Flow = rest.Flow{Deadline: rest.Deadline(env, c.Deadline), Submit: e.submit, Collect: e.collect}
	return e, nil
}

// certificate is one certificate of the API, as far as it matters.
type certificate struct {
	TrackingID int      `json:"trackingId"`
	Status     string   `json:"status"`
	EndEntity  string   `json:"endEntityCert"`
	Chain      []string `json:"chainCerts"`
}

// chain returns what is there, or nil.
func (c *certificate) chain() ([][]byte, error) {
	if c.EndEntity == "" {
		return nil, nil
	}
	return issuer.ReadChain([]byte(c.EndEntity + "\n" + strings.Join(c.Chain, "\n")))
}

func (e *entrust) submit(ctx context.Context, r *issuer.Request) (string, [][]byte, error) {
	cn, dns, ips := rest.Names(r)
	until := time.Now().AddDate(0, 0, e.c.Days)
	if !r.NotAfter.IsZero() {
		until = r.NotAfter
	}
	in := map[string]any{"certType": rest.Or(r.Profile, e.c.Product), "csr": rest.CSR(r), "cn": cn, "subjectAltName": append(dns, ips...), "clientId": e.c.Client,
		"certExpiryDate": until.UTC().Format("2006-01-02"), "eku": "SERVER_AUTH", "signingAlg": "SHA-2",
		"tracking": map[string]any{"trackingInfo": "chancery " + r.ID, "requesterName": e.c.Requester, "requesterEmail": e.c.Email, "requesterPhone": e.c.Phone}}
	var out certificate
	if _, err := e.api.Do(ctx, http.MethodPost, "/certificates", in, &out); err != nil {
		return "", nil, err
	}
	chain, err := out.chain()
	if err != nil || chain != nil {
		return "", chain, err
	}
	return strconv.Itoa(out.TrackingID), nil, nil
}

func (e *entrust) collect(ctx context.Context, id string) ([][]byte, error) {
	var out certificate
	if _, err := e.api.Do(ctx, http.MethodGet, "/certificates/"+url.PathEscape(id), nil, &out); err != nil {
		return nil, err
	}
	switch out.Status {
	case "DECLINED", "DEACTIVATED", "REVOKED", "SUSPENDED", "EXPIRED", "CANCELLED":
		return nil, rest.Rejected("Entrust order %s is %s", id, out.Status)
	}
	chain, err := out.chain()
	if err == nil && chain == nil {
		err = fmt.Errorf("order is %q: %w", rest.Tidy(out.Status), rest.ErrPending)
	}
	return chain, err
}

// reasons are the API's words for RFC 5280 section 5.3.1.
var reasons = map[int]string{1: "keyCompromise", 3: "affiliationChanged", 4: "superseded", 5: "cessationOfOperation"}

// Revoke implements issuer.Revoker: the certificate is found by its serial
// number.
func (e *entrust) Revoke(ctx context.Context, leaf *x509.Certificate, reason int) error {
	return rest.Classify(ctx, e.revoke(ctx, leaf, reason))
}

func (e *entrust) revoke(ctx context.Context, leaf *x509.Certificate, reason int) error {
	var list struct {
		Certificates []certificate `json:"certificates"`
	}
	if _, err := e.api.Do(ctx, http.MethodGet, fmt.Sprintf("/certificates?serialNumber=%X", leaf.SerialNumber.Bytes()), nil, &list); err != nil {
		return err
	}
	if len(list.Certificates) == 0 {
		return rest.Rejected("Entrust knows no certificate of this serial number")
	}
	c := list.Certificates[0]
	if c.Status == "REVOKED" {
		return nil
	}
	in := map[string]string{"crlReason": rest.Or(reasons[reason], "unspecified"), "revocationComment": "revoked by chancery"}
	_, err := e.api.Do(ctx, http.MethodPost, "/certificates/"+strconv.Itoa(c.TrackingID)+"/revocations", in, nil)
	return err
}

// Check implements issuer.Checker.
func (e *entrust) Check(ctx context.Context) error {
	_, err := e.api.Do(ctx, http.MethodGet, "/application/version", nil, nil)
	return rest.Classify(ctx, err)
}
