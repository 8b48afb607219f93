package digitalocean_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/internal/acme/solver"
	"chancery/internal/acme/solver/digitalocean"
	"chancery/internal/acme/solver/solvertest"
)

type record struct {
	ID   int    `json:"id"`
	Type string `json:"type"`
	Name string `json:"name"`
	Data string `json:"data"`
	TTL  int    `json:"ttl"`
}

// api answers as DigitalOcean does, in pages of at most three records.
type api struct {
	mu      sync.Mutex
	n       int
	records []record
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	reply := func(status int, v any) { w.WriteHeader(status); json.NewEncoder(w).Encode(v) }
	a.mu.Lock()
	defer a.mu.Unlock()
	const path = "/v2/domains/example.test/records"
	id, one := strings.CutPrefix(r.URL.Path, path+"/")
	switch {
	case r.Header.Get("Authorization") != "Bearer token":
		reply(401, map[string]string{"id": "Unauthorized", "message": "Unable to authenticate you"})
	case r.URL.Path == "/v2/domains":
		reply(200, map[string]any{"domains": []any{}})
	case r.Method == http.MethodGet && r.URL.Path == path:
		a.list(reply, r)
	case r.Method == http.MethodPost && r.URL.Path == path:
		var in record
		if json.NewDecoder(r.Body).Decode(&in) != nil || in.Type != "TXT" || in.TTL < 30 {
			reply(422, map[string]string{"id": "unprocessable_entity", "message": "bad record"})
			return
		}
		a.n++
		in.ID = a.n
		a.records = append(a.records, in)
		reply(201, map[string]any{"domain_record": in})
	case r.Method == http.MethodDelete && one:
		a.records = slices.DeleteFunc(a.records, func(x record) bool { return strconv.Itoa(x.ID) == id })
		w.WriteHeader(http.StatusNoContent)
	default:
		reply(404, map[string]string{"id": "not_found", "message": "The resource you were accessing could not be found."})
	}
}

func (a *api) list(reply func(int, any), r *http.Request) {
	const size = 3
	var all []record
	for _, x := range a.records {
		if n := r.URL.Query().Get("name"); n == "" || n == x.Name+".example.test" {
			all = append(all, x)
		}
	}
	page, _ := strconv.Atoi(r.URL.Query().Get("page"))
	from := min((page-1)*size, len(all))
	to := min(from+size, len(all))
	links := map[string]any{}
	if to < len(all) {
		links["pages"] = map[string]string{"next": "https://api.example/next"}
	}
	reply(200, map[string]any{"domain_records": all[from:to], "links": links})
}

func TestProvider(t *testing.T) {
	a := &api{}
	front := solvertest.NewFront(t, a)
	p := solvertest.Open(t, digitalocean.Kind, &digitalocean.Config{URL: front.URL, TokenFile: solvertest.File(t, "token\n"), Timeout: 5 * time.Second})
	solvertest.Run(t, solvertest.Suite{Provider: p, Zone: "example.test", Front: front, Changes: front.Changes, BatchChanges: 80, Values: func(_ testing.TB, name string) (out []string) {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, r := range a.records {
			if r.Name+".example.test" == name {
				out = append(out, r.Data)
			}
		}
		return out
	}})
	if err := p.(solver.Checker).Check(t.Context()); err != nil {
		t.Error(err)
	}
}
