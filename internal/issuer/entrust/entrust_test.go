package entrust_test

import (
	"crypto/x509"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"chancery/internal/issuer"
	"chancery/internal/issuer/entrust"
	"chancery/internal/issuer/issuertest"
)

// fake answers as the Enterprise API does. The first look at an order is made
// when it is submitted: Entrust answers at once if it can.
func fake(b *issuertest.Backend) http.Handler {
	mux := http.NewServeMux()
	reply := func(w http.ResponseWriter, status int, v any) { w.WriteHeader(status); json.NewEncoder(w).Encode(v) }
	show := func(n int) map[string]any {
		o, done := b.Look(n)
		out := map[string]any{"trackingId": n, "status": "PENDING"}
		if o.Rejected {
			out["status"] = "DECLINED"
		} else if done {
			out["status"], out["endEntityCert"] = "ACTIVE", issuertest.PEM(o.Chain[0])
			out["chainCerts"] = []string{issuertest.PEM(b.Inter.Raw), issuertest.PEM(b.Root.Raw)}
		}
		return out
	}
	mux.HandleFunc("GET /enterprise/v2/application/version", func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, map[string]string{"version": "1"}) })
	mux.HandleFunc("POST /enterprise/v2/certificates", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			CertType, CSR, CN, CertExpiryDate string
			ClientID                          int
			Tracking                          struct{ TrackingInfo, RequesterEmail string }
		}
		if json.NewDecoder(r.Body).Decode(&in) != nil || in.CertType != "STANDARD_SSL" || in.ClientID != 1 || in.CN == "" || in.Tracking.RequesterEmail != "pki@example.test" {
			reply(w, 400, map[string]any{"errors": []any{map[string]string{"message": "bad order"}}})
			return
		}
		n, err := b.Submit(in.CSR, in.Tracking.TrackingInfo)
		if err != nil {
			reply(w, 400, map[string]any{"errors": []any{map[string]string{"message": err.Error()}}})
			return
		}
		if b.Looks > 0 || b.Reject {
			reply(w, 202, map[string]any{"trackingId": n})
			return
		}
		reply(w, 201, show(n))
	})
	mux.HandleFunc("GET /enterprise/v2/certificates/{id}", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.PathValue("id"))
		reply(w, 200, show(n))
	})
	mux.HandleFunc("GET /enterprise/v2/certificates", func(w http.ResponseWriter, r *http.Request) {
		list := []any{}
		for n, o := range b.Orders {
			c, err := x509.ParseCertificate(o.Chain[0])
			if err != nil || !strings.EqualFold(issuertest.Serial(c), r.URL.Query().Get("serialNumber")) {
				continue
			}
			status := map[bool]string{true: "REVOKED", false: "ACTIVE"}[b.RevokedBy[issuertest.Serial(c)] > 0]
			list = append(list, map[string]any{"trackingId": n + 1, "status": status})
		}
		reply(w, 200, map[string]any{"certificates": list})
	})
	mux.HandleFunc("POST /enterprise/v2/certificates/{id}/revocations", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.PathValue("id"))
		if c, err := x509.ParseCertificate(b.Orders[n-1].Chain[0]); err == nil {
			b.RevokedBy[issuertest.Serial(c)]++
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != "user" || p != "secret" {
			reply(w, 401, map[string]any{"errors": []any{map[string]string{"message": "wrong credentials"}}})
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
	issuertest.Run(t, issuertest.Suite{Backend: b, Front: front, Async: true, Revokes: true, Checks: true,
		Open: func(t testing.TB, deadline time.Duration, bad bool) (issuer.Issuer, error) {
			c := entrust.Kind.Config().(*entrust.Config)
			c.URL, c.User, c.Product, c.Requester, c.Email, c.Phone = front.URL+"/enterprise/v2", "user", "STANDARD_SSL", "PKI", "pki@example.test", "+1 555 0100"
			c.PasswordFile = issuertest.File(t, map[bool]string{false: "secret\n", true: "wrong"}[bad])
			return entrust.Kind.Open(issuertest.Env(deadline), c)
		}})
}
