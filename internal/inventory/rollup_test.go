package inventory_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/inventory"
)

var qCells = db.SQL("inventorytest.cells", `SELECT grain, day, status, issuer_id, key_type, owner, team, environment, source, managed, n
	FROM inventory_rollup WHERE n <> 0`, db.Scan("test"))

func cells(t testing.TB, d *db.DB) []string {
	t.Helper()
	out, err := db.List(context.Background(), d.Read(), qCells, func(r *db.Row) string {
		return fmt.Sprint(r.Text(), "|", r.Int64(), "|", r.Text(), "|", r.Int64(), "|", r.Text(), "|", r.Text(), "|", r.Text(), "|", r.Text(), "|", r.Int64(), "|", r.Int64(), "=", r.Int64())
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// checkRollups compares the counters with a count of everything.
func checkRollups(t testing.TB, d *db.DB, s *inventory.Store) {
	t.Helper()
	kept := cells(t, d)
	if err := s.Rebuild(context.Background()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(cells(t, d), kept); diff != "" {
		t.Fatalf("roll-ups differ from a recount: %s", diff)
	}
}

// randomStep does one thing to the inventory.
func randomStep(ctx context.Context, s *inventory.Store, rnd *rand.Rand, worker int) error {
	now := epoch.Add(time.Duration(rnd.IntN(40)) * day)
	some := func() string {
		p, err := s.List(ctx, inventory.Query{Filter: inventory.Filter{Statuses: inventory.Statuses}, Limit: 50, Sort: pick(rnd, inventory.SortExpires, inventory.SortAddedDesc)})
		if err != nil || len(p.Certificates) == 0 {
			return "00000000000000000000000000"
		}
		return p.Certificates[rnd.IntN(len(p.Certificates))].ID
	}
	switch rnd.IntN(9) {
	case 0, 1, 2:
		var obs []inventory.Observation
		for range 1 + rnd.IntN(12) {
			obs = append(obs, randomObservation(rnd, rnd.IntN(200)))
		}
		_, err := s.Put(ctx, obs, now)
		return err
	case 3:
		return ignoreMissing(s.Revoke(ctx, some(), now, now))
	case 4:
		return ignoreMissing(s.Retire(ctx, some(), now))
	case 5:
		return ignoreMissing(s.Restore(ctx, some(), now))
	case 6:
		_, err := s.Sweep(ctx, now, 5)
		return err
	case 7:
		_, err := s.Purge(ctx, now.Add(-15*day), now, 5)
		return err
	}
	e := inventory.Edit{Owner: new(pick(rnd, "", "pay", "shop")), Tags: map[string]string{"app": pick(rnd, "a", "c")}}
	if rnd.IntN(2) == 0 {
		e = inventory.Edit{Managed: new(rnd.IntN(2) == 0), Team: new(pick(rnd, "", "t9")), Untag: []string{"app"}}
	}
	if rnd.IntN(4) == 0 {
		e.Retired = new(rnd.IntN(2) == 0)
	}
	_, err := s.Apply(ctx, inventory.BulkEdit{Key: fmt.Sprintf("w%d-%d", worker, rnd.Uint64()), Edit: e, Actor: "test",
		Query: pick(rnd, "owner:pay key:p256", "team:t1", "status:any env:test owner:none", "name:*.shop.example.com")}, now)
	return err
}

// Whatever happens, one thing after the other or many at once, the counters
// equal a count, and every chain is in order.
func TestRollupsEqualRecount(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		s := inventory.New(d)
		rnd := estate(t, s, 60, 7)
		for i := range 60 {
			if err := randomStep(ctx, s, rnd, 0); err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
			if i%10 == 9 {
				checkRollups(t, d, s)
				checkChains(t, s)
			}
		}
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(w), 9))
				for i := range 25 {
					if err := randomStep(ctx, s, rnd, w+1); err != nil {
						t.Errorf("worker %d, step %d: %v", w, i, err)
						return
					}
				}
			})
		}
		wg.Wait()
		checkRollups(t, d, s)
		checkChains(t, s)
	})
}

// checkChains compares successors with what names, keys and owners say.
func checkChains(t *testing.T, s *inventory.Store) {
	t.Helper()
	groups := map[string][]inventory.Certificate{}
	for _, c := range walkAll(t, s, inventory.Query{Filter: filter(t, "status:any"), Limit: 1000}) {
		if c.Status == inventory.Revoked || c.Status == inventory.Retired {
			if c.SuccessorID != "" {
				t.Errorf("%s certificate %s has a successor", c.Status, c.ID)
			}
			continue
		}
		key := fmt.Sprint(c.Names, c.KeyType[:1], c.Owner)
		groups[key] = append(groups[key], c)
	}
	for key, g := range groups {
		slices.SortFunc(g, func(a, b inventory.Certificate) int {
			if c := a.NotBefore.Compare(b.NotBefore); c != 0 {
				return c
			}
			return cmpText(a.ID, b.ID)
		})
		for i, c := range g {
			want := ""
			if i+1 < len(g) {
				want = g[i+1].ID
			}
			if c.SuccessorID != want {
				t.Errorf("chain %s: %s is followed by %q, want %q", key, c.ID, c.SuccessorID, want)
			}
			if c.Status == inventory.Superseded && want == "" {
				t.Errorf("chain %s: %s is superseded by nothing", key, c.ID)
			}
		}
	}
}

func cmpText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Facets and timelines count what a walk over the rows counts.
func TestFacetsEqualRows(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		s := inventory.New(d)
		estate(t, s, 300, 5)
		for text, covered := range map[string]bool{"": true, "owner:pay": true, "expires:<30d": false, "team:t1 owner:none": false,
			"name:*.pay.example.com": false, "tag:app=a": false, "source:scan": false, "issuer:other key:p256": false} {
			f := filter(t, text)
			facets, err := s.Facets(ctx, f, inventory.Dimensions...)
			if err != nil {
				t.Fatal(err)
			}
			for _, facet := range facets {
				if !facet.Exact {
					t.Errorf("%q by %s is not exact, of %d rows", text, facet.By, 300)
				}
				want := map[string]int64{}
				for _, c := range walkAll(t, s, inventory.Query{Filter: f, Limit: 1000}) {
					for _, v := range valuesOf(c, facet.By) {
						want[v]++
					}
				}
				got := map[string]int64{}
				for _, v := range facet.Values {
					got[v.Value] = v.N
				}
				if covered && text == "owner:pay" && facet.By == inventory.ByOwner {
					delete(got, "shop") // the facet of owners shows the other choices
					delete(got, "mail")
					delete(got, "none")
				}
				if facet.By == inventory.ByStatus && text == "" || len(want) > 0 && ownCondition(text, facet.By) {
					continue // leaves the query's own condition aside
				}
				if facet.By != inventory.ByStatus {
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("%q by %s: %s", text, facet.By, diff)
					}
				}
			}
		}
		buckets, err := s.Timeline(ctx, filter(t, "status:active owner:pay"), epoch, epoch.AddDate(0, 6, 0), inventory.ByStatus)
		if err != nil {
			t.Fatal(err)
		}
		got := map[time.Time]int64{}
		for _, b := range buckets {
			got[b.Day] += b.N
		}
		want := map[time.Time]int64{}
		for _, c := range walkAll(t, s, inventory.Query{Filter: filter(t, "status:active owner:pay expires:>=2026-03-10 expires:<2026-09-10"), Limit: 1000}) {
			want[c.NotAfter.Truncate(day)]++
		}
		if diff := cmp.Diff(want, got); diff != "" || len(want) == 0 {
			t.Error(diff)
		}
	})
}

// ownCondition reports whether text restricts dimension d.
func ownCondition(text string, d inventory.Dimension) bool {
	keys := map[string][]inventory.Dimension{"owner:pay": {inventory.ByOwner}, "team:t1 owner:none": {inventory.ByTeam, inventory.ByOwner},
		"source:scan": {inventory.BySource}, "issuer:other key:p256": {inventory.ByIssuer, inventory.ByKey}}
	return slices.Contains(keys[text], d)
}

func valuesOf(c inventory.Certificate, d inventory.Dimension) []string {
	one := func(v string) []string {
		if v == "" {
			v = "none"
		}
		return []string{v}
	}
	switch d {
	case inventory.ByStatus:
		return one(string(c.Status))
	case inventory.ByIssuer:
		return one(c.Issuer)
	case inventory.ByKey:
		return one(c.KeyType)
	case inventory.ByOwner:
		return one(c.Owner)
	case inventory.ByTeam:
		return one(c.Team)
	case inventory.ByEnvironment:
		return one(c.Environment)
	case inventory.BySource:
		return c.Source.Names()
	}
	return one(map[bool]string{true: "yes", false: "no"}[c.Managed])
}

// Seeded roll-ups are as good as counted ones.
func TestSeedCountsItself(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := inventory.New(d)
		if err := inventory.Seed(context.Background(), d, 3000, epoch); err != nil {
			t.Fatal(err)
		}
		checkRollups(t, d, s)
		if n, err := s.Count(context.Background(), filter(t, "status:any")); err != nil || n != (inventory.Count{N: 3000, Exact: true}) {
			t.Fatal(n, err)
		}
	})
}

// ignoreMissing drops the error about a certificate that another worker purged.
func ignoreMissing(err error) error {
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}
