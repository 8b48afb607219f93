package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/bench"
)

// benchRenew is `chancery bench renew`.
func benchRenew(e env) *cobra.Command {
	var cfg bench.RenewConfig
	var out outFlags
	cmd := &cobra.Command{
		Use:   "renew",
		Short: "Measure the renewal engine here: lateness and CPU while many wait, speed when many are due",
		Long: `Measure the renewal engine in this process, against a CA of its own with every
check on. First --scheduled certificates wait and are asked for their renewal
windows: how late what is due is claimed, and how much of a core that takes.
Then --due certificates are due at once: how fast they are obtained. With
PostgreSQL its own CPU is not counted.`,
		Example: "  chancery bench renew --scheduled 1000000 --due 10000\n  chancery bench renew --db postgres://user@localhost/empty --json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.Scheduled < 0 || cfg.Due < 0 || cfg.Scheduled > 10_000_000 || cfg.Due > 1_000_000 || cfg.Workers < 1 {
				return usagef("--scheduled is 0 to 10000000, --due 0 to 1000000, --workers at least 1")
			}
			p, err := out.printer(e)
			if err != nil {
				return err
			}
			r, err := bench.Renew(cmd.Context(), cfg, bench.Fingerprint(e.build(), cfg.Dir, time.Now()))
			if err != nil {
				return err
			}
			var fields []field
			fields = append(fields, field{"engine", r.Engine})
			if r.Scheduled > 0 {
				fields = append(fields, field{"scheduled", strconv.Itoa(r.Scheduled)}, field{"seeded in", fmt.Sprintf("%.1f s, caught up in %.1f s", r.SeededIn, r.CaughtUpIn)},
					field{"claims", strconv.Itoa(r.Claims)}, field{"due to claimed", fmt.Sprintf("p50 %.1f ms, p99 %.1f ms", r.LateP50, r.LateP99)},
					field{"CPU while waiting", fmt.Sprintf("%.1f %% of one core", r.Core*100)})
			}
			if r.Due > 0 {
				fields = append(fields, field{"due at once", strconv.Itoa(r.Due)}, field{"drained in", fmt.Sprintf("%.1f s", r.DrainedIn)},
					field{"renewals", fmt.Sprintf("%.0f/s", r.PerSecond)}, field{"CPU", fmt.Sprintf("%.2f ms each", r.CPU)})
			}
			return p.fields(fields, r)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.DB, "db", "", "SQLite path or postgres:// `URL` of an empty database (default: a temporary SQLite file)")
	f.StringVar(&cfg.Dir, "dir", "", "`directory` for keys and files (default: a temporary one)")
	f.IntVar(&cfg.Scheduled, "scheduled", 100_000, "certificates that wait; 0 = leave that part out")
	f.DurationVar(&cfg.For, "for", 10*time.Second, "how long the waiting is measured")
	f.IntVar(&cfg.Due, "due", 2000, "certificates that are due at once; 0 = leave that part out")
	f.IntVar(&cfg.Workers, "workers", 64, "cap of the CA")
	out.add(cmd)
	return cmd
}
