package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/token"
)

// newToken is `chancery config token`.
func newToken(e env) *cobra.Command {
	cmd := group("token", "Make, list and revoke tokens of the API", "Tokens of the API. Roles: viewer (read everything but secrets), auditor (also who\nmay do what), approver (also let requests of others happen), operator (also\nrevoke, renew, scan, edit), admin (everything). A scope limits a role to a part of\nthe estate. The first admin token is in the data directory's admin.token.")
	c := connect(e, cmd)
	cmd.AddCommand(tokenCreate(c), tokenList(c), tokenRevoke(c))
	return cmd
}

func tokenCreate(c *conn) *cobra.Command {
	var role, expires string
	var scope api.Scope
	var dry bool
	var out outFlags
	cmd := &cobra.Command{Use: "create NAME", Short: "Make a token; it is shown once", Args: exactArgs("NAME"),
		Example: "  chancery config token create grafana\n  chancery config token create deploy --role operator --owner pay --expires 90d --json | jq -r .secret",
		RunE: func(cmd *cobra.Command, args []string) error {
			if !token.Role(role).Valid() {
				return usagef("--role %q is unknown; choose one of %v", role, token.Roles)
			}
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			if dry {
				return would(c.e, "make a token %q with the role %s", args[0], role)
			}
			t, err := client.Post[api.NewToken](cmd.Context(), cl, "/tokens", map[string]any{"name": args[0], "role": role, "expires": expires, "scope": scope})
			if err != nil {
				return err
			}
			return p.fields([]field{{"secret", t.Secret}, {"id", t.ID}, {"name", t.Name}, {"role", string(t.Role)}, {"expires_at", orNone(t.ExpiresAt)}}, t)
		}}
	cmd.Flags().StringVar(&role, "role", string(token.Viewer), "what it may do: viewer, auditor, approver, operator or admin")
	cmd.Flags().StringSliceVar(&scope.Owners, "owner", nil, "limit it to certificates of this `owner`; may be repeated, * matches any text")
	cmd.Flags().StringSliceVar(&scope.CAs, "ca", nil, "limit it to this authority `NAME`; may be repeated")
	cmd.Flags().StringSliceVar(&scope.Profiles, "profile", nil, "limit it to this certificate `profile`; may be repeated")
	cmd.Flags().StringVar(&expires, "expires", "", "how long it works, such as 90d (default: for ever)")
	dryRun(cmd, &dry)
	out.add(cmd)
	return cmd
}

func tokenList(c *conn) *cobra.Command {
	l := listing[api.Token]{
		cmd: &cobra.Command{Use: "list", Short: "List tokens, also those that ended", Example: "  chancery config token list"}, path: "/tokens",
		columns: []column{{name: "id"}, {name: "name"}, {name: "role"}, {name: "live"}, {name: "created_at"}, {name: "expires_at"}, {name: "revoked_at"}},
		row: func(t *api.Token) []string {
			return []string{t.ID, t.Name, string(t.Role), fmt.Sprint(t.Live), when(t.CreatedAt), orNone(t.ExpiresAt), orNone(t.RevokedAt)}
		},
	}
	return l.command(c)
}

func tokenRevoke(c *conn) *cobra.Command {
	return endCommand(c, &cobra.Command{Use: "revoke ID", Short: "End a token for good", Example: "  chancery config token revoke 06d1..."}, "/tokens/", "token")
}
