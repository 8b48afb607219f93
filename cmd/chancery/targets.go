package main

import (
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/app"
	"chancery/internal/config"
	"chancery/internal/deploy"
)

// newTargets is `chancery targets`.
func newTargets(e env) *cobra.Command {
	var path string
	cmd := group("targets", "List and check the places certificates are deployed to",
		"Look at the targets of a configuration. Needs no server: it reads the file.\n\nA target is a [target.NAME] of the configuration; docs/deploy.md has an example for each kind.")
	cmd.PersistentFlags().StringVarP(&path, "config", "c", "", "configuration `file` (default: $CHANCERY_CONFIG)")
	cmd.AddCommand(targetsList(e, &path), targetsCheck(e, &path), targetsKinds(e))
	return cmd
}

// targetView is a target as it is shown.
type targetView struct {
	Name    string   `json:"name"`
	Kind    string   `json:"kind"`
	Probe   []string `json:"probe"`
	Collect string   `json:"collect"`
	Windows []string `json:"windows"`
}

func targetsList(e env, path *string) *cobra.Command {
	var out outFlags
	cmd := &cobra.Command{Use: "list", Short: "List the targets of the configuration", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			p, err := out.printer(e)
			if err != nil {
				return err
			}
			c, err := loadConfig(e, *path)
			if err != nil {
				return err
			}
			views, rows := []targetView{}, [][]string{}
			for _, name := range slices.Sorted(maps.Keys(c.Target)) {
				t := c.Target[name]
				v := targetView{name, t.Kind, t.Probe, config.FormatDuration(t.Collect), t.Windows}
				views = append(views, v)
				rows = append(rows, []string{v.Name, v.Kind, joined(v.Probe), v.Collect, joined(v.Windows)})
			}
			return p.list([]column{{name: "name"}, {name: "kind"}, {name: "probe"}, {name: "collect"}, {name: "windows"}}, rows, views)
		}}
	out.add(cmd)
	return cmd
}

// checkView is the outcome of a check.
type checkView struct {
	Name  string `json:"name"`
	Kind  string `json:"kind"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

func targetsCheck(e env, path *string) *cobra.Command {
	var out outFlags
	cmd := &cobra.Command{Use: "check [NAME...]", Short: "Check targets without changing them; exit 3 if one is not in order",
		Long: "Check that targets can be deployed to: directories, sockets, credentials, and\nthe server's own test of its configuration. Changes nothing.",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := out.printer(e)
			if err != nil {
				return err
			}
			c, err := loadConfig(e, *path)
			if err != nil {
				return err
			}
			targets, err := pick(c, args)
			if err != nil {
				return err
			}
			views, rows, bad := []checkView{}, [][]string{}, 0
			for _, name := range targets {
				v := checkView{Name: name, Kind: c.Target[name].Kind, OK: true}
				state := "ok"
				if err := checkTarget(cmd, c, name); err != nil {
					v.OK, v.Error, state = false, err.Error(), err.Error()
					bad++
				}
				views = append(views, v)
				rows = append(rows, []string{v.Name, v.Kind, state})
			}
			if err := p.list([]column{{name: "name"}, {name: "kind"}, {name: "state"}}, rows, views); err != nil {
				return err
			}
			if bad > 0 {
				return problems("", "%d of %d targets are not in order", bad, len(targets))
			}
			return nil
		}}
	out.add(cmd)
	return cmd
}

// pick returns the targets with the names, or all.
func pick(c *config.Config, names []string) ([]string, error) {
	if len(names) == 0 {
		return slices.Sorted(maps.Keys(c.Target)), nil
	}
	for _, name := range names {
		if _, err := target(c, name); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// target makes sure that the configuration has a target.
func target(c *config.Config, name string) (string, error) {
	if _, ok := c.Target[name]; ok {
		return name, nil
	}
	if len(c.Target) == 0 {
		return "", usagef("the configuration has no [target.NAME]; docs/deploy.md has examples")
	}
	return "", usagef("there is no target %q; there are %s", name, strings.Join(slices.Sorted(maps.Keys(c.Target)), ", "))
}

// checkTarget runs the check of one target.
func checkTarget(cmd *cobra.Command, c *config.Config, name string) error {
	p, err := app.OpenTarget(c, name, c.Server.Data, slog.New(slog.DiscardHandler), false)
	if err != nil {
		return err
	}
	if checker, ok := p.Target.(deploy.Checker); ok {
		return checker.Check(cmd.Context())
	}
	return nil
}

// kindView describes a kind of target.
type kindView struct {
	Name string    `json:"name"`
	Doc  string    `json:"doc"`
	Keys []keyView `json:"keys"`
}

// keyView describes a key of a kind.
type keyView struct {
	Key     string `json:"key"`
	Type    string `json:"type"`
	Default string `json:"default"`
}

func targetsKinds(e env) *cobra.Command {
	var out outFlags
	cmd := &cobra.Command{Use: "kinds [KIND]", Short: "List the kinds of targets, or the keys of one", Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := out.printer(e)
			if err != nil {
				return err
			}
			views, rows := []kindView{}, [][]string{}
			for _, k := range app.DeployKinds() {
				v := kindView{k.Name, k.Doc, keysOfKind(k)}
				if len(args) == 1 && args[0] == k.Name {
					return showKind(p, v)
				}
				views = append(views, v)
				rows = append(rows, []string{v.Name, v.Doc})
			}
			if len(args) == 1 {
				return usagef("there is no kind %q of target; `chancery targets kinds` lists them", args[0])
			}
			return p.list([]column{{name: "kind"}, {name: "what it is"}}, rows, views)
		}}
	out.add(cmd)
	return cmd
}

// showKind lists the keys of a kind.
func showKind(p *printer, v kindView) error {
	rows := make([][]string, len(v.Keys))
	for i, k := range v.Keys {
		rows[i] = []string{k.Key, k.Type, k.Default}
	}
	return p.list([]column{{name: "key"}, {name: "type"}, {name: "default"}}, rows, v)
}

// keysOfKind reads the configuration struct of a kind.
func keysOfKind(k deploy.Kind) []keyView {
	v := reflect.ValueOf(k.Config()).Elem()
	var keys []keyView
	for _, f := range reflect.VisibleFields(v.Type()) {
		if f.Anonymous || !f.IsExported() {
			continue
		}
		field := v.FieldByIndex(f.Index)
		view := keyView{Key: f.Tag.Get("toml"), Type: f.Type.String(), Default: fmt.Sprint(field.Interface())}
		switch value := field.Interface().(type) {
		case []string:
			view.Type, view.Default = "list", strings.Join(value, ", ")
		case time.Duration:
			view.Type, view.Default = "duration", config.FormatDuration(value)
		default:
			view.Type = f.Type.Kind().String()
		}
		keys = append(keys, view)
	}
	return keys
}
