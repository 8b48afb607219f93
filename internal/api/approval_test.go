package api_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/audit"
	"chancery/internal/ca"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/token"
)

// twoPeople is a world in which revocations need a second person.
func twoPeople(t *testing.T, url string, breakGlass bool) (w *world, operator, approver *client.Client) {
	w = newWorld(t, url, func(c *api.Config) {
		c.Approval = api.Approval{Operations: []string{"revoke-certificate", "revoke-certificates"}, BreakGlass: breakGlass}
	})
	operator = w.client(t, w.tokenOf(t, token.Spec{Name: "olga", Role: token.Operator}))
	approver = w.client(t, w.tokenOf(t, token.Spec{Name: "anna", Role: token.Approver}))
	return w, operator, approver
}

// held sends a request that must wait and returns its id.
func held(t *testing.T, c *client.Client, path string, body any) string {
	t.Helper()
	_, err := client.Post[map[string]any](context.Background(), c, path, body)
	h, ok := err.(*client.Held)
	if !ok {
		t.Fatalf("it was not held: %v", err)
	}
	return h.ID
}

func decide(c *client.Client, id string, approve bool) (api.ApprovalView, error) {
	return client.Post[api.ApprovalView](context.Background(), c, "/approvals/"+id+"/decision", map[string]any{"approve": approve, "comment": "seen"})
}

func TestTwoPeople(t *testing.T) {
	dbtest.EachURL(t, func(t *testing.T, url string) {
		ctx := context.Background()
		w, operator, approver := twoPeople(t, url, false)
		id := w.issue(t, "two.test").ID
		revoked := func() bool {
			c, err := ca.Get(ctx, w.db.Read(), id)
			check(t, err)
			return !c.RevokedAt.IsZero()
		}
		request := held(t, operator, "/certs/"+id+"/revoke", map[string]any{"reason": "superseded"})
		waiting, _, err := client.List[api.ApprovalView](ctx, approver, "/approvals", nil, 0)
		if err != nil || len(waiting) != 1 || waiting[0].ID != request || waiting[0].ActorName != "olga" || revoked() {
			t.Fatal(waiting, err, revoked())
		}
		if _, err := decide(operator, request, true); !fault.Is(err, fault.Forbidden) || revoked() {
			t.Fatal("an operator approved:", err)
		}
		// Many approve at once: it happens once.
		var wg sync.WaitGroup
		var mu sync.Mutex
		won := 0
		for range 8 {
			wg.Go(func() {
				v, err := decide(approver, request, true)
				mu.Lock()
				defer mu.Unlock()
				if err == nil && v.State == "done" && v.Status == 200 && v.DecidedBy != "" {
					won++
				} else if !fault.Is(err, fault.Conflict) {
					t.Error(v, err)
				}
			})
		}
		wg.Wait()
		if won != 1 || !revoked() {
			t.Errorf("%d approvals won, revoked %v", won, revoked())
		}
		// It ran as the one who asked, and the journal tells the whole story.
		events, err := audit.BySubject(ctx, w.db.Read(), "certificate:"+id, "", 10)
		check(t, err)
		if last := events[len(events)-1]; !strings.HasPrefix(last.Actor, "token:") || last.Actor == waiting[0].DecidedBy || last.Actor != waiting[0].Actor {
			t.Errorf("%+v", last)
		}
		story, err := audit.BySubject(ctx, w.db.Read(), "approval:"+request, "", 10)
		if err != nil || len(story) != 2 || story[0].Kind != "approval.request" || story[1].Kind != "approval.approve" {
			t.Error(story, err)
		}
		// Plans do not wait; a rejected, withdrawn or foreign request ends.
		if _, err := client.Post[api.Revocation](ctx, operator, "/certs/revoke", map[string]any{"q": "name:two.test", "dry_run": true}); err != nil {
			t.Error("a plan:", err)
		}
		id = w.issue(t, "three.test").ID
		request = held(t, operator, "/certs/"+id+"/revoke", map[string]any{})
		if v, err := decide(approver, request, false); err != nil || v.State != "rejected" || v.Comment != "seen" || revoked() {
			t.Error(v, err)
		}
		if _, err := decide(approver, request, true); !fault.Is(err, fault.Conflict) || revoked() {
			t.Error("a rejected request was approved", err)
		}
		request = held(t, operator, "/certs/"+id+"/revoke", map[string]any{})
		if err := approver.Do(ctx, http.MethodDelete, "/approvals/"+request, nil, nil, nil); !fault.Is(err, fault.Forbidden) {
			t.Error("somebody else withdrew it:", err)
		}
		check(t, operator.Do(ctx, http.MethodDelete, "/approvals/"+request, nil, nil, nil))
		if _, err := decide(approver, request, true); !fault.Is(err, fault.Conflict) || revoked() {
			t.Error("a withdrawn request was approved", err)
		}
	})
}

// Nobody approves their own request in another guise, an ended token's request
// never runs, and requests expire.
func TestApprovalsThatMustNotHappen(t *testing.T) {
	ctx := context.Background()
	w, operator, approver := twoPeople(t, dbtest.SQLiteURL(t), false)
	id := w.issue(t, "no.test").ID
	text := w.tokenOf(t, token.Spec{Name: "alone", Role: token.Admin})
	alone := w.client(t, text)
	request := held(t, alone, "/certs/"+id+"/revoke", map[string]any{})
	if _, err := decide(alone, request, true); !fault.Is(err, fault.Forbidden) {
		t.Error("the requester approved:", err)
	}
	cookie, csrf := w.signIn(t, text)
	resp, body := w.raw(t, "POST", "/api/v1/approvals/"+request+"/decision", `{"approve":true}`, "Cookie", cookie, "X-CSRF-Token", csrf, "Content-Type", "application/json")
	if resp.StatusCode != 403 {
		t.Error("the requester approved in a browser:", resp.Status, body)
	}
	if _, err := revoke(ctx, w.alone(t), id); !fault.Is(err, fault.Forbidden) {
		t.Error("break-glass is off:", err)
	}
	check(t, token.Revoke(ctx, w.db, text[len("cy_"):][:26], "test", now()))
	if _, err := decide(approver, request, true); !fault.Is(err, fault.Precondition) {
		t.Error("the request of an ended token ran:", err)
	}
	request = held(t, operator, "/certs/"+id+"/revoke", map[string]any{})
	check(t, w.api.Tick(ctx, time.Now().Add(73*time.Hour)))
	if _, err := decide(approver, request, true); !fault.Is(err, fault.Conflict) {
		t.Error("an expired request ran:", err)
	}
	if c, err := ca.Get(ctx, w.db.Read(), id); err != nil || !c.RevokedAt.IsZero() {
		t.Error("the certificate was revoked", err)
	}
	for _, bad := range []string{"list-certificates", "create-token", "decide-approval", "nothing"} {
		if _, err := api.New(api.Config{Approval: api.Approval{Operations: []string{bad}}}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s may wait for approval: %v", bad, err)
		}
	}
}

// alone returns an administrator who acts without a second person.
func (w *world) alone(t *testing.T) *client.Client {
	c, err := client.New(client.Config{Server: "http://chancery.test", Token: w.adminText(), HTTP: w.http, BreakGlass: "the root key is out"})
	check(t, err)
	return c
}

func revoke(ctx context.Context, c *client.Client, id string) (api.Certificate, error) {
	return client.Post[api.Certificate](ctx, c, "/certs/"+id+"/revoke", map[string]any{})
}

func TestBreakGlass(t *testing.T) {
	ctx := context.Background()
	w, _, _ := twoPeople(t, dbtest.SQLiteURL(t), true)
	id := w.issue(t, "glass.test").ID
	op, err := client.New(client.Config{Server: "http://chancery.test", Token: w.tokenOf(t, token.Spec{Name: "x", Role: token.Operator}), HTTP: w.http, BreakGlass: "me too"})
	check(t, err)
	if _, err := revoke(ctx, op, id); !fault.Is(err, fault.Forbidden) {
		t.Error("an operator acted alone:", err)
	}
	if c, err := revoke(ctx, w.alone(t), id); err != nil || c.RevokedAt == nil {
		t.Fatal(c, err)
	}
	story, err := audit.BySubject(ctx, w.db.Read(), "operation:revoke-certificate", "", 10)
	if err != nil || len(story) != 1 || !strings.Contains(story[0].Data, "the root key is out") {
		t.Error(story, err)
	}
}
