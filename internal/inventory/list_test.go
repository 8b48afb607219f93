package inventory_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/inventory"
)

// matches says in Go what each query of the table means.
var queries = map[string]func(c inventory.Detail) bool{
	"":           func(c inventory.Detail) bool { return true },
	"status:any": func(c inventory.Detail) bool { return true },
	"owner:pay":  func(c inventory.Detail) bool { return c.Owner == "pay" },
	"owner:none": func(c inventory.Detail) bool { return c.Owner == "" },
	"owner:pay owner:shop key:p256": func(c inventory.Detail) bool {
		return (c.Owner == "pay" || c.Owner == "shop") && c.KeyType == "p256"
	},
	"team:t1 env:prod": func(c inventory.Detail) bool { return c.Team == "t1" && c.Environment == "prod" },
	"issuer:other":     func(c inventory.Detail) bool { return c.Issuer == "Other CA" },
	"key:RSA-1024 issuer:\"Test CA 1\"": func(c inventory.Detail) bool {
		return c.KeyType == "rsa1024" && c.Issuer == "Test CA 1"
	},
	"status:active": func(c inventory.Detail) bool { return c.Status == inventory.Active },
	"status:revoked status:superseded": func(c inventory.Detail) bool {
		return c.Status == inventory.Revoked || c.Status == inventory.Superseded
	},
	"source:scan":         func(c inventory.Detail) bool { return c.Source&inventory.FromScan != 0 },
	"managed:yes":         func(c inventory.Detail) bool { return c.Managed },
	"ca:yes":              func(c inventory.Detail) bool { return c.CA },
	"tag:app=a":           func(c inventory.Detail) bool { return slices.Contains(c.Tags, "app=a") },
	"tag:app=a owner:pay": func(c inventory.Detail) bool { return slices.Contains(c.Tags, "app=a") && c.Owner == "pay" },
	"expires:<14d":        func(c inventory.Detail) bool { return c.NotAfter.Before(midnight(15)) },
	"expires:>=2026-04-01 expires:<2026-05-01 owner:shop": func(c inventory.Detail) bool {
		return c.NotAfter.Month() == time.April && c.NotAfter.Year() == 2026 && c.Owner == "shop"
	},
	"name:h1.pay.example.com": func(c inventory.Detail) bool { return slices.Contains(c.AllNames, "h1.pay.example.com") },
	"name:*.pay.example.com":  func(c inventory.Detail) bool { return below(c, ".pay.example.com") },
	"name:*.pay.example.com owner:pay status:active": func(c inventory.Detail) bool {
		return below(c, ".pay.example.com") && c.Owner == "pay" && c.Status == inventory.Active
	},
	"a.pay.example.com":                func(c inventory.Detail) bool { return below(c, ".a.pay.example.com") },
	"h1.shop.example.com":              func(c inventory.Detail) bool { return slices.Contains(c.AllNames, "h1.shop.example.com") },
	"endpoint:*.shop.example.com:8443": nil, // see TestEndpointCondition
	"z1":                               func(c inventory.Detail) bool { return strings.Contains(strings.Join(c.AllNames, " "), "z1") },
	"z1 h2 owner:none": func(c inventory.Detail) bool {
		s := strings.Join(c.AllNames, " ")
		return strings.Contains(s, "z1") && strings.Contains(s, "h2") && c.Owner == ""
	},
	"seen:<7d":      func(c inventory.Detail) bool { return true },
	"seen:>7d":      func(c inventory.Detail) bool { return false },
	"owner:nobody":  func(c inventory.Detail) bool { return false },
	"issuer:nobody": func(c inventory.Detail) bool { return false },
	"100%":          func(c inventory.Detail) bool { return false },
}

// midnight is the beginning of the UTC day n days after that of epoch.
func midnight(n int) time.Time { return epoch.Truncate(day).AddDate(0, 0, n) }

func below(c inventory.Detail, suffix string) bool {
	return slices.ContainsFunc(c.AllNames, func(n string) bool { return strings.HasSuffix(n, suffix) })
}

// Every query finds exactly the certificates that it describes, in every
// order, whatever the page size, each once; and Count agrees.
func TestQueriesFindWhatTheyDescribe(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := inventory.New(d)
		estate(t, s, 250, 1)
		var all []inventory.Detail
		for _, c := range walkAll(t, s, inventory.Query{Filter: filter(t, "status:any")}) {
			all = append(all, get(t, s, c.ID))
		}
		if len(all) != 250 {
			t.Fatalf("%d certificates", len(all))
		}
		for text, match := range queries {
			if match == nil {
				continue
			}
			var want []string
			for _, c := range all {
				if match(c) {
					want = append(want, c.ID)
				}
			}
			slices.Sort(want)
			f := filter(t, text)
			for _, sort := range []inventory.Sort{"", "-expires", "seen", "-added"} {
				for _, limit := range []int{7, 1000} {
					rows := walkAll(t, s, inventory.Query{Filter: f, Sort: sort, Limit: limit})
					checkOrder(t, text, sort, rows)
					if diff := cmp.Diff(want, sortedIDs(rows)); diff != "" {
						t.Errorf("%q sorted %q by %d: %s", text, sort, limit, diff)
					}
				}
			}
			if n, err := s.Count(context.Background(), f); err != nil || n != (inventory.Count{N: int64(len(want)), Exact: true}) {
				t.Errorf("%q: count %+v, %v; want %d", text, n, err, len(want))
			}
		}
	})
}

func sortedIDs(rows []inventory.Certificate) []string {
	var ids []string
	for _, c := range rows {
		ids = append(ids, c.ID)
	}
	slices.Sort(ids)
	return ids
}

func checkOrder(t *testing.T, text string, sort inventory.Sort, rows []inventory.Certificate) {
	t.Helper()
	for i := 1; i < len(rows); i++ {
		a, b := rows[i-1], rows[i]
		bad := false
		switch sort {
		case "":
			bad = a.NotAfter.After(b.NotAfter) && !strings.Contains(text, "example.com")
		case "-expires":
			bad = a.NotAfter.Before(b.NotAfter) && !strings.Contains(text, "example.com")
		case "-added":
			bad = a.ID < b.ID
		}
		if bad {
			t.Fatalf("%q sorted %q: row %d is out of order", text, sort, i)
		}
	}
}

func TestEndpointCondition(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := inventory.New(d)
		a, b := seen(described(1, epoch.Add(day), "a.shop.example.com"), inventory.FromScan), seen(described(2, epoch.Add(day), "b.shop.example.com"), inventory.FromScan)
		a.Endpoint = &inventory.Sighting{Host: "A.shop.example.com", Port: 8443, Address: "10.0.0.1", Probe: "observe"}
		b.Endpoint = &inventory.Sighting{Host: "10.0.0.2", Port: 443, Address: "10.0.0.2", Probe: "observe"}
		res := put(t, s, a, b)
		for text, want := range map[string][]string{
			"endpoint:*.shop.example.com:8443":               {res.IDs[0]},
			"endpoint:*.shop.example.com:443":                nil,
			"endpoint:a.shop.example.com":                    {res.IDs[0]},
			"endpoint:10.0.0.2:443":                          {res.IDs[1]},
			"endpoint:10.0.0.2":                              {res.IDs[1]},
			"endpoint:shop.example.com":                      nil,
			"serial:" + get(t, s, res.IDs[0]).Serial:         {res.IDs[0]},
			"spki:" + fmt.Sprintf("%X", a.Metadata.SPKIHash): {res.IDs[0]},
			"id:" + res.IDs[1]:                               {res.IDs[1]},
			"fingerprint:" + get(t, s, res.IDs[1]).Fingerprint + " id:" + res.IDs[0]: nil,
		} {
			for _, sort := range []inventory.Sort{"expires", "-seen", "added"} {
				if diff := cmp.Diff(want, sortedIDs(walkAll(t, s, inventory.Query{Filter: filter(t, text), Sort: sort, Limit: 1}))); diff != "" {
					t.Errorf("%q: %s", text, diff)
				}
			}
		}
	})
}

// An endpoint condition that many meet is walked, host by host, and finds the
// same; a certificate behind several hosts appears once.
func TestManyEndpoints(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := inventory.New(d)
		var obs []inventory.Observation
		want := map[string]bool{}
		for i := range 2500 {
			o := seen(described(i/2, epoch.Add(day), fmt.Sprintf("c%d.example.com", i/2)), inventory.FromScan)
			o.Owner = pick(rand.New(rand.NewPCG(uint64(i/2), 1)), "pay", "shop")
			o.Endpoint = &inventory.Sighting{Host: fmt.Sprintf("h%d.example.com", i*7919%2500), Port: 443, Probe: "observe"}
			want[fmt.Sprintf("c%d.example.com", i/2)] = o.Owner == "pay"
			obs = append(obs, o)
		}
		put(t, s, obs...)
		for text, match := range map[string]func(pay bool) bool{"endpoint:*.example.com": func(bool) bool { return true },
			"endpoint:*.example.com:443 owner:pay": func(pay bool) bool { return pay }, "endpoint:*.example.com:8443": func(bool) bool { return false }} {
			got := map[string]int{}
			for _, c := range walkAll(t, s, inventory.Query{Filter: filter(t, text), Limit: 90}) {
				got[c.CommonName]++
			}
			for name, pay := range want {
				if n := got[name]; n > 1 || (n == 1) != match(pay) {
					t.Fatalf("%q: %s is listed %d times", text, name, n)
				}
			}
		}
	})
}

// While rows come and go, rows that stay are seen exactly once.
func TestCursorSurvivesChanges(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		s := inventory.New(d)
		rnd := estate(t, s, 300, 2)
		for _, text := range []string{"", "owner:pay", "name:*.pay.example.com", "key:p256 env:prod"} {
			f := filter(t, text)
			q := inventory.Query{Filter: f, Limit: 5}
			seenIDs := map[string]int{}
			before := map[string]bool{}
			for _, c := range walkAll(t, s, inventory.Query{Filter: f, Limit: 1000}) {
				before[c.ID] = true
			}
			gone := map[string]bool{}
			for n := 1000; ; n++ {
				p, err := s.List(ctx, q)
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range p.Certificates {
					seenIDs[c.ID]++
				}
				if q.Cursor = p.Next; q.Cursor == "" {
					break
				}
				put(t, s, randomObservation(rnd, int(rnd.Int64N(1<<40))))
				victim := p.Certificates[rnd.IntN(len(p.Certificates))].ID
				if err := s.Retire(ctx, victim, epoch); err != nil {
					t.Fatal(err)
				}
				gone[victim] = true
			}
			for id := range before {
				if seenIDs[id] != 1 {
					t.Errorf("%q: %s was listed %d times (retired: %t)", text, id, seenIDs[id], gone[id])
				}
			}
			for id := range gone {
				if err := s.Restore(ctx, id, epoch); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

func TestForeignCursorIsRefused(t *testing.T) {
	ctx := context.Background()
	s := inventory.New(dbtest.Open(t, dbtest.SQLiteURL(t)))
	estate(t, s, 50, 3)
	p, err := s.List(ctx, inventory.Query{Filter: filter(t, "owner:pay"), Limit: 2})
	if err != nil || p.Next == "" {
		t.Fatal(p.Next, err)
	}
	for name, q := range map[string]inventory.Query{
		"other query": {Filter: filter(t, "owner:shop"), Cursor: p.Next},
		"other sort":  {Filter: filter(t, "owner:pay"), Sort: "-expires", Cursor: p.Next},
		"cut":         {Filter: filter(t, "owner:pay"), Cursor: p.Next[:len(p.Next)-2]},
		"changed":     {Filter: filter(t, "owner:pay"), Cursor: "B" + p.Next[1:]},
		"noise":       {Filter: filter(t, "owner:pay"), Cursor: "%%%"},
		"long":        {Filter: filter(t, "owner:pay"), Cursor: strings.Repeat("A", 5000)},
		"limit":       {Limit: 1001},
		"negative":    {Limit: -1},
		"sort":        {Sort: "price"},
		"key hash":    {Filter: inventory.Filter{SPKI: "ab"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.List(ctx, q)
			wantFault(t, err, fault.Invalid)
		})
	}
}

// Where no index helps, a page is cut short and says so, and the pages
// together still hold every match.
func TestScanBudgetIsKept(t *testing.T) {
	ctx := context.Background()
	d := dbtest.Open(t, dbtest.SQLiteURL(t))
	if err := inventory.Seed(ctx, d, 30000, epoch); err != nil {
		t.Fatal(err)
	}
	s := inventory.New(d)
	q := inventory.Query{Filter: filter(t, "app-000003"), Limit: 1000}
	var rows []inventory.Certificate
	partial := 0
	for {
		p, err := s.List(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		if rows = append(rows, p.Certificates...); p.Partial {
			partial++
			if p.Next == "" || p.Scanned > 40000 {
				t.Fatalf("next %q after %d entries", p.Next, p.Scanned)
			}
		}
		if q.Cursor = p.Next; q.Cursor == "" {
			break
		}
	}
	if partial == 0 || len(rows) < 100 {
		t.Fatalf("%d rows, %d partial pages", len(rows), partial)
	}
	n, err := s.Count(ctx, filter(t, "app-000003"))
	if err != nil || n.Exact {
		t.Fatalf("%+v, %v: a bounded count must say so", n, err)
	}
}
