package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/app"
	"chancery/internal/bench"
)

// ocspFlags are the flags of `chancery bench ocsp`.
type ocspFlags struct {
	benchFlags
	certs, responder string
	methods, peers   []string
	limit            int
	sha256, verify   bool
	fill             int
	scratch, db      string
}

// benchOCSP is `chancery bench ocsp`.
func benchOCSP(e env) *cobra.Command {
	var f ocspFlags
	cmd := &cobra.Command{
		Use:   "ocsp",
		Short: "Measure an OCSP responder",
		Long: `Measure an OCSP responder: requests for one serial number each, in random
order, over kept connections.

What to ask is in --certs, a PEM file with certificates and their issuer, such
as chancery bench issue --keep writes; the responder is the one that the first
certificate names. Without --certs the serials come from the API of the
chancery that runs in --data.

With --fill N a chancery of its own is started on a scratch directory whose
database holds N certificates; memory per serial and the time to load and to
sign all answers are measured, too. The column SQL/s counts every statement of
that process, to be held against what it runs when idle: answering runs none.

--peer openssl measures "openssl ocsp" after it, with the same serials in its
index. That responder signs each answer when it is asked and closes each
connection; ours signs ahead and keeps connections.`,
		Example: `  chancery bench ocsp --clients 10,50
  chancery bench ocsp --method POST --verify
  chancery bench ocsp --certs certs.pem --url http://ocsp.example.com --label theirs
  chancery bench ocsp --fill 1000000 --method GET,POST --clients 50 --peer openssl --json results.jsonl`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, e) },
	}
	f.load(cmd, []int{1, 10, 50}, 3, 10*time.Second)
	f.server(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.certs, "certs", "", "PEM `file` with the certificates to ask for, and their issuer")
	fl.StringVar(&f.responder, "url", "", "`URL` of the responder (default: as the certificates say)")
	fl.StringSliceVar(&f.methods, "method", []string{"GET"}, "GET, POST or both, one result each")
	fl.IntVar(&f.limit, "serials", 100000, "ask for at most so many `serials` from the API")
	fl.BoolVar(&f.sha256, "sha256", false, "name the issuer by SHA-256 instead of SHA-1")
	fl.BoolVar(&f.verify, "verify", false, "verify signature and serial of every answer; costs CPU of this program")
	fl.IntVar(&f.fill, "fill", 0, "measure a chancery of its own with so many `certificates`")
	fl.StringVar(&f.scratch, "scratch", "", "empty `directory` for it, which stays (default: a temporary one)")
	fl.StringVar(&f.db, "db", "", "its database, an empty one: a postgres:// `URL` (default: SQLite in the directory)")
	fl.StringSliceVar(&f.peers, "peer", nil, "with --fill: also measure this `peer`: openssl")
	return cmd
}

// run measures what the flags name, by each method.
func (f *ocspFlags) run(cmd *cobra.Command, e env) error {
	plan := f.plan()
	if err := plan.Check(); err != nil {
		return usageError(err)
	}
	if f.fill == 0 && (f.scratch != "" || f.db != "" || len(f.peers) > 0) {
		return usagef("--scratch, --db and --peer go with --fill")
	}
	for _, p := range f.peers {
		if p != "openssl" {
			return usagef("--peer %s is unknown; there is openssl", p)
		}
	}
	if f.fill > 0 {
		return f.filled(cmd.Context(), e)
	}
	ready, err := f.ready(cmd, f.certs == "")
	if err != nil {
		return err
	}
	probe, err := f.probe(ready)
	if err != nil {
		return err
	}
	cfg := bench.OCSPConfig{SHA256: f.sha256, Verify: f.verify}
	if cfg.Transport, _, err = f.transport(e, ready); err != nil {
		return err
	}
	if err := ocspTargets(cmd.Context(), &cfg, ready, f.certs, f.limit); err != nil {
		return err
	}
	if f.responder != "" {
		cfg.URL = f.responder
	}
	if cfg.URL == "" {
		return usagef("the certificates name no responder; give --url")
	}
	return f.methodsOf(cmd.Context(), e, cfg, probe, f.label, nil, dataOf(ready))
}

// methodsOf measures one responder by each method.
func (f *ocspFlags) methodsOf(ctx context.Context, e env, cfg bench.OCSPConfig, probe *bench.Probe, label string, more map[string]string, data string) error {
	out := f.out
	defer func() { f.out = out }()
	var partial error
	for _, method := range f.methods {
		cfg.Method = strings.ToUpper(method)
		f.label = label
		if len(f.methods) > 1 {
			f.label = strings.TrimSpace(label + " " + cfg.Method)
		}
		if out != "" && (len(f.methods) > 1 || len(f.peers) > 0) {
			f.out = filepath.Join(out, strings.ReplaceAll(strings.ToLower(f.label), " ", "-"))
		}
		err := f.once(ctx, e, cfg, probe, more, data)
		if code := exitCode(err); err != nil && code != exitPartial {
			return err
		}
		partial = errors.Join(partial, err)
	}
	return partial
}

// once measures one responder by one method.
func (f *ocspFlags) once(ctx context.Context, e env, cfg bench.OCSPConfig, probe *bench.Probe, more map[string]string, data string) (err error) {
	b, err := bench.NewOCSP(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	s := f.loadSettings()
	s["responder"], s["method"], s["serials"] = cfg.URL, cfg.Method, strconv.Itoa(len(cfg.Serials))
	maps.Copy(s, more)
	return f.drive(ctx, e, probe, b.Workload(), s, data)
}

// filled measures a chancery of its own, then the peers.
func (f *ocspFlags) filled(ctx context.Context, e env) (err error) {
	dir := f.scratch
	if dir == "" {
		if dir, err = os.MkdirTemp("", "chancery-bench-"); err != nil {
			return fmt.Errorf("make scratch directory: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	s, err := bench.OpenScratch(ctx, bench.ScratchConfig{Program: program, Dir: filepath.Join(dir, "data"), DB: f.db, N: f.fill, Environ: scratchEnv(e), Progress: stages(e)})
	if err != nil {
		return err
	}
	f.figures = s.Figures
	cfg := bench.OCSPConfig{URL: s.Responder, Issuer: s.Issuer, Serials: s.Serials, SHA256: f.sha256, Verify: f.verify,
		Transport: bench.Transport{Timeout: f.timeout, UserAgent: "chancery-bench/" + e.build().Version}}
	label := f.label
	if label == "" {
		label = "chancery"
	}
	probe := &bench.Probe{PIDs: append([]int{s.Ready.PID}, f.pids...), MetricsURL: s.Ready.Metrics}
	err = f.methodsOf(ctx, e, cfg, probe, label, map[string]string{"answers": "signed ahead", "connections": "kept"}, dataOf(s.Ready))
	if err = errors.Join(err, s.Close()); err != nil || len(f.peers) == 0 {
		return err
	}
	return f.openssl(ctx, e, dir, cfg)
}

// scratchEnv is the environment of the program under test. The checker would
// find every certificate wrong, and say so: it is slowed down.
func scratchEnv(e env) []string {
	return append(e.environ[:len(e.environ):len(e.environ)], "CHANCERY_STATUS_CHECK_RATE=1")
}

// stages shows what is being prepared, on a terminal.
func stages(e env) func(string, float64) {
	if !isTerminal(e.stderr) || e.getenv("TERM") == "dumb" {
		return nil
	}
	return func(stage string, share float64) {
		fmt.Fprintf(e.stderr, "\r\x1b[K%s", stage)
		if share > 0 && share < 1 {
			fmt.Fprintf(e.stderr, " %.0f%%", share*100)
		}
	}
}

// openssl measures the peer with the same serials.
func (f *ocspFlags) openssl(ctx context.Context, e env, dir string, cfg bench.OCSPConfig) error {
	p, err := bench.OpenOpenSSLPeer(ctx, filepath.Join(dir, "openssl"), cfg.Serials)
	if err != nil {
		return err
	}
	f.figures = nil
	cfg.URL, cfg.Issuer = p.URL, p.Issuer
	more := map[string]string{"answers": "signed when asked", "connections": "one per request", "program": p.Version, "processes": strconv.Itoa(runtime.NumCPU())}
	err = f.methodsOf(ctx, e, cfg, &bench.Probe{PIDs: []int{p.PID}}, "openssl ocsp", more, "")
	return errors.Join(err, p.Close())
}

// ocspTargets fills in what to ask for.
func ocspTargets(ctx context.Context, cfg *bench.OCSPConfig, ready app.Ready, certs string, limit int) (err error) {
	if certs != "" {
		text, err := os.ReadFile(certs)
		if err != nil {
			return fmt.Errorf("read certificates: %w", err)
		}
		cfg.Issuer, cfg.Serials, cfg.URL, err = bench.OCSPTargets(text)
		return err
	}
	token, err := readToken(ready.Token)
	if err != nil {
		return err
	}
	cfg.Issuer, cfg.Serials, cfg.URL, err = bench.ListOCSPTargets(ctx, &cfg.Transport, ready.API, token, limit)
	return err
}
