package main

import (
	"fmt"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
)

// agentsFleet is `chancery agents fleet`.
func agentsFleet(c *conn) *cobra.Command {
	var out outFlags
	cmd := &cobra.Command{Use: "fleet", Short: "Count agents by version and state, and what they keep in service", Args: noArgs,
		Long: "Count agents by version and state, and what they keep in service by state. An agent is\nsilent when it has not been seen for 15 minutes.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			f, err := client.Get[api.Fleet](cmd.Context(), cl, "/fleet", nil)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, v := range f.Versions {
				rows = append(rows, []string{"agents", v.Version, string(v.State), strconv.FormatInt(v.Count, 10), strconv.FormatInt(v.Silent, 10)})
			}
			for _, state := range []string{"new", "issued", "live", "failed"} {
				rows = append(rows, []string{"assignments", "", state, fmt.Sprint(f.Assignments[state]), ""})
			}
			return p.list([]column{{name: "what"}, {name: "version"}, {name: "state"}, {name: "count"}, {name: "silent"}}, rows, f)
		}}
	out.add(cmd)
	return cmd
}

// agentsAssignments is `chancery agents assignments`.
func agentsAssignments(c *conn) *cobra.Command {
	state := ""
	l := listing[api.FleetAssignment]{
		cmd: &cobra.Command{Use: "assignments", Short: "List what all agents keep in service, the newest first", Example: "  chancery agents assignments --state failed -o wide"}, path: "/assignments",
		query: func([]string) url.Values {
			if state == "" {
				return nil
			}
			return url.Values{"state": {state}}
		},
		columns: []column{{name: "id"}, {name: "agent"}, {name: "names"}, {name: "targets"}, {name: "state"}, {name: "not_after"}, {name: "error"}, {name: "attempt", wide: true}, {name: "stderr", wide: true}, {name: "issue_at", wide: true}, {name: "reported_at", wide: true}},
		row: func(a *api.FleetAssignment) []string {
			return []string{a.ID, a.Agent, joined(a.Names), joined(a.Targets), string(a.State), orNone(a.NotAfter), a.Error, fmt.Sprint(a.Attempt), a.Stderr, when(a.IssueAt), orNone(a.ReportedAt)}
		},
	}
	cmd := l.command(c)
	cmd.Flags().StringVar(&state, "state", "", "only those that are new, issued, live or failed")
	return cmd
}
