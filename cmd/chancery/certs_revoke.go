package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/fault"
)

// revokeFlags are the flags of `certs revoke`.
type revokeFlags struct {
	query, file, reason       string
	incident, explanation, at string
	blockKey, dryRun, yes     bool
	out                       outFlags
}

func certsRevoke(c *conn) *cobra.Command {
	var f revokeFlags
	cmd := &cobra.Command{Use: "revoke REF... | --file FILE | --query QUERY", Short: "Revoke certificates, for ever", Args: cobra.ArbitraryArgs,
		Long: `Revoke certificates: those named, or all issued ones that fit a query. More than
10 need --yes; --dry-run shows the plan. What others revoked meanwhile counts
as done. Exit code 4 means that some are left; the same command again takes
them up.

With --incident the work is done by the server, for any number of certificates:
their renewal windows (ARI) move to the past at once and point to --explanation,
so that clients renew; what is left at --at is revoked. "chancery certs
incidents watch" shows how far it is.`,
		Example: "  chancery certs revoke www.example.com --reason superseded\n  chancery certs revoke --query '*.pay.example.com' --reason keyCompromise --dry-run\n  chancery certs revoke --query 'ca:old issued:<2026-01-01' --reason cessationOfOperation --yes\n  chancery certs revoke --incident 'bad profile' --query 'profile:old issued:>2026-01-01' --reason superseded --at 5d --explanation https://pki.example.com/incidents/7 --yes\n  chancery certs revoke --incident 'leaked keys' --file serials.txt --reason keyCompromise --block-key --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			refs, err := f.refs(c.e, args)
			if err != nil {
				return err
			}
			cl, err := c.client(cmd.Context())
			if err != nil {
				return err
			}
			if f.incident != "" {
				return f.asIncident(cmd.Context(), c.e, cl, args, refs)
			}
			if f.query != "" {
				return f.byQuery(cmd.Context(), c.e, cl)
			}
			return f.byRef(cmd.Context(), c.e, cl, refs)
		}}
	fl := cmd.Flags()
	fl.StringVar(&f.query, "query", "", "revoke all issued certificates that fit this `QUERY`")
	fl.StringVar(&f.file, "file", "", "revoke the certificates in this `file`, an id or serial number per line; - is standard input")
	fl.StringVar(&f.incident, "incident", "", "make it an incident with this `name`")
	fl.StringVar(&f.explanation, "explanation", "", "`URL` that tells subscribers why, with --incident")
	fl.StringVar(&f.at, "at", "", "`when` to revoke, with --incident: an RFC 3339 instant, or a period from now such as 5d (default: at once)")
	fl.StringVar(&f.reason, "reason", "unspecified", "`reason`: unspecified, keyCompromise, affiliationChanged, superseded, cessationOfOperation, privilegeWithdrawn, or its number")
	fl.BoolVar(&f.blockKey, "block-key", false, "also refuse their keys for ever (with keyCompromise; not with --query, unless it is an incident)")
	fl.BoolVar(&f.yes, "yes", false, "revoke more than 10")
	dryRun(cmd, &f.dryRun)
	f.out.add(cmd)
	return cmd
}

// needYes is how many certificates are revoked without --yes.
const needYes = 10

// refs checks which certificates are meant and returns those that are named,
// by arguments or in a file.
func (f *revokeFlags) refs(e env, args []string) ([]string, error) {
	ways := 0
	for _, used := range []bool{f.query != "", f.file != "", len(args) > 0} {
		if used {
			ways++
		}
	}
	if ways != 1 {
		return nil, usagef("name certificates, or --file, or --query: one of them")
	}
	if f.incident == "" && (f.explanation != "" || f.at != "") {
		return nil, usagef("--explanation and --at go with --incident")
	}
	if f.file == "" {
		return args, nil
	}
	in := e.stdin
	if f.file != "-" {
		file, err := os.Open(f.file)
		if err != nil {
			return nil, fmt.Errorf("read list of certificates: %w", err)
		}
		defer file.Close()
		in = file
	}
	var refs []string
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if ref := strings.TrimSpace(lines.Text()); ref != "" && ref[0] != '#' {
			refs = append(refs, ref)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read list of certificates: %w", err)
	}
	if len(refs) == 0 {
		return nil, usagef("%s names no certificate", f.file)
	}
	return refs, nil
}

// asIncident plans, shows the plan, and makes an incident of exactly what was
// planned. Arguments may be names; the lines of a file are for the server.
func (f *revokeFlags) asIncident(ctx context.Context, e env, cl *client.Client, args, refs []string) error {
	p, err := f.out.printer(e)
	if err != nil {
		return err
	}
	for i := range args {
		if refs[i], err = resolve(ctx, cl, args[i]); err != nil {
			return err
		}
	}
	ask := api.IncidentRequest{Name: f.incident, ExplanationURL: f.explanation, Query: f.query, Certificates: refs, Reason: f.reason,
		BlockKeys: f.blockKey, RevokeAt: f.at, DryRun: true}
	plan, err := client.Post[api.IncidentPlan](ctx, cl, "/incidents", ask)
	if err != nil {
		return err
	}
	if many := plan.Matched > needYes || !plan.Whole; f.dryRun || many && !f.yes || plan.Matched == 0 {
		if err := f.printIncidentPlan(p, plan); err != nil || f.dryRun || plan.Matched == 0 {
			return err
		}
		return &exitError{code: exitUsage, err: fmt.Errorf("this revokes %d certificates; add --yes if that is meant", plan.Matched)}
	}
	ask.DryRun, ask.Confirm, ask.Plan = false, true, plan.Plan
	done, err := postTwice[api.IncidentPlan](ctx, cl, "/incidents", ask)
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stderr, "chancery: chancery certs incidents watch %s shows how far it is\n", done.Incident.ID)
	return p.fields(incidentFields(done.Incident), done.Incident)
}

// postTwice sends a request with an Idempotency-Key, and once more when no
// answer came.
func postTwice[T any](ctx context.Context, cl *client.Client, path string, in any) (T, error) {
	key := rand.Text()
	v, err := client.PostOnce[T](ctx, cl, path, key, in)
	if fault.Is(err, fault.Unavailable) && ctx.Err() == nil {
		return client.PostOnce[T](ctx, cl, path, key, in)
	}
	return v, err
}

// printIncidentPlan shows what an incident would do.
func (f *revokeFlags) printIncidentPlan(p *printer, plan api.IncidentPlan) error {
	atLeast := ""
	if !plan.Whole {
		atLeast = "at least "
	}
	return printSample(p, plan.Sample, plan, fmt.Sprintf("would renew early and revoke %s%d certificates", atLeast, plan.Matched))
}

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
	return &exitError{code: exitPartial, err: fmt.Errorf("%d of %d are left (%s); run the same command again", done.Left, done.Matched, done.Problem)}
}

// printPlan shows what a revocation by query would do.
func printPlan(p *printer, plan api.Revocation) error {
	return printSample(p, plan.Sample, plan, fmt.Sprintf("would revoke %d certificates", plan.Matched))
}

// printSample shows some certificates of a plan and what it would do, or the
// whole plan where the format is a structured one.
func printSample(p *printer, sample []api.Certificate, plan any, text string) error {
	rows := make([][]string, len(sample))
	for i := range sample {
		rows[i] = certRow(&sample[i])
	}
	if err := p.list(certColumns, rows, plan); err != nil || p.format == outJSON || p.format == outYAML {
		return err
	}
	_, err := fmt.Fprintf(p.w, "%s; these are %d of them\n", text, len(sample))
	return err
}
