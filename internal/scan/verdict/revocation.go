package verdict

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ocsp"

	"chancery/internal/pki"
)

// Status is what is known of a certificate's revocation.
type Status string

// Statuses.
const (
	StatusGood    Status = "good"
	StatusRevoked Status = "revoked"
	StatusUnknown Status = "unknown" // nobody said, or not credibly
)

// Bounds of what is fetched. A CRL of 64 MB holds about 1.5 million entries.
const (
	maxCRL    = 64 << 20
	maxOCSP   = 64 << 10
	fetchTime = 15 * time.Second
	failedFor = time.Minute // a list that cannot be had is not asked for again before
	ocspSkew  = 5 * time.Minute
)

// Revocation looks up revocations: the stapled response first, which is free;
// then the issuer's CRL, fetched once for all its leaves until it expires;
// OCSP only where there is no CRL. URLs come out of certificates, so it must
// only be asked about chains that are trusted.
type Revocation struct {
	client *http.Client
	fetch  chan struct{} // bounds fetches under way

	mu    sync.Mutex
	lists map[string]*list
}

// list is a CRL, or the attempt to get it.
type list struct {
	ready  chan struct{}
	until  time.Time
	serial map[string]struct{}
	err    error
}

// NewRevocation returns a Revocation that fetches with client, whose transport
// decides how names are resolved.
func NewRevocation(client *http.Client) *Revocation {
	return &Revocation{client: client, fetch: make(chan struct{}, 8), lists: make(map[string]*list)}
}

// Check returns the status of leaf, signed by issuer. The error says why it is
// unknown.
func (r *Revocation) Check(ctx context.Context, leaf, issuer *x509.Certificate, staple []byte, now time.Time) (Status, error) {
	if s, err := readOCSP(staple, leaf, issuer, now); err == nil && s != StatusUnknown {
		return s, nil
	}
	var last error
	for _, u := range leaf.CRLDistributionPoints {
		l, err := r.list(ctx, u, issuer, now)
		if err != nil {
			last = err
			continue
		}
		if _, found := l.serial[string(pki.SerialFromBig(leaf.SerialNumber))]; found {
			return StatusRevoked, nil
		}
		return StatusGood, nil
	}
	if len(leaf.CRLDistributionPoints) == 0 && len(leaf.OCSPServer) > 0 {
		return r.ask(ctx, leaf, issuer, now)
	}
	if last == nil {
		last = errors.New("the certificate names neither a CRL nor a responder")
	}
	return StatusUnknown, last
}

// list returns the CRL at u, from memory while it is current. One caller
// fetches it, the others wait.
func (r *Revocation) list(ctx context.Context, u string, issuer *x509.Certificate, now time.Time) (*list, error) {
	key := u + "\x00" + string(issuer.RawSubjectPublicKeyInfo)
	r.mu.Lock()
	l := r.lists[key]
	mine := l == nil || l.done() && !now.Before(l.until)
	if mine {
		l = &list{ready: make(chan struct{})}
		r.lists[key] = l
	}
	r.mu.Unlock()
	if mine {
		l.load(r.get(ctx, u, http.MethodGet, nil, maxCRL), u, issuer, now)
		close(l.ready)
	}
	select {
	case <-l.ready:
		return l, l.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *list) done() bool {
	select {
	case <-l.ready:
		return true
	default:
		return false
	}
}

// load fills l from a fetched CRL.
func (l *list) load(got fetched, u string, issuer *x509.Certificate, now time.Time) {
	l.until = now.Add(failedFor)
	if l.err = got.err; l.err != nil {
		return
	}
	crl, err := x509.ParseRevocationList(got.body)
	switch {
	case err != nil:
		l.err = fmt.Errorf("read CRL: %w", err)
	case crl.CheckSignatureFrom(issuer) != nil:
		l.err = errors.New("read CRL: not signed by the issuer")
	case !crl.NextUpdate.After(now) || crl.ThisUpdate.After(now.Add(ocspSkew)):
		l.err = errors.New("read CRL: out of its dates")
	case !coversLeaves(crl, u):
		l.err = errors.New("read CRL: it is for other certificates")
	default:
		l.until = crl.NextUpdate
		l.serial = make(map[string]struct{}, len(crl.RevokedCertificateEntries))
		for _, e := range crl.RevokedCertificateEntries {
			l.serial[string(pki.SerialFromBig(e.SerialNumber))] = struct{}{}
		}
	}
}

// coversLeaves reports whether the scope of a CRL that was fetched from u
// holds leaf certificates that name u (RFC 5280 section 5.2.5). A list for
// other reasons, for CAs, indirect or of differences only cannot clear a leaf.
func coversLeaves(crl *x509.RevocationList, u string) bool {
	for _, e := range crl.Extensions {
		switch id := e.Id.String(); {
		case id == "2.5.29.28":
			if !scopeCovers(e.Value, u) {
				return false
			}
		case e.Critical:
			return false // also deltaCRLIndicator
		}
	}
	return true
}

// scopeCovers reads an IssuingDistributionPoint.
func scopeCovers(der []byte, u string) bool {
	var idp, point, full cryptobyte.String
	in := cryptobyte.String(der)
	if !in.ReadASN1(&idp, asn1.SEQUENCE) || !in.Empty() {
		return false
	}
	context := func(n uint8) asn1.Tag { return asn1.Tag(n).ContextSpecific() }
	var has bool
	if !idp.ReadOptionalASN1(&point, &has, context(0).Constructed()) {
		return false
	}
	if has {
		if !point.ReadASN1(&full, context(0).Constructed()) {
			return false
		}
		found := false
		for !full.Empty() {
			var name cryptobyte.String
			var tag asn1.Tag
			if !full.ReadAnyASN1(&name, &tag) {
				return false
			}
			found = found || tag == context(6) && bytes.Equal(name, []byte(u))
		}
		if !found {
			return false
		}
	}
	// onlyContainsUserCerts [1] is fine; whatever else is there restricts.
	var users cryptobyte.String
	return idp.ReadOptionalASN1(&users, &has, context(1)) && idp.Empty()
}

// ask asks the OCSP responder.
func (r *Revocation) ask(ctx context.Context, leaf, issuer *x509.Certificate, now time.Time) (Status, error) {
	request, err := ocsp.CreateRequest(leaf, issuer, nil)
	if err != nil {
		return StatusUnknown, fmt.Errorf("encode OCSP request: %w", err)
	}
	got := r.get(ctx, leaf.OCSPServer[0], http.MethodPost, request, maxOCSP)
	if got.err != nil {
		return StatusUnknown, got.err
	}
	return readOCSP(got.body, leaf, issuer, now)
}

// readOCSP reads a response about leaf. One that is not signed properly, not
// current or about another certificate says nothing.
func readOCSP(der []byte, leaf, issuer *x509.Certificate, now time.Time) (Status, error) {
	if len(der) == 0 || len(der) > maxOCSP {
		return StatusUnknown, errors.New("read OCSP response: empty or too long")
	}
	resp, err := ocsp.ParseResponseForCert(der, leaf, issuer)
	if err != nil {
		return StatusUnknown, fmt.Errorf("read OCSP response: %w", err)
	}
	if resp.ThisUpdate.After(now.Add(ocspSkew)) || !resp.NextUpdate.IsZero() && resp.NextUpdate.Before(now) {
		return StatusUnknown, errors.New("read OCSP response: out of its dates")
	}
	switch resp.Status {
	case ocsp.Good:
		return StatusGood, nil
	case ocsp.Revoked:
		return StatusRevoked, nil
	}
	return StatusUnknown, nil
}

// fetched is what a URL gave.
type fetched struct {
	body []byte
	err  error
}

// get fetches u, within bounds.
func (r *Revocation) get(ctx context.Context, u, method string, body []byte, limit int64) fetched {
	parsed, err := url.Parse(u)
	if err != nil || !slices.Contains([]string{"http", "https"}, parsed.Scheme) {
		return fetched{err: errors.New("fetch status: not an HTTP address")}
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	select {
	case r.fetch <- struct{}{}:
		defer func() { <-r.fetch }()
	case <-ctx.Done():
		return fetched{err: ctx.Err()}
	}
	req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body))
	if err != nil {
		return fetched{err: fmt.Errorf("fetch status: %w", err)}
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/ocsp-request")
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return fetched{err: fmt.Errorf("fetch status: %w", err)}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fetched{err: fmt.Errorf("fetch status: HTTP %d", resp.StatusCode)}
	}
	out, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(out)) > limit {
		err = errors.New("too long")
	}
	if err != nil {
		return fetched{err: fmt.Errorf("fetch status: %w", err)}
	}
	return fetched{body: out}
}
