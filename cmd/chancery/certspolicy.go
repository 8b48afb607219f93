package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
)

// certsPolicy is `chancery certs policy`.
func certsPolicy(c *conn) *cobra.Command {
	l := listing[api.Policy]{cmd: &cobra.Command{Use: "list", Short: "List policies"}, path: "/policies",
		columns: []column{{name: "name"}, {name: "mode"}, {name: "severity"}, {name: "q"}, {name: "note"}, {name: "updated_by", wide: true}, {name: "updated_at", wide: true}},
		row: func(p *api.Policy) []string {
			return []string{p.Name, p.Mode, p.Severity, p.Query, p.Note, p.UpdatedBy, when(p.UpdatedAt)}
		}}
	return group("policy", "Say what certificates must not be; try it on the fleet",
		"Policies say what certificates must not be: whatever the query of one finds violates it.\nIn the mode shadow a policy only reports. In the mode enforce our own authorities refuse\nwhat would violate it. `check` shows what a policy finds in the whole inventory before it\nis stored, and afterwards.",
		l.command(c), policySet(c), policyCheck(c), policyDelete(c))
}

func policySet(c *conn) *cobra.Command {
	var spec api.PolicySpec
	var dry bool
	var out outFlags
	cmd := &cobra.Command{Use: "set NAME QUERY...", Short: "Make a policy, or change the one of this name", Args: cobra.MinimumNArgs(2),
		Long:    "Make a policy, or change the one of this name. A query without a status means active\ncertificates. With --dry-run it is tried on the whole inventory, and not stored.\n\n" + queryHelp,
		Example: "  chancery certs policy set no-weak-keys key:weak --severity critical --dry-run\n  chancery certs policy set short-lives 'expires:>200d' --mode enforce --note 'ask for less than 200 days'\n  chancery certs policy set owned owner:none env:prod",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			spec.Query = strings.Join(args[1:], " ")
			if dry {
				return checkPolicy(cmd, p, cl, spec.Query)
			}
			var made api.Policy
			if err := cl.Do(cmd.Context(), http.MethodPut, "/policies/"+client.ID(args[0]), nil, spec, &made); err != nil {
				return err
			}
			return p.fields([]field{{"name", made.Name}, {"q", made.Query}, {"mode", made.Mode}, {"severity", made.Severity}, {"note", made.Note}}, made)
		}}
	f := cmd.Flags()
	f.StringVar(&spec.Mode, "mode", "shadow", "shadow, or enforce: our own authorities refuse what would violate it")
	f.StringVar(&spec.Severity, "severity", "warning", "info, warning or critical")
	f.StringVar(&spec.Note, "note", "", "`words` for those who are refused")
	f.BoolVar(&dry, "dry-run", false, "say what it would find in the whole inventory, and store nothing")
	out.add(cmd)
	return cmd
}

func policyCheck(c *conn) *cobra.Command {
	var out outFlags
	cmd := &cobra.Command{Use: "check NAME | check QUERY...", Short: "Show what a policy, or a query, finds in the whole inventory", Args: cobra.MinimumNArgs(1),
		Long:    "Show what a policy, or a query that could become one, finds in the whole inventory. The\nexit code is 3 when it finds something.",
		Example: "  chancery certs policy check no-weak-keys\n  chancery certs policy check key:weak env:prod",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			query := strings.Join(args, " ")
			if len(args) == 1 && !strings.ContainsAny(query, ":.") {
				stored, err := client.Get[api.Policy](cmd.Context(), cl, "/policies/"+client.ID(query), nil)
				if err != nil {
					return err
				}
				query = stored.Query
			}
			return checkPolicy(cmd, p, cl, query)
		}}
	out.add(cmd)
	return cmd
}

// checkPolicy prints what a query finds.
func checkPolicy(cmd *cobra.Command, p *printer, cl *client.Client, query string) error {
	r, err := client.Get[api.PolicyReport](cmd.Context(), cl, "/inventory/violations", url.Values{"q": {query}})
	if err != nil {
		return err
	}
	number := func(c api.Count) string {
		if c.Exact {
			return strconv.FormatInt(c.Count, 10)
		}
		return "at least " + strconv.FormatInt(c.Count, 10)
	}
	fields := []field{{"q", r.Query}, {"violations", number(r.Violations)}, {"active", number(r.Active)}}
	for _, f := range []api.Facet{r.ByOwner, r.ByIssuer} {
		for _, v := range f.Values[:min(len(f.Values), 5)] {
			fields = append(fields, field{f.By, fmt.Sprintf("%s %d", v.Value, v.Count)})
		}
	}
	for i := range r.Sample {
		k := &r.Sample[i]
		fields = append(fields, field{"violation", fmt.Sprintf("%s %s %s %s", knownNames(k), k.KeyType, when(k.NotAfter), k.ID)})
	}
	if err := p.fields(fields, r); err != nil || r.Violations.Count == 0 {
		return err
	}
	return problems("chancery certs list "+shellQuote(r.Query), "%s certificates violate it", number(r.Violations))
}

func policyDelete(c *conn) *cobra.Command {
	return deletion{at: "/policies/", would: "delete the policy %s",
		cmd: &cobra.Command{Use: "delete NAME", Short: "Delete a policy", Args: exactArgs("NAME")}}.command(c)
}
