package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/internal/bench"
	"chancery/internal/testenv"
)

// The control plane under a mixed load, and each part alone, against a real
// server; then what is left of it, and the page of all results.
func TestBenchControl(t *testing.T) {
	data := devServer(t, "--estate", "500")
	results := filepath.Join(t.TempDir(), "control.jsonl")
	short := []string{"--data", data, "--json", results, "--warmup", "50ms"}
	chancery(t, exitOK, append([]string{"bench", "control", "--duration", "2s", "--lists", "100", "--heartbeats", "20", "--renewals", "5", "--certificates", "30", "--agents", "4", "--label", "mixed"}, short...)...)
	for _, args := range [][]string{
		{"--only", "lists", "--clients", "2", "--count", "40"},
		{"--only", "unchanged", "--clients", "2", "--count", "400"},
		{"--only", "heartbeats", "--clients", "1,3", "--count", "30"},
		{"--only", "bulk", "--certificates", "20"},
		{"--only", "import", "--clients", "1", "--count", "1"},
	} {
		chancery(t, exitOK, append(append([]string{"bench", "control", "--rounds", "1", "--duration", "20s"}, args...), short...)...)
	}
	file, err := os.Open(results)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	runs, err := bench.ReadRuns(file, results)
	if err != nil {
		t.Fatal(err)
	}
	if len(runs) != 6 || len(runs[0].Points) != 4 || len(runs[0].Figures) < 6 {
		t.Fatalf("%+v", runs)
	}
	for _, r := range runs {
		for _, p := range r.Points {
			if p.Latency.Count == 0 || len(p.Errors) > 0 {
				t.Errorf("%s %s: %d measured, %v", r.Bench, p.Variant, p.Latency.Count, p.Errors)
			}
		}
	}
	// Nothing of it is left but what cannot be: the agents, which were revoked.
	if out, _ := chancery(t, exitOK, "renew", "list", "--data", data); strings.Contains(out, "bench-") {
		t.Errorf("managed certificates are left: %s", out)
	}
	if out, _ := chancery(t, exitOK, "agents", "list", "--data", data); strings.Contains(out, "active") {
		t.Errorf("agents are left: %s", out)
	}
	page, _ := chancery(t, exitOK, "bench", "report", "--page", results)
	for _, want := range []string{"## Control plane, everything at once", "lists, If-None-Match", "bulk renewals", "server peak memory", "20 by one request"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q: %s", want, page)
		}
	}
	for _, args := range [][]string{{"--only", "nothing"}, {"--rate", "5"}, {"--unchanged", "2"}, {"--only", "import"}, {"--certificates", "0"}, {"--duration", "0", "--count", "5"}} {
		chancery(t, exitUsage, append([]string{"bench", "control", "--data", data}, args...)...)
	}
}

// A start is measured from outside, and the server ends in good order.
func TestBenchStart(t *testing.T) {
	program, err := exec.LookPath("chancery") // as scripts find it
	if err != nil {
		t.Fatal(err)
	}
	s := bench.Start{Program: program, Ready: filepath.Join(t.TempDir(), "ready"), Timeout: time.Minute}
	s.Args = []string{"dev", "--data", t.TempDir(), "--ready-file", s.Ready, "--listen", testenv.FreeAddr(t), "--http-listen", testenv.FreeAddr(t), "--debug-listen", ""}
	p, err := s.Run(t.Context(), 2)
	if err != nil || p.Latency.Count != 2 || p.Latency.P50 <= 0 || p.ServerCPU.Median <= 0 {
		t.Errorf("%+v %v", p, err)
	}
	s.Args = []string{"dev", "--key-type", "wrong"}
	if _, err := s.Run(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "unknown flag") {
		t.Errorf("a program that ends: %v", err)
	}
}
