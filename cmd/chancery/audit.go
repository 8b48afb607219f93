package main

import (
	"encoding/json"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
)

// newAudit is `chancery audit`.
func newAudit(e env) *cobra.Command {
	cmd := group("audit", "Read and verify the journal of everything that changed trust", "")
	c := connect(e, cmd)
	cmd.AddCommand(auditList(c), auditVerify(c))
	return cmd
}

func auditList(c *conn) *cobra.Command {
	var subject string
	l := listing[api.Event]{
		cmd: &cobra.Command{Use: "list", Short: "List entries, the newest first; the oldest first with --subject",
			Example: "  chancery audit list --watch\n  chancery audit list --subject certificate:06d1... --json"},
		path: "/journal",
		query: func([]string) url.Values {
			if subject == "" {
				return nil
			}
			return url.Values{"subject": {subject}}
		},
		columns: []column{{name: "seq"}, {name: "at"}, {name: "kind"}, {name: "actor"}, {name: "subject"}, {name: "data", wide: true}, {name: "id", wide: true}, {name: "hash", wide: true}},
		row: func(v *api.Event) []string {
			data, _ := json.Marshal(v.Data) // it was JSON a moment ago
			return []string{fmt.Sprint(v.Seq), when(v.At), v.Kind, v.Actor, v.Subject, string(data), v.ID, v.Hash}
		},
	}
	cmd := l.command(c)
	cmd.Flags().StringVar(&subject, "subject", "", "only entries about it, such as certificate:`ID`")
	return cmd
}

func auditVerify(c *conn) *cobra.Command {
	var out outFlags
	cmd := &cobra.Command{Use: "verify", Short: "Recompute the chain of hashes; exit 3 when it is broken", Args: noArgs,
		Long:    "Recompute the chain of hashes over the whole journal. An entry that was changed,\nremoved, added or moved is found. Keep the head that it prints elsewhere: it\nproves later that nothing before it was rewritten.",
		Example: "  chancery audit verify",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := out.printer(c.e)
			if err != nil {
				return err
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			v, err := client.Get[api.Verification](cmd.Context(), cl, "/journal/verify", nil)
			if err != nil {
				return err
			}
			state := "whole"
			if !v.Whole {
				state = "broken"
			}
			err = p.fields([]field{{"journal", state}, {"entries", fmt.Sprint(v.Entries)}, {"waiting", fmt.Sprint(v.Waiting)}, {"head", v.Head}}, v)
			if err == nil && !v.Whole {
				err = problems("chancery audit list", "the journal is broken: %s", v.Problem)
			}
			return err
		}}
	out.add(cmd)
	return cmd
}
