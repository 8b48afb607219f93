package inventory_test

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/inventory"
)

// qPlainCount are the counts by dimension as anybody would ask for them.
var qPlainCount = func() map[inventory.Dimension]*db.Stmt {
	out := map[inventory.Dimension]*db.Stmt{}
	for d, column := range map[inventory.Dimension]string{inventory.ByStatus: "c.status", inventory.ByIssuer: "i.label", inventory.ByKey: "c.key_type", inventory.ByOwner: "c.owner",
		inventory.ByTeam: "c.team", inventory.ByEnvironment: "c.environment", inventory.BySource: "c.source::text", inventory.ByManaged: "CASE WHEN c.managed = 1 THEN 'yes' ELSE 'no' END"} {
		out[d] = db.SQL("inventorytest.count_"+string(d), `SELECT `+column+`, count(*), min(c.source) FROM inventory c JOIN inventory_issuer i ON i.id = c.issuer_id
			WHERE c.not_after >= $1 AND c.not_after < $2 AND c.status = ANY($3::text[]) GROUP BY `+column, db.Scan("test"))
	}
	return out
}()

// plainCount counts the rows by d between two instants.
func plainCount(t *testing.T, d *db.DB, by inventory.Dimension, from, to int64, statuses []inventory.Status) map[string]int64 {
	t.Helper()
	texts := make([]string, len(statuses))
	for i, s := range statuses {
		texts[i] = string(s)
	}
	out := map[string]int64{}
	err := d.Read().All(context.Background(), qPlainCount[by], func(r *db.Row) error {
		v, n, source := r.Text(), r.Int64(), inventory.Source(r.Int64())
		if by == inventory.BySource {
			for _, name := range source.Names() {
				out[name] += n
			}
			return nil
		}
		if v == "" {
			v = "none"
		}
		out[v] += n
		return nil
	}, from, to, texts)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Facets of any span of days are exact, and what a plain GROUP BY says: whole
// blocks, blocks that are cut, none, and no bound at all.
func TestFacetsOfDaysEqualGroupBy(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		s := inventory.New(d)
		if err := inventory.Seed(ctx, d, 3000, epoch); err != nil {
			t.Fatal(err)
		}
		for i := range 40 { // blocks begin below zero, too
			put(t, s, seen(described(1<<20+i, time.Unix(0, 0).Add(time.Duration(i-20)*day+time.Hour), "old.example.com"), inventory.FromImport))
		}
		checkRollups(t, d, s)
		rnd := rand.New(rand.NewPCG(5, 5))
		visible := []inventory.Status{inventory.Active, inventory.Superseded, inventory.Expired, inventory.Revoked}
		midnight := epoch.Truncate(day)
		for i := range 30 {
			var q inventory.Filter
			from, to := int64(-1<<62), int64(1<<62)
			if i%3 != 0 {
				q.Expires.From = midnight.Add(time.Duration(rnd.IntN(120)-70) * day)
				if i == 1 {
					q.Expires.From = time.Unix(0, 0).UTC()
				}
				from = q.Expires.From.UnixMilli()
			}
			if i%4 != 0 {
				q.Expires.To = midnight.Add(time.Duration(rnd.IntN(150)-20) * day)
				if i%5 == 0 && i%3 != 0 {
					q.Expires.To = q.Expires.From.Add(time.Duration(rnd.IntN(20)) * day)
				}
				to = q.Expires.To.UnixMilli()
			}
			want := visible
			if i%2 == 0 {
				q.Statuses = []inventory.Status{inventory.Active}
				want = q.Statuses
			}
			facets, err := s.Facets(ctx, q, inventory.Dimensions...)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range facets {
				among := want
				if f.By == inventory.ByStatus {
					among = inventory.Statuses // its own condition is left aside
				}
				got := map[string]int64{}
				for _, v := range f.Values {
					got[v.Value] = v.N
				}
				if diff := cmp.Diff(plainCount(t, d, f.By, from, to, among), got); diff != "" || !f.Exact || f.Other != 0 {
					t.Errorf("%s by %s, exact %v: %s", q.String(), f.By, f.Exact, diff)
				}
			}
			n, err := s.Count(ctx, q)
			if err != nil {
				t.Fatal(err)
			}
			sum := int64(0)
			for _, v := range plainCount(t, d, inventory.ByOwner, from, to, want) {
				sum += v
			}
			if n != (inventory.Count{N: sum, Exact: true}) {
				t.Errorf("%s: counted %+v, want %d", q.String(), n, sum)
			}
		}
	})
}

var (
	qOldGrains = db.SQL("inventorytest.delete_grains", `DELETE FROM inventory_rollup WHERE grain LIKE '%blocks' OR grain = 'kind'`, db.Scan("test"))
	qOldShape  = db.SQL("inventorytest.delete_shape", `DELETE FROM setting WHERE name = 'inventory.rollups'`)
)

// A database from a program with fewer counts is counted anew, once.
func TestUpgradeCountsAnewOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		s := inventory.New(d)
		estate(t, s, 80, 3)
		want := cells(t, d)
		for _, q := range []*db.Stmt{qOldGrains, qOldShape} {
			if _, err := d.Read().Exec(ctx, q); err != nil {
				t.Fatal(err)
			}
		}
		if cmp.Equal(want, cells(t, d)) {
			t.Fatal("nothing is missing")
		}
		for i, counted := range []int64{80, 0} {
			got, err := s.Upgrade(ctx, epoch)
			if err != nil || got != counted {
				t.Fatalf("upgrade %d: counted %v, %v", i, got, err)
			}
			if diff := cmp.Diff(want, cells(t, d)); diff != "" {
				t.Errorf("upgrade %d: %s", i, diff)
			}
		}
		if _, err := d.Read().Exec(ctx, qOldGrains); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Upgrade(ctx, epoch); err != nil || got > 0 {
			t.Errorf("counted again: %v, %v", got, err)
		}
	})
}
