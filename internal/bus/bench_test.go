package bus_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chancery/internal/bus"
	"chancery/internal/bus/bustest"
)

// cpu is the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchWork measures messages from Publish to the end of their handler, and
// reports processor time of client and servers together.
func benchWork(b *testing.B, servers, size, publishers int) {
	cfg := bus.Config{Prefix: "bench", Streams: []bus.Stream{{Name: "work", Dedup: time.Second}}}
	if servers > 0 {
		cfg.URL = bustest.Start(b, servers).URL()
	}
	conn := bustest.Open(b, cfg)
	if err := conn.Ready(b.Context()); err != nil {
		b.Fatal(err)
	}
	c, err := conn.Consumer(bus.ConsumerConfig{Stream: "work", Name: "workers", Workers: 16})
	if err != nil {
		b.Fatal(err)
	}
	var handled atomic.Int64
	all, target := make(chan struct{}), int64(b.N)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	go c.Run(ctx, func(context.Context, bus.Message) error {
		if handled.Add(1) == target {
			close(all)
		}
		return nil
	})
	data := bytes.Repeat([]byte("x"), size)
	var next atomic.Int64
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	used := cpu(b)
	for range publishers {
		go func() {
			for i := next.Add(1); i <= target; i = next.Add(1) {
				for conn.Publish(ctx, "work", strconv.FormatInt(i, 10), data) != nil && ctx.Err() == nil {
					time.Sleep(time.Millisecond)
				}
			}
		}()
	}
	<-all
	b.ReportMetric(float64((cpu(b)-used).Microseconds())/float64(b.N), "cpu-µs/op")
}

// A hint of work is some 100 bytes; a batch of 50 scan results some 60 kB.
func BenchmarkWork(b *testing.B) {
	for _, top := range []struct {
		name    string
		servers int
	}{{"embedded", 0}, {"external", 1}, {"cluster", 3}} {
		for _, m := range []struct {
			name string
			size int
		}{{"hint", 100}, {"batch50", 60_000}} {
			for _, publishers := range []int{1, 8} {
				b.Run(fmt.Sprintf("%s/%s/publishers=%d", top.name, m.name, publishers), func(b *testing.B) {
					benchWork(b, top.servers, m.size, publishers)
				})
			}
		}
	}
}

func BenchmarkNotify(b *testing.B) {
	conn := bustest.Open(b, bus.Config{})
	b.ReportAllocs()
	for b.Loop() {
		conn.Notify("due", nil)
	}
}

func BenchmarkRequest(b *testing.B) {
	conn := bustest.Open(b, bus.Config{})
	err := conn.Serve(b.Context(), "echo", func(_ context.Context, _ string, data []byte) ([]byte, error) { return data, nil })
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := conn.Request(b.Context(), "echo", []byte("x")); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCacheGet(b *testing.B) {
	conn := bustest.Open(b, bus.Config{Caches: []bus.CacheSpec{{Name: "blob"}}})
	c, err := conn.Cache("blob")
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Put(b.Context(), "k", make([]byte, 300)); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := c.Get(b.Context(), "k"); !ok {
			b.Fatal("miss")
		}
	}
}

// BenchmarkOpen reports how long an embedded bus takes to open and close, and
// what an open one adds to the resident memory of the process.
func BenchmarkOpen(b *testing.B) {
	cfg := bus.Config{Dir: b.TempDir(), Streams: []bus.Stream{{Name: "work"}, {Name: "ingest"}}, Caches: []bus.CacheSpec{{Name: "blob"}}}
	before, opened := resident(b), time.Duration(0)
	first := true
	for b.Loop() {
		start := time.Now()
		conn, err := bus.Open(b.Context(), cfg)
		if err != nil {
			b.Fatal(err)
		}
		opened += time.Since(start)
		if first {
			b.ReportMetric(float64(resident(b)-before)/(1<<20), "MiB-resident")
			first = false
		}
		if err := conn.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(opened.Microseconds())/float64(b.N)/1000, "ms-to-open")
}

// resident is the resident memory of this process in bytes.
func resident(b *testing.B) int64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Skip("no /proc: ", err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}
