package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds on replies.
const (
	maxHeadLine  = 16 << 10
	maxHeadLines = 200
	maxReplyBody = 8 << 20
)

// Transport says how clients connect.
type Transport struct {
	TLS       *tls.Config   // of https; nil: the system's roots
	Timeout   time.Duration // of one request, connecting included
	UserAgent string
	ALPN      []string // offered beside HTTP/1.1
}

// reply is what a request brought. The body belongs to the caller until the
// next request of the same caller.
type reply struct {
	status     int
	nonce      string // Replay-Nonce
	location   string
	mediaType  string // Content-Type
	etag       string
	retryAfter time.Duration
	body       []byte

	retrySeconds bool // Retry-After is a number, not a date

	length  int64 // Content-Length, or -1
	chunked bool
	close   bool
}

// caller is one client's HTTP/1.1 connections: one per origin, kept alive, one
// request at a time. net/http hands each request through two more goroutines
// per connection, which costs a load generator about as much as the signature
// it sends; here the calling goroutine writes and reads itself. Redirects and
// proxies are not followed: neither belongs into a measurement.
type caller struct {
	t       *Transport
	dialer  net.Dialer
	origins map[string]*origin
	out     []byte
	res     reply
	body    bytes.Buffer
}

// origin is a scheme, host and port, and the connection to it.
type origin struct {
	key, host, addr string // "https://ca.example", "ca.example", "ca.example:443"
	tls             *tls.Config
	conn            net.Conn
	in              *bufio.Reader
}

func newCaller(t *Transport) *caller {
	return &caller{t: t, origins: map[string]*origin{}}
}

// close closes all connections.
func (c *caller) close() {
	for _, o := range c.origins {
		o.drop()
	}
}

func (o *origin) drop() {
	if o.conn != nil {
		o.conn.Close()
		o.conn = nil
	}
}

// split takes a URL apart without the cost of url.Parse once its origin is
// known.
func (c *caller) split(rawURL string) (o *origin, target string, err error) {
	scheme, rest, ok := strings.Cut(rawURL, "://")
	if !ok {
		return nil, "", fmt.Errorf("%q is not an absolute URL", rawURL)
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end, rawURL, rest = len(rest), rawURL+"/", rest+"/"
	}
	key := rawURL[:len(scheme)+3+end]
	target = rest[end:]
	if strings.ContainsAny(target, " \r\n#") || target[0] != '/' {
		return nil, "", fmt.Errorf("%q is not a URL that can be requested", rawURL)
	}
	if o = c.origins[key]; o == nil {
		if o, err = c.newOrigin(key); err != nil {
			return nil, "", err
		}
		c.origins[key] = o
	}
	return o, target, nil
}

func (c *caller) newOrigin(key string) (*origin, error) {
	u, err := url.Parse(key)
	if err != nil {
		return nil, fmt.Errorf("parse URL: %w", err)
	}
	if u.Hostname() == "" || u.User != nil {
		return nil, fmt.Errorf("%q names no host", key)
	}
	o := &origin{key: key, host: u.Host}
	port := u.Port()
	switch u.Scheme {
	case "https":
		o.tls = &tls.Config{}
		if c.t.TLS != nil {
			o.tls = c.t.TLS.Clone()
		}
		o.tls.ServerName, o.tls.NextProtos = u.Hostname(), append(slices.Clone(c.t.ALPN), "http/1.1")
		if port == "" {
			port = "443"
		}
	case "http":
		if port == "" {
			port = "80"
		}
	default:
		return nil, fmt.Errorf("scheme %q is neither http nor https", u.Scheme)
	}
	o.addr = net.JoinHostPort(u.Hostname(), port)
	return o, nil
}

// connect opens the connection of o.
func (c *caller) connect(ctx context.Context, o *origin) error {
	ctx, cancel := context.WithTimeout(ctx, c.t.Timeout)
	defer cancel()
	conn, err := c.dialer.DialContext(ctx, "tcp", o.addr)
	if err != nil {
		return err
	}
	if o.tls != nil {
		secure := tls.Client(conn, o.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return fmt.Errorf("connect to %s: %w", o.addr, err)
		}
		conn = secure
	}
	o.conn = conn
	if o.in == nil {
		o.in = bufio.NewReaderSize(nil, maxHeadLine)
	}
	o.in.Reset(conn)
	return nil
}

// do sends one request with extra header lines ("Name: value\r\n...") and
// reads the reply. A kept connection that the server closed meanwhile is
// opened again, once; s.Retries counts it.
func (c *caller) do(ctx context.Context, s *Sample, method, rawURL, headers string, body []byte) (*reply, error) {
	o, target, err := c.split(rawURL)
	if err != nil {
		return nil, err
	}
	c.write(o, method, target, headers, body)
	kept := o.conn != nil
	res, early, err := c.exchange(ctx, o, method)
	if err != nil && kept && early && ctx.Err() == nil {
		s.Retries++
		res, _, err = c.exchange(ctx, o, method)
	}
	s.Requests++
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("%s %s: %w", method, rawURL, err)
	}
	return res, nil
}

// write puts the request into c.out: one buffer, one write, one TLS record.
func (c *caller) write(o *origin, method, target, headers string, body []byte) {
	b := append(c.out[:0], method...)
	b = append(b, ' ')
	b = append(b, target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, o.host...)
	b = append(b, "\r\nUser-Agent: "...)
	b = append(b, c.t.UserAgent...)
	b = append(b, "\r\n"...)
	b = append(b, headers...)
	if body != nil {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(len(body)), 10)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	c.out = append(b, body...)
}

// exchange sends c.out and reads the reply. early means that no octet of a
// reply came, so that the request may be sent again.
func (c *caller) exchange(ctx context.Context, o *origin, method string) (res *reply, early bool, err error) {
	if o.conn == nil {
		if err := c.connect(ctx, o); err != nil {
			return nil, false, err
		}
	}
	conn := o.conn
	conn.SetDeadline(time.Now().Add(c.t.Timeout))
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(c.out); err != nil {
		o.drop()
		return nil, true, err
	}
	if _, err := o.in.Peek(1); err != nil {
		o.drop()
		return nil, true, err
	}
	res, err = c.read(o, method)
	if err != nil || res.close {
		o.drop()
	}
	return res, false, err
}

// read reads one reply, skipping interim ones (RFC 9110 section 15.2).
func (c *caller) read(o *origin, method string) (*reply, error) {
	res := &c.res
	for range 10 {
		if err := res.readHead(o.in); err != nil {
			return nil, err
		}
		if res.status >= 200 {
			return res, c.readBody(o.in, method, res)
		}
	}
	return nil, errors.New("the server sends interim replies only")
}

// readBody reads the body by its framing (RFC 9112 section 6).
func (c *caller) readBody(in *bufio.Reader, method string, res *reply) error {
	c.body.Reset()
	var src io.Reader
	switch {
	case method == "HEAD" || res.status == 204 || res.status == 304:
		res.body = nil
		return nil
	case res.chunked:
		src = httputil.NewChunkedReader(in)
	case res.length >= 0:
		src = io.LimitReader(in, res.length)
	default:
		src, res.close = in, true
	}
	if res.length > maxReplyBody {
		return fmt.Errorf("reply of %d bytes is too long", res.length)
	}
	n, err := c.body.ReadFrom(io.LimitReader(src, maxReplyBody+1))
	switch {
	case err != nil:
		return fmt.Errorf("read body: %w", err)
	case n > maxReplyBody:
		return fmt.Errorf("reply is longer than %d bytes", maxReplyBody)
	case res.length > n && !res.chunked:
		return fmt.Errorf("read body: %w", io.ErrUnexpectedEOF)
	}
	res.body = c.body.Bytes()
	if res.chunked {
		return skipTrailers(in)
	}
	return nil
}

// skipTrailers reads the lines after the last chunk.
func skipTrailers(in *bufio.Reader) error {
	for range maxHeadLines {
		line, err := headLine(in)
		if err != nil || len(line) == 0 {
			return err
		}
	}
	return errors.New("too many trailers")
}

// headLine reads one line without its end.
func headLine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read header: %w", err)
	}
	return bytes.TrimRight(line, "\r\n"), nil
}

// readHead reads a status line and the headers that matter here.
func (r *reply) readHead(in *bufio.Reader) error {
	*r = reply{length: -1}
	line, err := headLine(in)
	if err != nil {
		return err
	}
	// "HTTP/1.1 200 OK"
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[8] != ' ' {
		return fmt.Errorf("reply is not HTTP/1.1: %q", line[:min(len(line), 40)])
	}
	r.status, err = strconv.Atoi(string(line[9:12]))
	if err != nil || r.status < 100 {
		return fmt.Errorf("reply has no status: %q", line[:min(len(line), 40)])
	}
	r.close = line[7] == '0'
	for range maxHeadLines {
		line, err := headLine(in)
		if err != nil || len(line) == 0 {
			return err
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return fmt.Errorf("reply has a malformed header line: %q", line[:min(len(line), 40)])
		}
		if err := r.header(name, bytes.TrimSpace(value)); err != nil {
			return err
		}
	}
	return errors.New("reply has too many header lines")
}

// header keeps one header. The switch on length spares most comparisons.
func (r *reply) header(name, value []byte) error {
	is := func(want string) bool { return len(name) == len(want) && strings.EqualFold(string(name), want) }
	switch {
	case is("replay-nonce"):
		r.nonce = string(value)
	case is("location"):
		r.location = string(value)
	case is("content-type"):
		r.mediaType = mediaType(value)
	case is("etag"):
		r.etag = string(value)
	case is("retry-after"):
		r.retryAfter = parseRetryAfter(string(value), time.Now())
		r.retrySeconds = len(value) > 0 && len(bytes.Trim(value, "0123456789")) == 0
	case is("connection"):
		r.close = r.close || strings.EqualFold(string(value), "close")
	case is("transfer-encoding"):
		if !strings.EqualFold(string(value), "chunked") {
			return fmt.Errorf("reply has the transfer encoding %q", value)
		}
		r.chunked = true
	case is("content-length"):
		n, err := strconv.ParseInt(string(value), 10, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("reply has the content length %q", value)
		}
		r.length = n
	}
	return nil
}

// mediaType spares an allocation for the types that come with every reply.
func mediaType(v []byte) string {
	switch string(v) {
	case "application/json":
		return "application/json"
	case "application/pem-certificate-chain":
		return "application/pem-certificate-chain"
	case "application/ocsp-response":
		return "application/ocsp-response"
	}
	return string(v)
}

// parseRetryAfter reads either form of Retry-After (RFC 9110 section 10.2.3).
// What cannot be read is 0, and nothing is longer than a day.
func parseRetryAfter(v string, now time.Time) time.Duration {
	const longest = 24 * time.Hour
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		return time.Duration(min(max(n, 0), int64(longest/time.Second))) * time.Second
	}
	for _, layout := range []string{time.RFC1123, time.RFC850, time.ANSIC} {
		if at, err := time.Parse(layout, v); err == nil {
			return min(max(at.Sub(now), 0), longest)
		}
	}
	return 0
}
