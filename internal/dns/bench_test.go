package dns_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"chancery/internal/dns"
)

// The server under BenchmarkCold is in the same process and its CPU time is
// part of the result.
func BenchmarkCold(b *testing.B) {
	s, r, _ := start(b, dns.Config{})
	s.Add("x.test. 60 IN TXT x")
	session := r.Session(dns.Limits{MaxAge: dns.NoCache})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := session.TXT(context.Background(), "x.test"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkWarm(b *testing.B) {
	s, r, _ := start(b, dns.Config{})
	const names = 1000
	for i := range names {
		s.Add(fmt.Sprintf("n%d.test. 3600 IN A 192.0.2.1", i))
	}
	var n atomic.Int64
	list := make([]string, names)
	for i := range list {
		list[i] = fmt.Sprintf("n%d.test", i)
		r.Addrs(b.Context(), list[i])
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := r.Addrs(context.Background(), list[n.Add(1)%names]); err != nil {
				b.Fatal(err)
			}
		}
	})
}
