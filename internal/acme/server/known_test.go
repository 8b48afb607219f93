package server_test

import (
	"fmt"
	"slices"
	"testing"

	"chancery/internal/acme"
)

// What an account has proved and what it has open is found again, however many
// orders for other names lie between, and after a restart.
func TestWhatStandsIsFound(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		c, n := w.account(t), 0
		made := func() int { n++; return n }
		others := func() {
			for range 5 {
				name := fmt.Sprintf("other%d.test", made())
				if o, _ := c.order(name); o.Status != acme.OrderPending {
					t.Errorf("a new name: %+v", o)
				}
			}
		}
		w.names("proved.test", "deep.proved.test")
		others()
		proved, _ := c.ready("proved.test")
		_, open := c.order("open.test", "open2.test")
		for round := range 2 {
			others()
			if o, _ := c.orderWith(map[string]any{"identifiers": ids("proved.test"), "notAfter": soon()}); o.Status != acme.OrderReady || o.Authorizations[0] != proved.Authorizations[0] {
				t.Errorf("round %d: the authorization was not used again: %+v", round, o)
			}
			if _, url := c.order("open2.test", "open.test"); url != open {
				t.Errorf("round %d: the order for names that have an open one is another: %s, not %s", round, url, open)
			}
			c.via = w.handler(w.replica(t, w.cfg)) // as after a restart
			c.nonce = ""
		}
		for range 5 {
			others()
			if o, _ := c.orderWith(map[string]any{"identifiers": ids("proved.test", fmt.Sprintf("more%d.test", made()))}); !slices.Contains(o.Authorizations, proved.Authorizations[0]) {
				t.Errorf("after a restart the authorization was not used again: %+v", o)
			}
		}
	})
}
