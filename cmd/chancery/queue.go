package main

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
)

// newQueue is `chancery queue`.
func newQueue(e env) *cobra.Command {
	cmd := group("queue", "See what waits for issuers and targets; pause, divert, reset",
		"Queues of the renewal engine: one for each issuer, by its name, and one for each\ndeployment target, as target/NAME.")
	c := connect(e, cmd)
	cmd.AddCommand(queueList(c),
		queueChange(c, "drain QUEUE", "Begin nothing new; what is under way ends", func([]string) map[string]any { return map[string]any{"paused": true} }),
		queueChange(c, "pause QUEUE", "The same as drain", func([]string) map[string]any { return map[string]any{"paused": true} }),
		queueChange(c, "resume QUEUE", "End a pause", func([]string) map[string]any { return map[string]any{"paused": false} }),
		queueChange(c, "move QUEUE ISSUER", "Give what is due to another issuer, until `queue move QUEUE -`", func(args []string) map[string]any {
			return map[string]any{"divert": strings.TrimPrefix(args[1], "-")}
		}),
		queueChange(c, "reset QUEUE", "Try again now: close the breaker, wake the account", func([]string) map[string]any { return map[string]any{"reset": true} }))
	return cmd
}

var queueColumns = []column{{name: "queue"}, {name: "waiting"}, {name: "in_flight"}, {name: "cap"}, {name: "state"}, {name: "oldest"}, {name: "next"}, {name: "error"}}

// queueName is what users call a queue.
func queueName(q *api.Queue) string {
	if q.Kind == "issuer" {
		return q.Name
	}
	return q.Kind + "/" + q.Name
}

// queueState is whether a queue works, and why not.
func queueState(q *api.Queue) string {
	var state []string
	if q.Paused {
		state = append(state, "paused")
	}
	if q.Divert != "" {
		state = append(state, "moved to "+q.Divert)
	}
	if q.Breaker != "closed" {
		state = append(state, "down")
	}
	if q.SleepUntil != nil {
		state = append(state, "until "+when(*q.SleepUntil))
	}
	if len(state) == 0 {
		return "open"
	}
	return strings.Join(state, ", ")
}

func queueRow(q *api.Queue) []string {
	return []string{queueName(q), strconv.FormatInt(q.Waiting, 10), strconv.FormatInt(q.InFlight, 10), strconv.Itoa(q.Allowed) + "/" + strconv.Itoa(q.Cap),
		queueState(q), orNone(q.Oldest), orNone(q.Next), q.Error}
}

func queueList(c *conn) *cobra.Command {
	l := listing[api.Queue]{cmd: &cobra.Command{Use: "list", Short: "List queues", Example: "  chancery queue list --watch"},
		path: "/queues", columns: queueColumns, row: queueRow}
	return l.command(c)
}

// queueChange is a command that changes one queue.
func queueChange(c *conn, use, short string, body func(args []string) map[string]any) *cobra.Command {
	var dry bool
	words := strings.Fields(use)
	cmd := &cobra.Command{Use: use, Short: short, Args: exactArgs(words[1:]...), Example: "  chancery queue " + strings.NewReplacer("QUEUE", "letsencrypt", "ISSUER", "backup").Replace(use),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, name := "issuer", args[0]
			if k, n, ok := strings.Cut(args[0], "/"); ok {
				kind, name = k, n
			}
			if kind != "issuer" && kind != "target" {
				return usagef("%q is not a queue; `chancery queue list` shows them", args[0])
			}
			if dry {
				return would(c.e, "%s %s", words[0], strings.Join(args, " "))
			}
			cl, err := c.client(cmd.Context())
			if err != nil {
				return err
			}
			var q api.Queue
			if err := cl.Do(cmd.Context(), http.MethodPatch, "/queues/"+kind+"/"+client.ID(name), nil, body(args), &q); err != nil {
				return err
			}
			var out outFlags
			p, err := out.printer(c.e)
			if err != nil {
				return err
			}
			return p.list(queueColumns, [][]string{queueRow(&q)}, q)
		}}
	dryRun(cmd, &dry)
	return cmd
}
