package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/app"
	"chancery/internal/bench"
)

// controlFlags are the flags of `chancery bench control`.
type controlFlags struct {
	benchFlags
	only, issuer, suffix              string
	lists, share, heartbeats, renewal float64
	agents, certificates              int
}

// controlParts are what --only takes.
var controlParts = []string{"lists", "unchanged", "heartbeats", "bulk", "import"}

// benchControl is `chancery bench control`.
func benchControl(e env) *cobra.Command {
	var f controlFlags
	cmd := &cobra.Command{
		Use:   "control",
		Short: "Measure the control plane: lists, heartbeats and bulk renewals at once",
		Long: `Measure the control plane of the chancery that runs in --data, everything at
once, each in an open loop of its own:

  lists          what the screens ask for: pages of the inventory by owner,
                 issuer, key, status and end, facets, timelines, the summary,
                 other lists; a share of them with If-None-Match
  heartbeats     agents that ask for work, over TLS with their certificates
  bulk renewals  each of all certificates of one owner; together they renew
                 --certificates once

Agents and managed certificates are made before the clock starts, and removed
at the end. The issuer must be one of the server's own CAs, or one that bears
the load. With --only one part is measured alone: each client starts its next
operation when the last one is done.

  lists, unchanged   the same lists; with If-None-Match
  heartbeats         as above, a client is an agent
  bulk               one request that renews --certificates: until it is
                     answered, and until all of them are obtained
  import             files of 1000 new certificates in PEM`,
		Example: `  chancery dev --no-limits --estate 1000000 &
  chancery bench control --duration 5m
  chancery bench control --only heartbeats --clients 50`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, e) },
	}
	f.load(cmd, []int{10}, 3, 10*time.Second)
	f.server(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.only, "only", "", "measure one `part` alone: "+strings.Join(controlParts, ", "))
	fl.Float64Var(&f.lists, "lists", 1000, "lists per second")
	fl.Float64Var(&f.share, "unchanged", 0.2, "`share` of them that are asked for with If-None-Match")
	fl.Float64Var(&f.heartbeats, "heartbeats", 167, "heartbeats per second")
	fl.Float64Var(&f.renewal, "renewals", 5, "bulk renewals per second")
	fl.IntVar(&f.agents, "agents", 200, "agents that send the heartbeats; a server enrols at most 300 a minute from one address")
	fl.IntVar(&f.certificates, "certificates", 10_000, "managed certificates that are renewed")
	fl.StringVar(&f.issuer, "issuer", "local", "`name` of the issuer that they are obtained from")
	fl.StringVar(&f.suffix, "suffix", ".bench.test", "end of their names; the issuer must allow it")
	cmd.AddCommand(benchStart(e))
	return cmd
}

func (f *controlFlags) check() error {
	switch {
	case f.only != "" && !slices.Contains(controlParts, f.only):
		return usagef("--only %s is unknown; choose one of %s", f.only, strings.Join(controlParts, ", "))
	case f.rate != 0:
		return usagef("--rate does not belong here; say --lists, --heartbeats and --renewals")
	case f.share < 0 || f.share > 1:
		return usagef("--unchanged is a share from 0 to 1")
	case f.lists < 0 || f.heartbeats < 0 || f.renewal < 0 || f.lists+f.heartbeats+f.renewal > 1e6:
		return usagef("--lists, --heartbeats and --renewals are operations per second, from 0 to a million")
	case f.certificates < 1 || f.certificates > 1_000_000 || f.agents < 1 || f.agents > 10_000:
		return usagef("--certificates is 1 to 1000000, --agents 1 to 10000")
	case f.only == "" && (f.duration <= 0 || f.count > 0):
		return usagef("a mixed load needs a --duration, and takes no --count")
	case f.only == "import" && f.count < 1:
		return usagef("--only import needs --count: how many files a round imports")
	}
	plan := f.plan()
	if err := plan.Check(); err != nil {
		return usageError(err)
	}
	return nil
}

func (f *controlFlags) run(cmd *cobra.Command, e env) (err error) {
	if err := f.check(); err != nil {
		return err
	}
	ready, err := f.ready(cmd, true)
	if err != nil {
		return err
	}
	probe, err := f.probe(ready)
	if err != nil {
		return err
	}
	cfg := bench.ControlConfig{API: ready.API, Issuer: f.issuer, Suffix: f.suffix}
	if cfg.Transport, _, err = f.transport(e, ready); err != nil {
		return err
	}
	if cfg.Token, err = readToken(ready.Token); err != nil {
		return err
	}
	c, err := bench.NewControl(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close(cmd.Context())) }()
	if f.only == "" {
		return f.mix(cmd.Context(), e, c, probe, ready)
	}
	return f.alone(cmd.Context(), e, c, probe, ready)
}

// alone measures one part.
func (f *controlFlags) alone(ctx context.Context, e env, c *bench.Control, probe *bench.Probe, ready app.Ready) error {
	var w bench.Workload
	switch f.only {
	case "bulk":
		return f.bulk(ctx, e, c, probe, ready)
	case "heartbeats":
		w = c.Heartbeats()
	case "import":
		w = c.Imports(f.count * f.rounds * len(f.clients))
		f.warmup = 0 // every file counts
	default:
		all, tagged, err := c.Paths(ctx)
		if err != nil {
			return err
		}
		if f.only == "unchanged" {
			all = tagged
		}
		if w, err = c.Lists(all, f.only == "unchanged"); err != nil {
			return err
		}
	}
	w.Name = "control " + f.only
	return f.drive(ctx, e, probe, w, f.loadSettings(), dataOf(ready))
}

// bulk measures bulk renewals of everything at once, one round each.
func (f *controlFlags) bulk(ctx context.Context, e env, c *bench.Control, probe *bench.Probe, ready app.Ready) error {
	settings := map[string]string{"certificates": strconv.Itoa(f.certificates), "issuer": f.issuer, "latency": "of the request; the rate is that of certificates obtained"}
	rep, err := f.newReporter(e, bench.Workload{Name: "control bulk", Unit: "certificates"}, settings, dataOf(ready))
	if err != nil {
		return err
	}
	err = c.Manage(ctx, f.certificates, 1)
	var rounds []bench.Bulk
	for range f.rounds {
		if err != nil {
			break
		}
		var b bench.Bulk
		if b, err = c.RenewAll(ctx, probe); err == nil {
			rounds = append(rounds, b)
		}
	}
	if len(rounds) > 0 {
		rep.point(bench.BulkPoint(rounds))
	}
	return rep.finish(err)
}

// mix measures everything at once.
func (f *controlFlags) mix(ctx context.Context, e env, c *bench.Control, probe *bench.Probe, ready app.Ready) error {
	groups := min(max(int(math.Ceil(f.renewal*(f.warmup+f.duration).Seconds())), 1), f.certificates)
	settings := map[string]string{"window": fmt.Sprintf("%s after %s", f.duration, f.warmup), "agents": strconv.Itoa(f.agents),
		"certificates": fmt.Sprintf("%d of %d owners", f.certificates, groups)}
	rep, err := f.newReporter(e, bench.Workload{Name: "control", Unit: "requests"}, settings, dataOf(ready))
	if err != nil {
		return err
	}
	classes, err := f.classes(ctx, c, groups)
	if err != nil {
		return rep.finish(err)
	}
	plan := f.plan()
	d := bench.Driver{Plan: plan, Probe: probe, Progress: rep.bar.Progress}
	points, used, err := d.RunMix(ctx, classes)
	if err != nil {
		return rep.finish(err)
	}
	rep.run.Figures = used.Figures()
	var left error
	if f.renewal > 0 {
		left = f.after(ctx, c, rep)
	}
	for _, p := range points {
		rep.point(p)
	}
	return rep.finish(left)
}

// after waits until what was renewed is obtained.
func (f *controlFlags) after(ctx context.Context, c *bench.Control, rep *reporter) error {
	took, err := c.Drain(ctx)
	if err != nil {
		return err
	}
	failed, example, err := c.Trouble(ctx)
	rep.run.Figures = append(rep.run.Figures, bench.Figure{Name: "queue empty after", Value: took.Seconds(), Unit: "s"}, bench.Figure{Name: "renewals that failed", Value: float64(failed)})
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d certificates were not obtained: %s", failed, example)
	}
	return err
}

// most is how many of a class work at once: enough for a server that needs two
// seconds for each.
func most(rate float64) int { return int(min(max(2*rate, 10), 2000)) }

// classes makes agents and certificates, and returns the parts of the load.
func (f *controlFlags) classes(ctx context.Context, c *bench.Control, groups int) ([]bench.Class, error) {
	var out []bench.Class
	all, tagged, err := c.Paths(ctx)
	if err != nil {
		return nil, err
	}
	for _, part := range []struct {
		paths     []string
		unchanged bool
		rate      float64
	}{{all, false, f.lists * (1 - f.share)}, {tagged, true, f.lists * f.share}} {
		w, err := c.Lists(part.paths, part.unchanged)
		if err != nil {
			return nil, err
		}
		if part.rate > 0 {
			out = append(out, bench.Class{Workload: w, Clients: min(most(part.rate), 200), Rate: part.rate})
		}
	}
	if f.heartbeats > 0 {
		out = append(out, bench.Class{Workload: c.Heartbeats(), Clients: f.agents, Rate: f.heartbeats})
	}
	if f.renewal > 0 {
		if err := c.Manage(ctx, f.certificates, groups); err != nil {
			return nil, err
		}
		out = append(out, bench.Class{Workload: c.Renewals(), Clients: most(f.renewal), Rate: f.renewal})
	}
	return out, nil
}

// benchStart is `chancery bench control start`.
func benchStart(e env) *cobra.Command {
	var f benchFlags
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "start DIR [FLAG...]",
		Short: "Measure how long a chancery dev takes to be ready",
		Long: `Measure how long chancery dev takes from its start until it writes its ready
file, with the data directory DIR, which no other process may use. Once before
the first round it starts without being measured. FLAGs after -- are those of
chancery dev.`,
		Example: `  chancery bench control start ./.chancery --rounds 5
  chancery bench control start ./.chancery -- --listen 127.0.0.1:9443`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.rounds < 1 || f.rounds > 1000 {
				return usagef("--rounds is 1 to 1000")
			}
			return f.start(cmd.Context(), e, args[0], args[1:], timeout)
		},
	}
	cmd.Flags().IntVar(&f.rounds, "rounds", 5, "how many starts are measured")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "`time` that a start may take")
	f.results(cmd)
	return cmd
}

// start measures the start with a data directory.
func (f *benchFlags) start(ctx context.Context, e env, dir string, flags []string, timeout time.Duration) (err error) {
	program, err := self()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	temp, err := os.MkdirTemp("", "chancery-bench-")
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	file := filepath.Join(temp, "ready")
	s := bench.Start{Program: program, Args: append([]string{"dev", "--data", dir, "--ready-file", file}, flags...), Ready: file, Timeout: timeout}
	rep, err := f.newReporter(e, bench.Workload{Name: "control start", Unit: "starts"}, map[string]string{"rounds": strconv.Itoa(f.rounds)}, dir)
	if err != nil {
		return err
	}
	p, err := s.Run(ctx, f.rounds)
	if err == nil {
		rep.point(p)
	}
	return rep.finish(err)
}
