package e2e

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chancery/internal/bench"
)

// TestBenchOCSP runs the benchmark that fills a server of its own, beside
// OpenSSL's responder, as its manual shows, with every answer verified. Its
// figures are there, and the statements that it counts are not the answers'.
func TestBenchOCSP(t *testing.T) {
	t.Parallel()
	const answers = 400
	bin, file := binary(t), filepath.Join(t.TempDir(), "results.jsonl")
	out := run(t, tool{name: bin, args: []string{"bench", "ocsp", "--fill", "300", "--method", "GET,POST", "--clients", "4", "--rounds", "1", "--count", "400",
		"--warmup", "100ms", "--duration", "30s", "--verify", "--peer", "openssl", "--json", file}})
	if !strings.Contains(out, "memory per serial") || !strings.Contains(out, "SQL/s") {
		t.Errorf("%s", out)
	}
	runs, err := bench.ReadRuns(bytes.NewReader([]byte(readFile(t, file))), file)
	if err != nil {
		t.Fatal(err)
	}
	var labels []string
	for _, r := range runs {
		labels = append(labels, r.Label)
		p := r.Points[0]
		if p.Latency.Count != answers || len(p.Errors) > 0 || p.ServerCPU == nil {
			t.Errorf("%s: %+v", r.Label, p)
		}
		if !strings.HasPrefix(r.Label, "chancery") {
			continue
		}
		figure := func(name string) float64 {
			i := slices.IndexFunc(r.Figures, func(f bench.Figure) bool { return f.Name == name })
			if i < 0 {
				t.Fatalf("no figure %q in %+v", name, r.Figures)
			}
			return r.Figures[i].Value
		}
		if figure("serials") != 300 || figure("start to first answer") <= 0 || figure("resident") < 10 {
			t.Errorf("%+v", r.Figures)
		}
		// The loops run some dozens in a second; answers, thousands.
		if p.SQL == nil || p.SQL.Median*p.Rounds[0].Seconds > answers/2 {
			t.Errorf("%s: %+v statements in a second, over %d answers", r.Label, p.SQL, answers)
		}
	}
	if want := []string{"chancery GET", "chancery POST", "openssl ocsp GET", "openssl ocsp POST"}; !slices.Equal(labels, want) {
		t.Errorf("measured %q, want %q", labels, want)
	}
	if report := run(t, tool{name: bin, args: []string{"bench", "report", file}}); !strings.Contains(report, "| openssl ocsp POST |") || !strings.Contains(report, "Measured: serials 300") {
		t.Errorf("%s", report)
	}
	// A directory that holds something is not written into.
	text, err := tool{name: bin, args: []string{"bench", "ocsp", "--fill", "10", "--scratch", filepath.Dir(writeFile(t, filepath.Join(t.TempDir(), "data", "precious"), "x", 0o600)) + "/.."}}.call(t)
	if err == nil || !strings.Contains(text, "is not empty") {
		t.Errorf("%v\n%s", err, text)
	}
}

// TestBenchAgents runs the benchmark of parked agents on a small crowd: all come
// back by themselves after a restart, and certificates are issued meanwhile.
func TestBenchAgents(t *testing.T) {
	t.Parallel()
	bin, file := binary(t), filepath.Join(t.TempDir(), "results.jsonl")
	out := run(t, tool{name: bin, args: []string{"bench", "agents", "--agents", "120", "--for", "1s", "--json", file}})
	runs, err := bench.ReadRuns(bytes.NewReader([]byte(readFile(t, file))), file)
	if err != nil || len(runs) != 1 {
		t.Fatalf("%d runs, %v\n%s", len(runs), err, out)
	}
	got := map[string]float64{}
	for _, f := range runs[0].Figures {
		got[f.Name] = f.Value
	}
	if got["agents"] != 120 || got["connected and parked"] <= 0 || got["memory per parked agent"] <= 0 || got["restart: all parked again after"] <= 0 {
		t.Errorf("%+v", runs[0].Figures)
	}
	if got["restart: certificates issued meanwhile"] < 1 || got["restart: certificates refused meanwhile"] != 0 || len(runs[0].Points[0].Errors) > 0 {
		t.Errorf("%+v\n%+v", runs[0].Figures, runs[0].Points[0])
	}
	if p50, p99 := got["asked for to deployed and probed p50"], got["asked for to deployed and probed p99"]; p50 <= 0 || p99 < p50 || p99 > 2000 {
		t.Errorf("from asked for to deployed: p50 %g ms, p99 %g ms", p50, p99)
	}
	if report := run(t, tool{name: bin, args: []string{"bench", "report", file}}); !strings.Contains(report, "memory per parked agent") {
		t.Errorf("%s", report)
	}
	text, err := tool{name: bin, args: []string{"bench", "agents", "--agents", "400000"}}.call(t)
	if err == nil || !strings.Contains(text, "open files") {
		t.Errorf("more agents than files: %v\n%s", err, text)
	}
}
