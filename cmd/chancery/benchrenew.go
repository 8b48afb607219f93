package main

import (
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/bench"
)

// benchRenew is `chancery bench renew`.
func benchRenew(e env) *cobra.Command {
	var cfg bench.RenewConfig
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "renew",
		Short: "Measure the renewal engine here: lateness and CPU while many wait, speed when many are due",
		Long: `Measure the renewal engine in this process, against a CA of its own with every
check on. First --scheduled certificates wait and are asked for their renewal
windows: how late what is due is claimed, and how much of a core that takes.
Then --due certificates are due at once: how fast they are obtained. With
PostgreSQL its own CPU is not counted.`,
		Example: "  chancery bench renew --scheduled 1000000 --due 10000\n  chancery bench renew --db postgres://user@localhost/empty --json results.jsonl",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.Scheduled < 0 || cfg.Due < 1 || cfg.Scheduled > 10_000_000 || cfg.Due > 1_000_000 || cfg.Workers < 1 {
				return usagef("--scheduled is 0 to 10000000, --due 1 to 1000000, --workers at least 1")
			}
			rep, err := f.newReporter(e, bench.Workload{Name: "renew", Unit: "certificates"}, map[string]string{"workers": strconv.Itoa(cfg.Workers)}, cfg.Dir)
			if err != nil {
				return err
			}
			r, err := bench.Renew(cmd.Context(), cfg)
			if err == nil {
				rep.run.Settings["engine"] = r.Engine
				rep.run.Figures = r.Figures()
				rep.point(r.Point())
			}
			return rep.finish(err)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&cfg.DB, "db", "", "SQLite path or postgres:// `URL` of an empty database (default: a temporary SQLite file)")
	fl.StringVar(&cfg.Dir, "dir", "", "`directory` for keys and files (default: a temporary one)")
	fl.IntVar(&cfg.Scheduled, "scheduled", 100_000, "certificates that wait; 0 = leave that part out")
	fl.DurationVar(&cfg.For, "for", 10*time.Second, "how long the waiting is measured")
	fl.IntVar(&cfg.Due, "due", 2000, "certificates that are due at once")
	fl.IntVar(&cfg.Workers, "workers", 64, "cap of the CA")
	f.results(cmd)
	return cmd
}
