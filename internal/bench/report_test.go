package bench

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/fault"
	"chancery/internal/obs"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares got with testdata/name.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (go test -update rewrites it):\n%s", name, diff)
	}
}

func sampleMachine() Machine {
	return Machine{CPU: "Test CPU | 3 GHz", Cores: 2, Memory: 8e9, Kernel: "6.1.0", Platform: "linux/amd64", Filesystem: "ext4", Load: .5,
		Build: obs.Build{Version: "v1.2", Revision: "0123456789abcdef", Go: "go1.27.4"}, Date: time.Date(2026, 11, 22, 3, 4, 5, 0, time.UTC)}
}

func latency(scale float64) Latency {
	return Latency{Count: 3000, Mean: 1.2 * scale, P50: scale, P90: 1.5 * scale, P95: 2 * scale, P99: 3 * scale, P999: 4 * scale, Max: 10 * scale}
}

// sampleRun has everything a run can have.
func sampleRun() Run {
	return Run{Format: Format, ID: "run1", Bench: "issue", Label: "chancery", Unit: "issuances", Settings: map[string]string{"key": "p256", "challenge": "http-01"}, Machine: sampleMachine(),
		Points: []Point{
			{Clients: 1, PerSecond: Spread{300.123, 290, 310}, Latency: latency(3.3), Phases: []Phase{{"order", latency(.5)}, {"finalize", latency(1.234)}}, Requests: 5,
				ClientCPU: Spread{.35, .34, .36}, ServerCPU: &Spread{1.4, 1.3, 1.5}, Others: Spread{.02, .01, .03}, PeakRSS: 64e6, Mallocs: 700, Allocated: 60e3},
			{Clients: 50, PerSecond: Spread{950, 900, 990}, Latency: latency(52), Phases: []Phase{{"order", latency(9)}, {"finalize", latency(20)}}, Requests: 5.01, Retries: .01,
				Errors: map[string]int64{"429 rateLimited": 3, "timeout": 12}, Examples: []string{"timeout: read \x1b[2J", "429 rateLimited: too <many>"},
				ClientCPU: Spread{.3, .3, .3}, Others: Spread{.5, .4, .6}},
		}}
}

func TestReports(t *testing.T) {
	run := sampleRun()
	open := Run{Format: Format, ID: "run2", Bench: "issue", Label: "other", Unit: "issuances", Machine: sampleMachine(),
		Points: []Point{{Clients: 50, Rate: 500, PerSecond: Spread{400, 400, 400}, Latency: latency(80), Service: latency(40), ServerCPU: &Spread{3, 3, 3}}}}
	sign := Run{Format: Format, ID: "run3", Bench: "sign", Unit: "operations", Machine: sampleMachine(), Points: []Point{{Clients: 1, Variant: "p256 sign", PerSecond: Spread{3e4, 3e4, 3e4}, Latency: latency(.03), ClientCPU: Spread{.03, .03, .03}}}}
	var b bytes.Buffer
	for _, r := range []Run{run, open, sign} {
		if err := r.WriteText(&b); err != nil {
			t.Fatal(err)
		}
		b.WriteString("\n")
	}
	golden(t, "report.txt", b.Bytes())
	b.Reset()
	if err := WriteMarkdown(&b, []Run{run, open, sign}); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.md", b.Bytes())
	b.Reset()
	if err := run.WriteSVG(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "chart.svg", b.Bytes())
	for dec := xml.NewDecoder(&b); ; {
		if _, err := dec.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the chart is no XML: %v", err)
		}
	}
}

// JSON lines, one per point, and the file of the whole run read back as the
// same run, however they are mixed.
func TestResultsReadBack(t *testing.T) {
	run := sampleRun()
	var lines, file bytes.Buffer
	part := run
	for i := range run.Points {
		part.Points = run.Points[:i+1]
		if err := part.WriteLine(&lines); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(lines.String(), "\n"); n != 2 {
		t.Errorf("%d lines, want one per point", n)
	}
	if err := run.WriteFile(&file); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"lines": lines.String(), "file": file.String(), "both": lines.String() + file.String()} {
		runs, err := ReadRuns(strings.NewReader(text), name)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]Run{run}, runs); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for name, text := range map[string]string{"not JSON": "hello", "another format": `{"format":99,"id":"x"}`, "another file": `{"directory":"https://x"}`, "cut": file.String()[:200]} {
		if _, err := ReadRuns(strings.NewReader(text), name); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSpread(t *testing.T) {
	if got := spread([]float64{3, 1, 2}); got != (Spread{2, 1, 3}) {
		t.Errorf("%v", got)
	}
	if got := spread([]float64{4, 1, 2, 3}); got != (Spread{2.5, 1, 4}) || got.Percent() != 60 {
		t.Errorf("%v ±%v", got, got.Percent())
	}
	if got := spread(nil); got != (Spread{}) || got.Percent() != 0 {
		t.Errorf("%v", got)
	}
}

func TestAxesEndAtRoundNumbers(t *testing.T) {
	for v, want := range map[float64]float64{0: 1, .3: .5, 1: 1, 1.1: 2, 23: 25, 26: 50, 990: 1000, 51: 100} {
		if got := niceCeiling([]float64{v}); got != want {
			t.Errorf("%v is drawn up to %v, want %v", v, got, want)
		}
	}
}

func TestPage(t *testing.T) {
	other := sampleRun()
	other.ID, other.Label, other.Points = "run2", "PostgreSQL", other.Points[:1]
	var b bytes.Buffer
	err := WritePage(&b, Page{Costs: "1. **Verifying.** Seven.\n", Profile: "10ms VerifyASN1\n",
		Series: []Series{{Name: "own", Runs: []Run{sampleRun()}}, {Name: "databases", Runs: []Run{sampleRun(), other}}, {Name: "clients", Runs: []Run{sampleRun()}}}})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "page.md", b.Bytes())
}
