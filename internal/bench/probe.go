package bench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"chancery/internal/fault"
)

// tick is the unit of the times in /proc: USER_HZ is 100 on every platform
// that Linux has today.
const tick = 10 * time.Millisecond

// maxMetrics bounds a page of metrics.
const maxMetrics = 16 << 20

// Probe reads what the machine, this process and the server use. Without
// /proc (not Linux) only this process is known.
type Probe struct {
	// PIDs are the processes of the server; their descendants count, too.
	PIDs []int
	// MetricsURL is a page in the text format of Prometheus, from which
	// go_memstats_mallocs_total and go_memstats_alloc_bytes_total are read.
	// Empty or without these series: no figures about allocations.
	MetricsURL string

	proc string // "/proc", or what a test puts in its place
}

// Usage is what was used within a window. Durations of CPU are in
// milliseconds.
type Usage struct {
	ClientCPU float64 `json:"client_cpu_ms"`
	ServerCPU float64 `json:"server_cpu_ms,omitzero"` // 0: not watched
	Others    float64 `json:"others_cpu_share"`       // 0..1 of the machine
	PeakRSS   int64   `json:"server_peak_rss,omitzero"`
	PeakSince string  `json:"server_peak_since,omitzero"` // "round" or "start" of the process
	Mallocs   float64 `json:"server_mallocs,omitzero"`
	Allocated float64 `json:"server_alloc_bytes,omitzero"`

	Statements *float64 `json:"server_statements,omitempty"` // of SQL; nil: not known
}

// reading is the state at one instant.
type reading struct {
	client, server, busy, capacity time.Duration
	mallocs, allocated             float64
	statements                     float64 // negative: not known
	fresh                          bool    // the peak was reset at this instant
}

// Check fails when a process that is to be watched does not exist.
func (p *Probe) Check() error {
	for _, pid := range p.PIDs {
		if pid <= 1 {
			return fault.New(fault.Invalid, "process id %d cannot be a server's", pid)
		}
		if _, err := os.Stat(p.path(pid, "stat")); err != nil {
			return fault.New(fault.NotFound, "there is no process %d to watch on this machine; leave its id away to measure without server figures", pid)
		}
	}
	return nil
}

func (p *Probe) path(pid int, name string) string {
	root := p.proc
	if root == "" {
		root = "/proc"
	}
	if pid == 0 {
		return filepath.Join(root, name)
	}
	return filepath.Join(root, strconv.Itoa(pid), name)
}

// begin opens a window. The page of metrics is fetched first, so that its
// cost is not the server's CPU of the window.
func (p *Probe) begin(ctx context.Context) reading {
	var r reading
	p.counters(ctx, &r)
	r.fresh = len(p.PIDs) > 0
	for _, pid := range p.PIDs {
		// 5 resets the high-water mark; only the owner of a process may.
		r.fresh = r.fresh && os.WriteFile(p.path(pid, "clear_refs"), []byte("5"), 0) == nil
	}
	p.cpu(&r)
	return r
}

// end closes a window and returns what was used since begin.
func (p *Probe) end(ctx context.Context, from reading) Usage {
	var to reading
	p.cpu(&to)
	u := Usage{
		ClientCPU: cpuMillis(to.client - from.client), ServerCPU: cpuMillis(to.server - from.server),
	}
	if whole := to.capacity - from.capacity; whole > 0 {
		used := (to.client - from.client) + (to.server - from.server)
		u.Others = round4(min(max(float64(to.busy-from.busy-used)/float64(whole), 0), 1))
	}
	if u.PeakRSS = p.peak(); u.PeakRSS > 0 {
		u.PeakSince = "start"
		if from.fresh {
			u.PeakSince = "round"
		}
	}
	if p.counters(ctx, &to); from.mallocs > 0 && to.mallocs >= from.mallocs {
		u.Mallocs, u.Allocated = to.mallocs-from.mallocs, to.allocated-from.allocated
	}
	if n := to.statements - from.statements; from.statements >= 0 && n >= 0 {
		u.Statements = &n
	}
	return u
}

func cpuMillis(d time.Duration) float64 { return round4(float64(d) / 1e6) }

// cpu reads all CPU times. What cannot be read stays zero.
func (p *Probe) cpu(r *reading) {
	r.client = ownCPU()
	r.server = p.serverCPU()
	if text, err := os.ReadFile(p.path(0, "stat")); err == nil {
		r.busy, r.capacity = machineCPU(text)
	}
}

// ownCPU is the CPU time of this process, user and system.
func ownCPU() time.Duration {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		return 0
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// machineCPU reads the first line of /proc/stat: busy time and all time, over
// all cores.
func machineCPU(text []byte) (busy, capacity time.Duration) {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	fields := strings.Fields(string(line))
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, 0
	}
	for i, f := range fields[1:9] { // guest time is within user time
		v, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, 0
		}
		capacity += time.Duration(v) * tick
		if i != 3 && i != 4 { // idle, iowait
			busy += time.Duration(v) * tick
		}
	}
	return busy, capacity
}

// process is one line of /proc/PID/stat.
type process struct {
	pid, parent int
	cpu         time.Duration // own, and of children that ended and were waited for
}

// parseProcess reads /proc/PID/stat (proc(5)). The name may hold anything.
func parseProcess(text string) (process, bool) {
	head, tail, ok := cutLast(text, ')')
	fields := strings.Fields(tail)
	if !ok || len(fields) < 15 {
		return process{}, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(head, "(", 2)[0]))
	if err != nil {
		return process{}, false
	}
	out := process{pid: pid}
	if out.parent, err = strconv.Atoi(fields[1]); err != nil {
		return process{}, false
	}
	for _, f := range fields[11:15] { // utime, stime, cutime, cstime
		v, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return process{}, false
		}
		out.cpu += time.Duration(v) * tick
	}
	return out, true
}

// cutLast splits s around the last sep.
func cutLast(s string, sep byte) (before, after string, ok bool) {
	if i := strings.LastIndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// serverCPU is the CPU time of the watched processes and their descendants,
// living and waited for; a database server that forks counts in full.
func (p *Probe) serverCPU() time.Duration {
	if len(p.PIDs) == 0 {
		return 0
	}
	all := p.processes()
	sum := time.Duration(0)
	for _, proc := range all {
		if proc.pid != os.Getpid() && watched(all, proc.pid, p.PIDs) {
			sum += proc.cpu
		}
	}
	return sum
}

// processes reads every process of the machine, by id.
func (p *Probe) processes() map[int]process {
	all := map[int]process{}
	dirs, err := os.ReadDir(p.path(0, ""))
	if err != nil {
		return all
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile(p.path(pid, "stat"))
		if err != nil { // it ended meanwhile
			continue
		}
		if proc, ok := parseProcess(string(text)); ok {
			all[pid] = proc
		}
	}
	return all
}

// watched reports whether pid is one of roots or below one.
func watched(all map[int]process, pid int, roots []int) bool {
	for range 64 { // deeper trees, and cycles by reused ids, do not matter
		if slices.Contains(roots, pid) {
			return true
		}
		parent, ok := all[pid]
		if !ok || parent.parent <= 1 {
			return false
		}
		pid = parent.parent
	}
	return false
}

// peak is the sum of the peak resident sizes of the watched processes, resident
// that of their present ones.
func (p *Probe) peak() int64     { return p.memory("VmHWM:") }
func (p *Probe) resident() int64 { return p.memory("VmRSS:") }

// memory adds up a line of /proc/PID/status, in bytes.
func (p *Probe) memory(name string) int64 {
	sum := int64(0)
	for _, pid := range p.PIDs {
		text, err := os.ReadFile(p.path(pid, "status"))
		if err != nil {
			return 0
		}
		for line := range strings.Lines(string(text)) {
			if v, ok := strings.CutPrefix(line, name); ok {
				kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 10, 64)
				if err != nil {
					return 0
				}
				sum += kb << 10
			}
		}
	}
	return sum
}

// counters reads what the server counts itself: allocations of the Go runtime
// and statements of SQL.
func (p *Probe) counters(ctx context.Context, r *reading) {
	r.statements = -1
	if p.MetricsURL == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	m, err := fetchMetrics(ctx, p.MetricsURL, "go_memstats_mallocs_total", "go_memstats_alloc_bytes_total", statementCount)
	if err != nil {
		return
	}
	r.mallocs, r.allocated = m["go_memstats_mallocs_total"], m["go_memstats_alloc_bytes_total"]
	if n, ok := m[statementCount]; ok {
		r.statements = n
	}
}

// statementCount is the series of every statement that a chancery runs; the
// label is its name.
const statementCount = "database_query_duration_seconds_count"

// statements returns how many statements a chancery has run.
func statements(ctx context.Context, url string) (float64, error) {
	m, err := fetchMetrics(ctx, url, statementCount)
	return m[statementCount], err
}

// fetchMetrics returns series from a page of metrics, by their names with labels;
// a name without labels stands for the sum of all its series.
func fetchMetrics(ctx context.Context, url string, names ...string) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("get %s: status %d", url, res.StatusCode)
	}
	return readMetrics(io.LimitReader(res.Body, maxMetrics), names)
}

func readMetrics(r io.Reader, names []string) (map[string]float64, error) {
	out := map[string]float64{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ') + 1 // labels may hold spaces
		if line == "" || line[0] == '#' || at == 0 {
			continue
		}
		name := line[:at-1]
		if !slices.Contains(names, name) {
			if name, _, _ = strings.Cut(name, "{"); !slices.Contains(names, name) {
				continue
			}
		}
		if v, err := strconv.ParseFloat(line[at:], 64); err == nil {
			out[name] += v
		}
	}
	return out, lines.Err()
}
