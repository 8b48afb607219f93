package api_test

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"slices"
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

// people are the columns of testdata/permissions.txt.
var people = []string{"nobody", "viewer", "auditor", "approver", "operator", "admin", "limited"}

// permissions reads testdata/permissions.txt: by operation, who may call it.
func permissions(t *testing.T) map[string]map[string]string {
	t.Helper()
	text, err := os.ReadFile("testdata/permissions.txt")
	check(t, err)
	out := map[string]map[string]string{}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] == "#" || f[0] == "operation" {
			continue
		}
		if len(f) != len(people)+1 || out[f[0]] != nil {
			t.Fatalf("permissions.txt: %q", line)
		}
		out[f[0]] = map[string]string{}
		for i, who := range people {
			if !slices.Contains([]string{"yes", "no"}, f[i+1]) && (f[i+1] != "part" || who != "limited") {
				t.Fatalf("permissions.txt: %q", line)
			}
			out[f[0]][who] = f[i+1]
		}
	}
	return out
}

// everybody returns a client for each column of permissions.txt, the
// administrator last: what they do may change what others look at.
func (w *world) everybody(t *testing.T) []*client.Client {
	t.Helper()
	out := []*client.Client{w.client(t, "")}
	for _, role := range []token.Role{token.Viewer, token.Auditor, token.Approver, token.Operator, token.Admin} {
		out = append(out, w.client(t, w.tokenOf(t, token.Spec{Name: "x", Role: role})))
	}
	return append(out, w.client(t, w.tokenOf(t, token.Spec{Name: "x", Role: token.Admin, Scope: token.Scope{Owners: []string{"other"}}})))
}

// TestPermissions calls every operation as everybody, and holds what comes of it
// against a table that is kept by hand.
func TestPermissions(t *testing.T) {
	w := newWorld(t, dbtest.SQLiteURL(t))
	_, doc := openapi(t)
	want, seen := permissions(t), map[string]bool{"stream-events": true}
	clients := w.everybody(t)
	try := func(method, path, operation string, i int) {
		t.Helper()
		target := strings.NewReplacer("{id}", "nothing", "{kid}", "nothing", "{seq}", "1", "{kind}", "issuer").Replace(strings.TrimPrefix(path, api.Prefix))
		var body any
		if method != "get" && method != "delete" {
			body = map[string]any{"nonsense": true}
		}
		err := clients[i].Do(context.Background(), strings.ToUpper(method), target, nil, body, nil)
		refused := fault.Code("")
		if fault.Is(err, fault.Unauthorized) || fault.Is(err, fault.Forbidden) {
			refused = fault.As(err).Code
		}
		expected := fault.Code("")
		if want[operation][people[i]] == "no" {
			if expected = fault.Forbidden; people[i] == "nobody" {
				expected = fault.Unauthorized
			}
		}
		if want[operation][people[i]] == "part" && refused == fault.Forbidden {
			return // the handler's judgement: TestScope*
		}
		if refused != expected {
			t.Errorf("%s as %s: %v, want %q", operation, people[i], err, expected)
		}
	}
	for i := range people {
		for path, methods := range doc.Paths {
			for method, op := range methods {
				if seen[op.OperationID] = true; want[op.OperationID] == nil {
					t.Errorf("permissions.txt says nothing of %s", op.OperationID)
					continue
				}
				try(method, path, op.OperationID, i)
				if (len(op.Security) > 0) == (want[op.OperationID]["nobody"] == "yes") {
					t.Errorf("%s: the document and permissions.txt disagree on whether a sign-in is needed", op.OperationID)
				}
			}
		}
		if want["stream-events"][people[i]] == "no" {
			try("get", "/events", "stream-events", i)
		}
	}
	for operation := range want {
		if !seen[operation] {
			t.Errorf("permissions.txt has %s, which is no operation", operation)
		}
	}
}

// TestEndedSignInsDoNothing: whoever's token was revoked, or never was one, is a
// stranger to every operation.
func TestEndedSignInsDoNothing(t *testing.T) {
	w := newWorld(t, dbtest.SQLiteURL(t))
	_, doc := openapi(t)
	want := permissions(t)
	ended := w.tokenOf(t, token.Spec{Name: "ended", Role: token.Admin})
	check(t, token.Revoke(context.Background(), w.db, ended[len("cy_"):][:26], "test", now()))
	for who, c := range map[string]*client.Client{"a revoked admin": w.client(t, ended), "a stranger": w.client(t, "cy_"+db.NewID(now())+"_"+strings.Repeat("A", 43))} {
		for path, methods := range doc.Paths {
			for method, op := range methods {
				if want[op.OperationID]["nobody"] == "yes" {
					continue
				}
				target := strings.NewReplacer("{id}", "nothing", "{kid}", "nothing", "{seq}", "1", "{kind}", "issuer").Replace(strings.TrimPrefix(path, api.Prefix))
				if err := c.Do(context.Background(), strings.ToUpper(method), target, nil, nil, nil); !fault.Is(err, fault.Unauthorized) {
					t.Errorf("%s as %s: %v", op.OperationID, who, err)
				}
			}
		}
	}
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

// TestWithheld: a sign-in is told beforehand what it would be refused, and why,
// so that nobody has to try.
func TestWithheld(t *testing.T) {
	w := newWorld(t, dbtest.SQLiteURL(t))
	_, doc := openapi(t)
	want, calls := permissions(t), map[string]api.Call{"stream-events": {ID: "stream-events", Method: "GET", Path: api.Prefix + "/events"}}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			calls[op.OperationID] = api.Call{ID: op.OperationID, Method: strings.ToUpper(method), Path: path}
		}
	}
	ofOwner := []string{"list-issued"} // what a part is refused although others with a scope are not
	for i, c := range w.everybody(t)[1:] {
		who, got := people[i+1], map[string]bool{}
		session, err := client.Get[api.Session](ctx, c, "/session", nil)
		check(t, err)
		for _, v := range session.Withheld {
			if missing := v.Permission != "" && !session.Role.Allows(v.Permission); v.Why == "" || !strings.Contains(v.Why, "ask an administrator") && !strings.Contains(v.Why, "instead") || missing == (who == "limited") {
				t.Errorf("%s: %q for want of %q", who, v.Why, v.Permission)
			}
			for _, call := range v.Operations {
				if got[call.ID] = true; call != calls[call.ID] {
					t.Errorf("%s: %+v, want %+v", who, call, calls[call.ID])
				}
			}
		}
		for id := range calls {
			if refused := want[id][who] == "no" || who == "limited" && slices.Contains(ofOwner, id); refused != got[id] {
				t.Errorf("%s: %s withheld: %v, want %v", who, id, got[id], refused)
			}
		}
	}
	byIssuer := w.client(t, w.tokenOf(t, token.Spec{Name: "x", Role: token.Operator, Scope: token.Scope{CAs: []string{"default"}}}))
	session, err := client.Get[api.Session](ctx, byIssuer, "/session", nil)
	check(t, err)
	i := slices.IndexFunc(session.Withheld, func(v api.Withheld) bool { return v.Operations[0].ID == "list-certificates" })
	if i < 0 || !strings.Contains(session.Withheld[i].Why, "/issued") {
		t.Errorf("a limit to an authority: %+v", session.Withheld)
	}
}
