package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/audit"
)

// newAudit is `chancery audit`.
func newAudit(e env) *cobra.Command {
	cmd := group("audit", "Read and verify the journal of everything that changed trust", "")
	c := connect(e, cmd)
	cmd.AddCommand(auditList(c), auditVerify(c), auditExport(c), auditCheckpoints(c), auditKey(c), auditProve(c), auditCheck(e))
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
		Long:    "Recompute the chain of hashes over the whole journal, and compare it with every\nsigned checkpoint. An entry that was changed, removed, added or moved is found.\nKeep a checkpoint elsewhere: it proves later that nothing before it was\nrewritten, even by somebody who holds the database and the keys.",
		Example: "  chancery audit verify",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			v, err := verifyJournal(cmd.Context(), cl, newProgress(c.e, "verified"))
			if err != nil {
				return err
			}
			state := "whole"
			if !v.Whole {
				state = "broken"
			}
			err = p.fields([]field{{"journal", state}, {"entries", fmt.Sprint(v.Entries)}, {"checkpoints", fmt.Sprint(v.Checkpoints)},
				{"waiting", fmt.Sprint(v.Waiting)}, {"head", v.Head}}, v)
			if err == nil && !v.Whole {
				err = problems("chancery audit list", "the journal is broken: %s", v.Problem)
			}
			return err
		}}
	out.add(cmd)
	return cmd
}

// verifyJournal verifies part after part.
func verifyJournal(ctx context.Context, cl *client.Client, bar *progress) (v api.Verification, err error) {
	defer bar.end()
	checkpoints := 0
	for !v.Done {
		v, err = client.Get[api.Verification](ctx, cl, "/journal/verify", url.Values{"after": {fmt.Sprint(v.Entries)}})
		if err != nil {
			return v, err
		}
		checkpoints += v.Checkpoints
		bar.show(fmt.Sprintf("%d of %d entries", v.Entries, v.Total))
	}
	v.Checkpoints = checkpoints
	return v, nil
}

func auditExport(c *conn) *cobra.Command {
	var after int64
	cmd := &cobra.Command{Use: "export", Short: "Write all entries as lines of JSON, the oldest first", Args: noArgs,
		Long:    "Write all entries as lines of JSON to standard output, the oldest first. Each\nline is exactly what checkpoints and proofs speak of.",
		Example: "  chancery audit export > journal.jsonl\n  chancery audit export --after 120000 >> journal.jsonl",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.client(cmd.Context())
			if err != nil {
				return err
			}
			bar := newProgress(c.e, "written")
			defer bar.end()
			w := bufio.NewWriter(c.e.stdout)
			for {
				part, err := client.Get[api.Export](cmd.Context(), cl, "/journal/export", url.Values{"after": {fmt.Sprint(after)}})
				if err != nil || len(part.Lines) == 0 {
					return errors.Join(err, w.Flush())
				}
				for _, l := range part.Lines {
					w.WriteString(l + "\n")
				}
				after = part.Last
				bar.show(fmt.Sprintf("%d entries", after))
			}
		}}
	cmd.Flags().Int64Var(&after, "after", 0, "only entries after this `seq`")
	return cmd
}

func auditCheckpoints(c *conn) *cobra.Command {
	l := listing[api.Checkpoint]{
		cmd: &cobra.Command{Use: "checkpoints", Short: "List signed checkpoints, the newest first",
			Long:    "List signed checkpoints, the newest first. One is signed every minute in which\nentries were added. Keep some elsewhere, with the key that `audit key` prints.",
			Example: "  chancery audit checkpoints\n  chancery audit checkpoints --limit 1 --json"},
		path:    "/journal/checkpoints",
		columns: []column{{name: "size"}, {name: "at"}, {name: "root"}},
		row: func(v *api.Checkpoint) []string {
			root := ""
			if lines := strings.Split(v.Note, "\n"); len(lines) > 2 {
				root = lines[2]
			}
			return []string{fmt.Sprint(v.Size), when(v.At), root}
		},
	}
	return l.command(c)
}

func auditKey(c *conn) *cobra.Command {
	return &cobra.Command{Use: "key", Short: "Print the keys that checkpoints are verified with", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.client(cmd.Context())
			if err != nil {
				return err
			}
			k, err := client.Get[api.JournalKeys](cmd.Context(), cl, "/journal/keys", nil)
			for _, key := range k.Keys {
				fmt.Fprintln(c.e.stdout, key)
			}
			return err
		}}
}

func auditProve(c *conn) *cobra.Command {
	return &cobra.Command{Use: "prove SEQ", Short: "Write the proof that an entry is in the journal", Args: exactArgs("SEQ"),
		Long:    "Write the proof that an entry is in the journal to standard output: text that\nstands alone and holds the entry, its path in the Merkle tree (RFC 6962) and the\nsigned checkpoint. Anyone checks it with `chancery audit check` or the Go package\ngolang.org/x/mod/sumdb, and needs no access to the server.",
		Example: "  chancery audit prove 120 > entry.proof\n  chancery audit check entry.proof --key \"$(chancery audit key)\"",
		RunE: func(cmd *cobra.Command, args []string) error {
			seq, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || seq < 1 {
				return usagef("%q is not the seq of an entry; `chancery audit list` shows them", args[0])
			}
			cl, err := c.client(cmd.Context())
			if err != nil {
				return err
			}
			p, err := client.Get[api.JournalProof](cmd.Context(), cl, fmt.Sprintf("/journal/%d/proof", seq), nil)
			fmt.Fprint(c.e.stdout, p.Proof)
			return err
		}}
}

func auditCheck(e env) *cobra.Command {
	var keys []string
	cmd := &cobra.Command{Use: "check FILE", Short: "Check a proof, without any server; exit 3 when it does not hold", Args: exactArgs("FILE"),
		Example: "  chancery audit check entry.proof --key ca.example.com/journal+1a2b3c4d+AdQ...",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(keys) == 0 {
				return usagef("name the key that you trust with --key; `chancery audit key` prints that of a server")
			}
			text, err := readInput(e, args[0])
			if err != nil {
				return err
			}
			var p audit.Proof
			if err := p.UnmarshalText([]byte(text)); err != nil {
				return err
			}
			if err := p.Check(keys); err != nil {
				return problems("chancery audit prove", "%v", err)
			}
			fmt.Fprintf(e.stdout, "%s\n", p.Leaf)
			return nil
		}}
	cmd.Flags().StringArrayVar(&keys, "key", nil, "verifier `key` that may have signed the checkpoint; may be repeated")
	return cmd
}
