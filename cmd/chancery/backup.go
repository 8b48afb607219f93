package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/app"
	"chancery/internal/backup"
	"chancery/internal/config"
)

// dataFlags say which installation a command works on directly.
type dataFlags struct{ data, db, config string }

func (f *dataFlags) add(e env, cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.data, "data", "./.chancery", "data `directory`")
	fl.StringVar(&f.db, "db", "", "SQLite path or postgres:// `URL` (default: chancery.db in the data directory)")
	fl.StringVarP(&f.config, "config", "c", e.getenv("CHANCERY_CONFIG"), "configuration `file`, instead of --data and --db")
}

func (f *dataFlags) load(cmd *cobra.Command, e env) (*config.Config, error) {
	if f.config != "" {
		if cmd.Flags().Changed("data") || cmd.Flags().Changed("db") {
			return nil, usagef("--config says where everything is; leave out --data and --db")
		}
		return loadConfig(e, f.config)
	}
	cfg := config.Default()
	cfg.Server.Data, cfg.Database.URL = f.data, f.db
	return cfg, nil
}

// newBackup is `chancery backup`.
func newBackup(e env) *cobra.Command {
	var f dataFlags
	var dry bool
	cmd := &cobra.Command{
		Use: "backup FILE", Short: "Write everything into one file, also while serving", Args: exactArgs("FILE"),
		Long: `Write the database, the private keys, the trust anchors and the signer's log into
one file, whole and on the disk or not at all. It works while the server runs,
on SQLite and on PostgreSQL. An existing file is not replaced.

The file holds the private keys, and the passphrase if it lies beside them:
keep it like the keys themselves.`,
		Example: "  chancery backup /backup/chancery-$(date +%F).tar.gz\n  chancery backup before-upgrade.tar.gz --config /etc/chancery.toml",
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := f.load(cmd, e)
			if err != nil {
				return err
			}
			if _, err := os.Lstat(args[0]); err == nil {
				return &exitError{code: exitFailed, err: fmt.Errorf("%s exists already; name a new file", args[0])}
			}
			if dry {
				return would(e, "back up %s into %s", orElse(f.config, f.data), args[0])
			}
			p := newProgress(e, "written")
			m, err := app.Backup(cmd.Context(), cfg, args[0], e.build().Version, p.update)
			p.end()
			if err != nil {
				return err
			}
			return described(e.stdout, "backed up", m, args[0])
		}}
	f.add(e, cmd)
	dryRun(cmd, &dry)
	return cmd
}

// described says what an archive holds.
func described(w io.Writer, verb string, m *backup.Manifest, file string) error {
	_, err := fmt.Fprintf(w, "%s %d rows (schema %d, made on %s) and %d files: %s\n", verb, m.Rows, m.Schema, m.Engine, len(m.Files)-1, file)
	return err
}

// newRestore is `chancery restore`.
func newRestore(e env) *cobra.Command {
	var f dataFlags
	var dry bool
	cmd := &cobra.Command{
		Use: "restore FILE", Short: "Fill an empty data directory and database from a backup", Args: exactArgs("FILE"),
		Long: `Restore a backup into an empty data directory and an empty database, of either
engine. The whole file is verified before anything is written; nothing that
exists is replaced.`,
		Example: "  chancery restore chancery-2026-11-22.tar.gz --data /var/lib/chancery\n  chancery restore b.tar.gz --data new --db postgres://chancery@db/chancery\n  chancery restore b.tar.gz --dry-run    # only verify it",
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := f.load(cmd, e)
			if err != nil {
				return err
			}
			if dry {
				return verifyBackup(e, args[0], cfg.Server.Data)
			}
			m, err := app.Restore(cmd.Context(), cfg, args[0])
			if err != nil {
				return err
			}
			if err := described(e.stdout, "restored", m, args[0]); err != nil {
				return err
			}
			_, err = fmt.Fprintf(e.stderr, "next: chancery doctor issuance --data %s\n", shellQuote(cfg.Server.Data))
			return err
		}}
	f.add(e, cmd)
	dryRun(cmd, &dry)
	return cmd
}

func verifyBackup(e env, file, data string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	m, err := backup.Verify(f)
	if err != nil {
		return err
	}
	if err := described(e.stdout, "whole:", m, file); err != nil {
		return err
	}
	return would(e, "restore it into %s", data)
}

// newMigrate is `chancery migrate`.
func newMigrate(e env) *cobra.Command {
	var f dataFlags
	var dry bool
	cmd := &cobra.Command{
		Use: "migrate", Short: "Bring the database up to this program's schema", Args: noArgs,
		Long:    "Bring the database up to this program's schema. A server does the same when it\nstarts; the command is for those who do it before. Steps only add, so that the\nversion before goes on working.",
		Example: "  chancery migrate --dry-run\n  chancery migrate --config /etc/chancery.toml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.load(cmd, e)
			if err != nil {
				return err
			}
			steps, err := app.Migrate(cmd.Context(), cfg, dry)
			for _, s := range steps {
				verb := "took"
				if dry {
					verb = "would take"
				}
				fmt.Fprintf(e.stdout, "%s step %s\n", verb, s)
			}
			if err == nil && len(steps) == 0 {
				fmt.Fprintln(e.stdout, "the schema is up to date")
			}
			return err
		}}
	f.add(e, cmd)
	dryRun(cmd, &dry)
	return cmd
}

// progress shows on a terminal how far long work has come.
type progress struct {
	w    io.Writer // nil: nobody looks
	verb string
	last time.Time
}

func newProgress(e env, verb string) *progress {
	p := &progress{verb: verb}
	if isTerminal(e.stderr) {
		p.w = e.stderr
	}
	return p
}

// update shows n bytes.
func (p *progress) update(n int64) {
	p.show(fmt.Sprintf("%.1f MB", float64(n)/1e6))
}

// show shows how much is done, at most a few times a second.
func (p *progress) show(much string) {
	if now := time.Now(); p.w != nil && now.Sub(p.last) > 200*time.Millisecond {
		p.last = now
		fmt.Fprintf(p.w, "\r\x1b[K%s %s", much, p.verb)
	}
}

// end clears the line.
func (p *progress) end() {
	if p.w != nil && !p.last.IsZero() {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
