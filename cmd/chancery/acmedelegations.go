package main

import (
	"encoding/json/v2"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
)

func delegationsList(c *conn) *cobra.Command {
	l := listing[api.Delegation]{
		cmd: &cobra.Command{Use: "list", Short: "List delegations, also those that ended", Example: "  chancery acme delegations list"}, path: "/acme/delegations",
		columns: []column{{name: "id"}, {name: "ca"}, {name: "account"}, {name: "owner"}, {name: "profile"}, {name: "created_at"}, {name: "ended_at"}},
		row: func(d *api.Delegation) []string {
			return []string{d.ID, d.CA, d.Account, d.Owner, d.Profile, when(d.CreatedAt), orNone(d.EndedAt)}
		},
	}
	return l.command(c)
}

func delegationFields(d api.Delegation) []field {
	template, err := json.Marshal(d.Template, json.Deterministic(true))
	if err != nil {
		template = nil // the server sent it as JSON
	}
	fields := []field{{"id", d.ID}, {"ca", d.CA}, {"account", d.Account}, {"owner", d.Owner}, {"profile", d.Profile}, {"created_at", when(d.CreatedAt)},
		{"ended_at", orNone(d.EndedAt)}, {"csr_template", string(template)}}
	var aliases []string
	for from, to := range d.CNAMEs {
		aliases = append(aliases, from+"="+to)
	}
	slices.Sort(aliases)
	return append(fields, field{"cname_map", joined(aliases)})
}

func delegationsShow(c *conn) *cobra.Command {
	return showCommand(c, &cobra.Command{Use: "show ID", Short: "Show one delegation", Example: "  chancery acme delegations show 06d1..."}, "/acme/delegations/", delegationFields)
}

// readTemplate reads a CSR template from a file, or from standard input for "-".
func readTemplate(e env, path string) (template map[string]any, err error) {
	text, err := readInput(e, path)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(text), &template); err != nil {
		return nil, usagef("the template in %s is not a JSON object: %v", path, err)
	}
	return template, nil
}

func delegationsCreate(c *conn) *cobra.Command {
	var ca, account, owner, profile, template string
	var aliases []string
	var dry bool
	var out outFlags
	cmd := &cobra.Command{Use: "create", Short: "Let an account order certificates for names that another account has authorized", Args: noArgs,
		Long: `Let an account (a CDN, say) order certificates with keys of its own for names
that another account, their owner, has authorized (RFC 9115). The owner's
authorizations count when a certificate is made, those of the account do not.

The template says what the account's requests must look like. For example:

  {"keyTypes": [{"PublicKeyType": "id-ecPublicKey", "namedCurve": "secp256r1",
                 "SignatureType": "ecdsa-with-SHA256"}],
   "extensions": {"subjectAltName": {"DNS": ["www.example.com"]}}}

The CA needs ca.NAME.delegation in the configuration.`,
		Example: "  chancery acme delegations create --account 06d1... --owner 06d2... --template cdn.json --cname www.example.com.=example.cdn.test.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if account == "" || owner == "" || template == "" {
				return usagef("--account, --owner and --template are needed")
			}
			body := map[string]any{"ca": ca, "account": account, "owner": owner}
			if profile != "" {
				body["profile"] = profile
			}
			var err error
			if body["csr_template"], err = readTemplate(c.e, template); err != nil {
				return err
			}
			names := map[string]string{}
			for _, a := range aliases {
				from, to, ok := strings.Cut(a, "=")
				if !ok {
					return usagef("--cname %q is not NAME.=TARGET.", a)
				}
				names[from] = to
			}
			if len(names) > 0 {
				body["cname_map"] = names
			}
			if dry {
				return would(c.e, "let account %s order under CA %s what account %s has authorized", account, ca, owner)
			}
			p, err := out.printer(c.e)
			if err != nil {
				return err
			}
			cl, err := c.client(cmd.Context())
			if err != nil {
				return err
			}
			d, err := client.Post[api.Delegation](cmd.Context(), cl, "/acme/delegations", body)
			if err != nil {
				return err
			}
			return p.fields(delegationFields(d), d)
		}}
	f := cmd.Flags()
	f.StringVar(&ca, "ca", "default", "`name` of the CA")
	f.StringVar(&account, "account", "", "`id` of the account that may order")
	f.StringVar(&owner, "owner", "", "`id` of the account whose authorizations count")
	f.StringVar(&profile, "profile", "", "`profile` of its orders (default: that of the CA)")
	f.StringVar(&template, "template", "", "`file` with the CSR template, - for standard input")
	f.StringArrayVar(&aliases, "cname", nil, "`NAME.=TARGET.`: a delegated name and what it is an alias of; may be given several times")
	dryRun(cmd, &dry)
	out.add(cmd)
	return cmd
}

func delegationsEnd(c *conn) *cobra.Command {
	return endCommand(c, &cobra.Command{Use: "end ID", Short: "End a delegation, with its open orders and those that renew themselves; other certificates stay",
		Example: "  chancery acme delegations end 06d1..."}, "/acme/delegations/", "delegation")
}
