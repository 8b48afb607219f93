package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/api/client"
)

// listing is a command that shows a list of the API.
type listing[T any] struct {
	cmd     *cobra.Command // Use, Short, Long, Example, Args
	path    string
	pathOf  func(args []string) string     // in place of path
	query   func(args []string) url.Values // nil: none
	columns []column
	row     func(*T) []string

	limit int
	watch time.Duration
	out   outFlags
}

// command completes and returns the command.
func (l *listing[T]) command(c *conn) *cobra.Command {
	f := l.cmd.Flags()
	f.IntVar(&l.limit, "limit", 50, "show at most `N`; 0 = all")
	f.DurationVar(&l.watch, "watch", 0, "show it again every `period`, until interrupted")
	f.Lookup("watch").NoOptDefVal = "2s"
	l.out.add(l.cmd)
	if l.cmd.Args == nil {
		l.cmd.Args = noArgs
	}
	l.cmd.RunE = func(cmd *cobra.Command, args []string) error { return l.run(cmd.Context(), c, args) }
	return l.cmd
}

func (l *listing[T]) run(ctx context.Context, c *conn, args []string) error {
	if l.limit < 0 {
		return usagef("--limit %d is negative; 0 shows all", l.limit)
	}
	p, api, err := c.open(ctx, &l.out)
	if err != nil {
		return err
	}
	if l.pathOf != nil {
		l.path = l.pathOf(args)
	}
	var query url.Values
	if l.query != nil {
		query = l.query(args)
	}
	if l.watch == 0 {
		return l.show(ctx, c, api, p, query)
	}
	return repeat(ctx, l.watch, func() error {
		if p.tty {
			io.WriteString(p.w, "\x1b[H\x1b[2J") // home, clear
		}
		return l.show(ctx, c, api, p, query)
	})
}

// repeat calls f now and every period, until ctx ends or f fails.
func repeat(ctx context.Context, period time.Duration, f func() error) error {
	tick := time.NewTicker(max(period, 100*time.Millisecond))
	defer tick.Stop()
	for {
		err := f()
		if ctx.Err() != nil {
			return nil // interrupted: that is how it ends
		}
		if err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// show prints the list once.
func (l *listing[T]) show(ctx context.Context, c *conn, api *client.Client, p *printer, query url.Values) error {
	items, more, err := client.List[T](ctx, api, l.path, query, l.limit)
	if err != nil {
		return err
	}
	if items == nil {
		items = []T{}
	}
	rows := make([][]string, len(items))
	for i := range items {
		rows[i] = l.row(&items[i])
	}
	if err := p.list(l.columns, rows, items); err != nil {
		return err
	}
	if more {
		fmt.Fprintf(c.e.stderr, "chancery: there are more than these %d; --limit 0 shows all\n", len(items))
	}
	return nil
}

// showCommand is a command that shows one resource.
func showCommand[T any](c *conn, cmd *cobra.Command, path string, fields func(T) []field) *cobra.Command {
	var out outFlags
	cmd.Args = exactArgs("ID")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p, cl, err := c.open(cmd.Context(), &out)
		if err != nil {
			return err
		}
		v, err := client.Get[T](cmd.Context(), cl, path+client.ID(args[0]), nil)
		if err != nil {
			return err
		}
		return p.fields(fields(v), v)
	}
	out.add(cmd)
	return cmd
}

// endCommand is a command that ends one thing for good.
func endCommand(c *conn, cmd *cobra.Command, path, noun string) *cobra.Command {
	return deletion{cmd: cmd, at: path, would: "revoke the " + noun + " %s", done: "revoked " + noun + " %s\n"}.command(c)
}

// deletion is a command that deletes what its argument names.
type deletion struct {
	cmd   *cobra.Command
	at    string // path of the resources: "/tokens/"
	would string // what --dry-run says of the argument: "end silence %s"
	done  string // what is said when it is done; "": nothing
}

// command completes and returns the command.
func (d deletion) command(c *conn) *cobra.Command {
	var dry bool
	if d.cmd.Args == nil {
		d.cmd.Args = exactArgs("ID")
	}
	d.cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cl, err := c.client(cmd.Context())
		if err != nil {
			return err
		}
		if dry {
			return would(c.e, d.would, args[0])
		}
		if err := cl.Do(cmd.Context(), http.MethodDelete, d.at+client.ID(args[0]), nil, nil, nil); err != nil || d.done == "" {
			return err
		}
		_, err = fmt.Fprintf(c.e.stdout, d.done, args[0])
		return err
	}
	dryRun(d.cmd, &dry)
	return d.cmd
}

// action is a command that does something to one resource, named by its first
// argument, and shows what became of it.
type action[T any] struct {
	cmd    *cobra.Command
	at     string                           // path of the resources: "/authorities/"
	verb   string                           // path below the resource: "/retire"
	body   func(args []string) (any, error) // of the request; nil: none
	would  func(T) string                   // what --dry-run says of the resource as it is
	fields func(T) []field
}

// command completes and returns the command.
func (a action[T]) command(c *conn) *cobra.Command {
	var dry bool
	var out outFlags
	a.cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var body any
		if a.body != nil {
			var err error
			if body, err = a.body(args); err != nil {
				return err
			}
		}
		p, cl, err := c.open(cmd.Context(), &out)
		if err != nil {
			return err
		}
		path := a.at + client.ID(args[0])
		if dry {
			v, err := client.Get[T](cmd.Context(), cl, path, nil)
			if err != nil {
				return err
			}
			return would(c.e, "%s", a.would(v))
		}
		v, err := client.Post[T](cmd.Context(), cl, path+a.verb, body)
		if err != nil {
			return err
		}
		return p.fields(a.fields(v), v)
	}
	dryRun(a.cmd, &dry)
	out.add(a.cmd)
	return a.cmd
}

// field is one line of what a show command prints.
type field struct{ name, value string }

// fields prints one thing: lines of "name  value", or value where the format
// is a structured one. Fields without a value are left out.
func (p *printer) fields(fields []field, value any) error {
	if p.format == outJSON || p.format == outYAML {
		return p.value(value)
	}
	sep, pad := "\t", 2
	tw := tabwriter.NewWriter(p.w, 0, 0, pad, ' ', 0)
	w := io.Writer(tw)
	if p.format == outTSV {
		w = p.w
	}
	for _, f := range fields {
		if f.value != "" {
			fmt.Fprintf(w, "%s%s%s\n", f.name, sep, printable(f.value))
		}
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// when formats an instant.
func when(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// orNone formats an instant that may be missing.
func orNone(t *time.Time) string {
	if t == nil {
		return ""
	}
	return when(*t)
}

// joined joins names for one cell.
func joined(names []string) string { return strings.Join(names, ",") }

// group is a command that only holds others.
func group(use, short, long string, sub ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		var names []string
		for _, c := range cmd.Commands() {
			names = append(names, c.Name())
		}
		return usagef("name what to do: %s", strings.Join(names, ", "))
	}
	cmd.AddCommand(sub...)
	return cmd
}

// exactArgs refuses any other number of arguments as a usage error.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usagef("%s is missing", names[len(args)])
		}
		if len(args) > len(names) {
			return usagef("unexpected argument %q", args[len(names)])
		}
		return nil
	}
}

// dryRun registers --dry-run.
func dryRun(cmd *cobra.Command, to *bool) {
	cmd.Flags().BoolVar(to, "dry-run", false, "say what would be done, and do nothing")
}

// would prints the plan of a dry run.
func would(e env, format string, args ...any) error {
	_, err := fmt.Fprintf(e.stdout, "would "+format+"\n", args...)
	return err
}
