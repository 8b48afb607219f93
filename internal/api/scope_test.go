package api_test

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/token"
)

// mark is in every name, owner and label of what the other side has.
const mark = "shopmark"

// sides is a world in which two owners have a managed certificate each, of which
// the inventory and the books of the CA know.
type sides struct {
	*world
	pay, shop api.Managed
	limited   *client.Client // an administrator of what "pay" owns
}

func newSides(t *testing.T, w *world) *sides {
	t.Helper()
	w.renewing(t)
	s := &sides{world: w}
	for owner, m := range map[string]*api.Managed{"pay": &s.pay, mark: &s.shop} {
		_, err := client.Post[api.Managed](ctx, w.admin, "/managed", map[string]any{"name": "web-" + owner, "names": []string{owner + ".example.test"}, "issuer": "own",
			"owner": owner, "endpoints": []string{owner + ".example.test:443"}})
		check(t, err)
		*m = w.managed(t, "web-"+owner, func(m api.Managed) bool { return m.State == "idle" && m.Certificate != "" })
	}
	w.known(t) // what the journal tells the inventory
	_, err := client.Post[api.View](ctx, w.admin, "/inventory/views", map[string]any{"name": "of " + mark, "q": "owner:" + mark})
	check(t, err)
	s.limited = w.client(t, w.tokenOf(t, token.Spec{Name: "x", Role: token.Admin, Scope: token.Scope{Owners: []string{"pay"}}}))
	return s
}

// reads returns the path of every operation that reads, with ids put in.
func reads(t *testing.T, ids ...string) (paths []string) {
	t.Helper()
	_, doc := openapi(t)
	for path, methods := range doc.Paths {
		if _, ok := methods["get"]; !ok {
			continue
		}
		path = strings.TrimPrefix(path, api.Prefix)
		for _, id := range ids {
			p := strings.NewReplacer("{id}", id, "{seq}", "1").Replace(path)
			if !slices.Contains(paths, p) {
				paths = append(paths, p)
			}
		}
	}
	return paths
}

// TestScopeShowsNothingOfOthers asks every operation that reads for what
// somebody else owns, by its id and without one, and by queries that name the
// other owner. Whoever may see everything finds it that way; who is limited to
// another owner never does.
func TestScopeShowsNothingOfOthers(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		s := newSides(t, w)
		shop, err := client.Get[api.KnownDetail](ctx, w.viewer, "/certs/"+s.shop.Certificate, nil)
		check(t, err)
		paths := reads(t, s.shop.ID, s.shop.Certificate, shop.Fingerprint)
		for _, q := range []string{"owner:" + mark, "name:" + mark + ".example.test", "id:" + s.shop.Certificate, "serial:" + shop.Serial, mark, "fingerprint:" + shop.Fingerprint, "status:any",
			"owner:" + mark + " owner:pay", "endpoint:" + mark + ".example.test", "expires:<3y"} {
			for _, path := range []string{"/certs", "/certs?sort=-added", "/certs?sort=seen", "/inventory/facets", "/inventory/timeline?by=status", "/inventory/timeline?by=owner", "/issued"} {
				join := map[bool]string{true: "&", false: "?"}[strings.Contains(path, "?")]
				paths = append(paths, path+join+"q="+url.QueryEscape(q))
			}
		}
		shown := 0
		for _, path := range paths {
			ask := func(c *client.Client) string {
				var body []byte
				if err := c.Do(ctx, http.MethodGet, path, nil, nil, &body); err != nil {
					return ""
				}
				return string(body)
			}
			if body := ask(w.admin); strings.Contains(body, mark) || strings.Contains(body, s.shop.ID) {
				shown++ // and is remembered, where answers are
			}
			body := ask(s.limited)
			for _, secret := range []string{mark, s.shop.ID, s.shop.Certificate, shop.Fingerprint, shop.Serial} {
				if strings.Contains(body, secret) {
					t.Errorf("GET %s shows %s of somebody else: %.300s", path, secret, body)
				}
			}
		}
		if shown < 30 {
			t.Errorf("only %d answers show what is to be hidden: the test proves little", shown)
		}
	})
}

// TestScopeShowsItsPart: who is limited to an owner sees and works with what
// that owner has.
func TestScopeShowsItsPart(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		s := newSides(t, w)
		found, _, err := client.List[api.Known](ctx, s.limited, "/certs", nil, 0)
		check(t, err)
		if len(found) != 1 || found[0].ID != s.pay.Certificate {
			t.Errorf("certificates: %+v", found)
		}
		count, err := client.Get[api.Count](ctx, s.limited, "/inventory/count", nil)
		check(t, err)
		facets, err := client.Get[api.Facets](ctx, s.limited, "/inventory/facets", url.Values{"by": {"owner,status,issuer,key,managed"}})
		check(t, err)
		for _, f := range facets.Facets {
			if len(f.Values) != 1 || f.Values[0].Count != 1 || f.Other != 0 {
				t.Errorf("facet %s: %+v", f.By, f)
			}
		}
		days, err := client.Get[api.Timeline](ctx, s.limited, "/inventory/timeline", url.Values{"by": {"owner"}})
		check(t, err)
		if count.Count != 1 || len(days.Buckets) != 1 || days.Buckets[0].Value != "pay" || days.Buckets[0].Count != 1 {
			t.Errorf("%+v %+v", count, days)
		}
		managed, more, err := client.List[api.Managed](ctx, s.limited, "/managed", nil, 0)
		check(t, err)
		if len(managed) != 1 || more || managed[0].ID != s.pay.ID {
			t.Errorf("managed: %+v", managed)
		}
		if _, err := client.Get[api.Explanation](ctx, s.limited, "/managed/web-pay/explain", nil); err != nil {
			t.Error(err)
		}
		var file []byte
		check(t, s.limited.Do(ctx, http.MethodGet, "/certs/"+s.pay.Certificate+"/download", nil, nil, &file))
		if !strings.HasPrefix(string(file), "-----BEGIN CERTIFICATE") {
			t.Errorf("download: %.40q", file)
		}
		for _, path := range []string{"/managed/web-pay/pause", "/managed/web-pay/resume", "/managed/web-pay/renew"} {
			if _, err := client.Post[api.Managed](ctx, s.limited, path, nil); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		w.managed(t, "web-pay", func(m api.Managed) bool { return m.State == "idle" && m.Certificate != s.pay.Certificate })
		many, err := client.Post[api.ManyRenewed](ctx, s.limited, "/managed/renew", map[string]any{"owner": "pay", "dry_run": true})
		if err != nil || many.Matched != 1 {
			t.Errorf("%+v %v", many, err)
		}
		if _, err := client.Post[api.Certificate](ctx, s.limited, "/certs/"+s.pay.Certificate+"/revoke", map[string]any{"reason": "superseded"}); err != nil {
			t.Error(err)
		}
	})
}

// TestScopeChangesNothingOfOthers tries what a limited administrator may do at
// all on what somebody else owns, by every name that it has.
func TestScopeChangesNothingOfOthers(t *testing.T) {
	w := newWorld(t, dbtest.SQLiteURL(t), func(c *api.Config) { c.Approval.Operations = []string{"renew-many"} })
	s := newSides(t, w)
	resp, _ := w.raw(t, "POST", "/api/v1/managed/renew", `{"owner":"`+mark+`"}`, "Authorization", "Bearer "+w.adminText(), "Content-Type", "application/json")
	held := resp.Header.Get("X-Approval")
	if held == "" {
		t.Fatal(resp.Status)
	}
	refs := []string{s.shop.ID, "web-" + mark, s.shop.Certificate}
	before := w.rows(t)
	for _, ref := range refs {
		for _, act := range []string{"renew", "pause", "resume"} {
			if _, err := client.Post[api.Managed](ctx, s.limited, "/managed/"+ref+"/"+act, nil); !fault.Is(err, fault.NotFound) {
				t.Errorf("%s %s: %v", act, ref, err)
			}
		}
	}
	for _, ref := range refs[2:] {
		if _, err := client.Post[api.Certificate](ctx, s.limited, "/certs/"+ref+"/revoke", map[string]any{"reason": "superseded"}); !fault.Is(err, fault.NotFound) {
			t.Errorf("revoke %s: %v", ref, err)
		}
	}
	if err := s.limited.Do(ctx, http.MethodDelete, "/approvals/"+held, nil, nil, nil); err == nil {
		t.Error("a request of somebody else was withdrawn")
	}
	if _, err := client.Get[api.ApprovalView](ctx, s.limited, "/approvals/"+held, nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("a request of somebody else: %v", err)
	}
	if waiting, _, err := client.List[api.ApprovalView](ctx, s.limited, "/approvals", nil, 0); err != nil || len(waiting) != 0 {
		t.Errorf("requests of somebody else: %+v, %v", waiting, err)
	}
	if after := w.rows(t); after != before {
		t.Errorf("something changed:\n%s\nbefore:\n%s", after, before)
	}
}

// A bulk renewal must name an owner within the limit: the other conditions
// would reach further.
func TestScopeOfBulkRenewals(t *testing.T) {
	w := newWorld(t, dbtest.SQLiteURL(t))
	s := newSides(t, w)
	for _, in := range []map[string]any{{"owner": mark}, {"issuer": "own"}, {"ends": "900d"}, {"owner": "", "issuer": "own"}, {"owner": "pay*"}} {
		in["dry_run"] = true
		got, err := client.Post[api.ManyRenewed](ctx, s.limited, "/managed/renew", in)
		if !fault.Is(err, fault.Forbidden) {
			t.Errorf("%v: %+v %v", in, got, err)
		}
	}
}

// rows are the managed certificates, revocations and requests, as text.
func (w *world) rows(t *testing.T) string {
	t.Helper()
	var kept []string
	for line := range strings.Lines(dump(t, w)) {
		for _, table := range []string{`"managed"`, `"managed_schedule"`, `"certificate"`, `"api_request"`, `"inventory"`} {
			if strings.Contains(line[:min(len(line), 60)], table) {
				kept = append(kept, line)
			}
		}
	}
	if len(kept) == 0 {
		t.Fatal("the dump has no rows")
	}
	return strings.Join(kept, "")
}

// TestScopeOfAuthorities: a limit to authorities or profiles holds for the books
// of the CA, and shuts what cannot be held against it.
func TestScopeOfAuthorities(t *testing.T) {
	w := newWorld(t, dbtest.SQLiteURL(t))
	c := w.issue(t, "a.example.test")
	w.known(t)
	for _, tt := range []struct {
		name  string
		scope token.Scope
		sees  bool
	}{
		{"its authority", token.Scope{CAs: []string{"default"}}, true},
		{"a pattern", token.Scope{CAs: []string{"def*"}}, true},
		{"its profile", token.Scope{Profiles: []string{"tls"}}, true},
		{"both", token.Scope{CAs: []string{"default"}, Profiles: []string{"tls"}}, true},
		{"another authority", token.Scope{CAs: []string{"other"}}, false},
		{"another profile", token.Scope{Profiles: []string{"short"}}, false},
		{"its authority, another profile", token.Scope{CAs: []string{"default"}, Profiles: []string{"short"}}, false},
		{"an owner it does not have", token.Scope{Owners: []string{"*"}, CAs: []string{"default"}}, false},
	} {
		limited := w.client(t, w.tokenOf(t, token.Spec{Name: "x", Role: token.Operator, Scope: tt.scope}))
		issued, _, err := client.List[api.Certificate](ctx, limited, "/issued", nil, 0)
		if seen := err == nil && len(issued) > 0; seen != tt.sees || err != nil && len(tt.scope.Owners) == 0 {
			t.Errorf("%s: the books show %d, %v", tt.name, len(issued), err)
		}
		if _, err := client.Get[api.KnownDetail](ctx, limited, "/certs/"+c.ID, nil); (err == nil) != tt.sees || !tt.sees && !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: the certificate: %v", tt.name, err)
		}
		if err := limited.Do(ctx, http.MethodGet, "/certs", nil, nil, nil); !fault.Is(err, fault.Forbidden) {
			t.Errorf("%s: the inventory: %v", tt.name, err)
		}
	}
	// Whoever may see it may revoke it, and nobody else.
	other := w.client(t, w.tokenOf(t, token.Spec{Name: "x", Role: token.Operator, Scope: token.Scope{CAs: []string{"other"}}}))
	own := w.client(t, w.tokenOf(t, token.Spec{Name: "x", Role: token.Operator, Scope: token.Scope{CAs: []string{"default"}}}))
	revoke := func(by *client.Client) error {
		_, err := client.Post[api.Certificate](context.Background(), by, "/certs/"+c.ID+"/revoke", map[string]any{"reason": "superseded"})
		return err
	}
	if err := revoke(other); !fault.Is(err, fault.NotFound) {
		t.Errorf("revoked by another: %v", err)
	}
	if err := revoke(own); err != nil {
		t.Error(err)
	}
}

// What is remembered for those who see everything is never shown to one who
// does not, and a tag of theirs proves nothing.
func TestScopeAndMemory(t *testing.T) {
	w := newWorld(t, dbtest.SQLiteURL(t))
	s := newSides(t, w)
	text := w.tokenOf(t, token.Spec{Name: "x", Role: token.Viewer, Scope: token.Scope{Owners: []string{"pay"}}})
	for range 2 {
		resp, body := w.raw(t, "GET", "/api/v1/certs?limit=5", "", "Authorization", "Bearer "+w.adminText())
		if resp.StatusCode != 200 || !strings.Contains(body, mark) {
			t.Fatal(resp.Status, body)
		}
		resp, body = w.raw(t, "GET", "/api/v1/certs?limit=5", "", "Authorization", "Bearer "+text, "If-None-Match", resp.Header.Get("ETag"))
		if resp.StatusCode != 200 || strings.Contains(body, mark) || !strings.Contains(body, s.pay.Certificate) {
			t.Error(resp.Status, body)
		}
		if resp.Header.Get("ETag") != "" || resp.Header.Get("Cache-Control") != "no-store" {
			t.Error(resp.Header)
		}
	}
}

// TestScopeOfApprovals: whoever is limited sees what they asked for themselves,
// and may take it back.
func TestScopeOfApprovals(t *testing.T) {
	w := newWorld(t, dbtest.SQLiteURL(t), func(c *api.Config) { c.Approval.Operations = []string{"renew-many"} })
	text := w.tokenOf(t, token.Spec{Name: "x", Role: token.Operator, Scope: token.Scope{Owners: []string{"pay"}}})
	limited := w.client(t, text)
	for _, by := range []string{w.adminText(), text} {
		if resp, body := w.raw(t, "POST", "/api/v1/managed/renew", `{"owner":"pay"}`, "Authorization", "Bearer "+by, "Content-Type", "application/json"); resp.Header.Get("X-Approval") == "" {
			t.Fatal(resp.Status, body)
		}
	}
	waiting, _, err := client.List[api.ApprovalView](ctx, limited, "/approvals", nil, 0)
	if err != nil || len(waiting) != 1 || waiting[0].ActorName != "x" {
		t.Fatalf("%+v, %v", waiting, err)
	}
	check(t, limited.Do(ctx, http.MethodDelete, "/approvals/"+waiting[0].ID, nil, nil, nil))
	if all, _, err := client.List[api.ApprovalView](ctx, w.admin, "/approvals", nil, 0); err != nil || len(all) != 1 || all[0].ID == waiting[0].ID {
		t.Errorf("%+v, %v", all, err)
	}
}
