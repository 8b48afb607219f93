package main

import (
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/api"
)

// renewDeployments is `chancery renew deployments`.
func renewDeployments(c *conn) *cobra.Command {
	var target string
	var failing bool
	cmd := &cobra.Command{Use: "deployments", Short: "List what is where: certificates with what each of their targets serves",
		Example: "  chancery renew deployments --failing\n  chancery renew deployments --target web"}
	cmd.Flags().StringVar(&target, "target", "", "only what this target should serve, by `name`")
	cmd.Flags().BoolVar(&failing, "failing", false, "only what a target refused the last time")
	l := listing[api.Deployment]{cmd: cmd, path: "/deployments",
		columns: []column{{name: "name"}, {name: "targets"}, {name: "not_after"}, {name: "error"}, {name: "owner", wide: true}, {name: "id", wide: true}},
		query: func([]string) url.Values {
			q := url.Values{}
			if target != "" {
				q.Set("target", target)
			}
			if failing {
				q.Set("failing", "true")
			}
			return q
		},
		row: func(d *api.Deployment) []string {
			var at []string
			said := ""
			for _, p := range d.Placements {
				state := "waits"
				switch {
				case p.Live:
					state = "live"
				case p.Attempts > 0:
					state, said = "failing", p.Error
				}
				at = append(at, p.Target+"="+state)
			}
			return []string{d.Name, joined(at), orNone(d.NotAfter), said, d.Owner, d.ID}
		}}
	return l.command(c)
}

// renewBatches is `chancery renew batches`.
func renewBatches(c *conn) *cobra.Command {
	var target string
	cmd := &cobra.Command{Use: "batches", Short: "List what targets got with one reload, and what became of it", Example: "  chancery renew batches --target web --watch"}
	cmd.Flags().StringVar(&target, "target", "", "only of this target, by `name`")
	l := listing[api.DeployBatch]{cmd: cmd, path: "/deployments/batches",
		columns: []column{{name: "began_at"}, {name: "target"}, {name: "outcome"}, {name: "live"}, {name: "items"}, {name: "took"}, {name: "error"}, {name: "detail", wide: true}, {name: "id", wide: true}},
		query: func([]string) url.Values {
			if target == "" {
				return nil
			}
			return url.Values{"target": {target}}
		},
		row: func(b *api.DeployBatch) []string {
			return []string{when(b.BeganAt), b.Target, b.Outcome, fmt.Sprint(b.Live), fmt.Sprint(b.Items), (time.Duration(b.TookMS) * time.Millisecond).String(), b.Error, b.Detail, b.ID}
		}}
	return l.command(c)
}
