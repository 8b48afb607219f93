package limit_test

import (
	"context"
	"testing"
	"time"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/limit"
)

var t0 = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

var qRows = db.SQL("limit_test.count_rows", `SELECT count(*) FROM rate_limit`, db.Scan("a test"))

// replica is one process: a limit, and its ledger.
type replica struct {
	*limit.Limiter
	ledger *limit.Ledger
}

func open(t *testing.T, d *db.DB, r limit.Rate) replica {
	t.Helper()
	l, err := limit.New("orders", r, 0)
	must(t, err)
	g := limit.NewLedger(d, l)
	must(t, g.Load(t.Context(), t0))
	return replica{l, g}
}

func (r replica) tick(t *testing.T, now time.Time) int {
	t.Helper()
	n, err := r.ledger.Tick(t.Context(), now)
	must(t, err)
	return n.Done
}

// spend takes units of key until it is refused, most at the most.
func (r replica) spend(key string, most int, now time.Time) (n int) {
	for n < most {
		if ok, _ := r.Allow(key, 1, now); !ok {
			break
		}
		n++
	}
	return n
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func rows(t *testing.T, d *db.DB) int64 {
	t.Helper()
	n, err := db.Get(t.Context(), d.Read(), qRows, (*db.Row).Int64)
	must(t, err)
	return n
}

// weekly is a limit as the certificates of a domain have one: 80 a week.
var weekly = limit.Rate{Count: 80, Per: 7 * 24 * time.Hour}

func TestRestartForgivesNothingThatWasTold(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		a := open(t, d, weekly)
		if n := a.spend("x.test", 100, t0); n != 80 {
			t.Fatalf("%d of 80", n)
		}
		_, want := a.Allow("x.test", 1, t0)
		a.tick(t, t0)
		b := open(t, d, weekly)
		if ok, retry := b.Allow("x.test", 1, t0); ok || retry != want {
			t.Errorf("after a restart: allowed %v, again after %s, want %s", ok, retry, want)
		}
		if n := b.spend("y.test", 100, t0); n != 80 {
			t.Errorf("another key may spend %d", n)
		}
		if n := b.spend("x.test", 100, t0.Add(weekly.Per)); n != 80 {
			t.Errorf("a week later: %d of 80", n)
		}
	})
}

// TestReplicasCountTogether: whatever order they work in, three replicas let
// through the limit and an eighth of it each at most.
func TestReplicasCountTogether(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		all := []replica{open(t, d, weekly), open(t, d, weekly), open(t, d, weekly)}
		passed, now := 0, t0
		for range 60 {
			for _, r := range all {
				passed += r.spend("x.test", 1, now)
				r.tick(t, now)
			}
		}
		if passed < 80 || passed > 80+3*10 {
			t.Errorf("three replicas let %d through, the limit is 80", passed)
		}
		now = now.Add(weekly.Per / 8) // ten units come back, once
		again := 0
		for range 60 {
			for _, r := range all {
				again += r.spend("x.test", 1, now)
				r.tick(t, now)
			}
		}
		if again > 10+2 { // two have not heard of the last one's when they are asked
			t.Errorf("an eighth of the period later they let %d through", again)
		}
	})
}

// TestMostRequestsCostNoRow: a key that spends little, and a limit that soon
// forgives, are not told of; a pass without news asks nothing.
func TestMostRequestsCostNoRow(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		a, short := open(t, d, weekly), open(t, d, limit.Rate{Count: 80, Per: time.Minute})
		for _, key := range []string{"a", "b", "c"} {
			a.spend(key, 9, t0)
		}
		short.spend("a", 80, t0)
		if n := a.tick(t, t0) + short.tick(t, t0); n != 0 || rows(t, d) != 0 {
			t.Errorf("%d keys told, %d rows", n, rows(t, d))
		}
		a.spend("b", 1, t0)
		if n := a.tick(t, t0); n != 1 || rows(t, d) != 1 {
			t.Errorf("%d keys told, %d rows", n, rows(t, d))
		}
		if n := a.tick(t, t0); n != 0 {
			t.Errorf("%d keys told again", n)
		}
		// What has refilled goes with a later spending.
		later := t0.Add(weekly.Per)
		a.spend("c", 10, later)
		a.tick(t, later)
		if n := rows(t, d); n != 1 {
			t.Errorf("%d rows", n)
		}
	})
}

func TestLedgerHearsOfRefunds(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		a := open(t, d, weekly)
		a.spend("x.test", 50, t0)
		a.tick(t, t0)
		a.Refund("x.test", 20, t0)
		if n := a.tick(t, t0); n != 1 {
			t.Errorf("%d told", n)
		}
		if n := open(t, d, weekly).spend("x.test", 100, t0); n != 50 {
			t.Errorf("after 50 were spent and 20 came back, a restarted process lets %d through", n)
		}
	})
}

// TestLedgerOfAnotherRate: what was counted at another rate does not count.
func TestLedgerOfAnotherRate(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		a := open(t, d, weekly)
		a.spend("x.test", 80, t0)
		a.tick(t, t0)
		double := weekly
		double.Count *= 2
		b := open(t, d, double)
		if n := b.spend("x.test", 100, t0); n != 100 {
			t.Errorf("%d of 100", n)
		}
		b.tick(t, t0)
		if n := open(t, d, double).spend("x.test", 100, t0); n != 60 {
			t.Errorf("%d of 60", n)
		}
	})
}

// TestLedgerSurvivesOutages: what could not be told is told later.
func TestLedgerSurvivesOutages(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		a := open(t, d, weekly)
		a.spend("x.test", 30, t0)
		away, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := a.ledger.Tick(away, t0); err == nil {
			t.Fatal("told a database that was away")
		}
		a.spend("x.test", 10, t0)
		if n := a.tick(t, t0); n != 1 {
			t.Fatalf("%d told", n)
		}
		if n := open(t, d, weekly).spend("x.test", 100, t0); n != 40 {
			t.Errorf("%d of 40 are left", n)
		}
	})
}

// TestTickIsBounded: many keys take several ticks, and none is lost.
func TestTickIsBounded(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		a := open(t, d, weekly)
		for i := range 1200 {
			a.Allow(string(rune('a'+i%26))+string(rune('a'+i/26%26))+string(rune('a'+i/676)), 10, t0)
		}
		ticks, told := 0, 0
		for more := true; more; ticks++ {
			n, err := a.ledger.Tick(t.Context(), t0)
			must(t, err)
			told, more = told+n.Done, n.More
		}
		if ticks != 3 || told != 1200 || rows(t, d) != 1200 {
			t.Errorf("%d ticks told of %d keys, %d rows", ticks, told, rows(t, d))
		}
		if n := open(t, d, weekly).spend("aaa", 100, t0); n != 70 {
			t.Errorf("%d of 70", n)
		}
	})
}
