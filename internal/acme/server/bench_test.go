package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/acme/server"
)

// BenchmarkIssuance is the whole workflow for one name on SQLite: five signed
// requests, client and web server included, without the network in between.
func BenchmarkIssuance(b *testing.B) {
	w := lite(b, func(c *server.Config) { c.Limits = &server.Limits{} })
	c := w.account(b)
	c.via = w.handler(w.Server)
	names := make([]string, b.N)
	for i := range names {
		names[i] = fmt.Sprintf("n%d.bench.test", i)
		w.names(names[i])
	}
	b.ReportAllocs()
	b.ResetTimer()
	for _, name := range names {
		o, _ := c.order(name)
		c.solve(c.post(o.Authorizations[0], nil).authz(), challenge.HTTP01)
		o = c.post(o.Finalize, map[string]string{"csr": csr(b, nil, name)}).want(http.StatusOK).order()
		c.post(o.Certificate, nil).want(http.StatusOK)
	}
}

// BenchmarkSignedRead is the cheapest signed request: what every other one
// costs at least, signing included.
func BenchmarkSignedRead(b *testing.B) {
	w := lite(b, func(c *server.Config) { c.Limits = &server.Limits{} })
	c := w.account(b)
	c.via = w.handler(w.Server)
	o, url := c.order("read.bench.test")
	b.ReportAllocs()
	for b.Loop() {
		var got acme.Order
		if err := json.Unmarshal(c.post(url, nil).body, &got); err != nil || got.Status != o.Status {
			b.Fatal(err)
		}
	}
}
