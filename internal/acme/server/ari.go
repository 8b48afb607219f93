package server

import (
	"cmp"
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
	info := renewalInfo(a, &c)
	since, explanation, affected, err := s.cfg.Issuer.Explanation(r.Context(), &c, time.Now())
	if err != nil {
		return nil, wrap("explain renewal", err)
	}
	if affected {
		info = renewNow(since, cmp.Or(explanation, a.ExplanationURL))
	}
	body, err := json.Marshal(info)
	if err != nil {
		return nil, wrap("encode renewal information", err)
	}
	return &httpd.Reply{ContentType: "application/json", Body: body, RetryAfter: spread(s.cfg.RenewalPoll)}, nil
}

// renewalInfo is the window of a certificate; that of a revoked one is past.
func renewalInfo(a *authority, c *ca.Certificate) acme.RenewalInfo {
	if !c.RevokedAt.IsZero() {
		return renewNow(c.RevokedAt, a.ExplanationURL)
	}
	start, end := pki.RenewalWindow(c.NotBefore, c.NotAfter)
	return acme.RenewalInfo{SuggestedWindow: acme.Window{Start: acme.At(start), End: acme.At(end)}}
}

// renewNow is a window that lies before an instant, and so in the past, which
// tells clients to renew at once (RFC 9773 section 4.2).
func renewNow(before time.Time, explanation string) acme.RenewalInfo {
	end := before.Add(-time.Second)
	return acme.RenewalInfo{SuggestedWindow: acme.Window{Start: acme.At(end.Add(-time.Hour)), End: acme.At(end)}, ExplanationURL: explanation}
}

// spread returns d give or take a tenth, so that a fleet does not ask at once.
func spread(d time.Duration) time.Duration {
	return d - d/10 + rand.N(max(d/5, 1))
}
