package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
)

// newRenew is `chancery renew`.
func newRenew(e env) *cobra.Command {
	cmd := group("renew", "Keep certificates alive: list, adopt, renew, pause, plan, drill",
		"Managed certificates: those that the renewal engine obtains, deploys and renews\nby itself, from the issuers of the configuration. `chancery order` makes one. A\nNAME is a managed certificate's name or id, or the id of its certificate.")
	c := connect(e, cmd)
	cmd.AddCommand(renewList(c), renewShow(c), renewAdopt(c), renewNow(c),
		renewAct(c, "pause", "pause", "Do nothing about a certificate until it is resumed"), renewAct(c, "resume", "resume", "End a pause"),
		renewRemove(c), renewPlan(c), renewDrill(c), renewDrift(c), renewDeployments(c), renewBatches(c))
	return cmd
}

var managedColumns = []column{{name: "name"}, {name: "state"}, {name: "names"}, {name: "issuer"}, {name: "not_after"}, {name: "renew_at"}, {name: "error"},
	{name: "id", wide: true}, {name: "owner", wide: true}, {name: "certificate", wide: true}, {name: "attempts", wide: true}}

func managedRow(m *api.Managed) []string {
	state := m.State
	if m.Paused {
		state += ", paused"
	}
	return []string{m.Name, state, joined(m.Names), m.Issuer, orNone(m.NotAfter), orNone(m.RenewAt), m.ErrorClass, m.ID, m.Owner, m.Certificate, strconv.Itoa(m.Attempts)}
}

func renewList(c *conn) *cobra.Command {
	var issuer string
	var trouble bool
	l := listing[api.Managed]{
		cmd:  &cobra.Command{Use: "list", Short: "List managed certificates", Example: "  chancery renew list --trouble\n  chancery renew list --issuer internal --limit 0 --json"},
		path: "/managed", columns: managedColumns, row: managedRow,
		query: func([]string) url.Values {
			q := url.Values{}
			if issuer != "" {
				q.Set("issuer", issuer)
			}
			if trouble {
				q.Set("trouble", "true")
			}
			return q
		},
	}
	cmd := l.command(c)
	cmd.Flags().StringVar(&issuer, "issuer", "", "only those that are wanted from this `issuer`")
	cmd.Flags().BoolVar(&trouble, "trouble", false, "only those whose last try failed")
	return cmd
}

func managedFields(m api.Managed) []field {
	fields := []field{{"name", m.Name}, {"id", m.ID}, {"state", m.State}}
	if m.Paused {
		fields = append(fields, field{"paused", "true"})
	}
	fields = append(fields, field{"names", joined(m.Names)}, field{"owner", m.Owner}, field{"issuer", m.Issuer}, field{"fallbacks", joined(m.Fallbacks)},
		field{"issued_by", m.IssuedBy}, field{"key_type", string(m.KeyType)}, field{"key_policy", m.KeyPolicy}, field{"profile", m.Profile},
		field{"certificate", m.Certificate}, field{"not_before", orNone(m.NotBefore)}, field{"not_after", orNone(m.NotAfter)},
		field{"renew_at", orNone(m.RenewAt)}, field{"window", window(m)}, field{"explanation", m.Explanation}, field{"endpoints", joined(m.Endpoints)})
	for _, p := range m.Placements {
		fields = append(fields, field{"target " + p.Target, placement(p)})
	}
	if m.Error != "" {
		fields = append(fields, field{"error", m.ErrorClass + ": " + m.Error}, field{"attempts", strconv.Itoa(m.Attempts)}, field{"failed_at", orNone(m.FailedAt)})
	}
	return fields
}

// window formats a renewal window.
func window(m api.Managed) string {
	if m.WindowStart == nil || m.WindowEnd == nil {
		return ""
	}
	return when(*m.WindowStart) + " to " + when(*m.WindowEnd)
}

// placement says in one line what a target serves.
func placement(p api.Placement) string {
	switch {
	case p.Live:
		return "serves it since " + when(p.UpdatedAt)
	case p.Error != "":
		return fmt.Sprintf("failed %d times, next try at %s: %s", p.Attempts, orNone(p.DueAt), p.Error)
	}
	return "will have it at " + orNone(p.DueAt)
}

func renewShow(c *conn) *cobra.Command {
	return showCommand(c, &cobra.Command{Use: "show NAME", Short: "Show one managed certificate", Example: "  chancery renew show www.example.com"}, "/managed/", managedFields)
}

// certsExplain is `chancery certs explain`.
func certsExplain(c *conn) *cobra.Command {
	var out outFlags
	cmd := &cobra.Command{Use: "explain NAME", Short: "Say why a managed certificate was or was not renewed and deployed", Args: exactArgs("NAME"),
		Example: "  chancery certs explain www.example.com",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			x, err := client.Get[api.Explanation](cmd.Context(), cl, "/managed/"+client.ID(args[0])+"/explain", nil)
			if err != nil {
				return err
			}
			fields := managedFields(x.Managed)
			for _, d := range x.Decisions {
				fields = append(fields, field{when(d.At), d.Rule + ": " + d.Detail})
			}
			return p.fields(fields, x)
		}}
	out.add(cmd)
	return cmd
}

// wishFlags say which certificate is wanted.
type wishFlags struct {
	name, owner, issuer, keyType, profile, before string
	fallbacks, targets, endpoints                 []string
	reuse                                         bool
}

func (w *wishFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&w.name, "name", "", "`name` of the managed certificate (default: its first DNS name)")
	f.StringVar(&w.owner, "owner", "", "whose it is")
	f.StringVar(&w.issuer, "issuer", "", "`issuer` of the configuration (default: the only one)")
	f.StringArrayVar(&w.fallbacks, "fallback", nil, "`issuer` to use while the other one is down; may be given several times")
	f.StringVar(&w.keyType, "key-type", "", "`type` of the key (default p256)")
	f.BoolVar(&w.reuse, "reuse-key", false, "keep the key when it is renewed")
	f.StringVar(&w.profile, "profile", "", "`profile` or product at the issuer")
	f.StringVar(&w.before, "renew-before", "", "renew so long before the end, such as 30d, if the issuer's own window is not earlier")
	f.StringArrayVar(&w.targets, "target", nil, "where to deploy it: `TARGET[,KEY=VALUE...]`; may be given several times")
	f.StringArrayVar(&w.endpoints, "endpoint", nil, "`HOST:PORT` that should serve it; may be given several times")
}

// body is the wish as the API takes it.
func (w *wishFlags) body(names []string) (map[string]any, error) {
	out := map[string]any{}
	for key, v := range map[string]string{"name": w.name, "owner": w.owner, "issuer": w.issuer, "key_type": w.keyType, "profile": w.profile, "renew_before": w.before} {
		if v != "" {
			out[key] = v
		}
	}
	for key, v := range map[string][]string{"names": names, "fallbacks": w.fallbacks, "endpoints": w.endpoints} {
		if len(v) > 0 {
			out[key] = v
		}
	}
	if w.reuse {
		out["key_policy"] = "reuse"
	}
	var targets []api.ManagedTarget
	for _, text := range w.targets {
		name, rest, _ := strings.Cut(text, ",")
		t := api.ManagedTarget{Name: name}
		for pair := range strings.SplitSeq(rest, ",") {
			if pair == "" {
				continue
			}
			k, v, ok := strings.Cut(pair, "=")
			if !ok || k == "" {
				return nil, usagef("--target %q is not TARGET,KEY=VALUE", text)
			}
			if t.Params == nil {
				t.Params = map[string]string{}
			}
			t.Params[k] = v
		}
		targets = append(targets, t)
	}
	if len(targets) > 0 {
		out["targets"] = targets
	}
	return out, nil
}

// newOrder is `chancery order`.
func newOrder(e env) *cobra.Command {
	var w wishFlags
	var wait time.Duration
	var dry bool
	var out outFlags
	cmd := &cobra.Command{Use: "order NAME...", Short: "Obtain a certificate for names, and keep it alive from then on",
		Long:    "Obtain a certificate for DNS names and IP addresses from an issuer of the\nconfiguration, deploy it, and renew it from then on. `chancery renew show NAME`\nsays how it is.",
		Example: "  chancery order www.example.com example.com --issuer letsencrypt --target edge\n  chancery order db.internal --issuer internal --endpoint db.internal:5432",
		Args:    cobra.MinimumNArgs(0)}
	c := connect(e, cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("NAME is missing")
		}
		body, err := w.body(args)
		if err != nil {
			return err
		}
		if dry {
			return would(e, "obtain a certificate for %s and keep it alive", strings.Join(args, ", "))
		}
		return c.wish(cmd.Context(), &out, "/managed", body, wait)
	}
	w.add(cmd)
	cmd.Flags().DurationVar(&wait, "wait", 2*time.Minute, "how long to wait until it is there; 0 = not at all")
	dryRun(cmd, &dry)
	out.add(cmd)
	return cmd
}

// wish makes a managed certificate, and waits until it is obtained or stopped.
func (c *conn) wish(ctx context.Context, out *outFlags, path string, body map[string]any, wait time.Duration) error {
	p, cl, err := c.open(ctx, out)
	if err != nil {
		return err
	}
	m, err := client.Post[api.Managed](ctx, cl, path, body)
	if err != nil {
		return err
	}
	for end := time.Now().Add(wait); wait > 0 && time.Now().Before(end) && (m.Certificate == "" || m.State == "issued" || m.State == "verified") && m.State != "stopped"; {
		t := time.NewTimer(100 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
		if m, err = client.Get[api.Managed](ctx, cl, "/managed/"+client.ID(m.ID), nil); err != nil {
			return err
		}
	}
	if err := p.fields(managedFields(m), m); err != nil {
		return err
	}
	switch {
	case m.State == "stopped":
		return problems("chancery certs explain "+m.Name, "the certificate was not obtained: %s", m.Error)
	case wait > 0 && m.Certificate == "":
		return &exitError{code: exitRetry, next: "chancery certs explain " + m.Name, err: fmt.Errorf("the certificate is not there yet; it is still being worked on")}
	}
	return nil
}

func renewAdopt(c *conn) *cobra.Command {
	var w wishFlags
	var dry bool
	var out outFlags
	cmd := &cobra.Command{Use: "adopt CERTIFICATE", Short: "Manage the successors of a certificate that the inventory knows", Args: exactArgs("CERTIFICATE"),
		Long:    "Manage the successors of a certificate of the inventory, by its id or SHA-256\nfingerprint. Names, owner and key type are taken over unless given. The next\ncertificate is ordered when the life of this one says so.",
		Example: "  chancery renew adopt 06d1... --issuer letsencrypt --target edge",
		RunE: func(cmd *cobra.Command, args []string) error {
			body, err := w.body(nil)
			if err != nil {
				return err
			}
			body["certificate"] = args[0]
			if dry {
				return would(c.e, "manage the successors of certificate %s", args[0])
			}
			return c.wish(cmd.Context(), &out, "/managed/adopt", body, 0)
		}}
	w.add(cmd)
	dryRun(cmd, &dry)
	out.add(cmd)
	return cmd
}

// renewNow is `chancery renew now`: for named certificates, or for many.
func renewNow(c *conn) *cobra.Command {
	cmd := renewAct(c, "now", "renew", "Renew at once, or repeat what failed; by name, or all that fit")
	var issuer, owner, ends string
	byName := cmd.RunE
	f := cmd.Flags()
	f.StringVar(&issuer, "issuer", "", "all whose certificate is from this `issuer`")
	f.StringVar(&owner, "owner", "", "all of this `owner`")
	f.StringVar(&ends, "ends", "", "all that end within this `period`, such as 14d")
	cmd.Example = "  chancery renew now www.example.com\n  chancery renew now --issuer old-ca --dry-run\n  chancery renew now --issuer old-ca --yes"
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		body := map[string]any{}
		for key, v := range map[string]string{"issuer": issuer, "owner": owner, "ends": ends} {
			if v != "" {
				body[key] = v
			}
		}
		if len(body) == 0 {
			return byName(cmd, args)
		}
		if len(args) > 0 {
			return usagef("give names, or say which all; not both")
		}
		cl, err := c.client(cmd.Context())
		if err != nil {
			return err
		}
		body["dry_run"] = true
		plan, err := client.Post[api.ManyRenewed](cmd.Context(), cl, "/managed/renew", body)
		if err != nil {
			return err
		}
		dry, yes := cmd.Flag("dry-run").Value.String() == "true", cmd.Flag("yes").Value.String() == "true"
		if dry {
			return would(c.e, "renew %d certificates at once", plan.Matched)
		}
		if plan.Matched > needYes && !yes {
			return usagef("this renews %d certificates at once; add --yes if that is meant", plan.Matched)
		}
		delete(body, "dry_run")
		done, err := client.Post[api.ManyRenewed](cmd.Context(), cl, "/managed/renew", body)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.e.stdout, "queued\t%d\n", done.Queued)
		return err
	}
	return cmd
}

// renewAct is a command that does one thing to managed certificates.
func renewAct(c *conn, use, verb, short string) *cobra.Command {
	var dry, yes bool
	cmd := &cobra.Command{Use: use + " NAME...", Short: short, Example: "  chancery renew " + use + " www.example.com",
		Args: cobra.MinimumNArgs(0)}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("NAME is missing")
		}
		if dry {
			return would(c.e, "%s %s", verb, strings.Join(args, ", "))
		}
		if len(args) > needYes && !yes {
			return usagef("this is about %d certificates; add --yes if that is meant", len(args))
		}
		cl, err := c.client(cmd.Context())
		if err != nil {
			return err
		}
		for _, name := range args {
			m, err := client.Post[api.Managed](cmd.Context(), cl, "/managed/"+client.ID(name)+"/"+verb, nil)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(c.e.stdout, "%s\t%s\n", m.Name, m.State); err != nil {
				return err
			}
		}
		return nil
	}
	dryRun(cmd, &dry)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask back for more than ten")
	return cmd
}

func renewRemove(c *conn) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{Use: "remove NAME", Short: "Stop managing a certificate and forget its keys", Args: exactArgs("NAME"),
		Long:    "Stop managing a certificate. Its keys are forgotten here; the certificate itself\nis not revoked, and targets go on serving it.",
		Example: "  chancery renew remove old.example.com --dry-run",
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client(cmd.Context())
			if err != nil {
				return err
			}
			path := "/managed/" + client.ID(args[0])
			if dry {
				m, err := client.Get[api.Managed](cmd.Context(), cl, path, nil)
				if err != nil {
					return err
				}
				return would(c.e, "stop managing %s (%s)", m.Name, joined(m.Names))
			}
			if err := cl.Do(cmd.Context(), http.MethodDelete, path, nil, nil, nil); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.e.stdout, "removed %s\n", args[0])
			return err
		}}
	dryRun(cmd, &dry)
	return cmd
}

func renewDrift(c *conn) *cobra.Command {
	l := listing[api.Drift]{
		cmd:  &cobra.Command{Use: "drift", Short: "List endpoints that serve something else than they should", Example: "  chancery renew drift"},
		path: "/drift", columns: []column{{name: "host"}, {name: "port"}, {name: "desired"}, {name: "served"}, {name: "last_seen_at"}, {name: "failure"}, {name: "address", wide: true}, {name: "sni", wide: true}},
		row: func(d *api.Drift) []string {
			return []string{d.Host, strconv.Itoa(d.Port), d.Desired, d.Served, orNone(d.LastSeenAt), d.Failure, d.Address, d.SNI}
		},
	}
	return l.command(c)
}

func renewPlan(c *conn) *cobra.Command {
	var days, imported int
	var lifetime, issuer string
	var out outFlags
	cmd := &cobra.Command{Use: "plan", Short: "Show the renewals of the days ahead against the budgets of issuers", Args: noArgs,
		Long:    "Show how many certificates fall due on each of the days ahead, and whether the\nbudgets of their issuers are enough; what a shorter life or an import would\nchange, before it happens. Exit 3 if a budget is not enough.",
		Example: "  chancery renew plan --days 365 --lifetime 47d\n  chancery renew plan --issuer letsencrypt --import 100000",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			q := url.Values{"days": {strconv.Itoa(days)}}
			for key, v := range map[string]string{"lifetime": lifetime, "issuer": issuer} {
				if v != "" {
					q.Set(key, v)
				}
			}
			if imported != 0 {
				q.Set("import", strconv.Itoa(imported))
			}
			plan, err := client.Get[api.RenewalPlan](cmd.Context(), cl, "/renewal-plan", q)
			if err != nil {
				return err
			}
			if err := p.fields(planFields(&plan), plan); err != nil {
				return err
			}
			for _, i := range plan.Issuers {
				if !i.Enough {
					return problems("", "the budget of issuer %s (%s) is not enough within %d days", i.Name, i.Budget, days)
				}
			}
			return nil
		}}
	f := cmd.Flags()
	f.IntVar(&days, "days", 60, "how many `days` ahead, at most 400")
	f.StringVar(&lifetime, "lifetime", "", "life of every certificate from its next renewal on, such as 47d (default: as now)")
	f.StringVar(&issuer, "issuer", "", "only certificates of this `issuer`")
	f.IntVar(&imported, "import", 0, "certificates that come on top, today, at --issuer")
	out.add(cmd)
	return cmd
}

// planFields are the lines of a plan: issuers, then days with something in them.
func planFields(plan *api.RenewalPlan) []field {
	var out []field
	for _, i := range plan.Issuers {
		text := fmt.Sprintf("%d certificates, %.1f orders a day", i.Certificates, i.PerDay)
		if fmt.Sprintf("%.1f", i.PerDay) != fmt.Sprintf("%.1f", i.PerDayNow) {
			text += fmt.Sprintf(" (%.1f now)", i.PerDayNow)
		}
		text += fmt.Sprintf(", most %d on %s", i.Peak, i.PeakAt)
		switch {
		case i.Capacity == 0:
			text += ", no budget"
		case !i.Enough:
			text += fmt.Sprintf(", budget %s = %.0f a day: NOT ENOUGH", i.Budget, i.Capacity)
		case i.ClearedAt != "":
			text += fmt.Sprintf(", budget %s = %.0f a day: orders wait until %s", i.Budget, i.Capacity, i.ClearedAt)
		default:
			text += fmt.Sprintf(", budget %s = %.0f a day", i.Budget, i.Capacity)
		}
		out = append(out, field{i.Name, text})
	}
	for _, d := range plan.Days {
		if d.Orders == 0 && d.Deferred == 0 {
			continue
		}
		text := strconv.Itoa(d.Orders)
		if d.Deferred > 0 {
			text += fmt.Sprintf(", %d wait for another day", d.Deferred)
		}
		out = append(out, field{d.Date, text})
	}
	return out
}

func renewDrill(c *conn) *cobra.Command {
	var issuer, owner string
	var limit int
	var dry, detach bool
	var out outFlags
	cmd := &cobra.Command{Use: "drill", Short: "Rehearse the replacement of many certificates, and say how long it took", Args: noArgs,
		Long:    "Order a certificate for each of a slice of the managed ones at an issuer of your\nchoice, and throw it away: what a mass revocation would take, measured. Use a\nstaging issuer: the orders are real.",
		Example: "  chancery renew drill --issuer letsencrypt-staging --limit 500",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if issuer == "" {
				return usagef("--issuer is missing: say where the certificates are ordered")
			}
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			if dry {
				return would(c.e, "order up to %d certificates from %s and throw them away", limit, issuer)
			}
			body := map[string]any{"issuer": issuer, "limit": limit}
			if owner != "" {
				body["owner"] = owner
			}
			d, err := client.Post[api.Drill](cmd.Context(), cl, "/drills", body)
			if err != nil {
				return err
			}
			for !detach && d.FinishedAt == nil {
				t := time.NewTimer(500 * time.Millisecond)
				select {
				case <-t.C:
				case <-cmd.Context().Done():
					t.Stop()
					return cmd.Context().Err()
				}
				if d, err = client.Get[api.Drill](cmd.Context(), cl, "/drills/"+client.ID(d.ID), nil); err != nil {
					return err
				}
			}
			err = p.fields([]field{{"id", d.ID}, {"issuer", d.Issuer}, {"total", strconv.Itoa(d.Total)}, {"done", strconv.Itoa(d.Done)}, {"failed", strconv.Itoa(d.Failed)},
				{"seconds", fmt.Sprintf("%.1f", d.Seconds)}, {"per_second", fmt.Sprintf("%.1f", d.PerSecond)}}, d)
			if err == nil && d.Failed > 0 {
				return problems("chancery renew list --trouble", "%d of %d certificates could not be obtained", d.Failed, d.Total)
			}
			return err
		}}
	f := cmd.Flags()
	f.StringVar(&issuer, "issuer", "", "`issuer` where the certificates are ordered")
	f.StringVar(&owner, "owner", "", "only certificates of this `owner`")
	f.IntVar(&limit, "limit", 1000, "at most so many certificates")
	f.BoolVar(&detach, "detach", false, "do not wait for the end")
	dryRun(cmd, &dry)
	out.add(cmd)
	return cmd
}
