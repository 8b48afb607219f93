package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/bench"
)

// benchAgents is `chancery bench agents`.
func benchAgents(e env) *cobra.Command {
	var f benchFlags
	var cfg bench.AgentsConfig
	var scratch string
	cmd := &cobra.Command{
		Use:   "agents",
		Short: "Measure a server with many parked agents: memory, idle CPU, a restart",
		Long: `Measure a server of its own, in another process on a scratch directory, to which
--agents agents connect from here: each holds one TLS connection with a question on
it, as real agents do. Measured are how fast they connect, what each costs the
server, what the server costs while nobody has anything to do (they ask again every
minute to every ten, so watch for at least 10m), how long a renewal takes from the
operator's word until one more, real agent has deployed, probed and reported it, and
a restart: how long until all are parked again by their own backoff, while
certificates are ordered at the same server all the time.

Each agent needs an open file here and one in the server; the limit is raised if
this process may. Connections come from 127.0.0.2 and above.`,
		Example: "  chancery bench agents --agents 20000 --json results.jsonl\n  chancery bench agents --agents 1000 --for 10s",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if cfg.Agents < 1 || cfg.Agents > 500_000 || cfg.For < time.Second || cfg.Limit < time.Second {
				return usagef("--agents is 1 to 500000, --for and --limit at least 1s")
			}
			dir := scratch
			if dir == "" {
				if dir, err = os.MkdirTemp("", "chancery-bench-"); err != nil {
					return fmt.Errorf("make scratch directory: %w", err)
				}
				defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
			}
			if cfg.Program, err = os.Executable(); err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			cfg.Dir, cfg.Environ, cfg.Progress = filepath.Join(dir, "data"), append(scratchEnv(e), "CHANCERY_AGENTS_MAX_PARKED="+strconv.Itoa(max(cfg.Agents+1, 1000))), stages(e)
			figures, point, err := bench.Agents(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			f.figures = figures
			w := bench.Workload{Name: "agents", Unit: "certificates during the restart"}
			rep, err := f.newReporter(e, w, map[string]string{"agents": strconv.Itoa(cfg.Agents), "idle for": cfg.For.String(), "database": "SQLite"}, cfg.Dir)
			if err != nil {
				return err
			}
			rep.point(point)
			return rep.finish(nil)
		},
	}
	fl := cmd.Flags()
	fl.IntVar(&cfg.Agents, "agents", 20_000, "how `many` park")
	fl.DurationVar(&cfg.For, "for", time.Minute, "how long the idle server is watched")
	fl.DurationVar(&cfg.Limit, "limit", 5*time.Minute, "longest `time` for all to come, and to come back")
	fl.StringVar(&scratch, "scratch", "", "empty `directory` for the server, which stays (default: a temporary one)")
	f.results(cmd)
	return cmd
}
