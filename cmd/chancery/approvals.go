package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
)

// newApprovals is `chancery approvals`.
func newApprovals(e env) *cobra.Command {
	cmd := group("approvals", "Requests that need a second person", "Operations that approval.operations names happen only when a second person agrees.\nA request waits here until somebody else decides; it then runs as the one who\nasked, once.")
	c := connect(e, cmd)
	cmd.AddCommand(approvalsList(c), approvalsShow(c), approvalsDecide(c, true), approvalsDecide(c, false), approvalsWithdraw(c))
	return cmd
}

func approvalsList(c *conn) *cobra.Command {
	state := "waiting"
	l := listing[api.ApprovalView]{
		cmd:     &cobra.Command{Use: "list", Short: "List requests, the newest first", Example: "  chancery approvals list --watch\n  chancery approvals list --state done"},
		path:    "/approvals",
		query:   func([]string) url.Values { return url.Values{"state": {state}} },
		columns: []column{{name: "id"}, {name: "state"}, {name: "operation"}, {name: "actor"}, {name: "created_at"}, {name: "expires_at"}, {name: "decided_by", wide: true}, {name: "request", wide: true}},
		row: func(v *api.ApprovalView) []string {
			request, _ := json.Marshal(v.Request) // it was JSON a moment ago
			return []string{v.ID, v.State, v.Operation, v.ActorName, when(v.CreatedAt), orNone(v.ExpiresAt), v.DecidedBy, string(request)}
		},
	}
	cmd := l.command(c)
	cmd.Flags().StringVar(&state, "state", state, "waiting, running, done, rejected, withdrawn or expired")
	return cmd
}

// showApproval prints one request.
func showApproval(p *printer, v *api.ApprovalView) error {
	request, _ := json.Marshal(v.Request)
	reply, _ := json.Marshal(v.Reply)
	return p.fields([]field{{"id", v.ID}, {"state", v.State}, {"operation", v.Operation}, {"path", v.Path}, {"request", string(request)},
		{"actor", v.Actor}, {"actor_name", v.ActorName}, {"created_at", when(v.CreatedAt)}, {"expires_at", orNone(v.ExpiresAt)},
		{"decided_by", v.DecidedBy}, {"decided_at", orNone(v.DecidedAt)}, {"comment", v.Comment}, {"status", fmt.Sprint(v.Status)}, {"reply", string(reply)}}, v)
}

func approvalsShow(c *conn) *cobra.Command {
	var out outFlags
	cmd := &cobra.Command{Use: "show ID", Short: "Show one request", Args: exactArgs("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			v, err := client.Get[api.ApprovalView](cmd.Context(), cl, "/approvals/"+client.ID(args[0]), nil)
			if err != nil {
				return err
			}
			return showApproval(p, &v)
		}}
	out.add(cmd)
	return cmd
}

func approvalsDecide(c *conn, approve bool) *cobra.Command {
	var comment string
	var dry bool
	var out outFlags
	use, short := "approve ID", "Let a request of somebody else happen now"
	if !approve {
		use, short = "reject ID", "Refuse a request of somebody else for good"
	}
	cmd := &cobra.Command{Use: use, Short: short, Args: exactArgs("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			path := "/approvals/" + client.ID(args[0])
			var v api.ApprovalView
			if dry {
				v, err = client.Get[api.ApprovalView](cmd.Context(), cl, path, nil)
			} else {
				v, err = client.Post[api.ApprovalView](cmd.Context(), cl, path+"/decision", map[string]any{"approve": approve, "comment": comment})
			}
			if err != nil {
				return err
			}
			if err := showApproval(p, &v); err != nil || !approve || dry || v.Status < 400 {
				return err
			}
			return fmt.Errorf("the approved operation was refused with status %d", v.Status)
		}}
	cmd.Flags().StringVar(&comment, "comment", "", "`text` that is kept with the decision")
	dryRun(cmd, &dry)
	out.add(cmd)
	return cmd
}

func approvalsWithdraw(c *conn) *cobra.Command {
	return &cobra.Command{Use: "withdraw ID", Short: "Withdraw a request of your own", Args: exactArgs("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client(cmd.Context())
			if err != nil {
				return err
			}
			return cl.Do(cmd.Context(), http.MethodDelete, "/approvals/"+client.ID(args[0]), nil, nil, nil)
		}}
}
