package server_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/acme/server"
	"chancery/internal/db"
	"chancery/internal/pki"
)

func TestNewOrder(t *testing.T) {
	w := lite(t, func(c *server.Config) { c.MaxNames = 5 }, forCA(func(a *server.CA) {
		a.Profiles[0].Excluded = []string{"internal"}
		a.Profiles[1].Permitted = []string{"Corp.Example."}
	}))
	c := w.account(t)
	url := c.base + "/new-order"

	t.Run("names are lower-cased, sorted and taken once", func(t *testing.T) {
		o, _ := c.order("B.test", "a.test", "b.test")
		if diff := cmp.Diff([]pki.Identifier{{Type: "dns", Value: "a.test"}, {Type: "dns", Value: "b.test"}}, o.Identifiers); diff != "" {
			t.Error(diff)
		}
		if o.Status != acme.OrderPending || len(o.Authorizations) != 2 || o.Profile != "tls" || o.Expires.IsZero() {
			t.Errorf("%+v", o)
		}
	})
	t.Run("the same order is not made twice", func(t *testing.T) {
		_, first := c.order("same.test")
		if _, again := c.order("same.test"); again != first {
			t.Errorf("%s, want %s", again, first)
		}
		if _, other := c.orderWith(map[string]any{"identifiers": ids("same.test"), "profile": "tls", "notAfter": soon()}); other == first {
			t.Error("an order with another period is the same order")
		}
		if _, other := w.account(t).order("same.test"); other == first {
			t.Error("another account got the order")
		}
	})
	for _, tc := range []struct {
		name, problem string
		status        int
		body          map[string]any
	}{
		{"no identifier", "malformed", 400, map[string]any{}},
		{"an empty list", "malformed", 400, map[string]any{"identifiers": ids()}},
		{"more than the most", "malformed", 400, map[string]any{"identifiers": ids("1.test", "2.test", "3.test", "4.test", "5.test", "6.test")}},
		{"an unknown type (RFC 8555 section 7.4)", "unsupportedIdentifier", 400, map[string]any{"identifiers": []map[string]string{{"type": "uri", "value": "a@b.test"}}}},
		{"an address as a name (RFC 8738)", "rejectedIdentifier", 400, map[string]any{"identifiers": []map[string]string{{"type": "dns", "value": "192.0.2.1"}}}},
		{"a malformed name", "malformed", 400, map[string]any{"identifiers": ids("a..test")}},
		{"a wildcard in the middle", "malformed", 400, map[string]any{"identifiers": ids("a.*.test")}},
		{"an excluded suffix", "rejectedIdentifier", 400, map[string]any{"identifiers": ids("host.internal")}},
		{"an excluded suffix below a wildcard", "rejectedIdentifier", 400, map[string]any{"identifiers": ids("*.host.internal")}},
		{"a name outside of the permitted suffixes", "rejectedIdentifier", 400, map[string]any{"identifiers": ids("evilcorp.example"), "profile": "short"}},
		{"a wildcard that the profile does not allow", "rejectedIdentifier", 400, map[string]any{"identifiers": ids("*.corp.example"), "profile": "short"}},
		{"an unknown profile (profiles draft)", "invalidProfile", 400, map[string]any{"identifiers": ids("a.test"), "profile": "nope"}},
		{"notAfter in the past", "malformed", 400, map[string]any{"identifiers": ids("a.test"), "notAfter": "2020-01-01T00:00:00Z"}},
		{"notAfter beyond the profile", "malformed", 400, map[string]any{"identifiers": ids("a.test"), "notAfter": "2999-01-01T00:00:00Z"}},
		{"notBefore after notAfter", "malformed", 400, map[string]any{"identifiers": ids("a.test"), "notBefore": time.Now().Add(time.Hour), "notAfter": time.Now().Add(time.Minute)}},
		{"auto-renewal, which is not offered (RFC 8739)", "malformed", 400, map[string]any{"identifiers": ids("a.test"), "auto-renewal": map[string]any{"end-date": soon(), "lifetime": 3600}}},
		{"delegation, which is not offered (RFC 9115)", "malformed", 400, map[string]any{"identifiers": ids("a.test"), "delegation": "https://x.test"}},
		{"replaces that is no certificate id (RFC 9773)", "malformed", 400, map[string]any{"identifiers": ids("a.test"), "replaces": "nope"}},
		{"replaces of an unknown certificate", "malformed", 400, map[string]any{"identifiers": ids("a.test"), "replaces": "AAAA.AQID"}},
		{"members of the wrong type", "malformed", 400, map[string]any{"identifiers": "a.test"}},
	} {
		t.Run("refused: "+tc.name, func(t *testing.T) { c.post(url, tc.body).problem(tc.status, tc.problem) })
	}
	t.Run("permitted suffixes match whole labels", func(t *testing.T) {
		for _, n := range []string{"corp.example", "a.CORP.example"} {
			if o, _ := c.orderWith(map[string]any{"identifiers": ids(n), "profile": "short"}); o.Profile != "short" {
				t.Errorf("%+v", o)
			}
		}
	})
	t.Run("each refused name is a subproblem (RFC 8555 section 6.7.1)", func(t *testing.T) {
		p := c.post(url, map[string]any{"identifiers": ids("ok.test", "a.internal", "b..test")}).problem(400, "compound")
		if len(p.Subproblems) != 2 || p.Subproblems[0].Identifier.Value != "a.internal" || p.Subproblems[1].Identifier.Value != "b..test" {
			t.Errorf("%+v", p)
		}
	})
	t.Run("a payload is needed", func(t *testing.T) { c.post(url, nil).problem(400, "malformed") })
}

func TestEmptyListsAllowNothing(t *testing.T) { // OpenBao 2024: an empty allow-list meant all
	w := lite(t)
	build := func(change func(p *server.Profile)) error {
		cfg := w.cfg
		a := cfg.CAs["default"]
		a.Profiles = append([]server.Profile(nil), a.Profiles...)
		p := *a.Profiles[0].Profile
		a.Profiles[0].Profile = &p
		change(&a.Profiles[0])
		cfg.CAs = map[string]server.CA{"default": a}
		s, err := server.New(cfg)
		if err == nil {
			s.Close()
		}
		return err
	}
	for name, change := range map[string]func(*server.Profile){
		"challenges":        func(p *server.Profile) { p.Challenges = nil },
		"identifier types":  func(p *server.Profile) { p.Identifiers = nil },
		"unknown challenge": func(p *server.Profile) { p.Challenges = []challenge.Type{"tls-sni-01"} },
	} {
		if err := build(change); err == nil {
			t.Errorf("%s: a profile that cannot be honoured is accepted", name)
		}
	}
	t.Run("permitted suffixes", func(t *testing.T) {
		w := lite(t, forCA(func(a *server.CA) { a.Profiles[0].Permitted = []string{} }))
		c := w.account(t)
		c.post(c.base+"/new-order", map[string]any{"identifiers": ids("a.test")}).problem(400, "rejectedIdentifier")
	})
}

func TestOrderList(t *testing.T) {
	w := lite(t)
	c := w.account(t)
	var want []string
	for i := range 103 {
		_, url := c.order(fmt.Sprintf("n%d.test", i))
		want = append(want, url)
	}
	var got []string
	pages := 0
	for url := c.kid + "/orders"; url != ""; pages++ {
		a := c.post(url, nil).want(http.StatusOK)
		var l acme.OrderList
		a.into(&l)
		got = append(got, l.Orders...)
		if url = strings.Join(a.links("next"), ""); url != "" && !strings.Contains(url, "cursor=") {
			t.Fatalf("next is %q", url)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || pages != 2 {
		t.Errorf("%d pages, %s", pages, diff)
	}
	c.post(c.kid+"/orders?cursor=%27", nil).problem(400, "malformed")
}

func TestAuthorizations(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		c := w.account(t)
		w.names("pre.test", "gone.test", "used.test")
		t.Run("pre-authorization (RFC 8555 section 7.4.1)", func(t *testing.T) {
			a := c.post(c.base+"/new-authz", map[string]any{"identifier": ids("pre.test")[0]}).want(http.StatusCreated)
			loc := a.Header.Get("Location")
			c.solve(a.authz(), challenge.HTTP01)
			if z := c.post(loc, nil).want(http.StatusOK).authz(); z.Status != acme.AuthorizationValid || len(z.Challenges) != 1 {
				t.Errorf("%+v, want it valid with the one challenge that proved it", z)
			}
			o, _ := c.order("pre.test")
			if diff := cmp.Diff([]string{loc}, o.Authorizations); diff != "" || o.Status != acme.OrderReady {
				t.Errorf("order %+v: %s", o, diff)
			}
			again := c.post(c.base+"/new-authz", map[string]any{"identifier": ids("pre.test")[0]}).want(http.StatusOK)
			if again.Header.Get("Location") != loc {
				t.Errorf("Location %q, want %q", again.Header.Get("Location"), loc)
			}
			c.post(c.base+"/new-authz", map[string]any{"identifier": ids("*.pre.test")[0]}).problem(400, "malformed")
			c.post(c.base+"/new-authz", map[string]any{"identifier": map[string]string{"type": "dns", "value": "_"}}).problem(400, "malformed")
		})
		t.Run("a wildcard and its base are different rights", func(t *testing.T) {
			o, _ := c.order("*.pre.test")
			if o.Status != acme.OrderPending {
				t.Fatal("the authorization of pre.test was used for *.pre.test")
			}
		})
		t.Run("a method that the profile does not offer does not count", func(t *testing.T) {
			o, _ := c.order("used.test")
			z := c.post(o.Authorizations[0], nil).authz()
			if ch := c.solve(z, challenge.DNS01); ch.Status != acme.ChallengeValid {
				t.Fatalf("%+v", ch)
			}
			if o, _ := c.orderWith(map[string]any{"identifiers": ids("used.test"), "profile": "short"}); o.Status != acme.OrderPending {
				t.Error("a profile of http-01 alone took a proof by dns-01")
			}
		})
		t.Run("deactivation ends the orders that count on it (RFC 8555 section 7.5.2)", func(t *testing.T) {
			first, firstURL := c.ready("gone.test")
			second, secondURL := c.orderWith(map[string]any{"identifiers": ids("gone.test"), "notAfter": soon()})
			if second.Status != acme.OrderReady {
				t.Fatalf("%+v", second)
			}
			if z := c.post(first.Authorizations[0], map[string]string{"status": "deactivated"}).want(http.StatusOK).authz(); z.Status != acme.AuthorizationDeactivated {
				t.Errorf("%+v", z)
			}
			for _, u := range []string{firstURL, secondURL} {
				if o := c.post(u, nil).order(); o.Status != acme.OrderInvalid || o.Error == nil {
					t.Errorf("%+v", o)
				}
			}
			c.post(first.Finalize, map[string]string{"csr": csr(t, nil, "gone.test")}).problem(http.StatusForbidden, "orderNotReady")
			c.post(first.Authorizations[0], map[string]string{"status": "deactivated"}).problem(400, "malformed")
			c.post(first.Authorizations[0], map[string]string{"status": "valid"}).problem(400, "malformed")
			if o, _ := c.order("gone.test"); o.Status != acme.OrderPending {
				t.Error("a deactivated authorization was used again")
			}
		})
	})
}

func TestExpiryIsAState(t *testing.T) {
	w := lite(t)
	c := w.account(t)
	o, url := c.order("late.test")
	w.exec(t, qExpireOrder, lastPart(url), time.Now().Add(-time.Second))
	w.exec(t, qExpireAuthz, lastPart(o.Authorizations[0]), time.Now().Add(-time.Second))
	if got := c.post(url, nil).order(); got.Status != acme.OrderInvalid {
		t.Errorf("expired order is %s", got.Status)
	}
	z := c.post(o.Authorizations[0], nil).authz()
	if z.Status != acme.AuthorizationExpired {
		t.Errorf("expired authorization is %s", z.Status)
	}
	c.post(z.Challenges[0].URL, map[string]any{}).problem(400, "malformed")
	c.post(o.Finalize, map[string]string{"csr": csr(t, nil, "late.test")}).problem(403, "orderNotReady")
	if _, again := c.order("late.test"); again == url {
		t.Error("an expired order was handed out again")
	}
}

var (
	qExpireOrder = db.SQL("servertest.expire_order", `UPDATE acme_order SET expires_at = $2 WHERE id = $1`)
	qExpireAuthz = db.SQL("servertest.expire_authorization", `UPDATE acme_authz SET expires_at = $2 WHERE id = $1`)
)

func TestRetention(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := context.Background()
		c := w.account(t)
		_, certURL := c.issue(nil, "kept.test")
		_, pending := c.order("pending.test")
		later := time.Now().Add(7*24*time.Hour + 29*24*time.Hour)
		if n, err := w.Expire(ctx, later); err != nil || n.Done != 0 {
			t.Fatalf("%+v, %v: deleted within the retention", n, err)
		}
		n, err := w.Expire(ctx, later.Add(30*24*time.Hour))
		if err != nil || n.Done != 4 || n.More {
			t.Errorf("%+v, %v, want two orders and two authorizations deleted", n, err)
		}
		c.post(pending, nil).problem(404, "malformed")
		c.post(certURL, nil).want(http.StatusOK) // the certificate outlives its order
	})
}

func TestAdminOrders(t *testing.T) {
	w := lite(t)
	c := w.account(t)
	ctx := context.Background()
	want := map[string]bool{}
	for i := range 5 {
		_, url := c.order(fmt.Sprintf("a%d.test", i))
		want[lastPart(url)] = true
	}
	after := ""
	for {
		page, err := server.ListOrders(ctx, w.db.Read(), after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, o := range page {
			if !want[o.ID] || o.AccountID != lastPart(c.kid) || len(o.Identifiers) != 1 {
				t.Errorf("%+v", o)
			}
			delete(want, o.ID)
			after = o.ID
		}
	}
	if len(want) != 0 {
		t.Errorf("not listed: %v", want)
	}
	if _, err := server.GetOrder(ctx, w.db.Read(), db.NewID(time.Now())); err == nil {
		t.Error("an order that is not there was found")
	}
}
