package server

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"chancery/internal/db"
)

// SilentAfter is how long after its last question an agent counts as silent.
// One that cannot park comes back every five minutes; one that is parked asks
// again after ten at most.
const SilentAfter = 15 * time.Minute

// Census is the whole fleet in numbers.
type Census struct {
	Versions    []VersionCount
	Assignments map[AssignmentState]int64
}

// VersionCount is how many agents of a version are in a state, and how many of
// them have not been seen for SilentAfter.
type VersionCount struct {
	Version   string
	State     State
	N, Silent int64
}

// Filter narrows a list of agents; its zero value is everybody.
type Filter struct {
	State   State
	Version string
	Silent  bool // not seen for SilentAfter
}

// Placed is an assignment with the name of its agent.
type Placed struct {
	Assignment
	Agent string
}

var (
	qVersions = db.SQL("fleet.count_versions", `SELECT version, state, count(*), sum(CASE WHEN seen_at IS NULL OR seen_at < $1 THEN 1 ELSE 0 END)::bigint
		FROM agent GROUP BY version, state ORDER BY version, state LIMIT 1000`, db.Scan("a fleet is tens of thousands of rows at most, and people look at it"), db.Long("the same"))
	qWork = db.SQL("fleet.count_assignments", `SELECT state, count(*) FROM agent_assignment GROUP BY state`, db.Scan("one walk over the index by state"), db.Long("the same"))
	qFind = db.SQL("fleet.find_agents", `SELECT `+agentColumns+` FROM agent WHERE name > $1 AND ($3::text = '' OR state = $3::text) AND ($4::text = '' OR version = $4::text)
		AND ($5::bigint = 0 OR seen_at IS NULL OR seen_at < $5::bigint) ORDER BY name LIMIT $2`)

	placedColumns = "s." + strings.ReplaceAll(assignmentColumns, ", ", ", s.") + ", a.name"
	qPlaced       = db.SQL("fleet.list_placed", `SELECT `+placedColumns+` FROM agent_assignment s JOIN agent a ON a.id = s.agent_id
		WHERE s.id < $1 ORDER BY s.id DESC LIMIT $2`)
	qPlacedIn = db.SQL("fleet.list_placed_in_state", `SELECT `+placedColumns+` FROM agent_assignment s JOIN agent a ON a.id = s.agent_id
		WHERE s.state = $3 AND s.id < $1 ORDER BY s.id DESC LIMIT $2`)
)

// Census counts the fleet.
func (s *Server) Census(ctx context.Context, now time.Time) (c Census, err error) {
	q := s.cfg.DB.Read()
	c.Versions, err = db.List(ctx, q, qVersions, func(r *db.Row) VersionCount {
		return VersionCount{r.Text(), State(r.Text()), r.Int64(), r.Int64()}
	}, now.Add(-SilentAfter))
	if err != nil {
		return c, fmt.Errorf("count agents: %w", err)
	}
	c.Assignments = map[AssignmentState]int64{Assigned: 0, Issued: 0, Live: 0, Failed: 0}
	err = q.All(ctx, qWork, func(r *db.Row) error {
		state := AssignmentState(r.Text())
		c.Assignments[state] = r.Int64()
		return nil
	})
	if err != nil {
		return c, fmt.Errorf("count assignments: %w", err)
	}
	return c, nil
}

// Find returns up to limit agents by name that f lets through, after the one
// named after.
func (s *Server) Find(ctx context.Context, f Filter, after string, limit int, now time.Time) ([]Agent, error) {
	silent := int64(0)
	if f.Silent {
		silent = now.Add(-SilentAfter).UnixMilli()
	}
	agents, err := db.List(ctx, s.cfg.DB.Read(), qFind, scanAgent, after, limit, f.State, f.Version, silent)
	if err != nil {
		return nil, fmt.Errorf("list agents: %w", err)
	}
	for i := range agents {
		agents[i].Parked = s.parked(agents[i].ID)
	}
	return agents, nil
}

// idEnd sorts after every id.
const idEnd = "\x7f"

// Placed returns up to limit assignments of the whole fleet, the newest first,
// before the one with id before ("" = from the newest), of a state ("" = any).
func (s *Server) Placed(ctx context.Context, state AssignmentState, before string, limit int) ([]Placed, error) {
	q, args := qPlaced, []any{cmp.Or(before, idEnd), limit}
	if state != "" {
		q, args = qPlacedIn, append(args, state)
	}
	all, err := db.List(ctx, s.cfg.DB.Read(), q, func(r *db.Row) Placed { return Placed{scanAssignment(r), r.Text()} }, args...)
	if err != nil {
		return nil, fmt.Errorf("list assignments: %w", err)
	}
	return all, nil
}
