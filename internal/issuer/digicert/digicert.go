// Package digicert is the issuer for DigiCert CertCentral by its Services API.
// Organizations and domains are validated there beforehand; a domain that is
// not makes an order wait for a person.
package digicert

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"chancery/internal/issuer"
	"chancery/internal/issuer/rest"
)

// Config is an [issuer.NAME] section of kind "digicert".
type Config struct {
	URL          string        `toml:"url" doc:"URL of the API; https://www.digicert.eu/services/v2 for accounts in Europe."`
	KeyFile      string        `toml:"key_file" doc:"File with the API key."`
	Product      string        `toml:"product" doc:"Product of orders that name no profile, such as ssl_basic, ssl_dv_geotrust or private_ssl_plus."`
	Organization int           `toml:"organization" doc:"Number of the organization. 0: none, for products that need none."`
	Days         int           `toml:"days" doc:"Lifetime in days."`
	Deadline     time.Duration `toml:"deadline" doc:"How long an order may take. 0: that of all issuers, 10 minutes if there is none."`
	RootsFile    string        `toml:"roots_file" doc:"File with the roots (PEM) of the API's certificate. Empty: those of the system."`
	Timeout      time.Duration `toml:"timeout" doc:"Longest time for one request."`
}

// Kind is the plug-in.
var Kind = issuer.Kind{
	Name: "digicert",
	Doc:  "DigiCert CertCentral.",
	Config: func() any {
		return &Config{URL: "https://www.digicert.com/services/v2", Days: 47, Timeout: time.Minute}
	},
	Open: func(env issuer.Env, config any) (issuer.Issuer, error) { return open(env, config.(*Config)) },
}

type digicert struct {
	rest.Flow
	c   *Config
	api *rest.Client
}

func open(env issuer.Env, c *Config) (*digicert, error) {
	if c.Product == "" || c.Days <= 0 {
		return nil, errors.New("product and days: must be set")
	}
	api, err := rest.Access{URL: c.URL, TLS: rest.TLS{Roots: c.RootsFile}, Timeout: c.Timeout, Secret: rest.Secret(c.KeyFile), SecretKey: "key_file",
		Sign: func(r *http.Request, secret string) { r.Header.Set("X-DC-DEVKEY", secret) }}.Open()
	if err != nil {
		return nil, err
	}
	d := &digicert{c: c, api: api}
	d.Flow = rest.Flow{Deadline: rest.Deadline(env, c.Deadline), Find: d.find, Submit: d.submit, Collect: d.collect}
	return d, nil
}

// order is an order of the API, as far as it matters.
type order struct {
	ID          int    `json:"id"`
	Status      string `json:"status"`
	Certificate struct {
		ID  int    `json:"id"`
		CSR string `json:"csr"`
	} `json:"certificate"`
}

func (d *digicert) submit(ctx context.Context, r *issuer.Request) (string, [][]byte, error) {
	cn, dns, ips := rest.Names(r)
	in := map[string]any{
		"certificate":    map[string]any{"common_name": cn, "dns_names": append(dns, ips...), "csr": rest.CSR(r), "signature_hash": "sha256"},
		"order_validity": d.validity(r), "comments": "chancery " + r.ID, "payment_method": "balance", "skip_approval": true, "disable_renewal_notifications": true,
	}
	if d.c.Organization != 0 {
		in["organization"] = map[string]int{"id": d.c.Organization}
	}
	var out struct {
		ID    int `json:"id"`
		Chain []struct {
			PEM string `json:"pem"`
		} `json:"certificate_chain"` // of accounts that issue at once
	}
	if _, err := d.api.Do(ctx, http.MethodPost, "/order/certificate/"+url.PathEscape(rest.Or(r.Profile, d.c.Product)), in, &out); err != nil {
		return "", nil, err
	}
	text := ""
	for _, c := range out.Chain {
		text += c.PEM + "\n"
	}
	if text == "" {
		return strconv.Itoa(out.ID), nil, nil
	}
	chain, err := issuer.ReadChain([]byte(text))
	return "", chain, err
}

func (d *digicert) validity(r *issuer.Request) map[string]any {
	if !r.NotAfter.IsZero() {
		return map[string]any{"custom_expiration_date": r.NotAfter.UTC().Format("2006-01-02")}
	}
	return map[string]any{"days": d.c.Days}
}

// candidates bounds how many orders of a name are looked at.
const candidates = 20

// find compares the requests of the latest orders with ours.
func (d *digicert) find(ctx context.Context, r *issuer.Request) (string, error) {
	cn, _, _ := rest.Names(r)
	var list struct {
		Orders []order `json:"orders"`
	}
	q := url.Values{"filters[common_name]": {cn}, "sort": {"-date_created"}, "limit": {strconv.Itoa(candidates)}}
	if _, err := d.api.Do(ctx, http.MethodGet, "/order/certificate?"+q.Encode(), nil, &list); err != nil {
		return "", err
	}
	for _, o := range list.Orders[:min(len(list.Orders), candidates)] {
		full, err := d.order(ctx, strconv.Itoa(o.ID))
		if err != nil {
			return "", err
		}
		if block, _ := pem.Decode([]byte(full.Certificate.CSR)); block != nil && bytes.Equal(block.Bytes, r.CSR) {
			return strconv.Itoa(o.ID), nil
		}
	}
	return "", nil
}

func (d *digicert) order(ctx context.Context, id string) (order, error) {
	var o order
	_, err := d.api.Do(ctx, http.MethodGet, "/order/certificate/"+url.PathEscape(id), nil, &o)
	return o, err
}

func (d *digicert) collect(ctx context.Context, id string) ([][]byte, error) {
	o, err := d.order(ctx, id)
	if err != nil {
		return nil, err
	}
	switch o.Status {
	case "issued":
	case "rejected", "canceled", "revoked", "expired":
		return nil, rest.Rejected("DigiCert order %s is %s", id, o.Status)
	default: // pending, processing, needs_approval, waiting_pickup, reissue_pending
		return nil, fmt.Errorf("order is %q: %w", rest.Tidy(o.Status), rest.ErrPending)
	}
	res, err := d.api.Do(ctx, http.MethodGet, "/certificate/"+strconv.Itoa(o.Certificate.ID)+"/download/format/pem_all", nil, nil)
	if err != nil {
		return nil, err
	}
	return issuer.ReadChain(res.Body)
}

// Revoke implements issuer.Revoker: the certificate is found by its serial
// number.
func (d *digicert) Revoke(ctx context.Context, leaf *x509.Certificate, reason int) error {
	return rest.Classify(ctx, d.revoke(ctx, leaf, reason))
}

// reasons are the API's words for RFC 5280 section 5.3.1.
var reasons = map[int]string{1: "key_compromise", 3: "affiliation_changed", 4: "superseded", 5: "cessation_of_operation"}

func (d *digicert) revoke(ctx context.Context, leaf *x509.Certificate, reason int) error {
	var list struct {
		Orders []order `json:"orders"`
	}
	q := url.Values{"filters[serial_number]": {fmt.Sprintf("%X", leaf.SerialNumber.Bytes())}}
	if _, err := d.api.Do(ctx, http.MethodGet, "/order/certificate?"+q.Encode(), nil, &list); err != nil {
		return err
	}
	if len(list.Orders) == 0 {
		return rest.Rejected("DigiCert knows no order of this serial number")
	}
	if list.Orders[0].Status == "revoked" {
		return nil
	}
	in := map[string]any{"comments": "revoked by chancery", "skip_approval": true, "revocation_reason": rest.Or(reasons[reason], "unspecified")}
	_, err := d.api.Do(ctx, http.MethodPut, "/certificate/"+strconv.Itoa(list.Orders[0].Certificate.ID)+"/revoke", in, nil)
	return err
}

// Check implements issuer.Checker.
func (d *digicert) Check(ctx context.Context) error {
	_, err := d.api.Do(ctx, http.MethodGet, "/user/me", nil, nil)
	return rest.Classify(ctx, err)
}
