package vault_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"chancery/internal/issuer"
	"chancery/internal/issuer/issuertest"
	"chancery/internal/issuer/vault"
)

// fake answers as the PKI secrets engine does.
func fake(b *issuertest.Backend) http.Handler {
	mux := http.NewServeMux()
	authorized := func(f http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if t := r.Header.Get("X-Vault-Token"); t != "token" && t != "approle-token" {
				http.Error(w, `{"errors": ["permission denied"]}`, http.StatusForbidden)
				return
			}
			f(w, r)
		}
	}
	mux.HandleFunc("POST /v1/auth/approle/login", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Role   string `json:"role_id"`
			Secret string `json:"secret_id"`
		}
		if json.NewDecoder(r.Body).Decode(&in) != nil || in.Role != "role-id" || in.Secret != "secret-id" {
			http.Error(w, `{"errors": ["invalid role or secret ID"]}`, http.StatusBadRequest)
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"auth": map[string]any{"client_token": "approle-token", "lease_duration": 3600}})
	})
	mux.HandleFunc("GET /v1/auth/token/lookup-self", authorized(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"data": {}}`)) }))
	mux.HandleFunc("POST /v1/pki_int/sign/web", authorized(func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			CSR string `json:"csr"`
			TTL string `json:"ttl"`
		}
		b.Lock()
		defer b.Unlock()
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.TTL != "3600s" {
			http.Error(w, `{"errors": ["bad request"]}`, http.StatusBadRequest)
			return
		}
		n, err := b.Submit(in.CSR, "")
		if err != nil {
			http.Error(w, `{"errors": ["bad request"]}`, http.StatusBadRequest)
			return
		}
		o := b.Orders[n-1]
		json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"certificate": strings.TrimSpace(issuertest.PEM(o.Chain[0])),
			"issuing_ca": issuertest.PEM(b.Inter.Raw), "ca_chain": []string{issuertest.PEM(b.Inter.Raw), issuertest.PEM(b.Root.Raw)}}})
	}))
	mux.HandleFunc("POST /v1/pki_int/revoke", authorized(func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Serial string `json:"serial_number"`
		}
		json.NewDecoder(r.Body).Decode(&in)
		b.Set(func(b *issuertest.Backend) { b.RevokedBy[strings.ReplaceAll(in.Serial, ":", "")]++ })
		w.Write([]byte(`{"data": {"revocation_time": 1}}`))
	}))
	return mux
}

func TestSuite(t *testing.T) {
	for _, approle := range []bool{false, true} {
		t.Run(map[bool]string{false: "token", true: "approle"}[approle], func(t *testing.T) {
			b := issuertest.NewBackend(t)
			front := issuertest.NewFront(t, fake(b))
			issuertest.Run(t, issuertest.Suite{Backend: b, Front: front, Revokes: true, Checks: true,
				Open: func(t testing.TB, deadline time.Duration, bad bool) (issuer.Issuer, error) {
					c := vault.Kind.Config().(*vault.Config)
					c.URL, c.Mount, c.Role, c.TTL = front.URL, "pki_int", "web", time.Hour
					secret := map[bool]string{false: "token\n", true: "wrong"}[bad]
					if approle {
						c.RoleID, secret = "role-id", map[bool]string{false: "secret-id", true: "wrong"}[bad]
						c.SecretIDFile = issuertest.File(t, secret)
					} else {
						c.TokenFile = issuertest.File(t, secret)
					}
					return vault.Kind.Open(issuertest.Env(deadline), c)
				}})
		})
	}
}

func TestMistakesAreFoundEarly(t *testing.T) {
	for name, c := range map[string]vault.Config{"no URL": {}, "no role": {URL: "https://v.example", Mount: "pki"}, "no credentials": {URL: "https://v.example", Mount: "pki", Role: "r"},
		"in the clear": {URL: "http://v.example", Mount: "pki", Role: "r"}, "no file": {URL: "https://v.example", Mount: "pki", Role: "r", TokenFile: "/nonexistent"}} {
		if _, err := vault.Kind.Open(issuertest.Env(0), &c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
