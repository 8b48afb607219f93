package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/pki"
)

// newCA is `chancery ca`.
func newCA(e env) *cobra.Command {
	cmd := group("ca", "Make, show, sign, import and retire authorities", `Work with certificate authorities: roots, issuing authorities and their OCSP
responders. An AUTHORITY is an id or a name of `+"`chancery ca list`"+`.

A root that is kept elsewhere signs in four steps:
  here    chancery ca csr --ca prod > prod.csr
  there   chancery ca sign ROOT prod.csr > prod.pem
  here    chancery ca import AUTHORITY prod.pem

The file to import may hold more: what lies between, and the root itself at the
end, which then stands in root.pem, too.

With --offline the commands work on a data directory that no server runs on: to
make the authorities before the first start, and on a machine without network.`)
	c := connect(e, cmd).allowOffline()
	cmd.AddCommand(caList(c), caShow(c), caInit(c), caCSR(c), caSign(c), caImport(c), caCrossSign(c), caRetire(c), caProfiles(c))
	return cmd
}

func caList(c *conn) *cobra.Command {
	l := listing[api.Authority]{
		cmd: &cobra.Command{Use: "list", Short: "List authorities", Example: "  chancery ca list -o wide"}, path: "/authorities",
		columns: []column{{name: "ca"}, {name: "role"}, {name: "state"}, {name: "name"}, {name: "key_type"}, {name: "not_after"},
			{name: "id", wide: true}, {name: "parent", wide: true}, {name: "key_here", wide: true}, {name: "subject", wide: true}, {name: "sha256", wide: true}},
		row: func(a *api.Authority) []string {
			return []string{a.CA, a.Role, a.State, a.Name, a.KeyType, orNone(a.NotAfter), a.ID, a.Parent, fmt.Sprint(a.KeyHere), a.Subject, a.Fingerprint}
		},
	}
	return l.command(c)
}

func authorityFields(a api.Authority) []field {
	return []field{{"name", a.Name}, {"id", a.ID}, {"ca", a.CA}, {"role", a.Role}, {"state", a.State}, {"key_type", a.KeyType}, {"key_here", fmt.Sprint(a.KeyHere)},
		{"parent", a.Parent}, {"subject", a.Subject}, {"not_before", orNone(a.NotBefore)}, {"not_after", orNone(a.NotAfter)}, {"sha256", a.Fingerprint},
		{"shards", fmt.Sprint(a.Shards)}, {"chains", fmt.Sprint(len(a.Chains))}}
}

func caShow(c *conn) *cobra.Command {
	var out outFlags
	var asPEM bool
	cmd := &cobra.Command{Use: "show AUTHORITY", Short: "Show one authority, or its certificate or request", Args: exactArgs("AUTHORITY"),
		Example: "  chancery ca show default-issuing-4k2m9x1c\n  chancery ca show default-root-8w3n5t7p --pem > root.pem",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			a, err := client.Get[api.Authority](cmd.Context(), cl, "/authorities/"+client.ID(args[0]), nil)
			if err != nil {
				return err
			}
			if asPEM {
				_, err = io.WriteString(c.e.stdout, orElse(a.Certificate, a.CSR))
				return err
			}
			return p.fields(authorityFields(a), a)
		}}
	cmd.Flags().BoolVar(&asPEM, "pem", false, "print its certificate in PEM; its request while it waits for one")
	out.add(cmd)
	return cmd
}

// specFlags describe an authority to be made.
type specFlags struct{ api.AuthoritySpec }

func (f *specFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.CA, "ca", "default", "`name` in paths and configuration")
	fl.StringVar((*string)(&f.KeyType), "key-type", string(pki.P256), "`type` of the new key: p256, p384, rsa2048, rsa3072, rsa4096, ed25519, ml-dsa-44, ml-dsa-65, ml-dsa-87")
	fl.StringVar(&f.Organization, "organization", "", "organization in the subject")
	fl.StringVar(&f.CommonName, "common-name", "", "common name in the subject (default: made from the name)")
	fl.StringVar(&f.Period, "period", "", "life of the certificate, such as 3650d (default: 20 years for a root, 10 for an issuing authority)")
	fl.IntVar(&f.Shards, "shards", 0, "CRLs that certificates are spread over, for an issuing authority (default 1)")
}

func (f *specFlags) check() error {
	if !f.KeyType.Valid() {
		return usagef("--key-type %q is unknown; choose one of %v", f.KeyType, pki.KeyTypes)
	}
	return nil
}

func caInit(c *conn) *cobra.Command {
	var f specFlags
	var root string
	var rootOnly, dry bool
	var out outFlags
	cmd := &cobra.Command{Use: "init", Short: "Make a root and an issuing authority with its OCSP responder", Args: noArgs,
		Long: `Make a new certificate authority: a root, an issuing authority below it, and its
OCSP responder. With --root only the issuing authority is made, below a root
that exists: that is how a new generation begins.`,
		Example: "  chancery ca init --ca prod --organization 'Example Ltd' --key-type p384\n  chancery ca init --ca prod --root prod-root-8w3n5t7p\n  chancery ca init --ca prod --root-only --period 7300d\n  chancery ca init --offline --config /etc/chancery.toml --ca prod",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if root != "" && rootOnly {
				return usagef("--root and --root-only exclude each other")
			}
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			if dry {
				return planInit(cmd.Context(), c.e, cl, &f, root, rootOnly)
			}
			made, err := makeCA(cmd.Context(), cl, f.AuthoritySpec, root, rootOnly)
			if err != nil {
				return err
			}
			return p.fields(authorityFields(made), made)
		}}
	f.add(cmd)
	cmd.Flags().StringVar(&root, "root", "", "existing root, by `AUTHORITY`")
	cmd.Flags().BoolVar(&rootOnly, "root-only", false, "make a root and nothing below it")
	dryRun(cmd, &dry)
	out.add(cmd)
	return cmd
}

// planInit says what `ca init` would do, as far as the server can tell.
func planInit(ctx context.Context, e env, cl *client.Client, f *specFlags, root string, rootOnly bool) error {
	if root != "" {
		if _, err := client.Get[api.Authority](ctx, cl, "/authorities/"+client.ID(root), nil); err != nil {
			return err
		}
		return would(e, "make an issuing authority of CA %s (%s) and its OCSP responder below %s", f.CA, f.KeyType, root)
	}
	if _, err := client.Get[api.Summary](ctx, cl, "/summary", nil); err != nil {
		return err
	}
	if rootOnly {
		return would(e, "make a root of CA %s (%s)", f.CA, f.KeyType)
	}
	return would(e, "make a root of CA %s, an issuing authority (both %s) and its OCSP responder", f.CA, f.KeyType)
}

// makeCA makes the root, unless one is named, and the issuing authority. The
// subject and the life that were given are the issuing authority's, or those
// of the root when it is made alone.
func makeCA(ctx context.Context, cl *client.Client, spec api.AuthoritySpec, root string, rootOnly bool) (api.Authority, error) {
	if root == "" {
		above := spec
		if !rootOnly {
			above.CommonName, above.Period = "", ""
		}
		above.Shards = 0
		made, err := client.Post[api.Authority](ctx, cl, "/authorities/root", above)
		if err != nil || rootOnly {
			return made, err
		}
		root = made.ID
	}
	below := struct {
		api.AuthoritySpec
		Root string `json:"root"`
	}{spec, root}
	return client.Post[api.Authority](ctx, cl, "/authorities/issuing", below)
}

func caCSR(c *conn) *cobra.Command {
	var f specFlags
	var dry bool
	cmd := &cobra.Command{Use: "csr", Short: "Make the key and the request of an issuing authority whose root is elsewhere", Args: noArgs,
		Long:    "Make a key here and print the PKCS #10 request for it. The authority waits until\n`chancery ca import` brings the certificate.",
		Example: "  chancery ca csr --ca prod --key-type p384 > prod.csr",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			cl, err := c.client(cmd.Context())
			if err != nil {
				return err
			}
			if dry {
				return would(c.e, "make a key (%s) and a request for an issuing authority of CA %s", f.KeyType, f.CA)
			}
			a, err := client.Post[api.Authority](cmd.Context(), cl, "/authorities/request", f.AuthoritySpec)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.e.stderr, "chancery: %s waits for its certificate\nnext: chancery ca import %s CERTIFICATE\n", a.Name, a.Name)
			_, err = io.WriteString(c.e.stdout, a.CSR)
			return err
		}}
	f.add(cmd)
	dryRun(cmd, &dry)
	return cmd
}

// readInput reads a file of at most 200 KB, or standard input for "-".
func readInput(e env, name string) (string, error) {
	in := e.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	const most = 200_000
	b, err := io.ReadAll(io.LimitReader(in, most+1))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	if len(b) > most {
		return "", fmt.Errorf("%s is larger than %d bytes: it cannot be what is asked for", name, most)
	}
	return string(b), nil
}

func caSign(c *conn) *cobra.Command {
	var period string
	var dry bool
	var to outFile
	cmd := &cobra.Command{Use: "sign ROOT CSR", Short: "Sign the request of an authority elsewhere with a root of ours", Args: exactArgs("ROOT", "CSR"),
		Long: "Sign the PKCS #10 request in the file CSR (\"-\": standard input) and print the\ncertificate. Only authorities are signed so; subscribers use ACME.", Example: "  chancery ca sign corp-root-8w3n5t7p prod.csr --period 1825d > prod.pem",
		RunE: func(cmd *cobra.Command, args []string) error {
			csr, err := readInput(c.e, args[1])
			if err != nil {
				return err
			}
			cl, err := c.client(cmd.Context())
			if err != nil {
				return err
			}
			path := "/authorities/" + client.ID(args[0])
			if dry {
				root, err := client.Get[api.Authority](cmd.Context(), cl, path, nil)
				if err != nil {
					return err
				}
				return would(c.e, "sign %s with %s", args[1], root.Name)
			}
			signed, err := client.Post[api.Signed](cmd.Context(), cl, path+"/sign", map[string]any{"csr": csr, "period": period})
			if err != nil {
				return err
			}
			return to.write(c.e, func(w io.Writer) error { _, err := io.WriteString(w, signed.Chain); return err })
		}}
	cmd.Flags().StringVar(&period, "period", "", "life of the certificate, such as 1825d (default: 10 years)")
	to.add(cmd)
	dryRun(cmd, &dry)
	return cmd
}

// chainCommand is a command that brings a chain to an authority. said is what
// --dry-run says of the number of certificates and the authority.
func chainCommand(c *conn, cmd *cobra.Command, verb, said string) *cobra.Command {
	cmd.Args = exactArgs("AUTHORITY", "CHAIN")
	var n int
	return action[api.Authority]{cmd: cmd, at: "/authorities/", verb: verb, fields: authorityFields,
		body: func(args []string) (any, error) {
			chain, err := readInput(c.e, args[1])
			if err != nil {
				return nil, err
			}
			ders, err := pki.DecodeChain([]byte(chain), len(chain), 8)
			n = len(ders)
			return map[string]any{"chain": chain}, err
		},
		would: func(a api.Authority) string { return fmt.Sprintf(said, n, a.Name) }}.command(c)
}

func caImport(c *conn) *cobra.Command {
	return chainCommand(c, &cobra.Command{Use: "import AUTHORITY CHAIN", Short: "Activate a requested authority with the certificate from its root",
		Long:    "Activate an authority that `chancery ca csr` made. CHAIN is a PEM file (\"-\":\nstandard input): its certificate first, then those between it and the root.",
		Example: "  chancery ca import prod-issuing-4k2m9x1c prod.pem"}, "/certificate", "activate with %d certificates the authority %s")
}

func caCrossSign(c *conn) *cobra.Command {
	return chainCommand(c, &cobra.Command{Use: "cross-sign AUTHORITY CHAIN", Short: "Offer one more chain, through another root",
		Long:    "Offer ACME clients an alternate chain (RFC 8555 section 7.4.2): a certificate for\nthe same key, issued by another root, with what lies between.",
		Example: "  chancery ca cross-sign prod-issuing-4k2m9x1c cross.pem"}, "/cross-sign", "offer a chain of %d certificates for %s")
}

func caRetire(c *conn) *cobra.Command {
	return action[api.Authority]{at: "/authorities/", verb: "/retire", fields: authorityFields,
		cmd: &cobra.Command{Use: "retire AUTHORITY", Short: "Stop an authority from issuing; its status is answered as before", Args: exactArgs("AUTHORITY"),
			Example: "  chancery ca retire prod-issuing-4k2m9x1c --dry-run"},
		would: func(a api.Authority) string {
			return fmt.Sprintf("retire %s (%s of CA %s, %s)", a.Name, a.Role, a.CA, a.State)
		}}.command(c)
}

func caProfiles(c *conn) *cobra.Command {
	l := listing[api.Profile]{
		cmd: &cobra.Command{Use: "profiles", Short: "List the configured profiles", Example: "  chancery ca profiles -o wide"}, path: "/profiles",
		columns: []column{{name: "name"}, {name: "period"}, {name: "identifiers"}, {name: "key_types"}, {name: "description"},
			{name: "lint", wide: true}, {name: "common_name", wide: true}, {name: "hash", wide: true}},
		row: func(p *api.Profile) []string {
			return []string{p.Name, p.Period, joined(p.Identifiers), joined(p.KeyTypes), p.Description, p.Lint, p.CommonName, p.Hash}
		},
	}
	return l.command(c)
}
