package digicert_test

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"chancery/internal/issuer"
	"chancery/internal/issuer/digicert"
	"chancery/internal/issuer/issuertest"
)

// fake answers as the Services API does.
func fake(b *issuertest.Backend) http.Handler {
	mux := http.NewServeMux()
	reply := func(w http.ResponseWriter, status int, v any) { w.WriteHeader(status); json.NewEncoder(w).Encode(v) }
	full := func(n int, status string) map[string]any {
		return map[string]any{"id": n, "status": status, "certificate": map[string]any{"id": 1000 + n,
			"csr": "-----BEGIN CERTIFICATE REQUEST-----\n" + b64(b.Orders[n-1].CSR) + "\n-----END CERTIFICATE REQUEST-----\n"}}
	}
	mux.HandleFunc("GET /services/v2/user/me", func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, map[string]int{"id": 1}) })
	mux.HandleFunc("POST /services/v2/order/certificate/ssl_basic", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Certificate  struct{ CSR string }
			Organization struct{ ID int }
			Validity     struct{ Days int } `json:"order_validity"`
		}
		if json.NewDecoder(r.Body).Decode(&in) != nil || in.Organization.ID != 7 || in.Validity.Days != 47 {
			reply(w, 400, map[string]any{"errors": []any{map[string]string{"code": "invalid", "message": "bad order"}}})
			return
		}
		n, err := b.Submit(in.Certificate.CSR, "")
		if err != nil {
			reply(w, 400, map[string]any{"errors": []any{map[string]string{"code": "invalid_csr", "message": err.Error()}}})
			return
		}
		reply(w, 201, map[string]any{"id": n, "requests": []any{map[string]any{"id": n, "status": "pending"}}})
	})
	mux.HandleFunc("GET /services/v2/order/certificate", func(w http.ResponseWriter, r *http.Request) {
		var list []any
		serial := strings.ToLower(r.URL.Query().Get("filters[serial_number]"))
		for n := len(b.Orders); n > 0; n-- {
			status := "issued"
			c, err := x509.ParseCertificate(b.Orders[n-1].Chain[0])
			if err != nil || serial != "" && issuertest.Serial(c) != serial {
				continue
			}
			if b.RevokedBy[issuertest.Serial(c)] > 0 {
				status = "revoked"
			}
			list = append(list, full(n, status))
		}
		reply(w, 200, map[string]any{"orders": list, "page": map[string]int{"total": len(list)}})
	})
	mux.HandleFunc("GET /services/v2/order/certificate/{id}", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.PathValue("id"))
		o, done := b.Look(n)
		switch {
		case o == nil:
			reply(w, 404, map[string]any{"errors": []any{map[string]string{"message": "no such order"}}})
		case o.Rejected:
			reply(w, 200, full(n, "rejected"))
		case done:
			reply(w, 200, full(n, "issued"))
		default:
			reply(w, 200, full(n, "pending"))
		}
	})
	mux.HandleFunc("GET /services/v2/certificate/{id}/download/format/pem_all", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.PathValue("id"))
		fmt.Fprint(w, issuertest.PEM(append(b.Orders[n-1001].Chain, b.Root.Raw)...))
	})
	mux.HandleFunc("PUT /services/v2/certificate/{id}/revoke", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.PathValue("id"))
		c, err := x509.ParseCertificate(b.Orders[n-1001].Chain[0])
		if err == nil {
			b.RevokedBy[issuertest.Serial(c)]++
		}
		reply(w, 201, map[string]any{"id": n, "type": "revoke", "status": "approved"})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-DC-DEVKEY") != "key" {
			reply(w, 401, map[string]any{"errors": []any{map[string]string{"code": "access_denied", "message": "wrong key"}}})
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
			c := digicert.Kind.Config().(*digicert.Config)
			c.URL, c.Product, c.Organization, c.KeyFile = front.URL+"/services/v2", "ssl_basic", 7, issuertest.File(t, map[bool]string{false: "key\n", true: "wrong"}[bad])
			return digicert.Kind.Open(issuertest.Env(deadline), c)
		}})
}

func TestOwnDeadlineWins(t *testing.T) {
	b := issuertest.NewBackend(t)
	b.Looks = 1
	front := issuertest.NewFront(t, fake(b))
	c := digicert.Kind.Config().(*digicert.Config)
	c.URL, c.Product, c.Organization, c.KeyFile, c.Deadline = front.URL+"/services/v2", "ssl_basic", 7, issuertest.File(t, "key"), time.Nanosecond
	i, err := digicert.Kind.Open(issuertest.Env(time.Hour), c)
	if err != nil {
		t.Fatal(err)
	}
	_, err = i.Issue(t.Context(), issuertest.NewRequest(t, "deadline", "a.example.test"))
	if e := issuertest.WantClass(t, err, issuer.Permanent); !strings.Contains(e.Error(), "order 1") {
		t.Errorf("error %v does not name the order", e)
	}
}
