// Package client calls the control plane's API. It is what the command line
// and the tests use; the types of requests and answers are those of package
// api.
//
// Every method takes a context, and returns a *fault.Error when the server
// refused (with the server's text and code), or when it cannot be reached
// (unavailable).
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"chancery/internal/api"
	"chancery/internal/fault"
)

// Config says which server to call, and as whom.
type Config struct {
	// Server is the base URL, "https://host:port".
	Server string
	// Token is the bearer token; "" calls public operations only.
	Token string
	// Roots are the certificates that the server's must chain to; nil = the
	// system's.
	Roots *x509.CertPool
	// HTTP replaces the transport, for tests; Roots is then ignored.
	HTTP *http.Client
	// UserAgent names the program; "" = "chancery".
	UserAgent string
	// BreakGlass is the reason of an administrator who acts without a second
	// person; "" = nobody does.
	BreakGlass string
}

// Client calls one server. It is safe for concurrent use.
type Client struct {
	base   string
	token  string
	agent  string
	reason string
	http   *http.Client
}

// New returns a client. It opens nothing.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.Server)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fault.New(fault.Invalid, "the server %.128q is not a URL such as https://localhost:8443", cfg.Server)
	}
	if strings.ContainsAny(cfg.BreakGlass, "\r\n") {
		return nil, fault.New(fault.Invalid, "the reason for acting alone must be one line")
	}
	if strings.ContainsAny(cfg.Token, "\r\n \t") {
		return nil, fault.New(fault.Invalid, "the token has white space inside; give exactly what `chancery config token create` printed")
	}
	c := &Client{base: strings.TrimSuffix(cfg.Server, "/") + api.Prefix, token: cfg.Token, agent: cfg.UserAgent, reason: cfg.BreakGlass, http: cfg.HTTP}
	if c.agent == "" {
		c.agent = "chancery"
	}
	if c.http == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.TLSClientConfig = &tls.Config{RootCAs: cfg.Roots, MinVersion: tls.VersionTLS12}
		transport.ResponseHeaderTimeout = 90 * time.Second // longer than the server gives itself
		c.http = &http.Client{Transport: transport}
	}
	// A token must not follow a redirect to somebody else.
	bare := *c.http
	bare.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.http = &bare
	return c, nil
}

// Server returns the base URL that the client calls.
func (c *Client) Server() string { return strings.TrimSuffix(c.base, api.Prefix) }

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 20

// Do sends a request to a path below /api/v1 and decodes the answer into out.
// in is encoded as JSON when not nil; out may be nil, or a *[]byte for an
// answer that is not JSON.
func (c *Client) Do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	r, err := c.request(ctx, method, path, query, in)
	if err != nil {
		return err
	}
	return c.send(r, out)
}

func (c *Client) request(ctx context.Context, method, path string, query url.Values, in any) (*http.Request, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	target := c.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	return r, nil
}

// Stream fetches a path below /api/v1 whose answer may be of any length, and
// copies it to w as it comes. An error means that w got a part of it, or none.
func (c *Client) Stream(ctx context.Context, path string, query url.Values, w io.Writer) error {
	r, err := c.request(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return err
	}
	c.sign(r, "*/*")
	resp, err := c.http.Do(r)
	if err != nil {
		return unreachable(r, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil {
			return unreachable(r, err)
		}
		return refused(resp, body)
	}
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

// sign adds who asks, and for what.
func (c *Client) sign(r *http.Request, accept string) {
	r.Header.Set("User-Agent", c.agent)
	r.Header.Set("Accept", accept)
	if r.Body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	if c.reason != "" {
		r.Header.Set("X-Break-Glass", c.reason)
	}
}

func (c *Client) send(r *http.Request, out any) error {
	c.sign(r, "application/json")
	resp, err := c.http.Do(r)
	if err != nil {
		return unreachable(r, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return unreachable(r, err)
	}
	if len(body) > maxAnswer {
		return fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return refused(resp, body)
	}
	if id := resp.Header.Get("X-Approval"); id != "" {
		return &Held{id}
	}
	return decode(resp, body, out)
}

// Held says that a request waits until a second person approves it.
type Held struct{ ID string }

// Error implements error.
func (h *Held) Error() string {
	return "this needs a second person: it waits as " + h.ID + " until somebody else approves it"
}

func decode(resp *http.Response, body []byte, out any) error {
	switch out := out.(type) {
	case nil:
		return nil
	case *[]byte:
		*out = body
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("decode answer of %s: %w; is it a chancery of this version?", resp.Request.URL.Host, err)
	}
	return nil
}

// unreachable explains why there is no answer.
func unreachable(r *http.Request, err error) error {
	if ctx := r.Context().Err(); ctx != nil {
		return ctx
	}
	var uerr *url.Error
	if errors.As(err, &uerr) {
		err = uerr.Err // without the method and URL, which follow here
	}
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return fault.Wrap(err, fault.Precondition, "the certificate of %s does not chain to a known root; name its root.pem with --ca-file", r.URL.Host)
	}
	return fault.Wrap(err, fault.Unavailable, "%s does not answer; is `chancery serve` or `chancery dev` running there?", r.URL.Host)
}

// refused turns a problem document into the fault that it stands for.
func refused(resp *http.Response, body []byte) error {
	var p api.Problem
	if err := json.Unmarshal(body, &p); err != nil || p.Detail == "" {
		return fault.New(fault.ServerInternal, "%s answered %s, and not as a chancery would; is the URL right?", resp.Request.URL.Host, resp.Status)
	}
	code := fault.Code(p.Type[strings.LastIndexByte(p.Type, ':')+1:])
	e := &fault.Error{Code: code, Detail: p.Detail, HTTPStatus: resp.StatusCode}
	if code == fault.ServerInternal && p.RequestID != "" {
		e.Detail += " (request " + p.RequestID + ")"
	}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		e.RetryAfter = time.Duration(min(n, 86400)) * time.Second
	}
	return e
}
