package sectigo_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"chancery/internal/issuer"
	"chancery/internal/issuer/issuertest"
	"chancery/internal/issuer/sectigo"
)

// fake answers as the REST API of SCM does.
func fake(b *issuertest.Backend) http.Handler {
	mux := http.NewServeMux()
	reply := func(w http.ResponseWriter, status int, v any) { w.WriteHeader(status); json.NewEncoder(w).Encode(v) }
	number := func(r *http.Request) int { n, _ := strconv.Atoi(r.PathValue("id")); return n }
	mux.HandleFunc("GET /api/ssl/v1/types", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 200, []any{map[string]any{"id": 423, "name": "Basic", "terms": []int{47, 90}}})
	})
	mux.HandleFunc("POST /api/ssl/v1/enroll", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			OrgID, CertType, Term, ServerType int
			CSR, SubjAltNames, Comments       string
		}
		if json.NewDecoder(r.Body).Decode(&in) != nil || in.OrgID != 7 || in.CertType != 423 || in.Term != 47 || in.SubjAltNames == "" {
			reply(w, 400, map[string]any{"code": -14, "description": "bad order"})
			return
		}
		n, err := b.Submit(in.CSR, in.Comments)
		if err != nil {
			reply(w, 400, map[string]any{"code": -9, "description": err.Error()})
			return
		}
		reply(w, 200, map[string]any{"sslId": n, "renewId": "r"})
	})
	mux.HandleFunc("GET /api/ssl/v1", func(w http.ResponseWriter, _ *http.Request) {
		var list []any
		for n := range b.Orders {
			list = append(list, map[string]any{"sslId": n + 1})
		}
		reply(w, 200, list)
	})
	mux.HandleFunc("GET /api/ssl/v1/{id}", func(w http.ResponseWriter, r *http.Request) {
		n := number(r)
		o, done := b.Look(n)
		status := map[bool]string{true: "Issued", false: "Applied"}[done]
		if o.Rejected {
			status = "Rejected"
		}
		reply(w, 200, map[string]any{"sslId": n, "status": status, "comments": o.Ref})
	})
	mux.HandleFunc("GET /api/ssl/v1/collect/{id}", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("format") != "x509" {
			reply(w, 400, map[string]any{"code": -20, "description": "bad format"})
			return
		}
		fmt.Fprint(w, issuertest.PEM(b.Orders[number(r)-1].Chain...))
	})
	mux.HandleFunc("POST /api/ssl/v1/revoke/serial/{serial}", func(w http.ResponseWriter, r *http.Request) {
		serial := strings.ToLower(r.PathValue("serial"))
		if b.RevokedBy[serial]++; b.RevokedBy[serial] > 1 {
			reply(w, 400, map[string]any{"code": -102, "description": "The certificate is already revoked"})
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("login") != "api" || r.Header.Get("password") != "secret" || r.Header.Get("customerUri") != "acme" {
			reply(w, 401, map[string]any{"code": -16, "description": "Unknown user"})
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
	issuertest.Run(t, issuertest.Suite{Backend: b, Front: front, Async: true, Finds: true, Revokes: true, Checks: true,
		Open: func(t testing.TB, deadline time.Duration, bad bool) (issuer.Issuer, error) {
			c := sectigo.Kind.Config().(*sectigo.Config)
			c.URL, c.CustomerURI, c.Login, c.Organization, c.Product = front.URL, "acme", "api", 7, 423
			c.PasswordFile = issuertest.File(t, map[bool]string{false: "secret\n", true: "wrong"}[bad])
			return sectigo.Kind.Open(issuertest.Env(deadline), c)
		}})
}
