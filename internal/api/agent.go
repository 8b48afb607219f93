package api

import (
	"context"
	"encoding/hex"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/db"
	"chancery/internal/fault"
	fleet "chancery/internal/fleet/server"
)

// Agent is a program on a host that keeps certificates in service there.
type Agent struct {
	ID         string      `json:"id"`
	Name       string      `json:"name"`
	Owner      string      `json:"owner,omitempty"`
	State      fleet.State `json:"state" enum:"active,cloned,revoked" doc:"cloned: two programs used its identity, and both are refused until it is enrolled again"`
	Parked     bool        `json:"parked" doc:"The process that answers holds its question now; another may, when this is false"`
	Version    string      `json:"version"`
	Address    string      `json:"address" doc:"Where it last started"`
	Targets    []string    `json:"targets" nullable:"false" doc:"Targets of its own configuration"`
	Generation int64       `json:"generation" doc:"Starts and renewals of its identity"`
	EnrolledAt time.Time   `json:"enrolled_at"`
	StartedAt  *time.Time  `json:"started_at,omitempty"`
	SeenAt     *time.Time  `json:"seen_at,omitempty" doc:"When it last asked, up to half a minute ago"`
	IdentityTo time.Time   `json:"identity_not_after" doc:"End of the certificate that identifies it"`
}

// Assignment is a certificate that an agent keeps in service.
type Assignment struct {
	ID         string                `json:"id"`
	AgentID    string                `json:"agent_id"`
	Names      []string              `json:"names" nullable:"false"`
	Targets    []string              `json:"targets" nullable:"false"`
	Profile    string                `json:"profile,omitempty"`
	State      fleet.AssignmentState `json:"state" enum:"new,issued,live,failed"`
	SHA256     string                `json:"sha256,omitempty" doc:"Of the newest certificate"`
	NotAfter   *time.Time            `json:"not_after,omitempty"`
	IssueAt    time.Time             `json:"issue_at" doc:"When the next certificate is issued"`
	Attempt    int                   `json:"attempt,omitempty" doc:"Failures in a row"`
	Error      string                `json:"error,omitempty" doc:"Of the last failure: what the probe or the program said"`
	Stderr     string                `json:"stderr,omitempty"`
	TookMS     int64                 `json:"took_ms,omitempty" doc:"How long the last deployment took at the agent"`
	CreatedBy  string                `json:"created_by"`
	CreatedAt  time.Time             `json:"created_at"`
	ReportedAt *time.Time            `json:"reported_at,omitempty"`
}

// AgentToken is an enrolment token, without its secret.
type AgentToken struct {
	ID          string     `json:"id"`
	NamePattern string     `json:"name_pattern,omitempty"`
	Owner       string     `json:"owner,omitempty"`
	CIDR        string     `json:"cidr,omitempty"`
	CreatedBy   string     `json:"created_by"`
	CreatedAt   time.Time  `json:"created_at"`
	ExpiresAt   time.Time  `json:"expires_at"`
	UsedAt      *time.Time `json:"used_at,omitempty"`
	AgentID     string     `json:"agent_id,omitempty" doc:"The agent that it enrolled"`
}

// NewAgentToken is an enrolment token that was just made.
type NewAgentToken struct {
	AgentToken
	Secret string `json:"secret" doc:"What the agent is given: ID.SECRET.PIN. It is shown now and never again"`
}

func (s *Server) agents() {
	tag := []string{"Agents"}
	register(s, huma.Operation{OperationID: "list-agents", Method: http.MethodGet, Path: "/agents", Tags: tag, Summary: "List agents by name, also those that ended"}, s.listAgents)
	register(s, huma.Operation{OperationID: "get-agent", Method: http.MethodGet, Path: "/agents/{id}", Tags: tag, Summary: "Show an agent, by its id or name"}, s.getAgent)
	register(s, huma.Operation{OperationID: "revoke-agent", Method: http.MethodPost, Path: "/agents/{id}/revoke", Tags: tag, Summary: "Refuse an agent from now on, until it is enrolled again"}, s.revokeAgent)
	register(s, huma.Operation{OperationID: "list-assignments", Method: http.MethodGet, Path: "/agents/{id}/assignments", Tags: tag, Summary: "List what an agent keeps in service"}, s.listAssignments)
	register(s, huma.Operation{OperationID: "create-assignment", Method: http.MethodPost, Path: "/agents/{id}/assignments", Tags: tag, Summary: "Have an agent keep a certificate in service", DefaultStatus: http.StatusCreated}, s.createAssignment)
	register(s, huma.Operation{OperationID: "delete-assignment", Method: http.MethodDelete, Path: "/assignments/{id}", Tags: tag, Summary: "End an assignment; what is in service stays there", DefaultStatus: http.StatusNoContent}, s.deleteAssignment)
	register(s, huma.Operation{OperationID: "renew-assignment", Method: http.MethodPost, Path: "/assignments/{id}/renew", Tags: tag, Summary: "Have the next certificate of an assignment issued now"}, s.renewAssignment)
	register(s, huma.Operation{OperationID: "list-agent-tokens", Method: http.MethodGet, Path: "/agent-tokens", Tags: tag, Summary: "List enrolment tokens, also those that ended"}, s.listAgentTokens)
	register(s, huma.Operation{OperationID: "create-agent-token", Method: http.MethodPost, Path: "/agent-tokens", Tags: tag, Summary: "Make an enrolment token for one agent; its text is shown once", DefaultStatus: http.StatusCreated}, s.createAgentToken)
	register(s, huma.Operation{OperationID: "revoke-agent-token", Method: http.MethodDelete, Path: "/agent-tokens/{id}", Tags: tag, Summary: "End an enrolment token before its time", DefaultStatus: http.StatusNoContent}, s.revokeAgentToken)
}

// fleet returns the server of agents.
func (s *Server) fleet() (*fleet.Server, error) {
	if s.cfg.Fleet == nil {
		return nil, fault.New(fault.Precondition, "this process keeps no agents")
	}
	return s.cfg.Fleet, nil
}

func viewAgent(a *fleet.Agent) Agent {
	v := Agent{ID: a.ID, Name: a.Name, Owner: a.Owner, State: a.State, Parked: a.Parked, Version: a.Version, Address: a.Address, Targets: a.Targets, Generation: a.Generation,
		EnrolledAt: a.EnrolledAt, StartedAt: instant(a.StartedAt), SeenAt: instant(a.SeenAt), IdentityTo: a.CertEnd}
	if v.Targets == nil {
		v.Targets = []string{}
	}
	return v
}

func viewAssignment(a *fleet.Assignment) Assignment {
	return Assignment{ID: a.ID, AgentID: a.AgentID, Names: a.Names, Targets: a.Targets, Profile: a.Profile, State: a.State, SHA256: hex.EncodeToString(a.LeafHash), NotAfter: instant(a.NotAfter),
		IssueAt: a.IssueAt, Attempt: a.Attempt, Error: a.Error, Stderr: a.Stderr, TookMS: a.Took.Milliseconds(), CreatedBy: a.CreatedBy, CreatedAt: a.CreatedAt, ReportedAt: instant(a.ReportedAt)}
}

func viewAgentToken(t *fleet.Token) AgentToken {
	return AgentToken{ID: t.ID, NamePattern: t.NamePattern, Owner: t.Owner, CIDR: t.CIDR, CreatedBy: t.CreatedBy, CreatedAt: t.CreatedAt, ExpiresAt: t.ExpiresAt, UsedAt: instant(t.UsedAt), AgentID: t.AgentID}
}

// AgentInput names an agent.
type AgentInput struct {
	ID string `path:"id" maxLength:"128" doc:"Id or name"`
}

type assignmentInput struct {
	ID string `path:"id" maxLength:"128"`
}

type listAgentsInput struct {
	ListInput
	State   string `query:"state" enum:"active,cloned,revoked" doc:"Only those in this state"`
	Version string `query:"version" maxLength:"128" doc:"Only those that run this version"`
	Silent  bool   `query:"silent" doc:"Only those that have not been seen for 15 minutes"`
}

func (s *Server) listAgents(ctx context.Context, in *listAgentsInput) (*pageOf[Agent], error) {
	f, err := s.fleet()
	if err != nil {
		return nil, err
	}
	after, err := decodeKey(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := f.Find(ctx, fleet.Filter{State: fleet.State(in.State), Version: in.Version, Silent: in.Silent}, after, in.Limit+1, now())
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(a *fleet.Agent) string { return a.Name }, viewAgent), nil
}

func (s *Server) getAgent(ctx context.Context, in *AgentInput) (*bodyOf[Agent], error) {
	f, err := s.fleet()
	if err != nil {
		return nil, err
	}
	a, err := f.Get(ctx, in.ID)
	return &bodyOf[Agent]{viewAgent(&a)}, err
}

func (s *Server) revokeAgent(ctx context.Context, in *AgentInput) (*bodyOf[Agent], error) {
	f, err := s.fleet()
	if err != nil {
		return nil, err
	}
	a, err := f.Revoke(ctx, in.ID, actorOf(ctx), now())
	return &bodyOf[Agent]{viewAgent(&a)}, err
}

type listAssignmentsInput struct {
	AgentInput
	ListInput
}

func (s *Server) listAssignments(ctx context.Context, in *listAssignmentsInput) (*pageOf[Assignment], error) {
	f, err := s.fleet()
	if err != nil {
		return nil, err
	}
	after, err := decodeID(in.Cursor)
	if err != nil {
		return nil, err
	}
	a, err := f.Get(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	rows, err := f.Assignments(ctx, a.ID, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(a *fleet.Assignment) string { return a.ID }, viewAssignment), nil
}

type createAssignmentInput struct {
	AgentInput
	Body struct {
		Names   []string `json:"names" minItems:"1" maxItems:"100" doc:"DNS names and addresses of the certificate"`
		Targets []string `json:"targets" minItems:"1" maxItems:"16" doc:"Targets of the agent's own configuration, in the order in which they get it"`
		Profile string   `json:"profile,omitempty" maxLength:"64"`
		Issuer  string   `json:"issuer,omitempty" maxLength:"64" doc:"Issuer of the server's configuration that it comes from; none: the CA of agents"`
	}
}

func (s *Server) createAssignment(ctx context.Context, in *createAssignmentInput) (*bodyOf[Assignment], error) {
	f, err := s.fleet()
	if err != nil {
		return nil, err
	}
	a, err := f.Assign(ctx, fleet.AssignSpec{Agent: in.ID, Names: in.Body.Names, Targets: in.Body.Targets, Profile: in.Body.Profile, Issuer: in.Body.Issuer}, actorOf(ctx), now())
	return &bodyOf[Assignment]{viewAssignment(&a)}, err
}

func (s *Server) deleteAssignment(ctx context.Context, in *assignmentInput) (*struct{}, error) {
	f, err := s.fleet()
	if err != nil {
		return nil, err
	}
	return nil, f.Unassign(ctx, in.ID, actorOf(ctx), now())
}

func (s *Server) renewAssignment(ctx context.Context, in *assignmentInput) (*bodyOf[Assignment], error) {
	f, err := s.fleet()
	if err != nil {
		return nil, err
	}
	a, err := f.RenewNow(ctx, in.ID, actorOf(ctx), now())
	return &bodyOf[Assignment]{viewAssignment(&a)}, err
}

func (s *Server) listAgentTokens(ctx context.Context, in *ListInput) (*pageOf[AgentToken], error) {
	f, err := s.fleet()
	if err != nil {
		return nil, err
	}
	after, err := decodeID(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := f.Tokens(ctx, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(t *fleet.Token) string { return t.ID }, viewAgentToken), nil
}

type createAgentTokenInput struct {
	Body struct {
		NamePattern string `json:"name_pattern,omitempty" maxLength:"128" doc:"What the agent may be called; * stands for any text"`
		Owner       string `json:"owner,omitempty" maxLength:"128"`
		CIDR        string `json:"cidr,omitempty" maxLength:"64" doc:"Network that it may enrol from"`
		Expires     string `json:"expires,omitempty" maxLength:"32" doc:"How long it can be used, such as 1h, which it is when not given; at most 30d"`
	}
}

type agentTokenOutput struct {
	CacheControl string `header:"Cache-Control"`
	Body         NewAgentToken
}

func (s *Server) createAgentToken(ctx context.Context, in *createAgentTokenInput) (*agentTokenOutput, error) {
	f, err := s.fleet()
	if err != nil {
		return nil, err
	}
	life, err := parsePeriod(in.Body.Expires)
	if err != nil {
		return nil, err
	}
	t, text, err := f.CreateToken(ctx, fleet.TokenSpec{NamePattern: in.Body.NamePattern, Owner: in.Body.Owner, CIDR: in.Body.CIDR, Expires: life}, actorOf(ctx), now())
	return &agentTokenOutput{"no-store", NewAgentToken{viewAgentToken(&t), text}}, err
}

func (s *Server) revokeAgentToken(ctx context.Context, in *assignmentInput) (*struct{}, error) {
	f, err := s.fleet()
	if err != nil {
		return nil, err
	}
	if !db.ValidID(in.ID) {
		return nil, fault.New(fault.NotFound, "there is no enrolment token with this id")
	}
	return nil, f.EndToken(ctx, in.ID, actorOf(ctx), now())
}
