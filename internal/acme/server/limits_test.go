package server_test

import (
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"

	"chancery/internal/acme/challenge"
	"chancery/internal/acme/server"
	"chancery/internal/limit"
	"chancery/internal/pki"
)

// limited returns an option with one limit of n per hour in the place that set
// chooses.
func limited(t testing.TB, name string, n int, set func(*server.Limits, *limit.Limiter)) option {
	t.Helper()
	l, err := limit.New(name, limit.Rate{Count: n, Per: time.Hour}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *server.Config) {
		c.Limits = &server.Limits{}
		set(c.Limits, l)
	}
}

// refused checks for the 429 of RFC 8555 section 6.6.
func (a *answer) refused() {
	a.t.Helper()
	a.problem(http.StatusTooManyRequests, "rateLimited")
	if n, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || n < 1 {
		a.t.Errorf("Retry-After %q", a.Header.Get("Retry-After"))
	}
}

func TestLimits(t *testing.T) {
	t.Run("new accounts of one address", func(t *testing.T) {
		w := lite(t, limited(t, "accounts-per-ip", 2, func(s *server.Limits, l *limit.Limiter) { s.AccountsPerIP = l }))
		c := w.account(t)
		w.account(t)
		d := w.client(t)
		d.post(d.base+"/new-account", map[string]any{}).refused()
		c.kid = ""
		c.post(c.base+"/new-account", map[string]any{}).want(http.StatusOK) // finding one's account is free
	})
	t.Run("new accounts of one network", func(t *testing.T) {
		w := lite(t, limited(t, "accounts-per-net", 1, func(s *server.Limits, l *limit.Limiter) { s.AccountsPerNet = l }))
		w.account(t)
		d := w.client(t)
		d.post(d.base+"/new-account", map[string]any{}).refused()
	})
	t.Run("new orders of one account, and renewals exempt", func(t *testing.T) {
		w := lite(t, limited(t, "orders-per-account", 2, func(s *server.Limits, l *limit.Limiter) { s.OrdersPerAccount = l }))
		c := w.account(t)
		cert, _ := c.issue(nil, "a.test")
		c.order("b.test")
		c.order("b.test") // the same order again is none
		c.post(c.base+"/new-order", map[string]any{"identifiers": ids("c.test")}).refused()
		c.post(c.base+"/new-authz", map[string]any{"identifier": ids("c.test")[0]}).refused()
		id, _ := pki.CertID(cert)
		c.orderWith(map[string]any{"identifiers": ids("a.test"), "replaces": id})
		w.account(t).order("c.test")
	})
	t.Run("failed validations of one account for one name", func(t *testing.T) {
		w := lite(t, limited(t, "failures-per-name", 2, func(s *server.Limits, l *limit.Limiter) { s.FailuresPerName = l }))
		c := w.account(t)
		w.names("bad.test")
		for range 2 {
			z, _, _ := c.first("bad.test")
			c.post(find(t, z, challenge.HTTP01).URL, map[string]any{}).want(http.StatusOK)
		}
		z, _, _ := c.first("bad.test")
		c.post(find(t, z, challenge.HTTP01).URL, map[string]any{}).refused()
		d := w.account(t)
		z, _, _ = d.first("bad.test")
		d.solve(z, challenge.HTTP01)
	})
	t.Run("certificates for one set of names, and renewals exempt", func(t *testing.T) {
		w := lite(t, limited(t, "certificates-per-name-set", 1, func(s *server.Limits, l *limit.Limiter) { s.CertificatesPerNameSet = l }))
		c := w.account(t)
		o, _ := c.ready("set.test")
		c.post(o.Finalize, map[string]string{"csr": csr(t, nil, "other.test")}).problem(400, "badCSR") // costs nothing
		got := c.post(o.Finalize, map[string]string{"csr": csr(t, nil, "set.test")}).want(http.StatusOK).order()
		c.post(c.base+"/new-order", map[string]any{"identifiers": ids("set.test")}).refused()
		c.order("set.test", "more.test")
		id, _ := pki.CertID(c.download(got.Certificate))
		o, _ = c.orderWith(map[string]any{"identifiers": ids("set.test"), "replaces": id})
		c.post(o.Finalize, map[string]string{"csr": csr(t, nil, "set.test")}).want(http.StatusOK)
	})
	t.Run("certificates under one registered domain, of all accounts", func(t *testing.T) {
		w := lite(t, limited(t, "certificates-per-domain", 2, func(s *server.Limits, l *limit.Limiter) { s.CertificatesPerDomain = l }))
		w.account(t).issue(nil, "a.example.co.uk")
		c := w.account(t)
		c.issue(nil, "b.example.co.uk", "c.example.co.uk") // one certificate is one
		c.post(c.base+"/new-order", map[string]any{"identifiers": ids("d.example.co.uk")}).refused()
		c.order("other.co.uk")
	})
	t.Run("open orders of one account", func(t *testing.T) {
		w := lite(t, func(c *server.Config) { c.Limits = &server.Limits{PendingOrders: 3} })
		c := w.account(t)
		for i := range 3 {
			c.order(fmt.Sprintf("p%d.test", i))
		}
		c.post(c.base+"/new-order", map[string]any{"identifiers": ids("p3.test")}).refused()
		c.order("p0.test")
		w.account(t).order("p3.test")
	})
	t.Run("the cost of signatures, by the kind of key", func(t *testing.T) {
		w := lite(t, limited(t, "verifications-per-ip", 20, func(s *server.Limits, l *limit.Limiter) { s.VerificationsPerIP = l }))
		c := w.clientWith(t, pki.P384)
		c.register() // 11 of 20
		c.post(c.kid, nil).refused()
		d := w.account(t) // 1 of the 9 that are left
		for range 8 {
			d.post(d.kid, nil).want(http.StatusOK)
		}
		d.post(d.kid, nil).refused()
	})
	t.Run("are on by default", func(t *testing.T) {
		w := lite(t)
		c := w.client(t)
		for i := range 60 {
			c.signer = newSigner(t, pki.P256)
			if a := c.post(c.base+"/new-account", map[string]any{}); i == 59 {
				a.refused()
			}
		}
	})
}
