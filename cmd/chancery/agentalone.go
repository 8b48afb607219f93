package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/app"
	"chancery/internal/config"
	"chancery/internal/fleet/alone"
	"chancery/internal/fleet/alone/takeover"
)

// aloneFlags are the flags of an agent that keeps certificates without a
// server.
type aloneFlags struct {
	renew []string
	plan  bool
	out   outFlags
}

func (f *aloneFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringArrayVar(&f.renew, "renew", nil, "with --once: renew [certificate.`NAME`] whether it is time or not, and try it again if it failed (repeatable; '*': all)")
	fl.BoolVar(&f.plan, "dry-run", false, "say what would be done, order at the issuers' staging, let the targets check themselves, and change nothing")
	f.out.add(cmd)
}

// open puts the agent together.
func (f *aloneFlags) open(e env, path string, c *config.Config, state string, log *slog.Logger) (*app.Host, error) {
	targets := map[string]*alone.Target{}
	for name, t := range c.Target {
		if err := app.MakeState(state, name); err != nil {
			return nil, err
		}
		p, err := app.OpenTarget(c, name, state, log, false)
		if err != nil {
			return nil, badConfig(e, path, err)
		}
		targets[name] = &alone.Target{Target: p.Target, Options: p.Options, Collect: t.Collect, Batch: t.Batch, Timeout: t.Timeout}
	}
	h, err := app.OpenHost(c, state, targets, log)
	if _, located := errors.AsType[*config.Problem](err); located {
		return nil, badConfig(e, path, err)
	}
	return h, err
}

// once does what there is to do and says how every certificate is.
func (f *aloneFlags) once(ctx context.Context, e env, h *app.Host) error {
	p, err := f.out.printer(e)
	if err != nil {
		return err
	}
	if f.plan {
		return rehearsed(ctx, p, h)
	}
	results, err := h.Once(ctx, f.renew)
	if err != nil {
		return err
	}
	if err := printHost(p, results); err != nil {
		return err
	}
	failed := 0
	for i := range results {
		if s := results[i].State; s == alone.Failed || s == alone.Stopped {
			failed++
		}
	}
	return partly(failed, len(results), "%d of %d certificates are not in order", "chancery agent --once --renew NAME ...")
}

// partly is the exit code of work of which some failed.
func partly(failed, all int, format, next string) error {
	switch failed {
	case 0:
		return nil
	case all:
		return &exitError{code: exitFailed, err: fmt.Errorf(format, failed, all), next: next}
	}
	return &exitError{code: exitPartial, err: fmt.Errorf(format, failed, all), next: next}
}

// printHost lists the certificates of a host.
func printHost(p *printer, results []alone.Result) error {
	rows := make([][]string, len(results))
	for i := range results {
		r := &results[i]
		done := strings.Join(r.Deployed, ",")
		if r.Renewed {
			done = strings.TrimSuffix("renewed,"+done, ",")
		}
		rows[i] = []string{r.Name, joined(r.Names), string(r.State), done, dateOf(r.NotAfter), dateOf(r.RenewAt), r.Error, r.Issuer, dateOf(r.RetryAt), r.SHA256, r.Stderr}
	}
	return p.list([]column{{name: "name"}, {name: "names"}, {name: "state"}, {name: "done"}, {name: "not_after"}, {name: "renew_at"}, {name: "error"},
		{name: "issuer", wide: true}, {name: "retry_at", wide: true}, {name: "sha256", wide: true}, {name: "stderr", wide: true}}, rows, results)
}

// dateOf formats an instant that may be none.
func dateOf(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return when(t)
}

// rehearsed is a dry run.
func rehearsed(ctx context.Context, p *printer, h *app.Host) error {
	list, err := h.Rehearse(ctx)
	if err != nil {
		return err
	}
	failed, rows := 0, [][]string{}
	for i := range list {
		r := &list[i]
		state := "not rehearsed: its issuer has no staging"
		switch {
		case r.Error != "":
			state = r.Error
			failed++
		case r.Issuer != "":
			state = fmt.Sprintf("ok at %s, %.1f s", r.Issuer, r.Took)
		}
		rows = append(rows, []string{r.Name, joined(r.Names), r.Due, state})
	}
	if err := p.list([]column{{name: "name"}, {name: "names"}, {name: "would"}, {name: "rehearsal"}}, rows, list); err != nil {
		return err
	}
	return partly(failed, len(list), "%d of %d certificates would fail", "")
}

// newAgentList is `chancery agent list`.
func newAgentList(e env) *cobra.Command {
	var f aloneFlags
	var path, state string
	cmd := &cobra.Command{
		Use:     "list --state DIR --config FILE",
		Short:   "List the certificates that an agent keeps without a server",
		Long:    "List the [certificate.NAME]s of an agent's file: until when each is valid, when it\nis renewed, and what is wrong. Reads the state directory and asks nobody.",
		Example: "  chancery agent list --state /var/lib/chancery-agent --config agent.toml",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			p, err := f.out.printer(e)
			if err != nil {
				return err
			}
			if state == "" {
				return usagef("--state is missing: the agent's directory")
			}
			c, err := loadConfig(e, path)
			if err != nil {
				return err
			}
			h, err := f.open(e, configPath(e, path), c, state, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			return errors.Join(printHost(p, h.List()), h.Close())
		}}
	cmd.Flags().StringVar(&state, "state", "", "`directory` of the agent")
	cmd.Flags().StringVarP(&path, "config", "c", "", "`file` of the agent")
	f.out.add(cmd)
	return cmd
}

// newAgentImport is `chancery agent import`.
func newAgentImport(e env) *cobra.Command {
	return group("import", "Take over what certbot or lego kept on this host",
		`Take over accounts, certificates and keys of another ACME client: they become an
agent's file and state directory. The other program's directory is read only. After
the import stop its timer, and run the agent instead. See docs/agents.md.`,
		agentImport(e, "certbot", "Import certbot's directory", "  chancery agent import certbot /etc/letsencrypt --config agent.toml --state /var/lib/chancery-agent",
			func(dir, _ string) (*takeover.Found, error) { return takeover.Certbot(dir) }),
		agentImport(e, "lego", "Import lego's directory", "  chancery agent import lego ~/.lego --config agent.toml --state /var/lib/chancery-agent --http01-listen :80", takeover.Lego))
}

func agentImport(e env, program, short, example string, find func(dir, server string) (*takeover.Found, error)) *cobra.Command {
	var o takeover.Options
	var server string
	cmd := &cobra.Command{Use: program + " DIR", Short: short, Example: example, Args: exactArgs("DIR"),
		Long: short + ": accounts, certificates, keys, and how names are proved\nas far as its files say so. Writes --config and --state and overwrites nothing.",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.Config == "" || o.State == "" {
				return usagef("--config and --state are needed: what the import writes")
			}
			for _, p := range []*string{&o.Config, &o.State, &o.RootsFile} {
				if *p == "" {
					continue
				}
				if *p, err = filepath.Abs(*p); err != nil {
					return fmt.Errorf("find path: %w", err)
				}
			}
			found, err := find(args[0], server)
			if err != nil {
				return err
			}
			if err := found.Write(cmd.Context(), o); err != nil {
				return err
			}
			fmt.Fprintf(e.stdout, "imported %d certificates and %d accounts into %s and %s\n", len(found.Certificates), len(found.Accounts), o.Config, o.State)
			for _, n := range found.Notes {
				fmt.Fprintf(e.stdout, "look at this: %s\n", n)
			}
			fmt.Fprintf(e.stdout, "next: look at %[1]s, then chancery agent --once --dry-run --state %[2]s --config %[1]s\n", o.Config, o.State)
			return nil
		}}
	f := cmd.Flags()
	f.StringVarP(&o.Config, "config", "c", "", "`file` to write: the agent's configuration")
	f.StringVar(&o.State, "state", "", "`directory` to write: what the agent remembers")
	f.StringVar(&o.Target, "target", "", "`kind` of the server that shows the certificates (default: what was found, else files)")
	f.StringVar(&o.Live, "live", "", "`directory` of its files, which must not exist yet (default: STATE/live)")
	f.StringArrayVar(&o.Probe, "probe", nil, "`address` where the server is asked what it shows (repeatable)")
	f.StringVar(&o.RootsFile, "roots-file", "", "`file` with the roots of a CA that the system does not trust")
	f.StringVar(&o.HTTP01Listen, "http01-listen", "", "`address` that answers http-01 challenges, in place of what was found")
	f.StringVar(&o.Webroot, "http01-webroot", "", "`directory` of a web server for answers to http-01 challenges, in place of what was found")
	if program == "lego" {
		f.StringVar(&server, "server", "", "directory `URL` of the CA, if it is not a well-known one")
	}
	return cmd
}
