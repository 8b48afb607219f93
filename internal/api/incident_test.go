package api_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/ca"
	"chancery/internal/ca/catest"
	"chancery/internal/db"
	"chancery/internal/fault"
)

// fill stores n certificates under *.seed.example and returns ids and serials.
func (w *world) fill(t *testing.T, n int) (ids, serials []string) {
	t.Helper()
	a, err := w.ca.Issuing("default")
	check(t, err)
	ids, found, err := catest.Fill(ctx, w.db, catest.Spec{Authority: a, URLs: w.ca.URLs(), N: n, Names: true, IssuedAt: time.Now().Add(-time.Minute)})
	check(t, err)
	for _, s := range found {
		serials = append(serials, s.Hex())
	}
	return ids, serials
}

// work lets incidents work until nothing is due.
func (w *world) work(t *testing.T) {
	t.Helper()
	for {
		n, err := w.ca.RunIncidents(ctx)
		check(t, err)
		if !n.More {
			return
		}
	}
}

func (w *world) detail(t *testing.T, id string) api.CertificateDetail {
	t.Helper()
	k, err := client.Get[api.KnownDetail](ctx, w.viewer, "/certs/"+id, nil)
	check(t, err)
	if k.Issuance == nil {
		t.Fatalf("%s does not say how it was issued", id)
	}
	return *k.Issuance
}

// TestIncidentFromPlanToRevocation: the plan changes nothing, what is made is
// what was planned, and afterwards each certificate tells of its incident.
func TestIncidentFromPlanToRevocation(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ids, _ := w.fill(t, 1300)
		ask := api.IncidentRequest{Name: "wrong policy", ExplanationURL: "https://pki.test/7", Query: "*.seed.example", Reason: "superseded", DryRun: true}
		plan, err := client.Post[api.IncidentPlan](ctx, w.admin, "/incidents", ask)
		if err != nil || plan.Matched != 1300 || !plan.Whole || len(plan.Sample) != 20 || plan.Incident != nil || plan.Plan == "" {
			t.Fatalf("%+v %v", plan, err)
		}
		if all, _, err := client.List[api.Incident](ctx, w.viewer, "/incidents", nil, 0); err != nil || len(all) != 0 {
			t.Fatalf("a plan made %v, %v", all, err)
		}
		ask.DryRun = false
		if _, err := client.Post[api.IncidentPlan](ctx, w.admin, "/incidents", ask); !fault.Is(err, fault.Precondition) {
			t.Fatalf("1300 certificates without confirm: %v", err)
		}
		ask.Confirm, ask.Plan = true, "0123"
		if _, err := client.Post[api.IncidentPlan](ctx, w.admin, "/incidents", ask); !fault.Is(err, fault.Conflict) {
			t.Fatalf("another plan: %v", err)
		}
		ask.Plan = plan.Plan
		before := w.changes.get()
		made, err := client.Post[api.IncidentPlan](ctx, w.admin, "/incidents", ask)
		if err != nil || made.Incident == nil || made.Incident.State != ca.IncidentMarking || w.changes.get() == before {
			t.Fatalf("%+v %v", made, err)
		}
		w.work(t)
		got, err := client.Get[api.Incident](ctx, w.viewer, "/incidents/"+made.Incident.ID, nil)
		if err != nil || got.Marked != 1300 || got.Revoked != 1300 || got.Left != 0 || got.Query != "*.seed.example" || got.Reason != "superseded" {
			t.Errorf("%+v %v", got, err)
		}
		for _, id := range []string{ids[0], ids[700], ids[1299]} {
			v := w.detail(t, id)
			kinds := []string{}
			for _, e := range v.Events {
				kinds = append(kinds, e.Kind)
				if e.Subject != "incident:"+got.ID {
					t.Errorf("%+v", e)
				}
			}
			if v.Incident != got.ID || v.Status != ca.StatusRevoked || !slices.Equal(kinds, []string{"incident.create", "certificate.revoke_batch"}) {
				t.Errorf("%s: %+v", id, v)
			}
			batch := v.Events[1].Data
			if batch["reason"] != "superseded" || batch["certificates"] != nil || batch["revoked_together"].(float64) < 300 {
				t.Errorf("of the others only their number is told: %v", batch)
			}
		}
		if _, err := client.Post[api.Incident](ctx, w.admin, "/incidents/"+got.ID+"/cancel", nil); !fault.Is(err, fault.Conflict) {
			t.Errorf("cancelled after it revoked: %v", err)
		}
	})
}

// TestIncidentIsMadeOnce: the same key and request is one incident, another
// request with the key is refused, and somebody else's key is another key.
func TestIncidentIsMadeOnce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		_, serials := w.fill(t, 3)
		ask := api.IncidentRequest{Name: "leak", Certificates: serials[:2], Reason: "keyCompromise", RevokeAt: "5d"}
		post := func(c *client.Client, key string) (api.Incident, error) {
			v, err := client.PostOnce[api.IncidentPlan](ctx, c, "/incidents", key, ask)
			if err != nil {
				return api.Incident{}, err
			}
			return *v.Incident, nil
		}
		first, err := post(w.admin, "k1")
		check(t, err)
		if d := time.Until(first.RevokeAt); d < 119*time.Hour || d > 120*time.Hour || first.Listed != 2 {
			t.Errorf("%+v", first)
		}
		w.work(t)
		again, err := post(w.admin, "k1")
		if err != nil || again.ID != first.ID || again.State != ca.IncidentWaiting || again.Marked != 2 {
			t.Errorf("%+v %v", again, err)
		}
		ask.Reason = "superseded"
		if _, err := post(w.admin, "k1"); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), first.ID) {
			t.Errorf("another request with the key: %v", err)
		}
		made, err := client.Post[api.NewToken](ctx, w.admin, "/tokens", map[string]any{"name": "other", "role": "admin"})
		check(t, err)
		if other, err := post(w.client(t, made.Secret), "k1"); err != nil || other.ID == first.ID {
			t.Errorf("%+v %v", other, err)
		}
		if one, err := post(w.admin, ""); err != nil || one.ID == first.ID {
			t.Errorf("%+v %v", one, err)
		}
		// Cancelling is done once and may be asked twice.
		for range 2 {
			v, err := client.Post[api.Incident](ctx, w.admin, "/incidents/"+first.ID+"/cancel", nil)
			if err != nil || v.State != ca.IncidentCancelled || v.FinishedAt == nil {
				t.Errorf("%+v %v", v, err)
			}
		}
		all, more, err := client.List[api.Incident](ctx, w.viewer, "/incidents", nil, 2)
		if err != nil || len(all) != 2 || !more || all[0].CreatedAt.Before(all[1].CreatedAt) {
			t.Errorf("%+v %v %v", all, more, err)
		}
		if all, _, err := client.List[api.Incident](ctx, w.viewer, "/incidents", nil, 0); err != nil || len(all) != 3 || all[2].ID != first.ID {
			t.Errorf("%+v %v", all, err)
		}
	})
}

// TestIncidentRefusals: nothing that was not fully understood is begun.
func TestIncidentRefusals(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ids, serials := w.fill(t, 2)
		good := func() map[string]any {
			return map[string]any{"name": "n", "certificates": []string{ids[0], strings.ToUpper(serials[1])}}
		}
		for name, c := range map[string]struct {
			change map[string]any
			want   fault.Code
			text   string
		}{
			"no name":        {map[string]any{"name": ""}, fault.Invalid, ""},
			"nothing":        {map[string]any{"certificates": nil}, fault.Invalid, "by a query or by a list"},
			"both":           {map[string]any{"q": "x.test"}, fault.Invalid, "by a query or by a list"},
			"unknown":        {map[string]any{"certificates": []string{ids[0], "00ff", "www", db.NewID(time.Now())}}, fault.NotFound, `3 of 4 list entries name no certificate: "00ff", "www"`},
			"bad query":      {map[string]any{"certificates": nil, "q": "owner:x"}, fault.Invalid, "known are"},
			"bad reason":     {map[string]any{"reason": "certificateHold"}, fault.BadRevocationReason, ""},
			"bad URL":        {map[string]any{"explanation_url": "javascript:alert(1)"}, fault.Invalid, "http(s) URL"},
			"bad time":       {map[string]any{"revoke_at": "soon"}, fault.Invalid, "neither an instant"},
			"past":           {map[string]any{"revoke_at": "2020-01-01T00:00:00Z"}, fault.Invalid, "in the past"},
			"keys":           {map[string]any{"block_keys": true}, fault.Invalid, "keyCompromise only"},
			"unknown member": {map[string]any{"revokeat": "5d"}, fault.Invalid, ""},
		} {
			body := good()
			for k, v := range c.change {
				body[k] = v
			}
			_, err := client.Post[api.IncidentPlan](ctx, w.admin, "/incidents", body)
			if !fault.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := client.PostOnce[api.IncidentPlan](ctx, w.admin, "/incidents", "two words", good()); !fault.Is(err, fault.Invalid) {
			t.Errorf("key with a space: %v", err)
		}
		if all, _, err := client.List[api.Incident](ctx, w.viewer, "/incidents", nil, 0); err != nil || len(all) != 0 {
			t.Errorf("%v %v", all, err)
		}
		if _, err := client.Get[api.Incident](ctx, w.viewer, "/incidents/nothing", nil); !fault.Is(err, fault.NotFound) {
			t.Error(err)
		}
		if _, err := client.Post[api.IncidentPlan](ctx, w.admin, "/incidents", good()); err != nil {
			t.Error("what was changed above is good as it is:", err)
		}
	})
}

// TestIncidentTakesLongLists: a body that no other operation would take.
func TestIncidentTakesLongLists(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		_, serials := w.fill(t, 8000)
		plan, err := client.Post[api.IncidentPlan](ctx, w.admin, "/incidents", api.IncidentRequest{Name: "many", Certificates: append(serials, serials[0]), DryRun: true})
		if err != nil || plan.Matched != 8000 || !plan.Whole {
			t.Errorf("%d %v %v", plan.Matched, plan.Whole, err)
		}
		resp, body := w.raw(t, http.MethodPost, "/api/v1/certs/revoke", `{"q":"`+strings.Repeat("x", 300<<10)+`"}`, "Authorization", "Bearer "+w.adminText(), "Content-Type", "application/json")
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%d %.200s", resp.StatusCode, body)
		}
	})
}

// TestFindingsAreShown: with their certificate and as a list that pages.
func TestFindingsAreShown(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		if c, err := client.Get[api.Checker](ctx, w.viewer, "/checker", nil); err != nil || len(c.Walks) != 0 {
			t.Errorf("%+v %v", c, err)
		}
		// These have the signature of a key that is not the authority's, and no
		// journal: the checker must say so.
		ids, _ := w.fill(t, 5)
		check(t, w.db.Write(ctx, func(tx *db.Tx) error { _, err := tx.Exec(ctx, qAgeForTest, time.Hour); return err }))
		checker := ca.NewChecker(w.ca, ca.CheckerConfig{Rate: 100})
		_, err := checker.Tick(ctx)
		check(t, err)
		all, _, err := client.List[api.CertificateFinding](ctx, w.viewer, "/findings", nil, 0)
		check(t, err)
		if len(all) < 10 {
			t.Fatalf("%+v", all)
		}
		seen := map[string]bool{}
		for page, err := range client.Pages[api.CertificateFinding](ctx, w.viewer, "/findings", nil, 1) {
			check(t, err)
			for _, f := range page.Items {
				seen[fmt.Sprint(f)] = true
			}
		}
		if len(seen) != len(all) {
			t.Errorf("one by one there are %d, at once %d", len(seen), len(all))
		}
		v := w.detail(t, ids[3])
		if !slices.ContainsFunc(v.Findings, func(f api.CertificateFinding) bool { return f.Finding == "signature" && f.Certificate == ids[3] }) {
			t.Errorf("%+v", v.Findings)
		}
		if c, err := client.Get[api.Checker](ctx, w.viewer, "/checker", nil); err != nil || len(c.Walks) != 2 || c.Walks[0].FinishedAt == nil {
			t.Errorf("%+v %v", c, err)
		}
		if err := w.viewer.Do(ctx, http.MethodGet, "/findings", url.Values{"cursor": {"azpub25zZW5zZQ"}}, nil, nil); !fault.Is(err, fault.Invalid) {
			t.Errorf("a cursor of another list: %v", err)
		}
	})
}

var qAgeForTest = db.SQL("api_test.age_certificates", `UPDATE certificate SET created_at = created_at - $1::bigint`, db.Scan("a handful"))
