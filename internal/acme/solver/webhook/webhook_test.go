package webhook_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"chancery/internal/acme/solver"
	"chancery/internal/acme/solver/exec"
	"chancery/internal/acme/solver/solvertest"
	"chancery/internal/acme/solver/webhook"
)

// service is an operator's service.
type service struct {
	mu   sync.Mutex
	data map[string][]string
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	mac := hmac.New(sha256.New, []byte("signing key"))
	mac.Write(body)
	if r.Header.Get("Authorization") != "Bearer token" || r.Header.Get("X-Chancery-Signature") != "sha256="+hex.EncodeToString(mac.Sum(nil)) || r.Method != http.MethodPost {
		http.Error(w, `{"error": "who are you?"}`, http.StatusUnauthorized)
		return
	}
	var c exec.Change
	if json.Unmarshal(body, &c) != nil || c.Zone != "example.test" {
		http.Error(w, `{"error": "no such zone"}`, http.StatusNotFound)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range c.Remove {
		s.data[x.Name] = slices.DeleteFunc(s.data[x.Name], func(v string) bool { return v == x.Value })
	}
	for _, x := range c.Add {
		if !slices.Contains(s.data[x.Name], x.Value) && x.Type == "TXT" && x.TTL == 60 {
			s.data[x.Name] = append(s.data[x.Name], x.Value)
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

func TestProvider(t *testing.T) {
	s := &service{data: map[string][]string{}}
	front := solvertest.NewFront(t, s)
	open := func(token string) solver.Provider {
		return solvertest.Open(t, webhook.Kind, &webhook.Config{URL: front.URL + "/dns", TokenFile: solvertest.File(t, token),
			SecretFile: solvertest.File(t, "signing key\n"), Timeout: 10 * time.Second})
	}
	solvertest.Run(t, solvertest.Suite{Provider: open("token\n"), Zone: "example.test", Front: front, Changes: front.Changes,
		Values: func(_ testing.TB, name string) []string {
			s.mu.Lock()
			defer s.mu.Unlock()
			return slices.Clone(s.data[name])
		}})
	if err := open("wrong").Apply(t.Context(), "example.test", []solver.Record{{Name: "a.example.test", Value: "v"}}, nil); err == nil {
		t.Error("a wrong token is accepted")
	}
}

func TestMistakesAreFoundEarly(t *testing.T) {
	for name, c := range map[string]webhook.Config{"no URL": {}, "in the clear": {URL: "http://hook.example"}, "no token": {URL: "https://hook.example", TokenFile: "/nonexistent"},
		"no roots": {URL: "https://hook.example", RootsFile: "/nonexistent"}} {
		if _, err := webhook.Kind.Open(solver.Env{}, &c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
