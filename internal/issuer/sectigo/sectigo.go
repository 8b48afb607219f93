// Package sectigo is the issuer for Sectigo Certificate Manager by its REST
// API.
package sectigo

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"chancery/internal/issuer"
	"chancery/internal/issuer/rest"
)

// Config is an [issuer.NAME] section of kind "sectigo".
type Config struct {
	URL          string        `toml:"url" doc:"URL of the API."`
	CustomerURI  string        `toml:"customer_uri" doc:"Customer URI of the account: the last part of the URL of its console."`
	Login        string        `toml:"login" doc:"Login of an administrator with the privilege to use the API."`
	PasswordFile string        `toml:"password_file" doc:"File with its password."`
	Organization int           `toml:"organization" doc:"Number of the organization or department."`
	Product      int           `toml:"product" doc:"Number of the SSL profile of orders that name no profile."`
	Days         int           `toml:"days" doc:"Term in days; the profile must allow it."`
	Deadline     time.Duration `toml:"deadline" doc:"How long an order may take. 0: that of all issuers, 10 minutes if there is none."`
	RootsFile    string        `toml:"roots_file" doc:"File with the roots (PEM) of the API's certificate. Empty: those of the system."`
	Timeout      time.Duration `toml:"timeout" doc:"Longest time for one request."`
}

// Kind is the plug-in.
var Kind = issuer.Kind{
	Name:   "sectigo",
	Doc:    "Sectigo Certificate Manager.",
	Config: func() any { return &Config{URL: "https://cert-manager.com", Days: 47, Timeout: time.Minute} },
	Open:   func(env issuer.Env, config any) (issuer.Issuer, error) { return open(env, config.(*Config)) },
}

type sectigo struct {
	rest.Flow
	c   *Config
	api *rest.Client
}

func open(env issuer.Env, c *Config) (*sectigo, error) {
	if c.CustomerURI == "" || c.Login == "" || c.Organization <= 0 || c.Product <= 0 || c.Days <= 0 {
		return nil, errors.New("customer_uri, login, organization, product and days: must be set")
	}
	api, err := rest.Access{URL: c.URL, TLS: rest.TLS{Roots: c.RootsFile}, Timeout: c.Timeout,
		Secret: rest.Secret(c.PasswordFile), SecretKey: "password_file",
		Sign: func(r *http.Request, secret string) {
			r.Header.Set("customerUri", c.CustomerURI)
			r.Header.Set("login", c.Login)
			r.Header.Set("password", secret)
		}}.Open()
	if err != nil {
		return nil, err
	}
	api.Base += "/api/ssl/v1"
	s := &sectigo{c: c, api: api}
	s.Flow = rest.Flow{Deadline: rest.Deadline(env, c.Deadline), Find: s.find, Submit: s.submit, Collect: s.collect}
	return s, nil
}

// comment is how an order of ours is known again.
func comment(r *issuer.Request) string { return "chancery " + r.ID }

func (s *sectigo) submit(ctx context.Context, r *issuer.Request) (string, [][]byte, error) {
	product, err := s.product(r)
	if err != nil {
		return "", nil, err
	}
	_, dns, ips := rest.Names(r)
	in := map[string]any{"orgId": s.c.Organization, "csr": rest.CSR(r), "subjAltNames": strings.Join(append(dns, ips...), ","), "certType": product,
		"term": s.c.Days, "serverType": -1, "comments": comment(r)}
	var out struct {
		ID int `json:"sslId"`
	}
	_, err = s.api.Do(ctx, http.MethodPost, "/enroll", in, &out)
	return strconv.Itoa(out.ID), nil, err
}

func (s *sectigo) product(r *issuer.Request) (int, error) {
	if r.Profile == "" {
		return s.c.Product, nil
	}
	n, err := strconv.Atoi(r.Profile)
	if err != nil {
		return 0, rest.Rejected("the profile %q is not the number of an SSL profile at Sectigo", rest.Tidy(r.Profile))
	}
	return n, nil
}

// detail is one certificate of the API, as far as it matters.
type detail struct {
	ID       int    `json:"sslId"`
	Status   string `json:"status"`
	Comments string `json:"comments"`
}

// candidates bounds how many orders of a name are looked at.
const candidates = 50

// find looks for our comment among the orders of the name.
func (s *sectigo) find(ctx context.Context, r *issuer.Request) (string, error) {
	cn, _, _ := rest.Names(r)
	var list []detail
	q := url.Values{"commonName": {cn}, "size": {strconv.Itoa(candidates)}, "position": {"0"}}
	if _, err := s.api.Do(ctx, http.MethodGet, "?"+q.Encode(), nil, &list); err != nil {
		return "", err
	}
	slices.SortFunc(list, func(a, b detail) int { return b.ID - a.ID })
	for _, c := range list[:min(len(list), candidates)] {
		var d detail
		if _, err := s.api.Do(ctx, http.MethodGet, "/"+strconv.Itoa(c.ID), nil, &d); err != nil {
			return "", err
		}
		if d.Comments == comment(r) {
			return strconv.Itoa(c.ID), nil
		}
	}
	return "", nil
}

func (s *sectigo) collect(ctx context.Context, id string) ([][]byte, error) {
	var d detail
	if _, err := s.api.Do(ctx, http.MethodGet, "/"+url.PathEscape(id), nil, &d); err != nil {
		return nil, err
	}
	switch d.Status {
	case "Issued", "SA", "Downloaded":
	case "Declined", "Rejected", "Invalid", "Revoked", "Expired":
		return nil, rest.Rejected("Sectigo order %s is %s", id, d.Status)
	default: // Requested, Approved, Applied, Init, Any
		return nil, fmt.Errorf("order is %q: %w", rest.Tidy(d.Status), rest.ErrPending)
	}
	res, err := s.api.Do(ctx, http.MethodGet, "/collect/"+url.PathEscape(id)+"?format=x509", nil, nil)
	if err != nil {
		return nil, notYet(err)
	}
	return issuer.ReadChain(res.Body)
}

// notYet tells the API's word for a certificate that is still being made from
// other refusals: 400 with code 0 or -1 ("Being processed by Sectigo").
func notYet(err error) error {
	var e *rest.Error
	var v struct{ Code *int }
	if errors.As(err, &e) && e.Status == http.StatusBadRequest && json.Unmarshal(e.Body, &v) == nil && v.Code != nil && (*v.Code == 0 || *v.Code == -1) {
		return fmt.Errorf("%w: %s", rest.ErrPending, e.Message)
	}
	return err
}

// Revoke implements issuer.Revoker.
func (s *sectigo) Revoke(ctx context.Context, leaf *x509.Certificate, reason int) error {
	in := map[string]any{"reason": "revoked by chancery", "reasonCode": strconv.Itoa(reason)}
	_, err := s.api.Do(ctx, http.MethodPost, "/revoke/serial/"+fmt.Sprintf("%X", leaf.SerialNumber.Bytes()), in, nil)
	var e *rest.Error
	if errors.As(err, &e) && strings.Contains(strings.ToLower(e.Message), "already revoked") {
		return nil
	}
	return rest.Classify(ctx, err)
}

// Check implements issuer.Checker: the profiles that the account may order are
// listed, and that of the configuration is among them.
func (s *sectigo) Check(ctx context.Context) error {
	var list []struct {
		ID    int   `json:"id"`
		Terms []int `json:"terms"`
	}
	if _, err := s.api.Do(ctx, http.MethodGet, "/types?organizationId="+strconv.Itoa(s.c.Organization), nil, &list); err != nil {
		return rest.Classify(ctx, err)
	}
	for _, p := range list {
		if p.ID == s.c.Product && (len(p.Terms) == 0 || slices.Contains(p.Terms, s.c.Days)) {
			return nil
		}
	}
	return rest.Rejected("Sectigo offers organization %d no SSL profile %d with a term of %d days", s.c.Organization, s.c.Product, s.c.Days)
}
