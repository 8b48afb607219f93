package app_test

import (
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"chancery/internal/config"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
)

// TestLimitsSurviveRestarts: what was spent of a limit is spent after a restart.
func TestLimitsSurviveRestarts(t *testing.T) {
	dbtest.EachURL(t, func(t *testing.T, url string) {
		cfg := configure(t, url)
		cfg.Limits.AccountsPerIP = config.Rate{Count: 3, Per: 3 * time.Hour}
		in := start(t, cfg)
		for i := range 4 {
			c := newACMEClient(t, in)
			want := http.StatusCreated
			if i == 3 {
				want = http.StatusTooManyRequests
			}
			if status, problem, _ := c.account(in, c.nonce(in)); status != want {
				t.Fatalf("account %d: %d %s", i, status, problem)
			}
		}
		in.stop()
		in = start(t, cfg)
		c := newACMEClient(t, in)
		if status, problem, _ := c.account(in, c.nonce(in)); status != http.StatusTooManyRequests || problem != "urn:ietf:params:acme:error:rateLimited" {
			t.Errorf("after a restart: %d %s", status, problem)
		}
	})
}

var qSpentTest = db.SQL("app_test.get_spent", `SELECT COALESCE(max(tat), 0) FROM rate_limit WHERE name = $1`)

// TestReplicasShareLimits: what is spent at one replica is spent at the others
// once a key has spent an eighth there, too.
func TestReplicasShareLimits(t *testing.T) {
	first := configure(t, dbtest.PostgresURL(t))
	first.Limits.AccountsPerIP = config.Rate{Count: 8, Per: 3 * time.Hour}
	second := configure(t, first.Database.URL)
	second.Limits, second.Server.URL = first.Limits, first.Server.URL
	second.Keys.Dir = filepath.Join(first.Server.Data, "keys")
	a, b := start(t, first), start(t, second)
	account := func(in *instance) int {
		c := newACMEClient(t, a)
		status, _, _ := c.account(in, c.nonce(in))
		return status
	}
	d := dbtest.Open(t, first.Database.URL)
	unit := first.Limits.AccountsPerIP.Per / 8
	told := func(units int) {
		t.Helper()
		eventually(t, "what was spent is told", 30*time.Second, func() bool {
			tat, err := db.Get(t.Context(), d.Read(), qSpentTest, (*db.Row).Int64, "accounts_per_ip")
			check(t, err)
			return time.Until(time.Unix(0, tat)) > time.Duration(units)*unit-unit/2
		})
	}
	for i := range 8 {
		if status := account(a); status != http.StatusCreated {
			t.Fatalf("account %d: %d", i, status)
		}
	}
	told(8)
	// The other one hears of it when it tells of its own, and is asked once more
	// at most before that has arrived.
	spent := 8
	for account(b) == http.StatusCreated {
		if spent++; spent > 10 {
			t.Fatal("the other replica counts for itself")
		}
		told(spent)
	}
	if spent == 8 {
		t.Error("the other replica refused what it could not know")
	}
}
