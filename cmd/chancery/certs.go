package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/db"
	"chancery/internal/pki"
)

// issuedHelp is the query language of the CA's own books, for help texts.
const issuedHelp = `A QUERY is a list of terms, all of which must fit:

  www.example.com   *.example.com   name:NAME   serial:HEX
  status:issued|revoked|expired|intent|abandoned
  ca:NAME   profile:NAME   key:p256   account:ID   order:ID
  expires:<14d   expires:>90d   expires:<2027-01-31   issued:<7d`

// newCerts is `chancery certs`.
func newCerts(e env) *cobra.Command {
	cmd := group("certs", "List, show, import, tag, export, explain and revoke certificates",
		"Work with every certificate that is known: issued here, imported, or seen by a scan.\n\n"+queryHelp+"\n\nA REF is an id, a fingerprint, a serial number, or a name that one active certificate has.")
	c := connect(e, cmd)
	cmd.AddCommand(certsList(c), certsShow(c), certsGet(c), certsExport(c), certsRevoke(c), certsIssued(c), certsImport(c), certsTag(c), certsEdit(c),
		certsFacets(c), certsTimeline(c), certsEndpoints(c), certsViews(c), certsIncidents(c), certsFindings(c), certsExplain(c), certsPolicy(c))
	return cmd
}

// certColumns are what a list of issued certificates shows.
var certColumns = []column{{name: "names"}, {name: "status"}, {name: "not_after"}, {name: "ca"}, {name: "profile"}, {name: "serial"},
	{name: "id", wide: true}, {name: "key_type", wide: true}, {name: "issued_at", wide: true}, {name: "revoked_at", wide: true},
	{name: "reason", wide: true}, {name: "account", wide: true}, {name: "order", wide: true}}

func certRow(c *api.Certificate) []string {
	return []string{joined(c.Names), string(c.Status), when(c.NotAfter), c.CA, c.Profile, c.Serial, c.ID, c.KeyType, orNone(c.IssuedAt),
		orNone(c.RevokedAt), c.RevokedReason, c.Account, c.Order}
}

// queryOf makes the query parameter of arguments.
func queryOf(args []string) url.Values {
	if len(args) == 0 {
		return nil
	}
	return url.Values{"q": {strings.Join(args, " ")}}
}

// resolve returns the id of the certificate that ref means.
func resolve(ctx context.Context, c *client.Client, ref string) (string, error) {
	if db.ValidID(ref) {
		return ref, nil
	}
	query := "name:" + ref + " status:issued"
	if pki.LongHex(strings.ReplaceAll(ref, ":", "")) {
		query = "serial:" + ref
	}
	found, more, err := client.List[api.Certificate](ctx, c, "/issued", url.Values{"q": {query}}, 20)
	if err != nil {
		return "", err
	}
	switch {
	case len(found) == 1 && !more:
		return found[0].ID, nil
	case len(found) == 0:
		return "", &exitError{code: exitFailed, err: fmt.Errorf("no certificate fits %q", query), next: "chancery certs issued " + shellQuote(ref)}
	}
	var serials []string
	for _, f := range found {
		serials = append(serials, f.Serial)
	}
	return "", &exitError{code: exitFailed, next: "chancery certs issued " + shellQuote(ref),
		err: fmt.Errorf("%d issued certificates have the name %s; name one by its serial: %s", len(found), ref, strings.Join(serials, " "))}
}

// outFile is where a command writes a document: a file, or standard output.
type outFile struct{ path string }

func (o *outFile) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.path, "out", "", "write to this `file` instead of standard output")
}

// write calls f with the output. A file appears only when it is complete.
func (o *outFile) write(e env, f func(io.Writer) error) error {
	if o.path == "" {
		return f(e.stdout)
	}
	tmp := o.path + ".part"
	w, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("write %s: %w", o.path, err)
	}
	err = f(w)
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, o.path)
	}
	if err != nil {
		os.Remove(tmp)
		return fmt.Errorf("write %s: %w", o.path, err)
	}
	return nil
}
