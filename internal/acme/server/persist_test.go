package server_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/acme/server"
	"chancery/internal/limit"
	"chancery/internal/pki"
)

// persistRecord publishes the dns-persist-01 record of the client's account for
// a domain, with further parameters.
func (c *client) persistRecord(domain, more string) {
	uri := challenge.AccountHashURI(c.base+"/account-hash/", domain, c.signer.PublicKey().Thumbprint, c.kid)
	c.w.dns.Add(fmt.Sprintf("_validation-persist.%s. 60 IN TXT %q", domain, "ca.test; accounturi="+uri+more))
}

// respondTo responds to a challenge of an order's first authorization.
func (c *client) respondTo(o acme.Order, typ challenge.Type) acme.Challenge {
	c.t.Helper()
	z := c.post(o.Authorizations[0], nil).want(http.StatusOK).authz()
	return c.post(find(c.t, z, typ).URL, map[string]any{}).want(http.StatusOK).challenge()
}

// known makes an account that completed dns-persist-01 once.
func (w *world) known(t testing.TB) *client {
	t.Helper()
	c := w.account(t)
	c.persistRecord("first.test", "")
	o, _ := c.order("first.test")
	if ch := c.respondTo(o, challenge.DNSPersist01); ch.Status != acme.ChallengeValid {
		t.Fatalf("%+v", ch)
	}
	return c
}

func TestDNSPersist01(t *testing.T) { // draft-ietf-acme-dns-persist-02
	each(t, func(t *testing.T, w *world) {
		c := w.account(t)
		t.Run("the directory says what a record needs (sections 3.2, 4.1)", func(t *testing.T) {
			var d acme.Directory
			c.get(c.base + "/directory").into(&d)
			if d.Meta.AccountHashPrefix != c.base+"/account-hash/" || !cmp.Equal(d.Meta.IssuerDomainNames, []string{"ca.test"}) {
				t.Errorf("%+v", d.Meta)
			}
		})
		t.Run("the challenge has no token, and stands last (section 3.1)", func(t *testing.T) {
			o, _ := c.order("shape.test")
			z := c.post(o.Authorizations[0], nil).authz()
			if diff := cmp.Diff([]string{"http-01", "dns-01", "tls-alpn-01", "dns-persist-01"}, types(z)); diff != "" {
				t.Error(diff)
			}
			got := find(t, z, challenge.DNSPersist01)
			want := acme.Challenge{Type: "dns-persist-01", URL: got.URL, Status: acme.ChallengePending, IssuerDomainNames: []string{"ca.test"}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
		t.Run("a record authorizes name and wildcard to be issued", func(t *testing.T) {
			c.persistRecord("a.test", "; policy=wildcard")
			o, _ := c.order("*.a.test", "a.test")
			for _, u := range o.Authorizations {
				z := c.post(u, nil).authz()
				if ch := c.post(find(t, z, challenge.DNSPersist01).URL, map[string]any{}).want(http.StatusOK).challenge(); ch.Status != acme.ChallengeValid {
					t.Fatalf("%+v", ch)
				}
			}
			a := c.post(o.Finalize, map[string]string{"csr": csr(t, nil, "*.a.test", "a.test")}).want(http.StatusOK)
			if got := a.order(); got.Status != acme.OrderValid {
				t.Errorf("%s", a.body)
			}
		})
		t.Run("a record without policy=wildcard does not authorize a wildcard (section 5.1)", func(t *testing.T) {
			c.persistRecord("narrow.test", "")
			o, _ := c.order("*.narrow.test")
			ch := c.respondTo(o, challenge.DNSPersist01)
			if ch.Status != acme.ChallengeInvalid || ch.Error.Type != "urn:ietf:params:acme:error:unauthorized" || !strings.Contains(ch.Error.Detail, "policy=wildcard") {
				t.Errorf("%+v", ch)
			}
		})
		t.Run("an authorization ends with persistUntil (section 4.1)", func(t *testing.T) {
			until := time.Now().Add(time.Hour).Truncate(time.Second)
			c.persistRecord("until.test", fmt.Sprintf("; persistUntil=%d", until.Unix()))
			o, _ := c.order("until.test")
			if ch := c.respondTo(o, challenge.DNSPersist01); ch.Status != acme.ChallengeValid {
				t.Fatalf("%+v", ch)
			}
			if z := c.post(o.Authorizations[0], nil).authz(); !z.Expires.Equal(until) {
				t.Errorf("expires %s, want %s", z.Expires, until)
			}
		})
		t.Run("another account's record is no proof (section 4.2)", func(t *testing.T) {
			d := w.account(t)
			o, _ := d.order("a.test")
			if ch := d.respondTo(o, challenge.DNSPersist01); ch.Status != acme.ChallengeInvalid {
				t.Errorf("%+v", ch)
			}
		})
		t.Run("a plain account URL is no proof in draft 02", func(t *testing.T) {
			w.dns.Add(`_validation-persist.plain.test. 60 IN TXT "ca.test; accounturi=` + c.kid + `"`)
			o, _ := c.order("plain.test")
			if ch := c.respondTo(o, challenge.DNSPersist01); ch.Status != acme.ChallengeInvalid || ch.Error.Type != "urn:ietf:params:acme:error:malformed" {
				t.Errorf("%+v", ch)
			}
		})
		t.Run("CAA holds for the method (section 7.7)", func(t *testing.T) {
			c.persistRecord("caa.test", "")
			w.dns.Add(`caa.test. 60 IN CAA 0 issue "ca.test; validationmethods=dns-01"`)
			o, _ := c.order("caa.test")
			if ch := c.respondTo(o, challenge.DNSPersist01); ch.Status != acme.ChallengeInvalid || ch.Error.Type != "urn:ietf:params:acme:error:caa" {
				t.Errorf("%+v", ch)
			}
		})
		t.Run("a record survives key changes, and dies with the account (section 4.2)", func(t *testing.T) {
			d := w.account(t)
			d.persistRecord("rolled.test", "")
			for range 2 {
				next := newSigner(t, pki.P256)
				inner, err := next.KeyChange(d.base+"/key-change", d.kid, d.signer.PublicKey())
				if err != nil {
					t.Fatal(err)
				}
				d.send(d.base+"/key-change", d.sign(d.base+"/key-change", inner)).want(http.StatusOK)
				d.signer = next
			}
			o, _ := d.order("rolled.test")
			if ch := d.respondTo(o, challenge.DNSPersist01); ch.Status != acme.ChallengeValid {
				t.Fatalf("%+v", ch)
			}
			d.post(d.kid, map[string]string{"status": "deactivated"}).want(http.StatusOK)
			d.post(d.base+"/new-order", map[string]any{"identifiers": ids("rolled.test")}).problem(http.StatusUnauthorized, "unauthorized")
		})
	}, offer(challenge.DNSPersist01))
}

func TestDNSPersist01JustInTime(t *testing.T) { // section 4.4
	each(t, func(t *testing.T, w *world) {
		t.Run("an order of a known account is ready at once", func(t *testing.T) {
			c := w.known(t)
			c.persistRecord("a.test", "; policy=wildcard")
			o, _ := c.order("a.test", "*.a.test")
			if o.Status != acme.OrderReady {
				t.Fatalf("the order is %s", o.Status)
			}
			z := c.post(o.Authorizations[0], nil).authz()
			if z.Status != acme.AuthorizationValid || len(z.Challenges) != 1 || z.Challenges[0].Type != "dns-persist-01" || z.Challenges[0].Validated.IsZero() {
				t.Errorf("%+v", z)
			}
			a := c.post(o.Finalize, map[string]string{"csr": csr(t, nil, "a.test", "*.a.test")}).want(http.StatusOK)
			if got := a.order(); got.Status != acme.OrderValid {
				t.Errorf("%s", a.body)
			}
		})
		t.Run("what has no record is pending, next to what has one", func(t *testing.T) {
			c := w.known(t)
			c.persistRecord("b.test", "")
			w.names("c.test")
			o, url := c.order("b.test", "c.test")
			if o.Status != acme.OrderPending {
				t.Fatalf("the order is %s", o.Status)
			}
			c.authorize(o)
			if got := c.post(url, nil).order(); got.Status != acme.OrderReady {
				t.Errorf("the order is %s", got.Status)
			}
		})
		t.Run("pre-authorization is valid at once", func(t *testing.T) {
			c := w.known(t)
			c.persistRecord("pre.test", "")
			z := c.post(c.base+"/new-authz", map[string]any{"identifier": ids("pre.test")[0]}).want(http.StatusCreated).authz()
			if z.Status != acme.AuthorizationValid {
				t.Errorf("%+v", z)
			}
		})
		t.Run("a record that forbids leaves the order pending, not invalid", func(t *testing.T) {
			c := w.known(t)
			c.persistRecord("past.test", "; persistUntil=1000000000")
			c.persistRecord("soon.test", fmt.Sprintf("; persistUntil=%d", time.Now().Add(time.Minute).Unix()))
			c.persistRecord("caa.test", "")
			w.dns.Add(`caa.test. 60 IN CAA 0 issue ";"`)
			for _, n := range []string{"past.test", "soon.test", "caa.test"} {
				o, _ := c.order(n)
				z := c.post(o.Authorizations[0], nil).authz()
				if o.Status != acme.OrderPending || z.Status != acme.AuthorizationPending {
					t.Errorf("%s: order %s, authorization %s", n, o.Status, z.Status)
				}
			}
		})
		t.Run("the first order of an account is pending", func(t *testing.T) {
			c := w.account(t)
			c.persistRecord("new.test", "")
			if o, _ := c.order("new.test"); o.Status != acme.OrderPending {
				t.Errorf("the order is %s", o.Status)
			}
		})
	}, offer(challenge.DNSPersist01))
}

func TestDNSPersist01Config(t *testing.T) {
	t.Run("JustInTimeAll", func(t *testing.T) {
		w := lite(t, offer(challenge.DNSPersist01), forCA(func(a *server.CA) { a.JustInTime = server.JustInTimeAll }))
		c := w.account(t)
		c.persistRecord("a.test", "")
		if o, _ := c.order("a.test"); o.Status != acme.OrderReady {
			t.Errorf("the order is %s", o.Status)
		}
	})
	t.Run("JustInTimeOff", func(t *testing.T) {
		w := lite(t, offer(challenge.DNSPersist01), forCA(func(a *server.CA) { a.JustInTime = server.JustInTimeOff }))
		c := w.known(t)
		c.persistRecord("a.test", "")
		if o, _ := c.order("a.test"); o.Status != acme.OrderPending {
			t.Errorf("the order is %s", o.Status)
		}
	})
	t.Run("LookupsPerName", func(t *testing.T) {
		w := lite(t, limited(t, "lookups-per-name", 1, func(s *server.Limits, l *limit.Limiter) { s.LookupsPerName = l }),
			offer(challenge.DNSPersist01), forCA(func(a *server.CA) { a.JustInTime = server.JustInTimeAll }))
		for i, want := range []acme.OrderStatus{acme.OrderReady, acme.OrderPending} {
			c := w.account(t)
			c.persistRecord("a.test", "")
			if o, _ := c.order("a.test"); o.Status != want {
				t.Errorf("order %d is %s, want %s", i, o.Status, want)
			}
		}
	})
	t.Run("PersistAccountURL", func(t *testing.T) {
		w := lite(t, offer(challenge.DNSPersist01), forCA(func(a *server.CA) { a.PersistAccountURL = true }))
		c := w.account(t)
		w.dns.Add(`_validation-persist.a.test. 60 IN TXT "ca.test; accounturi=` + c.kid + `"`)
		o, _ := c.order("a.test")
		z := c.post(o.Authorizations[0], nil).authz()
		got := find(t, z, challenge.DNSPersist01)
		if !cmp.Equal(got.IssuerDomainNamesOld, []string{"ca.test"}) || got.AccountURI != c.kid || len(got.IssuerDomainNames) != 1 {
			t.Errorf("%+v", got)
		}
		if ch := c.respondTo(o, challenge.DNSPersist01); ch.Status != acme.ChallengeValid {
			t.Errorf("%+v", ch)
		}
	})
	t.Run("Subdomains", func(t *testing.T) { // section 6
		for _, may := range []bool{false, true} {
			w := lite(t, offer(challenge.DNSPersist01), forCA(func(a *server.CA) { a.Subdomains = may }))
			c := w.account(t)
			c.persistRecord("a.test", "; policy=wildcard")
			o, _ := c.order("www.a.test")
			if ch := c.respondTo(o, challenge.DNSPersist01); (ch.Status == acme.ChallengeValid) != may {
				t.Errorf("subdomains %v: %+v", may, ch)
			}
		}
	})
}
