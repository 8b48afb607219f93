package acmedns_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"chancery/internal/acme/solver"
	"chancery/internal/acme/solver/acmedns"
	"chancery/internal/acme/solver/solvertest"
	"chancery/internal/issuer"
	"chancery/internal/issuer/issuertest"
)

const full = "8e5700ea-a4bf-41c7-8a77-e990661dcc6a.auth.example.test"

// server answers as acme-dns does.
type server struct {
	mu     sync.Mutex
	values []string
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct{ Subdomain, Txt string }
	if r.URL.Path == "/health" {
		return
	}
	if json.NewDecoder(r.Body).Decode(&in) != nil || r.URL.Path != "/update" || len(in.Txt) != 43 {
		http.Error(w, `{"error": "bad_txt"}`, http.StatusBadRequest)
		return
	}
	if r.Header.Get("X-Api-User") != "user" || r.Header.Get("X-Api-Key") != "key" || in.Subdomain != "8e5700ea-a4bf-41c7-8a77-e990661dcc6a" {
		http.Error(w, `{"error": "forbidden"}`, http.StatusUnauthorized)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values = append(s.values, in.Txt)
	s.values = s.values[max(len(s.values)-2, 0):]
	json.NewEncoder(w).Encode(map[string]string{"txt": in.Txt})
}

func TestProvider(t *testing.T) {
	s := &server{}
	front := solvertest.NewFront(t, s)
	open := func(password string) solver.Provider {
		file := solvertest.File(t, `{"example.test": {"fulldomain": "`+full+`", "subdomain": "8e5700ea-a4bf-41c7-8a77-e990661dcc6a", "username": "user", "password": "`+password+`", "allowfrom": []}}`)
		return solvertest.Open(t, acmedns.Kind, &acmedns.Config{URL: front.URL, AccountsFile: file, Timeout: 5 * time.Second})
	}
	p := open("key")
	a := solver.Record{Name: full, Value: "LPsIwTo7o8BoG0-vjCyGQGBWSVIPxI-i_X336eUOQZo"}
	b := solver.Record{Name: full, Value: "MPsIwTo7o8BoG0-vjCyGQGBWSVIPxI-i_X336eUOQZo"}
	if err := p.Apply(t.Context(), "auth.example.test", []solver.Record{a, b}, nil); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.values, []string{a.Value, b.Value}) {
		t.Errorf("values %q", s.values)
	}
	if err := p.Apply(t.Context(), "auth.example.test", nil, []solver.Record{a, b}); err != nil {
		t.Errorf("removal: %v", err)
	}
	if err := p.(solver.Checker).Check(t.Context()); err != nil {
		t.Error(err)
	}
	for name, list := range map[string][]solver.Record{"three values": {a, b, {Name: full, Value: "c"}}, "unknown name": {{Name: "x.auth.example.test", Value: "v"}}} {
		if err := p.Apply(t.Context(), "auth.example.test", list, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	issuertest.WantClass(t, open("wrong").Apply(t.Context(), "auth.example.test", []solver.Record{a}, nil), issuer.Permanent)
	front.Fail(-1, http.StatusServiceUnavailable, "60")
	issuertest.WantClass(t, p.Apply(t.Context(), "auth.example.test", []solver.Record{a}, nil), issuer.Unavailable)
	if _, err := acmedns.Kind.Open(solver.Env{}, &acmedns.Config{URL: front.URL, AccountsFile: solvertest.File(t, "[]")}); err == nil {
		t.Error("a file that is no list of accounts is taken")
	}
}
