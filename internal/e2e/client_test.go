package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chancery/internal/acme"
	"chancery/internal/fault"
)

// client is an ACME client that never gives up: it retries lost connections,
// answers of 5xx and refused nonces, as a well-made client does, and repeats a
// whole order when the server declares it lost. It is safe for concurrent use.
type client struct {
	web    *http.Client
	signer *acme.Signer
	dir    acme.Directory
	kid    string
	nonces chan string

	tokens  *sync.Map     // http-01: the proof of every token
	retries *atomic.Int64 // requests that were repeated
}

// reply is one answer of the server.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// problem returns the problem document of an answer, or nil for a success.
func (r *reply) problem() *acme.Problem {
	if r.status < 400 {
		return nil
	}
	return acme.ParseProblem(r.header.Get("Content-Type"), r.status, r.body)
}

// newClient makes an account, and answers http-01 challenges for it.
func newClient(t testing.TB, p *process) *client {
	t.Helper()
	c := &client{web: p.site.web(), nonces: make(chan string, 64), tokens: new(sync.Map), retries: new(atomic.Int64)}
	p.site.serveHTTP01(c)
	if err := c.fetch(t.Context(), p.ready.Directory, &c.dir); err != nil {
		t.Fatal(err)
	}
	c, err := c.register(t.Context(), newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// register makes another account, which shares everything else.
func (c *client) register(ctx context.Context, key crypto.Signer) (*client, error) {
	signer, err := acme.NewSigner(key)
	if err != nil {
		return nil, err
	}
	fresh := *c
	fresh.signer, fresh.kid = signer, ""
	r, err := fresh.post(ctx, c.dir.NewAccount, acme.NewAccount{TermsOfServiceAgreed: true}, nil)
	if err != nil {
		return nil, fmt.Errorf("new account: %w", err)
	}
	fresh.kid = r.header.Get("Location")
	return &fresh, nil
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// ServeHTTP answers http-01 challenges.
func (c *client) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	proof, ok := c.tokens.Load(path.Base(r.URL.Path))
	if !ok {
		http.NotFound(w, r)
		return
	}
	_, _ = fmt.Fprint(w, proof)
}

// fetch gets a document without authentication.
func (c *client) fetch(ctx context.Context, url string, into any) error {
	r, err := c.do(ctx, "GET", url, nil)
	if err != nil {
		return err
	}
	if p := r.problem(); p != nil {
		return p
	}
	return json.Unmarshal(r.body, into)
}

// do sends one request, once.
func (c *client) do(ctx context.Context, method, url string, body []byte) (*reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/jose+json")
	}
	return c.send(req)
}

// send sends any request, once, and keeps the nonce of the answer.
func (c *client) send(req *http.Request) (*reply, error) {
	resp, err := c.web.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if nonce := resp.Header.Get("Replay-Nonce"); nonce != "" {
		select {
		case c.nonces <- nonce:
		default:
		}
	}
	return &reply{resp.StatusCode, resp.Header, text}, err
}

// nonce takes one that is at hand, or asks for one.
func (c *client) nonce(ctx context.Context) (string, error) {
	for {
		select {
		case n := <-c.nonces:
			return n, nil
		default:
		}
		r, err := c.do(ctx, "HEAD", c.dir.NewNonce, nil)
		if err != nil {
			return "", err
		}
		if r.status != http.StatusOK || r.header.Get("Replay-Nonce") == "" {
			return "", fmt.Errorf("new-nonce answers %d without a nonce", r.status)
		}
	}
}

// once signs and sends one request, once. A nil payload is POST-as-GET.
func (c *client) once(ctx context.Context, url string, payload any) (*reply, error) {
	return c.signed(ctx, c.signer, c.kid, url, payload)
}

func (c *client) signed(ctx context.Context, signer *acme.Signer, kid, url string, payload any) (*reply, error) {
	nonce, err := c.nonce(ctx)
	if err != nil {
		return nil, err
	}
	var text []byte
	if payload != nil {
		if text, err = json.Marshal(payload); err != nil {
			return nil, err
		}
	}
	body, err := signer.Sign(acme.Header{URL: url, Nonce: nonce, KID: kid}, text)
	if err != nil {
		return nil, err
	}
	return c.do(ctx, "POST", url, body)
}

// post sends a request until the server takes it or refuses it for good, which
// is a *acme.Problem. A success is decoded into "into" unless that is nil.
func (c *client) post(ctx context.Context, url string, payload, into any) (*reply, error) {
	return c.retry(ctx, into, func() (*reply, error) { return c.once(ctx, url, payload) })
}

func (c *client) retry(ctx context.Context, into any, try func() (*reply, error)) (*reply, error) {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 300*time.Millisecond) {
		r, err := try()
		if err == nil {
			p := r.problem()
			switch {
			case p == nil && into == nil:
				return r, nil
			case p == nil:
				return r, json.Unmarshal(r.body, into)
			case p.Code() != fault.BadNonce && p.Status < 500 && p.Status != http.StatusTooManyRequests:
				return r, p
			}
			err = p
			if s, _ := strconv.Atoi(r.header.Get("Retry-After")); s > 0 {
				wait = min(time.Duration(s)*time.Second, 2*time.Second)
			}
		}
		c.retries.Add(1)
		if pause(ctx, wait) != nil {
			return r, fmt.Errorf("gave up: %w", err)
		}
	}
}

// pause waits between two tries, as the protocol asks a client to.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// order makes an order for one name and proves control of it; the order is
// ready to be finalized.
func (c *client) order(ctx context.Context, name string) (url string, o acme.Order, err error) {
	req := acme.NewOrder{Identifiers: []acme.Identifier{{Type: "dns", Value: name}}}
	r, err := c.post(ctx, c.dir.NewOrder, req, &o)
	if err != nil {
		return "", o, fmt.Errorf("new order: %w", err)
	}
	url = r.header.Get("Location")
	for _, a := range o.Authorizations {
		if err := c.authorize(ctx, a); err != nil {
			return url, o, err
		}
	}
	return url, o, c.await(ctx, url, &o, func() bool { return o.Status != acme.OrderPending })
}

// authorize proves control of one name by http-01.
func (c *client) authorize(ctx context.Context, url string) error {
	var a acme.Authorization
	if _, err := c.post(ctx, url, nil, &a); err != nil {
		return fmt.Errorf("get authorization: %w", err)
	}
	for _, ch := range a.Challenges {
		if ch.Type != "http-01" || a.Status != acme.AuthorizationPending {
			continue
		}
		c.tokens.Store(ch.Token, acme.KeyAuthorization(ch.Token, c.signer.PublicKey().Thumbprint))
		if _, err := c.post(ctx, ch.URL, acme.ChallengeResponse{}, nil); err != nil {
			return fmt.Errorf("answer challenge: %w", err)
		}
	}
	err := c.await(ctx, url, &a, func() bool { return a.Status != acme.AuthorizationPending })
	if err == nil && a.Status != acme.AuthorizationValid {
		err = fmt.Errorf("authorization of %s is %s: %+v", a.Identifier.Value, a.Status, a.Challenges)
	}
	return err
}

// await polls a resource until done says so.
func (c *client) await(ctx context.Context, url string, into any, done func() bool) error {
	for {
		if _, err := c.post(ctx, url, nil, into); err != nil {
			return fmt.Errorf("poll %s: %w", url, err)
		}
		if done() {
			return nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("poll %s: %w; last seen: %+v", url, err, into)
		}
	}
}

// errLost means that the server gave the order up; the client starts anew.
var errLost = errors.New("the order became invalid")

// finalize sends the request and returns the certificate's chain.
func (c *client) finalize(ctx context.Context, url string, o acme.Order, csr []byte) (chain []byte, err error) {
	body := acme.Finalize{CSR: base64.RawURLEncoding.EncodeToString(csr)}
	if o.Status == acme.OrderReady {
		_, err = c.post(ctx, o.Finalize, body, &o)
	}
	// A reply that was lost leaves the order processing or valid; finalizing
	// it again is then refused, and the order says more.
	if p, ok := errors.AsType[*acme.Problem](err); err != nil && (!ok || p.Code() != fault.OrderNotReady) {
		return nil, fmt.Errorf("finalize: %w", err)
	}
	if err := c.await(ctx, url, &o, func() bool { return o.Status != acme.OrderProcessing }); err != nil {
		return nil, err
	}
	if o.Status != acme.OrderValid {
		return nil, fmt.Errorf("%w: %s is %s: %v", errLost, url, o.Status, o.Error)
	}
	r, err := c.post(ctx, o.Certificate, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("download: %w", err)
	}
	return r.body, nil
}

// request makes a CSR for one name.
func request(key crypto.Signer, name string) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{name}}, key)
}

// revoke revokes a certificate by its account. That it is revoked already
// counts as success: the reply to an earlier try may have been lost.
func (c *client) revoke(ctx context.Context, der []byte) error {
	reason := 4
	_, err := c.post(ctx, c.dir.RevokeCert, acme.Revocation{Certificate: base64.RawURLEncoding.EncodeToString(der), Reason: &reason}, nil)
	if p, ok := errors.AsType[*acme.Problem](err); ok && p.Code() == fault.AlreadyRevoked {
		return nil
	}
	return err
}
