// Package rest is what kinds share that talk to a CA or a DNS provider by JSON
// over HTTPS: bounded replies, short waits for throttles, secrets from files,
// and failures in the words of issuer.Class.
package rest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"chancery/internal/issuer"
	"chancery/internal/obs"
)

const (
	maxReply   = 4 << 20 // octets, unless Client.MaxReply says otherwise
	maxMessage = 500     // octets of a foreign error text
	maxTries   = 4
	maxPause   = 10 * time.Second // a longer Retry-After is the caller's matter
)

// Client talks to one API. It is safe for concurrent use.
type Client struct {
	Base     string       // URL that paths are appended to, without a final slash
	HTTP     *http.Client // see NewHTTP
	MaxReply int64        // octets; 4 MiB if 0
	// Authorize adds credentials to a request; nil: none.
	Authorize func(ctx context.Context, r *http.Request) error
	// Message finds the text in an error reply; nil: Message.
	Message func(body []byte) string
}

// Error is a reply with an error status.
type Error struct {
	Method, Path string // without the query, which may hold a secret
	Status       int
	Message      string // what the API said, bounded and printable
	RetryAfter   time.Duration
	Body         []byte // bounded
}

// Error implements error.
func (e *Error) Error() string {
	s := fmt.Sprintf("%s %s: %d %s", e.Method, e.Path, e.Status, http.StatusText(e.Status))
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

// Reply is what came back with a status below 300.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
}

// TLS says how an API is reached.
type TLS struct {
	Roots    string // file with the roots (PEM); "": those of the system
	Cert     string // file with the client's certificate (PEM); "": none
	Key      string // file with its key (PEM)
	Insecure bool   // plain http is accepted; for loopback
}

// NewHTTP returns an HTTP client that keeps enough connections and follows no
// redirect: credentials in headers of an API's own would go along.
func NewHTTP(t TLS, timeout time.Duration) (*http.Client, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.Roots != "" {
		text, err := os.ReadFile(t.Roots)
		if err != nil {
			return nil, fmt.Errorf("read roots: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("read roots: %s has no certificate in PEM", t.Roots)
		}
	}
	if t.Cert != "" {
		if _, err := tls.LoadX509KeyPair(t.Cert, t.Key); err != nil {
			return nil, fmt.Errorf("read client certificate: %w", err)
		}
		// Read at each handshake, so that a renewed one is used.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c, err := tls.LoadX509KeyPair(t.Cert, t.Key)
			return &c, err
		}
	}
	if timeout <= 0 {
		timeout = time.Minute
	}
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSClientConfig: cfg, MaxIdleConns: 64, MaxIdleConnsPerHost: 32,
			IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 15 * time.Second, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// CheckURL checks the URL of an API: https, or http on loopback, without a
// user, a query or a fragment. It returns it without a final slash.
func CheckURL(key, text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("%s: %q is not the URL of an API, such as https://api.example", key, text)
	}
	ip := net.ParseIP(u.Hostname())
	loopback := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	if u.Scheme != "https" && !(u.Scheme == "http" && loopback) {
		return "", fmt.Errorf("%s: %q must begin with https://; credentials would be sent in the clear", key, text)
	}
	return strings.TrimSuffix(text, "/"), nil
}

// Secret is a file whose first line is a secret. It is read at each use, so
// that another program may replace it.
type Secret string

// Check reads the secret once, to find mistakes early.
func (s Secret) Check(key string) error {
	if s == "" {
		return fmt.Errorf("%s: must name a file", key)
	}
	if _, err := s.Read(); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// Read returns the secret. Errors name the file and never quote it.
func (s Secret) Read() (string, error) {
	text, err := os.ReadFile(string(s))
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if line = strings.TrimSpace(line); line == "" || len(line) > 64<<10 {
		return "", fmt.Errorf("%s: its first line holds no secret", string(s))
	}
	return line, nil
}

// Access is what a section of the configuration says of an API: where it is, and
// the one secret that each request carries.
type Access struct {
	URL       string // its key is "url"
	TLS       TLS
	Timeout   time.Duration // of one request
	Secret    Secret
	SecretKey string                               // key of Secret, for errors: "token_file"
	Sign      func(r *http.Request, secret string) // adds the secret to a request; nil: as a bearer token (RFC 6750)
}

// Open checks everything that can be checked without asking the API.
func (a Access) Open() (*Client, error) {
	base, err := CheckURL("url", a.URL)
	if err != nil {
		return nil, err
	}
	if err := a.Secret.Check(a.SecretKey); err != nil {
		return nil, err
	}
	hc, err := NewHTTP(a.TLS, a.Timeout)
	if err != nil {
		return nil, err
	}
	sign := a.Sign
	if sign == nil {
		sign = func(r *http.Request, secret string) { r.Header.Set("Authorization", "Bearer "+secret) }
	}
	return &Client{Base: base, HTTP: hc, Authorize: func(_ context.Context, r *http.Request) error {
		secret, err := a.Secret.Read()
		if err == nil {
			sign(r, secret)
		}
		return err
	}}, nil
}

// Do sends a request and reads the reply into out. in is sent as JSON, unless
// it is nil, or url.Values (a form) or []byte (as it is, with typ below). out
// nil leaves the body to the caller. A throttle with a short Retry-After is
// waited for; a request that only reads is repeated after a server error.
func (c *Client) Do(ctx context.Context, method, path string, in, out any) (*Reply, error) {
	body, typ, err := encode(in)
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		res, err := c.once(ctx, method, path, typ, body)
		pause, again := retry(method, err, try)
		if again && sleep(ctx, pause) == nil {
			continue
		}
		if err != nil {
			return nil, err
		}
		if out != nil {
			if err := json.Unmarshal(res.Body, out); err != nil {
				return nil, &issuer.Error{Class: issuer.Unavailable, Err: fmt.Errorf("%s %s: the reply is not the JSON that was expected", method, bare(path))}
			}
		}
		return res, nil
	}
}

func encode(in any) (body []byte, typ string, err error) {
	switch v := in.(type) {
	case nil:
		return nil, "", nil
	case []byte:
		return v, "", nil
	case url.Values:
		return []byte(v.Encode()), "application/x-www-form-urlencoded", nil
	}
	if body, err = json.Marshal(in); err != nil {
		return nil, "", fmt.Errorf("encode request: %w", err)
	}
	return body, "application/json", nil
}

// retry decides on a repetition.
func retry(method string, err error, try int) (pause time.Duration, again bool) {
	var e *Error
	if try >= maxTries || !errors.As(err, &e) || e.RetryAfter > maxPause {
		return 0, false
	}
	reads := method == http.MethodGet || method == http.MethodHead
	if e.Status != http.StatusTooManyRequests && !(reads && e.Status >= 500) {
		return 0, false
	}
	if e.RetryAfter > 0 {
		return e.RetryAfter, true
	}
	return 200 * time.Millisecond << try, true
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func bare(path string) string {
	path, _, _ = strings.Cut(path, "?")
	return path
}

func (c *Client) once(ctx context.Context, method, path, typ string, body []byte) (_ *Reply, err error) {
	ctx, span := obs.Ask(ctx, "issuer.request")
	defer func() { span.End(err) }()
	span.Str("http.request.method", method)
	span.Str("url.path", bare(path))
	req, err := http.NewRequestWithContext(ctx, method, c.Base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "chancery")
	if typ != "" {
		req.Header.Set("Content-Type", typ)
	}
	if c.Authorize != nil {
		if err := c.Authorize(ctx, req); err != nil {
			return nil, err
		}
	}
	res, err := c.HTTP.Do(req)
	if err != nil {
		return nil, hideQuery(err, method, path)
	}
	defer res.Body.Close()
	span.Int("http.response.status_code", res.StatusCode)
	limit := c.MaxReply
	if limit == 0 {
		limit = maxReply
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s %s: read reply: %w", method, bare(path), err)
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("%s %s: the reply is longer than %d bytes", method, bare(path), limit)
	}
	if res.StatusCode/100 != 2 {
		return nil, c.refused(method, path, res, text, sentSecrets(req, body))
	}
	return &Reply{res.StatusCode, res.Header, text}, nil
}

// hideQuery takes the URL out of an error of net/http.
func hideQuery(err error, method, path string) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return fmt.Errorf("%s %s: %w", method, bare(path), err)
}

// refused is the error of a reply. It is stored and shown, so what was sent in
// confidence is taken out of it: some APIs repeat the request.
func (c *Client) refused(method, path string, res *http.Response, text []byte, secrets []string) error {
	message := c.Message
	if message == nil {
		message = Message
	}
	text = []byte(conceal(string(text), secrets))
	return &Error{Method: method, Path: bare(path), Status: res.StatusCode, Message: Tidy(conceal(message(text), secrets)),
		RetryAfter: RetryAfter(res.Header, time.Now()), Body: text[:min(len(text), 16<<10)]}
}

// RetryAfter reads Retry-After in either form, or the reset header that some
// APIs send in its place (seconds, or a Unix time). 0 = none.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if at, err := http.ParseTime(v); err == nil {
		return max(at.Sub(now), 0)
	}
	for _, key := range []string{"Retry-After", "RateLimit-Reset", "X-RateLimit-Reset"} {
		n, err := strconv.ParseInt(strings.TrimSpace(h.Get(key)), 10, 64)
		if err != nil || n < 0 {
			continue
		}
		if n > 1_000_000_000 {
			n -= now.Unix()
		}
		return time.Duration(min(max(n, 0), 31*24*3600)) * time.Second
	}
	return 0
}

// Message finds the text of an error in the forms that most APIs use.
func Message(body []byte) string {
	var v struct {
		Message          string            `json:"message"`
		Detail           string            `json:"detail"`
		Description      string            `json:"description"`
		ErrorDescription string            `json:"error_description"`
		Error            json.RawMessage   `json:"error"`
		Errors           []json.RawMessage `json:"errors"`
	}
	if json.Unmarshal(body, &v) != nil {
		return ""
	}
	var out []string
	for _, s := range []string{v.Message, v.Detail, v.Description, v.ErrorDescription, inner(v.Error)} {
		if s != "" {
			out = append(out, s)
			break
		}
	}
	for _, e := range v.Errors {
		if s := inner(e); s != "" && len(out) < 5 {
			out = append(out, s)
		}
	}
	return strings.Join(out, "; ")
}

// inner is the text of an error that is a string or an object.
func inner(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var o struct {
		Message string `json:"message"`
		Detail  string `json:"detail"`
	}
	if json.Unmarshal(raw, &o) != nil {
		return ""
	}
	if o.Message == "" {
		return o.Detail
	}
	return o.Message
}

// Tidy makes foreign text fit for logs and terminals.
func Tidy(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "..."
	}
	return s
}

// Classify gives an error its class: what an API refuses with 4xx is wrong
// until somebody changes something; throttles and outages pass. Errors that
// have a class keep it, as does the end of ctx.
func Classify(ctx context.Context, err error) error {
	var known *issuer.Error
	var e *Error
	var network net.Error
	switch {
	case err == nil || errors.As(err, &known) || ctx.Err() != nil:
		return err
	case errors.As(err, &e):
		return &issuer.Error{Class: classOf(e.Status), RetryAfter: e.RetryAfter, Err: err}
	case errors.As(err, &network), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return &issuer.Error{Class: issuer.Unavailable, Err: err}
	}
	return err
}

func classOf(status int) issuer.Class {
	switch {
	case status == http.StatusTooManyRequests:
		return issuer.Throttled
	case status >= 500 || status == http.StatusRequestTimeout || status == http.StatusLocked:
		return issuer.Unavailable
	}
	return issuer.Permanent
}

// JSON decodes the body of a reply.
func (r *Reply) JSON(out any) error {
	if err := json.Unmarshal(r.Body, out); err != nil {
		return &issuer.Error{Class: issuer.Unavailable, Err: errors.New("the reply is not the JSON that was expected")}
	}
	return nil
}

// IsStatus reports whether err is a reply with a status.
func IsStatus(err error, status int) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == status
}
