package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/db"
	"chancery/internal/fault"
)

// issuedHelp is the query language of the CA's own books, for help texts.
const issuedHelp = `A QUERY is a list of terms, all of which must fit:

  www.example.com   *.example.com   name:NAME   serial:HEX
  status:issued|revoked|expired|intent|abandoned
  ca:NAME   profile:NAME   key:p256   account:ID   order:ID
  expires:<14d   expires:>90d   expires:<2027-01-31   issued:<7d`

// newCerts is `chancery certs`.
func newCerts(e env) *cobra.Command {
	cmd := group("certs", "List, show, import, tag, export and revoke certificates",
		"Work with every certificate that is known: issued here, imported, or seen by a scan.\n\n"+queryHelp+"\n\nA REF is an id, a fingerprint, a serial number, or a name that one active certificate has.")
	c := connect(e, cmd)
	cmd.AddCommand(certsList(c), certsShow(c), certsGet(c), certsExport(c), certsRevoke(c), certsIssued(c), certsImport(c), certsTag(c), certsEdit(c),
		certsFacets(c), certsTimeline(c), certsEndpoints(c), certsViews(c))
	return cmd
}

// certColumns are what a list of issued certificates shows.
var certColumns = []column{{name: "names"}, {name: "status"}, {name: "not_after"}, {name: "ca"}, {name: "profile"}, {name: "serial"},
	{name: "id", wide: true}, {name: "key_type", wide: true}, {name: "issued_at", wide: true}, {name: "revoked_at", wide: true},
	{name: "reason", wide: true}, {name: "account", wide: true}, {name: "order", wide: true}}

func certRow(c *api.Certificate) []string {
	return []string{joined(c.Names), string(c.Status), when(c.NotAfter), c.CA, c.Profile, c.Serial, c.ID, c.KeyType, orNone(c.IssuedAt),
		orNone(c.RevokedAt), c.RevokedReason, c.Account, c.Order}
}

// queryOf makes the query parameter of arguments.
func queryOf(args []string) url.Values {
	if len(args) == 0 {
		return nil
	}
	return url.Values{"q": {strings.Join(args, " ")}}
}

// resolve returns the id of the certificate that ref means.
func resolve(ctx context.Context, c *client.Client, ref string) (string, error) {
	if db.ValidID(ref) {
		return ref, nil
	}
	query := "name:" + ref + " status:issued"
	if _, err := hex.DecodeString(strings.ReplaceAll(ref, ":", "")); err == nil && len(ref) >= 16 {
		query = "serial:" + ref
	}
	found, more, err := client.List[api.Certificate](ctx, c, "/issued", url.Values{"q": {query}}, 20)
	if err != nil {
		return "", err
	}
	switch {
	case len(found) == 1 && !more:
		return found[0].ID, nil
	case len(found) == 0:
		return "", &exitError{code: exitFailed, err: fmt.Errorf("no certificate fits %q", query), next: "chancery certs issued " + shellQuote(ref)}
	}
	var serials []string
	for _, f := range found {
		serials = append(serials, f.Serial)
	}
	return "", &exitError{code: exitFailed, next: "chancery certs issued " + shellQuote(ref),
		err: fmt.Errorf("%d issued certificates have the name %s; name one by its serial: %s", len(found), ref, strings.Join(serials, " "))}
}

// outFile is where a command writes a document: a file, or standard output.
type outFile struct{ path string }

func (o *outFile) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.path, "out", "", "write to this `file` instead of standard output")
}

// write calls f with the output. A file appears only when it is complete.
func (o *outFile) write(e env, f func(io.Writer) error) error {
	if o.path == "" {
		return f(e.stdout)
	}
	tmp := o.path + ".part"
	w, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("write %s: %w", o.path, err)
	}
	err = f(w)
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, o.path)
	}
	if err != nil {
		os.Remove(tmp)
		return fmt.Errorf("write %s: %w", o.path, err)
	}
	return nil
}

// revokeFlags are the flags of `certs revoke`.
type revokeFlags struct {
	query, reason         string
	blockKey, dryRun, yes bool
	out                   outFlags
}

func certsRevoke(c *conn) *cobra.Command {
	var f revokeFlags
	cmd := &cobra.Command{Use: "revoke REF... | --query QUERY", Short: "Revoke certificates, for ever", Args: cobra.ArbitraryArgs,
		Long: `Revoke certificates: those named, or all issued ones that fit a query. More than
10 need --yes; --dry-run shows the plan. What others revoked meanwhile counts
as done. Exit code 4 means that some are left; the same command again takes
them up.`,
		Example: "  chancery certs revoke www.example.com --reason superseded\n  chancery certs revoke --query '*.pay.example.com' --reason keyCompromise --dry-run\n  chancery certs revoke --query 'ca:old issued:<2026-01-01' --reason cessationOfOperation --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			if (f.query == "") == (len(args) == 0) {
				return usagef("name certificates, or --query, and not both")
			}
			cl, err := c.client(cmd.Context())
			if err != nil {
				return err
			}
			if f.query != "" {
				return f.byQuery(cmd.Context(), c.e, cl)
			}
			return f.byRef(cmd.Context(), c.e, cl, args)
		}}
	fl := cmd.Flags()
	fl.StringVar(&f.query, "query", "", "revoke all issued certificates that fit this `QUERY`")
	fl.StringVar(&f.reason, "reason", "unspecified", "`reason`: unspecified, keyCompromise, affiliationChanged, superseded, cessationOfOperation, privilegeWithdrawn, or its number")
	fl.BoolVar(&f.blockKey, "block-key", false, "also refuse their keys for ever (with keyCompromise, and not with --query)")
	fl.BoolVar(&f.yes, "yes", false, "revoke more than 10")
	dryRun(cmd, &f.dryRun)
	f.out.add(cmd)
	return cmd
}

// needYes is how many certificates are revoked without --yes.
const needYes = 10

// byRef revokes certificates one by one.
func (f *revokeFlags) byRef(ctx context.Context, e env, cl *client.Client, refs []string) error {
	ids := make([]string, len(refs))
	for i, ref := range refs {
		var err error
		if ids[i], err = resolve(ctx, cl, ref); err != nil {
			return err
		}
	}
	if f.dryRun {
		return would(e, "revoke %d certificates (reason %s): %s", len(ids), f.reason, strings.Join(refs, " "))
	}
	if len(ids) > needYes && !f.yes {
		return usagef("this revokes %d certificates; add --yes if that is meant", len(ids))
	}
	p, err := f.out.printer(e)
	if err != nil {
		return err
	}
	done := []api.Certificate{}
	var failed error
	for i, id := range ids {
		v, err := client.Post[api.Certificate](ctx, cl, "/certs/"+client.ID(id)+"/revoke", map[string]any{"reason": f.reason, "block_key": f.blockKey})
		if err != nil {
			failed = err
			fmt.Fprintf(e.stderr, "%s: %s\n", refs[i], fault.As(err).Detail)
			continue
		}
		done = append(done, v)
	}
	if failed != nil && len(done) == 0 {
		return failed
	}
	rows := make([][]string, len(done))
	for i := range done {
		rows[i] = certRow(&done[i])
	}
	if err := p.list(certColumns, rows, done); err != nil || failed == nil {
		return err
	}
	return &exitError{code: exitPartial, err: fmt.Errorf("%d of %d were revoked", len(done), len(ids))}
}

// byQuery plans, shows the plan, and revokes exactly what was planned.
func (f *revokeFlags) byQuery(ctx context.Context, e env, cl *client.Client) error {
	if f.blockKey {
		return usagef("--block-key goes with named certificates only")
	}
	p, err := f.out.printer(e)
	if err != nil {
		return err
	}
	body := map[string]any{"q": f.query, "reason": f.reason, "dry_run": true}
	plan, err := client.Post[api.Revocation](ctx, cl, "/certs/revoke", body)
	if err != nil {
		return err
	}
	if f.dryRun || plan.Matched > needYes && !f.yes || plan.Matched == 0 {
		if err := printPlan(p, plan); err != nil || f.dryRun || plan.Matched == 0 {
			return err
		}
		return &exitError{code: exitUsage, err: fmt.Errorf("this revokes %d certificates; add --yes if that is meant", plan.Matched)}
	}
	body["dry_run"], body["confirm"], body["plan"] = false, true, plan.Plan
	done, err := client.Post[api.Revocation](ctx, cl, "/certs/revoke", body)
	if err != nil {
		return err
	}
	err = p.fields([]field{{"revoked", fmt.Sprint(done.Revoked)}, {"already", fmt.Sprint(done.Already)}, {"left", fmt.Sprint(done.Left)}}, done)
	if err != nil || done.Left == 0 {
		return err
	}
	for _, one := range done.Failed {
		fmt.Fprintf(e.stderr, "%s: %s\n", one.ID, one.Detail)
	}
	return &exitError{code: exitPartial, err: fmt.Errorf("%d of %d are left; run the same command again", done.Left, done.Matched)}
}

// printPlan shows what a revocation by query would do.
func printPlan(p *printer, plan api.Revocation) error {
	rows := make([][]string, len(plan.Sample))
	for i := range plan.Sample {
		rows[i] = certRow(&plan.Sample[i])
	}
	if err := p.list(certColumns, rows, plan); err != nil || p.format == outJSON || p.format == outYAML {
		return err
	}
	_, err := fmt.Fprintf(p.w, "would revoke %d certificates; these are %d of them\n", plan.Matched, len(plan.Sample))
	return err
}
