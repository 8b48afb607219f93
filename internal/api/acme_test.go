package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/db"
	"chancery/internal/fault"
)

// Accounts and orders are made by ACME clients only; these rows stand for theirs.
var (
	insertAccount = db.SQL("apitest.insert_account", `INSERT INTO acme_account (id, ca, thumbprint, jwk, state, contact, created_at, created_ip)
		VALUES ($1, 'default', $2, '{}', 'valid', '["mailto:a@example.test"]', $3, '192.0.2.1')`)
	insertOrder = db.SQL("apitest.insert_order", `INSERT INTO acme_order (id, account_id, ca, state, profile, profile_hash, identifiers, names_hash,
		authz_ids, authz_pending, expires_at, created_at) VALUES ($1, $2, 'default', 'pending', 'tls', 'x', '[{"type":"dns","value":"a.test"}]', 'x', '[]', 1, $3, $4)`)
)

func TestACMEResources(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		var ids []string
		check(t, w.db.Write(ctx, func(tx *db.Tx) error {
			ids = nil
			for i := range 5 {
				id := db.NewID(now())
				ids = append(ids, id)
				tx.Queue(insertAccount, nil, id, fmt.Sprint("thumb", i), now())
				tx.Queue(insertOrder, nil, db.NewID(now()), id, now().AddDate(0, 0, 7), now())
			}
			return nil
		}))
		var accounts []api.Account
		for page, err := range client.Pages[api.Account](ctx, w.viewer, "/acme/accounts", nil, 2) {
			check(t, err)
			accounts = append(accounts, page.Items...)
		}
		if len(accounts) != 5 || accounts[0].ID != ids[0] || accounts[4].Contact[0] != "mailto:a@example.test" || accounts[0].State != "valid" {
			t.Fatal(accounts)
		}
		ended, err := client.Post[api.Account](ctx, w.admin, "/acme/accounts/"+ids[0]+"/deactivate", nil)
		if err != nil || ended.State != "revoked" {
			t.Error(ended, err)
		}
		orders, _, err := client.List[api.Order](ctx, w.viewer, "/acme/orders", nil, 0)
		if err != nil || len(orders) != 5 || orders[0].State != "invalid" || orders[1].State != "pending" || orders[1].Names[0] != "a.test" {
			t.Error(orders, err)
		}
		if one, err := client.Get[api.Order](ctx, w.viewer, "/acme/orders/"+orders[0].ID, nil); err != nil || !strings.Contains(one.Error, "deactivated") {
			t.Error(one, err)
		}
		for _, path := range []string{"/acme/orders/nothing", "/acme/accounts/nothing"} {
			if _, err := client.Get[api.Order](ctx, w.viewer, path, nil); !fault.Is(err, fault.NotFound) {
				t.Error(path, err)
			}
		}
	})
}

func TestEABKeys(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		made, err := client.Post[api.NewEABKey](ctx, w.admin, "/acme/eab", map[string]any{"ca": "default", "label": "team pay", "expires": "7d"})
		check(t, err)
		w.secrets = append(w.secrets, made.Secret)
		if len(made.Secret) != 43 || made.Label != "team pay" || made.ExpiresAt == nil {
			t.Errorf("%+v", made.EABKey)
		}
		var text []byte
		check(t, w.admin.Do(ctx, http.MethodGet, "/acme/eab", nil, nil, &text))
		if !strings.Contains(string(text), made.ID) || strings.Contains(string(text), made.Secret) || strings.Contains(dump(t, w), made.Secret) {
			t.Error("the list or the database shows the secret, or not the key")
		}
		bound, err := client.Post[api.NewEABKey](ctx, w.admin, "/acme/eab", map[string]any{"ca": "default", "label": "bound", "accounts": 3,
			"profiles": []string{"tls"}, "identifiers": []string{"*.pay.test"}, "orders_per_day": 5})
		if err != nil || bound.Accounts != 3 || bound.OrdersPerDay != 5 || len(bound.Profiles) != 1 || len(bound.Identifiers) != 1 {
			t.Errorf("%+v, %v", bound, err)
		}
		if _, err := client.Post[api.NewEABKey](ctx, w.admin, "/acme/eab", map[string]any{"ca": "default", "label": "bad", "identifiers": []string{"a b"}}); !fault.Is(err, fault.Invalid) {
			t.Error(err)
		}
		check(t, w.admin.Do(ctx, http.MethodDelete, "/acme/eab/"+made.ID, nil, nil, nil))
		if err := w.admin.Do(ctx, http.MethodDelete, "/acme/eab/"+made.ID, nil, nil, nil); !fault.Is(err, fault.NotFound) {
			t.Error(err)
		}
		if _, err := client.Post[api.NewEABKey](ctx, w.admin, "/acme/eab", map[string]any{"ca": "other", "label": "x"}); !fault.Is(err, fault.NotFound) {
			t.Errorf("a key for a CA that does not exist: %v", err)
		}
	})
}
