package challenge_test

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chancery/internal/acme/challenge"
	"chancery/internal/dns"
)

// cpu returns the CPU time of this process.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchNames is enough that no answer is young enough to be used twice.
const benchNames = 40_000

// BenchmarkHTTP01 validates distinct names end to end: two DNS queries, a
// connection, a fetch. The DNS and web servers are in the process and part of
// the CPU time; BenchmarkHTTP01Client is the same with net/http's client.
func BenchmarkHTTP01(b *testing.B) {
	w := benchWeb(b)
	var n atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	begun := cpu(b)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			id := name(fmt.Sprintf("n%d.test", n.Add(1)%benchNames))
			if _, err := w.v.Validate(context.Background(), request(id)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.ReportMetric(float64((cpu(b)-begun).Microseconds())/float64(b.N), "cpu-µs/op")
}

func benchWeb(b *testing.B) *web {
	w := newWeb(b)
	w.mux.HandleFunc(path, says(200, keyAuth))
	for i := range benchNames {
		w.dns.Add(fmt.Sprintf("n%d.test. 60 IN A 127.0.0.1", i))
	}
	return w
}

func BenchmarkHTTP01Client(b *testing.B) {
	w := benchWeb(b)
	url := fmt.Sprintf("http://127.0.0.1:%d%s", w.cfg.HTTP01Port, path)
	session := w.cfg.Resolver.Session(dns.Limits{MaxAge: time.Second})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var n atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	begun := cpu(b)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := session.Addrs(context.Background(), fmt.Sprintf("n%d.test", n.Add(1)%benchNames)); err != nil {
				b.Fatal(err)
			}
			resp, err := client.Get(url)
			if err != nil {
				b.Fatal(err)
			}
			resp.Body.Close()
		}
	})
	b.ReportMetric(float64((cpu(b)-begun).Microseconds())/float64(b.N), "cpu-µs/op")
}

func BenchmarkTLSALPN01(b *testing.B) {
	w := newWorld(b)
	w.dns.Add("example.test. 60 IN A 127.0.0.1")
	var names <-chan string
	w.cfg.TLSALPN01Port, names = rightAnswer(b, name("example.test")).serve(b, "127.0.0.1:0")
	go func() {
		for range names {
		}
	}()
	v := challenge.NewTLSALPN01(w.cfg)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Validate(context.Background(), request(name("example.test"))); err != nil {
			b.Fatal(err)
		}
	}
}
