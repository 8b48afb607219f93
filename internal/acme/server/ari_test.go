package server_test

import (
	"net/http"
	"testing"
	"time"

	"chancery/internal/acme"
	"chancery/internal/acme/server"
	"chancery/internal/ca"
	"chancery/internal/pki"
)

// TestRenewalInfoInIncident: the window of a certificate that an incident will
// revoke is past before it is revoked, and says why (RFC 9773 section 4.2);
// those of others stay.
func TestRenewalInfoInIncident(t *testing.T) {
	const own = "https://ca.test/incidents/7"
	w := lite(t, forCA(func(a *server.CA) { a.ExplanationURL = "https://ca.test/revoked" }))
	c := w.account(t)
	hit, _ := c.issue(nil, "hit.test")
	other, _ := c.issue(nil, "other.test")
	i, err := w.ca.CreateIncident(t.Context(), ca.IncidentSpec{Name: "wrong", ExplanationURL: own, Selection: ca.Selection{Query: "hit.test"},
		Reason: pki.Superseded, RevokeAt: time.Now().Add(24 * time.Hour), Actor: "test"})
	if err != nil {
		t.Fatal(err)
	}
	for more := true; more; {
		n, err := w.ca.RunIncidents(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		more = n.More
	}
	info := func(id string) (i acme.RenewalInfo) {
		t.Helper()
		c.get(w.base + "/renewal-info/" + id).want(http.StatusOK).into(&i)
		return i
	}
	if got := info(certID(t, hit)); !got.SuggestedWindow.End.Before(time.Now()) || got.ExplanationURL != own {
		t.Errorf("of an affected certificate: %+v", got)
	}
	if got := info(certID(t, other)); !got.SuggestedWindow.End.After(time.Now()) || got.ExplanationURL != "" {
		t.Errorf("of another certificate: %+v", got)
	}
	if err := w.ca.CancelIncident(t.Context(), i.ID, "test"); err != nil {
		t.Fatal(err)
	}
	if got := info(certID(t, hit)); !got.SuggestedWindow.End.After(time.Now()) || got.ExplanationURL != "" {
		t.Errorf("after the incident was cancelled: %+v", got)
	}
}
