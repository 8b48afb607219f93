package main

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
)

func limitsList(c *conn) *cobra.Command {
	l := listing[api.Limit]{
		cmd: &cobra.Command{Use: "list", Short: "List the limits, what each counts by, and its configured rate", Example: "  chancery acme limits list"}, path: "/acme/limits",
		columns: []column{{name: "limit"}, {name: "by"}, {name: "rate"}},
		row:     func(l *api.Limit) []string { return []string{l.Name, l.By, l.Rate} },
	}
	return l.command(c)
}

func limitsOverrides(c *conn) *cobra.Command {
	l := listing[api.Override]{
		cmd:  &cobra.Command{Use: "overrides", Short: "List the accounts, domains and addresses that have a rate of their own", Example: "  chancery acme limits overrides --limit 0 --json"},
		path: "/acme/limits/overrides", columns: []column{{name: "limit"}, {name: "key"}, {name: "rate"}, {name: "expires_at"}, {name: "note"}, {name: "created_at", wide: true}},
		row: func(o *api.Override) []string {
			return []string{o.Limit, o.Key, o.Rate, orNone(o.ExpiresAt), o.Note, when(o.CreatedAt)}
		},
	}
	return l.command(c)
}

// limitPath is the path of the overrides of a limit.
func limitPath(name string) string { return "/acme/limits/" + client.ID(name) + "/override" }

func limitsSet(c *conn) *cobra.Command {
	var note, expires string
	var dry bool
	var out outFlags
	cmd := &cobra.Command{Use: "set LIMIT KEY RATE", Short: "Give one key of a limit a rate of its own, in place of the one it has", Args: exactArgs("LIMIT", "KEY", "RATE"),
		Long: `Give one key of a limit a rate of its own. It holds on every replica within ten
seconds, in place of the configured rate and of an earlier one of that key.

KEY is what the limit counts by (see "acme limits list"): an account's id or
URL, an address or network, a name. A name stands for its registered domain,
an IPv6 address for its /64, where that is what is counted. RATE is "300 per
3h", "300 per 3h burst 50", "unlimited", or "denied".`,
		Example: "  chancery acme limits set orders_per_account 06d1... '9000 per 1h' --note 'ticket 4711' --expires 7d\n" +
			"  chancery acme limits set certificates_per_domain example.com unlimited\n  chancery acme limits set accounts_per_ip 192.0.2.7 denied",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			if dry {
				return would(c.e, "set limit %s of %s to %s", args[0], args[1], args[2])
			}
			var o api.Override
			body := map[string]any{"key": args[1], "rate": args[2], "note": note, "expires": expires}
			if err := cl.Do(cmd.Context(), http.MethodPut, limitPath(args[0]), nil, body, &o); err != nil {
				return err
			}
			return p.fields([]field{{"limit", o.Limit}, {"key", o.Key}, {"rate", o.Rate}, {"expires_at", orNone(o.ExpiresAt)}, {"note", o.Note}}, o)
		}}
	cmd.Flags().StringVar(&note, "note", "", "why, for `people`")
	cmd.Flags().StringVar(&expires, "expires", "", "how long it holds, such as 7d (default: for ever)")
	dryRun(cmd, &dry)
	out.add(cmd)
	return cmd
}

func limitsDrop(c *conn) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{Use: "drop LIMIT KEY", Short: "Let the configured rate hold for a key again", Args: exactArgs("LIMIT", "KEY"),
		Example: "  chancery acme limits drop certificates_per_domain example.com",
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client(cmd.Context())
			if err != nil {
				return err
			}
			if dry {
				return would(c.e, "drop the rate that limit %s has for %s", args[0], args[1])
			}
			if err := cl.Do(cmd.Context(), http.MethodDelete, limitPath(args[0]), url.Values{"key": {args[1]}}, nil, nil); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.e.stdout, "dropped the rate that limit %s had for %s\n", args[0], args[1])
			return err
		}}
	dryRun(cmd, &dry)
	return cmd
}
