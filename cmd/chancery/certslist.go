package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/db"
)

// queryHelp is the query language of the inventory, for help texts.
const queryHelp = `A QUERY is a list of terms, all of which must fit; a key that is given again
adds an alternative:

  owner:pay   team:NAME   env:prod   tag:app=shop   (none: nobody's)
  name:www.example.com   name:*.example.com   example.com (with all below)
  key:rsa-2048|weak|classical|post-quantum   issuer:NAME   serial:HEX   fingerprint:HEX   spki:HEX
  status:active|superseded|issued|expired|revoked|retired|any
  source:ca|import|scan|ct|cloud|agent|renew   managed:yes   ca:no
  expires:<14d   expires:>90d   expires:<2027-01-31   seen:<7d   seen:>30d
  endpoint:www.example.com:443   and other words, looked for in the names`

// knownColumns are what a list of certificates shows.
var knownColumns = []column{{name: "names"}, {name: "status"}, {name: "not_after"}, {name: "owner"}, {name: "issuer"}, {name: "key_type"},
	{name: "id", wide: true}, {name: "serial", wide: true}, {name: "fingerprint", wide: true}, {name: "team", wide: true}, {name: "environment", wide: true},
	{name: "source", wide: true}, {name: "not_before", wide: true}, {name: "last_seen_at", wide: true}, {name: "revoked_at", wide: true}, {name: "successor", wide: true}}

func knownRow(c *api.Known) []string {
	return []string{knownNames(c), c.Status, when(c.NotAfter), c.Owner, c.Issuer, c.KeyType, c.ID, c.Serial, c.Fingerprint, c.Team, c.Environment,
		strings.Join(c.Source, "+"), when(c.NotBefore), when(c.LastSeenAt), orNone(c.RevokedAt), c.Successor}
}

// knownNames is what people call a certificate: its names, or its subject when
// it has none.
func knownNames(c *api.Known) string {
	if len(c.Names) == 0 {
		return c.CommonName
	}
	text := joined(c.Names)
	if more := c.NameCount - len(c.Names); more > 0 {
		text += fmt.Sprintf(" +%d", more)
	}
	return text
}

func certsList(c *conn) *cobra.Command {
	var order string
	l := listing[api.Known]{
		cmd: &cobra.Command{Use: "list [QUERY...]", Short: "List certificates", Long: "List certificates, those that end first at the top.\n\n" + queryHelp,
			Example: "  chancery certs list 'expires:<14d' --limit 0\n  chancery certs list owner:pay key:rsa-2048 'name:*.pay.example.com' -o wide\n  chancery certs list --sort=-added --watch", Args: cobra.ArbitraryArgs},
		path: "/certs", columns: knownColumns, row: knownRow,
		query: func(args []string) url.Values {
			q := queryOf(args)
			if order != "" {
				if q == nil {
					q = url.Values{}
				}
				q.Set("sort", order)
			}
			return q
		},
	}
	l.cmd.Flags().StringVar(&order, "sort", "", "`order`: expires, seen, added; with - in front the other way round; or name")
	return l.command(c)
}

func certsIssued(c *conn) *cobra.Command {
	l := listing[api.Certificate]{
		cmd: &cobra.Command{Use: "issued [QUERY...]", Short: "List serial numbers in the books of our authorities", Args: cobra.ArbitraryArgs,
			Long:    "List what our own authorities signed, or meant to sign: profile, ACME account and order of each serial number. By name when a name is asked, by end when expires: is, newest first otherwise.\n\n" + issuedHelp,
			Example: "  chancery certs issued ca:default 'issued:<7d'\n  chancery certs issued status:intent"},
		path: "/issued", query: queryOf, columns: certColumns, row: certRow,
	}
	return l.command(c)
}

// locate returns what the API takes for the certificate that ref means.
func locate(ctx context.Context, c *client.Client, ref string) (string, error) {
	bare := strings.ReplaceAll(ref, ":", "")
	_, err := hex.DecodeString(bare)
	if db.ValidID(ref) || err == nil && len(bare) == 64 {
		return ref, nil
	}
	query := "name:" + ref + " status:issued"
	if err == nil && len(bare) >= 16 {
		query = "status:any serial:" + bare
	}
	found, more, err := client.List[api.Known](ctx, c, "/certs", url.Values{"q": {query}}, 20)
	if err != nil {
		return "", err
	}
	switch {
	case len(found) == 1 && !more:
		return found[0].ID, nil
	case len(found) == 0:
		// What was issued a moment ago is in the authority's books already.
		if id, err := resolve(ctx, c, ref); err == nil {
			return id, nil
		}
		return "", &exitError{code: exitFailed, err: fmt.Errorf("no certificate fits %q", query), next: "chancery certs list " + shellQuote(ref)}
	}
	var active []string
	for _, f := range found {
		if f.Status == "active" {
			active = append(active, f.ID)
		}
	}
	if len(active) == 1 {
		return active[0], nil // the others are superseded by it
	}
	var serials []string
	for _, f := range found {
		serials = append(serials, f.Serial)
	}
	return "", &exitError{code: exitFailed, next: "chancery certs list " + shellQuote(ref),
		err: fmt.Errorf("%d certificates have the name %s; name one by its serial: %s", len(found), ref, strings.Join(serials, " "))}
}

func certsShow(c *conn) *cobra.Command {
	var out outFlags
	cmd := &cobra.Command{Use: "show REF", Short: "Show everything about one certificate", Args: exactArgs("REF"),
		Example: "  chancery certs show www.example.com\n  chancery certs show 4f0a... --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			id, err := locate(cmd.Context(), cl, args[0])
			if err != nil {
				return err
			}
			v, err := client.Get[api.KnownDetail](cmd.Context(), cl, "/certs/"+client.ID(id), nil)
			if err != nil {
				return err
			}
			return p.fields(knownFields(&v), v)
		}}
	out.add(cmd)
	return cmd
}

func knownFields(v *api.KnownDetail) []field {
	fs := []field{{"names", joined(v.AllNames)}, {"status", v.Status}, {"serial", v.Serial}, {"id", v.ID}, {"subject", v.Subject}, {"issuer", v.Issuer},
		{"key_type", v.KeyType}, {"signature", v.Signature}, {"not_before", when(v.NotBefore)}, {"not_after", when(v.NotAfter)}, {"owner", v.Owner},
		{"team", v.Team}, {"environment", v.Environment}, {"tags", strings.Join(v.Tags, " ")}, {"source", strings.Join(v.Source, " ")},
		{"first_seen_at", when(v.FirstSeenAt)}, {"last_seen_at", when(v.LastSeenAt)}, {"revoked_at", orNone(v.RevokedAt)}, {"retired_at", orNone(v.RetiredAt)},
		{"sha256", v.Fingerprint}, {"ari", v.ARI}, {"successor", v.Successor}, {"predecessors", strings.Join(v.Predecessors, " ")}}
	for i := range v.Endpoints {
		e := &v.Endpoints[i]
		fs = append(fs, field{"served", strings.TrimSpace(fmt.Sprintf("%s last seen %s %s %s", endpointName(e), orNone(e.LastSeenAt), e.Failure, strings.Join(e.Problems, " ")))})
	}
	if i := v.Issuance; i != nil {
		fs = append(fs, field{"ca", i.CA}, field{"profile", i.Profile}, field{"issued_at", orNone(i.IssuedAt)}, field{"reason", i.RevokedReason},
			field{"revoked_by", i.RevokedBy}, field{"account", i.Account}, field{"order", i.Order}, field{"incident", i.Incident})
		for _, e := range i.Evidence {
			fs = append(fs, field{"evidence", fmt.Sprintf("%s %s %s %s", e.Name, e.Method, when(e.ValidatedAt), e.Reference)})
		}
		for _, e := range i.Events {
			text := fmt.Sprintf("%s %s by %s", when(e.At), e.Kind, e.Actor)
			if strings.HasPrefix(e.Subject, "incident:") {
				text += " (" + e.Subject + ")"
			}
			fs = append(fs, field{"event", text})
		}
		for _, f := range i.Findings {
			fs = append(fs, field{"finding", fmt.Sprintf("%s: %s", f.Finding, f.Problem)})
		}
	}
	return fs
}

// endpointName is a place as people write it.
func endpointName(e *api.Endpoint) string {
	host := e.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	name := host + ":" + strconv.Itoa(e.Port)
	if e.SNI != "" && e.SNI != e.Host {
		name += "/" + e.SNI
	}
	return name
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
			id, err := locate(cmd.Context(), cl, args[0])
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

func certsFacets(c *conn) *cobra.Command {
	var out outFlags
	var by []string
	cmd := &cobra.Command{Use: "facets [QUERY...]", Short: "Count certificates by owner, issuer, key and so on", Args: cobra.ArbitraryArgs,
		Example: "  chancery certs facets --by owner,key 'expires:<14d'",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			q := withQuery(args)
			if len(by) > 0 {
				q.Set("by", strings.Join(by, ","))
			}
			found, err := client.Get[api.Facets](cmd.Context(), cl, "/inventory/facets", q)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, f := range found.Facets {
				for _, v := range f.Values {
					rows = append(rows, []string{f.By, v.Value, strconv.FormatInt(v.Count, 10), map[bool]string{true: "", false: "at least"}[f.Exact]})
				}
			}
			return p.list([]column{{name: "by"}, {name: "value"}, {name: "count"}, {name: "note"}}, rows, found)
		}}
	cmd.Flags().StringSliceVar(&by, "by", nil, "`dimensions`: status, issuer, key, owner, team, env, source, managed (default: all)")
	out.add(cmd)
	return cmd
}

// withQuery is queryOf with room for more parameters.
func withQuery(args []string) url.Values {
	if q := queryOf(args); q != nil {
		return q
	}
	return url.Values{}
}

func certsTimeline(c *conn) *cobra.Command {
	var out outFlags
	var by, from string
	var days int
	cmd := &cobra.Command{Use: "timeline [QUERY...]", Short: "Count certificates by the day on which they end", Args: cobra.ArbitraryArgs,
		Example: "  chancery certs timeline --days 90 --by owner env:prod",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			q := withQuery(args)
			q.Set("by", by)
			q.Set("days", strconv.Itoa(days))
			if from != "" {
				q.Set("from", from)
			}
			found, err := client.Get[api.Timeline](cmd.Context(), cl, "/inventory/timeline", q)
			if err != nil {
				return err
			}
			rows := make([][]string, len(found.Buckets))
			for i, b := range found.Buckets {
				rows[i] = []string{b.Day, b.Value, strconv.FormatInt(b.Count, 10)}
			}
			return p.list([]column{{name: "day"}, {name: by}, {name: "count"}}, rows, found)
		}}
	cmd.Flags().StringVar(&by, "by", "issuer", "`dimension`: status, issuer, key, owner, team or env")
	cmd.Flags().StringVar(&from, "from", "", "first `day`, as 2026-12-01 (default: today)")
	cmd.Flags().IntVar(&days, "days", 182, "how many days")
	out.add(cmd)
	return cmd
}

func certsEndpoints(c *conn) *cobra.Command {
	var failing, drift bool
	var host string
	l := listing[api.Endpoint]{
		cmd: &cobra.Command{Use: "endpoints", Short: "List where certificates are served",
			Example: "  chancery certs endpoints --failing\n  chancery certs endpoints --host '*.pay.example.com' -o wide\n  chancery certs endpoints --drift --json"},
		path: "/endpoints",
		query: func([]string) url.Values {
			q := url.Values{}
			for name, on := range map[string]bool{"failing": failing, "drift": drift} {
				if on {
					q.Set(name, "true")
				}
			}
			if host != "" {
				q.Set("host", host)
			}
			return q
		},
		columns: []column{{name: "endpoint"}, {name: "state"}, {name: "last_seen_at"}, {name: "certificate"}, {name: "address", wide: true}, {name: "probe", wide: true},
			{name: "desired", wide: true}, {name: "failed_since", wide: true}, {name: "last_ok_at", wide: true}, {name: "changed_at", wide: true}},
		row: func(e *api.Endpoint) []string {
			return []string{endpointName(e), endpointState(e), orNone(e.LastSeenAt), e.Certificate, e.Address, e.Probe, e.Desired, orNone(e.FailedSince), orNone(e.LastOKAt), when(e.ChangedAt)}
		},
	}
	f := l.cmd.Flags()
	f.BoolVar(&failing, "failing", false, "only those whose last probe failed, the longest first")
	f.BoolVar(&drift, "drift", false, "only those that serve something else than they should")
	f.StringVar(&host, "host", "", "only this `name` or address; *.example.com: all hosts below example.com")
	return l.command(c)
}

// endpointState sums an endpoint up in a word or two.
func endpointState(e *api.Endpoint) string {
	var words []string
	if e.Failure != "" {
		words = append(words, e.Failure)
	}
	if e.Drift {
		words = append(words, "drift")
	}
	if words = append(words, e.Problems...); len(words) == 0 {
		return "ok"
	}
	return strings.Join(words, " ")
}

func certsViews(c *conn) *cobra.Command {
	cmd := group("views", "List, save and delete queries under a name", "Keep queries under a name, for everybody who uses this installation.")
	l := listing[api.View]{cmd: &cobra.Command{Use: "list", Short: "List saved queries"}, path: "/inventory/views",
		columns: []column{{name: "name"}, {name: "q"}, {name: "sort"}, {name: "id", wide: true}, {name: "created_by", wide: true}, {name: "updated_at", wide: true}},
		row: func(v *api.View) []string {
			return []string{v.Name, v.Query, v.Sort, v.ID, v.CreatedBy, when(v.UpdatedAt)}
		}}
	var order string
	save := &cobra.Command{Use: "save NAME QUERY...", Short: "Save a query, or replace the one of that name", Args: cobra.MinimumNArgs(2),
		Example: "  chancery certs views save soon owner:pay 'expires:<14d'",
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client(cmd.Context())
			if err != nil {
				return err
			}
			body := api.ViewSpec{Name: args[0], Query: strings.Join(args[1:], " "), Sort: order}
			id, err := viewID(cmd.Context(), cl, args[0])
			if err != nil {
				return err
			}
			if id == "" {
				_, err = client.Post[api.View](cmd.Context(), cl, "/inventory/views", body)
				return err
			}
			return cl.Do(cmd.Context(), http.MethodPut, "/inventory/views/"+client.ID(id), nil, body, nil)
		}}
	save.Flags().StringVar(&order, "sort", "", "`order` of the list")
	remove := &cobra.Command{Use: "delete NAME", Short: "Forget a saved query", Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client(cmd.Context())
			if err != nil {
				return err
			}
			id, err := viewID(cmd.Context(), cl, args[0])
			if err != nil {
				return err
			}
			if id == "" {
				return fmt.Errorf("there is no view named %s", args[0])
			}
			return cl.Do(cmd.Context(), http.MethodDelete, "/inventory/views/"+client.ID(id), nil, nil, nil)
		}}
	cmd.AddCommand(l.command(c), save, remove)
	return cmd
}

// viewID returns the id of the view with a name, or "".
func viewID(ctx context.Context, cl *client.Client, name string) (string, error) {
	all, _, err := client.List[api.View](ctx, cl, "/inventory/views", nil, 0)
	for _, v := range all {
		if v.Name == name {
			return v.ID, nil
		}
	}
	return "", err
}

// stampKey is a key for one request that is safe to repeat.
func stampKey() string { return "cli-" + db.NewID(time.Now()) }
