package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"chancery/internal/acme"
	"chancery/internal/fault"
	"chancery/internal/obs"
)

// Bounds on what a CA may send.
const (
	maxReply        = 128 << 10 // octets of a body
	maxNonceRetries = 5         // RFC 8555 section 6.5
	directoryAge    = 12 * time.Hour
	maxRetryAfter   = 31 * 24 * time.Hour
)

// Config is what a Client needs.
type Config struct {
	Directory string           // URL of the CA's directory. Required.
	HTTP      *http.Client     // nil: NewHTTP(nil)
	UserAgent string           // RFC 8555 section 6.1; "chancery" if ""
	Now       func() time.Time // nil: time.Now
}

// Client is the wire to one CA: connections, nonces and directory, shared by
// all accounts and orders. It is safe for concurrent use.
type Client struct {
	cfg    Config
	nonces nonces
	dir    atomic.Pointer[directory]
	gate   chan struct{} // holds one: who fetches the directory
}

type directory struct {
	acme.Directory
	at time.Time
}

// NewHTTP returns an HTTP client for one CA: HTTP/2 where the CA has it, and
// enough kept connections where it has not. roots nil are those of the system.
func NewHTTP(roots *x509.CertPool) *http.Client {
	return &http.Client{
		Timeout: 90 * time.Second,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			MaxIdleConns: 256, MaxIdleConnsPerHost: 128, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 15 * time.Second,
			ResponseHeaderTimeout: 75 * time.Second, MaxResponseHeaderBytes: 64 << 10,
		},
		// A signed message names its URL, so it is void elsewhere; only plain
		// reads may follow the CA to another place.
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if via[0].Method != http.MethodGet || len(via) > 3 {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
}

// New returns a Client. It sends nothing.
func New(c Config) (*Client, error) {
	u, err := url.Parse(c.Directory)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fault.New(fault.Invalid, "directory: %q is not the URL of an ACME directory, such as https://ca.example/directory", c.Directory)
	}
	if c.HTTP == nil {
		c.HTTP = NewHTTP(nil)
	}
	if c.UserAgent == "" {
		c.UserAgent = "chancery"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Client{cfg: c, gate: make(chan struct{}, 1)}, nil
}

// reply is what came back, with a body that was read to its end.
type reply struct {
	status     int
	header     http.Header
	body       []byte
	retryAfter time.Duration
}

// Refusal is a reply with an error status.
type Refusal struct {
	*acme.Problem
	Op         string        // "new-order", ...
	RetryAfter time.Duration // header of the reply; 0 = none
}

// Error implements error.
func (r *Refusal) Error() string { return r.Op + ": " + r.Problem.Error() }

// do sends one request and reads the reply, whatever its status.
func (c *Client) do(ctx context.Context, method, url string, body []byte) (r *reply, err error) {
	ctx, span := obs.Ask(ctx, "acme.request")
	defer func() {
		if r != nil {
			span.Int("http.response.status_code", r.status)
		}
		span.End(err)
	}()
	span.Str("http.request.method", method)
	span.Str("url.full", url)
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/jose+json")
	}
	res, err := c.cfg.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxReply+1))
	if err != nil {
		return nil, fmt.Errorf("%s %s: read reply: %w", method, url, err)
	}
	if len(text) > maxReply {
		return nil, fmt.Errorf("%s %s: the reply is longer than %d bytes", method, url, maxReply)
	}
	return &reply{res.StatusCode, res.Header, text, RetryAfter(res.Header.Get("Retry-After"), c.cfg.Now())}, nil
}

// RetryAfter reads either form of a Retry-After header (RFC 9110 section
// 10.2.3). What cannot be read is 0; nothing is longer than 31 days.
func RetryAfter(v string, now time.Time) time.Duration {
	v = strings.TrimSpace(v)
	if d, err := time.ParseDuration(v + "s"); err == nil && d >= 0 && !strings.ContainsAny(v, "hmsuµn") {
		return min(d, maxRetryAfter)
	}
	if at, err := http.ParseTime(v); err == nil {
		return min(max(at.Sub(now), 0), maxRetryAfter)
	}
	return 0
}

// Directory returns the CA's directory, read at most every twelve hours.
func (c *Client) Directory(ctx context.Context) (*acme.Directory, error) {
	if d := c.dir.Load(); d != nil && c.cfg.Now().Sub(d.at) < directoryAge {
		return &d.Directory, nil
	}
	select {
	case c.gate <- struct{}{}:
		defer func() { <-c.gate }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if d := c.dir.Load(); d != nil && c.cfg.Now().Sub(d.at) < directoryAge {
		return &d.Directory, nil
	}
	res, err := c.get(ctx, "directory", c.cfg.Directory)
	if err != nil {
		return nil, err
	}
	d, err := acme.Decode[acme.Directory](res.body)
	if err != nil {
		return nil, fmt.Errorf("read directory %s: %w", c.cfg.Directory, err)
	}
	if d.NewNonce == "" || d.NewAccount == "" || d.NewOrder == "" {
		return nil, fault.New(fault.Invalid, "%s is not an ACME directory: newNonce, newAccount or newOrder is missing", c.cfg.Directory)
	}
	c.dir.Store(&directory{d, c.cfg.Now()})
	return &d, nil
}

// get reads a resource that needs no signature.
func (c *Client) get(ctx context.Context, op, url string) (*reply, error) {
	res, err := c.do(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if res.status/100 != 2 {
		return nil, c.refusal(op, res)
	}
	return res, nil
}

func (c *Client) refusal(op string, res *reply) *Refusal {
	return &Refusal{acme.ParseProblem(res.header.Get("Content-Type"), res.status, res.body), op, res.retryAfter}
}

// post sends a signed request; a nil payload is POST-as-GET. A nonce that the
// CA does not take is replaced by the one of its refusal; nothing else is
// repeated, since only the caller knows what a repetition would do.
func (c *Client) post(ctx context.Context, op string, s *acme.Signer, kid, url string, payload []byte) (*reply, error) {
	nonce := c.nonces.take(c.cfg.Now())
	for try := 0; ; try++ {
		if nonce == "" {
			var err error
			if nonce, err = c.freshNonce(ctx); err != nil {
				return nil, err
			}
		}
		body, err := s.Sign(acme.Header{URL: url, Nonce: nonce, KID: kid}, payload)
		if err != nil {
			return nil, err
		}
		res, err := c.do(ctx, http.MethodPost, url, body)
		if err != nil {
			return nil, err
		}
		nonce = res.header.Get("Replay-Nonce")
		if res.status/100 == 2 {
			c.nonces.put(nonce, c.cfg.Now())
			return res, nil
		}
		refused := c.refusal(op, res)
		if refused.Code() != fault.BadNonce || try == maxNonceRetries {
			c.nonces.put(nonce, c.cfg.Now())
			return nil, refused
		}
		c.nonces.flush()
	}
}

func (c *Client) freshNonce(ctx context.Context) (string, error) {
	d, err := c.Directory(ctx)
	if err != nil {
		return "", err
	}
	res, err := c.do(ctx, http.MethodHead, d.NewNonce, nil)
	if err != nil {
		return "", err
	}
	if res.status/100 != 2 {
		return "", c.refusal("new-nonce", res)
	}
	nonce := res.header.Get("Replay-Nonce")
	if nonce == "" {
		return "", errors.New("new-nonce: the reply has no nonce")
	}
	return nonce, nil
}

// resolve makes a URL of a reply absolute (RFC 8555 asks for absolute ones;
// some CAs send a path), and refuses another scheme than http and https.
func (c *Client) resolve(ref string) (string, error) {
	base, err := url.Parse(c.cfg.Directory)
	if err != nil {
		return "", err
	}
	u, err := base.Parse(ref)
	if err != nil || ref == "" || u.Host == "" || u.Scheme != base.Scheme && u.Scheme != "https" {
		return "", fmt.Errorf("the CA sent the URL %q, which cannot be used", ref)
	}
	return u.String(), nil
}
