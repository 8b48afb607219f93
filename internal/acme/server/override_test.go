package server_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"chancery/internal/acme/server"
	"chancery/internal/fault"
	"chancery/internal/limit"
)

// oneAccount returns an option with a limit of its own, each time it is
// applied: one new account of one address per hour.
func oneAccount(t testing.TB) option {
	return func(c *server.Config) {
		limited(t, "accounts-per-ip", 1, func(s *server.Limits, l *limit.Limiter) { s.AccountsPerIP = l })(c)
	}
}

func TestLimitOverrides(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.cfg.Limits = nil // the replica counts for itself
		oneAccount(t)(&w.cfg)
		other := w.replica(t, w.cfg)
		register := func(s *server.Server) *answer {
			c := w.client(t)
			c.via = w.handler(s)
			return c.post(c.base+"/new-account", map[string]any{})
		}
		register(w.Server).want(http.StatusCreated)
		register(w.Server).refused()
		register(other).want(http.StatusCreated)
		now := time.Now()
		ten := server.Override{Limit: "accounts-per-ip", Key: "127.0.0.1", Rate: limit.Rate{Count: 10, Per: time.Hour}, Note: "load test"}
		if _, err := w.PutOverride(t.Context(), ten, "token:ops", now); err != nil {
			t.Fatal(err)
		}
		t.Run("it holds at once where it was made", func(t *testing.T) { register(w.Server).want(http.StatusCreated) })
		t.Run("and on other replicas when they reload", func(t *testing.T) {
			register(other).refused()
			if err := other.ReloadOverrides(t.Context(), now); err != nil {
				t.Fatal(err)
			}
			register(other).want(http.StatusCreated)
		})
		t.Run("a key can be denied", func(t *testing.T) {
			deny := ten
			deny.Rate = limit.Rate{Deny: true}
			if _, err := w.PutOverride(t.Context(), deny, "token:ops", now); err != nil {
				t.Fatal(err)
			}
			register(w.Server).refused()
		})
		t.Run("the list shows it", func(t *testing.T) {
			list, err := server.ListOverrides(t.Context(), w.db.Read(), "", "", 10)
			if err != nil || len(list) != 1 || !list[0].Rate.Deny || list[0].Note != "load test" || list[0].CreatedAt.IsZero() {
				t.Errorf("%+v, %v", list, err)
			}
			if next, err := server.ListOverrides(t.Context(), w.db.Read(), "accounts-per-ip", "127.0.0.1", 10); err != nil || len(next) != 0 {
				t.Errorf("%+v, %v", next, err)
			}
		})
		t.Run("it ends when it expires", func(t *testing.T) {
			free := server.Override{Limit: "accounts-per-ip", Key: "127.0.0.1", ExpiresAt: now.Add(time.Minute)}
			if _, err := w.PutOverride(t.Context(), free, "token:ops", now); err != nil {
				t.Fatal(err)
			}
			for range 20 {
				register(w.Server).want(http.StatusCreated)
			}
			if err := w.ReloadOverrides(t.Context(), now.Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			register(w.Server).want(http.StatusCreated)
			register(w.Server).refused()
		})
		t.Run("and when it is deleted", func(t *testing.T) {
			if _, err := w.PutOverride(t.Context(), ten, "token:ops", now); err != nil {
				t.Fatal(err)
			}
			register(w.Server).want(http.StatusCreated)
			if err := w.DropOverride(t.Context(), ten.Limit, ten.Key, "token:ops", now); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				register(w.Server)
			}
			register(w.Server).refused()
			if err := w.DropOverride(t.Context(), ten.Limit, ten.Key, "token:ops", now); !fault.Is(err, fault.NotFound) {
				t.Error(err)
			}
			wantJournal(t, w, "limit:accounts-per-ip", "limit.override", "limit.override", "limit.override", "limit.override", "limit.restore")
		})
	}, oneAccount(t))
}

func TestLimitOverridesAreChecked(t *testing.T) {
	w := lite(t, oneAccount(t))
	for name, o := range map[string]server.Override{
		"an unknown limit": {Limit: "nope", Key: "x"},
		"no key":           {Limit: "accounts-per-ip"},
		"a long key":       {Limit: "accounts-per-ip", Key: strings.Repeat("x", 513)},
		"a long note":      {Limit: "accounts-per-ip", Key: "x", Note: strings.Repeat("x", 501)},
		"a negative rate":  {Limit: "accounts-per-ip", Key: "x", Rate: limit.Rate{Count: -1, Per: time.Hour}},
		"no period":        {Limit: "accounts-per-ip", Key: "x", Rate: limit.Rate{Count: 1}},
		"part of a ms":     {Limit: "accounts-per-ip", Key: "x", Rate: limit.Rate{Count: 1, Per: time.Microsecond}},
	} {
		if _, err := w.PutOverride(t.Context(), o, "token:ops", time.Now()); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if list := w.Limits().List(); len(list) != 1 || list[0].Name != "accounts-per-ip" || list[0].By != "address" || list[0].Rate.Count != 1 {
		t.Errorf("%+v", list)
	}
}

// An override holds for the key that the limit counts by, whatever a person
// writes for it; what can never be counted is refused.
func TestLimitOverrideKeys(t *testing.T) {
	w := lite(t, func(c *server.Config) { c.Limits = server.DefaultLimits() })
	a := w.account(t)
	id := a.kid[strings.LastIndexByte(a.kid, '/')+1:]
	for _, c := range []struct{ limit, text, want string }{
		{"accounts-per-ip", "192.0.2.7", "192.0.2.7"},
		{"accounts-per-ip", "::ffff:192.0.2.7", "192.0.2.7"},
		{"accounts-per-ip", "192.0.2.7/32", "192.0.2.7"},
		{"accounts-per-ip", "192.0.2.0/24", ""},
		{"verifications-per-ip", "2001:db8:1:2:3::4", "2001:db8:1:2::/64"},
		{"verifications-per-ip", "2001:db8:1:2::/64", "2001:db8:1:2::/64"},
		{"verifications-per-ip", "fe80::1%eth0", ""},
		{"accounts-per-net", "192.0.2.7", "192.0.2.0/24"},
		{"accounts-per-net", "2001:db8:1::/48", "2001:db8:1::/48"},
		{"accounts-per-net", "example.com", ""},
		{"orders-per-account", id, id},
		{"orders-per-account", a.kid, id},
		{"orders-per-account", "nobody", ""},
		{"orders-per-account", "", ""},
		{"failures-per-name", a.kid + " WWW.Example.com", id + " www.example.com"},
		{"failures-per-name", "www.example.com", ""},
		{"failures-per-name", "nobody www.example.com", ""},
		{"certificates-per-domain", "www.example.co.uk", "example.co.uk"},
		{"certificates-per-domain", "*.Example.com", "example.com"},
		{"certificates-per-domain", "2001:db8::1", "2001:db8::/64"},
		{"certificates-per-domain", "not a name", ""},
		{"certificates-per-name-set", "b.example.com, a.example.com", "a.example.com b.example.com"},
		{"certificates-per-name-set", ",", ""},
		{"certificates-per-name-set", "ok.example.com b_d!", ""},
		{"lookups-per-name", "*.example.com", "example.com"},
		{"lookups-per-name", "a..b", ""},
		{"nope", "x", ""},
	} {
		got, err := w.OverrideKey(t.Context(), c.limit, c.text)
		if got != c.want || (err == nil) == (c.want == "") {
			t.Errorf("%s of %q: %q, %v; want %q", c.limit, c.text, got, err, c.want)
		}
	}
	off := lite(t, func(c *server.Config) { c.Limits = &server.Limits{} })
	if _, err := off.OverrideKey(t.Context(), "accounts-per-ip", "192.0.2.7"); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "switched off") {
		t.Error(err)
	}
}
