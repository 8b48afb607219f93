package bench

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"chancery/internal/fault"
	"chancery/internal/obs"
)

// fakeProc writes files below a directory that stands for /proc.
func fakeProc(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// stat is a line of /proc/PID/stat with the fields that count (proc(5)).
func stat(pid int, name string, parent, utime, stime, cutime, cstime int) string {
	return fmt.Sprintf("%d (%s) S %d 1 1 0 -1 4194304 100 0 0 0 %d %d %d %d 20 0 8 0 100 1 1", pid, name, parent, utime, stime, cutime, cstime)
}

// A database server that forks counts with its children, living and dead; the
// load generator and strangers do not, whatever they are called.
func TestServerCPUIsThatOfTheTree(t *testing.T) {
	self := os.Getpid()
	p := &Probe{PIDs: []int{100}, proc: fakeProc(t, map[string]string{
		"stat":                       "cpu  1000 0 500 8000 500 0 0 0 100 0\ncpu0 1 2 3\n",
		"100/stat":                   stat(100, "postgres (main) x", 1, 10, 5, 30, 1),
		"101/stat":                   stat(101, "child", 100, 7, 0, 0, 0),
		"102/stat":                   stat(102, ") S 100", 101, 2, 2, 0, 0),
		"200/stat":                   stat(200, "stranger", 1, 9999, 0, 0, 0),
		strconv.Itoa(self) + "/stat": stat(self, "bench", 100, 5555, 0, 0, 0),
		"300/stat":                   "300 (torn",
		"self/stat":                  stat(7, "self", 100, 1, 1, 1, 1),
		"100/status":                 "Name:\tpostgres\nVmPeak:\t  999 kB\nVmHWM:\t   2048 kB\n",
	})}
	if got, want := p.serverCPU(), 570*time.Millisecond; got != want {
		t.Errorf("server CPU %v, want %v", got, want)
	}
	if got := p.peak(); got != 2<<20 {
		t.Errorf("peak %d", got)
	}
	if err := p.Check(); err != nil {
		t.Error(err)
	}
	var r reading
	p.cpu(&r)
	if r.busy != 15*time.Second || r.capacity != 100*time.Second {
		t.Errorf("busy %v of %v; iowait is not busy and guests are counted once", r.busy, r.capacity)
	}
	if r.client <= 0 {
		t.Error("this process used no CPU")
	}
}

// A window is the difference of two readings, and others are what is left.
func TestUsageIsADifference(t *testing.T) {
	metrics := func(mallocs, bytes int) string {
		return fmt.Sprintf("# HELP go_memstats_mallocs_total x\ngo_memstats_mallocs_total %d\ngo_memstats_alloc_bytes_total %d\nother{a=\"b\"} 1\n", mallocs, bytes)
	}
	page := metrics(1000, 1e6)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(page)) }))
	t.Cleanup(srv.Close)
	dir := fakeProc(t, map[string]string{
		"stat": "cpu  0 0 0 0 0 0 0 0 0 0\n", "100/stat": stat(100, "x", 1, 0, 0, 0, 0), "100/status": "VmHWM: 10 kB\n", "100/clear_refs": ""})
	p := &Probe{PIDs: []int{100}, MetricsURL: srv.URL, proc: dir}
	from := p.begin(t.Context())
	if text, err := os.ReadFile(filepath.Join(dir, "100/clear_refs")); err != nil || string(text) != "5" {
		t.Errorf("the peak was not reset: %q %v", text, err)
	}
	for name, text := range map[string]string{"stat": "cpu  100000 0 0 100000 0 0 0 0 0 0\n", "100/stat": stat(100, "x", 1, 40000, 0, 0, 0)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page = metrics(1500, 3e6)
	u := p.end(t.Context(), from)
	if u.ServerCPU != 400e3 || u.Mallocs != 500 || u.Allocated != 2e6 || u.PeakRSS != 10<<10 || u.PeakSince != "round" {
		t.Errorf("%+v", u)
	}
	if u.Statements != nil {
		t.Errorf("%v statements of a server that counts none", *u.Statements)
	}
	if u.Others < .29 || u.Others > .3 { // half busy, of it 4/10 the server, a trace the test
		t.Errorf("others %v", u.Others)
	}
}

// Statements are summed over their names; a table shows them in a second, and
// what belongs to the run as a whole stands above it.
func TestStatementsAreCounted(t *testing.T) {
	const series = `database_query_duration_seconds_count{query_type="%s"} %d` + "\n"
	page := fmt.Sprintf("# TYPE x histogram\n"+series+series+`database_query_duration_seconds_bucket{query_type="a",le="0.1 "} 999`+"\n", "a", 5, "b c", 7)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(page)) }))
	t.Cleanup(srv.Close)
	if n, err := statements(t.Context(), srv.URL); err != nil || n != 12 {
		t.Errorf("%v statements, %v", n, err)
	}
	p := &Probe{MetricsURL: srv.URL, proc: t.TempDir()}
	from := p.begin(t.Context())
	page = fmt.Sprintf(series+series, "a", 25, "b c", 7)
	u := p.end(t.Context(), from)
	if u.Statements == nil || *u.Statements != 20 {
		t.Fatalf("%+v", u)
	}
	tot := newTotals(0)
	tot.rounds = []Round{{Seconds: 4}}
	tot.add(100, u)
	w := Workload{Name: "ocsp", Unit: "answers"}
	run := Run{Bench: w.Name, Unit: w.Unit, Points: []Point{tot.point(&w, 1, 0)}, Figures: []Figure{{"memory per serial", 118.2, "B of heap"}, {"serials", 1e6, ""}}}
	var text, mark bytes.Buffer
	if err := errors.Join(run.WriteText(&text), WriteMarkdown(&mark, []Run{run})); err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{text.String(), mark.String()} {
		if !strings.Contains(out, "memory per serial 118 B of heap, serials 1000000") || !strings.Contains(out, "SQL/s") || !strings.Contains(out, "5.00") {
			t.Errorf("%s", out)
		}
	}
}

func TestAProbeWithoutAnythingToWatch(t *testing.T) {
	p := &Probe{proc: t.TempDir(), MetricsURL: "http://127.0.0.1:1/metrics"}
	if u := p.end(t.Context(), p.begin(t.Context())); u.ServerCPU != 0 || u.Others != 0 || u.PeakRSS != 0 || u.Mallocs != 0 {
		t.Errorf("%+v", u)
	}
	for _, pid := range []int{0, 1, -5} { // an empty pid file must not become process 0
		if err := (&Probe{PIDs: []int{pid}}).Check(); !fault.Is(err, fault.Invalid) {
			t.Errorf("pid %d: %v", pid, err)
		}
	}
	if err := (&Probe{PIDs: []int{1 << 30}}).Check(); !fault.Is(err, fault.NotFound) {
		t.Errorf("%v", err)
	}
}

func TestFilesystemIsTheInnermostMount(t *testing.T) {
	const mounts = "overlay / overlay rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0\n/dev/vda /data ext4 rw 0 0\n/dev/vdb /data/fast xfs rw 0 0\n/dev/vdc /database btrfs rw 0 0\nbroken\n"
	for dir, want := range map[string]string{"/": "overlay", "/data": "ext4", "/data/x": "ext4", "/data/fast/db": "xfs", "/database": "btrfs", "/databases": "overlay", "/dev/shm/x": "tmpfs"} {
		if got := filesystemOf(mounts, dir); got != want {
			t.Errorf("%s is on %s, want %s", dir, got, want)
		}
	}
}

func TestFingerprintNamesTheMachine(t *testing.T) {
	m := Fingerprint(obs.ReadBuild("v1", "abc"), t.TempDir(), time.Now())
	if m.Cores < 1 || m.Build.Version != "v1" || m.Date.IsZero() || m.Platform == "" || m.Verify < 1 || m.Verify > 1e5 {
		t.Errorf("%+v", m)
	}
	if where := m.Where(); !strings.Contains(where, "P-256 verification ") {
		t.Errorf("%q does not say how fast a core is", where)
	}
}

func TestBarStaysOnItsLine(t *testing.T) {
	var b bytes.Buffer
	bar := NewBar(&b, true)
	for _, share := range []float64{0, .5, .4, 1} {
		bar.Part(1, 2)(Progress{Share: share, Clients: 5, Round: 1, Rounds: 3, Measuring: true, PerSecond: 12.34, Failed: 2})
	}
	bar.Clear()
	text := b.String()
	if strings.Contains(text, "\n") || !strings.Contains(text, " 75%") || !strings.Contains(text, "100%") || strings.Contains(text, " 70%") || !strings.Contains(text, "2 failed") || !strings.HasSuffix(text, "\r\x1b[K") {
		t.Errorf("%q", text)
	}
	b.Reset()
	NewBar(&b, false).Progress(Progress{Share: .5})
	if b.Len() > 0 {
		t.Errorf("drawn where no terminal is: %q", &b)
	}
}
