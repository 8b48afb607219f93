package api_test

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/token"
)

// document is the part of docs/openapi.yaml that the tests read.
type document struct {
	Paths map[string]map[string]struct {
		OperationID string                `yaml:"operationId"`
		Security    []map[string][]string `yaml:"security"`
		Description string                `yaml:"description"`
	} `yaml:"paths"`
}

func openapi(t *testing.T) (text []byte, doc document) {
	t.Helper()
	s, err := api.New(api.Config{})
	check(t, err)
	text, err = s.OpenAPI()
	check(t, err)
	check(t, yaml.Unmarshal(text, &doc))
	return text, doc
}

func TestOpenAPIDocumentIsFresh(t *testing.T) {
	text, _ := openapi(t)
	stored, err := os.ReadFile("../../docs/openapi.yaml")
	check(t, err)
	if !bytes.Equal(text, stored) {
		t.Error("docs/openapi.yaml is not what the program would write; run go generate ./internal/api")
	}
}

// allowed is who may call what: every operation that is not in a list is for
// administrators only, so that to widen it is a decision that shows here.
var allowed = map[token.Permission][]string{
	token.Public: {"get-health", "get-version", "get-openapi", "get-session", "open-session", "list-sign-ins"},
	token.Read: {"list-certificates", "get-certificate", "download-certificate", "list-authorities", "get-authority",
		"list-profiles", "get-profile", "list-journal", "verify-journal", "export-journal", "list-checkpoints",
		"list-journal-keys", "prove-entry", "prove-consistency", "get-summary", "get-load",
		"list-accounts", "get-account", "list-orders", "get-order", "get-authorization", "list-limits", "list-limit-overrides",
		"list-managed", "get-managed", "explain-managed", "list-queues", "plan-renewals", "list-drift", "list-drills", "get-drill",
		"list-issued", "list-inventory", "count-inventory", "list-facets", "list-timeline", "list-endpoints", "list-views", "export-cbom", "list-policies", "get-policy", "check-policy",
		"list-schedules", "get-schedule", "list-passes", "get-pass", "list-incidents", "get-incident", "list-findings", "get-checker",
		"list-ct-logs", "get-ct-log", "list-ct-findings", "get-ct-finding", "list-sources", "get-source", "list-source-items",
		"close-session", "list-approvals", "get-approval", "withdraw-approval", "list-delegations", "get-delegation", "list-agents", "get-agent", "list-assignments", "get-fleet", "list-fleet-assignments", "get-assignment",
		"list-alerts", "list-alert-rules", "list-alert-kinds", "list-alert-silences", "list-alert-deliveries", "get-alert-delivery", "list-alert-channels"},
	token.Audit: {"list-tokens", "list-agent-tokens"},
	token.Operate: {"revoke-certificate", "revoke-certificates", "deactivate-account", "create-incident", "cancel-incident",
		"plan-edit", "edit-inventory", "import-certificates", "create-view", "update-view", "delete-view",
		"create-schedule", "update-schedule", "delete-schedule", "run-schedule", "cancel-pass", "store-results",
		"run-source", "check-source", "reset-ct-log", "acknowledge-ct-finding",
		"create-managed", "adopt-managed", "update-managed", "remove-managed", "renew-managed", "renew-many", "pause-managed", "resume-managed", "change-queue", "start-drill", "revoke-agent", "create-assignment", "delete-assignment", "renew-assignment",
		"preview-alert-rule", "create-alert-silence", "end-alert-silence", "test-alert-channel"},
	token.Approve: {"decide-approval"},
}

// scopedToo are the operations that change something and that somebody whose
// scope is a part of the estate may try: they judge it themselves.
var scopedToo = []string{"open-session", "revoke-certificate", "close-session", "withdraw-approval"}

// needs returns the permission that a test expects an operation to need.
func needs(operation string) token.Permission {
	for p, list := range allowed {
		if contains(list, operation) {
			return p
		}
	}
	return token.Administer
}

// TestWhatEachRoleMustNotDo calls every operation as everybody.
func TestWhatEachRoleMustNotDo(t *testing.T) {
	w := newWorld(t, dbtest.SQLiteURL(t))
	_, doc := openapi(t)
	ended := w.tokenOf(t, token.Spec{Name: "ended", Role: token.Admin})
	check(t, token.Revoke(context.Background(), w.db, ended[len("cy_"):][:26], "test", now()))
	type person struct {
		client *client.Client
		role   token.Role
		scoped bool
	}
	everybody := map[string]person{"nobody": {client: w.client(t, "")}, "revoked admin": {client: w.client(t, ended)},
		"stranger": {client: w.client(t, "cy_"+db.NewID(now())+"_"+strings.Repeat("A", 43))}}
	for _, role := range token.Roles {
		if role == token.Admin {
			continue // would change what the others look at
		}
		everybody[string(role)] = person{client: w.client(t, w.tokenOf(t, token.Spec{Name: "x", Role: role})), role: role}
	}
	everybody["scoped admin"] = person{client: w.client(t, w.tokenOf(t, token.Spec{Name: "x", Role: token.Admin, Scope: token.Scope{CAs: []string{"other"}}})), role: token.Admin, scoped: true}
	calls := 0
	for path, methods := range doc.Paths {
		for method, op := range methods {
			target := strings.TrimPrefix(path, api.Prefix)
			target = strings.NewReplacer("{id}", "nothing", "{kid}", "nothing", "{seq}", "1").Replace(target)
			for who, p := range everybody {
				calls++
				var body any
				if method != "get" && method != "delete" {
					body = map[string]any{"nonsense": true}
				}
				err := p.client.Do(context.Background(), strings.ToUpper(method), target, nil, body, nil)
				need, want := needs(op.OperationID), fault.Code("")
				switch {
				case need == token.Public:
				case p.role == "":
					want = fault.Unauthorized
				case !p.role.Allows(need), p.scoped && method != "get" && !contains(scopedToo, op.OperationID):
					want = fault.Forbidden
				}
				denied := fault.Is(err, fault.Unauthorized) || fault.Is(err, fault.Forbidden)
				if want == "" && denied || want != "" && !fault.Is(err, want) {
					t.Errorf("%s as %s: %v, want %q", op.OperationID, who, err, want)
				}
			}
			if (len(op.Security) > 0) == (needs(op.OperationID) == token.Public) {
				t.Errorf("%s: the document and the access table disagree on whether a token is needed", op.OperationID)
			}
		}
	}
	if calls < 25*len(everybody) {
		t.Errorf("only %d calls were made", calls)
	}
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

func TestAuthenticationChallenge(t *testing.T) { // RFC 6750 section 3
	w := newWorld(t, dbtest.SQLiteURL(t))
	good := w.adminText()
	for name, headers := range map[string][]string{
		"none":      nil,
		"basic":     {"Authorization", "Basic YTpi"},
		"empty":     {"Authorization", "Bearer "},
		"short":     {"Authorization", "Bearer cy_x_y"},
		"cut":       {"Authorization", "Bearer " + good[:len(good)-1]},
		"longer":    {"Authorization", "Bearer " + good + "A"},
		"changed":   {"Authorization", "Bearer " + good[:len(good)-1] + flip(good[len(good)-1])},
		"two":       {"Authorization", "Bearer " + good, "Authorization", "Bearer " + good},
		"bare":      {"Authorization", good},
		"in quotes": {"Authorization", `Bearer "` + good + `"`},
	} {
		resp, body := w.raw(t, "GET", "/api/v1/certs", "", headers...)
		if resp.StatusCode != 401 || !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Bearer") || strings.Contains(body, good) {
			t.Errorf("%s: %d %s %s", name, resp.StatusCode, resp.Header.Get("WWW-Authenticate"), body)
		}
	}
	if resp, _ := w.raw(t, "GET", "/api/v1/certs", "", "Authorization", "bearer "+good); resp.StatusCode != 200 {
		t.Errorf("the scheme is case-insensitive (RFC 9110 section 11.1): %d", resp.StatusCode)
	}
	if resp, _ := w.raw(t, "GET", "/api/v1/certs?access_token="+good, ""); resp.StatusCode != 401 {
		t.Errorf("a token in the query was taken: %d", resp.StatusCode)
	}
}

// flip returns another base64url character whose bits differ.
func flip(c byte) string {
	if c == 'A' {
		return "Q"
	}
	return "A"
}

func TestTokenLife(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := context.Background()
		made, err := client.Post[api.NewToken](ctx, w.admin, "/tokens", map[string]any{"name": "deploy", "role": "admin", "expires": "30d"})
		check(t, err)
		c := w.client(t, made.Secret)
		if _, err := client.Get[api.Summary](ctx, c, "/summary", nil); err != nil {
			t.Fatal(err)
		}
		if made.ExpiresAt == nil || made.ExpiresAt.Sub(made.CreatedAt).Hours() != 720 {
			t.Errorf("expires at %v", made.ExpiresAt)
		}
		all, more, err := client.List[api.Token](ctx, w.admin, "/tokens", nil, 0)
		if err != nil || more || len(all) != 3 {
			t.Fatal(all, more, err)
		}
		var before []byte
		check(t, w.admin.Do(ctx, http.MethodGet, "/tokens", nil, nil, &before))
		if strings.Contains(string(before), made.Secret[30:]) {
			t.Error("the list shows the secret")
		}
		check(t, c.Do(ctx, http.MethodDelete, "/tokens/"+made.ID, nil, nil, nil))
		if _, err := client.Get[api.Summary](ctx, c, "/summary", nil); !fault.Is(err, fault.Unauthorized) {
			t.Errorf("the token works after its revocation: %v", err)
		}
		if err := w.admin.Do(ctx, http.MethodDelete, "/tokens/"+made.ID, nil, nil, nil); !fault.Is(err, fault.Conflict) {
			t.Errorf("second revocation: %v", err)
		}
		if err := w.admin.Do(ctx, http.MethodDelete, "/tokens/nothing", nil, nil, nil); !fault.Is(err, fault.NotFound) {
			t.Errorf("unknown token: %v", err)
		}
	})
}
