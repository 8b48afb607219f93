package main

import (
	"cmp"
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"chancery/internal/app"
	"chancery/internal/config"
)

// doctorFlags say which installation to look at.
type doctorFlags struct {
	data, db, config string
	out              outFlags
}

// newDoctor is `chancery doctor`.
func newDoctor(e env) *cobra.Command {
	var f doctorFlags
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check an installation; exit 3 when something is broken",
		Long: `Check an installation. It reads the files and the database directly, so it
works whether the server runs or not, and changes nothing.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return usagef("name what to check: issuance, keys or ready")
		},
	}
	cmd.PersistentFlags().StringVar(&f.data, "data", "./.chancery", "data `directory`")
	cmd.PersistentFlags().StringVar(&f.db, "db", "", "SQLite path or postgres:// `URL` (default: chancery.db in the data directory)")
	cmd.PersistentFlags().StringVarP(&f.config, "config", "c", "", "configuration `file`, instead of --data and --db")
	cmd.AddCommand(doctorIssuance(e, &f), doctorKeys(e, &f), doctorReady(e, &f))
	return cmd
}

// doctorIssuance is `chancery doctor issuance`.
func doctorIssuance(e env, f *doctorFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "issuance",
		Short: "Check that what was signed, stored and revoked agrees",
		Long: `Check the invariants of issuance over the database, the journal and the
signer's log:

  I1  every signature has a serial and stored bytes
  I2  no issuer used a serial twice
  I3  every name of every certificate was authorized when it was signed
  I4  every serial has a status; never good before signing, never back from revoked
  I5  CRLs and OCSP agree
  I6  no order is stuck in processing

The last line is the summary.`,
		Example: `  chancery doctor issuance --data ./.chancery`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.load(e)
			if err != nil {
				return err
			}
			return checkIssuance(cmd.Context(), e, cfg, &f.out)
		},
	}
	f.out.add(cmd)
	return cmd
}

// doctorKeys is `chancery doctor keys`.
func doctorKeys(e env, f *doctorFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Check that the key of every authority opens and signs",
		Long: `Open the key stores of the configuration (files, a PKCS #11 token, a cloud key
service) and make the key of every authority sign a random message, which is
verified with its certificate. Nothing that could be taken for a certificate is
signed.

The last line is the summary.`,
		Example: `  chancery doctor keys --config /etc/chancery/chancery.toml`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.load(e)
			if err != nil {
				return err
			}
			return checkKeys(cmd.Context(), e, cfg, &f.out)
		},
	}
	f.out.add(cmd)
	return cmd
}

func checkKeys(ctx context.Context, e env, cfg *config.Config, out *outFlags) error {
	p, err := out.printer(e)
	if err != nil {
		return err
	}
	rep, err := app.CheckKeys(ctx, cfg)
	if err != nil {
		return err
	}
	if p.format == outJSON || p.format == outYAML {
		if err := p.value(rep); err != nil {
			return err
		}
	} else {
		for _, k := range rep.Keys {
			fmt.Fprintf(e.stdout, "%s\t%s\t%s\t%s\n", k.Authority, k.Role, k.Key, cmp.Or(k.Problem, "ok"))
		}
		fmt.Fprintln(e.stdout, rep.Summary)
	}
	if rep.Broken > 0 {
		return problems("", "%d keys do not sign", rep.Broken)
	}
	return nil
}

// load returns the configuration of the installation to look at.
func (f *doctorFlags) load(e env) (*config.Config, error) {
	if f.config != "" {
		return loadConfig(e, f.config)
	}
	cfg, err := config.Load("", e.environ) // as `chancery dev` does
	if err != nil {
		return nil, badConfig(e, "", err)
	}
	cfg.Server.Data, cfg.Database.URL = f.data, f.db
	return cfg, nil
}

func checkIssuance(ctx context.Context, e env, cfg *config.Config, out *outFlags) error {
	p, err := out.printer(e)
	if err != nil {
		return err
	}
	if text := app.RunningChaos(cfg); text != "" {
		fmt.Fprintf(e.stderr, "chancery: the server that runs here has --chaos %s: it misbehaves on purpose\n", text)
	}
	rep, err := app.CheckIssuance(ctx, cfg)
	if err != nil {
		return err
	}
	if p.format == outJSON || p.format == outYAML {
		if err := p.value(rep); err != nil {
			return err
		}
	} else {
		for _, f := range rep.Findings {
			fmt.Fprintf(e.stdout, "%s\t%s\t%s\n", f.Invariant, f.Subject, f.Problem)
		}
		fmt.Fprintln(e.stdout, rep.Summary)
	}
	if len(rep.Findings) > 0 {
		return problems("", "%d invariants are broken", len(rep.Findings))
	}
	return nil
}
