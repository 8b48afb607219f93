package server

import (
	"context"
	"encoding/json/v2"
	"errors"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
)

// State is what an agent may do.
type State string

// States of an agent.
const (
	Active  State = "active"
	Cloned  State = "cloned"  // two programs used its identity; neither may, until it is enrolled again
	Revoked State = "revoked" // by an operator
)

// Agent is a program on a host that puts certificates into service there.
type Agent struct {
	ID, Name, Owner string
	State           State
	CertEnd         time.Time // of its identity
	Generation      int64
	Version         string
	Address         string   // it last started from
	Targets         []string // that its configuration has
	EnrolledAt      time.Time
	StartedAt       time.Time // zero: never
	SeenAt          time.Time // zero: never; of its last question, written within half a minute
	Parked          bool      // its question is held by this process now

	certHash, certBefore []byte
	instance             string
}

// AssignmentState is how far an assignment is.
type AssignmentState string

// States of an assignment.
const (
	Assigned AssignmentState = "new"    // no certificate yet
	Issued   AssignmentState = "issued" // the agent has yet to put it into service
	Live     AssignmentState = "live"   // every target serves it
	Failed   AssignmentState = "failed" // to be tried again
)

// Assignment is a certificate that an agent keeps in service.
type Assignment struct {
	ID, AgentID    string
	Names, Targets []string
	Profile        string
	State          AssignmentState
	LeafHash       []byte    // SHA-256 of the newest certificate; nil: none yet
	NotAfter       time.Time // of it
	IssueAt        time.Time // when the next is issued
	DeliverAt      time.Time // when the agent is asked next; zero: it need not be
	Attempt        int       // failures in a row
	Error, Stderr  string    // of the last failure
	Took           time.Duration
	CreatedBy      string
	CreatedAt      time.Time
	ReportedAt     time.Time

	csr   []byte
	chain string
}

const agentColumns = `id, name, owner, state, cert_hash, cert_before, cert_end, generation, instance, version, address, targets, enrolled_at, started_at, seen_at`

const assignmentColumns = `id, agent_id, names, targets, profile, state, csr, chain, leaf_hash, not_after, issue_at, deliver_at, attempt, error, stderr, took_ms, created_by, created_at, reported_at`

var (
	qAgent       = db.SQL("fleet.get_agent", `SELECT `+agentColumns+` FROM agent WHERE id = $1`)
	qAgentByName = db.SQL("fleet.get_agent_by_name", `SELECT `+agentColumns+` FROM agent WHERE name = $1`)
	qInsertAgent = db.SQL("fleet.insert_agent", `INSERT INTO agent (id, name, owner, state, cert_hash, cert_end, generation, instance, version, address, targets, enrolled_at)
		VALUES ($1, $2, $3, 'active', $4, $5, 1, $6, $7, $8, '[]', $9)`)
	qReenroll = db.SQL("fleet.reenroll_agent", `UPDATE agent SET owner = $2, state = 'active', cert_hash = $3, cert_before = NULL, cert_end = $4,
		generation = $5, instance = $6, version = $7, address = $8, enrolled_at = $9 WHERE id = $1 AND state <> 'active'`)
	qAdvance = db.SQL("fleet.advance_agent", `UPDATE agent SET generation = $2, instance = $3, version = $4, address = $5, targets = $6, started_at = $7, seen_at = $7
		WHERE id = $1 AND generation = $8 AND instance = $9 AND state = 'active'`)
	qRenew = db.SQL("fleet.renew_agent", `UPDATE agent SET generation = $2, instance = $3, cert_hash = $4, cert_before = $5, cert_end = $6
		WHERE id = $1 AND generation = $7 AND instance = $8 AND state = 'active'`)
	qEnd  = db.SQL("fleet.end_agent", `UPDATE agent SET state = $2 WHERE id = $1 AND state <> 'revoked' AND state <> $2`)
	qSeen = db.SQL("fleet.touch_agents", `UPDATE agent SET seen_at = $2 WHERE id = ANY($1::text[])`)

	qAssignment   = db.SQL("fleet.get_assignment", `SELECT `+assignmentColumns+` FROM agent_assignment WHERE id = $1`)
	qAssignments  = db.SQL("fleet.list_assignments", `SELECT `+assignmentColumns+` FROM agent_assignment WHERE agent_id = $1 AND id > $2 ORDER BY id LIMIT $3`)
	qInsertAssign = db.SQL("fleet.insert_assignment", `INSERT INTO agent_assignment (id, agent_id, names, targets, profile, state, chain, issue_at, deliver_at, lease_token, attempt, error, stderr, took_ms, created_by, created_at)
		VALUES ($1, $2, $3, $4, $5, 'new', '', $6, $6, '', 0, '', '', 0, $7, $6)`)
	qDeleteAssign = db.SQL("fleet.delete_assignment", `DELETE FROM agent_assignment WHERE id = $1`)
	qIssueNow     = db.SQL("fleet.issue_assignment_now", `UPDATE agent_assignment SET issue_at = $2, lease_token = '' WHERE id = $1`)
	qForgetKeys   = db.SQL("fleet.restart_assignments", `UPDATE agent_assignment SET state = 'new', csr = NULL, chain = '', issue_at = $2, deliver_at = $2, lease_token = '' WHERE agent_id = $1`)

	// What an agent has to do, and the lease with which it is told.
	qTasks   = db.SQL("fleet.list_tasks", `SELECT `+assignmentColumns+` FROM agent_assignment WHERE agent_id = $1 AND deliver_at <= $2 ORDER BY id LIMIT $3`)
	qOffered = db.SQL("fleet.offer_tasks", `UPDATE agent_assignment SET deliver_at = $3 WHERE id = ANY($1::text[]) AND deliver_at <= $2`)
	qPending = db.SQL("fleet.count_pending", `SELECT count(*) FROM agent_assignment WHERE agent_id = $1 AND csr IS NOT NULL AND (issue_at <= $2 OR lease_token <> '')`)
	qAgain   = db.SQL("fleet.offer_again", `UPDATE agent_assignment SET deliver_at = $2 WHERE agent_id = $1 AND deliver_at > $2`)
	qWake    = db.SQL("fleet.list_offers", `SELECT agent_id FROM agent_assignment WHERE deliver_at > $1 AND deliver_at <= $2 LIMIT 10000`)

	// What is to be issued.
	qDue = db.SQL("fleet.list_due", `SELECT id FROM agent_assignment s WHERE issue_at <= $1 AND csr IS NOT NULL
		AND EXISTS (SELECT 1 FROM agent a WHERE a.id = s.agent_id AND a.state = 'active') ORDER BY issue_at LIMIT $2`)
	qClaim  = db.SQL("fleet.claim_assignment", `UPDATE agent_assignment SET lease_token = $2, issue_at = $3 WHERE id = $1 AND issue_at <= $4 AND csr IS NOT NULL`)
	qIssued = db.SQL("fleet.store_certificate", `UPDATE agent_assignment SET state = 'issued', csr = NULL, chain = $3, leaf_hash = $4, not_after = $5,
		issue_at = $6, deliver_at = $7, attempt = 0, error = '', stderr = '', lease_token = '' WHERE id = $1 AND lease_token = $2`)
	qStillIssuing = db.SQL("fleet.await_issue", `UPDATE agent_assignment SET issue_at = $3, lease_token = '' WHERE id = $1 AND lease_token = $2`)
	qNotIssued    = db.SQL("fleet.postpone_issue", `UPDATE agent_assignment SET issue_at = $3, attempt = attempt + 1, error = $4, lease_token = '' WHERE id = $1 AND lease_token = $2`)

	// What an agent reports; each names its agent, so that none speaks for another.
	qRequested = db.SQL("fleet.store_request", `UPDATE agent_assignment SET csr = $3, deliver_at = NULL, reported_at = $4 WHERE id = $1 AND agent_id = $2 AND chain = ''`)
	qLive      = db.SQL("fleet.store_live", `UPDATE agent_assignment SET state = 'live', csr = $4, deliver_at = $5, attempt = 0, error = '', stderr = '', took_ms = $6, reported_at = $7
		WHERE id = $1 AND agent_id = $2 AND leaf_hash = $3 AND deliver_at IS NOT NULL`)
	qFailed = db.SQL("fleet.store_failure", `UPDATE agent_assignment SET state = 'failed', deliver_at = $4, attempt = attempt + 1, error = $5, stderr = $6, took_ms = $7, reported_at = $8
		WHERE id = $1 AND agent_id = $2 AND leaf_hash = $3 AND deliver_at IS NOT NULL`)
	qKeyLost = db.SQL("fleet.store_key_loss", `UPDATE agent_assignment SET state = 'failed', csr = $4, chain = '', deliver_at = NULL, issue_at = $5, attempt = attempt + 1, error = $6, stderr = '', reported_at = $7
		WHERE id = $1 AND agent_id = $2 AND leaf_hash = $3 AND deliver_at IS NOT NULL`)
)

func scanAgent(r *db.Row) Agent {
	a := Agent{ID: r.Text(), Name: r.Text(), Owner: r.Text(), State: State(r.Text()), certHash: r.Bytes(), certBefore: r.Bytes(), CertEnd: r.Time(),
		Generation: r.Int64(), instance: r.Text(), Version: r.Text(), Address: r.Text()}
	a.Targets = list(r.Text())
	a.EnrolledAt, a.StartedAt, a.SeenAt = r.Time(), r.Time(), r.Time()
	return a
}

func scanAssignment(r *db.Row) Assignment {
	a := Assignment{ID: r.Text(), AgentID: r.Text(), Names: list(r.Text()), Targets: list(r.Text()), Profile: r.Text(), State: AssignmentState(r.Text()),
		csr: r.Bytes(), chain: r.Text(), LeafHash: r.Bytes(), NotAfter: r.Time(), IssueAt: r.Time(), DeliverAt: r.Time(), Attempt: r.Int(), Error: r.Text(), Stderr: r.Text()}
	a.Took = time.Duration(r.Int64()) * time.Millisecond
	a.CreatedBy, a.CreatedAt, a.ReportedAt = r.Text(), r.Time(), r.Time()
	return a
}

// list reads a column that holds a list of texts.
func list(text string) (out []string) {
	if json.Unmarshal([]byte(text), &out) != nil {
		return nil // only ever written by encodeList
	}
	return out
}

func encodeList(l []string) string {
	if l == nil {
		l = []string{}
	}
	b, err := json.Marshal(l)
	if err != nil { // invalid UTF-8, which the checks before refuse
		return "[]"
	}
	return string(b)
}

// Get returns an agent by id or name, or a notFound fault.
func (s *Server) Get(ctx context.Context, ref string) (Agent, error) {
	q := qAgentByName
	if db.ValidID(ref) {
		q = qAgent
	}
	a, err := db.Get(ctx, s.cfg.DB.Read(), q, scanAgent, ref)
	if errors.Is(err, db.ErrNotFound) {
		return a, fault.New(fault.NotFound, "there is no agent %.140q; `chancery agents list` shows them", ref)
	}
	a.Parked = s.parked(a.ID)
	return a, err
}

// Assignments returns up to limit assignments of an agent, after the one with
// id after.
func (s *Server) Assignments(ctx context.Context, agentID, after string, limit int) ([]Assignment, error) {
	return db.List(ctx, s.cfg.DB.Read(), qAssignments, scanAssignment, agentID, after, limit)
}

// Assignment returns one, or a notFound fault.
func (s *Server) Assignment(ctx context.Context, id string) (Assignment, error) {
	a, err := db.Get(ctx, s.cfg.DB.Read(), qAssignment, scanAssignment, id)
	if errors.Is(err, db.ErrNotFound) {
		return a, fault.New(fault.NotFound, "there is no assignment with this id; `chancery agents show AGENT` lists them")
	}
	return a, err
}
