package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/app"
	"chancery/internal/pki"
)

// maxFill bounds what one `chancery bench fill` stores.
const maxFill = 100_000_000

// benchFill is `chancery bench fill`.
func benchFill(e env) *cobra.Command {
	f := devFlags{listen: "127.0.0.1:8443", httpListen: "127.0.0.1:8080", http01Port: 5002, tlsALPN01Port: 5001, caKeyType: string(pki.P256)}
	n := 0
	cmd := &cobra.Command{
		Use:   "fill",
		Short: "Fill a database with certificates that nobody can use",
		Long: `Store certificates in the data directory of a chancery dev that does not run,
so that it can be measured when it is large. They are well-formed and have rows
as if they had been issued, but no authority has signed them. Never do this to
an installation that people use.`,
		Example: `  chancery bench fill --data /tmp/large --certificates 1000000`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if n < 1 || n > maxFill {
				return usagef("--certificates must be 1 to %d", maxFill)
			}
			cfg, err := f.config(e)
			if err != nil {
				return err
			}
			start := time.Now()
			if err := app.Fill(cmd.Context(), cfg, app.Options{Create: true, Build: e.build()}, n); err != nil {
				return err
			}
			fmt.Fprintf(e.stdout, "stored %d certificates in %s\n", n, time.Since(start).Round(time.Millisecond))
			return nil
		},
	}
	cmd.Flags().StringVar(&f.data, "data", "", "data `directory`; made if there is none")
	cmd.Flags().StringVar(&f.db, "db", "", "SQLite path or postgres:// `URL` (default: chancery.db in the data directory)")
	cmd.Flags().IntVar(&n, "certificates", 100_000, "how many")
	_ = cmd.MarkFlagRequired("data") // fails for unknown flags only
	return cmd
}
