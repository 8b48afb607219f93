package server_test

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/acme/server"
	"chancery/internal/dns/dnstest"
)

// first returns the first authorization of an order for one name.
func (c *client) first(name string) (z acme.Authorization, authzURL, orderURL string) {
	c.t.Helper()
	o, orderURL := c.order(name)
	return c.post(o.Authorizations[0], nil).want(http.StatusOK).authz(), o.Authorizations[0], orderURL
}

// find returns the challenge of a type.
func find(t testing.TB, z acme.Authorization, typ challenge.Type) acme.Challenge {
	t.Helper()
	for _, ch := range z.Challenges {
		if ch.Type == string(typ) {
			return ch
		}
	}
	t.Fatalf("no %s in %+v", typ, z)
	return acme.Challenge{}
}

func (c *client) keyAuth(ch acme.Challenge) string {
	return acme.KeyAuthorization(ch.Token, c.signer.PublicKey().Thumbprint)
}

func TestChallenges(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		c := w.account(t)
		w.names("fail.test", "twice.test", "slow.test", "caa.test", "two.test")
		t.Run("a failure ends authorization and order, and says why", func(t *testing.T) {
			z, authzURL, orderURL := c.first("fail.test")
			ch := c.post(find(t, z, challenge.HTTP01).URL, map[string]any{}).want(http.StatusOK).challenge()
			if ch.Status != acme.ChallengeInvalid || ch.Error == nil || !strings.HasPrefix(ch.Error.Type, "urn:ietf:params:acme:error:") {
				t.Fatalf("%+v", ch)
			}
			if z := c.post(authzURL, nil).authz(); z.Status != acme.AuthorizationInvalid {
				t.Errorf("%+v", z)
			}
			o := c.post(orderURL, nil).order()
			if o.Status != acme.OrderInvalid || o.Error == nil || len(o.Error.Subproblems) != 1 || o.Error.Subproblems[0].Identifier.Value != "fail.test" {
				t.Errorf("%+v", o)
			}
			again := c.post(ch.URL, map[string]any{}).want(http.StatusOK).challenge()
			if again.Status != acme.ChallengeInvalid {
				t.Errorf("a second response gives %+v", again)
			}
		})
		t.Run("an order is ready at once when its last authorization is valid", func(t *testing.T) {
			o, url := c.order("two.test", "twice.test")
			for i, u := range o.Authorizations {
				c.solve(c.post(u, nil).authz(), challenge.HTTP01)
				want := []acme.OrderStatus{acme.OrderPending, acme.OrderReady}[i]
				if got := c.post(url, nil).order(); got.Status != want {
					t.Errorf("after %d authorizations: %s, want %s", i+1, got.Status, want)
				}
			}
		})
		t.Run("two responses at once are one validation", func(t *testing.T) {
			w.names("once.test")
			z, _, orderURL := c.first("once.test")
			ch := find(t, z, challenge.HTTP01)
			w.publish(ch.Token, c.keyAuth(ch))
			gate := make(chan struct{})
			w.mu.Lock()
			w.hold[ch.Token], w.hits = gate, 0
			w.mu.Unlock()
			results := make(chan acme.Challenge, 4)
			for range 4 {
				d := c.copy()
				go func() { results <- d.post(ch.URL, map[string]any{}).challenge() }()
			}
			close(gate)
			for range 4 {
				if got := <-results; got.Status != acme.ChallengeValid {
					t.Errorf("%+v", got)
				}
			}
			if o := c.post(orderURL, nil).order(); o.Status != acme.OrderReady {
				t.Errorf("%+v: an authorization was counted twice or not at all", o)
			}
		})
		t.Run("two replicas at once count a proof once", func(t *testing.T) {
			w.names("shared.test", "shared2.test")
			o, url := c.order("shared.test", "shared2.test")
			cfg := w.cfg
			cfg.Replica = 0
			d := c.copy()
			d.via = w.handler(w.replica(t, cfg))
			z := c.post(o.Authorizations[0], nil).authz()
			ch := find(t, z, challenge.HTTP01)
			w.publish(ch.Token, c.keyAuth(ch))
			for _, got := range atOnce(4, func(i int) acme.Challenge {
				return []*client{c, d}[i%2].copy().post(ch.URL, map[string]any{}).want(http.StatusOK).challenge()
			}) {
				if got.Status != acme.ChallengeValid {
					t.Errorf("%+v", got)
				}
			}
			if got := c.post(url, nil).order(); got.Status != acme.OrderPending {
				t.Errorf("one of two authorizations made the order %s", got.Status)
			}
		})
		t.Run("CAA that forbids is a failure of the challenge (RFC 8659)", func(t *testing.T) {
			w.dns.Add(`caa.test. 60 IN CAA 0 issue "other.test"`)
			z, _, _ := c.first("caa.test")
			ch := c.solve(z, challenge.HTTP01)
			if ch.Status != acme.ChallengeInvalid || ch.Error.Type != "urn:ietf:params:acme:error:caa" {
				t.Errorf("%+v", ch)
			}
		})
		t.Run("SERVFAIL of CAA is never permission", func(t *testing.T) {
			w.names("servfail.test")
			w.dns.Fail("servfail.test", "CAA", dnstest.Fault{Rcode: mdns.RcodeServerFailure})
			z, _, _ := c.first("servfail.test")
			if ch := c.solve(z, challenge.HTTP01); ch.Status != acme.ChallengeInvalid || ch.Error.Type != "urn:ietf:params:acme:error:dns" {
				t.Errorf("%+v", ch)
			}
		})
		t.Run("an unknown challenge type is denied (step-ca 2026)", func(t *testing.T) {
			z, authzURL, _ := c.first("unknown.test")
			base, _, _ := strings.Cut(find(t, z, challenge.HTTP01).URL, "/http-01")
			for _, typ := range []string{"tls-sni-01", "HTTP-01", "none", "dns-account-01"} {
				c.post(base+"/"+typ, map[string]any{}).problem(http.StatusNotFound, "malformed")
			}
			if z := c.post(authzURL, nil).authz(); z.Status != acme.AuthorizationPending {
				t.Errorf("%+v", z)
			}
		})
		t.Run("the response must be an object", func(t *testing.T) {
			z, _, _ := c.first("object.test")
			for _, bad := range []any{[]int{}, "x", 1, true} {
				c.post(find(t, z, challenge.HTTP01).URL, bad).problem(http.StatusBadRequest, "malformed")
			}
		})
	})
}

func TestSlowValidationAnswersProcessing(t *testing.T) {
	w := lite(t, func(c *server.Config) { c.ChallengeWait = -1 })
	c := w.account(t)
	w.names("slow.test")
	z, authzURL, _ := c.first("slow.test")
	ch := find(t, z, challenge.HTTP01)
	gate := make(chan struct{})
	w.mu.Lock()
	w.hold[ch.Token] = gate
	w.mu.Unlock()
	w.publish(ch.Token, c.keyAuth(ch))
	for _, a := range []*answer{c.post(ch.URL, map[string]any{}), c.post(ch.URL, nil)} {
		if got := a.want(http.StatusOK).challenge(); got.Status != acme.ChallengeProcessing {
			t.Errorf("%+v", got)
		}
		if _, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil {
			t.Errorf("Retry-After %q", a.Header.Get("Retry-After"))
		}
	}
	a := c.post(authzURL, nil)
	if got := find(t, a.authz(), challenge.HTTP01); got.Status != acme.ChallengeProcessing || a.Header.Get("Retry-After") == "" {
		t.Errorf("the authorization shows %+v", got)
	}
	close(gate)
	for deadline := time.Now().Add(10 * time.Second); ; {
		if z := c.post(authzURL, nil).authz(); z.Status == acme.AuthorizationValid {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("never valid")
		}
	}
}

func TestFullValidationQueueIsUnavailable(t *testing.T) {
	w := lite(t, func(c *server.Config) { c.Workers, c.Queue, c.ChallengeWait = 1, 1, -1 })
	c := w.account(t)
	gate := make(chan struct{})
	defer close(gate)
	var last *answer
	for _, name := range []string{"q1.test", "q2.test", "q3.test", "q4.test"} {
		w.names(name)
		z, authzURL, _ := c.first(name)
		ch := find(t, z, challenge.HTTP01)
		w.mu.Lock()
		w.hold[ch.Token] = gate
		w.mu.Unlock()
		if last = c.post(ch.URL, map[string]any{}); last.StatusCode == http.StatusOK {
			continue
		}
		last.problem(http.StatusServiceUnavailable, "serverInternal")
		if n, err := strconv.Atoi(last.Header.Get("Retry-After")); err != nil || n < 1 {
			t.Errorf("Retry-After %q", last.Header.Get("Retry-After"))
		}
		if z := c.post(authzURL, nil).authz(); z.Status != acme.AuthorizationPending {
			t.Errorf("%+v", z)
		}
		return
	}
	t.Error("four validations fit into a worker and a place in the queue")
}

func TestCloseLeavesChallengesPending(t *testing.T) {
	w := lite(t, func(c *server.Config) { c.ChallengeWait = -1 })
	c := w.account(t)
	w.names("close.test")
	z, authzURL, orderURL := c.first("close.test")
	ch := find(t, z, challenge.HTTP01)
	gate := make(chan struct{})
	defer close(gate)
	w.mu.Lock()
	w.hold[ch.Token] = gate
	w.mu.Unlock()
	c.post(ch.URL, map[string]any{}).want(http.StatusOK)
	w.Close()
	if z := c.post(authzURL, nil).authz(); z.Status != acme.AuthorizationPending {
		t.Errorf("%+v", z)
	}
	if o, err := server.GetOrder(context.Background(), w.db.Read(), lastPart(orderURL)); err != nil || o.State != acme.OrderPending {
		t.Errorf("%+v %v", o, err)
	}
	c.post(ch.URL, map[string]any{}).problem(http.StatusServiceUnavailable, "serverInternal")
}
