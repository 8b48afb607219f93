package azuredns_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/internal/acme/solver"
	"chancery/internal/acme/solver/azuredns"
	"chancery/internal/acme/solver/solvertest"
)

type set struct {
	ETag       string `json:"etag"`
	Properties struct {
		TTL        int64
		TXTRecords []struct {
			Value []string `json:"value"`
		}
	} `json:"properties"`
}

// api answers as the Resource Manager and its sign-ins do.
type api struct {
	mu    sync.Mutex
	n     int
	sets  map[string]*set
	races int // changes that somebody else comes before
}

const group = "/subscriptions/sub/resourceGroups/dns/providers/Microsoft.Network/dnsZones"

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	reply := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(v)
	}
	fail := func(status int, code string) {
		reply(status, map[string]any{"error": map[string]string{"code": code, "message": code}})
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	name, ok := strings.CutPrefix(r.URL.Path, group+"/example.test/TXT/")
	switch {
	case r.URL.Path == "/tenant/oauth2/v2.0/token":
		if r.FormValue("client_id") != "app" || r.FormValue("client_secret") != "secret" || !strings.HasSuffix(r.FormValue("scope"), "/.default") {
			reply(401, map[string]string{"error": "invalid_client"})
			return
		}
		reply(200, map[string]any{"access_token": "token", "token_type": "Bearer", "expires_in": 3600})
	case r.URL.Path == "/metadata/identity/oauth2/token" && r.Header.Get("Metadata") == "true":
		reply(200, map[string]any{"access_token": "token", "expires_in": "3600"})
	case r.Header.Get("Authorization") != "Bearer token":
		fail(401, "InvalidAuthenticationToken")
	case r.URL.Path == group:
		reply(200, map[string]any{"value": []any{}})
	case !ok:
		fail(404, "ParentResourceNotFound")
	default:
		a.change(w, r, name, reply, fail)
	}
}

func (a *api) change(w http.ResponseWriter, r *http.Request, name string, reply func(int, any), fail func(int, string)) {
	s := a.sets[name]
	if r.Method != http.MethodGet {
		if a.races > 0 {
			a.races--
			fail(412, "PreconditionFailed")
			return
		}
		if s == nil && r.Header.Get("If-None-Match") != "*" || s != nil && r.Header.Get("If-Match") != s.ETag {
			fail(412, "PreconditionFailed")
			return
		}
	}
	switch r.Method {
	case http.MethodGet:
		if s == nil {
			fail(404, "NotFound")
			return
		}
		reply(200, s)
	case http.MethodDelete:
		delete(a.sets, name)
	case http.MethodPut:
		next := &set{}
		if json.NewDecoder(r.Body).Decode(next) != nil || next.Properties.TTL != 60 {
			fail(400, "BadRequest")
			return
		}
		a.n++
		next.ETag = fmt.Sprint("e", a.n)
		a.sets[name] = next
		reply(200, next)
	}
}

func TestProvider(t *testing.T) {
	a := &api{sets: map[string]*set{}}
	front := solvertest.NewFront(t, a)
	base := azuredns.Config{Subscription: "sub", ResourceGroup: "dns", URL: front.URL, LoginURL: front.URL, IdentityURL: front.URL, Timeout: 5 * time.Second}
	values := func(_ testing.TB, name string) (out []string) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if s := a.sets[strings.TrimSuffix(name, ".example.test")]; s != nil {
			for _, v := range s.Properties.TXTRecords {
				out = append(out, strings.Join(v.Value, ""))
			}
		}
		return out
	}
	t.Run("managed identity", func(t *testing.T) {
		c := base
		p := solvertest.Open(t, azuredns.Kind, &c)
		solvertest.Run(t, solvertest.Suite{Provider: p, Zone: "example.test", Front: front, Changes: front.Changes, BatchChanges: 40, Values: values})
		if err := p.(solver.Checker).Check(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("service principal, against others who change the same set", func(t *testing.T) {
		c := base
		c.Tenant, c.ClientID, c.SecretFile = "tenant", "app", solvertest.File(t, "secret\n")
		p := solvertest.Open(t, azuredns.Kind, &c)
		a.mu.Lock()
		a.races = 2
		a.mu.Unlock()
		r := []solver.Record{{Name: "race.example.test", Value: "v", TTL: time.Minute}}
		if err := p.Apply(t.Context(), "example.test", r, nil); err != nil {
			t.Fatal(err)
		}
		c.SecretFile = solvertest.File(t, "wrong\n")
		err := solvertest.Open(t, azuredns.Kind, &c).Apply(t.Context(), "example.test", nil, r)
		if err == nil || strings.Contains(err.Error(), "wrong") {
			t.Errorf("a wrong secret: %v", err)
		}
	})
	if _, err := azuredns.Kind.Open(solver.Env{}, &azuredns.Config{URL: front.URL}); err == nil {
		t.Error("no subscription is no error")
	}
}
