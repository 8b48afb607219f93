package server

import (
	"encoding/json/v2"
	"math/rand/v2"
	"time"

	"chancery/internal/acme"
	"chancery/internal/ca"
	"chancery/internal/httpd"
	"chancery/internal/pki"
)

// getRenewalInfo answers GET renewal-info (RFC 9773 section 4). It is not
// signed, and says nothing that the certificate and its status do not.
func (s *Server) getRenewalInfo(r *httpd.Request, a *authority) (*httpd.Reply, error) {
	c, err := s.byCertID(r.Context(), a, r.PathValue("cert"))
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(renewalInfo(a, &c))
	if err != nil {
		return nil, wrap("encode renewal information", err)
	}
	return &httpd.Reply{ContentType: "application/json", Body: body, RetryAfter: spread(s.cfg.RenewalPoll)}, nil
}

// renewalInfo is the window of a certificate; that of a revoked one is past,
// which tells clients to renew now (RFC 9773 section 4.2).
func renewalInfo(a *authority, c *ca.Certificate) acme.RenewalInfo {
	if !c.RevokedAt.IsZero() {
		end := c.RevokedAt.Add(-time.Second)
		return acme.RenewalInfo{SuggestedWindow: acme.Window{Start: acme.At(end.Add(-time.Hour)), End: acme.At(end)}, ExplanationURL: a.ExplanationURL}
	}
	start, end := pki.RenewalWindow(c.NotBefore, c.NotAfter)
	return acme.RenewalInfo{SuggestedWindow: acme.Window{Start: acme.At(start), End: acme.At(end)}}
}

// spread returns d give or take a tenth, so that a fleet does not ask at once.
func spread(d time.Duration) time.Duration {
	return d - d/10 + rand.N(max(d/5, 1))
}
