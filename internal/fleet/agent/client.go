package agent

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
	"strings"
	"time"

	"chancery/internal/fault"
	"chancery/internal/fleet"
)

// longestAnswer bounds one exchange; the server holds a question for less.
const longestAnswer = 15 * time.Minute

// trust is what a server is known by: a key, or roots.
type trust struct {
	pin   string
	roots *x509.CertPool // named at enrolment
	more  *x509.CertPool // of the command line
}

// verify decides whether the server that showed a chain for host is ours. A
// pin of its own key is enough. A pin of an issuer in the chain is a root that
// was named by its hash, so everything below is checked as usual.
func (t trust) verify(chain []*x509.Certificate, host string) error {
	if len(chain) == 0 {
		return errors.New("the server showed no certificate")
	}
	if fleet.Pin(chain[0]) == t.pin {
		return nil
	}
	between := x509.NewCertPool()
	pinned := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
		if fleet.Pin(c) == t.pin {
			pinned.AddCert(c)
		}
	}
	for _, roots := range []*x509.CertPool{pinned, t.roots, t.more} {
		if roots == nil {
			continue
		}
		if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: host}); err == nil {
			return nil
		}
	}
	return fmt.Errorf("the server at %s is not the one that the token names: its key is %s; nothing was sent to it", host, fleet.Pin(chain[0]))
}

// config returns the TLS configuration. The library's own check is replaced by
// verify, which is stricter: the system's roots do not count.
func (t trust) config(host string, certs []tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: host, NextProtos: []string{fleet.ALPN, "http/1.1"}, InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error { return t.verify(cs.PeerCertificates, host) },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if len(certs) == 0 {
				return &tls.Certificate{}, nil
			}
			return &certs[0], nil
		},
	}
}

// client posts messages.
type client struct {
	base, agent string
	http        *http.Client
	transport   *http.Transport
}

func newClient(server string, t trust, certs []tls.Certificate, version string) (*client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" {
		return nil, fault.New(fault.Invalid, "%.200q is not the URL of a server; it begins with https://", server)
	}
	tr := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: t.config(u.Hostname(), certs), TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 1, IdleConnTimeout: 90 * time.Second, MaxResponseHeaderBytes: 16 << 10}
	return &client{base: strings.TrimSuffix(server, "/") + fleet.Prefix, agent: "chancery-agent/" + version, transport: tr,
		http: &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

func (c *client) close() { c.transport.CloseIdleConnections() }

// problem is the part of an error answer that matters here.
type problem struct {
	Type   string `json:"type"`
	Detail string `json:"detail"`
}

// post sends a message and reads the answer. A refusal is the *fault.Error
// that the server spoke of.
func (c *client) post(ctx context.Context, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, longestAnswer)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask server: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", c.agent)
	resp, err := c.http.Do(r)
	if err != nil {
		return fault.Wrap(err, fault.Unavailable, "the server cannot be reached").Retry(10 * time.Second)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fault.Wrap(err, fault.Unavailable, "the server's answer was cut off").Retry(10 * time.Second)
	}
	if resp.StatusCode/100 != 2 {
		return refusal(resp.StatusCode, text)
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return nil
}

// maxAnswer bounds an answer: a batch of chains of ML-DSA certificates fits.
const maxAnswer = 16 << 20

func refusal(status int, text []byte) error {
	var p problem
	if json.Unmarshal(text, &p) != nil || p.Detail == "" {
		p.Detail = http.StatusText(status)
	}
	code := fault.Code(strings.TrimPrefix(p.Type, "urn:chancery:error:"))
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		if code == "" || !strings.HasPrefix(p.Type, "urn:chancery:error:") {
			code = fault.Unavailable // a proxy in between: not the server's word
		}
	case http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout:
		code = fault.Unavailable
	}
	return &fault.Error{Code: code, Detail: "the server refused: " + fleet.Clip(p.Detail), HTTPStatus: status}
}
