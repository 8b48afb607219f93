package main

import (
	"context"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/db"
	"chancery/internal/fault"
)

// queryHelp is the query language, for help texts.
const queryHelp = `A QUERY is a list of terms, all of which must fit:

  www.example.com   *.example.com   name:NAME   serial:HEX
  status:issued|revoked|expired|intent|abandoned
  ca:NAME   profile:NAME   key:p256   account:ID   order:ID
  expires:<14d   expires:>90d   expires:<2027-01-31   issued:<7d`

// newCerts is `chancery certs`.
func newCerts(e env) *cobra.Command {
	cmd := group("certs", "List, show, download, export, explain and revoke certificates",
		"Work with certificates.\n\n"+queryHelp+"\n\nA REF is an id, a serial number, or a name that one issued certificate has.")
	c := connect(e, cmd)
	cmd.AddCommand(certsList(c), certsShow(c), certsGet(c), certsExport(c), certsExplain(c), certsRevoke(c))
	return cmd
}

// certColumns are what a list of certificates shows.
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

func certsList(c *conn) *cobra.Command {
	l := listing[api.Certificate]{
		cmd: &cobra.Command{Use: "list [QUERY...]", Short: "List certificates", Long: "List certificates: by name when a name is asked, by end when expires: is, newest first otherwise.\n\n" + queryHelp,
			Example: "  chancery certs list 'expires:<14d' --limit 0\n  chancery certs list '*.pay.example.com' status:issued -o wide\n  chancery certs list ca:default --watch", Args: cobra.ArbitraryArgs},
		path: "/certs", query: queryOf, columns: certColumns, row: certRow,
	}
	return l.command(c)
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
	found, more, err := client.List[api.Certificate](ctx, c, "/certs", url.Values{"q": {query}}, 20)
	if err != nil {
		return "", err
	}
	switch {
	case len(found) == 1 && !more:
		return found[0].ID, nil
	case len(found) == 0:
		return "", &exitError{code: exitFailed, err: fmt.Errorf("no certificate fits %q", query), next: "chancery certs list " + shellQuote(ref)}
	}
	var serials []string
	for _, f := range found {
		serials = append(serials, f.Serial)
	}
	return "", &exitError{code: exitFailed, next: "chancery certs list " + shellQuote(ref),
		err: fmt.Errorf("%d issued certificates have the name %s; name one by its serial: %s", len(found), ref, strings.Join(serials, " "))}
}

func certsShow(c *conn) *cobra.Command {
	var out outFlags
	cmd := &cobra.Command{Use: "show REF", Short: "Show everything about one certificate", Args: exactArgs("REF"),
		Example: "  chancery certs show www.example.com\n  chancery certs show 4f0a... --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := out.printer(c.e)
			if err != nil {
				return err
			}
			v, err := certByRef(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			return p.fields(certFields(v), v)
		}}
	out.add(cmd)
	return cmd
}

func certByRef(ctx context.Context, c *conn, ref string) (v api.CertificateDetail, err error) {
	cl, err := c.client(ctx)
	if err != nil {
		return v, err
	}
	id, err := resolve(ctx, cl, ref)
	if err != nil {
		return v, err
	}
	return client.Get[api.CertificateDetail](ctx, cl, "/certs/"+client.ID(id), nil)
}

func certFields(v api.CertificateDetail) []field {
	fs := []field{{"names", joined(v.Names)}, {"status", string(v.Status)}, {"serial", v.Serial}, {"id", v.ID}, {"ca", v.CA}, {"profile", v.Profile},
		{"key_type", v.KeyType}, {"subject", v.Subject}, {"issuer", v.Issuer}, {"not_before", when(v.NotBefore)}, {"not_after", when(v.NotAfter)},
		{"issued_at", orNone(v.IssuedAt)}, {"revoked_at", orNone(v.RevokedAt)}, {"reason", v.RevokedReason}, {"revoked_by", v.RevokedBy},
		{"sha256", v.Fingerprint}, {"ari", v.ARI}, {"account", v.Account}, {"order", v.Order}}
	for _, e := range v.Evidence {
		fs = append(fs, field{"evidence", fmt.Sprintf("%s %s %s %s", e.Name, e.Method, when(e.ValidatedAt), e.Reference)})
	}
	for _, e := range v.Events {
		fs = append(fs, field{"event", fmt.Sprintf("%s %s by %s", when(e.At), e.Kind, e.Actor)})
	}
	return fs
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

func certsGet(c *conn) *cobra.Command {
	var to outFile
	var format string
	cmd := &cobra.Command{Use: "get REF", Short: "Download a certificate, in PEM or DER", Args: exactArgs("REF"),
		Example: "  chancery certs get www.example.com > fullchain.pem\n  chancery certs get 4f0a... --format der --out www.cer",
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains([]string{"chain", "pem", "der"}, format) {
				return usagef("--format %s is none of chain, pem, der", format)
			}
			cl, err := c.client(cmd.Context())
			if err != nil {
				return err
			}
			id, err := resolve(cmd.Context(), cl, args[0])
			if err != nil {
				return err
			}
			var text []byte
			if err := cl.Do(cmd.Context(), http.MethodGet, "/certs/"+client.ID(id)+"/download", url.Values{"format": {format}}, nil, &text); err != nil {
				return err
			}
			return to.write(c.e, func(w io.Writer) error { _, err := w.Write(text); return err })
		}}
	cmd.Flags().StringVar(&format, "format", "chain", "`form`: chain (PEM with intermediates), pem (the certificate alone), der")
	to.add(cmd)
	return cmd
}

func certsExport(c *conn) *cobra.Command {
	var to outFile
	var format string
	cmd := &cobra.Command{Use: "export [QUERY...]", Short: "Write all certificates that fit as CSV or JSON lines", Args: cobra.ArbitraryArgs,
		Long:    "Write all certificates that fit, page by page, so that any number can be exported.\n\n" + queryHelp,
		Example: "  chancery certs export status:issued --out issued.csv\n  chancery certs export 'expires:<30d' --format jsonl | jq -r .names[]",
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "csv" && format != "jsonl" {
				return usagef("--format %s is neither csv nor jsonl", format)
			}
			cl, err := c.client(cmd.Context())
			if err != nil {
				return err
			}
			return to.write(c.e, func(w io.Writer) error {
				return export(cmd.Context(), cl, queryOf(args), format, w)
			})
		}}
	cmd.Flags().StringVar(&format, "format", "csv", "`form`: csv or jsonl")
	to.add(cmd)
	return cmd
}

func export(ctx context.Context, cl *client.Client, query url.Values, format string, w io.Writer) error {
	table, lines := csv.NewWriter(w), json.NewEncoder(w)
	lines.SetEscapeHTML(false)
	if format == "csv" {
		names := make([]string, len(certColumns))
		for i, col := range certColumns {
			names[i] = col.name
		}
		if err := table.Write(names); err != nil {
			return err
		}
	}
	for page, err := range client.Pages[api.Certificate](ctx, cl, "/certs", query, 1000) {
		if err != nil {
			return err
		}
		for i := range page.Items {
			if format == "csv" {
				err = table.Write(certRow(&page.Items[i]))
			} else {
				err = lines.Encode(&page.Items[i])
			}
			if err != nil {
				return err
			}
		}
	}
	table.Flush()
	return table.Error()
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
