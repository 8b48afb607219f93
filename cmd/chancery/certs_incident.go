package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/ca"
)

// certsIncidents is `chancery certs incidents`.
func certsIncidents(c *conn) *cobra.Command {
	return group("incidents", "List, show, watch and cancel incidents",
		"An incident replaces and revokes many certificates for one cause; make one with\n`chancery certs revoke --incident`.",
		incidentsList(c), incidentsShow(c), incidentsWatch(c), incidentsCancel(c))
}

var incidentColumns = []column{{name: "id"}, {name: "name"}, {name: "state"}, {name: "reason"}, {name: "revoke_at"}, {name: "marked"}, {name: "revoked"},
	{name: "skipped", wide: true}, {name: "selection", wide: true}, {name: "created_at", wide: true}, {name: "actor", wide: true}}

func incidentRow(i *api.Incident) []string {
	return []string{i.ID, i.Name, string(i.State), i.Reason, when(i.RevokeAt), fmt.Sprint(i.Marked), fmt.Sprint(i.Revoked), fmt.Sprint(i.Skipped),
		incidentSelection(i), when(i.CreatedAt), i.Actor}
}

// incidentSelection says which certificates an incident is about.
func incidentSelection(i *api.Incident) string {
	if i.Query != "" {
		return i.Query
	}
	return fmt.Sprintf("a list of %d", i.Listed)
}

func incidentFields(i *api.Incident) []field {
	fs := []field{{"id", i.ID}, {"name", i.Name}, {"state", string(i.State)}, {"selection", incidentSelection(i)}, {"reason", i.Reason},
		{"explanation", i.ExplanationURL}, {"revoke_at", when(i.RevokeAt)}, {"marked", fmt.Sprint(i.Marked)}, {"revoked", fmt.Sprint(i.Revoked)},
		{"skipped", fmt.Sprint(i.Skipped)}, {"left", fmt.Sprint(i.Left)}, {"created_at", when(i.CreatedAt)}, {"actor", i.Actor}, {"finished_at", orNone(i.FinishedAt)}}
	if i.BlockKeys {
		fs = append(fs, field{"block_keys", "yes"})
	}
	return fs
}

func incidentsList(c *conn) *cobra.Command {
	l := listing[api.Incident]{cmd: &cobra.Command{Use: "list", Short: "List incidents, newest first"}, path: "/incidents", columns: incidentColumns, row: incidentRow}
	return l.command(c)
}

func incidentsShow(c *conn) *cobra.Command {
	var out outFlags
	cmd := &cobra.Command{Use: "show ID", Short: "Show one incident and how far it is", Args: exactArgs("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			i, err := incidentByID(cmd.Context(), cl, args[0])
			if err != nil {
				return err
			}
			return p.fields(incidentFields(&i), i)
		}}
	out.add(cmd)
	return cmd
}

func incidentByID(ctx context.Context, cl *client.Client, id string) (api.Incident, error) {
	return client.Get[api.Incident](ctx, cl, "/incidents/"+client.ID(id), nil)
}

func incidentsWatch(c *conn) *cobra.Command {
	var every time.Duration
	var out outFlags
	cmd := &cobra.Command{Use: "watch ID", Short: "Follow an incident until it ends", Args: exactArgs("ID"),
		Long: "Follow an incident until it is done or cancelled, with a bar on a terminal and a\nline for each stage elsewhere, then show it.",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			w := watcher{w: c.e.stderr, tty: isTerminal(c.e.stderr) && c.e.getenv("TERM") != "dumb"}
			i, err := w.follow(cmd.Context(), cl, args[0], every)
			if err != nil || i.State.Open() {
				return err
			}
			return p.fields(incidentFields(&i), i)
		}}
	cmd.Flags().DurationVar(&every, "every", time.Second, "ask every `period`")
	out.add(cmd)
	return cmd
}

// watcher shows how far an incident is.
type watcher struct {
	w    io.Writer
	tty  bool
	last string // line that was printed
}

// follow shows progress until the incident ends or ctx does, and returns it as
// it was seen last.
func (w *watcher) follow(ctx context.Context, cl *client.Client, id string, every time.Duration) (i api.Incident, err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	err = repeat(ctx, every, func() error {
		i, err = incidentByID(ctx, cl, id)
		if err != nil {
			return err
		}
		w.show(&i)
		if !i.State.Open() {
			stop()
		}
		return nil
	})
	if w.tty && w.last != "" {
		fmt.Fprint(w.w, "\r\x1b[K")
	}
	return i, err
}

// show draws the bar anew, or prints a line when the stage is another one.
func (w *watcher) show(i *api.Incident) {
	if w.tty {
		w.last = progressBar(i)
		fmt.Fprintf(w.w, "\r\x1b[K%s", w.last)
		return
	}
	if stage := string(i.State); stage != w.last {
		w.last = stage
		fmt.Fprintln(w.w, progressText(i))
	}
}

// progressText says in words how far an incident is.
func progressText(i *api.Incident) string {
	done := i.Revoked + i.Skipped
	switch {
	case i.State == ca.IncidentMarking:
		return fmt.Sprintf("finding certificates: %d so far, their renewal windows have moved", i.Marked)
	case i.State == ca.IncidentWaiting && done == 0:
		return fmt.Sprintf("%d certificates are to be renewed; they are revoked at %s", i.Marked, when(i.RevokeAt))
	case i.State == ca.IncidentWaiting:
		return fmt.Sprintf("%d of %d revoked; a last look for certificates that were under way follows", done, i.Marked)
	case i.State == ca.IncidentRevoking:
		return fmt.Sprintf("revoking: %d of %d", done, i.Marked)
	}
	return fmt.Sprintf("%s: %d certificates, %d revoked, %d by others", i.State, i.Marked, i.Revoked, i.Skipped)
}

// progressWidth is the width of the bar alone, in columns.
const progressWidth = 24

// progressBar is progressText behind a bar.
func progressBar(i *api.Incident) string {
	share := 0.0
	if i.Marked > 0 && i.State != ca.IncidentMarking {
		share = float64(i.Revoked+i.Skipped) / float64(i.Marked)
	}
	full := int(share * progressWidth)
	return fmt.Sprintf("[%s%s] %3.0f%%  %s", strings.Repeat("=", full), strings.Repeat(" ", progressWidth-full), share*100, progressText(i))
}

func incidentsCancel(c *conn) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{Use: "cancel ID", Short: "End an incident that has revoked nothing yet", Args: exactArgs("ID"),
		Long: "End an incident that has revoked nothing yet. The renewal windows of its\ncertificates are as before within 15 seconds.",
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client(cmd.Context())
			if err != nil {
				return err
			}
			if dry {
				i, err := incidentByID(cmd.Context(), cl, args[0])
				if err != nil {
					return err
				}
				return would(c.e, "cancel the incident %q, of %d certificates", i.Name, i.Marked)
			}
			return cl.Do(cmd.Context(), http.MethodPost, "/incidents/"+client.ID(args[0])+"/cancel", nil, nil, nil)
		}}
	dryRun(cmd, &dry)
	return cmd
}

var findingColumns = []column{{name: "certificate"}, {name: "finding"}, {name: "problem"}, {name: "found_at"}}

func findingRow(f *api.CertificateFinding) []string {
	return []string{f.Certificate, f.Finding, f.Problem, when(f.FoundAt)}
}

// certsFindings is `chancery certs findings`.
func certsFindings(c *conn) *cobra.Command {
	var out outFlags
	var limit int
	cmd := &cobra.Command{Use: "findings", Short: "Show what the background checker found wrong with certificates", Args: noArgs,
		Long: `Show what the background checker found wrong with issued certificates: it reads
new ones after two minutes and all of them once a day, and holds them against
their profile, today's lints, the journal and the blocked keys. Exit code 3
means that there are findings.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			return showFindings(cmd.Context(), c.e, cl, p, limit)
		}}
	cmd.Flags().IntVar(&limit, "limit", 50, "show at most `N`; 0 = all")
	out.add(cmd)
	return cmd
}

func showFindings(ctx context.Context, e env, cl *client.Client, p *printer, limit int) error {
	found, more, err := client.List[api.CertificateFinding](ctx, cl, "/findings", nil, max(limit, 0))
	if err != nil {
		return err
	}
	looks, err := client.Get[api.Checker](ctx, cl, "/checker", nil)
	if err != nil {
		return err
	}
	rows := make([][]string, len(found))
	for i := range found {
		rows[i] = findingRow(&found[i])
	}
	if found == nil {
		found = []api.CertificateFinding{}
	}
	if err := p.list(findingColumns, rows, found); err != nil {
		return err
	}
	fmt.Fprintln(e.stderr, "chancery: "+checkerText(looks))
	if len(found) == 0 {
		return nil
	}
	some := ""
	if more {
		some = "more than "
	}
	return problems("chancery certs show "+found[0].Certificate, "%s%d findings", some, len(found))
}

// checkerText says what an empty list is worth.
func checkerText(c api.Checker) string {
	for _, w := range c.Walks {
		if w.Name == "all" && w.FinishedAt != nil {
			return "all certificates were last looked at until " + when(*w.FinishedAt)
		}
		if w.Name == "all" {
			return fmt.Sprintf("the first look at all certificates is not finished: %d so far", w.Checked)
		}
	}
	return "the checker has not run yet"
}
