package server_test

import (
	"net/http"
	"strconv"
	"testing"

	"chancery/internal/acme"
	"chancery/internal/acme/server"
)

// While as many requests are at work as the server takes, nothing new begins,
// and what was begun is finished.
func TestOverloadTurnsAwayTheNew(t *testing.T) {
	w := lite(t, func(c *server.Config) { c.MaxBusy = 1 })
	c := w.account(t)
	o, _ := c.ready("accepted.test")
	entered, leave := w.blockSigner()
	done := make(chan *answer)
	d := c.copy()
	go func() { done <- d.post(o.Finalize, map[string]string{"csr": csr(t, nil, "accepted.test")}) }()
	<-entered
	a := c.post(w.base+"/new-order", map[string]any{"identifiers": []acme.Identifier{{Type: "dns", Value: "late.test"}}})
	a.problem(http.StatusServiceUnavailable, "serverInternal")
	if wait, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || wait < 1 || wait > 5 {
		t.Errorf("Retry-After: %q", a.Header.Get("Retry-After"))
	}
	if a.Header.Get("Replay-Nonce") == "" {
		t.Error("the refusal carries no nonce")
	}
	c.post(o.Authorizations[0], nil).want(http.StatusOK)
	close(leave)
	if got := (<-done).want(http.StatusOK).order(); got.Status != acme.OrderValid {
		t.Errorf("the accepted order is %s", got.Status)
	}
	late, _ := c.order("late.test")
	if late.Status != acme.OrderPending {
		t.Errorf("after the load the order is %s", late.Status)
	}
}
