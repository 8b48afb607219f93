package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/internal/bench/fleet"
	"chancery/internal/scan"
)

// smallEstate starts a fleet and returns the flags that scan it.
func smallEstate(t *testing.T, cfg fleet.Config) (*fleet.Fleet, []string) {
	t.Helper()
	f, err := fleet.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	dir := t.TempDir()
	var list strings.Builder
	for _, e := range f.Endpoints {
		list.WriteString(e.Target + "\n")
	}
	root, targets := filepath.Join(dir, "root.pem"), filepath.Join(dir, "targets.txt")
	if err := os.WriteFile(root, f.Root, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(targets, []byte(list.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return f, []string{"scan", "--no-system-roots", "--roots", root, "--resolver", f.DNS(), "-f", targets, "--timeout", "600ms"}
}

// scanned runs the command and returns what it printed.
func scanned(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if code := run(t.Context(), args, env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs}); code != want {
		t.Errorf("exit %d, want %d: %s", code, want, &errs)
	}
	return out.String(), errs.String()
}

func TestScanOfASoundEstateExitsZero(t *testing.T) {
	_, args := smallEstate(t, fleet.Config{Endpoints: 40, Seed: 2, Live: true})
	out, summary := scanned(t, exitOK, args...)
	if lines := strings.Count(out, "\n"); lines != 41 || !strings.HasPrefix(out, "target\tclass\t") {
		t.Errorf("%d lines:\n%s", lines, out)
	}
	if !strings.Contains(summary, "40 done, 40 healthy, 0 not") {
		t.Errorf("summary: %s", summary)
	}
	if out, _ = scanned(t, exitOK, append(args, "--problems")...); strings.Count(out, "\n") != 1 {
		t.Errorf("--problems prints healthy targets:\n%s", out)
	}
}

func TestScanFindsProblemsInEveryFormat(t *testing.T) {
	f, args := smallEstate(t, fleet.Config{Endpoints: 60, Seed: 2})
	prom := filepath.Join(t.TempDir(), "scan.prom")
	out, _ := scanned(t, exitProblems, append(args, "-o", "jsonl", "--revocation", "--prometheus", prom)...)
	found := map[string]scan.View{}
	for line := range strings.Lines(out) {
		var v scan.View
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatal(err)
		}
		found[v.Target] = v
	}
	for _, e := range f.Endpoints {
		v := found[e.Target]
		if v.Class != e.Class || len(v.Problems) != len(e.Problems) || len(e.Problems) > 0 && v.Problems[0] != e.Problems[0] {
			t.Errorf("%s (%s): %s %v", e.Target, e.Kind, v.Class, v.Problems)
		}
	}
	text, err := os.ReadFile(prom)
	if err != nil || !strings.Contains(string(text), `chancery_scan_problems{problem="revoked"} 1`) || strings.Contains(string(text), "fleet.test") {
		t.Errorf("%v:\n%s", err, text)
	}
	out, _ = scanned(t, exitProblems, append(args, "-o", "csv")...)
	if rows, err := csv.NewReader(strings.NewReader(out)).ReadAll(); err != nil || len(rows) != 61 {
		t.Errorf("csv: %d rows, %v", len(rows), err)
	}
	out, _ = scanned(t, exitProblems, append(args, "--json")...)
	var all struct {
		Results []scan.View
		Summary scan.Summary
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all.Results) != 60 || all.Summary.Done != 60 {
		t.Errorf("json: %d results, %v", len(all.Results), err)
	}
}

func TestExpiresWithinKnowsDays(t *testing.T) {
	_, args := smallEstate(t, fleet.Config{Endpoints: 20, Seed: 2, Live: true})
	scanned(t, exitProblems, append(args, "--expires-within", "400d")...)
	scanned(t, exitOK, append(args, "--expires-within", "1d")...)
	scanned(t, exitUsage, append(args, "--expires-within", "soon")...)
}

func TestProgressLine(t *testing.T) {
	got := progressLine(scan.Progress{Total: 200, Done: 50, Unhealthy: 3, InFlight: 20}, 5*time.Second)
	if want := "[=======                       ]  25% 50/200, 3 not in order, 20 in flight, 10/s, 15s left"; got != want {
		t.Errorf("%q\n%q", got, want)
	}
	progressLine(scan.Progress{}, 0)
}
