package server_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"chancery/internal/acme"
	"chancery/internal/acme/server"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
)

// bound makes clients whose accounts are bound by one key with a policy.
func (w *world) bound(t testing.TB, accounts int, policy server.EABPolicy) func() (*client, *answer) {
	t.Helper()
	key, secret, err := server.CreateEAB(t.Context(), w.db, w.secret, server.EABSpec{CA: "default", Label: "team", Accounts: accounts, Policy: policy}, "token:ops")
	if err != nil {
		t.Fatal(err)
	}
	return func() (*client, *answer) {
		c := w.client(t)
		eab, err := acme.SignEAB(c.base+"/new-account", key.KID, secret, acme.HS256, c.signer.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		a := c.post(c.base+"/new-account", map[string]any{"externalAccountBinding": json.RawMessage(eab)})
		c.kid = a.Header.Get("Location")
		return c, a
	}
}

func TestEABPolicy(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		order := func(c *client, body map[string]any) *answer { return c.post(c.base+"/new-order", body) }
		t.Run("profiles", func(t *testing.T) {
			c, _ := w.bound(t, 1, server.EABPolicy{Profiles: []string{"short"}})()
			if o, _ := c.order("a.test"); o.Profile != "short" {
				t.Errorf("an order that names none gets %s", o.Profile)
			}
			order(c, map[string]any{"identifiers": ids("a.test"), "profile": "tls"}).problem(http.StatusBadRequest, "invalidProfile")
			order(c, map[string]any{"identifiers": ids("*.a.test")}).problem(http.StatusBadRequest, "rejectedIdentifier") // as "short" has it
			none, _ := w.bound(t, 1, server.EABPolicy{Profiles: []string{}})()
			order(none, map[string]any{"identifiers": ids("a.test")}).problem(http.StatusBadRequest, "invalidProfile")
		})
		t.Run("identifiers", func(t *testing.T) {
			c, _ := w.bound(t, 1, server.EABPolicy{Identifiers: []string{"*.pay.test", "10.0.0.0/8"}})()
			c.order("a.pay.test", "*.b.pay.test", "10.1.2.3")
			p := order(c, map[string]any{"identifiers": ids("a.pay.test", "pay.test", "192.0.2.1")}).problem(http.StatusBadRequest, "rejectedIdentifier")
			if len(p.Subproblems) != 2 {
				t.Errorf("%+v", p)
			}
			c.post(c.base+"/new-authz", map[string]any{"identifier": ids("pay.test")[0]}).problem(http.StatusBadRequest, "rejectedIdentifier")
			none, _ := w.bound(t, 1, server.EABPolicy{Identifiers: []string{}})()
			order(none, map[string]any{"identifiers": ids("a.test")}).problem(http.StatusBadRequest, "rejectedIdentifier")
		})
		t.Run("quota, also of orders at once", func(t *testing.T) {
			c, _ := w.bound(t, 1, server.EABPolicy{OrdersPerDay: 3})()
			made := 0
			names := []string{"a.test", "b.test", "c.test", "d.test", "e.test", "f.test"}
			clients := make([]*client, len(names))
			for i := range clients {
				clients[i] = c.copy()
			}
			for _, code := range atOnce(len(names), func(i int) int {
				return order(clients[i], map[string]any{"identifiers": ids(names[i])}).StatusCode
			}) {
				if code == http.StatusCreated {
					made++
				}
			}
			if made != 3 {
				t.Errorf("%d orders were made, want 3", made)
			}
			order(c, map[string]any{"identifiers": ids("g.test")}).refused()
			d, _ := w.bound(t, 1, server.EABPolicy{})()
			order(d, map[string]any{"identifiers": ids("g.test")}).want(http.StatusCreated)
		})
		t.Run("a key for several accounts is used up by them, in the transaction that makes them", func(t *testing.T) {
			next := w.bound(t, 3, server.EABPolicy{})
			made := 0
			for _, code := range atOnce(6, func(int) int { _, a := next(); return a.StatusCode }) {
				if code == http.StatusCreated {
					made++
				}
			}
			if made != 3 {
				t.Errorf("%d accounts, want 3", made)
			}
			_, a := next()
			a.problem(http.StatusForbidden, "unauthorized")
			list, err := server.ListEAB(t.Context(), w.db.Read(), "", 1000)
			if err != nil || list[len(list)-1].Used != 3 || list[len(list)-1].Accounts != 3 {
				t.Errorf("%+v, %v", list[len(list)-1], err)
			}
		})
		t.Run("the policy holds on other replicas", func(t *testing.T) {
			c, _ := w.bound(t, 1, server.EABPolicy{Identifiers: []string{"only.test"}})()
			d := c.copy()
			d.via = w.handler(w.replica(t, w.cfg))
			order(d, map[string]any{"identifiers": ids("a.test")}).problem(http.StatusBadRequest, "rejectedIdentifier")
		})
	})
}

func TestEABPolicyIsChecked(t *testing.T) {
	w := lite(t)
	for name, spec := range map[string]server.EABSpec{
		"a bad pattern":       {Policy: server.EABPolicy{Identifiers: []string{"a b"}}},
		"an empty profile":    {Policy: server.EABPolicy{Profiles: []string{""}}},
		"a negative quota":    {Policy: server.EABPolicy{OrdersPerDay: -1}},
		"too many patterns":   {Policy: server.EABPolicy{Identifiers: make([]string, 1001)}},
		"a negative count":    {Accounts: -1},
		"an absurdly big one": {Accounts: 1_000_001},
	} {
		if _, _, err := server.CreateEAB(t.Context(), w.db, w.secret, spec, "token:ops"); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestEABSecretCanBePasted makes many secrets: as an argument of a command
// line, none may look like an option.
func TestEABSecretCanBePasted(t *testing.T) {
	w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	for range 400 {
		_, secret, err := server.CreateEAB(t.Context(), w.db, w.secret, server.EABSpec{CA: "default", Label: "team"}, "token:ops")
		if err != nil {
			t.Fatal(err)
		}
		if text := base64.RawURLEncoding.EncodeToString(secret); strings.HasPrefix(text, "-") {
			t.Fatalf("secret %s looks like an option", text)
		}
	}
}
