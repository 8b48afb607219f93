package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/scan"
)

// storing hands each batch to the inventory before it is printed. A server
// that says "later" slows the scan.
func storing(cl *client.Client, e env, kind scan.Kind, to scan.Sink) scan.Sink {
	sent := false // the batch is stored, and to has not taken it yet
	return func(ctx context.Context, batch []scan.Result) error {
		if !sent {
			if err := store(ctx, cl, e, kind, batch); err != nil {
				return err
			}
		}
		sent = true
		err := to(ctx, batch)
		sent = err != nil
		return err
	}
}

// store sends one batch, in several requests when it is large.
func store(ctx context.Context, cl *client.Client, e env, kind scan.Kind, batch []scan.Result) error {
	texts, err := scan.Encode(kind, batch)
	if err != nil {
		return err
	}
	for _, text := range texts {
		b, err := scan.Decode(text)
		if err != nil {
			return err
		}
		if len(b.Reports) == 0 {
			continue
		}
		done, err := client.Post[api.Stored](ctx, cl, "/scan/results", b)
		if err != nil {
			return fmt.Errorf("store results: %w", err)
		}
		for _, r := range done.Refused {
			fmt.Fprintf(e.stderr, "%s is not in the inventory: %s\n", r.Item, r.Detail)
		}
	}
	return nil
}

// scheduleColumns are what a list of schedules shows.
var scheduleColumns = []column{{name: "name"}, {name: "interval"}, {name: "kind"}, {name: "site"}, {name: "enabled"}, {name: "next_at"}, {name: "targets", wide: true},
	{name: "jitter", wide: true}, {name: "id", wide: true}, {name: "created_by", wide: true}}

func scheduleRow(s *api.Schedule) []string {
	return []string{s.Name, s.Interval, s.Kind, s.Site, fmt.Sprint(s.Enabled), orNone(s.NextAt), strings.Join(strings.Fields(s.Targets), " "), s.Jitter, s.ID, s.CreatedBy}
}

// scanSchedules is `chancery scan schedules`.
func scanSchedules(e env) *cobra.Command {
	cmd := group("schedules", "List, add, run and delete scans that the server repeats",
		"Let the server repeat scans. Processes with the role scan run them, and what they find is in the inventory.")
	c := connect(e, cmd)
	l := listing[api.Schedule]{cmd: &cobra.Command{Use: "list", Short: "List scans that are repeated"}, path: "/scan/schedules", columns: scheduleColumns, row: scheduleRow}
	cmd.AddCommand(l.command(c), scheduleAdd(c), scheduleRun(c), scheduleDelete(c))
	return cmd
}

func scheduleAdd(c *conn) *cobra.Command {
	var spec api.ScheduleSpec
	var files []string
	var disabled, replace bool
	var out outFlags
	cmd := &cobra.Command{Use: "add NAME TARGET...", Short: "Repeat a scan", Args: cobra.MinimumNArgs(1),
		Long: `Repeat a scan; the first pass begins at once. Targets are those of "chancery scan".
The target inventory stands for every endpoint that is known at the time,
inventory:*.example.com for those of hosts below example.com.`,
		Example: "  chancery scan schedules add known inventory --every 1d\n  chancery scan schedules add racks 10.0.0.0/16:443,8443 --every 7d --site dc1 --probe fetch\n  chancery scan schedules add mail -f hosts.txt --every 12h --jitter 30m",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			lines := args[1:]
			for _, name := range files {
				text, err := os.ReadFile(name)
				if err != nil {
					return usagef("%w", err)
				}
				lines = append(lines, string(text))
			}
			if len(lines) == 0 {
				return usagef("name a target, or a file with -f")
			}
			on := !disabled
			spec.Name, spec.Targets, spec.Enabled = args[0], strings.Join(lines, "\n"), &on
			v, err := client.Post[api.Schedule](cmd.Context(), cl, "/scan/schedules", spec)
			if replace && err != nil {
				err = cl.Do(cmd.Context(), http.MethodPut, "/scan/schedules/"+client.ID(args[0]), nil, spec, &v)
			}
			if err != nil {
				return err
			}
			return p.list(scheduleColumns, [][]string{scheduleRow(&v)}, v)
		}}
	f := cmd.Flags()
	f.StringVar(&spec.Interval, "every", "1d", "`time` between the beginnings of passes: 30m, 12h, 7d")
	f.StringVar(&spec.Jitter, "jitter", "", "at most so much `time` is added (default: a tenth)")
	f.StringVar(&spec.Kind, "probe", string(scan.Observe), "observe, fetch, dual or features")
	f.StringVar(&spec.Site, "site", "", "run by the processes of this `site` only")
	f.StringArrayVarP(&files, "file", "f", nil, "read targets from `file` (repeatable)")
	f.BoolVar(&disabled, "disabled", false, "do not run it yet")
	f.BoolVar(&replace, "replace", false, "change the one of that name, if there is one")
	out.add(cmd)
	return cmd
}

func scheduleRun(c *conn) *cobra.Command {
	return &cobra.Command{Use: "run NAME", Short: "Begin the next pass at once", Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client(cmd.Context())
			if err != nil {
				return err
			}
			return cl.Do(cmd.Context(), http.MethodPost, "/scan/schedules/"+client.ID(args[0])+"/run", nil, nil, nil)
		}}
}

func scheduleDelete(c *conn) *cobra.Command {
	return &cobra.Command{Use: "delete NAME", Short: "Repeat a scan no more; what it found stays", Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client(cmd.Context())
			if err != nil {
				return err
			}
			return cl.Do(cmd.Context(), http.MethodDelete, "/scan/schedules/"+client.ID(args[0]), nil, nil, nil)
		}}
}

// scanPasses is `chancery scan passes`.
func scanPasses(e env) *cobra.Command {
	cmd := group("passes", "List, show and cancel passes of repeated scans", "Look at the passes of scans that the server repeats.")
	c := connect(e, cmd)
	var schedule string
	columns := []column{{name: "id"}, {name: "state"}, {name: "targets"}, {name: "stored"}, {name: "left"}, {name: "healthy"}, {name: "started_at"}, {name: "finished_at"},
		{name: "kind", wide: true}, {name: "site", wide: true}, {name: "schedule", wide: true}, {name: "error", wide: true}}
	row := func(p *api.Pass) []string {
		return []string{p.ID, p.State, fmt.Sprint(p.Targets), fmt.Sprint(p.Summary.Stored), fmt.Sprint(p.Left), fmt.Sprint(p.Summary.Healthy), when(p.StartedAt), orNone(p.FinishedAt), p.Kind, p.Site, p.Schedule, p.Error}
	}
	l := listing[api.Pass]{cmd: &cobra.Command{Use: "list", Short: "List passes, the newest first"}, path: "/scan/passes", columns: columns, row: row,
		query: func([]string) url.Values {
			if schedule == "" {
				return nil
			}
			return url.Values{"schedule": {schedule}}
		}}
	l.cmd.Flags().StringVar(&schedule, "schedule", "", "only those of this schedule, by `name`")
	var out outFlags
	one := func(use, short, method, suffix string) *cobra.Command {
		cmd := &cobra.Command{Use: use, Short: short, Args: exactArgs("ID"), RunE: func(cmd *cobra.Command, args []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			var v api.Pass
			if err := cl.Do(cmd.Context(), method, "/scan/passes/"+client.ID(args[0])+suffix, nil, nil, &v); err != nil {
				return err
			}
			fs := []field{{"id", v.ID}, {"state", v.State}, {"error", v.Error}, {"targets", fmt.Sprint(v.Targets)}, {"stored", fmt.Sprint(v.Summary.Stored)},
				{"untried", fmt.Sprint(v.Summary.Untried)}, {"left", fmt.Sprint(v.Left)}, {"healthy", fmt.Sprint(v.Summary.Healthy)}, {"slowed", fmt.Sprint(v.Summary.Slowed)}, {"retries", fmt.Sprint(v.Summary.Retries)},
				{"started_at", when(v.StartedAt)}, {"finished_at", orNone(v.FinishedAt)}}
			for class, n := range v.Summary.Classes {
				fs = append(fs, field{"class", fmt.Sprintf("%s %d", class, n)})
			}
			for problem, n := range v.Summary.Problems {
				fs = append(fs, field{"problem", fmt.Sprintf("%s %d", problem, n)})
			}
			return p.fields(fs, v)
		}}
		out.add(cmd)
		return cmd
	}
	cmd.AddCommand(l.command(c), one("show ID", "Show what a pass has found", http.MethodGet, ""), one("cancel ID", "End a pass; what it found stays", http.MethodPost, "/cancel"))
	return cmd
}
