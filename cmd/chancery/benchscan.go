package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/bench"
	"chancery/internal/bench/fleet"
	"chancery/internal/scan"
)

// fleetFlags shape a simulated fleet.
type fleetFlags struct {
	endpoints int
	seed      uint64
	live      bool
	near      bool
}

func (f *fleetFlags) add(cmd *cobra.Command, endpoints int) {
	fl := cmd.Flags()
	fl.IntVar(&f.endpoints, "endpoints", endpoints, "how many endpoints, each with an address of its own in 127.0.0.0/8")
	fl.Uint64Var(&f.seed, "seed", 1, "the same `number` gives the same fleet")
	fl.BoolVar(&f.live, "live", false, "only endpoints that answer and are in order")
	fl.BoolVar(&f.near, "near", false, "no delays (default: those of an estate spread over the world)")
}

func (f *fleetFlags) config() (fleet.Config, error) {
	if f.endpoints < 1 || f.endpoints > fleet.MaxEndpoints {
		return fleet.Config{}, usagef("--endpoints %d is not from 1 to %d", f.endpoints, fleet.MaxEndpoints)
	}
	cfg := fleet.Config{Endpoints: f.endpoints, Seed: f.seed, Live: f.live, Delays: fleet.WideArea()}
	if f.near {
		cfg.Delays = fleet.Delays{}
	}
	return cfg, nil
}

// benchFleet is `chancery bench fleet`.
func benchFleet(e env) *cobra.Command {
	var f fleetFlags
	var dir string
	cmd := &cobra.Command{Use: "fleet", Short: "Serve a simulated fleet of TLS endpoints on loopback, to scan", Args: noArgs,
		Long: `Serve a simulated fleet on loopback until interrupted: distinct certificates, a
DNS server of its own, delays as over the world, and every way in which an
endpoint can be broken. The directory gets targets.txt, root.pem, truth.json
(what a scanner ought to find, one endpoint each) and, last, ready.json.`,
		Example: "  chancery bench fleet --endpoints 1800 --dir /tmp/fleet",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.config()
			if err != nil {
				return err
			}
			if dir == "" {
				if dir, err = os.MkdirTemp("", "chancery-fleet-"); err != nil {
					return fmt.Errorf("make directory: %w", err)
				}
				defer os.RemoveAll(dir)
			} else if err := os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("make directory: %w", err)
			}
			return serveFleet(cmd.Context(), e, cfg, dir)
		}}
	f.add(cmd, 1800)
	cmd.Flags().StringVar(&dir, "dir", "", "`directory` for the files (default: a temporary one)")
	return cmd
}

// serveFleet runs a fleet, and says how to scan it when it serves.
func serveFleet(ctx context.Context, e env, cfg fleet.Config, dir string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := os.Remove(filepath.Join(dir, "ready.json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove old ready file: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- fleet.Run(ctx, cfg, dir) }()
	r, err := awaitFleet(ctx, dir, done)
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "a fleet of %d endpoints serves; Ctrl-C stops it.\n\n  targets  %s\n  root     %s\n  truth    %s\n  DNS      %s\n\nchancery scan --no-system-roots --roots %s --resolver %s -f %s\n",
		cfg.Endpoints, r.Targets, r.Root, r.Truth, r.DNS, shellQuote(r.Root), r.DNS, shellQuote(r.Targets))
	return <-done
}

// awaitFleet waits for the ready file of a fleet, or for its end.
func awaitFleet(ctx context.Context, dir string, done <-chan error) (r fleet.Ready, err error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return r, errors.Join(errors.New("the fleet ended before it served"), err)
		case <-ctx.Done():
			return r, ctx.Err()
		case <-tick.C:
		}
		// The file may be in the writing: it counts when it parses.
		if text, err := os.ReadFile(filepath.Join(dir, "ready.json")); err == nil && json.Unmarshal(text, &r) == nil {
			return r, nil
		}
	}
}

// benchScanFlags are the flags of `bench scan`.
type benchScanFlags struct {
	fleetFlags
	probe, label, json string
	revocation         bool
	rounds             int
}

// benchScan is `chancery bench scan`.
func benchScan(e env) *cobra.Command {
	var f benchScanFlags
	cmd := &cobra.Command{Use: "scan", Short: "Measure the scanner against a simulated fleet, and check every answer", Args: noArgs,
		Long: `Scan a simulated fleet, scanner and fleet in processes of their own, and hold
every answer against what is there. Reported are wall time, CPU of the scanner
(start and output included), its memory, and answers that are wrong or missing;
exit code 3 when there are any. The fleet computes on the same cores.`,
		Example: "  chancery bench scan --endpoints 1800 --rounds 3\n  chancery bench scan --endpoints 20000 --probe fetch --json results.jsonl",
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), e) }}
	f.add(cmd, 1800)
	fl := cmd.Flags()
	fl.StringVar(&f.probe, "probe", string(scan.Observe), "observe, fetch, dual or features")
	fl.BoolVar(&f.revocation, "revocation", false, "look up revocation, too")
	fl.IntVar(&f.rounds, "rounds", 1, "how many scans, one after the other")
	fl.StringVar(&f.label, "label", "", "`name` of what is measured")
	fl.StringVar(&f.json, "json", "", "append a JSON line per scan to this `file`; - is standard output, without the text")
	return cmd
}

// self is the path of this program.
func self() (string, error) {
	if path, err := exec.LookPath(os.Args[0]); err == nil {
		return path, nil
	}
	return os.Executable()
}

func (f *benchScanFlags) run(ctx context.Context, e env) error {
	if !scan.Kind(f.probe).Valid() {
		return usagef("--probe %s is none of observe, fetch, dual, features", f.probe)
	}
	if _, err := f.config(); err != nil {
		return err
	}
	lines, text, closeAll, err := f.outputs(e)
	if err != nil {
		return err
	}
	defer closeAll()
	dir, err := os.MkdirTemp("", "chancery-fleet-")
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer os.RemoveAll(dir)
	bad := 0
	for range f.rounds {
		run, err := f.round(ctx, e, dir)
		if err != nil {
			return err
		}
		fmt.Fprintln(text, run.Text())
		for _, w := range run.Examples {
			fmt.Fprintf(text, "  %s (%s): %q, want %q\n", w.Target, w.Kind, w.Got, w.Want)
		}
		result := run.Result(newRunID())
		if err := result.WriteLine(lines); err != nil {
			return err
		}
		bad += run.Wrong + run.Missing
	}
	if bad > 0 {
		return problems("", "%d answers are wrong or missing", bad)
	}
	return nil
}

// outputs opens where the lines and the text go.
func (f *benchScanFlags) outputs(e env) (lines, text io.Writer, closeAll func(), err error) {
	switch f.json {
	case "":
		return io.Discard, e.stdout, func() {}, nil
	case "-":
		return e.stdout, io.Discard, func() {}, nil
	}
	file, err := os.OpenFile(f.json, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("open result file: %w", err)
	}
	return file, e.stdout, func() { file.Close() }, nil
}

// round starts a fleet, scans it once and judges the answers.
func (f *benchScanFlags) round(ctx context.Context, e env, dir string) (*bench.ScanRun, error) {
	program, err := self()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	args := []string{"bench", "fleet", "--dir", dir, "--endpoints", fmt.Sprint(f.endpoints), "--seed", fmt.Sprint(f.seed), fmt.Sprintf("--live=%t", f.live), fmt.Sprintf("--near=%t", f.near)}
	served := child(ctx, program, args...)
	served.Stderr = e.stderr
	if err := os.RemoveAll(filepath.Join(dir, "ready.json")); err != nil {
		return nil, fmt.Errorf("remove old ready file: %w", err)
	}
	if err := served.Start(); err != nil {
		return nil, fmt.Errorf("start the fleet: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- served.Wait() }()
	run, err := f.measure(ctx, e, program, dir, done)
	cancel()
	<-done
	if err != nil {
		return nil, err
	}
	run.FleetCPU = cpuOf(served.ProcessState)
	return run, nil
}

// child is a process that is asked to end when ctx does.
func child(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// measure scans the fleet that serves.
func (f *benchScanFlags) measure(ctx context.Context, e env, program, dir string, done <-chan error) (*bench.ScanRun, error) {
	r, err := awaitFleet(ctx, dir, done)
	if err != nil {
		return nil, err
	}
	results := filepath.Join(dir, "results.jsonl")
	out, err := os.Create(results)
	if err != nil {
		return nil, fmt.Errorf("make result file: %w", err)
	}
	defer out.Close()
	scanner := child(ctx, program, "scan", "--no-system-roots", "--roots", r.Root, "--resolver", r.DNS, "-f", r.Targets, "--probe", f.probe,
		fmt.Sprintf("--revocation=%t", f.revocation), "-o", "jsonl")
	scanner.Stdout = out
	run := &bench.ScanRun{Label: f.label, Machine: bench.Fingerprint(e.build(), dir, time.Now()), Live: f.live, Probe: f.probe, Revocation: f.revocation}
	start := time.Now()
	err = scanner.Run()
	run.Wall = time.Since(start).Seconds()
	if code := scanner.ProcessState.ExitCode(); err != nil && code != exitProblems {
		return nil, fmt.Errorf("the scanner ended with %d: %w", code, err)
	}
	run.CPU, run.Memory = cpuOf(scanner.ProcessState), memoryOf(scanner.ProcessState)
	if err := judge(run, r.Truth, results); err != nil {
		return nil, err
	}
	run.PerTarget = run.CPU * 1000 / float64(max(run.Verified, 1))
	return run, nil
}

// judge holds the file of results against the file of the truth.
func judge(run *bench.ScanRun, truthFile, results string) error {
	text, err := os.ReadFile(truthFile)
	if err != nil {
		return fmt.Errorf("read truth: %w", err)
	}
	var truth []fleet.Endpoint
	if err := json.Unmarshal(text, &truth); err != nil {
		return fmt.Errorf("read truth: %w", err)
	}
	in, err := os.Open(results)
	if err != nil {
		return fmt.Errorf("read results: %w", err)
	}
	defer in.Close()
	return run.Judge(truth, bufio.NewReader(in))
}

// cpuOf is the processor time of an ended process, in seconds.
func cpuOf(p *os.ProcessState) float64 { return (p.UserTime() + p.SystemTime()).Seconds() }

// memoryOf is the most that an ended process had resident, in MB.
func memoryOf(p *os.ProcessState) float64 {
	if ru, ok := p.SysUsage().(*syscall.Rusage); ok {
		return float64(ru.Maxrss) / 1024
	}
	return 0
}
