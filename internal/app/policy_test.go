package app_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/config"
	"chancery/internal/db/dbtest"
)

// TestPolicyInForce: our own authority refuses what a policy in force says, by
// every way to it, until the policy is gone; the program's own certificate is
// not kept from it.
func TestPolicyInForce(t *testing.T) {
	cfg := configure(t, dbtest.SQLiteURL(t))
	i := config.DefaultIssuer()
	i.Kind = "local"
	cfg.Issuer = map[string]config.Issuer{"own": i.With("allow_names", []string{"*.test"})}
	in := start(t, cfg)
	ctx := context.Background()
	put := func(query string) {
		t.Helper()
		check(t, in.api.Do(ctx, http.MethodPut, "/policies/the-one", nil, map[string]any{"q": query, "mode": "enforce", "note": "see the wiki"}, nil))
	}
	managed := func(name string, done func(api.Managed) bool) {
		t.Helper()
		m, err := client.Post[api.Managed](ctx, in.api, "/managed", map[string]any{"names": []string{name}, "key_type": "p256"})
		check(t, err)
		eventually(t, name, 30*time.Second, func() bool {
			m, err = client.Get[api.Managed](ctx, in.api, "/managed/"+m.ID, nil)
			return err == nil && done(m)
		})
	}
	refused := func(m api.Managed) bool {
		return strings.Contains(m.Error, "policy the-one refuses this certificate: see the wiki")
	}
	issued := func(m api.Managed) bool { return m.Certificate != "" && m.Error == "" }
	put("key:p256")
	managed("a.test", refused)
	in.stop()
	in = start(t, cfg) // makes a certificate of its own, with such a key, and reads the policies
	managed("b.test", refused)
	put("key:weak")
	managed("c.test", issued)
	put("name:*.test expires:>1d")
	managed("d.test", refused)
	check(t, in.api.Do(ctx, http.MethodDelete, "/policies/the-one", nil, nil, nil))
	managed("e.test", issued)
}
