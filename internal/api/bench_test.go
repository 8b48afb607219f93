package api_test

import (
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/api"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/httpd"
)

var benchRows = db.BulkInsert("apibench.insert_certificates", "certificate", false, "id", "authority_id", "serial", "state", "ca", "profile",
	"profile_hash", "names", "key_type", "spki_hash", "evidence", "tbs_hash", "der", "shard", "not_before", "not_after", "created_at", "issued_at")

// BenchmarkList answers a page of 50 among 20,000 certificates, and a 304.
func BenchmarkList(b *testing.B) {
	w := newWorld(b, dbtest.SQLiteURL(b))
	s, err := api.New(api.Config{DB: w.db, CA: w.ca})
	check(b, err)
	mux := httpd.NewMux(httpd.NewMetrics(prometheus.NewRegistry()))
	s.Routes(mux)
	h := httpd.New(httpd.Config{Handler: mux})
	at := time.Now()
	var rows [][]any
	for i := range 20000 {
		rows = append(rows, []any{db.NewID(at), w.ca.Authorities()[0].ID, fmt.Sprintf("%034x", i+1), "issued", "default", "tls", "x", fmt.Sprintf(`["h%d.example.test"]`, i), "p256",
			make([]byte, 32), "[]", make([]byte, 32), make([]byte, 700), 0, at, at.Add(time.Duration(i) * time.Minute), at, at})
	}
	check(b, w.db.Write(ctx, func(tx *db.Tx) error { return tx.Insert(ctx, benchRows, rows) }))
	for _, c := range []struct{ name, query string }{{"newest", "limit=50"}, {"expiry", "limit=50&q=expires:%3C14d"}, {"expiry1000", "limit=1000&q=expires:%3C30d"}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				r := httptest.NewRequest("GET", "/api/v1/issued?"+c.query, nil)
				r.Header.Set("Authorization", "Bearer "+w.adminText())
				rec := httptest.NewRecorder()
				if h.ServeHTTP(rec, r); rec.Code != 200 {
					b.Fatal(rec.Code, rec.Body)
				}
			}
		})
	}
	text := w.adminText()
	b.Run("304", func(b *testing.B) {
		for b.Loop() {
			r := httptest.NewRequest("GET", "/api/v1/issued?limit=50", nil)
			r.Header.Set("Authorization", "Bearer "+text)
			r.Header.Set("If-None-Match", "*")
			rec := httptest.NewRecorder()
			if h.ServeHTTP(rec, r); rec.Code != 304 {
				b.Fatal(rec.Code)
			}
		}
	})
}
