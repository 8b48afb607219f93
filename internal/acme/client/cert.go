package client

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	json "encoding/json/v2"
	"errors"
	"fmt"
	"regexp"
	"time"

	"chancery/internal/acme"
	"chancery/internal/fault"
	"chancery/internal/issuer"
	"chancery/internal/pki"
)

// maxAlternates bounds how many other chains are looked at.
const maxAlternates = 8

// download reads the certificate of a valid order, and another chain of it if
// that one is wanted.
func (f *flow) download(ctx context.Context) ([][]byte, error) {
	url, err := f.e.c.resolve(f.o.Certificate)
	if err != nil {
		return nil, fmt.Errorf("order is valid: %w", err)
	}
	res, err := f.e.cfg.Account.post(ctx, "certificate", url, nil)
	if err != nil {
		return nil, err
	}
	chain, err := f.chain(res)
	if err != nil || f.e.cfg.Chain == "" || endsIn(chain, f.e.cfg.Chain) {
		return chain, err
	}
	for _, alt := range alternates(res) {
		other, err := f.alternate(ctx, alt)
		if err != nil {
			return nil, err
		}
		if endsIn(other, f.e.cfg.Chain) {
			return other, nil
		}
	}
	f.e.cfg.Log.WarnContext(ctx, "the ca offers no chain as configured; its default is used", "chain", f.e.cfg.Chain)
	return chain, nil
}

func (f *flow) alternate(ctx context.Context, ref string) ([][]byte, error) {
	url, err := f.e.c.resolve(ref)
	if err != nil {
		return nil, err
	}
	res, err := f.e.cfg.Account.post(ctx, "certificate", url, nil)
	if err != nil {
		return nil, err
	}
	return f.chain(res)
}

// chain reads and checks a chain: a certificate that is not what was asked for
// never leaves here.
func (f *flow) chain(res *reply) ([][]byte, error) {
	chain, err := issuer.ReadChain(res.body)
	if err != nil {
		return nil, err
	}
	return issuer.Accept(f.r, chain)
}

// endsIn reports whether the last issuer of a chain has the common name cn, or
// a certificate of it has.
func endsIn(chain [][]byte, cn string) bool {
	for _, der := range chain[max(len(chain)-1, 0):] {
		c, err := x509.ParseCertificate(der)
		if err == nil && (c.Issuer.CommonName == cn || len(chain) > 1 && c.Subject.CommonName == cn) {
			return true
		}
	}
	return false
}

var linkRelation = regexp.MustCompile(`<([^<>\s]{1,1000})>\s*;(?:[^,<]*;)?\s*rel="?alternate"?`)

// alternates returns the URLs of other chains (RFC 8555 section 7.4.2).
func alternates(res *reply) []string {
	var out []string
	for _, h := range res.header.Values("Link") {
		for _, m := range linkRelation.FindAllStringSubmatch(h, maxAlternates) {
			if out = append(out, m[1]); len(out) == maxAlternates {
				return out
			}
		}
	}
	return out
}

// RenewalInfo returns when the CA wants a certificate to be renewed (RFC 9773).
func (c *Client) RenewalInfo(ctx context.Context, leaf *x509.Certificate) (issuer.RenewalInfo, error) {
	info, err := c.renewalInfo(ctx, leaf)
	return info, classify(ctx, err, c.cfg.Now())
}

func (c *Client) renewalInfo(ctx context.Context, leaf *x509.Certificate) (issuer.RenewalInfo, error) {
	dir, err := c.Directory(ctx)
	if err != nil {
		return issuer.RenewalInfo{}, err
	}
	if dir.RenewalInfo == "" {
		return issuer.RenewalInfo{}, fault.New(fault.NotFound, "the CA has no renewal information")
	}
	id, err := pki.CertID(leaf)
	if err != nil {
		return issuer.RenewalInfo{}, err
	}
	base, err := c.resolve(dir.RenewalInfo)
	if err != nil {
		return issuer.RenewalInfo{}, err
	}
	if base[len(base)-1] != '/' {
		base += "/"
	}
	res, err := c.get(ctx, "renewal-info", base+id)
	if err != nil {
		return issuer.RenewalInfo{}, err
	}
	v, err := acme.Decode[acme.RenewalInfo](res.body)
	if err != nil {
		return issuer.RenewalInfo{}, fmt.Errorf("read renewal information: %w", err)
	}
	return c.window(v, res.retryAfter)
}

// window checks what a CA says: a window that ends before it begins is void
// (RFC 9773 section 4.2).
func (c *Client) window(v acme.RenewalInfo, after time.Duration) (issuer.RenewalInfo, error) {
	out := issuer.RenewalInfo{Start: v.SuggestedWindow.Start.Time, End: v.SuggestedWindow.End.Time, Explanation: v.ExplanationURL}
	if out.Start.IsZero() || !out.Start.Before(out.End) {
		return issuer.RenewalInfo{}, fault.New(fault.Invalid, "the CA's renewal window does not end after it begins")
	}
	if after > 0 {
		out.RetryAfter = c.cfg.Now().Add(after)
	}
	return out, nil
}

// Revoke revokes a certificate of the account (RFC 8555 section 7.6).
func (a *Account) Revoke(ctx context.Context, leaf *x509.Certificate, reason int) error {
	return classify(ctx, a.revoke(ctx, leaf, reason), a.now())
}

func (a *Account) revoke(ctx context.Context, leaf *x509.Certificate, reason int) error {
	dir, err := a.cfg.Client.Directory(ctx)
	if err != nil {
		return err
	}
	if dir.RevokeCert == "" {
		return fault.New(fault.NotFound, "the CA revokes nothing over ACME")
	}
	body, err := json.Marshal(acme.Revocation{Certificate: base64.RawURLEncoding.EncodeToString(leaf.Raw), Reason: &reason})
	if err != nil {
		return fmt.Errorf("encode revocation: %w", err)
	}
	_, err = a.post(ctx, "revoke-cert", dir.RevokeCert, body)
	var refused *Refusal
	if errors.As(err, &refused) && refused.Code() == fault.AlreadyRevoked {
		return nil
	}
	return err
}
