package server_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"chancery/internal/acme/server"
	"chancery/internal/limit"
	"chancery/internal/pki"
)

// forger returns a client that names c's account and signs with another key.
func (c *client) forger() *client {
	f := *c
	f.signer, f.nonce = newSigner(c.t, pki.P256), ""
	return &f
}

// flood sends n orders at once, each by a connection of its own, and returns the
// answers.
func (c *client) flood(n int) []*answer {
	out := make([]*answer, n)
	var g sync.WaitGroup
	for i := range n {
		each := *c
		each.nonce = ""
		g.Go(func() {
			out[i] = each.post(each.base+"/new-order", map[string]any{"identifiers": ids(fmt.Sprintf("f%d.test", i))})
		})
	}
	g.Wait()
	return out
}

// TestFlood: an account that does not heed Retry-After is refused before its
// signature is checked, well-formed as ever; its renewals pass, others do not
// notice, and nobody can bring an account of somebody else into that state.
func TestFlood(t *testing.T) {
	w := lite(t, limited(t, "orders-per-account", 2, func(s *server.Limits, l *limit.Limiter) { s.OrdersPerAccount = l }))
	c, other := w.account(t), w.account(t)
	cert, _ := c.issue(nil, "renewed.test")
	c.order("last.test")
	newOrder := map[string]any{"identifiers": ids("more.test")}

	c.post(c.base+"/new-order", newOrder).refused()
	for range 50 { // forged requests are no strikes against the account
		f := c.forger()
		if a := f.post(f.base+"/new-order", newOrder); a.StatusCode == http.StatusTooManyRequests {
			t.Fatalf("a forged request is refused as if the account flooded: %s", a.body)
		}
	}
	for _, a := range c.flood(60) {
		a.refused()
	}
	f := c.forger()
	f.post(f.base+"/new-order", newOrder).refused() // a signature that does not verify, and nobody looked

	id, err := pki.CertID(cert)
	if err != nil {
		t.Fatal(err)
	}
	c.orderWith(map[string]any{"identifiers": ids("renewed.test"), "replaces": id})
	c.post(c.kid, nil).want(http.StatusOK) // whatever is no order is looked at as ever
	other.order("other.test")
}

// However many connections an account floods with, it gets about 25 answers a
// second, and none waits for longer than clients do.
func TestFloodIsSlowedDownByItsSize(t *testing.T) {
	for parked, want := range map[int]time.Duration{1: 2 * time.Second, 50: 2 * time.Second, 100: 4 * time.Second, 200: 8 * time.Second, 4000: 8 * time.Second} {
		if got := server.Hold(parked); got != want {
			t.Errorf("%d answers held back: %s, want %s", parked, got, want)
		}
	}
}

// TestReplacesIsExemptFromOpenOrders: the limit of open orders does not keep an
// account from renewing.
func TestReplacesIsExemptFromOpenOrders(t *testing.T) {
	w := lite(t, func(c *server.Config) { c.Limits = &server.Limits{PendingOrders: 1} })
	c := w.account(t)
	cert, _ := c.issue(nil, "renewed.test")
	c.order("open.test")
	c.post(c.base+"/new-order", map[string]any{"identifiers": ids("more.test")}).refused()
	id, err := pki.CertID(cert)
	if err != nil {
		t.Fatal(err)
	}
	c.orderWith(map[string]any{"identifiers": ids("renewed.test"), "replaces": id})
}
