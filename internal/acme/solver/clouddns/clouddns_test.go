package clouddns_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/internal/acme/solver"
	"chancery/internal/acme/solver/clouddns"
	"chancery/internal/acme/solver/solvertest"
)

type set struct {
	Name    string   `json:"name"`
	Type    string   `json:"type"`
	TTL     int      `json:"ttl"`
	RRDatas []string `json:"rrdatas"`
}

// api answers as Cloud DNS and its sign-ins do, in pages of at most three sets.
type api struct {
	mu    sync.Mutex
	sets  []set
	races int
}

const zones = "/dns/v1/projects/proj/managedZones"

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	reply := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(v)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case r.URL.Path == "/token":
		if r.FormValue("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || strings.Count(r.FormValue("assertion"), ".") != 2 {
			reply(400, map[string]string{"error": "invalid_grant"})
			return
		}
		reply(200, map[string]any{"access_token": "token", "token_type": "Bearer", "expires_in": 3600})
	case strings.HasPrefix(r.URL.Path, "/computeMetadata/") && r.Header.Get("Metadata-Flavor") == "Google":
		reply(200, map[string]any{"access_token": "token", "expires_in": 3600})
	case r.Header.Get("Authorization") != "Bearer token":
		reply(401, map[string]any{"error": map[string]any{"code": 401, "message": "no credentials"}})
	case r.URL.Path == zones:
		list := []any{map[string]string{"name": "inside", "dnsName": "example.test.", "visibility": "private"}}
		if r.URL.Query().Get("dnsName") == "example.test." {
			list = append(list, map[string]string{"name": "z1", "dnsName": "example.test.", "visibility": "public"})
		}
		reply(200, map[string]any{"managedZones": list})
	case r.URL.Path == zones+"/z1/rrsets":
		a.list(reply, r)
	case r.URL.Path == zones+"/z1/changes" && r.Method == http.MethodPost:
		a.change(reply, r)
	default:
		reply(404, map[string]any{"error": map[string]any{"code": 404, "message": "not found"}})
	}
}

func (a *api) list(reply func(int, any), r *http.Request) {
	const size = 3
	var all []set
	for _, s := range a.sets {
		if n := r.URL.Query().Get("name"); n == "" || n == s.Name {
			all = append(all, s)
		}
	}
	from, _ := strconv.Atoi(r.URL.Query().Get("pageToken"))
	to := min(from+size, len(all))
	out := map[string]any{"rrsets": all[min(from, to):to]}
	if to < len(all) {
		out["nextPageToken"] = strconv.Itoa(to)
	}
	reply(200, out)
}

func (a *api) change(reply func(int, any), r *http.Request) {
	var in struct{ Additions, Deletions []set }
	if json.NewDecoder(r.Body).Decode(&in) != nil {
		reply(400, map[string]any{"error": map[string]any{"message": "bad change"}})
		return
	}
	if a.races > 0 {
		a.races--
		reply(412, map[string]any{"error": map[string]any{"message": "precondition not met"}})
		return
	}
	next := append([]set(nil), a.sets...)
	for _, d := range in.Deletions {
		found := false
		for i := range next {
			if reflect.DeepEqual(next[i], d) {
				next, found = append(next[:i:i], next[i+1:]...), true
				break
			}
		}
		if !found {
			reply(412, map[string]any{"error": map[string]any{"message": "the set is not as you say"}})
			return
		}
	}
	for _, s := range in.Additions {
		for _, x := range next {
			if x.Name == s.Name {
				reply(409, map[string]any{"error": map[string]any{"message": "the set exists"}})
				return
			}
		}
		next = append(next, s)
	}
	a.sets = next
	reply(200, map[string]string{"status": "pending"})
}

func (a *api) values(_ testing.TB, name string) (out []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.sets {
		for _, v := range s.RRDatas {
			if s.Name == name+"." {
				out = append(out, solver.Unquote(v))
			}
		}
	}
	return out
}

func TestProvider(t *testing.T) {
	a := &api{}
	front := solvertest.NewFront(t, a)
	p := solvertest.Open(t, clouddns.Kind, &clouddns.Config{Project: "proj", URL: front.URL, MetadataURL: front.URL, Timeout: 5 * time.Second})
	solvertest.Run(t, solvertest.Suite{Provider: p, Zone: "example.test", Front: front, Changes: front.Changes, Values: a.values})
	if err := p.(solver.Checker).Check(t.Context()); err != nil {
		t.Error(err)
	}
	t.Run("service account, against others who change the same set", func(t *testing.T) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(map[string]string{"type": "service_account", "project_id": "proj", "client_email": "a@proj.example", "token_uri": front.URL + "/token",
			"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))})
		if err != nil {
			t.Fatal(err)
		}
		p := solvertest.Open(t, clouddns.Kind, &clouddns.Config{KeyFile: solvertest.File(t, string(text)), URL: front.URL, Timeout: 5 * time.Second})
		a.mu.Lock()
		a.races = 2
		a.mu.Unlock()
		if err := p.Apply(t.Context(), "example.test", []solver.Record{{Name: "race.example.test", Value: "v", TTL: time.Minute}}, nil); err != nil {
			t.Fatal(err)
		}
		if v := a.values(t, "race.example.test"); len(v) != 1 {
			t.Errorf("values %q", v)
		}
	})
	if _, err := clouddns.Kind.Open(solver.Env{}, &clouddns.Config{URL: front.URL}); err == nil {
		t.Error("no project is no error")
	}
}
