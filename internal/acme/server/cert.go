package server

import (
	"mime"
	"net/http"
	"strconv"
	"strings"

	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/httpd"
	"chancery/internal/pki"
)

// Media types of certificates (RFC 8555 section 9.1, RFC 5280 section 4.2.2.1).
const (
	typeChain = "application/pem-certificate-chain"
	typeDER   = "application/pkix-cert"
)

// getCertificate answers POST-as-GET of a certificate with its chain (RFC 8555
// section 7.4.2). Other chains have URLs of their own, linked as "alternate".
func (s *Server) getCertificate(m *message) (*httpd.Reply, error) {
	if err := m.postAsGet(); err != nil {
		return nil, err
	}
	id := m.PathValue("id")
	if !db.ValidID(id) {
		return nil, noSuch("certificate")
	}
	c, err := s.delivery(m, id)
	if err != nil {
		return nil, err
	}
	if err := m.mine("certificate", c.AccountID, c.CA); err != nil {
		return nil, err
	}
	return s.chain(m.Request, m.ca, id, &c)
}

// getOpenCertificate answers GET of a certificate, which its order may allow to
// everybody (RFC 9115 section 2.3.5). All others answer alike, whether they are
// there or not.
func (s *Server) getOpenCertificate(r *httpd.Request, a *authority) (*httpd.Reply, error) {
	id := r.PathValue("id")
	if !a.CertificateGet || !db.ValidID(id) {
		return unsigned(r, a)
	}
	c, err := ca.Deliver(r.Context(), s.db.Read(), id)
	if fault.Is(err, fault.NotFound) || err == nil && (c.CA != a.name || !db.ValidID(c.OrderID)) {
		return unsigned(r, a)
	}
	if err != nil {
		return nil, err
	}
	o, err := GetOrder(r.Context(), s.db.Read(), c.OrderID)
	if fault.Is(err, fault.NotFound) || err == nil && !o.Open {
		return unsigned(r, a)
	}
	if err != nil {
		return nil, err
	}
	return s.chain(r, a, id, &c)
}

// chain returns a certificate with the chain that the path names.
func (s *Server) chain(r *httpd.Request, a *authority, id string, c *ca.Delivery) (*httpd.Reply, error) {
	auth := s.cfg.Issuer.Authority(c.AuthorityID)
	if c.State != ca.StateIssued || auth == nil || len(auth.Chains) == 0 {
		return nil, noSuch("certificate")
	}
	which, err := chainNumber(r.PathValue("chain"), len(auth.Chains))
	if err != nil {
		return nil, err
	}
	for i := range auth.Chains {
		if i != which {
			link(r, a.chainURL(id, i), "alternate")
		}
	}
	switch accepted(r.Header.Values("Accept")) {
	case typeChain:
		chain := auth.Chains[which]
		return httpd.Bytes(typeChain, append(pki.AppendCertificate(r.Scratch(pki.PEMLength(c.DER)+len(chain)), c.DER), chain...)), nil
	case typeDER:
		link(r, s.cfg.Issuer.URLs().Issuer(auth), "up")
		return httpd.Bytes(typeDER, c.DER), nil
	}
	e := fault.New(fault.Malformed, "certificates are available as %s and %s", typeChain, typeDER)
	e.HTTPStatus = http.StatusNotAcceptable
	return nil, e
}

// delivery returns the certificate with id, if it may be had by its URL at all.
func (s *Server) delivery(m *message, id string) (ca.Delivery, error) {
	if d := s.recent.take(m.acct.ID, id, m.now); d != nil {
		return *d, nil
	}
	return ca.Deliver(m.ctx, s.db.Read(), id)
}

// chainURL is the URL of a certificate with its i-th chain.
func (a *authority) chainURL(id string, i int) string {
	if i == 0 {
		return a.certURL(id)
	}
	return a.certURL(id) + "/" + strconv.Itoa(i)
}

// chainNumber reads the last part of a chain's URL.
func chainNumber(text string, have int) (int, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n >= have || strconv.Itoa(n) != text {
		return 0, noSuch("certificate chain")
	}
	return n, nil
}

// accepted returns the media type that suits the Accept header: the chain
// unless only something else will do, or "" if nothing does. Weights are not
// ranked: a client that names both types takes the chain.
func accepted(headers []string) string {
	best, named := "", false
	for _, h := range headers {
		for part := range strings.SplitSeq(h, ",") {
			t, params, err := mime.ParseMediaType(strings.TrimSpace(part))
			if err != nil || params["q"] == "0" {
				named = named || err == nil
				continue
			}
			named = true
			switch t {
			case typeChain, "application/*", "*/*":
				return typeChain
			case typeDER:
				best = typeDER
			}
		}
	}
	if !named {
		return typeChain
	}
	return best
}
