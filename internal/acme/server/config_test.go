package server_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/acme/server"
	"chancery/internal/ca"
	"chancery/internal/obs"
)

// Every field of the configuration changes something that a client sees.
func TestConfigHasEffect(t *testing.T) {
	t.Run("OrderLifetime and PendingLifetime", func(t *testing.T) {
		w := lite(t, func(c *server.Config) { c.OrderLifetime, c.PendingLifetime = 2*time.Hour, 3*time.Hour })
		c := w.account(t)
		o, _ := c.order("a.test")
		wantIn(t, "order", o.Expires.Time, 2*time.Hour)
		wantIn(t, "authorization", c.post(o.Authorizations[0], nil).authz().Expires.Time, 3*time.Hour)
	})
	t.Run("an order never outlives its pending authorizations", func(t *testing.T) {
		w := lite(t, func(c *server.Config) { c.PendingLifetime = time.Hour })
		o, _ := w.account(t).order("a.test")
		wantIn(t, "order", o.Expires.Time, time.Hour)
	})
	t.Run("AuthorizationLifetime, and that of the CA before it", func(t *testing.T) {
		for want, opts := range map[time.Duration][]option{
			30 * 24 * time.Hour: nil,
			48 * time.Hour:      {func(c *server.Config) { c.AuthorizationLifetime = 48 * time.Hour }},
			time.Hour: {func(c *server.Config) { c.AuthorizationLifetime = 48 * time.Hour },
				forCA(func(a *server.CA) { a.AuthorizationLifetime = time.Hour })},
		} {
			w := lite(t, opts...)
			c := w.account(t)
			o, _ := c.ready("a.test")
			wantIn(t, "valid authorization", c.post(o.Authorizations[0], nil).authz().Expires.Time, want)
			next, _ := c.orderWith(map[string]any{"identifiers": ids("a.test"), "notAfter": soon()})
			wantIn(t, "order on a valid authorization", next.Expires.Time, min(want, 7*24*time.Hour))
		}
	})
	t.Run("Trust", func(t *testing.T) {
		w := lite(t, func(c *server.Config) { c.AuthorizationLifetime = 400 * 24 * time.Hour }, forCA(func(a *server.CA) { a.Trust = ca.PublicWebPKI }))
		c := w.watched(t, w.account(t), nil, w.dns, w.dns, w.dns, w.dns, w.dns)
		o, _ := c.try("a.test")
		wantIn(t, "valid authorization", c.post(o.Authorizations[0], nil).authz().Expires.Time, ca.PublicWebPKI.At(time.Now()).MaxReuse)
	})
	t.Run("MaxBody", func(t *testing.T) {
		w := lite(t, func(c *server.Config) { c.MaxBody = 1000 })
		c := w.account(t)
		c.send(c.kid, make([]byte, 1001)).problem(http.StatusRequestEntityTooLarge, "malformed")
	})
	t.Run("NonceWindow", func(t *testing.T) {
		w := lite(t, func(c *server.Config) { c.NonceWindow = 64 })
		c := w.account(t)
		old := c.sign(c.kid, nil)
		for range 200 {
			c.post(c.kid, nil).want(http.StatusOK)
		}
		c.send(c.kid, old).problem(http.StatusBadRequest, "badNonce")
	})
	t.Run("RenewalPoll", func(t *testing.T) {
		w := lite(t, func(c *server.Config) { c.RenewalPoll = 100 * time.Second })
		c := w.account(t)
		cert, _ := c.issue(nil, "a.test")
		a := c.get(w.base + "/renewal-info/" + certID(t, cert)).want(http.StatusOK)
		if s := a.Header.Get("Retry-After"); len(s) > 3 || s < "100" && len(s) == 3 {
			t.Errorf("Retry-After %q, want about 100", s)
		}
	})
	t.Run("DefaultProfile", func(t *testing.T) {
		w := lite(t, forCA(func(a *server.CA) { a.DefaultProfile = "short" }))
		c := w.account(t)
		if o, _ := c.order("a.test"); o.Profile != "short" {
			t.Errorf("profile %q", o.Profile)
		}
		cert, _ := c.issue(nil, "b.test")
		if life := cert.NotAfter.Sub(cert.NotBefore); life != 6*24*time.Hour-time.Second {
			t.Errorf("the certificate lives %s", life)
		}
	})
	t.Run("ValidationTimeout", func(t *testing.T) {
		w := lite(t, func(c *server.Config) { c.ValidationTimeout = 50 * time.Millisecond })
		c := w.account(t)
		w.names("a.test")
		z, _, _ := c.first("a.test")
		ch := find(t, z, challenge.HTTP01)
		gate := make(chan struct{})
		defer close(gate)
		w.mu.Lock()
		w.hold[ch.Token] = gate
		w.mu.Unlock()
		if got := c.post(ch.URL, map[string]any{}).want(http.StatusOK).challenge(); got.Status != acme.ChallengeInvalid {
			t.Errorf("%+v", got)
		}
	})
	t.Run("FinalizeWait", func(t *testing.T) {
		w := lite(t, func(c *server.Config) { c.FinalizeWait = time.Millisecond })
		c := w.account(t)
		o, _ := c.ready("a.test")
		req := map[string]string{"csr": csr(t, nil, "a.test")}
		entered, leave := w.blockSigner()
		first := make(chan *answer, 1)
		d := c.copy()
		go func() { first <- d.post(o.Finalize, req) }()
		<-entered
		a := c.post(o.Finalize, req).want(http.StatusOK)
		if a.order().Status != acme.OrderProcessing || a.Header.Get("Retry-After") != "1" {
			t.Errorf("while another request issues: %s", a.body)
		}
		close(leave)
		if got := (<-first).want(http.StatusOK).order(); got.Status != acme.OrderValid {
			t.Errorf("%+v", got)
		}
	})
	t.Run("Metrics", func(t *testing.T) {
		m := obs.NewMetrics(obs.Build{})
		w := lite(t, func(c *server.Config) { c.Metrics = m })
		c := w.account(t)
		c.issue(nil, "a.test")
		c.post(c.base+"/new-order", map[string]any{}).problem(http.StatusBadRequest, "malformed")
		got := map[string]float64{}
		families, err := m.Registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() != "certificate_operations_total" {
				continue
			}
			for _, s := range f.GetMetric() {
				var labels []string
				for _, l := range s.GetLabel() {
					labels = append(labels, l.GetValue())
				}
				got[strings.Join(labels, " ")] = s.GetCounter().GetValue()
			}
		}
		for _, want := range []string{"new_account success", "new_order success", "new_order rejected", "validate success", "finalize success"} {
			if got[want] != 1 {
				t.Errorf("%s: %v, want 1", want, got[want])
			}
		}
	})
}

// wantIn checks that an instant is d from now, give or take the test.
func wantIn(t *testing.T, what string, at time.Time, d time.Duration) {
	t.Helper()
	if got := time.Until(at); got > d || got < d-time.Minute {
		t.Errorf("%s expires in %s, want %s", what, got, d)
	}
}
