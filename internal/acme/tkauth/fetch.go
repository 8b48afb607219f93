package tkauth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"chancery/internal/fault"
)

// Fetcher gets the certificates that tokens name by URL (x5u), from origins
// that the operator named and from nowhere else. It is safe for concurrent use.
type Fetcher struct {
	origins []string
	client  *http.Client
}

// Bounds of a fetch.
const (
	fetchTimeout = 10 * time.Second
	maxChain     = 64 << 10 // octets of an answer
)

// NewFetcher returns a Fetcher for origins, each "https://host[:port]". roots
// are those of their TLS certificates; nil: those of the system.
func NewFetcher(origins []string, roots *x509.CertPool) (*Fetcher, error) {
	for _, o := range origins {
		if u, err := url.Parse(o); err != nil || u.Scheme != "https" || u.Host == "" || originOf(u) != o {
			return nil, fault.New(fault.Invalid, "%.100q is not an origin such as https://authority.example", o)
		}
	}
	return &Fetcher{origins: slices.Clone(origins), client: &http.Client{
		Timeout:       fetchTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			DisableKeepAlives: true, MaxResponseHeaderBytes: maxChain},
	}}, nil
}

// originOf is scheme and authority in lower case.
func originOf(u *url.URL) string { return strings.ToLower(u.Scheme + "://" + u.Host) }

// fetch returns the certificates at a URL, the signer's first: PEM, or one in
// DER (RFC 7515 section 4.1.5).
func (f *Fetcher) fetch(ctx context.Context, text string) ([]*x509.Certificate, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.User != nil || u.Fragment != "" || !slices.Contains(f.origins, originOf(u)) {
		return nil, bad("x5u is not an https URL of an authority that is known here")
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, bad("x5u is not a URL")
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, fault.Wrap(err, fault.Connection, "the certificate of the authority token could not be fetched from %s", originOf(u))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fault.New(fault.Connection, "the certificate of the authority token could not be fetched: %s answered %d", originOf(u), resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxChain+1))
	if err != nil {
		return nil, fault.Wrap(err, fault.Connection, "the certificate of the authority token could not be fetched from %s", originOf(u))
	}
	certs, err := parseChain(body)
	if err != nil {
		return nil, bad("x5u leads to something else than 1 to %d certificates", maxCerts)
	}
	return certs, nil
}

var errChain = errors.New("not a chain of certificates")

// parseChain reads certificates in PEM, or one in DER.
func parseChain(body []byte) (certs []*x509.Certificate, err error) {
	if len(body) > maxChain {
		return nil, errChain
	}
	block, rest := pem.Decode(body)
	if block == nil {
		cert, err := x509.ParseCertificate(body)
		if err != nil {
			return nil, errChain
		}
		return []*x509.Certificate{cert}, nil
	}
	for ; block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE" || len(certs) == maxCerts {
			return nil, errChain
		}
		certs = append(certs, cert)
	}
	return certs, nil
}
