package globalsign_test

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"chancery/internal/issuer"
	"chancery/internal/issuer/globalsign"
	"chancery/internal/issuer/issuertest"
)

// fake answers as HVCA does. Certificates are known by their serial numbers.
func fake(b *issuertest.Backend) http.Handler {
	mux := http.NewServeMux()
	reply := func(w http.ResponseWriter, status int, v any) { w.WriteHeader(status); json.NewEncoder(w).Encode(v) }
	serial := func(n int) string {
		c, err := x509.ParseCertificate(b.Orders[n-1].Chain[0])
		if err != nil {
			return fmt.Sprintf("%X", 0xF000+n)
		}
		return strings.ToUpper(issuertest.Serial(c))
	}
	find := func(s string) int {
		for n := range b.Orders {
			if serial(n+1) == s {
				return n + 1
			}
		}
		return 0
	}
	mux.HandleFunc("POST /v2/login", func(w http.ResponseWriter, r *http.Request) {
		var in map[string]string
		if json.NewDecoder(r.Body).Decode(&in) != nil || in["api_key"] != "key" || in["api_secret"] != "secret" {
			reply(w, 401, map[string]string{"description": "wrong key"})
			return
		}
		reply(w, 200, map[string]string{"access_token": "token"})
	})
	mux.HandleFunc("GET /v2/validationpolicy", func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, map[string]any{}) })
	mux.HandleFunc("GET /v2/trustchain", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 200, []string{issuertest.PEM(b.Inter.Raw), issuertest.PEM(b.Root.Raw)})
	})
	mux.HandleFunc("POST /v2/certificates", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			PublicKey string              `json:"public_key"`
			SAN       map[string][]string `json:"san"`
			Validity  struct {
				NotAfter int64 `json:"not_after"`
			} `json:"validity"`
		}
		if json.NewDecoder(r.Body).Decode(&in) != nil || len(in.SAN["dns_names"]) == 0 || in.Validity.NotAfter < time.Now().Unix() {
			reply(w, 422, map[string]string{"description": "bad request"})
			return
		}
		n, err := b.Submit(in.PublicKey, "")
		if err != nil {
			reply(w, 422, map[string]string{"description": err.Error()})
			return
		}
		w.Header().Set("Location", "https://hvca.example/v2/certificates/"+serial(n))
		w.WriteHeader(http.StatusCreated)
	})
	mux.HandleFunc("GET /v2/certificates/{serial}", func(w http.ResponseWriter, r *http.Request) {
		o, done := b.Look(find(r.PathValue("serial")))
		switch {
		case o == nil:
			reply(w, 404, map[string]string{"description": "not found"})
		case o.Rejected:
			reply(w, 200, map[string]string{"status": "REJECTED"})
		case done:
			reply(w, 200, map[string]any{"status": "ISSUED", "certificate": issuertest.PEM(o.Chain[0])})
		default:
			w.WriteHeader(http.StatusAccepted)
		}
	})
	mux.HandleFunc("DELETE /v2/certificates/{serial}", func(w http.ResponseWriter, r *http.Request) {
		s := strings.ToLower(r.PathValue("serial"))
		if b.RevokedBy[s]++; b.RevokedBy[s] > 1 {
			reply(w, 409, map[string]string{"description": "it is revoked"})
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/login" && r.Header.Get("Authorization") != "Bearer token" {
			reply(w, 401, map[string]string{"description": "who are you?"})
			return
		}
		b.Lock()
		defer b.Unlock()
		mux.ServeHTTP(w, r)
	})
}

func TestSuite(t *testing.T) {
	b := issuertest.NewBackend(t)
	front := issuertest.NewFront(t, fake(b))
	issuertest.Run(t, issuertest.Suite{Backend: b, Front: front, Async: true, Revokes: true, Checks: true, Skips: 1,
		Open: func(t testing.TB, deadline time.Duration, bad bool) (issuer.Issuer, error) {
			c := globalsign.Kind.Config().(*globalsign.Config)
			c.URL, c.KeyFile, c.SecretFile = front.URL+"/v2", issuertest.File(t, "key"), issuertest.File(t, map[bool]string{false: "secret\n", true: "wrong"}[bad])
			return globalsign.Kind.Open(issuertest.Env(deadline), c)
		}})
}
