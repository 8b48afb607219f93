package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/app"
	"chancery/internal/deploy"
)

// deployFlags are the flags of `chancery deploy`.
type deployFlags struct {
	config, target      string
	certs, keys, ids    []string
	params              []string
	urgent, first, plan bool
	verbose             bool
	out                 outFlags
}

// newDeploy is `chancery deploy`.
func newDeploy(e env) *cobra.Command {
	var f deployFlags
	cmd := &cobra.Command{
		Use:   "deploy --target NAME --cert CHAIN --key KEY ...",
		Short: "Put certificates into service: one reload, probed, rolled back",
		Long: `Put certificates into service at a target of the configuration. Needs no
server: the same code runs in the renewal engine and in agents.

All pairs of one command are one batch: they are checked, staged beside what is
live, switched with one rename, and the server is reloaded once. Then every name
is asked for at the target's probe addresses. What does not come up is taken
back, and the others go live without it.

--cert and --key are repeated, in the same order. The ID of a certificate names
its files; without --id it is its first name ("_" for an asterisk).`,
		Example: `  chancery deploy --config chancery.toml --target edge --cert www.pem --key www.key
  chancery deploy --target edge --cert a.pem --key a.key --cert b.pem --key b.key --dry-run
  chancery deploy --target edge --cert a.pem --key a.key --first   # before the server's first start`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), e) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.config, "config", "c", "", "configuration `file` (default: $CHANCERY_CONFIG)")
	flags.StringVar(&f.target, "target", "", "`name` of the target")
	flags.StringArrayVar(&f.certs, "cert", nil, "certificate chain, a PEM `file`, leaf first")
	flags.StringArrayVar(&f.keys, "key", nil, "its private key, a PEM `file`")
	flags.StringArrayVar(&f.ids, "id", nil, "its `ID`, once per --cert or not at all")
	flags.StringArrayVar(&f.params, "param", nil, "`ID:KEY=VALUE` for the target, such as www:probe=www.example.com")
	flags.BoolVar(&f.urgent, "urgent", false, "do not wait for the target's window")
	flags.BoolVar(&f.first, "first", false, "the server does not run yet: write its files, and neither reload nor probe")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "say each step on standard error")
	dryRun(cmd, &f.plan)
	f.out.add(cmd)
	return cmd
}

// run deploys.
func (f *deployFlags) run(ctx context.Context, e env) error {
	p, err := f.out.printer(e)
	if err != nil {
		return err
	}
	if err := f.check(); err != nil {
		return err
	}
	c, err := loadConfig(e, f.config)
	if err != nil {
		return err
	}
	name, err := target(c, f.target)
	if err != nil {
		return err
	}
	items, err := f.items()
	if err != nil {
		return err
	}
	data, err := filepath.Abs(c.Server.Data)
	if err != nil {
		return fmt.Errorf("find data directory: %w", err)
	}
	place, err := app.OpenTarget(c, name, data, f.log(e), f.first)
	if err != nil {
		return badConfig(e, configPath(e, f.config), err)
	}
	if f.plan {
		return f.show(e, place, items)
	}
	if err := app.MakeState(data, name); err != nil {
		return err
	}
	place.Options.Urgent = f.urgent
	return deployed(p, deploy.Run(ctx, place.Target, items, place.Options), items)
}

// check checks the flags.
func (f *deployFlags) check() error {
	switch {
	case f.target == "":
		return usagef("--target is missing; `chancery targets list` shows what there is")
	case len(f.certs) == 0:
		return usagef("--cert is missing")
	case len(f.certs) != len(f.keys):
		return usagef("%d times --cert and %d times --key; each certificate needs its key", len(f.certs), len(f.keys))
	case len(f.ids) != 0 && len(f.ids) != len(f.certs):
		return usagef("%d times --id for %d certificates", len(f.ids), len(f.certs))
	}
	return nil
}

// log is where the steps are said.
func (f *deployFlags) log(e env) *slog.Logger {
	if !f.verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(e.stderr, nil))
}

// items reads the files.
func (f *deployFlags) items() ([]deploy.Item, error) {
	items := make([]deploy.Item, len(f.certs))
	index := map[string]*deploy.Item{}
	for i := range items {
		chain, err := os.ReadFile(f.certs[i])
		if err != nil {
			return nil, fmt.Errorf("read certificate: %w", err)
		}
		key, err := os.ReadFile(f.keys[i])
		if err != nil {
			return nil, fmt.Errorf("read key: %w", err)
		}
		if items[i], err = deploy.ReadPair(chain, key); err != nil {
			return nil, fmt.Errorf("%s: %w", f.certs[i], err)
		}
		if len(f.ids) > 0 {
			items[i].ID = f.ids[i]
		}
		index[items[i].ID] = &items[i]
	}
	for _, s := range f.params {
		id, rest, ok := strings.Cut(s, ":")
		name, value, ok2 := strings.Cut(rest, "=")
		item := index[id]
		if !ok || !ok2 || item == nil || name == "" {
			return nil, usagef("--param %s is not ID:KEY=VALUE with the ID of a certificate of this command", s)
		}
		if item.Params == nil {
			item.Params = map[string]string{}
		}
		item.Params[name] = value
	}
	return items, nil
}

// show prints the plan, with what the check in process says.
func (f *deployFlags) show(e env, place *app.Place, items []deploy.Item) error {
	bad := 0
	for i := range items {
		if err := deploy.Check(&items[i], time.Now()); err != nil {
			bad++
			fmt.Fprintf(e.stdout, "would refuse %s: %v\n", items[i].ID, err)
			continue
		}
		if err := would(e, "deploy %s (%s) to %s", items[i].ID, joined(items[i].Names), place.Name); err != nil {
			return err
		}
		for _, a := range place.Options.Probe.Addresses {
			for _, name := range deploy.ProbeNames(&items[i]) {
				if err := would(e, "then ask %s for %q", a, name); err != nil {
					return err
				}
			}
		}
	}
	if at := deploy.NextOpen(place.Options.Windows, time.Now()); !f.urgent && at.After(time.Now().Add(time.Second)) {
		fmt.Fprintf(e.stdout, "the target's window opens at %s; --urgent does not wait\n", when(at))
	}
	if bad > 0 {
		return problems("", "%d of %d certificates would be refused", bad, len(items))
	}
	return nil
}

// outcomeView is an outcome as it is shown.
type outcomeView struct {
	ID     string   `json:"id"`
	Names  []string `json:"names"`
	Live   bool     `json:"live"`
	Error  string   `json:"error,omitempty"`
	Stderr string   `json:"stderr,omitempty"`
	TookMS int64    `json:"took_ms"`
}

// deployed prints the outcomes and says how it went by the exit code.
func deployed(p *printer, out []deploy.Outcome, items []deploy.Item) error {
	views, rows, live := []outcomeView{}, [][]string{}, 0
	var closed *deploy.ClosedError
	for i, o := range out {
		v := outcomeView{ID: o.ID, Names: items[i].Names, Live: o.Live, Stderr: o.Stderr, TookMS: o.Took.Milliseconds()}
		state := "live"
		if o.Live {
			live++
		} else {
			v.Error, state = o.Err.Error(), "not live"
			errors.As(o.Err, &closed)
		}
		views = append(views, v)
		rows = append(rows, []string{v.ID, joined(v.Names), state, v.Error, fmt.Sprint(v.TookMS)})
	}
	if err := p.list([]column{{name: "id"}, {name: "names"}, {name: "state"}, {name: "error"}, {name: "took_ms", wide: true}}, rows, views); err != nil {
		return err
	}
	err := fmt.Errorf("%d of %d certificates are not live", len(out)-live, len(out))
	switch {
	case live == len(out):
		return nil
	case closed != nil:
		return &exitError{code: exitRetry, err: err, next: "the same with --urgent, or after " + when(closed.OpensAt)}
	case live > 0:
		return &exitError{code: exitPartial, err: err}
	}
	return &exitError{code: exitFailed, err: err}
}
