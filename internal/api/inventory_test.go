package api_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/audit"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/inventory"
	"chancery/internal/inventory/follow"
	"chancery/internal/pki"
)

// known issues certificates for names, one each, and lets the inventory know.
func (w *world) known(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		w.issue(t, n)
	}
	for {
		n, err := audit.Sequence(ctx, w.db, 1000)
		check(t, err)
		if n == 0 {
			break
		}
	}
	_, err := follow.New(w.db, w.ca, inventory.New(w.db)).Tick(ctx)
	check(t, err)
}

func hosts(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("h%d.pay.example.com", i))
	}
	return out
}

func list(t *testing.T, w *world, query string) []api.Known {
	t.Helper()
	found, _, err := client.List[api.Known](ctx, w.viewer, "/certs", url.Values{"q": {query}}, 0)
	check(t, err)
	return found
}

// Every page in turn, once each, also when certificates are added meanwhile.
func TestInventoryPages(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.known(t, hosts(23)...)
		seen, pages := map[string]int{}, 0
		for page, err := range client.Pages[api.Known](ctx, w.viewer, "/certs", url.Values{"q": {"name:*.pay.example.com"}}, 7) {
			check(t, err)
			for _, c := range page.Items {
				seen[c.ID]++
			}
			if pages++; len(page.Items) > 7 {
				t.Errorf("a page of %d", len(page.Items))
			}
		}
		if len(seen) != 23 || pages < 4 {
			t.Errorf("%d certificates on %d pages", len(seen), pages)
		}
		for id, n := range seen {
			if n != 1 {
				t.Errorf("%s is on %d pages", id, n)
			}
		}
		found := list(t, w, "name:h3.pay.example.com key:p256 status:active source:ca expires:<2y")
		if len(found) != 1 || found[0].Status != "active" || found[0].KeyType != "p256" || found[0].Source[0] != "ca" || found[0].Issuer == "" {
			t.Errorf("%+v", found)
		}
		if n := len(list(t, w, "status:issued name:*.pay.example.com")); n != 23 {
			t.Errorf("status:issued finds %d", n)
		}
	})
}

func TestInventoryNotModified(t *testing.T) {
	w := newWorld(t, dbtest.SQLiteURL(t))
	w.known(t, hosts(3)...)
	for _, path := range []string{"/certs?limit=2", "/inventory/facets", "/inventory/timeline", "/inventory/count?q=owner:x", "/endpoints", "/issued?limit=1"} {
		get := func(tag string) (*http.Response, string) {
			return w.raw(t, "GET", "/api/v1"+path, "", "Authorization", "Bearer "+w.adminText(), "If-None-Match", tag)
		}
		tries(t, func() bool {
			resp, _ := get("")
			before := w.queries.get()
			again, body := get(resp.Header.Get("ETag"))
			return resp.StatusCode == 200 && again.StatusCode == 304 && body == "" && w.queries.get() == before
		})
	}
	resp, _ := w.raw(t, "GET", "/api/v1/certs", "", "Authorization", "Bearer "+w.adminText())
	tag := resp.Header.Get("ETag")
	_, err := client.Post[api.EditResult](ctx, w.admin, "/inventory/edits", map[string]any{"key": "12345678", "q": "name:h1.pay.example.com", "edit": map[string]any{"owner": "pay"}})
	check(t, err)
	if resp, body := w.raw(t, "GET", "/api/v1/certs", "", "Authorization", "Bearer "+w.adminText(), "If-None-Match", tag); resp.StatusCode != 200 || !strings.Contains(body, `"owner":"pay"`) {
		t.Errorf("after an edit: %d %s", resp.StatusCode, body)
	}
}

func TestInventoryEdits(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.known(t, hosts(12)...)
		body := map[string]any{"key": "request-1", "q": "name:*.pay.example.com", "edit": map[string]any{"owner": "pay", "tags": map[string]any{"app": "shop"}}}
		plan, err := client.Post[api.EditPlan](ctx, w.admin, "/inventory/plan", map[string]any{"q": body["q"], "edit": body["edit"]})
		if err != nil || plan.Matched != 12 || len(plan.Sample) == 0 {
			t.Fatal(plan, err)
		}
		if _, err := client.Post[api.EditResult](ctx, w.admin, "/inventory/edits", body); !fault.Is(err, fault.Precondition) {
			t.Fatalf("12 were edited without confirm: %v", err)
		}
		body["confirm"] = true
		for range 2 { // the same key again changes nothing
			done, err := client.Post[api.EditResult](ctx, w.admin, "/inventory/edits", body)
			if err != nil || !done.Done || done.Changed != 12 {
				t.Errorf("%+v %v", done, err)
			}
		}
		if n := len(list(t, w, "owner:pay tag:app=shop")); n != 12 {
			t.Errorf("%d have the owner and the tag", n)
		}
		facets, err := client.Get[api.Facets](ctx, w.viewer, "/inventory/facets", url.Values{"by": {"owner,key"}, "q": {"ca:no"}})
		if err != nil || len(facets.Facets) != 2 || facets.Facets[0].By != "owner" || facets.Facets[0].Values[0] != (api.FacetValue{Value: "pay", Count: 12}) {
			t.Errorf("%+v %v", facets, err)
		}
		days, err := client.Get[api.Timeline](ctx, w.viewer, "/inventory/timeline", url.Values{"by": {"owner"}, "days": {"400"}, "q": {"owner:pay"}})
		if err != nil || len(days.Buckets) != 1 || days.Buckets[0].Value != "pay" || days.Buckets[0].Count != 12 {
			t.Errorf("%+v %v", days, err)
		}
		n, err := client.Get[api.Count](ctx, w.viewer, "/inventory/count", url.Values{"q": {"owner:pay"}})
		if err != nil || n != (api.Count{Count: 12, Exact: true}) {
			t.Errorf("%+v %v", n, err)
		}
	})
}

func TestInventoryViews(t *testing.T) {
	w := newWorld(t, dbtest.SQLiteURL(t))
	made, err := client.Post[api.View](ctx, w.admin, "/inventory/views", map[string]any{"name": "soon", "q": "expires:<14d"})
	check(t, err)
	if _, err := client.Post[api.View](ctx, w.admin, "/inventory/views", map[string]any{"name": "soon", "q": "expires:<3d"}); !fault.Is(err, fault.Conflict) {
		t.Errorf("a name twice: %v", err)
	}
	if _, err := client.Post[api.View](ctx, w.admin, "/inventory/views", map[string]any{"name": "bad", "q": "nothing:x"}); !fault.Is(err, fault.Invalid) {
		t.Errorf("a query that does not parse: %v", err)
	}
	var changed api.View
	check(t, w.admin.Do(ctx, http.MethodPut, "/inventory/views/"+made.ID, nil, map[string]any{"name": "soon", "q": "expires:<7d", "sort": "-added"}, &changed))
	views, _, err := client.List[api.View](ctx, w.viewer, "/inventory/views", nil, 0)
	if err != nil || len(views) != 1 || views[0].Query != "expires:<7d" || views[0].Sort != "-added" || !strings.HasPrefix(views[0].CreatedBy, "token:") {
		t.Errorf("%+v %v", views, err)
	}
	check(t, w.admin.Do(ctx, http.MethodDelete, "/inventory/views/"+made.ID, nil, nil, nil))
	if err := w.admin.Do(ctx, http.MethodDelete, "/inventory/views/"+made.ID, nil, nil, nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("deleted twice: %v", err)
	}
}

func TestImportAndResults(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		c := w.issue(t, "www.shop.example.com")
		in := map[string]any{"name": "chain.pem", "data": base64.StdEncoding.EncodeToString(pki.EncodeChain(c.DER)), "owner": "shop", "tags": map[string]any{"from": "test"}}
		got, err := client.Post[api.Import](ctx, w.admin, "/inventory/import", in)
		if err != nil || got.New != 1 || got.Format != "pem" || len(got.Refused) != 0 {
			t.Fatal(got, err)
		}
		if again, err := client.Post[api.Import](ctx, w.admin, "/inventory/import", in); err != nil || again.New != 0 || again.Known+again.Changed != 1 {
			t.Errorf("again: %+v %v", again, err)
		}
		table := map[string]any{"name": "owners.csv", "data": base64.StdEncoding.EncodeToString([]byte("name,owner\nwww.shop.example.com,pay\n"))}
		if got, err := client.Post[api.Import](ctx, w.admin, "/inventory/import", table); err != nil || got.Assigned != 1 {
			t.Errorf("table: %+v %v", got, err)
		}
		bad := map[string]any{"name": "x.bin", "data": base64.StdEncoding.EncodeToString([]byte("nothing"))}
		if _, err := client.Post[api.Import](ctx, w.admin, "/inventory/import", bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("nonsense: %v", err)
		}
		// What we issued is found with its evidence, although the import came first.
		w.known(t)
		found := list(t, w, "name:www.shop.example.com")
		if len(found) != 1 || found[0].Owner != "pay" || len(found[0].Source) != 2 {
			t.Fatalf("%+v", found)
		}
		results := map[string]any{"certificates": []string{base64.StdEncoding.EncodeToString(c.DER)}, "reports": []map[string]any{
			{"host": "www.shop.example.com", "port": 443, "sni": "www.shop.example.com", "address": "192.0.2.1", "probe": "observe", "at": time.Now(), "chain": []int{0}},
			{"host": "old.shop.example.com", "port": 443, "probe": "observe", "at": time.Now(), "failure": "refused"}}}
		if done, err := client.Post[api.Stored](ctx, w.admin, "/scan/results", results); err != nil || done.Stored != 2 || len(done.Refused) != 0 {
			t.Fatal(done, err)
		}
		one, err := client.Get[api.KnownDetail](ctx, w.viewer, "/certs/"+found[0].ID, nil)
		if err != nil || len(one.Endpoints) != 1 || one.Endpoints[0].Address != "192.0.2.1" || one.Issuance == nil || one.Issuance.ID != c.ID || len(one.Tags) != 1 || strings.Count(one.Chain, "BEGIN") != 2 {
			t.Errorf("%+v %v", one, err)
		}
		failing, _, err := client.List[api.Endpoint](ctx, w.viewer, "/endpoints", url.Values{"failing": {"true"}}, 0)
		if err != nil || len(failing) != 1 || failing[0].Host != "old.shop.example.com" || failing[0].Failure != "refused" {
			t.Errorf("%+v %v", failing, err)
		}
		results["reports"] = []map[string]any{{"host": "a.example.com", "port": 443, "probe": "observe", "at": time.Now(), "chain": []int{7}}}
		if _, err := client.Post[api.Stored](ctx, w.admin, "/scan/results", results); !fault.Is(err, fault.Invalid) {
			t.Errorf("a certificate that is not there: %v", err)
		}
	})
}

func TestSchedules(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		spec := map[string]any{"name": "nightly", "targets": "inventory\n192.0.2.0/28", "interval": "1d"}
		made, err := client.Post[api.Schedule](ctx, w.admin, "/scan/schedules", spec)
		if err != nil || made.Interval != "1d" || made.Jitter != "2h24m" || made.Kind != "observe" || !made.Enabled || made.NextAt == nil {
			t.Fatal(made, err)
		}
		if _, err := client.Post[api.Schedule](ctx, w.admin, "/scan/schedules", spec); !fault.Is(err, fault.Conflict) {
			t.Errorf("a name twice: %v", err)
		}
		for _, bad := range []map[string]any{{"name": "x", "targets": "a b", "interval": "1d"}, {"name": "x", "targets": "a.test", "interval": "soon"}, {"name": "x", "targets": "a.test", "interval": "1s"}} {
			if _, err := client.Post[api.Schedule](ctx, w.admin, "/scan/schedules", bad); !fault.Is(err, fault.Invalid) {
				t.Errorf("%v: %v", bad, err)
			}
		}
		spec["enabled"], spec["interval"] = false, "2d"
		var changed api.Schedule
		check(t, w.admin.Do(ctx, http.MethodPut, "/scan/schedules/nightly", nil, spec, &changed))
		if changed.Enabled || changed.Interval != "2d" || changed.NextAt != nil {
			t.Errorf("%+v", changed)
		}
		if run, err := client.Post[api.Schedule](ctx, w.admin, "/scan/schedules/nightly/run", nil); err != nil || !run.Enabled {
			t.Errorf("%+v %v", run, err)
		}
		if _, err := client.Get[api.Pass](ctx, w.viewer, "/scan/passes/nothing", nil); !fault.Is(err, fault.NotFound) {
			t.Error(err)
		}
		check(t, w.admin.Do(ctx, http.MethodDelete, "/scan/schedules/"+made.ID, nil, nil, nil))
		if all, _, err := client.List[api.Schedule](ctx, w.viewer, "/scan/schedules", nil, 0); err != nil || len(all) != 0 {
			t.Errorf("%+v %v", all, err)
		}
	})
}
