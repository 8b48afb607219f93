package inventory_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/inventory"
)

// A bulk edit reaches everything its plan counted, once, and says so again
// when it is repeated.
func TestBulkEdit(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		s := inventory.New(d)
		if err := inventory.Seed(ctx, d, 3000, epoch); err != nil {
			t.Fatal(err)
		}
		const query = "owner:none expires:<90d"
		edit := inventory.Edit{Owner: new("found"), Tags: map[string]string{"wave": "1"}}
		plan, err := s.PlanEdit(ctx, query, edit, epoch)
		if err != nil || !plan.Count.Exact || plan.Count.N < 50 || len(plan.Sample) != 10 {
			t.Fatalf("%+v %v", plan.Count, err)
		}
		be := inventory.BulkEdit{Key: "wave-1", Query: query, Edit: edit, Actor: "token:ops"}
		res, err := s.Apply(ctx, be, epoch)
		want := inventory.EditResult{Matched: plan.Count.N, Changed: plan.Count.N, Done: true}
		if err != nil || res != want {
			t.Fatalf("%+v, want %+v: %v", res, want, err)
		}
		if again, err := s.Apply(ctx, be, epoch.Add(time.Hour)); err != nil || again != want {
			t.Errorf("repeated: %+v %v", again, err)
		}
		if n, err := s.Count(ctx, filter(t, "owner:found tag:wave=1")); err != nil || n.N != plan.Count.N {
			t.Errorf("%+v %v", n, err)
		}
		checkRollups(t, d, s)
		recs, err := audit.BySubject(ctx, d.Read(), "edit:wave-1", "", 10)
		if err != nil || len(recs) != 1 || recs[0].Actor != "token:ops" || !strings.Contains(recs[0].Data, fmt.Sprintf(`"changed":%d`, want.Changed)) {
			t.Errorf("journal: %+v %v", recs, err)
		}
		be.Edit.Owner = new("other")
		_, err = s.Apply(ctx, be, epoch)
		wantFault(t, err, fault.Conflict)
	})
}

// The same call from several clients at once edits everything once.
func TestBulkEditByManyAtOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		s := inventory.New(d)
		if err := inventory.Seed(ctx, d, 2500, epoch); err != nil {
			t.Fatal(err)
		}
		be := inventory.BulkEdit{Key: "once", Query: "status:any", Edit: inventory.Edit{Environment: new("moon")}, Actor: "test"}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if res, err := s.Apply(ctx, be, epoch); err != nil || res != (inventory.EditResult{Matched: 2500, Changed: 2500, Done: true}) {
					t.Errorf("%+v %v", res, err)
				}
			})
		}
		wg.Wait()
		checkRollups(t, d, s)
	})
}

// An interrupted edit goes on where it stopped.
func TestBulkEditResumes(t *testing.T) {
	d := dbtest.Open(t, dbtest.SQLiteURL(t))
	ctx, cancel := context.WithCancel(context.Background())
	s := inventory.New(d)
	if err := inventory.Seed(ctx, d, 2500, epoch); err != nil {
		t.Fatal(err)
	}
	be := inventory.BulkEdit{Key: "stop", Query: "", Edit: inventory.Edit{Retired: new(true)}, Actor: "test"}
	watch := make(chan struct{})
	go func() {
		defer close(watch)
		for {
			n, err := s.Count(context.Background(), filter(t, "status:retired"))
			if err != nil || n.N > 0 {
				cancel()
				return
			}
		}
	}()
	first, err := s.Apply(ctx, be, epoch)
	<-watch
	if err == nil && first.Done {
		t.Skip("the edit was faster than its interruption")
	}
	res, err := s.Apply(context.Background(), be, epoch.Add(time.Minute))
	if err != nil || res != (inventory.EditResult{Matched: 2500, Changed: 2500, Done: true}) {
		t.Fatalf("first %+v, then %+v %v", first, res, err)
	}
	checkRollups(t, d, s)
}

func TestEditRefusals(t *testing.T) {
	ctx := context.Background()
	s := inventory.New(dbtest.Open(t, dbtest.SQLiteURL(t)))
	for name, be := range map[string]inventory.BulkEdit{
		"no key":    {Edit: inventory.Edit{Owner: new("a")}},
		"nothing":   {Key: "k"},
		"bad owner": {Key: "k", Edit: inventory.Edit{Owner: new("a\n")}},
		"none":      {Key: "k", Edit: inventory.Edit{Team: new("none")}},
		"bad query": {Key: "k", Query: "ownr:x", Edit: inventory.Edit{Owner: new("a")}},
		"tag twice": {Key: "k", Edit: inventory.Edit{Tags: map[string]string{"a": "1"}, Untag: []string{"a"}}},
		"bad tag":   {Key: "k", Edit: inventory.Edit{Untag: []string{"A="}}},
		"long key":  {Key: strings.Repeat("k", 65), Edit: inventory.Edit{Owner: new("a")}},
	} {
		if _, err := s.Apply(ctx, be, epoch); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEndpoints(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		s := inventory.New(d)
		old, fresh := described(1, epoch.Add(day), "www.example.com"), described(2, epoch.Add(60*day), "www.example.com")
		at := func(o inventory.Observation, after time.Duration, failure string) inventory.Observation {
			o.SeenAt = epoch.Add(after)
			o.Endpoint = &inventory.Sighting{Host: "www.example.com", Port: 443, SNI: "www.example.com", Address: "192.0.2.1", Probe: "observe",
				Failure: failure, Problems: []string{"untrusted-mozilla", "hostname"}}
			return o
		}
		oldID := put(t, s, at(seen(old, inventory.FromScan), 0, "")).IDs[0]
		freshID := put(t, s, seen(fresh, inventory.FromRenew)).IDs[0]
		one := func(q inventory.EndpointQuery) inventory.Endpoint {
			t.Helper()
			p, err := s.Endpoints(ctx, q)
			if err != nil || len(p.Endpoints) != 1 {
				t.Fatalf("%+v %v", p, err)
			}
			return p.Endpoints[0]
		}
		want := []inventory.Desired{{Host: "WWW.example.com", Port: 443, SNI: "www.example.com", CertificateID: freshID},
			{Host: "new.example.com", Port: 443, SNI: "new.example.com", CertificateID: freshID}}
		if err := s.Desire(ctx, want, epoch); err != nil {
			t.Fatal(err)
		}
		p, err := s.Endpoints(ctx, inventory.EndpointQuery{Drift: true})
		if err != nil || len(p.Endpoints) != 2 || !p.Endpoints[0].Drift() || p.Endpoints[0].Probe != "" {
			t.Fatalf("%+v %v", p, err)
		}
		// A failure keeps the certificate; the first of a row of failures counts.
		fail := inventory.Observation{Source: inventory.FromScan}
		put(t, s, at(fail, time.Hour, "refused"))
		put(t, s, at(fail, 2*time.Hour, "timeout-tls"))
		e := one(inventory.EndpointQuery{Failing: true})
		if e.CertificateID != oldID || e.Failure != "timeout-tls" || !e.FailedSince.Equal(epoch.Add(time.Hour)) || !e.LastOKAt.Equal(epoch) {
			t.Fatalf("%+v", e)
		}
		// The new certificate is served; an older observation comes late.
		put(t, s, at(seen(fresh, inventory.FromScan), 3*time.Hour, ""))
		put(t, s, at(seen(old, inventory.FromScan), 2*time.Hour+time.Minute, ""))
		e = one(inventory.EndpointQuery{Certificate: freshID})
		if e.Drift() || e.Failure != "" || !e.ChangedAt.Equal(epoch.Add(3*time.Hour)) || !e.FailedSince.IsZero() {
			t.Fatalf("%+v", e)
		}
		if diff := cmp.Diff([]string{"hostname", "untrusted-mozilla"}, e.Problems); diff != "" {
			t.Error(diff)
		}
		// Another address of the endpoint inherits what it should serve, and the
		// place that nobody had probed is replaced by the one that was.
		o := at(seen(old, inventory.FromScan), 4*time.Hour, "")
		o.Endpoint.Host, o.Endpoint.SNI = "new.example.com", "new.example.com"
		put(t, s, o)
		e = one(inventory.EndpointQuery{Drift: true, Host: "*.example.com"})
		if e.Host != "new.example.com" || e.Address != "192.0.2.1" || e.DesiredID != freshID {
			t.Fatalf("%+v", e)
		}
	})
}

func TestEndpointPages(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		s := inventory.New(d)
		if err := inventory.Seed(ctx, d, 1500, epoch); err != nil {
			t.Fatal(err)
		}
		for _, q := range []inventory.EndpointQuery{{}, {Host: "*.example.com"}, {Failing: true}, {Drift: true}} {
			q.Limit = 7
			got := map[string]bool{}
			for {
				p, err := s.Endpoints(ctx, q)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range p.Endpoints {
					key := fmt.Sprint(e.Host, e.Port, e.SNI, e.Address)
					if got[key] {
						t.Fatalf("%+v: %s twice", q, key)
					}
					got[key] = true
				}
				if q.Cursor = p.Next; q.Cursor == "" {
					break
				}
			}
			if !q.Drift && len(got) < 10 {
				t.Errorf("%+v: %d endpoints", q, len(got))
			}
		}
		for _, bad := range []inventory.EndpointQuery{{Failing: true, Drift: true}, {Host: "a b"}, {Certificate: "x"}, {Limit: -1}, {Cursor: "x"}} {
			if _, err := s.Endpoints(ctx, bad); !fault.Is(err, fault.Invalid) {
				t.Errorf("%+v: %v", bad, err)
			}
		}
	})
}

func TestViews(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		s := inventory.New(d)
		v, err := s.SaveView(ctx, inventory.View{Name: "Soon", Query: "expires:<14d", CreatedBy: "token:a"}, epoch)
		if err != nil || v.Sort != inventory.SortExpires {
			t.Fatal(v, err)
		}
		_, err = s.SaveView(ctx, inventory.View{Name: "Soon", Query: ""}, epoch)
		wantFault(t, err, fault.Conflict)
		_, err = s.SaveView(ctx, inventory.View{Name: "Bad", Query: "x:y"}, epoch)
		wantFault(t, err, fault.Invalid)
		_, err = s.SaveView(ctx, inventory.View{ID: "nope", Name: "Other"}, epoch)
		wantFault(t, err, fault.NotFound)
		v.Query = "expires:<7d"
		if _, err = s.SaveView(ctx, v, epoch.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		vs, err := s.Views(ctx, "", 10)
		if err != nil || len(vs) != 1 || vs[0].Query != "expires:<7d" || vs[0].CreatedBy != "token:a" || !vs[0].UpdatedAt.Equal(epoch.Add(time.Hour)) {
			t.Fatalf("%+v %v", vs, err)
		}
		if err := s.DeleteView(ctx, v.ID); err != nil {
			t.Fatal(err)
		}
		wantFault(t, s.DeleteView(ctx, v.ID), fault.NotFound)
	})
}

// Certificates go after the retention time, unless they are still served.
func TestPurgeKeepsWhatIsServed(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		s := inventory.New(d)
		served := seen(described(1, epoch.Add(-90*day), "served.example.com"), inventory.FromScan)
		served.Endpoint = &inventory.Sighting{Host: "served.example.com", Port: 443, Probe: "observe"}
		gone, recent, retired := described(2, epoch.Add(-90*day), "gone.example.com"), described(3, epoch.Add(-5*day), "recent.example.com"), described(4, epoch.Add(90*day), "retired.example.com")
		ids := put(t, s, served, seen(gone, inventory.FromScan), seen(recent, inventory.FromScan), seen(retired, inventory.FromScan)).IDs
		if err := s.Retire(ctx, ids[3], epoch.Add(-40*day)); err != nil {
			t.Fatal(err)
		}
		n, err := s.Purge(ctx, epoch.Add(-30*day), epoch, 100)
		if err != nil || n != 2 {
			t.Fatal(n, err)
		}
		if diff := cmp.Diff(2, len(walkAll(t, s, inventory.Query{Filter: filter(t, "status:any")}))); diff != "" {
			t.Fatal(diff)
		}
		_, err = s.Get(ctx, ids[1])
		wantFault(t, err, fault.NotFound)
		checkRollups(t, d, s)
		_, err = s.Purge(ctx, epoch.Add(day), epoch, 1)
		wantFault(t, err, fault.Invalid)
	})
}
