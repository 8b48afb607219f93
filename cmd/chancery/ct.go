package main

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
)

// newCT is `chancery ct`.
func newCT(e env) *cobra.Command {
	cmd := group("ct", "Unknown certificates for our names in CT logs; followed logs",
		"Look after the Certificate Transparency logs that the server follows, and after what\nit found in them: certificates for our names that our issuance does not know. Logs are\nthe [ct_log.NAME] sections of the server's configuration with watch = true.")
	c := connect(e, cmd)
	logs := group("logs", "List, show and reset logs", "Look after the logs that are followed.", ctLogList(c), ctLogShow(c), ctLogReset(c))
	found := group("findings", "List, show, adopt and dismiss findings", "Look after certificates for our names that our issuance does not know.", ctFindingList(c, "list", "List findings, the newest first", ""), ctFindingShow(c), ctFindingAdopt(c), ctFindingAck(c))
	watch := ctFindingList(c, "watch", "Show open findings again and again; exit with Ctrl-C", "open")
	cmd.AddCommand(logs, found, watch)
	return cmd
}

func ctLogList(c *conn) *cobra.Command {
	l := listing[api.CTLog]{cmd: &cobra.Command{Use: "list", Short: "List logs, with how far each was read"}, path: "/ct/logs",
		columns: []column{{name: "name"}, {name: "state"}, {name: "size"}, {name: "lag"}, {name: "matches"}, {name: "head_at"}, {name: "error"}, {name: "kind", wide: true}, {name: "entries", wide: true}, {name: "unreadable", wide: true}, {name: "url", wide: true}},
		row: func(v *api.CTLog) []string {
			return []string{v.Name, v.State, fmt.Sprint(v.Size), fmt.Sprint(v.Lag), fmt.Sprint(v.Matches), orNone(v.HeadAt), v.Error, v.Kind, fmt.Sprint(v.Entries), fmt.Sprint(v.Unreadable), v.URL}
		}}
	return l.command(c)
}

func ctLogFields(v *api.CTLog) []field {
	return []field{{"name", v.Name}, {"kind", v.Kind}, {"url", v.URL}, {"state", v.State}, {"error", v.Error}, {"size", fmt.Sprint(v.Size)}, {"head_size", fmt.Sprint(v.HeadSize)}, {"lag", fmt.Sprint(v.Lag)},
		{"entries", fmt.Sprint(v.Entries)}, {"matches", fmt.Sprint(v.Matches)}, {"unreadable", fmt.Sprint(v.Unreadable)}, {"head_at", orNone(v.HeadAt)}, {"entry_at", orNone(v.EntryAt)}, {"checked_at", orNone(v.CheckedAt)}, {"proof", v.Proof}}
}

// ctOne is a command about one thing, which it shows.
func ctOne[T any](c *conn, use, short, method string, path func(string) string, body func() any, fields func(*T) []field) *cobra.Command {
	var out outFlags
	cmd := &cobra.Command{Use: use, Short: short, Args: exactArgs("NAME"), RunE: func(cmd *cobra.Command, args []string) error {
		p, cl, err := c.open(cmd.Context(), &out)
		if err != nil {
			return err
		}
		var in any
		if body != nil {
			in = body()
		}
		var v T
		if err := cl.Do(cmd.Context(), method, path(client.ID(args[0])), nil, in, &v); err != nil {
			return err
		}
		return p.fields(fields(&v), v)
	}}
	out.add(cmd)
	return cmd
}

func ctLogShow(c *conn) *cobra.Command {
	return ctOne(c, "show NAME", "Show a log; of a forked one, the proof", http.MethodGet, func(id string) string { return "/ct/logs/" + id }, nil, ctLogFields)
}

func ctLogReset(c *conn) *cobra.Command {
	return ctOne(c, "reset NAME", "Forget what is known of a log, and follow it anew; findings stay", http.MethodPost, func(id string) string { return "/ct/logs/" + id + "/reset" }, nil, ctLogFields)
}

func ctFindingList(c *conn, use, short, state string) *cobra.Command {
	l := listing[api.CTFinding]{cmd: &cobra.Command{Use: use, Short: short}, path: "/ct/findings",
		columns: []column{{name: "id"}, {name: "state"}, {name: "matched"}, {name: "issuer"}, {name: "logged_at"}, {name: "not_after"}, {name: "log"}, {name: "serial", wide: true}, {name: "names", wide: true}, {name: "certificate", wide: true}, {name: "comment", wide: true}},
		row: func(v *api.CTFinding) []string {
			return []string{v.ID, v.State, v.Matched, v.Issuer, when(v.LoggedAt), orNone(v.NotAfter), v.Log, v.Serial, joined(v.Names), v.Certificate, v.Comment}
		}}
	if state == "" {
		l.cmd.Flags().StringVar(&state, "state", "", "only those that are open, acknowledged or ours")
	}
	l.query = func([]string) url.Values {
		if state == "" {
			return nil
		}
		return url.Values{"state": {state}}
	}
	cmd := l.command(c)
	if use == "watch" {
		l.watch = 2 * time.Second
	}
	return cmd
}

func ctFindingFields(v *api.CTFinding) []field {
	return []field{{"id", v.ID}, {"state", v.State}, {"matched", v.Matched}, {"names", joined(v.Names)}, {"issuer", v.Issuer}, {"serial", v.Serial}, {"certificate", v.Certificate},
		{"precertificate", fmt.Sprint(v.Precertificate)}, {"log", fmt.Sprintf("%s %d", v.Log, v.Index)}, {"logged_at", when(v.LoggedAt)}, {"not_before", orNone(v.NotBefore)}, {"not_after", orNone(v.NotAfter)},
		{"found_at", when(v.FoundAt)}, {"alerted_at", orNone(v.AlertedAt)}, {"decided_by", v.DecidedBy}, {"decided_at", orNone(v.DecidedAt)}, {"comment", v.Comment}}
}

func ctFindingShow(c *conn) *cobra.Command {
	return ctOne(c, "show ID", "Show a finding, with what the log has", http.MethodGet, func(id string) string { return "/ct/findings/" + id }, nil, ctFindingFields)
}

func ctFindingAck(c *conn) *cobra.Command {
	var comment string
	cmd := ctOne(c, "ack ID", "Say that a finding is known and needs nothing more", http.MethodPost, func(id string) string { return "/ct/findings/" + id + "/acknowledge" },
		func() any { return map[string]string{"comment": comment} }, ctFindingFields)
	cmd.Aliases = []string{"dismiss"}
	cmd.Flags().StringVarP(&comment, "comment", "m", "", "why it is all right, in `words`")
	return cmd
}

func ctFindingAdopt(c *conn) *cobra.Command {
	var to struct {
		Owner       string `json:"owner"`
		Team        string `json:"team,omitempty"`
		Environment string `json:"environment,omitempty"`
		Comment     string `json:"comment,omitempty"`
	}
	cmd := ctOne(c, "adopt ID", "Say that the certificate of a finding is ours, and whose", http.MethodPost, func(id string) string { return "/ct/findings/" + id + "/adopt" },
		func() any { return &to }, ctFindingFields)
	cmd.Flags().StringVar(&to.Owner, "owner", "", "`name` of who owns it (required)")
	cmd.Flags().StringVar(&to.Team, "team", "", "`name` of the team that looks after it")
	cmd.Flags().StringVar(&to.Environment, "env", "", "environment that it is used in, such as prod")
	cmd.Flags().StringVarP(&to.Comment, "comment", "m", "", "how it came to be, in `words`")
	one := cmd.Args
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := one(cmd, args); err != nil {
			return err
		}
		if to.Owner == "" {
			return usagef("say who owns the certificate: --owner NAME")
		}
		return nil
	}
	return cmd
}
