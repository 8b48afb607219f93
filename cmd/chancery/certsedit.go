package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/fault"
)

// editFlags are the flags of commands that edit certificates in bulk.
type editFlags struct {
	owner, team, environment string
	tags, untag              []string
	retire, restore          bool
	dryRun, yes              bool
	key                      string
	out                      outFlags
}

func (f *editFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.BoolVar(&f.yes, "yes", false, "edit more than 10")
	fl.StringVar(&f.key, "key", "", "`name` of this request: the same command with the same key goes on with it (default: a new one)")
	dryRun(cmd, &f.dryRun)
	f.out.add(cmd)
}

func certsEdit(c *conn) *cobra.Command {
	var f editFlags
	cmd := &cobra.Command{Use: "edit QUERY...", Short: "Give every certificate that fits an owner, team, environment or tags", Args: cobra.MinimumNArgs(1),
		Long:    "Edit every certificate that fits. More than 10 need --yes; --dry-run shows the plan.\n\n" + queryHelp,
		Example: "  chancery certs edit 'name:*.pay.example.com' --owner pay --env prod --dry-run\n  chancery certs edit owner:none issuer:Corp --team platform --yes\n  chancery certs edit 'status:any seen:>1y' --retire",
		RunE: func(cmd *cobra.Command, args []string) error {
			edit, err := f.edit(cmd)
			if err != nil {
				return err
			}
			return f.run(cmd, c, strings.Join(args, " "), edit)
		}}
	fl := cmd.Flags()
	fl.StringVar(&f.owner, "owner", "", "set the `owner`; \"\": nobody")
	fl.StringVar(&f.team, "team", "", "set the `team`")
	fl.StringVar(&f.environment, "env", "", "set the `environment`")
	fl.StringArrayVar(&f.tags, "tag", nil, "set a tag, `name=value` (repeatable)")
	fl.StringArrayVar(&f.untag, "untag", nil, "drop the tag with this `name` (repeatable)")
	fl.BoolVar(&f.retire, "retire", false, "take out of view; deleted after the retention time")
	fl.BoolVar(&f.restore, "restore", false, "bring back what was retired")
	f.add(cmd)
	return cmd
}

// edit turns the flags that were given into an edit.
func (f *editFlags) edit(cmd *cobra.Command) (e api.InventoryEdit, err error) {
	given := func(name string, value *string) *string {
		if cmd.Flags().Changed(name) {
			return value
		}
		return nil
	}
	if f.retire && f.restore {
		return e, usagef("--retire and --restore exclude each other")
	}
	e = api.InventoryEdit{Owner: given("owner", &f.owner), Team: given("team", &f.team), Environment: given("env", &f.environment), Untag: f.untag}
	if f.retire || f.restore {
		e.Retired = &f.retire
	}
	e.Tags, err = tagsOf(f.tags)
	return e, err
}

// tagsOf reads name=value pairs.
func tagsOf(list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	tags := map[string]string{}
	for _, t := range list {
		name, value, ok := strings.Cut(t, "=")
		if !ok || name == "" {
			return nil, usagef("tag %q is not name=value", t)
		}
		tags[name] = value
	}
	return tags, nil
}

func certsTag(c *conn) *cobra.Command {
	var f editFlags
	cmd := &cobra.Command{Use: "tag NAME=VALUE... QUERY...", Short: "Tag every certificate that fits; NAME- drops a tag",
		Long:    "Tag every certificate that fits. Tags stand before the query, from which they are told apart by \"=\", or by \"-\" at the end.\n\n" + queryHelp,
		Example: "  chancery certs tag app=shop 'name:*.shop.example.com'\n  chancery certs tag app- tag:app=old --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			edit, rest := api.InventoryEdit{Tags: map[string]string{}}, args
			for len(rest) > 0 && !strings.Contains(rest[0], ":") {
				name, value, set := strings.Cut(rest[0], "=")
				bare, drop := strings.CutSuffix(rest[0], "-")
				if !set && !drop {
					break
				}
				if set {
					edit.Tags[name] = value
				} else {
					edit.Untag = append(edit.Untag, bare)
				}
				rest = rest[1:]
			}
			if len(rest) == len(args) || len(rest) == 0 {
				return usagef("name tags (app=shop, or app- to drop one), and then which certificates")
			}
			return f.run(cmd, c, strings.Join(rest, " "), edit)
		}}
	f.add(cmd)
	return cmd
}

// run plans, and edits what was planned.
func (f *editFlags) run(cmd *cobra.Command, c *conn, query string, edit api.InventoryEdit) error {
	ctx := cmd.Context()
	p, cl, err := c.open(cmd.Context(), &f.out)
	if err != nil {
		return err
	}
	plan, err := client.Post[api.EditPlan](ctx, cl, "/inventory/plan", map[string]any{"q": query, "edit": edit})
	if err != nil {
		return err
	}
	if f.dryRun || plan.Matched == 0 || plan.Matched > needYes && !f.yes {
		if err := f.printPlan(p, plan); err != nil || f.dryRun || plan.Matched == 0 {
			return err
		}
		return &exitError{code: exitUsage, err: fmt.Errorf("this edits %s; add --yes if that is meant", f.count(plan))}
	}
	if f.key == "" {
		f.key = stampKey()
	}
	done, err := apply(ctx, cl, map[string]any{"key": f.key, "q": query, "edit": edit, "confirm": true})
	if err != nil {
		return fmt.Errorf("%w; the same command with --key %s goes on", err, f.key)
	}
	return p.fields([]field{{"matched", fmt.Sprint(done.Matched)}, {"changed", fmt.Sprint(done.Changed)}}, done)
}

// apply repeats an edit until it is done.
func apply(ctx context.Context, cl *client.Client, body map[string]any) (api.EditResult, error) {
	for {
		r, err := client.Post[api.EditResult](ctx, cl, "/inventory/edits", body)
		if err != nil || r.Done {
			return r, err
		}
	}
}

func (f *editFlags) count(p api.EditPlan) string {
	if p.Exact {
		return fmt.Sprintf("%d certificates", p.Matched)
	}
	return fmt.Sprintf("at least %d certificates", p.Matched)
}

func (f *editFlags) printPlan(p *printer, plan api.EditPlan) error {
	rows := make([][]string, len(plan.Sample))
	for i := range plan.Sample {
		rows[i] = knownRow(&plan.Sample[i])
	}
	if err := p.list(knownColumns, rows, plan); err != nil || p.format == outJSON || p.format == outYAML {
		return err
	}
	_, err := fmt.Fprintf(p.w, "would edit %s; these are %d of them\n", f.count(plan), len(plan.Sample))
	return err
}

// importFlags are the flags of `certs import`.
type importFlags struct {
	owner, team, environment string
	tags, passwords          []string
	out                      outFlags
}

func certsImport(c *conn) *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{Use: "import FILE...", Short: "Import certificates from files, or owners from a table", Args: cobra.MinimumNArgs(1),
		Long: `Import files: PEM, DER, PKCS#12 and Java key stores, told apart by content, and
tables of owners by their name (.csv, with a header: fingerprint or name, and
owner, team, environment, managed, tag:NAME). Private keys are counted
and dropped, by the server; a file with keys is better left where it is.

Importing a file again changes nothing. Owner and so on fill gaps only; use
"certs edit" to overwrite. Files beyond 12 MiB belong into a directory that the
server watches (inventory.watch).`,
		Example: "  chancery certs import /etc/ssl/private/*.pem --owner web --env prod\n  chancery certs import store.p12 --password-file pass.txt\n  chancery certs import owners.csv",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, cl, err := c.open(cmd.Context(), &f.out)
			if err != nil {
				return err
			}
			return f.run(cmd.Context(), c.e, p, cl, args)
		}}
	fl := cmd.Flags()
	fl.StringVar(&f.owner, "owner", "", "`owner` of certificates that have none")
	fl.StringVar(&f.team, "team", "", "`team` of certificates that have none")
	fl.StringVar(&f.environment, "env", "", "`environment` of certificates that have none")
	fl.StringArrayVar(&f.tags, "tag", nil, "tag, `name=value` (repeatable)")
	fl.StringArrayVar(&f.passwords, "password-file", nil, "`file` whose first line opens PKCS#12 (repeatable)")
	f.out.add(cmd)
	return cmd
}

// maxUpload is the largest file that is sent, in bytes.
const maxUpload = 12 << 20

func (f *importFlags) run(ctx context.Context, e env, p *printer, cl *client.Client, files []string) error {
	body := map[string]any{"owner": f.owner, "team": f.team, "environment": f.environment}
	tags, err := tagsOf(f.tags)
	if err != nil {
		return err
	}
	if tags != nil {
		body["tags"] = tags
	}
	var passwords []string
	for _, name := range f.passwords {
		text, err := os.ReadFile(name)
		if err != nil {
			return usagef("%w", err)
		}
		line, _, _ := strings.Cut(string(text), "\n")
		passwords = append(passwords, strings.TrimSuffix(line, "\r"))
	}
	if passwords != nil {
		body["passwords"] = passwords
	}
	results, failed := map[string]api.Import{}, 0
	var rows [][]string
	for _, name := range files {
		got, err := upload(ctx, cl, name, body)
		if err != nil {
			failed++
			fmt.Fprintf(e.stderr, "%s: %s\n", name, detailOf(err))
			continue
		}
		results[name] = got
		rows = append(rows, []string{name, got.Format, fmt.Sprint(got.New), fmt.Sprint(got.Changed), fmt.Sprint(got.Known), fmt.Sprint(got.Assigned), fmt.Sprint(len(got.Refused)), fmt.Sprint(got.Keys)})
		for _, r := range got.Refused {
			fmt.Fprintf(e.stderr, "%s: %s: %s\n", name, r.Item, r.Detail)
		}
	}
	columns := []column{{name: "file"}, {name: "format"}, {name: "new"}, {name: "changed"}, {name: "known"}, {name: "assigned"}, {name: "refused"}, {name: "keys_dropped", wide: true}}
	if err := p.list(columns, rows, results); err != nil || failed == 0 {
		return err
	}
	code := exitPartial
	if failed == len(files) {
		code = exitFailed
	}
	return &exitError{code: code, err: fmt.Errorf("%d of %d files were not imported", failed, len(files))}
}

// upload sends one file.
func upload(ctx context.Context, cl *client.Client, name string, body map[string]any) (api.Import, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return api.Import{}, err
	}
	if len(data) > maxUpload {
		return api.Import{}, fmt.Errorf("it is larger than 12 MiB; put it into a directory that the server watches")
	}
	body["name"], body["data"] = filepath.Base(name), data
	return client.Post[api.Import](ctx, cl, "/inventory/import", body)
}

// detailOf is what a user needs to know of an error.
func detailOf(err error) string {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f.Detail
	}
	return err.Error()
}
