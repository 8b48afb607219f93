package bench

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"chancery/internal/obs"
	"chancery/internal/pki"
)

// Machine says where and with what a run was made. Figures of different
// machines are not comparable, so every result carries one.
type Machine struct {
	CPU        string    `json:"cpu"` // model name, "" when unknown
	Cores      int       `json:"cores"`
	Memory     int64     `json:"memory,omitzero"` // bytes
	Kernel     string    `json:"kernel"`
	Platform   string    `json:"platform"`                // GOOS/GOARCH
	Filesystem string    `json:"filesystem,omitzero"`     // of the server's data, "" when not known
	Load       float64   `json:"load"`                    // load average over a minute, at the start
	Verify     float64   `json:"p256_verify_us,omitzero"` // CPU µs of one P-256 verification here: a yardstick of its cores
	Build      obs.Build `json:"build"`                   // of the load generator
	Date       time.Time `json:"date"`
}

// Fingerprint describes this machine. data is the server's data directory on
// it, or "".
func Fingerprint(build obs.Build, data string, now time.Time) Machine {
	m := Machine{Cores: runtime.NumCPU(), Platform: build.Platform, Build: build, Date: now.UTC().Truncate(time.Second)}
	m.CPU = field("/proc/cpuinfo", "model name")
	if v, _, _ := strings.Cut(field("/proc/meminfo", "MemTotal"), " "); v != "" {
		if kb, err := strconv.ParseInt(v, 10, 64); err == nil {
			m.Memory = kb << 10
		}
	}
	m.Kernel = firstLine("/proc/sys/kernel/osrelease")
	load, _, _ := strings.Cut(firstLine("/proc/loadavg"), " ")
	if v, err := strconv.ParseFloat(load, 64); err == nil {
		m.Load = v
	}
	m.Verify = yardstick()
	if data != "" {
		m.Filesystem = filesystemOf(firstFile("/proc/self/mounts"), data)
	}
	return m
}

// yardstick returns the microseconds of one ECDSA P-256 verification on a core
// of this machine, the operation that an issuance spends most on: the fastest
// of several short runs, so that others on the machine do not count. It takes
// some 30 ms. 0 says that it could not be measured.
func yardstick() float64 {
	verify, err := NewSign("verify", pki.P256)
	if err != nil {
		return 0
	}
	const runs, each = 20, 20
	best := time.Duration(math.MaxInt64)
	for range runs {
		start := time.Now()
		for range each {
			if verify.run(context.Background()) != nil {
				return 0
			}
		}
		best = min(best, time.Since(start)/each)
	}
	return round4(float64(best) / float64(time.Microsecond))
}

// firstFile returns the text of a small file, or "".
func firstFile(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(text)
}

func firstLine(path string) string {
	line, _, _ := strings.Cut(firstFile(path), "\n")
	return line
}

// field returns the value of the first "name : value" line of a file.
func field(path, name string) string {
	for line := range strings.Lines(firstFile(path)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// filesystemOf returns the type of the file system that dir is on, given the
// text of /proc/self/mounts. It decides what a durable commit costs.
func filesystemOf(mounts, dir string) string {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return ""
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		abs = real
	}
	best, kind := "", ""
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		at := f[1]
		inside := abs == at || strings.HasPrefix(abs, strings.TrimSuffix(at, "/")+"/")
		if inside && len(at) >= len(best) { // later mounts hide earlier ones
			best, kind = at, f[2]
		}
	}
	return kind
}
