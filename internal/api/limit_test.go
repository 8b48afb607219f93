package api_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/db"
	"chancery/internal/fault"
)

func TestLimitOverrides(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		limits, _, err := client.List[api.Limit](ctx, w.viewer, "/acme/limits", nil, 0)
		if err != nil || len(limits) != 8 || limits[0].Name != "accounts-per-ip" || limits[0].By != "address" || limits[0].Rate != "50 per 3h" {
			t.Fatal(limits, err)
		}
		account := db.NewID(now())
		check(t, w.db.Write(ctx, func(tx *db.Tx) error { tx.Queue(insertAccount, nil, account, "thumb", now()); return nil }))
		put := func(limit string, body map[string]any) (o api.Override, err error) {
			err = w.admin.Do(ctx, http.MethodPut, "/acme/limits/"+limit+"/override", nil, body, &o)
			return o, err
		}
		for _, c := range []struct{ limit, key, rate, stored string }{
			{"orders-per-account", account, "9000 per 1h burst 500", account},
			{"certificates-per-domain", "www.example.co.uk", "unlimited", "example.co.uk"},
			{"accounts-per-ip", "2001:db8::1", "denied", "2001:db8::/64"},
		} {
			o, err := put(c.limit, map[string]any{"key": c.key, "rate": c.rate, "note": "ticket 7", "expires": "7d"})
			if err != nil || o.Key != c.stored || o.Rate != c.rate || o.Note != "ticket 7" || o.ExpiresAt == nil || o.ExpiresAt.Sub(o.CreatedAt) < 7*24*time.Hour-time.Minute {
				t.Errorf("%s: %+v, %v", c.limit, o, err)
			}
		}
		if _, err := put("accounts-per-ip", map[string]any{"key": "2001:db8::2", "rate": "1 per 1h"}); err != nil { // the same network
			t.Error(err)
		}
		var got []string
		for page, err := range client.Pages[api.Override](ctx, w.viewer, "/acme/limits/overrides", nil, 1) {
			check(t, err)
			for _, o := range page.Items {
				got = append(got, o.Limit+" "+o.Key+" "+o.Rate)
			}
		}
		want := "accounts-per-ip 2001:db8::/64 1 per 1h\ncertificates-per-domain example.co.uk unlimited\norders-per-account " + account + " 9000 per 1h burst 500"
		if text := strings.Join(got, "\n"); text != want {
			t.Errorf("%s\nwant\n%s", text, want)
		}
		drop := func(key string) error {
			return w.admin.Do(ctx, http.MethodDelete, "/acme/limits/accounts-per-ip/override", url.Values{"key": {key}}, nil, nil)
		}
		check(t, drop("2001:db8::/64"))
		if err := drop("2001:db8::/64"); !fault.Is(err, fault.NotFound) {
			t.Error(err)
		}
		for name, body := range map[string]map[string]any{
			"an unknown account": {"key": "nobody", "rate": "1 per 1h"},
			"no rate":            {"key": account, "rate": "many"},
			"a negative rate":    {"key": account, "rate": "-1 per 1h"},
			"no period":          {"key": account, "rate": "1 per 1h", "expires": "soon"},
			"no key":             {"key": "", "rate": "1 per 1h"},
		} {
			if _, err := put("orders-per-account", body); !fault.Is(err, fault.Invalid) && !fault.Is(err, fault.NotFound) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := put("nope", map[string]any{"key": "x", "rate": "1 per 1h"}); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "accounts-per-ip") {
			t.Error(err)
		}
	})
}
