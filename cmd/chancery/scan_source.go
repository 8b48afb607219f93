package main

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/app"
)

// sourceColumns are what a list of sources shows.
var sourceColumns = []column{{name: "name"}, {name: "kind"}, {name: "state"}, {name: "certificates"}, {name: "new"}, {name: "refused"}, {name: "listed_at"}, {name: "due_at"}, {name: "error"},
	{name: "changed", wide: true}, {name: "gone", wide: true}, {name: "watched", wide: true}, {name: "configured", wide: true}, {name: "failures", wide: true}}

func sourceRow(s *api.Source) []string {
	t := &s.Tally
	return []string{s.Name, s.Kind, s.State, fmt.Sprint(t.Listed), fmt.Sprint(t.New), fmt.Sprint(t.Refused), orNone(s.ListedAt), orNone(s.DueAt), s.Error,
		fmt.Sprint(t.Changed), fmt.Sprint(t.Gone), fmt.Sprint(s.Watched), fmt.Sprint(s.Configured && s.Enabled), fmt.Sprint(s.Failures)}
}

// scanSources is `chancery scan sources`.
func scanSources(e env) *cobra.Command {
	cmd := group("sources", "List, run and check places that keep certificates: clouds, clusters, Vault",
		"Look after the places that keep certificates. They are the [source.NAME] sections of\nthe server's configuration; processes with the role scan list them into the inventory.")
	c := connect(e, cmd)
	l := listing[api.Source]{cmd: &cobra.Command{Use: "list", Short: "List sources, with what the last list found"}, path: "/scan/sources", columns: sourceColumns, row: sourceRow}
	items := listing[api.SourceItem]{cmd: &cobra.Command{Use: "items NAME", Short: "List the certificates of a source, as the provider names them", Args: exactArgs("NAME")},
		columns: []column{{name: "ref"}, {name: "certificate"}, {name: "account"}, {name: "region"}, {name: "seen_at"}, {name: "gone_at"}, {name: "error"}, {name: "version", wide: true}},
		row: func(i *api.SourceItem) []string {
			return []string{i.Ref, i.Certificate, i.Account, i.Region, when(i.SeenAt), orNone(i.GoneAt), i.Error, i.Version}
		}}
	items.pathOf = func(args []string) string { return "/scan/sources/" + client.ID(args[0]) + "/items" }
	cmd.AddCommand(l.command(c), items.command(c), sourceAction(c, "run NAME", "Begin a complete list at once", "/run"),
		sourceAction(c, "check NAME", "Send a source one cheap request; say what to mend", "/check"), sourceKinds(e))
	return cmd
}

func sourceAction(c *conn, use, short, suffix string) *cobra.Command {
	var out outFlags
	cmd := &cobra.Command{Use: use, Short: short, Args: exactArgs("NAME"), RunE: func(cmd *cobra.Command, args []string) error {
		p, cl, err := c.open(cmd.Context(), &out)
		if err != nil {
			return err
		}
		var v api.Source
		if err := cl.Do(cmd.Context(), http.MethodPost, "/scan/sources/"+url.PathEscape(args[0])+suffix, nil, nil, &v); err != nil {
			return err
		}
		return p.list(sourceColumns, [][]string{sourceRow(&v)}, v)
	}}
	out.add(cmd)
	return cmd
}

// sourceKinds is `chancery scan sources kinds`.
func sourceKinds(e env) *cobra.Command {
	var out outFlags
	cmd := &cobra.Command{Use: "kinds", Short: "List the kinds of sources", Args: noArgs, RunE: func(*cobra.Command, []string) error {
		p, err := out.printer(e)
		if err != nil {
			return err
		}
		type kind struct {
			Kind string `json:"kind"`
			Doc  string `json:"doc"`
		}
		var rows [][]string
		var kinds []kind
		for _, k := range app.CloudKinds() {
			rows, kinds = append(rows, []string{k.Name, k.Doc}), append(kinds, kind{k.Name, k.Doc})
		}
		return p.list([]column{{name: "kind"}, {name: "doc"}}, rows, kinds)
	}}
	out.add(cmd)
	return cmd
}
