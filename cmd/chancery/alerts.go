package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
)

// newAlerts is `chancery alerts`.
func newAlerts(e env) *cobra.Command {
	cmd := group("alerts", "Alerts, the rules that make them, and who is told",
		"Look at alerts, change rules, silence what is known, and try channels.\n\nChannels are [alert_channel.NAME] tables of the configuration; docs/alerts.md has an\nexample for each kind.")
	c := connect(e, cmd)
	cmd.AddCommand(alertsList(c), alertsRules(c), alertsPreview(c), alertsSilence(c), alertsDeliveries(c), alertsChannels(c), alertsTest(c))
	return cmd
}

func alertsList(c *conn) *cobra.Command {
	state, rule, severity := "firing", "", ""
	l := listing[api.AlertView]{
		cmd:  &cobra.Command{Use: "list", Short: "List alerts, the newest first", Example: "  chancery alerts list --watch\n  chancery alerts list --state resolved --limit 10\n  chancery alerts list --rule unknown-certificate"},
		path: "/alerts",
		query: func([]string) url.Values {
			q := url.Values{"state": {state}}
			for name, v := range map[string]string{"rule": rule, "severity": severity} {
				if v != "" {
					q.Set(name, v)
				}
			}
			return q
		},
		columns: []column{{name: "id", wide: true}, {name: "severity"}, {name: "rule"}, {name: "subject"}, {name: "since"}, {name: "silenced"}, {name: "summary"}, {name: "resolved_at", wide: true}},
		row: func(a *api.AlertView) []string {
			silenced := ""
			if a.Silence != "" {
				silenced = "yes"
			}
			return []string{a.ID, a.Severity, a.Rule, a.Subject, when(a.Since), silenced, a.Summary, orNone(a.ResolvedAt)}
		},
	}
	cmd := l.command(c)
	cmd.Flags().StringVar(&state, "state", state, "firing, pending (not for long or not often enough yet) or resolved")
	cmd.Flags().StringVar(&rule, "rule", "", "only those of the rule with this `name`")
	cmd.Flags().StringVar(&severity, "severity", "", "only those that are info, warning or critical")
	return cmd
}

// alertsRules is `chancery alerts rules`.
func alertsRules(c *conn) *cobra.Command {
	cmd := group("rules", "What makes alerts", "Rules are looked at all the time. Those that are shipped can be changed and\nswitched off; `reset` has them as shipped again.")
	cmd.AddCommand(rulesList(c), rulesSet(c), rulesReset(c), rulesKinds(c))
	return cmd
}

func rulesList(c *conn) *cobra.Command {
	l := listing[api.AlertRule]{
		cmd:     &cobra.Command{Use: "list", Short: "List rules, those that are shipped included"},
		path:    "/alerts/rules",
		columns: []column{{name: "name"}, {name: "kind"}, {name: "severity"}, {name: "enabled"}, {name: "parameters"}, {name: "channels"}, {name: "looked_at"}, {name: "error"}, {name: "changed", wide: true}},
		row: func(r *api.AlertRule) []string {
			return []string{r.Name, r.Kind, r.Severity, fmt.Sprint(r.Enabled), ruleText(&r.AlertRuleInput), joined(r.Channels), orNone(r.LookedAt), r.Error, fmt.Sprint(r.Changed)}
		},
	}
	return l.command(c)
}

// ruleText is the parameters of a rule in one line.
func ruleText(r *api.AlertRuleInput) string {
	var parts []string
	add := func(set bool, format string, args ...any) {
		if set {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	add(r.Share > 0, "share %g", r.Share)
	add(r.Within != "", "within %s", r.Within)
	add(r.For != "", "for %s", r.For)
	add(r.Failures > 0, "%d of %d", r.Failures, r.Of)
	add(len(r.Entries) > 0, "entries %s", strings.Join(r.Entries, " "))
	add(len(r.Clears) > 0, "clears %s", strings.Join(r.Clears, " "))
	add(r.Lasts != "", "lasts %s", r.Lasts)
	add(len(r.Match) > 0, "match %s", strings.Join(r.Match, " "))
	add(r.EscalateAfter != "", "escalates after %s to %s", r.EscalateAfter, strings.Join(r.EscalateTo, " "))
	return strings.Join(parts, ", ")
}

func rulesKinds(c *conn) *cobra.Command {
	l := listing[api.AlertKind]{
		cmd:     &cobra.Command{Use: "kinds", Short: "List the kinds of rules, and which parameters each uses"},
		path:    "/alerts/kinds",
		columns: []column{{name: "kind"}, {name: "uses"}, {name: "doc"}},
		row:     func(k *api.AlertKind) []string { return []string{k.Kind, strings.Join(k.Uses, " "), k.Doc} },
	}
	return l.command(c)
}

// ruleFlags are the parts of a rule on the command line; what is not given
// stays as it is.
type ruleFlags struct {
	in   api.AlertRuleInput
	sets map[string]func(*api.AlertRuleInput)
}

func (f *ruleFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.in.Kind, "kind", "", "what it looks for: see `chancery alerts rules kinds`")
	fl.StringVar(&f.in.Severity, "severity", "", "info, warning or critical")
	fl.BoolVar(&f.in.Enabled, "enabled", true, "whether it is looked at")
	fl.StringArrayVar(&f.in.Match, "match", nil, "only what fits `LABEL=PATTERN`; may be repeated")
	fl.Float64Var(&f.in.Share, "share", 0, "at most so much of the life is left, 0 to 1")
	fl.StringVar(&f.in.Within, "within", "", "and at most this `duration`")
	fl.StringVar(&f.in.For, "for", "", "it must have been so for this `duration`")
	fl.IntVar(&f.in.Failures, "failures", 0, "`N` of the last --of observations must be bad")
	fl.IntVar(&f.in.Of, "of", 0, "see --failures")
	fl.StringArrayVar(&f.in.Entries, "entry", nil, "`pattern` of journal entries that begin it; may be repeated")
	fl.StringArrayVar(&f.in.Clears, "clear", nil, "`pattern` of journal entries that end it; may be repeated")
	fl.StringVar(&f.in.Lasts, "lasts", "", "it ends after this `duration` if no entry does")
	fl.StringArrayVar(&f.in.Channels, "channel", nil, "`channel` that is told, in place of all; may be repeated")
	fl.StringVar(&f.in.EscalateAfter, "escalate-after", "", "tell --escalate-to after this `duration`")
	fl.StringArrayVar(&f.in.EscalateTo, "escalate-to", nil, "`channel` that is told then; may be repeated")
	in := &f.in
	f.sets = map[string]func(*api.AlertRuleInput){
		"kind": func(r *api.AlertRuleInput) { r.Kind = in.Kind }, "severity": func(r *api.AlertRuleInput) { r.Severity = in.Severity },
		"enabled": func(r *api.AlertRuleInput) { r.Enabled = in.Enabled }, "match": func(r *api.AlertRuleInput) { r.Match = in.Match },
		"share": func(r *api.AlertRuleInput) { r.Share = in.Share }, "within": func(r *api.AlertRuleInput) { r.Within = in.Within },
		"for": func(r *api.AlertRuleInput) { r.For = in.For }, "failures": func(r *api.AlertRuleInput) { r.Failures = in.Failures },
		"of": func(r *api.AlertRuleInput) { r.Of = in.Of }, "entry": func(r *api.AlertRuleInput) { r.Entries = in.Entries },
		"clear": func(r *api.AlertRuleInput) { r.Clears = in.Clears }, "lasts": func(r *api.AlertRuleInput) { r.Lasts = in.Lasts },
		"channel": func(r *api.AlertRuleInput) { r.Channels = in.Channels }, "escalate-after": func(r *api.AlertRuleInput) { r.EscalateAfter = in.EscalateAfter },
		"escalate-to": func(r *api.AlertRuleInput) { r.EscalateTo = in.EscalateTo },
	}
}

// rule returns the rule of a name as it would be with the flags.
func (f *ruleFlags) rule(cmd *cobra.Command, cl *client.Client, name string) (api.AlertRuleInput, error) {
	rules, _, err := client.List[api.AlertRule](cmd.Context(), cl, "/alerts/rules", nil, 0)
	if err != nil {
		return api.AlertRuleInput{}, err
	}
	r := api.AlertRuleInput{Enabled: true, Severity: "warning"}
	for i := range rules {
		if rules[i].Name == name {
			r = rules[i].AlertRuleInput
		}
	}
	for flag, set := range f.sets {
		if cmd.Flags().Changed(flag) {
			set(&r)
		}
	}
	if r.Kind == "" {
		return r, usagef("there is no rule %q; to make it, say --kind", name)
	}
	return r, nil
}

func rulesSet(c *conn) *cobra.Command {
	var flags ruleFlags
	var dry bool
	var out outFlags
	cmd := &cobra.Command{Use: "set NAME", Short: "Make a rule, or change parts of one", Args: exactArgs("NAME"),
		Example: "  chancery alerts rules set certificate-ending --share 0.25 --channel ops\n  chancery alerts rules set endpoint-failing --enabled=false\n" +
			"  chancery alerts rules set web-ending --kind certificate-expiry --share 0.33 --within 45d --match team=web --severity critical",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			in, err := flags.rule(cmd, cl, args[0])
			if err != nil {
				return err
			}
			if dry {
				return would(c.e, "set rule %s to: kind %s, %s, enabled %t, %s", args[0], in.Kind, in.Severity, in.Enabled, ruleText(&in))
			}
			var r api.AlertRule
			if err := cl.Do(cmd.Context(), http.MethodPut, "/alerts/rules/"+client.ID(args[0]), nil, in, &r); err != nil {
				return err
			}
			return p.fields([]field{{"name", r.Name}, {"kind", r.Kind}, {"severity", r.Severity}, {"enabled", fmt.Sprint(r.Enabled)}, {"parameters", ruleText(&r.AlertRuleInput)}, {"channels", joined(r.Channels)}}, r)
		}}
	flags.add(cmd)
	dryRun(cmd, &dry)
	out.add(cmd)
	return cmd
}

func rulesReset(c *conn) *cobra.Command {
	return deletion{at: "/alerts/rules/", would: "reset rule %s",
		cmd: &cobra.Command{Use: "reset NAME", Short: "Delete a rule, or have one that is shipped as it was", Args: exactArgs("NAME")}}.command(c)
}

func alertsPreview(c *conn) *cobra.Command {
	var flags ruleFlags
	var out outFlags
	limit := 100
	cmd := &cobra.Command{Use: "preview NAME", Short: "List what a rule would find now, with changes if flags say so", Args: exactArgs("NAME"),
		Long: "List what a rule would find now, whether or not long and often enough to fire.\nFlags change the rule for this look only; nothing is stored.", Example: "  chancery alerts preview certificate-ending --share 0.4",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			in, err := flags.rule(cmd, cl, args[0])
			if err != nil {
				return err
			}
			var found api.AlertPreview
			if err := cl.Do(cmd.Context(), http.MethodPost, "/alerts/rules/preview", url.Values{"limit": {fmt.Sprint(limit)}}, in, &found); err != nil {
				return err
			}
			var rows [][]string
			for _, m := range found.Found {
				rows = append(rows, []string{m.Subject, orNone(m.Since), m.Summary})
			}
			if err := p.list([]column{{name: "subject"}, {name: "since"}, {name: "summary"}}, rows, found); err != nil || !found.More {
				return err
			}
			_, err = fmt.Fprintf(c.e.stderr, "chancery: there are more than these %d\n", len(found.Found))
			return err
		}}
	flags.add(cmd)
	cmd.Flags().IntVar(&limit, "limit", limit, "show at most `N`, up to 1000")
	out.add(cmd)
	return cmd
}

// alertsSilence is `chancery alerts silence`.
func alertsSilence(c *conn) *cobra.Command {
	cmd := group("silence", "Keep alerts from being told", "A silence holds back alerts that fit all its matchers. What still fires when it\nends is told then.")
	cmd.AddCommand(silenceAdd(c), silenceList(c), silenceEnd(c))
	return cmd
}

func silenceAdd(c *conn) *cobra.Command {
	var reason, period string
	var dry bool
	var out outFlags
	cmd := &cobra.Command{Use: "add MATCHER...", Short: "Begin a silence", Args: cobra.MinimumNArgs(1),
		Long: "Begin a silence. A matcher is LABEL=PATTERN or LABEL!=PATTERN, where * stands for\nany text. Labels are rule, subject and severity, and those that `alerts list\n--json` shows.", Example: "  chancery alerts silence add team=web 'rule=certificate-*' --for 4h --reason 'migration, ticket 4711'",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			if dry {
				return would(c.e, "silence %s for %s", strings.Join(args, " "), period)
			}
			s, err := client.Post[api.AlertSilence](cmd.Context(), cl, "/alerts/silences", map[string]any{"matchers": args, "reason": reason, "for": period})
			if err != nil {
				return err
			}
			return p.fields([]field{{"id", s.ID}, {"matchers", strings.Join(s.Matchers, " ")}, {"ends_at", when(s.EndsAt)}, {"reason", s.Reason}}, s)
		}}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for `people`; needed")
	cmd.Flags().StringVar(&period, "for", "2h", "how long, up to a year")
	dryRun(cmd, &dry)
	out.add(cmd)
	return cmd
}

func silenceList(c *conn) *cobra.Command {
	l := listing[api.AlertSilence]{
		cmd:     &cobra.Command{Use: "list", Short: "List silences, the newest first"},
		path:    "/alerts/silences",
		columns: []column{{name: "id"}, {name: "active"}, {name: "matchers"}, {name: "ends_at"}, {name: "reason"}, {name: "created_by", wide: true}},
		row: func(s *api.AlertSilence) []string {
			return []string{s.ID, fmt.Sprint(s.Active), strings.Join(s.Matchers, " "), when(s.EndsAt), s.Reason, s.CreatedBy}
		},
	}
	return l.command(c)
}

func silenceEnd(c *conn) *cobra.Command {
	return deletion{at: "/alerts/silences/", would: "end silence %s", cmd: &cobra.Command{Use: "end ID", Short: "End a silence now"}}.command(c)
}

func alertsDeliveries(c *conn) *cobra.Command {
	l := listing[api.AlertDelivery]{
		cmd:     &cobra.Command{Use: "deliveries", Short: "List messages to channels, the newest first"},
		path:    "/alerts/deliveries",
		columns: []column{{name: "id", wide: true}, {name: "created_at"}, {name: "channel"}, {name: "event"}, {name: "rule"}, {name: "alerts"}, {name: "state"}, {name: "attempts"}, {name: "done_at"}, {name: "error"}},
		row: func(d *api.AlertDelivery) []string {
			return []string{d.ID, when(d.CreatedAt), d.Channel, d.Event, d.Rule, fmt.Sprint(d.Alerts), d.State, fmt.Sprint(d.Attempts), orNone(d.DoneAt), d.Error}
		},
	}
	return l.command(c)
}

func alertsChannels(c *conn) *cobra.Command {
	l := listing[api.AlertChannel]{
		cmd:     &cobra.Command{Use: "channels", Short: "List the channels of the configuration"},
		path:    "/alerts/channels",
		columns: []column{{name: "name"}, {name: "kind"}, {name: "severity"}},
		row:     func(ch *api.AlertChannel) []string { return []string{ch.Name, ch.Kind, ch.Severity} },
	}
	return l.command(c)
}

func alertsTest(c *conn) *cobra.Command {
	wait := 30 * time.Second
	var dry bool
	var out outFlags
	cmd := &cobra.Command{Use: "test CHANNEL", Short: "Send a test to a channel, and say whether it was taken", Args: exactArgs("CHANNEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			if dry {
				return would(c.e, "send a test to %s", args[0])
			}
			d, err := client.Post[api.AlertDelivery](cmd.Context(), cl, "/alerts/channels/"+client.ID(args[0])+"/test", nil)
			if err == nil {
				d, err = tested(cmd.Context(), cl, d, wait)
			}
			if err != nil {
				return err
			}
			if err := p.fields([]field{{"id", d.ID}, {"channel", d.Channel}, {"state", d.State}, {"attempts", fmt.Sprint(d.Attempts)}, {"error", d.Error}}, d); err != nil || d.State == "sent" {
				return err
			}
			return fmt.Errorf("the channel %s did not take the test; chancery alerts deliveries shows what waits before it", args[0])
		}}
	cmd.Flags().DurationVar(&wait, "wait", wait, "how long to wait for the channel")
	dryRun(cmd, &dry)
	out.add(cmd)
	return cmd
}

// tested waits until a test was sent or refused, once.
func tested(ctx context.Context, cl *client.Client, d api.AlertDelivery, wait time.Duration) (api.AlertDelivery, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	last := d
	err := repeat(ctx, 200*time.Millisecond, func() (err error) {
		d, err := client.Get[api.AlertDelivery](ctx, cl, "/alerts/deliveries/"+client.ID(last.ID), nil)
		if err != nil {
			return err
		}
		if last = d; d.State != "waiting" || d.Error != "" {
			cancel()
		}
		return nil
	})
	return last, err
}
