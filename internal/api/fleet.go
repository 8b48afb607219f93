package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	fleet "chancery/internal/fleet/server"
)

func (s *Server) fleetOperations() {
	tag := []string{"Agents"}
	register(s, huma.Operation{OperationID: "get-fleet", Method: http.MethodGet, Path: "/fleet", Tags: tag, Summary: "The whole fleet in numbers: agents by version and state, assignments by state"}, s.getFleet)
	register(s, huma.Operation{OperationID: "list-fleet-assignments", Method: http.MethodGet, Path: "/assignments", Tags: tag, Summary: "List what all agents keep in service, the newest first"}, s.listFleetAssignments)
	register(s, huma.Operation{OperationID: "get-assignment", Method: http.MethodGet, Path: "/assignments/{id}", Tags: tag, Summary: "Show one assignment"}, s.getAssignment)
}

// Fleet is the whole fleet in numbers.
type Fleet struct {
	Versions    []FleetVersion   `json:"versions" nullable:"false"`
	Assignments map[string]int64 `json:"assignments" nullable:"false" doc:"How many are new, issued, live, failed"`
}

// FleetVersion is how many agents run a version.
type FleetVersion struct {
	Version string      `json:"version"`
	State   fleet.State `json:"state" enum:"active,cloned,revoked"`
	Count   int64       `json:"count"`
	Silent  int64       `json:"silent" doc:"Of them, those that have not been seen for 15 minutes"`
}

func (s *Server) getFleet(ctx context.Context, _ *struct{}) (*bodyOf[Fleet], error) {
	f, err := s.fleet()
	if err != nil {
		return nil, err
	}
	c, err := f.Census(ctx, now())
	if err != nil {
		return nil, err
	}
	v := Fleet{Versions: make([]FleetVersion, len(c.Versions)), Assignments: map[string]int64{}}
	for state, n := range c.Assignments {
		v.Assignments[string(state)] = n
	}
	for i, n := range c.Versions {
		v.Versions[i] = FleetVersion{n.Version, n.State, n.N, n.Silent}
	}
	return &bodyOf[Fleet]{v}, nil
}

// FleetAssignment is an assignment with the name of its agent.
type FleetAssignment struct {
	Assignment
	Agent string `json:"agent" doc:"Name of the agent"`
}

type listFleetAssignmentsInput struct {
	ListInput
	State string `query:"state" enum:"new,issued,live,failed" doc:"Only those in this state"`
}

func (s *Server) listFleetAssignments(ctx context.Context, in *listFleetAssignmentsInput) (*pageOf[FleetAssignment], error) {
	f, err := s.fleet()
	if err != nil {
		return nil, err
	}
	before, err := decodeID(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := f.Placed(ctx, fleet.AssignmentState(in.State), before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(p *fleet.Placed) string { return p.ID },
		func(p *fleet.Placed) FleetAssignment { return FleetAssignment{viewAssignment(&p.Assignment), p.Agent} }), nil
}

func (s *Server) getAssignment(ctx context.Context, in *assignmentInput) (*bodyOf[Assignment], error) {
	f, err := s.fleet()
	if err != nil {
		return nil, err
	}
	a, err := f.Assignment(ctx, in.ID)
	return &bodyOf[Assignment]{viewAssignment(&a)}, err
}
