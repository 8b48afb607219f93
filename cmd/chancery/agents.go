package main

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
)

// newAgents is `chancery agents`.
func newAgents(e env) *cobra.Command {
	cmd := group("agents", "Enrol agents, and say what they keep in service",
		"Look at and steer the agents: `chancery agent` on hosts that the server cannot\nreach. An agent makes its keys itself and never sends them. docs/agents.md has\nthe whole of it.")
	c := connect(e, cmd)
	cmd.AddCommand(agentsList(c), agentsShow(c), agentsFleet(c), agentsAssignments(c), agentsAssign(c), agentsRenew(c), agentsUnassign(c), agentsRevoke(c), agentsToken(c))
	return cmd
}

func agentsList(c *conn) *cobra.Command {
	l := listing[api.Agent]{
		cmd: &cobra.Command{Use: "list", Short: "List agents, also those that ended", Example: "  chancery agents list --watch"}, path: "/agents",
		columns: []column{{name: "name"}, {name: "state"}, {name: "parked"}, {name: "seen_at"}, {name: "version"}, {name: "targets"}, {name: "owner", wide: true}, {name: "address", wide: true}, {name: "id", wide: true}},
		row: func(a *api.Agent) []string {
			return []string{a.Name, string(a.State), fmt.Sprint(a.Parked), orNone(a.SeenAt), a.Version, joined(a.Targets), a.Owner, a.Address, a.ID}
		},
	}
	return l.command(c)
}

// shownAgent is an agent with what it keeps in service.
type shownAgent struct {
	api.Agent
	Assignments []api.Assignment `json:"assignments"`
}

func agentsShow(c *conn) *cobra.Command {
	var out outFlags
	cmd := &cobra.Command{Use: "show AGENT", Short: "Show an agent and what it keeps in service", Args: exactArgs("AGENT"), Example: "  chancery agents show web1",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			path := "/agents/" + client.ID(args[0])
			a, err := client.Get[api.Agent](cmd.Context(), cl, path, nil)
			if err != nil {
				return err
			}
			list, _, err := client.List[api.Assignment](cmd.Context(), cl, path+"/assignments", nil, 0)
			if err != nil {
				return err
			}
			fields := []field{{"name", a.Name}, {"id", a.ID}, {"owner", a.Owner}, {"state", string(a.State)}, {"parked", fmt.Sprint(a.Parked)}, {"version", a.Version}, {"address", a.Address},
				{"targets", joined(a.Targets)}, {"generation", fmt.Sprint(a.Generation)}, {"enrolled_at", when(a.EnrolledAt)}, {"started_at", orNone(a.StartedAt)}, {"seen_at", orNone(a.SeenAt)}, {"identity_not_after", when(a.IdentityTo)}}
			for i := range list {
				s := &list[i]
				text := fmt.Sprintf("%s %s -> %s: %s, until %s", s.ID, joined(s.Names), joined(s.Targets), s.State, orNone(s.NotAfter))
				if s.Error != "" {
					text += ": " + s.Error
				}
				fields = append(fields, field{"assignment", text})
			}
			return p.fields(fields, shownAgent{a, list})
		}}
	out.add(cmd)
	return cmd
}

func agentsAssign(c *conn) *cobra.Command {
	var targets []string
	var profile, issuer string
	var dry bool
	var out outFlags
	cmd := &cobra.Command{Use: "assign AGENT NAME...", Short: "Have an agent keep a certificate in service", Args: cobra.ArbitraryArgs,
		Long: `Have an agent keep a certificate for the names in service at targets of its own
configuration: it is issued now, renewed after two thirds of its life, and put
into service each time. The names must be allowed by agents.allow_names of the
server's configuration.

With --issuer it comes from that [issuer.NAME] of the server, by the budgets, renewal
windows and fallbacks of all renewals; its order is ` + "`assignment.ID`" + ` of
` + "`chancery renew list`" + `. The key is made by the agent all the same.`,
		Example: "  chancery agents assign web1 www.example.com example.com --target nginx",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef("an agent and at least one name are needed")
			}
			if len(targets) == 0 {
				return usagef("--target is missing; `chancery agents show %s` lists what the agent has", args[0])
			}
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			if dry {
				return would(c.e, "have agent %s keep a certificate for %s in service at %s", args[0], joined(args[1:]), joined(targets))
			}
			a, err := client.Post[api.Assignment](cmd.Context(), cl, "/agents/"+client.ID(args[0])+"/assignments", map[string]any{"names": args[1:], "targets": targets, "profile": profile, "issuer": issuer})
			if err != nil {
				return err
			}
			return p.fields([]field{{"id", a.ID}, {"names", joined(a.Names)}, {"targets", joined(a.Targets)}, {"state", string(a.State)}}, a)
		}}
	cmd.Flags().StringSliceVar(&targets, "target", nil, "`name` of a target of the agent; repeated, they follow in this order")
	cmd.Flags().StringVar(&profile, "profile", "", "certificate `profile` (default: agents.profile of the server)")
	cmd.Flags().StringVar(&issuer, "issuer", "", "`name` of the server's issuer that it comes from (default: the CA of agents)")
	dryRun(cmd, &dry)
	out.add(cmd)
	return cmd
}

func agentsRenew(c *conn) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{Use: "renew ASSIGNMENT", Short: "Have the next certificate of an assignment issued now", Args: exactArgs("ASSIGNMENT"), Example: "  chancery agents renew 06d1...",
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client(cmd.Context())
			if err != nil {
				return err
			}
			if dry {
				return would(c.e, "have the next certificate of assignment %s issued now", args[0])
			}
			if _, err := client.Post[api.Assignment](cmd.Context(), cl, "/assignments/"+client.ID(args[0])+"/renew", nil); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.e.stdout, "assignment %s is being renewed\n", args[0])
			return err
		}}
	dryRun(cmd, &dry)
	return cmd
}

func agentsUnassign(c *conn) *cobra.Command {
	return deletion{at: "/assignments/", would: "end assignment %s", done: "unassigned %s\n", cmd: &cobra.Command{Use: "unassign ASSIGNMENT", Args: exactArgs("ASSIGNMENT"),
		Short: "End an assignment; what is in service stays there", Example: "  chancery agents unassign 06d1..."}}.command(c)
}

func agentsRevoke(c *conn) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{Use: "revoke AGENT", Short: "Refuse an agent from now on, until it is enrolled again", Args: exactArgs("AGENT"), Example: "  chancery agents revoke web1",
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client(cmd.Context())
			if err != nil {
				return err
			}
			if dry {
				return would(c.e, "refuse agent %s from now on", args[0])
			}
			a, err := client.Post[api.Agent](cmd.Context(), cl, "/agents/"+client.ID(args[0])+"/revoke", nil)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.e.stdout, "agent %s is revoked; its certificates stay in service until they expire\n", a.Name)
			return err
		}}
	dryRun(cmd, &dry)
	return cmd
}

func agentsToken(c *conn) *cobra.Command {
	cmd := group("token", "Make, list and revoke enrolment tokens", "Enrolment tokens. Each enrols one agent, once, before it expires, and names the\nserver's key so that the agent cannot be tricked into enrolling elsewhere.")
	l := listing[api.AgentToken]{
		cmd: &cobra.Command{Use: "list", Short: "List enrolment tokens, also those that ended", Example: "  chancery agents token list"}, path: "/agent-tokens",
		columns: []column{{name: "id"}, {name: "name_pattern"}, {name: "owner"}, {name: "cidr"}, {name: "expires_at"}, {name: "used_at"}, {name: "agent_id", wide: true}, {name: "created_by", wide: true}},
		row: func(t *api.AgentToken) []string {
			return []string{t.ID, t.NamePattern, t.Owner, t.CIDR, when(t.ExpiresAt), orNone(t.UsedAt), t.AgentID, t.CreatedBy}
		},
	}
	cmd.AddCommand(agentsTokenCreate(c), l.command(c),
		endCommand(c, &cobra.Command{Use: "revoke ID", Short: "End a token before its time", Example: "  chancery agents token revoke 06d1..."}, "/agent-tokens/", "enrolment token"))
	return cmd
}

func agentsTokenCreate(c *conn) *cobra.Command {
	var pattern, owner, cidr, expires string
	var dry bool
	var out outFlags
	cmd := &cobra.Command{Use: "create", Short: "Make a token that enrols one agent; it is shown once", Args: noArgs,
		Example: "  chancery agents token create --name-pattern 'web*' --owner shop --cidr 10.1.0.0/16 --expires 1h",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, cl, err := c.open(cmd.Context(), &out)
			if err != nil {
				return err
			}
			if dry {
				return would(c.e, "make an enrolment token for an agent named %q", pattern)
			}
			var t api.NewAgentToken
			body := map[string]any{"name_pattern": pattern, "owner": owner, "cidr": cidr, "expires": expires}
			if err := cl.Do(cmd.Context(), http.MethodPost, "/agent-tokens", url.Values{}, body, &t); err != nil {
				return err
			}
			return p.fields([]field{{"secret", t.Secret}, {"id", t.ID}, {"expires_at", when(t.ExpiresAt)}}, t)
		}}
	cmd.Flags().StringVar(&pattern, "name-pattern", "", "what the agent may be called, such as 'web*' (default: anything)")
	cmd.Flags().StringVar(&owner, "owner", "", "`owner` that the agent gets")
	cmd.Flags().StringVar(&cidr, "cidr", "", "`network` that it may enrol from (default: anywhere)")
	cmd.Flags().StringVar(&expires, "expires", "1h", "how `long` the token can be used, at most 30d")
	dryRun(cmd, &dry)
	out.add(cmd)
	return cmd
}
