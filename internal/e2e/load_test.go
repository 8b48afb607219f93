package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
)

// load is a number of clients that order, and now and then revoke, as fast as
// they can, and keep book of what the server promised them.
type load struct {
	t       testing.TB
	site    *site
	client  *client
	roots   *x509.CertPool
	ctx     context.Context
	workers sync.WaitGroup
	stop    chan struct{}
	names   atomic.Int64
	lost    atomic.Int64 // orders that the server gave up

	mu     sync.Mutex
	issued map[string]promise // by serial
}

// promise is what a client was told last about a certificate.
type promise struct {
	leaf, issuer *x509.Certificate
	revoked      bool
}

// startLoad runs n workers against the process that is up now, and all that
// follow it on the same site.
func startLoad(t testing.TB, p *process, n int) *load {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	l := &load{t: t, site: p.site, client: newClient(t, p), roots: p.site.roots(), ctx: ctx,
		stop: make(chan struct{}), issued: map[string]promise{}}
	for range n {
		l.workers.Go(l.work)
	}
	t.Cleanup(func() { // the test may have failed before finish
		cancel()
		l.workers.Wait()
	})
	return l
}

// work gets one certificate after the other until it is told to stop; the one
// that is under way then must still arrive.
func (l *load) work() {
	for {
		select {
		case <-l.stop:
			return
		default:
		}
		if err := l.one(); err != nil {
			if l.ctx.Err() != nil {
				return
			}
			l.t.Errorf("a client did not get its certificate: %v", err)
			return
		}
	}
}

// one gets one certificate, whatever it takes. Every third is revoked, and
// every fifth comes by an account of its own.
func (l *load) one() (err error) {
	n := l.names.Add(1)
	name := fmt.Sprintf("w%d.load.test", n)
	l.site.resolve(name)
	ctx, cancel := context.WithTimeout(l.ctx, 5*time.Minute)
	defer cancel()
	c := l.client
	if n%5 == 0 {
		if c, err = c.register(ctx, newKey(l.t)); err != nil {
			return err
		}
	}
	leaf, issuer, err := l.obtain(ctx, c, name)
	for errors.Is(err, errLost) && ctx.Err() == nil {
		l.lost.Add(1)
		leaf, issuer, err = l.obtain(ctx, c, name)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := l.note(promise{leaf: leaf, issuer: issuer}); err != nil {
		return err
	}
	if n%3 != 0 {
		return nil
	}
	if err := c.revoke(ctx, leaf.Raw); err != nil {
		return fmt.Errorf("revoke %s: %w", name, err)
	}
	return l.note(promise{leaf: leaf, issuer: issuer, revoked: true})
}

// obtain runs one order from beginning to end and checks the certificate.
func (l *load) obtain(ctx context.Context, c *client, name string) (leaf, issuer *x509.Certificate, err error) {
	key := newKey(l.t)
	csr, err := request(key, name)
	if err != nil {
		return nil, nil, err
	}
	url, o, err := c.order(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	text, err := c.finalize(ctx, url, o, csr)
	if err != nil {
		return nil, nil, err
	}
	first, rest := pem.Decode(text)
	second, _ := pem.Decode(rest)
	if first == nil || second == nil {
		return nil, nil, fmt.Errorf("the chain of %s is not two certificates:\n%s", name, text)
	}
	if leaf, err = x509.ParseCertificate(first.Bytes); err != nil {
		return nil, nil, err
	}
	if issuer, err = x509.ParseCertificate(second.Bytes); err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(issuer)
	if _, err = leaf.Verify(x509.VerifyOptions{Roots: l.roots, Intermediates: pool, DNSName: name}); err != nil {
		return nil, nil, err
	}
	if pub, ok := key.Public().(interface{ Equal(x any) bool }); ok && !pub.Equal(leaf.PublicKey) {
		return nil, nil, fmt.Errorf("the certificate of %s has another key than its request", name)
	}
	return leaf, issuer, nil
}

// note records a promise; no serial may be promised twice.
func (l *load) note(p promise) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	serial := p.leaf.SerialNumber.Text(16)
	if have, ok := l.issued[serial]; ok && !bytes.Equal(have.leaf.Raw, p.leaf.Raw) {
		return fmt.Errorf("serial %s was issued twice", serial)
	}
	l.issued[serial] = p
	return nil
}

// count returns how many certificates have arrived, and how many of them were
// revoked.
func (l *load) count() (issued, revoked int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.issued {
		if p.revoked {
			revoked++
		}
	}
	return len(l.issued), revoked
}

// finish lets the certificates under way arrive and ends the workers.
func (l *load) finish() {
	close(l.stop)
	l.workers.Wait()
}

// keepsPromises asks the responder about every certificate, and the CRL shards
// about every revocation.
func (l *load) keepsPromises() {
	l.t.Helper()
	crls := crlSet{roots: map[string]map[string]bool{}}
	for _, serial := range slices.Sorted(maps.Keys(l.issued)) {
		p := l.issued[serial]
		want := ocsp.Good
		if p.revoked {
			want = ocsp.Revoked
		}
		if got, err := askOCSP(l.ctx, l.client.web, p.leaf, p.issuer); err != nil || got != want {
			l.t.Errorf("OCSP says %d about serial %s, want %d (%v)", got, serial, want, err)
		}
		if len(p.leaf.CRLDistributionPoints) != 1 {
			l.t.Fatalf("serial %s has distribution points %v", serial, p.leaf.CRLDistributionPoints)
		}
		eventually(l.t, 15*time.Second, func() error {
			listed, err := crls.lists(l.ctx, l.client.web, p)
			if err == nil && listed != p.revoked {
				clear(crls.roots) // fetch again: a shard is renewed soon after a revocation
				err = fmt.Errorf("the CRL lists serial %s: %v, want %v", serial, listed, p.revoked)
			}
			return err
		})
	}
}

// askOCSP asks about one certificate and verifies the answer.
func askOCSP(ctx context.Context, web *http.Client, leaf, issuer *x509.Certificate) (int, error) {
	question, err := ocsp.CreateRequest(leaf, issuer, nil)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, "POST", leaf.OCSPServer[0], bytes.NewReader(question))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/ocsp-request")
	resp, err := web.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	answer, err := ocsp.ParseResponseForCert(body, leaf, issuer)
	if err != nil {
		return 0, err
	}
	return answer.Status, nil
}

// crlSet remembers CRLs by their URL.
type crlSet struct{ roots map[string]map[string]bool }

// lists reports whether the certificate's CRL has its serial.
func (s crlSet) lists(ctx context.Context, web *http.Client, p promise) (bool, error) {
	url := p.leaf.CRLDistributionPoints[0]
	if s.roots[url] == nil {
		req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
		if err != nil {
			return false, err
		}
		resp, err := web.Do(req)
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		der, err := io.ReadAll(resp.Body)
		if err != nil {
			return false, err
		}
		crl, err := x509.ParseRevocationList(der)
		if err != nil {
			return false, fmt.Errorf("%s: %w", url, err)
		}
		if err := crl.CheckSignatureFrom(p.issuer); err != nil {
			return false, fmt.Errorf("%s: %w", url, err)
		}
		s.roots[url] = map[string]bool{}
		for _, e := range crl.RevokedCertificateEntries {
			s.roots[url][e.SerialNumber.Text(16)] = true
		}
	}
	return s.roots[url][p.leaf.SerialNumber.Text(16)], nil
}

// chaos returns a random number below n.
func chaos(n int) int {
	var b [4]byte
	_, _ = rand.Read(b[:])
	return int(uint32(b[0])|uint32(b[1])<<8|uint32(b[2])<<16) % n
}

// short cuts a text for a message.
func short(s string) string {
	if first, _, ok := strings.Cut(s, "\n"); ok {
		return first
	}
	return s
}
