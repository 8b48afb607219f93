package scan_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/bench/fleet"
	"chancery/internal/dns"
	"chancery/internal/dns/dnstest"
	"chancery/internal/fault"
	"chancery/internal/scan"
	"chancery/internal/scan/probe"
	"chancery/internal/scan/verdict"
)

// endpoint is a TLS server whose certificate can be replaced. It offers
// tickets, as crypto/tls does.
type endpoint struct {
	addr *net.TCPAddr
	cert atomic.Pointer[tls.Certificate]

	mu         sync.Mutex
	open, most int
	accepted   []time.Time
}

// serveTLS starts one on an address of the loopback network.
func serveTLS(t testing.TB, host, name string) *endpoint {
	t.Helper()
	l, err := net.Listen("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	e := &endpoint{addr: l.Addr().(*net.TCPAddr)}
	e.replace(t, name)
	cfg := &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return e.cert.Load(), nil }}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.count(1)
			go func() {
				defer c.Close()
				defer e.count(-1)
				conn := tls.Server(c, cfg)
				if conn.Handshake() == nil {
					io.Copy(io.Discard, conn)
				}
			}()
		}
	}()
	return e
}

func (e *endpoint) count(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.open += n; n > 0 {
		e.accepted = append(e.accepted, time.Now())
	}
	e.most = max(e.most, e.open)
}

// replace gives the endpoint a new certificate.
func (e *endpoint) replace(t testing.TB, name string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<60))
	template := &x509.Certificate{SerialNumber: serial, DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	e.cert.Store(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
	return der
}

// parse makes targets.
func parse(t testing.TB, list ...string) []scan.Target {
	t.Helper()
	set := scan.NewTargets(scan.TargetConfig{Protocol: probe.TLS})
	for _, text := range list {
		if err := set.Add(text); err != nil {
			t.Fatal(err)
		}
	}
	return set.List()
}

func judge() *verdict.Judge { return verdict.New(verdict.Config{}) }

// A resuming client would report the old certificate for ever.
func TestReplacedCertificateIsSeenAtTheNextScan(t *testing.T) {
	e := serveTLS(t, "127.0.0.1:0", "a.test")
	cfg := scan.Config{Judge: judge()}
	s, err := scan.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	targets := parse(t, e.addr.String()+"/a.test")
	for range 3 {
		want := e.replace(t, "a.test")
		_, err := s.Run(t.Context(), targets, func(_ context.Context, batch []scan.Result) error {
			if diff := cmp.Diff(want, batch[0].Leaf().Raw); diff != "" || !batch[0].Proven {
				t.Errorf("an old certificate: proven %v", batch[0].Proven)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// clock is a settable time.
type clock struct{ nanos atomic.Int64 }

func (c *clock) now() time.Time { return time.Unix(0, c.nanos.Load()) }

func TestAliasIsFollowedWithinItsTTL(t *testing.T) {
	old, moved := serveTLS(t, "127.0.5.1:0", "a.test"), (*endpoint)(nil)
	port := old.addr.Port
	moved = serveTLS(t, fmt.Sprintf("127.0.5.2:%d", port), "a.test")
	srv := dnstest.Start(t)
	srv.Add("www.a.test. 5 IN CNAME old.a.test.", "old.a.test. 3600 IN A 127.0.5.1", "new.a.test. 3600 IN A 127.0.5.2")
	var c clock
	c.nanos.Store(time.Now().UnixNano())
	r, err := dns.New(dns.Config{Servers: []string{srv.Addr()}, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cfg := scan.Config{Resolver: r, Judge: judge(), Now: c.now}
	targets := parse(t, fmt.Sprintf("www.a.test:%d", port))
	look := func(when string, want *endpoint) {
		t.Helper()
		got, _ := collect(t, cfg, targets)
		res := got[targets[0].String()]
		if res.Addr.String() != want.addr.String() {
			t.Errorf("%s: scanned %s (%s), want %s", when, res.Addr, res.Class, want.addr)
		}
		if res.TTL > 5*time.Second {
			t.Errorf("%s: TTL %v of a chain whose smallest is 5s", when, res.TTL)
		}
	}
	look("at first", old)
	srv.Remove("www.a.test")
	srv.Add("www.a.test. 5 IN CNAME new.a.test.")
	c.nanos.Add(int64(4 * time.Second))
	look("within the TTL", old)
	c.nanos.Add(int64(2 * time.Second))
	look("after the TTL", moved)
}

func TestOneAddressIsTreatedGently(t *testing.T) {
	e := serveTLS(t, "127.0.6.1:0", "a.test")
	var list []string
	for i := range 24 {
		list = append(list, fmt.Sprintf("%s/h%d.test", e.addr, i))
	}
	got, _ := collect(t, scan.Config{Judge: judge(), PerAddress: 2, AddressRate: 40}, parse(t, list...))
	for target, r := range got {
		if r.Class != probe.OK {
			t.Errorf("%s: %s", target, r.Class)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	took := e.accepted[len(e.accepted)-1].Sub(e.accepted[0])
	// 24 at 40/s with a burst of 2: 22 intervals of 25 ms. The server may see
	// a connection end after the next one began.
	if e.most > 3 || took < 500*time.Millisecond || len(got) != 24 {
		t.Errorf("%d results; %d at once, want 2; in %v, want 550ms", len(got), e.most, took)
	}
}

// A slow sink slows the scan; every result still comes exactly once.
func TestSlowSinkLosesNothing(t *testing.T) {
	_, cfg, targets := estate(t, fleet.Config{Endpoints: 120, Seed: 3, Live: true})
	cfg.Batch, cfg.Backlog, cfg.Flush = 10, 20, 5*time.Millisecond
	s, err := scan.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	seen, refusals := map[scan.Target]int{}, 0
	sum, err := s.Run(t.Context(), targets, func(_ context.Context, batch []scan.Result) error {
		if refusals++; refusals%3 != 0 {
			return fault.New(fault.Unavailable, "busy").Retry(time.Millisecond)
		}
		for _, r := range batch {
			seen[r.Target]++
		}
		return nil
	})
	if err != nil || sum.Done != 120 || len(seen) != 120 || sum.Slowed == 0 {
		t.Errorf("%v: %d done, %d seen, %d times put off", err, sum.Done, len(seen), sum.Slowed)
	}
}

func TestBrokenSinkEndsTheScan(t *testing.T) {
	_, cfg, targets := estate(t, fleet.Config{Endpoints: 100, Seed: 3})
	cfg.Batch = 10
	s, err := scan.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("disk full")
	sum, err := s.Run(t.Context(), targets, func(context.Context, []scan.Result) error { return broken })
	if !errors.Is(err, broken) || sum.Remaining != 100 {
		t.Errorf("%v, %d remaining", err, sum.Remaining)
	}
}

func TestCancelAndResumeLosesNothing(t *testing.T) {
	f, cfg, targets := estate(t, fleet.Config{Endpoints: 200, Seed: 5})
	cfg.Batch, cfg.Start, cfg.MinInFlight, cfg.MaxInFlight = 10, 8, 8, 8
	path := filepath.Join(t.TempDir(), "pass")
	results := map[string]int{}
	passes := 0
	for remaining := 200; remaining > 0; passes++ {
		state, err := scan.OpenState(path)
		if err != nil {
			t.Fatal(err)
		}
		cfg.State = state
		s, err := scan.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		batches := 0
		sum, err := s.Run(ctx, targets, func(_ context.Context, batch []scan.Result) error {
			for _, r := range batch {
				results[r.Target.String()]++
			}
			if batches++; batches == 4 && passes < 3 {
				cancel()
			}
			return nil
		})
		cancel()
		if remaining = sum.Remaining; err != nil && !errors.Is(err, context.Canceled) || (err == nil) != (remaining == 0) {
			t.Fatalf("%v with %d remaining", err, remaining)
		}
		if sum.Done+sum.Skipped+sum.Remaining != 200 {
			t.Errorf("pass %d: %d done, %d skipped, %d remaining", passes, sum.Done, sum.Skipped, sum.Remaining)
		}
		if err := state.Close(); err != nil {
			t.Fatal(err)
		}
		if passes < 3 { // a crash tears the last line
			appendTo(t, path, `{"target":"torn`)
		}
	}
	for _, e := range f.Endpoints {
		if results[e.Target] != 1 {
			t.Errorf("%s: %d results", e.Target, results[e.Target])
		}
	}
	if passes < 4 {
		t.Errorf("%d passes: nothing was interrupted", passes)
	}
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func TestStateRefusesOtherFiles(t *testing.T) {
	for _, text := range []string{"a.test\nb.test\n", "{}\n", `{"format":"other"}` + "\n", strings.Repeat("x", 10000)} {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := scan.OpenState(path); !fault.Is(err, fault.Invalid) {
			t.Errorf("%.20q: %v", text, err)
		}
		if after, _ := os.ReadFile(path); string(after) != text {
			t.Errorf("%.20q was overwritten", text)
		}
	}
}

// Output is for machines: one object per line, and a spreadsheet must not run
// what a stranger wrote into a certificate.
func TestOutputs(t *testing.T) {
	e := serveTLS(t, "127.0.0.1:0", "=cmd()")
	var jsonl, table bytes.Buffer
	targets := parse(t, e.addr.String()+"/a.test")
	s, err := scan.New(scan.Config{Judge: judge()})
	if err != nil {
		t.Fatal(err)
	}
	toJSON, toCSV := scan.JSONLines(&jsonl), scan.CSV(&table)
	sum, err := s.Run(t.Context(), targets, func(ctx context.Context, batch []scan.Result) error {
		return errors.Join(toJSON(ctx, batch), toCSV(ctx, batch))
	})
	if err != nil {
		t.Fatal(err)
	}
	var v scan.View
	if err := json.Unmarshal(jsonl.Bytes(), &v); err != nil || v.Class != probe.OK || v.Certificate.Names[0] != "=cmd()" || v.Problems[0] != verdict.WrongHost {
		t.Errorf("%v: %s", err, jsonl.String())
	}
	if !strings.Contains(table.String(), ",'=cmd(),") {
		t.Errorf("csv: %s", table.String())
	}
	reg := prometheus.NewRegistry()
	if err := sum.Register(reg); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil || len(families) != 4 {
		t.Errorf("%d families, %v", len(families), err)
	}
}
