package status

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"chancery/internal/ca"
	"chancery/internal/fault"
	"chancery/internal/httpd"
	"chancery/internal/pki"
)

// Media types (RFC 6960 appendix C, RFC 2585).
const (
	typeOCSPRequest  = "application/ocsp-request"
	typeOCSPResponse = "application/ocsp-response"
	typeCRL          = "application/pkix-crl"
	typeCertificate  = "application/pkix-cert"
	typePEM          = "application/pem-certificate-chain"
)

// noCache is for answers that only hold for the moment.
const noCache = "no-cache, no-store, max-age=0"

// Routes registers what certificates point to:
//
//	/ocsp/AUTHORITY[/REQUEST]   OCSP by GET and POST
//	/crl/AUTHORITY/SHARD.crl    a CRL, DER
//	/ca/AUTHORITY.cer           the certificate of an authority, DER
//	/ca/AUTHORITY.pem           the same in PEM
//	/ca/root.pem                the roots of this installation, newest first
func (s *Service) Routes(mux *httpd.Mux) {
	g := mux.Group(httpd.OwnTypes, nil)
	g.HandleRaw("/ocsp/", s.serveOCSP)
	g.HandleRaw("//ocsp/", s.serveOCSP)
	g.Handle("GET /crl/{authority}/{file}", s.serveCRL)
	g.Handle("GET /ca/{file}", s.serveIssuer)
}

// serveOCSP answers one OCSP request.
func (s *Service) serveOCSP(r *httpd.Request) (*httpd.Reply, error) {
	start := time.Now()
	method := getMethod
	if r.Method == http.MethodPost {
		method = postMethod
	}
	reply, res, err := s.ocsp(r)
	s.metrics.observe(method, res, time.Since(start))
	if res <= resultRevoked {
		r.Quiet()
	} else {
		r.Set(slog.String("ocsp_result", resultNames[res]))
	}
	return reply, err
}

func (s *Service) ocsp(r *httpd.Request) (*httpd.Reply, result, error) {
	if !s.loaded.Load() {
		return nil, resultUnavailable, notLoaded()
	}
	sc := s.pool.Get().(*scratch)
	defer s.pool.Put(sc)
	authority, err := sc.read(r)
	if errors.Is(err, pki.ErrOCSPRequest) {
		return plain(pki.OCSPMalformed), resultMalformed, nil
	}
	if err != nil {
		return nil, resultMalformed, err
	}
	a, err := s.answer(r.Context(), authority, sc)
	switch {
	case err == nil:
	case errors.Is(err, errUnknown):
		return plain(pki.OCSPUnauthorized), resultUnauthorized, nil
	case errors.Is(err, errBusy):
		return plain(pki.OCSPTryLater), resultTryLater, nil
	default:
		return nil, resultUnavailable, unavailable(err)
	}
	return s.ocspReply(r, &a), result(a.status), nil
}

// read reads the request into sc.req and returns the authority of the path.
func (sc *scratch) read(r *httpd.Request) (authority string, err error) {
	authority, text := splitTarget(r.Target())
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		err = sc.decodeGET(text)
	case http.MethodPost:
		if err = r.MediaType(typeOCSPRequest); err == nil {
			sc.raw, err = r.ReadBodyMax(pki.MaxOCSPRequest)
		}
	default:
		r.SetHeader("Allow", "GET, HEAD, POST")
		err = fault.New(fault.BadMethod, "an OCSP request is sent with GET or POST (RFC 6960 appendix A)")
	}
	if err != nil {
		return "", err
	}
	return authority, pki.ParseOCSPRequest(sc.raw, &sc.req)
}

// answer finds the answer to sc.req, which must be about certificates of the
// authority in the path.
func (s *Service) answer(ctx context.Context, authority string, sc *scratch) (answer, error) {
	b := s.book(authority)
	if b == nil {
		return answer{}, errUnknown
	}
	for i := range sc.req.Certs {
		if !b.hashes.Match(&sc.req.Certs[i]) {
			return answer{}, errUnknown
		}
	}
	if b.role == ca.RoleRoot && len(*b.gens.Load()) == 0 {
		return answer{}, errUnknown // a root answers by CRL
	}
	if len(sc.req.Certs) > 1 || s.cfg.EchoNonce && sc.req.Nonce != nil {
		return s.live(ctx, b, &sc.req)
	}
	form := bySHA1
	if sc.req.Certs[0].Hash == crypto.SHA256 {
		form = bySHA256
	}
	a, err := s.kept(ctx, b, sc.req.Certs[0].Serial, form, sc)
	if errors.Is(err, errUnknown) && s.cfg.SignUnknown {
		return s.live(ctx, b, &sc.req)
	}
	return a, err
}

// plain is an answer without a signature. Nobody may cache it: it says how
// things are now, and anybody could have made it.
func plain(der string) *httpd.Reply {
	return &httpd.Reply{ContentType: typeOCSPResponse, Body: []byte(der), CacheControl: noCache}
}

// ocspReply dresses a signed answer for HTTP caches (RFC 5019 section 6.2).
func (s *Service) ocspReply(r *httpd.Request, a *answer) *httpd.Reply {
	if a.etag == "" { // made for this client alone
		return &httpd.Reply{ContentType: typeOCSPResponse, Body: a.der, CacheControl: noCache}
	}
	age := max(a.refresh.Sub(s.now()), 0) // a cache that asks again then gets the next answer
	r.SetHeader("Expires", httpd.Date(a.next))
	return &httpd.Reply{ContentType: typeOCSPResponse, Body: a.der, ETag: a.etag, LastModified: a.at,
		CacheControl: "max-age=" + strconv.FormatInt(int64(age/time.Second), 10) + ", public, no-transform, must-revalidate"}
}

// crlMaxAge is how long a cache may keep a CRL: touched ones are made anew at
// once, so this bounds how long a cache hides a revocation.
const crlMaxAge = 10 * time.Minute

// serveCRL answers with the current CRL of a shard.
func (s *Service) serveCRL(r *httpd.Request) (*httpd.Reply, error) {
	if !s.loaded.Load() {
		return nil, notLoaded()
	}
	name, ok := strings.CutSuffix(r.PathValue("file"), ".crl")
	shard, err := strconv.Atoi(name)
	b := s.book(r.PathValue("authority"))
	if b == nil || !ok || err != nil || shard < 0 || shard >= len(b.crls) || strconv.Itoa(shard) != name {
		return nil, fault.New(fault.NotFound, "there is no such CRL")
	}
	p, now := b.crls[shard].published.Load(), s.now()
	if p == nil || !now.Before(p.nextUpdate) {
		return nil, fault.New(fault.Unavailable, "this CRL cannot be had now; try again").Retry(5 * time.Second)
	}
	age := min(crlMaxAge, p.nextUpdate.Sub(now))
	return &httpd.Reply{ContentType: typeCRL, Body: p.der, ETag: p.etag, LastModified: p.thisUpdate,
		CacheControl: "max-age=" + strconv.FormatInt(int64(age/time.Second), 10) + ", public, no-transform, must-revalidate"}, nil
}

// serveIssuer answers with the certificate of an authority.
func (s *Service) serveIssuer(r *httpd.Request) (*httpd.Reply, error) {
	file := r.PathValue("file")
	if file == "root.pem" {
		if roots := s.roots(); roots != nil {
			return static(typePEM, roots), nil
		}
	}
	id, ext, _ := strings.Cut(file, ".")
	a := s.ca.Authority(id)
	switch {
	case a == nil || a.DER == nil || ext != "cer" && ext != "pem":
		return nil, fault.New(fault.NotFound, "there is no such certificate")
	case ext == "pem":
		return static(typePEM, pki.EncodeChain(a.DER)), nil
	}
	return static(typeCertificate, a.DER), nil
}

// roots is the PEM of all active roots, newest first; nil if there are none.
func (s *Service) roots() []byte {
	var ders [][]byte
	for _, a := range s.ca.Authorities() {
		if a.Role == ca.RoleRoot && a.State == ca.Active && a.DER != nil {
			ders = append(ders, a.DER)
		}
	}
	slices.Reverse(ders)
	return pki.EncodeChain(ders...)
}

// static is an answer that hardly ever changes.
func static(contentType string, body []byte) *httpd.Reply {
	return &httpd.Reply{ContentType: contentType, Body: body, ETag: etag(body), CacheControl: "max-age=3600, public"}
}

// etag returns a strong entity tag of a body.
func etag(body []byte) string {
	sum := sha256.Sum256(body)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}
