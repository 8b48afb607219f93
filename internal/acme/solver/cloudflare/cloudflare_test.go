package cloudflare_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"chancery/internal/acme/solver"
	"chancery/internal/acme/solver/cloudflare"
	"chancery/internal/acme/solver/solvertest"
)

type record struct {
	ID, Type, Name, Content string
	TTL                     int
}

// api answers as Cloudflare does, in pages of at most three records.
type api struct {
	mu      sync.Mutex
	n       int
	records []record
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	reply := func(status int, v any) { w.WriteHeader(status); json.NewEncoder(w).Encode(v) }
	fail := func(status int, text string) {
		reply(status, map[string]any{"success": false, "errors": []any{map[string]any{"code": 1000, "message": text}}})
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	q := r.URL.Query()
	switch {
	case r.Header.Get("Authorization") != "Bearer token":
		fail(403, "Invalid access token")
	case r.URL.Path == "/client/v4/user/tokens/verify":
		reply(200, map[string]any{"success": true})
	case r.URL.Path == "/client/v4/zones":
		list := []any{}
		if q.Get("name") == "example.test" {
			list = append(list, map[string]string{"id": "z1", "name": "example.test"})
		}
		reply(200, map[string]any{"success": true, "result": list})
	case r.Method == http.MethodGet && r.URL.Path == "/client/v4/zones/z1/dns_records":
		a.list(reply, q.Get("name"), q.Get("page"))
	case r.Method == http.MethodPost && r.URL.Path == "/client/v4/zones/z1/dns_records/batch":
		a.batch(reply, fail, r)
	default:
		fail(404, "no route")
	}
}

func (a *api) list(reply func(int, any), name, page string) {
	const size = 3
	var all []map[string]any
	for _, x := range a.records {
		if name == "" || x.Name == name {
			all = append(all, map[string]any{"id": x.ID, "type": x.Type, "name": x.Name, "content": x.Content, "ttl": x.TTL})
		}
	}
	n, _ := strconv.Atoi(page)
	from := min((n-1)*size, len(all))
	reply(200, map[string]any{"success": true, "result": all[from:min(from+size, len(all))],
		"result_info": map[string]int{"page": n, "total_pages": (len(all) + size - 1) / size}})
}

func (a *api) batch(reply func(int, any), fail func(int, string), r *http.Request) {
	var in struct{ Deletes, Posts []record }
	if json.NewDecoder(r.Body).Decode(&in) != nil || len(in.Deletes)+len(in.Posts) > 200 {
		fail(400, "bad batch")
		return
	}
	for _, d := range in.Deletes {
		for i := range a.records {
			if a.records[i].ID == d.ID {
				a.records = append(a.records[:i], a.records[i+1:]...)
				break
			}
		}
	}
	for _, p := range in.Posts {
		for _, x := range a.records {
			if x.Name == p.Name && x.Content == p.Content {
				fail(400, "An identical record already exists.")
				return
			}
		}
		a.n++
		p.ID = fmt.Sprint("r", a.n)
		a.records = append(a.records, p)
	}
	reply(200, map[string]any{"success": true})
}

func TestProvider(t *testing.T) {
	a := &api{}
	front := solvertest.NewFront(t, a)
	p := solvertest.Open(t, cloudflare.Kind, &cloudflare.Config{URL: front.URL + "/client/v4", TokenFile: solvertest.File(t, "token\n"), Timeout: 5 * time.Second})
	solvertest.Run(t, solvertest.Suite{Provider: p, Zone: "example.test", Front: front, Changes: front.Changes, Values: func(_ testing.TB, name string) (out []string) {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, r := range a.records {
			if r.Name == name {
				out = append(out, solver.Unquote(r.Content))
			}
		}
		return out
	}})
	if err := p.(solver.Checker).Check(t.Context()); err != nil {
		t.Error(err)
	}
}
