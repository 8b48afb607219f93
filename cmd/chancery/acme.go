package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
)

// newACME is `chancery acme`.
func newACME(e env) *cobra.Command {
	cmd := group("acme", "Look after ACME accounts, orders, binding keys, limits and more", "")
	c := connect(e, cmd)
	cmd.AddCommand(
		group("accounts", "List, show and deactivate ACME accounts", "", accountsList(c), accountsShow(c), accountsDeactivate(c)),
		group("orders", "List and show ACME orders", "", ordersList(c), ordersShow(c)),
		group("authz", "Show ACME authorizations and how they were validated", "", authzShow(c)),
		group("delegations", "Let accounts order for names of others (RFC 9115)", "", delegationsCreate(c), delegationsList(c), delegationsShow(c), delegationsEnd(c)),
		group("eab", "Make, list and revoke external account binding keys", "", eabCreate(c), eabList(c), eabRevoke(c)),
		group("limits", "Show rate limits, and give single accounts, domains or addresses their own", "", limitsList(c), limitsOverrides(c), limitsSet(c), limitsDrop(c)))
	return cmd
}

func accountsList(c *conn) *cobra.Command {
	l := listing[api.Account]{
		cmd: &cobra.Command{Use: "list", Short: "List accounts, the oldest first", Example: "  chancery acme accounts list --limit 0 --json"}, path: "/acme/accounts",
		columns: []column{{name: "id"}, {name: "ca"}, {name: "state"}, {name: "contact"}, {name: "created_at"}, {name: "created_ip", wide: true}, {name: "eab_key", wide: true}, {name: "thumbprint", wide: true}},
		row: func(a *api.Account) []string {
			return []string{a.ID, a.CA, a.State, joined(a.Contact), when(a.CreatedAt), a.CreatedIP, a.EABKey, a.Thumbprint}
		},
	}
	return l.command(c)
}

func accountFields(a api.Account) []field {
	return []field{{"id", a.ID}, {"ca", a.CA}, {"state", a.State}, {"contact", joined(a.Contact)}, {"created_at", when(a.CreatedAt)},
		{"created_ip", a.CreatedIP}, {"eab_key", a.EABKey}, {"thumbprint", a.Thumbprint}, {"tos_agreed_at", orNone(a.AgreedAt)}}
}

func accountsShow(c *conn) *cobra.Command {
	return showCommand(c, &cobra.Command{Use: "show ID", Short: "Show one account", Example: "  chancery acme accounts show 06d1..."}, "/acme/accounts/", accountFields)
}

func accountsDeactivate(c *conn) *cobra.Command {
	return action[api.Account]{at: "/acme/accounts/", verb: "/deactivate", fields: accountFields,
		cmd: &cobra.Command{Use: "deactivate ID", Short: "End an account and its open orders for good; its certificates stay", Args: exactArgs("ID"),
			Example: "  chancery acme accounts deactivate 06d1... --dry-run"},
		would: func(a api.Account) string {
			return fmt.Sprintf("deactivate account %s of CA %s (%s), now %s", a.ID, a.CA, joined(a.Contact), a.State)
		}}.command(c)
}

func ordersList(c *conn) *cobra.Command {
	l := listing[api.Order]{
		cmd: &cobra.Command{Use: "list", Short: "List orders, the oldest first", Example: "  chancery acme orders list --limit 0 -o json"}, path: "/acme/orders",
		columns: []column{{name: "id"}, {name: "state"}, {name: "names"}, {name: "ca"}, {name: "profile"}, {name: "created_at"},
			{name: "account", wide: true}, {name: "certificate", wide: true}, {name: "error", wide: true}},
		row: func(o *api.Order) []string {
			return []string{o.ID, o.State, joined(o.Names), o.CA, o.Profile, when(o.CreatedAt), o.Account, o.Certificate, o.Error}
		},
	}
	return l.command(c)
}

func ordersShow(c *conn) *cobra.Command {
	return showCommand(c, &cobra.Command{Use: "show ID", Short: "Show one order", Example: "  chancery acme orders show 06d1..."}, "/acme/orders/", func(o api.Order) []field {
		return []field{{"id", o.ID}, {"state", o.State}, {"names", joined(o.Names)}, {"ca", o.CA}, {"profile", o.Profile}, {"account", o.Account},
			{"created_at", when(o.CreatedAt)}, {"expires_at", orNone(o.ExpiresAt)}, {"certificate", o.Certificate}, {"replaces", o.Replaces},
			{"authorizations", joined(o.Authorizations)}, {"error", o.Error}}
	})
}

func authzShow(c *conn) *cobra.Command {
	return showCommand(c, &cobra.Command{Use: "show ID", Short: "Show one authorization, with what each remote perspective said of it", Example: "  chancery acme authz show 06d1..."},
		"/acme/authorizations/", func(z api.Authorization) []field {
			fields := []field{{"id", z.ID}, {"state", z.State}, {"name", z.Name}, {"ca", z.CA}, {"account", z.Account}, {"order", z.Order}, {"method", z.Method},
				{"validated_at", orNone(z.ValidatedAt)}, {"created_at", when(z.CreatedAt)}, {"expires_at", when(z.ExpiresAt)}, {"error", z.Error}}
			for i := range z.Evidence {
				fields = append(fields, evidenceFields(&z.Evidence[i])...)
			}
			return fields
		})
}

// evidenceFields is a line for a question to the remote perspectives, and one
// for each answer.
func evidenceFields(e *api.Corroboration) []field {
	outcome := "not corroborated"
	if e.Corroborated {
		outcome = "corroborated"
	}
	fields := []field{{e.Kind, fmt.Sprintf("%s, %s at %s", outcome, e.Name, when(e.At))}}
	for _, o := range e.Perspectives {
		text := fmt.Sprintf("%s (%s, %d ms)", o.Verdict, o.Region, o.TookMS)
		if len(o.Used) > 0 {
			text += " from " + joined(o.Used)
		}
		if o.Problem != "" {
			text += ": " + o.Problem
		}
		fields = append(fields, field{"  " + o.Perspective, text})
	}
	return fields
}

func eabCreate(c *conn) *cobra.Command {
	var ca, label, expires string
	var profiles, identifiers []string
	var accounts, perDay int
	var dry bool
	var out outFlags
	cmd := &cobra.Command{Use: "create", Short: "Make a key for accounts; its secret is shown once", Args: noArgs,
		Example: "  chancery acme eab create --label 'team pay' --expires 7d --allow '*.pay.example.com' --orders-per-day 100\n  certbot register --eab-kid ID --eab-hmac-key SECRET ...",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if label == "" {
				return usagef("--label is missing: say whom the key is for")
			}
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			if dry {
				return would(c.e, "make a binding key of CA %s for %s", ca, label)
			}
			body := map[string]any{"ca": ca, "label": label, "expires": expires}
			for name, set := range map[string]struct {
				ok    bool
				value any
			}{"accounts": {accounts != 0, accounts}, "profiles": {len(profiles) > 0, profiles}, "identifiers": {len(identifiers) > 0, identifiers},
				"orders_per_day": {perDay != 0, perDay}} {
				if set.ok {
					body[name] = set.value
				}
			}
			k, err := client.Post[api.NewEABKey](cmd.Context(), cl, "/acme/eab", body)
			if err != nil {
				return err
			}
			return p.fields([]field{{"id", k.ID}, {"secret", k.Secret}, {"ca", k.CA}, {"label", k.Label}, {"expires_at", orNone(k.ExpiresAt)}}, k)
		}}
	f := cmd.Flags()
	f.StringVar(&ca, "ca", "default", "`name` of the CA that the account may use")
	f.StringVar(&label, "label", "", "whom the key is `for`")
	f.StringVar(&expires, "expires", "", "how long it can be used, such as 7d (default: for ever)")
	f.IntVar(&accounts, "accounts", 0, "how many accounts it makes (default 1)")
	f.StringArrayVar(&profiles, "profile", nil, "`profile` that its accounts may order; may be given several times (default: any)")
	f.StringArrayVar(&identifiers, "allow", nil, "`pattern` of what its accounts may order: example.com, *.example.com (all below it) or 10.0.0.0/8; may be given several times (default: anything)")
	f.IntVar(&perDay, "orders-per-day", 0, "how many orders each of its accounts may make in 24 hours (default: no quota)")
	dryRun(cmd, &dry)
	out.add(cmd)
	return cmd
}

func eabList(c *conn) *cobra.Command {
	l := listing[api.EABKey]{
		cmd: &cobra.Command{Use: "list", Short: "List keys, also those that are used up or revoked", Example: "  chancery acme eab list"}, path: "/acme/eab",
		columns: []column{{name: "id"}, {name: "ca"}, {name: "label"}, {name: "account"}, {name: "created_at"}, {name: "expires_at"}, {name: "used_at", wide: true}, {name: "revoked_at"},
			{name: "used", wide: true}, {name: "profiles", wide: true}, {name: "identifiers", wide: true}},
		row: func(k *api.EABKey) []string {
			return []string{k.ID, k.CA, k.Label, k.Account, when(k.CreatedAt), orNone(k.ExpiresAt), orNone(k.UsedAt), orNone(k.RevokedAt),
				fmt.Sprintf("%d/%d", k.Used, k.Accounts), joined(k.Profiles), joined(k.Identifiers)}
		},
	}
	return l.command(c)
}

func eabRevoke(c *conn) *cobra.Command {
	return endCommand(c, &cobra.Command{Use: "revoke ID", Short: "Withdraw a key; an account that it made stays", Example: "  chancery acme eab revoke 06d1..."}, "/acme/eab/", "binding key")
}
