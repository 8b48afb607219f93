package api_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/fault"
)

// renewing runs the engine of w until the test ends.
func (w *world) renewing(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.renew.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		check(t, <-done)
	})
}

// managed polls one managed certificate until ok holds.
func (w *world) managed(t *testing.T, name string, ok func(m api.Managed) bool) api.Managed {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		m, err := client.Get[api.Managed](ctx, w.viewer, "/managed/"+name, nil)
		check(t, err)
		if ok(m) {
			return m
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", m)
		}
	}
}

// The life of a managed certificate, as a client of the API sees it.
func TestManagedCertificate(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.renewing(t)
		m, err := client.Post[api.Managed](ctx, w.admin, "/managed", map[string]any{"name": "web", "names": []string{"web.example.test"}, "issuer": "own",
			"owner": "team web", "endpoints": []string{"web.example.test:443"}})
		check(t, err)
		if m.State != "due" || m.KeyType != "p256" || m.KeyPolicy != "new" {
			t.Errorf("%+v", m)
		}
		idle := func(m api.Managed) bool { return m.State == "idle" && m.Certificate != "" }
		m = w.managed(t, "web", idle)
		if m.RenewAt == nil || m.NotAfter == nil || m.RenewAt.After(*m.NotAfter) || m.IssuedBy != "own" {
			t.Errorf("%+v", m)
		}
		if same := w.managed(t, m.Certificate, idle); same.ID != m.ID {
			t.Error("it is not found by the id of its certificate")
		}
		x, err := client.Get[api.Explanation](ctx, w.viewer, "/managed/web/explain", nil)
		check(t, err)
		var told []string
		for _, d := range x.Decisions {
			told = append([]string{d.Rule}, told...)
		}
		if got := strings.Join(told, " "); got != "manage order issued serve" {
			t.Errorf("its decisions are %q", got)
		}
		drift, _, err := client.List[api.Drift](ctx, w.viewer, "/drift", nil, 0)
		check(t, err)
		if len(drift) != 1 || drift[0].Desired != m.Certificate || drift[0].Served != "" {
			t.Errorf("drift: %+v", drift)
		}
		if _, err := client.Post[api.Managed](ctx, w.admin, "/managed/web/renew", nil); err != nil {
			t.Fatal(err)
		}
		again := w.managed(t, "web", func(n api.Managed) bool { return idle(n) && n.Certificate != m.Certificate })
		check(t, w.admin.Do(ctx, http.MethodDelete, "/managed/web", nil, nil, nil))
		adopted, err := client.Post[api.Managed](ctx, w.admin, "/managed/adopt", map[string]any{"certificate": again.Certificate, "issuer": "own"})
		check(t, err)
		if adopted.State != "idle" || adopted.Name != "web.example.test" || adopted.Owner != "team web" {
			t.Errorf("%+v", adopted)
		}
		plan, err := client.Get[api.RenewalPlan](ctx, w.viewer, "/renewal-plan", url.Values{"days": {"200"}, "lifetime": {"47d"}})
		check(t, err)
		if len(plan.Days) != 200 || len(plan.Issuers) != 1 || plan.Issuers[0].PerDay <= plan.Issuers[0].PerDayNow {
			t.Errorf("%+v", plan.Issuers)
		}
		body := dump(t, w)
		if strings.Contains(body, "PRIVATE KEY") {
			t.Error("the database holds a key in the clear")
		}
	})
}

// What is wrong is refused with a reason, and changes nothing.
func TestManagedMistakes(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for what, body := range map[string]map[string]any{
			"no names":       {"issuer": "own"},
			"bad name":       {"issuer": "own", "names": []string{"no spaces"}},
			"unknown issuer": {"issuer": "nobody", "names": []string{"a.example.test"}},
			"unknown target": {"issuer": "own", "names": []string{"a.example.test"}, "targets": []map[string]any{{"name": "nowhere"}}},
			"bad endpoint":   {"issuer": "own", "names": []string{"a.example.test"}, "endpoints": []string{"a.example.test"}},
			"bad period":     {"issuer": "own", "names": []string{"a.example.test"}, "renew_before": "soon"},
			"unknown member": {"issuer": "own", "names": []string{"a.example.test"}, "colour": "red"},
			"path":           {"issuer": "own", "names": []string{"a.example.test"}, "name": "../x"},
		} {
			_, err := client.Post[api.Managed](ctx, w.admin, "/managed", body)
			if f := fault.As(err); err == nil || f.Status() >= 500 || f.Detail == "" {
				t.Errorf("%s: %v", what, err)
			}
		}
		all, _, err := client.List[api.Managed](ctx, w.viewer, "/managed", nil, 0)
		check(t, err)
		if len(all) != 0 {
			t.Errorf("%+v", all)
		}
		if _, err := client.Get[api.Managed](ctx, w.viewer, "/managed/nothing", nil); !fault.Is(err, fault.NotFound) {
			t.Errorf("unknown: %v", err)
		}
		for _, q := range []string{"issuer=own&trouble=true", "cursor=x", "limit=0"} {
			if resp, _ := w.raw(t, "GET", "/api/v1/managed?"+q, "", "Authorization", "Bearer "+w.adminText()); resp.StatusCode != 422 && resp.StatusCode != 400 {
				t.Errorf("%s: %d", q, resp.StatusCode)
			}
		}
	})
}

// A list of managed certificates is paged without gaps, and a queue can be
// stopped, moved and started.
func TestManyManagedAndQueues(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		paused := true
		var q api.Queue
		check(t, w.admin.Do(ctx, http.MethodPatch, "/queues/issuer/own", nil, map[string]any{"paused": paused}, &q))
		if !q.Paused || q.Allowed != 0 {
			t.Errorf("%+v", q)
		}
		const n = 25
		for i := range n {
			_, err := client.Post[api.Managed](ctx, w.admin, "/managed", map[string]any{"names": []string{fmt.Sprintf("n%d.example.test", i)}, "issuer": "own", "owner": "a"})
			check(t, err)
		}
		seen := map[string]bool{}
		for cursor := ""; ; {
			page, err := client.Get[api.Page[api.Managed]](ctx, w.viewer, "/managed", url.Values{"limit": {"7"}, "cursor": {cursor}})
			check(t, err)
			for _, m := range page.Items {
				if seen[m.ID] {
					t.Errorf("%s twice", m.Name)
				}
				seen[m.ID] = true
			}
			if cursor = page.Next; cursor == "" {
				break
			}
		}
		if len(seen) != n {
			t.Errorf("%d of %d", len(seen), n)
		}
		w.renewing(t)
		queues, _, err := client.List[api.Queue](ctx, w.viewer, "/queues", nil, 0)
		check(t, err)
		if len(queues) != 2 || queues[1].Name != "own" || queues[1].Waiting != n {
			t.Errorf("%+v", queues)
		}
		check(t, w.admin.Do(ctx, http.MethodPatch, "/queues/issuer/own", nil, map[string]any{"divert": "backup", "paused": false}, &q))
		m := w.managed(t, "n0.example.test", func(m api.Managed) bool { return m.State == "idle" })
		if m.IssuedBy != "backup" {
			t.Errorf("issued by %s", m.IssuedBy)
		}
		for i := range n {
			w.managed(t, fmt.Sprintf("n%d.example.test", i), func(m api.Managed) bool { return m.State == "idle" })
		}
		check(t, w.admin.Do(ctx, http.MethodPatch, "/queues/issuer/own", nil, map[string]any{"divert": ""}, &q))
		for _, bad := range []map[string]any{{"divert": "own"}, {"divert": "nobody"}} {
			if err := w.admin.Do(ctx, http.MethodPatch, "/queues/issuer/own", nil, bad, nil); !fault.Is(err, fault.Invalid) {
				t.Errorf("%v: %v", bad, err)
			}
		}
		if err := w.admin.Do(ctx, http.MethodPatch, "/queues/issuer/nobody", nil, map[string]any{"paused": true}, nil); !fault.Is(err, fault.NotFound) {
			t.Errorf("unknown queue: %v", err)
		}
		many(t, w, m)
		drilled(t, w)
	})
}

// many renews all of an issuer at once.
func many(t *testing.T, w *world, before api.Managed) {
	t.Helper()
	if _, err := client.Post[api.ManyRenewed](ctx, w.admin, "/managed/renew", map[string]any{}); !fault.Is(err, fault.Invalid) {
		t.Errorf("everything, by accident: %v", err)
	}
	plan, err := client.Post[api.ManyRenewed](ctx, w.admin, "/managed/renew", map[string]any{"issuer": "backup", "dry_run": true})
	check(t, err)
	done, err := client.Post[api.ManyRenewed](ctx, w.admin, "/managed/renew", map[string]any{"issuer": "backup", "owner": "a"})
	check(t, err)
	if plan.Matched != 25 || plan.Queued != 0 || done.Queued != 25 {
		t.Errorf("plan %+v, done %+v", plan, done)
	}
	after := w.managed(t, before.Name, func(m api.Managed) bool { return m.State == "idle" && m.Certificate != before.Certificate })
	if after.IssuedBy != "own" {
		t.Errorf("issued by %s", after.IssuedBy)
	}
}

// drilled rehearses a replacement, which leaves nothing behind.
func drilled(t *testing.T, w *world) {
	t.Helper()
	d, err := client.Post[api.Drill](ctx, w.admin, "/drills", map[string]any{"issuer": "backup", "limit": 10})
	check(t, err)
	for deadline := time.Now().Add(15 * time.Second); d.FinishedAt == nil; time.Sleep(10 * time.Millisecond) {
		_, err := w.renew.FinishDrills(ctx)
		check(t, err)
		if d, err = client.Get[api.Drill](ctx, w.viewer, "/drills/"+d.ID, nil); err != nil || time.Now().After(deadline) {
			t.Fatal(d, err)
		}
	}
	if d.Total != 10 || d.Done != 10 || d.Failed != 0 || d.Seconds <= 0 {
		t.Errorf("%+v", d)
	}
	all, _, err := client.List[api.Managed](ctx, w.viewer, "/managed", nil, 0)
	check(t, err)
	if len(all) != 25 {
		t.Errorf("%d certificates after the drill", len(all))
	}
}
