package challenge

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"chancery/internal/dns"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

const (
	wellKnown       = "/.well-known/acme-challenge/"
	maxRedirects    = 10
	maxBody         = 1 << 10  // octets of a key authorization with its white space
	maxResponse     = 16 << 10 // octets read in all: header, chunk framing and body
	maxLocation     = 2 << 10
	maxInformative  = 5 // 1xx responses before the real one
	bufferSize      = 2 << 10
	trailingAllowed = " \t\r\n"
)

// HTTP01Validator is the http-01 method (RFC 8555 section 8.3, for addresses
// RFC 8738): a file at a well-known path on port 80.
//
// The request is written and the connection kept by hand (one connection, one
// request, one bounded response); the response is read by net/http's parser.
// This costs less than half of an http.Client, and leaves no way around the
// address policy: there is no proxy, no second look-up and no connection pool.
type HTTP01Validator struct {
	prover
	buffers sync.Pool // of *bufio.Reader
}

// NewHTTP01 returns the http-01 validator.
func NewHTTP01(c Config) *HTTP01Validator {
	v := &HTTP01Validator{prover: newProver(c)}
	v.buffers.New = func() any { return bufio.NewReaderSize(nil, bufferSize) }
	return v
}

// Type returns "http-01".
func (v *HTTP01Validator) Type() Type { return HTTP01 }

// Supports reports whether id is a DNS name without wildcard, or an address.
func (v *HTTP01Validator) Supports(id pki.Identifier) bool { return isHost(id) }

// Validate fetches the file and compares it. Redirects 301, 302, 307 and 308
// are followed up to ten times, to http and https on the usual ports, to DNS
// names only; every hop is resolved and filtered like the first. Certificates
// of https hops are not verified: the purpose is to get one.
func (v *HTTP01Validator) Validate(ctx context.Context, req Request) (Proof, error) {
	if err := check(v, req); err != nil {
		return Proof{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, v.cfg.Timeout)
	defer cancel()
	h, err := hostOf(req.Identifier)
	if err != nil {
		return Proof{}, err
	}
	steps, err := v.follow(ctx, h, req)
	if err != nil {
		return Proof{}, &failure{err, steps}
	}
	return v.prove(HTTP01, req, steps), nil
}

// follow fetches from h, and from where it redirects to, until there is a
// response to judge.
func (v *HTTP01Validator) follow(ctx context.Context, h host, req Request) (steps []Step, err error) {
	session := v.cfg.Resolver.Session(dns.Limits{MaxAge: addrMaxAge, Queries: v.cfg.MaxQueries})
	at := location{scheme: "http", host: h, port: v.cfg.HTTP01Port, uri: wellKnown + req.Token}
	var visited []location
	for range maxRedirects + 1 {
		step := Step{URL: at.String(), Hostname: at.host.name, Port: at.port}
		got, err := v.fetch(ctx, session, at, &step)
		steps = append(steps, step)
		if err != nil {
			return steps, err
		}
		if got.next == "" {
			return steps, got.matches(req.KeyAuthorization, step)
		}
		visited = append(visited, at)
		if at, err = v.redirect(at, got.next, h); err != nil {
			return steps, err
		}
		if slices.Contains(visited, at) {
			return steps, fault.New(fault.Connection, "%s redirects in a circle to %s", quoteURL(step.URL), quoteURL(at.String()))
		}
	}
	return steps, fault.New(fault.Connection, "%s: more than %d redirects", quoteURL(steps[0].URL), maxRedirects)
}

// location is one place to fetch from.
type location struct {
	scheme string // "http" or "https"
	host   host
	port   uint16
	uri    string // path and query as sent
}

// standard reports whether the port needs no mention.
func (l location) standard() bool {
	return l.scheme == "http" && l.port == 80 || l.scheme == "https" && l.port == 443
}

// authority returns the Host header (RFC 9110 section 7.2).
func (l location) authority() string {
	name := l.host.name
	if l.host.addr.Is6() {
		name = "[" + name + "]"
	}
	if l.standard() {
		return name
	}
	return name + ":" + strconv.Itoa(int(l.port))
}

func (l location) String() string { return l.scheme + "://" + l.authority() + l.uri }

// response is what one fetch gave.
type response struct {
	status int
	next   string // redirect target, raw
	body   []byte // of status 200, at most maxBody+1 octets
	coding string // Content-Encoding
}

// fetch makes one request.
func (v *HTTP01Validator) fetch(ctx context.Context, s *dns.Session, at location, step *Step) (response, error) {
	conn, err := v.connect(ctx, s, at.host, step)
	if err != nil {
		return response{}, err
	}
	defer v.guard(ctx, conn)()
	if at.scheme == "https" {
		client := tls.Client(conn, &tls.Config{ServerName: sni(at.host), InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		if err := client.HandshakeContext(ctx); err != nil {
			return response{}, fault.Wrap(err, fault.TLS, "%s (%s): the TLS handshake failed", quoteURL(step.URL), step.Used)
		}
		conn = client
	}
	if _, err := io.WriteString(conn, v.request(at)); err != nil {
		return response{}, v.broken(err, step)
	}
	return v.read(conn, step)
}

// sni returns the server name for h: addresses have none (RFC 6066 section 3).
func sni(h host) string {
	if h.addr.IsValid() {
		return ""
	}
	return h.name
}

// request returns the octets to send.
func (v *HTTP01Validator) request(at location) string {
	return "GET " + at.uri + " HTTP/1.1\r\nHost: " + at.authority() + "\r\nUser-Agent: " + v.cfg.UserAgent +
		"\r\nAccept: */*\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"
}

// get is the method that responses are read for.
var get = &http.Request{Method: http.MethodGet}

// read reads one response from conn.
func (v *HTTP01Validator) read(conn net.Conn, step *Step) (response, error) {
	limited := &io.LimitedReader{R: conn, N: maxResponse}
	buf := v.buffers.Get().(*bufio.Reader)
	defer func() { buf.Reset(nil); v.buffers.Put(buf) }()
	buf.Reset(limited)
	got, err := readResponse(buf)
	switch {
	case err == nil:
		return got, nil
	case limited.N <= 0:
		return response{}, fault.Wrap(err, fault.IncorrectResponse, "%s (%s) answers with more than %d octets", quoteURL(step.URL), step.Used, maxResponse)
	default:
		return response{}, v.broken(err, step)
	}
}

// errHTTP marks what is not an HTTP response, rather than a broken connection.
var errHTTP = errors.New("not an HTTP response")

// readResponse reads a response and the body of a 200. It reads no body that
// nobody needs.
func readResponse(r *bufio.Reader) (response, error) {
	for range maxInformative {
		resp, err := http.ReadResponse(r, get)
		if err != nil {
			var ne net.Error
			if errors.As(err, &ne) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return response{}, err
			}
			return response{}, fmt.Errorf("%w: %w", errHTTP, err)
		}
		switch {
		case resp.StatusCode >= 100 && resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols:
			continue
		case isRedirect(resp.StatusCode):
			// An empty Location is no redirect; it is then judged by its status.
			return response{status: resp.StatusCode, next: resp.Header.Get("Location")}, nil
		case resp.StatusCode != http.StatusOK:
			return response{status: resp.StatusCode}, nil
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
		if err != nil {
			return response{}, err
		}
		return response{status: resp.StatusCode, body: body, coding: resp.Header.Get("Content-Encoding")}, nil
	}
	return response{}, fmt.Errorf("%w: only 1xx responses", errHTTP)
}

// isRedirect reports whether a status is followed. 303 asks for another
// resource and 300 for a choice; the CA/Browser Forum's Baseline Requirements
// (3.2.2.4.19) permit neither.
func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// broken is the error of a connection that ended before the response did.
func (v *HTTP01Validator) broken(err error, step *Step) error {
	why := reason(err)
	switch {
	case errors.Is(err, errHTTP):
		return fault.Wrap(err, fault.IncorrectResponse, "%s (%s) does not answer with HTTP/1.1", quoteURL(step.URL), step.Used)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		why = "the connection was closed before the response was complete"
	}
	return fault.Wrap(err, fault.Connection, "%s (%s): %s", quoteURL(step.URL), step.Used, why)
}

// matches compares a final response with the key authorization (RFC 8555
// section 8.3): status 200, the same octets, white space only at the end.
func (r response) matches(want string, step Step) error {
	wrong := func(format string, args ...any) error {
		return fault.New(fault.IncorrectResponse, "%s (%s) "+format, append([]any{quoteURL(step.URL), step.Used}, args...)...)
	}
	switch {
	case r.status != http.StatusOK:
		return wrong("answers with status %d, not 200", r.status)
	case r.coding != "" && !strings.EqualFold(r.coding, "identity"):
		return wrong("sends content coding %s, though none was accepted", quote(r.coding))
	case len(r.body) > maxBody:
		return wrong("answers with more than %d octets", maxBody)
	case string(bytes.TrimRight(r.body, trailingAllowed)) != want:
		return wrong("answers %s, not the key authorization \"%s\"", quote(string(r.body)), want)
	}
	return nil
}

// redirect returns where a Location leads from at, if it may be followed.
func (v *HTTP01Validator) redirect(at location, raw string, identifier host) (location, error) {
	refuse := func(why string) (location, error) {
		return location{}, fault.New(fault.Connection, "%s redirects to %s: %s", quoteURL(at.String()), quoteURL(raw), why)
	}
	if len(raw) > maxLocation {
		return refuse("the target is too long")
	}
	base, err := url.Parse(at.String())
	if err != nil {
		return refuse("the target cannot be parsed")
	}
	u, err := base.Parse(raw)
	if err != nil || u.Opaque != "" || u.Host == "" {
		return refuse("the target is not a URL")
	}
	if u.User != nil {
		return refuse("the target must not have a user name")
	}
	to := location{scheme: u.Scheme, uri: u.RequestURI()}
	switch u.Scheme {
	case "http":
		to.port = v.cfg.HTTP01Port
	case "https":
		to.port = v.cfg.HTTPSPort
	default:
		return refuse("only http and https are followed")
	}
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if to.port = uint16(n); err != nil || to.port != v.cfg.HTTP01Port && to.port != v.cfg.HTTPSPort {
			return refuse(fmt.Sprintf("only ports %d and %d are followed", v.cfg.HTTP01Port, v.cfg.HTTPSPort))
		}
	}
	if !printable(to.uri) {
		return refuse("the target has characters that a URL must escape")
	}
	to.host, err = redirectHost(u.Hostname(), identifier)
	if err != nil {
		return refuse(err.Error())
	}
	return to, nil
}

// redirectHost accepts DNS names; an address only if it is the identifier.
func redirectHost(name string, identifier host) (host, error) {
	if addr, err := netip.ParseAddr(name); err == nil {
		if addr != identifier.addr {
			return host{}, errors.New("the target must be a name, not an address")
		}
		return identifier, nil
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if !isHostName(name) {
		return host{}, errors.New("the target is not a DNS name")
	}
	return host{name: name}, nil
}

// isHostName reports whether name has the form of a host's name: LDH labels,
// the last of which is no number (it would be an address in disguise, such as
// 0x7f.1).
func isHostName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
		last = label
	}
	_, err := strconv.ParseUint(last, 0, 64)
	return err != nil && strings.Trim(last, "0123456789") != ""
}

// printable reports whether s can stand in a request line.
func printable(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}
