package server_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/acme/server"
	"chancery/internal/pki"
)

func patterns(t testing.TB, list ...string) []pki.Pattern {
	t.Helper()
	out, err := pki.ParsePatterns(list)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestNamePolicy(t *testing.T) {
	of := map[string]func(server.NamePolicy) option{
		"CA": func(p server.NamePolicy) option { return forCA(func(a *server.CA) { a.Names = p }) },
		"profile": func(p server.NamePolicy) option {
			return forCA(func(a *server.CA) { a.Profiles[0].Names = p })
		},
	}
	for place, with := range of {
		t.Run("of a "+place, func(t *testing.T) {
			rule := server.NamePolicy{Allow: patterns(t, "*.in.test", "10.0.0.0/8"), Deny: patterns(t, "secret.in.test", "*.secret.in.test")}
			c := lite(t, with(rule)).account(t)
			c.order("a.in.test", "*.b.in.test", "10.1.2.3")
			for _, n := range []string{"in.test", "a.test", "secret.in.test", "x.secret.in.test", "*.secret.in.test", "192.0.2.1"} {
				c.post(c.base+"/new-order", map[string]any{"identifiers": ids(n)}).problem(http.StatusBadRequest, "rejectedIdentifier")
			}
			c.post(c.base+"/new-authz", map[string]any{"identifier": ids("in.test")[0]}).problem(http.StatusBadRequest, "rejectedIdentifier")
			empty := lite(t, with(server.NamePolicy{Allow: []pki.Pattern{}})).account(t)
			empty.post(empty.base+"/new-order", map[string]any{"identifiers": ids("a.test")}).problem(http.StatusBadRequest, "rejectedIdentifier")
		})
		t.Run("in the shadow, of a "+place, func(t *testing.T) {
			var log bytes.Buffer
			c := lite(t, with(server.NamePolicy{Deny: patterns(t, "a.test"), Shadow: true}), func(c *server.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) }).account(t)
			c.order("a.test")
			c.order("b.test")
			if text := log.String(); !strings.Contains(text, "identifier policy would refuse") || !strings.Contains(text, "identifier=a.test") || strings.Contains(text, "identifier=b.test") {
				t.Errorf("the log says %s", text)
			}
		})
	}
}

// A policy that was set after an order was made holds when it is issued.
func TestNamePolicyHoldsAtIssuance(t *testing.T) {
	w := lite(t)
	c := w.account(t)
	w.names("a.test")
	o, _ := c.order("a.test")
	if ch := c.solve(c.post(o.Authorizations[0], nil).authz(), challenge.HTTP01); ch.Status != acme.ChallengeValid {
		t.Fatalf("%+v", ch)
	}
	forCA(func(a *server.CA) { a.Names.Deny = patterns(t, "a.test") })(&w.cfg)
	d := c.copy()
	d.via = w.handler(w.replica(t, w.cfg))
	d.post(o.Finalize, map[string]string{"csr": csr(t, nil, "a.test")}).problem(http.StatusBadRequest, "rejectedIdentifier")
}
