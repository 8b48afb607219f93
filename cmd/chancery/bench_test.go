package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chancery/internal/bench"
	"chancery/internal/testenv"
)

// devServer runs `chancery dev` with more flags until the test ends, and
// returns its data directory.
func devServer(t *testing.T, flags ...string) string {
	t.Helper()
	data := t.TempDir()
	ctx, stop := context.WithCancel(context.Background())
	out, in := io.Pipe()
	ended := make(chan int, 1)
	var errs bytes.Buffer
	go func() {
		args := append([]string{"dev", "--data", data, "--listen", testenv.FreeAddr(t), "--http-listen", testenv.FreeAddr(t), "--debug-listen", testenv.FreeAddr(t), "--no-limits"}, flags...)
		code := run(ctx, args, env{stdout: in, stderr: &errs, environ: []string{"CHANCERY_LOG_LEVEL=error"}})
		in.Close()
		ended <- code
	}()
	t.Cleanup(func() {
		stop()
		if code := <-ended; code != exitOK {
			t.Errorf("chancery dev: exit %d: %s", code, &errs)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.Contains(line, "is ready") {
		t.Fatalf("chancery dev said %q: %v", line, err)
	}
	go io.Copy(io.Discard, out)
	return data
}

// chancery runs one command line that must end with code.
func chancery(t *testing.T, code int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if got := run(t.Context(), args, env{stdout: &out, stderr: &errs}); got != code {
		t.Fatalf("chancery %s: exit %d, want %d: %s", strings.Join(args, " "), got, code, &errs)
	}
	return out.String(), errs.String()
}

// The tour of a user: issue by every challenge, verified; then ask the
// responder and the API about what was issued; then make the report.
func TestBenchAgainstDev(t *testing.T) {
	dns, http01, tlsALPN01 := testenv.FreeAddr(t), testenv.FreeAddr(t), testenv.FreeAddr(t)
	port := func(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }
	data := devServer(t, "--resolver", dns, "--http01-port", port(http01), "--tlsalpn01-port", port(tlsALPN01))
	dir := t.TempDir()
	certs, results := filepath.Join(dir, "certs.pem"), filepath.Join(dir, "results.jsonl")
	short := []string{"--data", data, "--rounds", "1", "--warmup", "20ms", "--duration", "10s", "--count", "20", "--json", results}
	for _, challenge := range []string{"http-01", "dns-01", "tls-alpn-01"} {
		args := append([]string{"bench", "issue", "--challenge", challenge, "--clients", "1,3", "--names", "2", "--suffix", "bench.example.com", "--verify", "--keep", certs, "--label", challenge,
			"--dns-listen", dns, "--http01-listen", http01, "--tlsalpn01-listen", tlsALPN01, "--out", filepath.Join(dir, challenge)}, short...)
		out, _ := chancery(t, exitOK, args...)
		if !strings.Contains(out, "issuances/s") || strings.Count(out, "\n") < 8 {
			t.Errorf("%s: %s", challenge, out)
		}
	}
	for _, args := range [][]string{
		{"bench", "ocsp", "--verify", "--clients", "2", "--certs", certs},
		{"bench", "ocsp", "--verify", "--clients", "2", "--method", "post", "--certs", certs},
		{"bench", "api", "--clients", "2", "/version"},
	} {
		chancery(t, exitOK, append(args, short...)...)
	}
	// With two names there are two authorizations: 1 + 2 + 2 + 1 + 1 requests.
	runs := readLines(t, results)
	if len(runs) != 6 || len(runs[0].Points) != 2 || runs[0].Points[1].Clients != 3 {
		t.Fatalf("%d runs", len(runs))
	}
	for _, r := range runs[:3] {
		for _, p := range r.Points {
			if p.Latency.Count != 20 || p.Requests < 7 || p.Requests > 7.2 || len(p.Errors) > 0 || p.Mallocs == 0 || p.ClientCPU.Median == 0 {
				t.Errorf("%s: %+v", r.Label, p)
			}
		}
	}
	out, _ := chancery(t, exitOK, "bench", "report", results, filepath.Join(dir, "http-01", "result.json"))
	if strings.Count(out, "### chancery bench") != 6 || !strings.Contains(out, "| tls-alpn-01 |") {
		t.Errorf("report:\n%s", out)
	}
	if chart, err := os.ReadFile(filepath.Join(dir, "dns-01", "chart.svg")); err != nil || !bytes.HasPrefix(chart, []byte("<svg")) {
		t.Errorf("chart: %v", err)
	}
}

func readLines(t *testing.T, file string) []bench.Run {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if !json.Valid(line) {
			t.Errorf("not a JSON line: %s", line)
		}
	}
	runs, err := bench.ReadRuns(bytes.NewReader(text), file)
	if err != nil {
		t.Fatal(err)
	}
	return runs
}

// The limits of one account hold, and its renewals pass, while others go on.
// The ratio is reported; the machine of a test says nothing about it.
func TestBenchFlood(t *testing.T) {
	http01 := testenv.FreeAddr(t)
	data := devServer(t, "--no-limits=false", "--http01-port", http01[strings.LastIndex(http01, ":")+1:])
	results := filepath.Join(t.TempDir(), "results.jsonl")
	out, _ := chancery(t, exitOK, "bench", "issue", "--data", data, "--http01-listen", http01, "--flood", "40", "--clients", "2", "--rounds", "2", "--warmup", "1s", "--duration", "30s", "--count", "8", "--json", results)
	if !strings.Contains(out, "others next to the flood: ") || !strings.Contains(out, "next to a flood of 40") {
		t.Error(out)
	}
	runs := readLines(t, results)
	if len(runs) != 1 || len(runs[0].Points) != 2 {
		t.Fatalf("%+v", runs)
	}
	f := runs[0].Points[1].Flood
	if f == nil || f.Refused == 0 || f.Malformed+f.Other+f.RenewalsFailed > 0 || f.Renewals == 0 {
		t.Errorf("%+v", f)
	}
	chancery(t, exitUsage, "bench", "issue", "--data", data, "--http01-listen", http01, "--flood", "40", "--clients", "1,2")
}

// A validation that cannot succeed ends the run at once, with the server's
// words.
func TestBenchSaysWhyNothingWorks(t *testing.T) {
	data := devServer(t, "--http01-port", "1")
	_, errs := chancery(t, exitFailed, "bench", "issue", "--data", data, "--clients", "2", "--http01-listen", testenv.FreeAddr(t))
	if !strings.Contains(errs, "nothing succeeded") || !strings.Contains(errs, "connection") {
		t.Errorf("%s", errs)
	}
}
