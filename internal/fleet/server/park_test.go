package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json/v2"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fleet"
	"chancery/internal/httpd"
)

// childEnv makes the test binary a crowd of agents: it names their file.
const childEnv = "CHANCERY_TEST_CROWD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		crowd(path)
		return
	}
	os.Exit(dbtest.Main(m))
}

// crowdFile is what a crowd of agents is told.
type crowdFile struct {
	Addr  string   `json:"addr"`
	Key   []byte   `json:"key"`
	Certs [][]byte `json:"certs"`
}

// crowd opens a connection for each certificate, asks on it, and waits for its
// standard input to end.
func crowd(path string) {
	text, err := os.ReadFile(path)
	fatal(err)
	var c crowdFile
	fatal(json.Unmarshal(text, &c))
	key, err := x509.ParsePKCS8PrivateKey(c.Key)
	fatal(err)
	body := `{"generation":1,"instance":"` + SeedInstance + `","version":"test","targets":["web"]}`
	var g errgroup.Group
	g.SetLimit(32)
	conns := make([]net.Conn, len(c.Certs))
	for i, der := range c.Certs {
		g.Go(func() error {
			conn, err := tls.Dial("tcp", c.Addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{fleet.ALPN, "http/1.1"},
				Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
			if err != nil {
				return err
			}
			conns[i] = conn
			_, err = fmt.Fprintf(conn, "POST %swait HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", fleet.Prefix, len(body), body)
			return err
		})
	}
	fatal(g.Wait())
	_, _ = io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(conns) // the collector closes what nobody refers to
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// memory is what the process needs for its objects and stacks, in bytes.
func memory() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // finalisers and pools of the first are gone after the second
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// TestParkedAgentIsCheap parks 2,000 agents of another process over TLS, and
// measures what each costs this one.
func TestParkedAgentIsCheap(t *testing.T) {
	const agents, most = 2000, 60 << 10
	ctx := t.Context()
	d, err := db.Open(ctx, db.Config{URL: dbtest.SQLiteURL(t)})
	must(t, err)
	defer d.Close()
	_, err = d.Migrate(ctx, time.Now())
	must(t, err)
	s, err := New(Config{DB: d, Hold: 10 * time.Minute})
	must(t, err)
	key, certs, err := Seed(ctx, d, agents, time.Now())
	must(t, err)
	mux := httpd.NewMux(httpd.NewMetrics(prometheus.NewRegistry()))
	s.Routes(mux)
	signer, err := x509.ParsePKCS8PrivateKey(key)
	must(t, err)
	own := &httpd.Certificates{}
	own.Set(&tls.Certificate{Certificate: [][]byte{certs[0]}, PrivateKey: signer})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	run, stop := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := httpd.New(httpd.Config{Name: "test", Handler: mux, TLS: TLS(own.TLS())}).Run(run, ln); err != nil {
			t.Error(err)
		}
	})
	text, err := json.Marshal(crowdFile{Addr: ln.Addr().String(), Key: key, Certs: certs})
	must(t, err)
	file := filepath.Join(t.TempDir(), "crowd.json")
	must(t, os.WriteFile(file, text, 0o600))
	text, certs = nil, nil

	before := memory()
	child := exec.Command(os.Args[0])
	child.Env, child.Stderr = append(os.Environ(), childEnv+"="+file), os.Stderr
	leave, err := child.StdinPipe()
	must(t, err)
	start := time.Now()
	must(t, child.Start())
	wait(t, time.Minute, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.held) == agents })
	took := time.Since(start)
	each := int64(memory()-before) / agents
	t.Logf("%d agents parked in %s; %d bytes each (heap and stacks after GC); RSS %s", agents, took.Round(time.Millisecond), each, rss())
	if each > most {
		t.Errorf("a parked agent costs %d bytes, more than %d", each, most)
	}
	n, err := s.flush(ctx)
	if err != nil || n.Done != agents {
		t.Errorf("presence: %+v %v", n, err)
	}
	// The end of the process lets all of them go, at once.
	s.Drain()
	wait(t, 20*time.Second, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.held) == 0 })
	must(t, leave.Close())
	must(t, child.Wait())
	stop()
	done.Wait()
}

// TestHolds: a fleet asks about 25 times a second whatever its size, and every
// agent often enough not to count as silent.
func TestHolds(t *testing.T) {
	s, err := New(Config{})
	must(t, err)
	for n, want := range map[int]time.Duration{1: time.Minute, 1500: time.Minute, 6000: 4 * time.Minute, 15_000: 10 * time.Minute, 100_000: 10 * time.Minute} {
		for i := len(s.held); i < n; i++ {
			s.held[fmt.Sprint(i)] = &parked{}
		}
		for i := len(s.held); i > n; i-- {
			delete(s.held, fmt.Sprint(i-1))
		}
		if got := s.hold(); got != want {
			t.Errorf("with %d agents a question is held for %s, want %s", n, got, want)
		}
	}
	if longestHold+s.cfg.CheckIn > SilentAfter {
		t.Errorf("an agent that is held for %s counts as silent after %s", longestHold, SilentAfter)
	}
}

// rss is the memory of this process as the kernel sees it.
func rss() string {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if v, ok := strings.CutPrefix(sc.Text(), "VmRSS:"); ok {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

func wait(t *testing.T, within time.Duration, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(within); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within %s", within)
		}
	}
}
