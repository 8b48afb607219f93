package api_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/fault"
)

func TestPolicies(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.known(t, hosts(5)...)
		var p api.Policy
		check(t, w.admin.Do(ctx, http.MethodPut, "/policies/no-p256", nil, map[string]any{"q": "key:p256 ca:no"}, &p))
		if p.Name != "no-p256" || p.Mode != "shadow" || p.Severity != "warning" || !strings.HasPrefix(p.CreatedBy, "token:") {
			t.Errorf("%+v", p)
		}
		r, err := client.Get[api.PolicyReport](ctx, w.viewer, "/inventory/violations", url.Values{"q": {p.Query}})
		if err != nil || r.Violations.Count != 5 || len(r.Sample) != 5 || r.ByOwner.Values[0] != (api.FacetValue{Value: "none", Count: 5}) || !strings.Contains(r.Query, "status:active") {
			t.Errorf("%+v %v", r, err)
		}
		if n := len(list(t, w, r.Query)); n != 5 {
			t.Errorf("the list of the report's query has %d", n)
		}
		if _, err := client.Get[api.PolicyReport](ctx, w.viewer, "/inventory/violations", url.Values{"q": {"colour:red"}}); !fault.Is(err, fault.Invalid) {
			t.Errorf("a query that does not parse: %v", err)
		}
		if err := w.admin.Do(ctx, http.MethodPut, "/policies/owned", nil, map[string]any{"q": "owner:none", "mode": "enforce"}, nil); !fault.Is(err, fault.Invalid) {
			t.Errorf("a policy that cannot be enforced: %v", err)
		}
		check(t, w.admin.Do(ctx, http.MethodPut, "/policies/another", nil, map[string]any{"q": "key:weak", "mode": "enforce", "severity": "critical", "note": "ask us"}, nil))
		all, _, err := client.List[api.Policy](ctx, w.viewer, "/policies", nil, 0)
		if err != nil || len(all) != 2 || all[0].Name != "another" || all[0].Note != "ask us" {
			t.Errorf("%+v %v", all, err)
		}
		page, err := client.Get[api.Page[api.Policy]](ctx, w.viewer, "/policies", url.Values{"limit": {"1"}})
		if err != nil || len(page.Items) != 1 || page.Next == "" {
			t.Errorf("%+v %v", page, err)
		}
		check(t, w.admin.Do(ctx, http.MethodDelete, "/policies/another", nil, nil, nil))
		if _, err := client.Get[api.Policy](ctx, w.viewer, "/policies/another", nil); !fault.Is(err, fault.NotFound) {
			t.Errorf("shown when deleted: %v", err)
		}
		events, _, err := client.List[api.Event](ctx, w.viewer, "/journal", url.Values{"subject": {"policy:another"}}, 0)
		if err != nil || len(events) != 2 || events[0].Kind != "policy.put" || events[1].Kind != "policy.delete" {
			t.Errorf("%+v %v", events, err)
		}
	})
}

func TestBillOfMaterials(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.known(t, hosts(5)...)
		var b bytes.Buffer
		check(t, w.viewer.Stream(ctx, "/inventory/cbom", url.Values{"q": {"name:*.pay.example.com"}}, &b))
		var doc struct {
			SpecVersion string
			Components  []struct{ Name string }
		}
		check(t, json.Unmarshal(b.Bytes(), &doc))
		if doc.SpecVersion != "1.6" || len(doc.Components) != 5+5+2 { // certificates, keys, key algorithm and signature algorithm
			t.Errorf("%s: %d components", doc.SpecVersion, len(doc.Components))
		}
		resp, _ := w.raw(t, "GET", "/api/v1/inventory/cbom", "", "Authorization", "Bearer "+w.adminText())
		if kind := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || !strings.HasPrefix(kind, "application/vnd.cyclonedx+json") || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%d %s %v", resp.StatusCode, kind, resp.Header)
		}
		if err := w.viewer.Stream(ctx, "/inventory/cbom", url.Values{"q": {"colour:red"}}, &b); !fault.Is(err, fault.Invalid) {
			t.Errorf("a query that does not parse: %v", err)
		}
	})
}
