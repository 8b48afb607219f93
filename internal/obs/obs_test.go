package obs

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chancery/internal/fault"
)

func TestLogLinesCarryTheirEvent(t *testing.T) {
	var b bytes.Buffer
	log := NewLogger(&b, JSON, slog.LevelInfo)
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	ev := NewEvent(t.Context(), "req1", ParseTrace(parent))
	ctx, cancel := context.WithTimeout(ev, time.Minute) // any child will do
	defer cancel()
	Set(ctx, slog.String("account", "a"), slog.Int("order", 1))
	Set(ctx, slog.Int("order", 2))
	log.InfoContext(ctx, "issued")
	log.DebugContext(ctx, "not shown")
	var e map[string]any
	if err := json.Unmarshal(b.Bytes(), &e); err != nil {
		t.Fatalf("%v in %s", err, &b)
	}
	if e["request_id"] != "req1" || e["trace_id"] != "4bf92f3577b34da6a3ce929d0e0e4736" || e["account"] != "a" || e["order"] != 2.0 || e["msg"] != "issued" {
		t.Error(e)
	}
	if RequestID(ctx) != "req1" || RequestID(t.Context()) != "" {
		t.Error("request id is lost or invented")
	}
	Set(t.Context(), slog.Int("x", 1)) // without an event: no panic
}

func TestEventIsCancelledWithItsParent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithCancel(t.Context())
		child, stop := context.WithCancel(NewEvent(parent, "r", Trace{}))
		defer stop()
		cancel()
		synctest.Wait()
		if child.Err() == nil {
			t.Error("the child lives on")
		}
	})
}

func TestFormats(t *testing.T) {
	for format, want := range map[Format]string{JSON: `"msg":"hello"`, Text: "msg=hello", Auto: `"msg":"hello"`} {
		var b bytes.Buffer
		NewLogger(&b, format, slog.LevelInfo).With("k", "v").WithGroup("g").Info("hello")
		if !strings.Contains(b.String(), want) {
			t.Errorf("%s: %s", format, &b)
		}
	}
	if Format("xml").Valid() || !Auto.Valid() {
		t.Error("Valid is wrong")
	}
}

func TestTraceparent(t *testing.T) {
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	tr := ParseTrace(good)
	if !tr.Valid() || !tr.Sampled() || tr.String() != good || tr.SpanID() != "00f067aa0ba902b7" {
		t.Errorf("%+v", tr)
	}
	if c := tr.Child(); c.TraceID() != tr.TraceID() || c.SpanID() == tr.SpanID() {
		t.Error("a child is a new span of the same trace")
	}
	if later := ParseTrace("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes"); !later.Valid() {
		t.Error("a later version with more fields must be read (section 4.3)")
	}
	for _, bad := range []string{
		"", good[:54], good + "-", good + "x", strings.ToUpper(good),
		"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
		"00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
		"00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.",
	} {
		if got := ParseTrace(bad); got != (Trace{}) {
			t.Errorf("%q gave %s", bad, got)
		}
	}
}

func FuzzTraceparent(f *testing.F) {
	f.Add("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Fuzz(func(t *testing.T, s string) {
		if tr := ParseTrace(s); tr.Valid() && tr.String()[3:] != s[3:55] {
			t.Errorf("%q became %q", s, tr)
		}
	})
}

// scrape returns the text of a debug path.
func scrape(t *testing.T, d *Debug, path, remote string) (int, string) {
	t.Helper()
	r := httptest.NewRequest("GET", path, nil)
	r.RemoteAddr = remote
	w := httptest.NewRecorder()
	d.Handler().ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestTheFiveSharedFamilies(t *testing.T) {
	m := NewMetrics(Build{Version: "1.2.3"})
	issue := m.Op("issue")
	issue.Observe(20*time.Millisecond, nil)
	issue.Observe(time.Second, fmt.Errorf("order: %w", fault.New(fault.BadCSR, "weak")))
	issue.Start().End(errors.New("disk full"))
	issue.Observe(time.Second, fault.New(fault.Unavailable, "busy"))
	m.CA("sign").Observe(time.Millisecond, nil)
	m.Query("renew.claim_due").Observe(0.002)
	m.Queue("renewal").Set(7)
	_, text := scrape(t, NewDebug(m, Build{}, Discard()), "/metrics", "127.0.0.1:1")
	for _, want := range []string{
		`certificate_operations_total{operation="issue",status="success"} 1`,
		`certificate_operations_total{operation="issue",status="rejected"} 1`,
		`certificate_operations_total{operation="issue",status="failure"} 2`,
		`certificate_operation_duration_seconds_count{operation="issue",status="success"} 1`,
		`ca_request_duration_seconds_count{operation="sign",status="success"} 1`,
		`database_query_duration_seconds_count{query_type="renew.claim_due"} 1`,
		`certificate_queue_size{queue_type="renewal"} 7`,
		`chancery_build_info{`, `go_goroutines `, `process_cpu_seconds_total `,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if strings.Contains(text, `ca_request_duration_seconds{`) {
		t.Error("unexpected shape of a histogram")
	}
}

func TestObservingDoesNotAllocate(t *testing.T) {
	op := NewMetrics(Build{}).Op("issue")
	if n := testing.AllocsPerRun(100, func() { op.Start().End(nil) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestReadiness(t *testing.T) {
	d := NewDebug(NewMetrics(Build{}), Build{}, Discard())
	if code, text := scrape(t, d, "/readyz", "192.0.2.1:1"); code != 200 || text != "OK\n" {
		t.Errorf("no checks: %d %q", code, text)
	}
	d.Ready("database", func(context.Context) error { return nil })
	d.Ready("ocsp", func(context.Context) error { return errors.New("snapshot is loading, 40 of 100 shards") })
	code, text := scrape(t, d, "/readyz", "192.0.2.1:1")
	if want := "[+] database\n[-] ocsp: snapshot is loading, 40 of 100 shards\nService Unavailable\n"; code != 503 || text != want {
		t.Errorf("%d %q", code, text)
	}
	if code, text := scrape(t, d, "/livez", "192.0.2.1:1"); code != 200 || text != "ok\n" {
		t.Errorf("livez: %d %q", code, text)
	}
	d.Ready("ocsp", func(context.Context) error { return nil })
	if code, _ := scrape(t, d, "/readyz", "192.0.2.1:1"); code != 200 {
		t.Errorf("after recovery: %d", code)
	}
}

func TestReadinessDoesNotWaitForAHungCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := NewDebug(NewMetrics(Build{}), Build{}, Discard())
		release := make(chan struct{})
		d.Ready("hung", func(context.Context) error { <-release; return nil })
		d.Ready("fine", func(context.Context) error { return nil })
		start := time.Now()
		code, text := scrape(t, d, "/readyz", "127.0.0.1:1")
		if code != 503 || !strings.Contains(text, "[-] hung: no answer in time") || !strings.Contains(text, "[+] fine") || time.Since(start) > time.Second {
			t.Errorf("%d after %s: %q", code, time.Since(start), text)
		}
		close(release)
	})
}

func TestProfilesAreForThisHostOnly(t *testing.T) {
	d := NewDebug(NewMetrics(Build{}), Build{Version: "1.2.3"}, Discard())
	for remote, want := range map[string]int{"127.0.0.1:1": 200, "[::1]:1": 200, "@": 200, "192.0.2.1:1": 403, "[::ffff:192.0.2.1]:1": 403} {
		for _, path := range []string{"/debug/pprof/cmdline", "/buildinfo"} {
			if code, _ := scrape(t, d, path, remote); code != want {
				t.Errorf("%s from %s: %d, want %d", path, remote, code, want)
			}
		}
	}
	if _, text := scrape(t, d, "/buildinfo", "127.0.0.1:1"); !strings.Contains(text, `"version":"1.2.3"`) {
		t.Error(text)
	}
}

// TestContentionIsCountedWhileAsked: the profile of contended locks knows those
// of the seconds that were asked for.
func TestContentionIsCountedWhileAsked(t *testing.T) {
	d := NewDebug(NewMetrics(Build{}), Build{}, Discard()).Handler()
	stop := make(chan struct{})
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					mu.Lock()
					runtime.Gosched()
					mu.Unlock()
				}
			}
		})
	}
	for _, name := range []string{"mutex", "block"} {
		r := httptest.NewRequest("GET", "/debug/pprof/"+name+"?seconds=1", nil)
		r.RemoteAddr = "127.0.0.1:1"
		w := httptest.NewRecorder()
		d.ServeHTTP(w, r)
		text, err := gzip.NewReader(w.Body)
		if w.Code != 200 || err != nil {
			t.Fatalf("%s: %d, %v", name, w.Code, err)
		}
		if p, err := io.ReadAll(text); err != nil || !bytes.Contains(p, []byte("TestContentionIsCountedWhileAsked")) {
			t.Errorf("%s: %v, the contended lock is not in the profile", name, err)
		}
	}
	close(stop)
	wg.Wait()
	if n := runtime.SetMutexProfileFraction(-1); n != 0 {
		t.Errorf("contention is still counted, one in %d", n)
	}
}

func TestDebugOnAUnixSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "dbg") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	stale, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close() // what a killed process leaves

	ln, err := ListenDebug("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ListenDebug("unix:" + path); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a live socket was taken over: %v", err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	d := NewDebug(NewMetrics(Build{}), Build{}, Discard())
	go func() { done <- d.Serve(ctx, ln) }()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	res, err := client.Get("http://debug/debug/pprof/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, res.Body)
	res.Body.Close()
	if res.StatusCode != 200 {
		t.Errorf("profile over the socket: %d", res.StatusCode)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := d.Run(t.Context(), "not an address"); err == nil {
		t.Error("a bad address was taken")
	}
}

func TestBuildInformation(t *testing.T) {
	b := ReadBuild("v1", "abc")
	if b.Version != "v1" || b.Revision != "abc" || b.Go == "" || !strings.Contains(b.Platform, "/") {
		t.Errorf("%+v", b)
	}
	if ReadBuild("", "").Version != "dev" {
		t.Error("an unreleased build is dev")
	}
}
