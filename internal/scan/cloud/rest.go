package cloud

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json/v2"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"chancery/internal/fault"
	"chancery/internal/loop"
)

// attempts is how often a request is sent before its list fails: throttles are
// no failures of the provider, and each halves the rate.
const attempts = 8

// retry spaces attempts after failures; throttled ones wait for the bucket,
// too.
var retry = loop.Backoff{Base: 200 * time.Millisecond, Max: 10 * time.Second}

// StatusError is an answer that is no success.
type StatusError struct {
	Status int
	Text   string // the beginning of the body, on one line
}

// Error implements error.
func (e *StatusError) Error() string { return fmt.Sprintf("status %d: %s", e.Status, e.Text) }

// REST talks JSON to a provider.
type REST struct {
	Client *http.Client
	// Authorize adds credentials to a request; nil: none.
	Authorize func(ctx context.Context, r *http.Request) error
}

// Get sends a GET (or what method says) and decodes the answer into out.
// Failures that may pass are tried again.
func (c *REST) Get(ctx context.Context, operation, method, url string, out any) error {
	return c.fetch(ctx, operation, method, url, func(r io.Reader) error {
		if err := json.UnmarshalRead(r, out); err != nil {
			return fmt.Errorf("decode answer: %w", err)
		}
		return nil
	})
}

// Fetch sends a GET and lets read take the answer. Failures that may pass are
// tried again: read may be called more than once.
func (c *REST) Fetch(ctx context.Context, operation, url string, read func(io.Reader) error) error {
	return c.fetch(ctx, operation, http.MethodGet, url, read)
}

func (c *REST) fetch(ctx context.Context, operation, method, url string, read func(io.Reader) error) error {
	ctx = WithOperation(ctx, operation)
	for n := 0; ; n++ {
		resp, err := c.Open(ctx, method, url)
		if err == nil {
			err = errors.Join(read(resp.Body), resp.Body.Close())
		}
		if err == nil || n+1 == attempts || !passing(ctx, err) {
			return explain(operation, err)
		}
		if e := retry.Sleep(ctx, n); e != nil {
			return explain(operation, err)
		}
	}
}

// Open sends a request once and returns an answer of status 200, or a
// *StatusError. The caller closes its body.
func (c *REST) Open(ctx context.Context, method, url string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "chancery")
	if c.Authorize != nil {
		if err := c.Authorize(ctx, r); err != nil {
			return nil, err
		}
	}
	resp, err := c.Client.Do(r)
	if err != nil || resp.StatusCode == http.StatusOK {
		return resp, err
	}
	defer resp.Body.Close()
	head, _ := io.ReadAll(io.LimitReader(resp.Body, 400)) // for people only
	return nil, &StatusError{resp.StatusCode, strings.Join(strings.Fields(strings.ToValidUTF8(string(head), "?")), " ")}
}

// passing reports whether an error may be gone in a moment.
func passing(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	if s, ok := errors.AsType[*StatusError](err); ok {
		return s.Status == http.StatusTooManyRequests || s.Status == http.StatusRequestTimeout || s.Status >= 500
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return false
	}
	return !errors.Is(err, errElsewhere) && !errors.Is(err, ErrTooLong)
}

// explain makes what the user can mend a *fault.Error.
func explain(operation string, err error) error {
	if s, ok := errors.AsType[*StatusError](err); ok {
		switch s.Status {
		case http.StatusUnauthorized:
			return fault.Wrap(err, fault.Precondition, "%s: the provider does not accept the credentials: %s", operation, s.Text)
		case http.StatusForbidden:
			return fault.Wrap(err, fault.Precondition, "%s: the credentials may not do this: %s", operation, s.Text)
		case http.StatusNotFound:
			return fault.Wrap(err, fault.Precondition, "%s: the provider knows no such place: %s", operation, s.Text)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", operation, err)
	}
	return nil
}

// Transport returns a transport that trusts the roots (PEM) of a file; "": the
// system's. pair, if set, is the client's certificate.
func Transport(caFile string, pair *tls.Certificate) (*http.Transport, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost, t.ResponseHeaderTimeout = 32, time.Minute
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if pair != nil {
		t.TLSClientConfig.Certificates = []tls.Certificate{*pair}
	}
	if caFile == "" {
		return t, nil
	}
	text, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fault.Wrap(err, fault.Precondition, "ca_file: %s cannot be read", caFile)
	}
	t.TLSClientConfig.RootCAs = x509.NewCertPool()
	if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(text) {
		return nil, fault.New(fault.Invalid, "ca_file: %s holds no certificate in PEM", caFile)
	}
	return t, nil
}

// Secret reads the first line of a file that holds a token or a password.
func Secret(key, file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fault.Wrap(err, fault.Precondition, "%s: %s cannot be read", key, file)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if line = strings.TrimSpace(line); line == "" || len(line) > 64<<10 {
		return "", fault.New(fault.Precondition, "%s: the first line of %s is empty, or longer than 64 KB", key, file)
	}
	return line, nil
}

// LeafPEM returns the first certificate of a PEM text as DER. The error is a
// *fault.Error that names what.
func LeafPEM(what string, text []byte) ([]byte, error) {
	for range 64 {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			return block.Bytes, nil
		}
		text = rest
	}
	return nil, fault.New(fault.Invalid, "%.200s holds no certificate in PEM", what)
}
