package server_test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/acme/server"
	"chancery/internal/ca"
)

// below asks for a name whose ancestor the client controls.
func below(name, ancestor string) map[string]string {
	return map[string]string{"type": "dns", "value": name, "ancestorDomain": ancestor}
}

// finish finalizes an order for names and returns it.
func (c *client) finish(o acme.Order, names ...string) acme.Order {
	c.t.Helper()
	return c.post(o.Finalize, map[string]string{"csr": csr(c.t, nil, names...)}).want(http.StatusOK).order()
}

func TestSubdomains(t *testing.T) { // RFC 9444
	allow := forCA(func(a *server.CA) { a.Subdomains = true })
	each(t, func(t *testing.T, w *world) {
		c := w.account(t)
		t.Run("the directory says so (section 4.4)", func(t *testing.T) {
			var d acme.Directory
			c.get(c.base + "/directory").into(&d)
			if !d.Meta.SubdomainAuthAllowed {
				t.Errorf("%+v", d.Meta)
			}
		})
		t.Run("pre-authorization serves many orders (section 4.2)", func(t *testing.T) {
			req := map[string]any{"identifier": map[string]any{"type": "dns", "value": "pre.test", "subdomainAuthAllowed": true}}
			z := c.post(c.base+"/new-authz", req).want(http.StatusCreated).authz()
			if diff := cmp.Diff([]string{"dns-01"}, types(z)); diff != "" || !z.SubdomainAuthAllowed {
				t.Fatalf("%+v %s", z, diff)
			}
			if ch := c.solve(z, challenge.DNS01); ch.Status != acme.ChallengeValid {
				t.Fatalf("%+v", ch)
			}
			for _, n := range []string{"a.pre.test", "b.c.pre.test", "pre.test"} {
				o, _ := c.order(n)
				if o.Status != acme.OrderReady {
					t.Errorf("the order for %s is %s", n, o.Status)
					continue
				}
				if o := c.finish(o, n); o.Status != acme.OrderValid {
					t.Errorf("%+v", o)
				}
			}
			again := c.post(c.base+"/new-authz", req).want(http.StatusOK).authz()
			if again.Status != acme.AuthorizationValid || !again.SubdomainAuthAllowed {
				t.Errorf("%+v", again)
			}
			for _, n := range []string{"*.pre.test", "*.a.pre.test", "otherpre.test"} {
				if o, _ := c.order(n); o.Status != acme.OrderPending {
					t.Errorf("the order for %s is %s", n, o.Status)
				}
			}
			d := w.account(t)
			if o, _ := d.order("a.pre.test"); o.Status != acme.OrderPending {
				t.Error("another account profits")
			}
		})
		t.Run("one challenge for an ancestor serves a whole order (section 4.3)", func(t *testing.T) {
			o, _ := c.orderWith(map[string]any{"identifiers": []map[string]string{
				below("a.b.up.test", "up.test"), below("c.up.test", "up.test"), {"type": "dns", "value": "up.test"}}})
			if len(o.Authorizations) != 1 {
				t.Fatalf("%d authorizations", len(o.Authorizations))
			}
			z := c.post(o.Authorizations[0], nil).authz()
			if z.Identifier.Value != "up.test" || !z.SubdomainAuthAllowed || z.Wildcard {
				t.Errorf("%+v", z)
			}
			if ch := c.solve(z, challenge.DNS01); ch.Status != acme.ChallengeValid {
				t.Fatalf("%+v", ch)
			}
			if o := c.finish(o, "a.b.up.test", "c.up.test", "up.test"); o.Status != acme.OrderValid {
				t.Errorf("%+v", o)
			}
		})
		t.Run("an authorization without the flag does not cover what is below it (section 4.1)", func(t *testing.T) {
			w.names("plain.test")
			c.ready("plain.test")
			o, _ := c.order("a.plain.test")
			z := c.post(o.Authorizations[0], nil).authz()
			if o.Status != acme.OrderPending || z.Identifier.Value != "a.plain.test" || z.SubdomainAuthAllowed {
				t.Errorf("%+v %+v", o, z)
			}
			o, _ = c.orderWith(map[string]any{"identifiers": []map[string]string{below("a.plain.test", "plain.test"), {"type": "dns", "value": "plain.test"}}})
			i := slices.IndexFunc(o.Authorizations, func(u string) bool { return c.post(u, nil).authz().SubdomainAuthAllowed })
			if ch := c.solve(c.post(o.Authorizations[i], nil).authz(), challenge.DNS01); ch.Status != acme.ChallengeValid {
				t.Fatalf("%+v", ch)
			}
			if o := c.finish(o, "a.plain.test", "plain.test"); o.Status != acme.OrderValid {
				t.Errorf("%+v", o)
			}
		})
		t.Run("CAA is checked for the name itself", func(t *testing.T) {
			w.dns.Add(`closed.pre.test. 60 IN CAA 0 issue ";"`)
			o, _ := c.order("closed.pre.test")
			c.post(o.Finalize, map[string]string{"csr": csr(t, nil, "closed.pre.test")}).problem(http.StatusForbidden, "caa")
		})
		t.Run("an ancestor that is none is refused", func(t *testing.T) {
			for _, up := range []string{"other.test", "a.here.test", "x.a.here.test", "ere.test", "*.here.test", "192.0.2.1", "..", "here.test."} {
				c.post(c.base+"/new-order", map[string]any{"identifiers": []map[string]string{below("a.here.test", up)}}).
					problem(http.StatusBadRequest, "malformed")
			}
		})
		t.Run("a public suffix speaks for nobody, and a wildcard for itself", func(t *testing.T) {
			for n, up := range map[string]string{"a.co.uk": "co.uk", "a.test": "test", "*.a.here.test": "here.test"} {
				o, _ := c.orderWith(map[string]any{"identifiers": []map[string]string{below(n, up)}})
				if z := c.post(o.Authorizations[0], nil).authz(); z.SubdomainAuthAllowed || z.Identifier.Value == up {
					t.Errorf("%s: %+v", n, z)
				}
			}
		})
		t.Run("deactivation ends what counts on it", func(t *testing.T) {
			o, url := c.order("late.pre.test")
			c.post(o.Authorizations[0], map[string]string{"status": "deactivated"}).want(http.StatusOK)
			if got := c.post(url, nil).order(); got.Status != acme.OrderInvalid {
				t.Errorf("the order is %s", got.Status)
			}
		})
	}, allow)
}

func TestSubdomainsAreOptIn(t *testing.T) {
	w := lite(t)
	c := w.account(t)
	o, _ := c.orderWith(map[string]any{"identifiers": []map[string]string{below("a.b.test", "b.test")}})
	if z := c.post(o.Authorizations[0], nil).authz(); z.Identifier.Value != "a.b.test" || z.SubdomainAuthAllowed {
		t.Errorf("%+v", z)
	}
	z := c.post(c.base+"/new-authz", map[string]any{"identifier": map[string]any{"type": "dns", "value": "b.test", "subdomainAuthAllowed": true}}).authz()
	if z.SubdomainAuthAllowed || len(z.Challenges) != 3 {
		t.Errorf("%+v", z)
	}
}

// What was authorized while subdomains were allowed does not count once they
// are not.
func TestSubdomainsEndWithThePolicy(t *testing.T) {
	w := lite(t, forCA(func(a *server.CA) { a.Subdomains = true }))
	c := w.account(t)
	o, _ := c.orderWith(map[string]any{"identifiers": []map[string]string{below("a.b.test", "b.test")}})
	if ch := c.solve(c.post(o.Authorizations[0], nil).authz(), challenge.DNS01); ch.Status != acme.ChallengeValid {
		t.Fatalf("%+v", ch)
	}
	forCA(func(a *server.CA) { a.Subdomains = false })(&w.cfg)
	d := c.copy()
	d.via = w.handler(w.replica(t, w.cfg))
	d.post(o.Finalize, map[string]string{"csr": csr(t, nil, "a.b.test")}).problem(http.StatusForbidden, "unauthorized")
	if _, _, err := ca.Check(t.Context(), w.db.Read(), nil, func(f ca.Finding) { t.Error(f) }); err != nil {
		t.Error(err)
	}
}
