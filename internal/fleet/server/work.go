package server

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/fleet"
	"chancery/internal/httpd"
	"chancery/internal/loop"
	"chancery/internal/pki"
)

// Bounds of the work.
const (
	issueBatch  = 64              // assignments claimed at once
	issueLease  = 2 * time.Minute // until another process may take one over
	issueAtOnce = 8
	firstRetry  = 30 * time.Second
	lastRetry   = time.Hour
	pendingLook = time.Minute // between looks at what a manager obtains; it tells when it is there
)

// retry returns how long after its nth failure a thing is tried again.
func retry(attempt int) time.Duration {
	return loop.Backoff{Base: firstRetry, Max: lastRetry}.Bound(attempt)
}

// AssignSpec describes an assignment to be made.
type AssignSpec struct {
	Agent   string // id or name
	Names   []string
	Targets []string
	Profile string // "": the usual one
	Issuer  string // of the configuration; "": the CA of agents
}

// Assign has an agent keep a certificate in service.
func (s *Server) Assign(ctx context.Context, spec AssignSpec, actor string, now time.Time) (Assignment, error) {
	agent, err := s.Get(ctx, spec.Agent)
	if err != nil {
		return Assignment{}, err
	}
	names, err := identifiers(spec.Names)
	if err != nil {
		return Assignment{}, err
	}
	if err := checkTargets(&agent, spec.Targets); err != nil {
		return Assignment{}, err
	}
	if s.cfg.Permit == nil {
		return Assignment{}, fault.New(fault.Precondition, "this server issues nothing for agents")
	}
	if err := s.cfg.Permit(names, spec.Profile, spec.Issuer); err != nil {
		return Assignment{}, err
	}
	values := make([]string, len(names))
	for i := range names {
		values[i] = names[i].Value
	}
	now = now.UTC().Truncate(time.Millisecond)
	a := Assignment{ID: db.NewID(now), AgentID: agent.ID, Names: values, Targets: spec.Targets, Profile: spec.Profile, State: Assigned, IssueAt: now, DeliverAt: now, CreatedBy: actor, CreatedAt: now}
	if spec.Issuer != "" {
		// First: what is managed for nobody is removed by and by, and what is
		// assigned and not managed would come from another CA.
		if err := s.cfg.Manager.Manage(ctx, Order{Assignment: a.ID, Agent: agent.ID, Owner: agent.Owner, Names: names, Profile: a.Profile}, spec.Issuer, actor); err != nil {
			return Assignment{}, err
		}
	}
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qInsertAssign, nil, a.ID, a.AgentID, encodeList(values), encodeList(a.Targets), a.Profile, now, actor)
		return s.journal(tx, "agent.assign", &a, actor, now)
	})
	s.Wake(agent.ID)
	return a, err
}

func (s *Server) journal(tx *db.Tx, kind audit.Kind, a *Assignment, actor string, now time.Time) error {
	return audit.Append(tx, audit.Entry{At: now, Kind: kind, Actor: actor, Subject: "agent:" + a.AgentID,
		Data: map[string]any{"assignment": a.ID, "names": a.Names, "targets": a.Targets}})
}

func identifiers(names []string) ([]pki.Identifier, error) {
	if len(names) == 0 || len(names) > 100 {
		return nil, fault.New(fault.Invalid, "a certificate has 1 to 100 names")
	}
	ids := make([]pki.Identifier, len(names))
	for i, n := range names {
		id, err := pki.ParseIdentifier(pki.DNS, n)
		if ip, e := pki.ParseIdentifier(pki.IP, n); e == nil {
			id, err = ip, nil
		}
		if err != nil {
			return nil, err
		}
		ids[i] = id
	}
	ids = slices.Compact(pki.SortIdentifiers(ids))
	return ids, nil
}

// checkTargets refuses targets that the agent has never named.
func checkTargets(a *Agent, targets []string) error {
	if len(targets) == 0 || len(targets) > 16 {
		return fault.New(fault.Invalid, "name 1 to 16 targets of agent %s; it has %s", a.Name, strings.Join(a.Targets, ", "))
	}
	for i, t := range targets {
		if !slices.Contains(a.Targets, t) || slices.Contains(targets[:i], t) {
			return fault.New(fault.Invalid, "agent %s has no target %.80q, or it is named twice; it has: %s", a.Name, t, strings.Join(a.Targets, ", "))
		}
	}
	return nil
}

// Unassign ends an assignment. What the agent has in service stays there.
func (s *Server) Unassign(ctx context.Context, id, actor string, now time.Time) error {
	a, err := s.Assignment(ctx, id)
	if err != nil {
		return err
	}
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qDeleteAssign, db.ExactlyOne(fault.New(fault.Conflict, "the assignment has ended meanwhile")), id)
		return s.journal(tx, "agent.unassign", &a, actor, now)
	})
	if err != nil || s.cfg.Manager == nil {
		return err
	}
	return s.cfg.Manager.Unmanage(ctx, id, actor)
}

// RenewNow has the next certificate of an assignment issued at once.
func (s *Server) RenewNow(ctx context.Context, id, actor string, now time.Time) (Assignment, error) {
	a, err := s.Assignment(ctx, id)
	if err != nil {
		return a, err
	}
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qIssueNow, db.ExactlyOne(fault.New(fault.Conflict, "the assignment has ended meanwhile")), id, now)
		return s.journal(tx, "agent.issue_now", &a, actor, now)
	})
	if err == nil && s.cfg.Manager != nil {
		err = s.cfg.Manager.Hurry(ctx, id, actor)
	}
	loop.Nudge(s.issue)
	a.IssueAt = now
	return a, err
}

// issueDue obtains the certificates that are due and whose keys are known.
func (s *Server) issueDue(ctx context.Context) (loop.Count, error) {
	now := time.Now().UTC()
	ids, err := db.List(ctx, s.cfg.DB.Read(), qDue, (*db.Row).Text, now, issueBatch)
	if err != nil || len(ids) == 0 {
		return loop.Count{}, err
	}
	lease := db.NewID(now)
	var mine []string
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		mine = mine[:0] // it may run twice
		for _, id := range ids {
			tx.Queue(qClaim, func(n int64) error {
				if n == 1 {
					mine = append(mine, id)
				}
				return nil
			}, id, lease, now.Add(issueLease), now)
		}
		return nil
	})
	if err != nil {
		return loop.Count{}, err
	}
	c, err := loop.Each(mine, issueAtOnce, func(id *string) error { return s.issueOne(ctx, *id, lease) })
	c.More = len(ids) == issueBatch
	return c, err
}

// issueOne obtains one certificate, and has its agent told.
func (s *Server) issueOne(ctx context.Context, id, lease string) error {
	a, err := s.Assignment(ctx, id)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	agent, err := db.Get(ctx, s.cfg.DB.Read(), qAgent, scanAgent, a.AgentID)
	if err != nil {
		return err
	}
	chain, leaf, err := s.obtain(ctx, &a, &agent)
	now := time.Now().UTC()
	if errors.Is(err, ErrPending) {
		return s.cfg.DB.Write(ctx, func(tx *db.Tx) error { tx.Queue(qStillIssuing, nil, id, lease, now.Add(pendingLook)); return nil })
	}
	if err != nil {
		s.meters.issued.WithLabelValues("failed").Inc()
		s.log.WarnContext(ctx, "certificate for an agent not issued", "agent", agent.Name, "assignment", id, "error", err)
		return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
			tx.Queue(qNotIssued, nil, id, lease, now.Add(retry(a.Attempt)), "issue: "+fleet.Clip(fault.As(err).Detail))
			return nil
		})
	}
	s.meters.issued.WithLabelValues("ok").Inc()
	hash := sha256.Sum256(chain[0])
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qIssued, db.ExactlyOne(fmt.Errorf("assignment %s: lease lost", id)), id, lease, string(pki.EncodeChain(chain...)), hash[:], leaf.NotAfter, renewAt(a.ID, leaf), now)
		return nil
	})
	s.Wake(a.AgentID)
	return err
}

// obtain has a certificate issued and looks at what came back.
func (s *Server) obtain(ctx context.Context, a *Assignment, agent *Agent) ([][]byte, *x509.Certificate, error) {
	names, err := identifiers(a.Names)
	if err != nil {
		return nil, nil, err
	}
	chain, err := s.cfg.Issue(ctx, Order{Assignment: a.ID, Agent: agent.ID, Owner: agent.Owner, Names: names, Profile: a.Profile, CSR: a.csr, Needed: a.chain == ""})
	if err != nil {
		return nil, nil, err
	}
	leaf, err := x509.ParseCertificate(chain[0])
	return chain, leaf, err
}

// renewAt spreads renewals: after two thirds of the life, and up to a tenth
// of it later, always the same for one assignment and certificate.
func renewAt(id string, leaf *x509.Certificate) time.Time {
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	sum := sha256.Sum256(append([]byte(id), leaf.SerialNumber.Bytes()...))
	part := time.Duration(binary.BigEndian.Uint32(sum[:]) % 1000)
	return leaf.NotBefore.Add(life*2/3 + life/10*part/1000)
}

// report stores what an agent did.
func (s *Server) report(r *httpd.Request) (*httpd.Reply, error) {
	now := time.Now().UTC()
	var m fleet.Report
	if err := message(r, &m); err != nil {
		return nil, err
	}
	a, _, err := s.authenticate(r, now)
	if err != nil {
		return nil, err
	}
	if _, err := s.check(r.Context(), &a, &m.Session, now); err != nil {
		return nil, err
	}
	if len(m.Results) > fleet.MaxBatch {
		return nil, fault.New(fault.Malformed, "a report has at most %d results", fleet.MaxBatch)
	}
	for i := range m.Results {
		if err := checkResult(&m.Results[i]); err != nil {
			return nil, err
		}
	}
	attempts, err := s.attemptsOf(r.Context(), m.Results)
	if err != nil {
		return nil, err
	}
	err = s.cfg.DB.Write(r.Context(), func(tx *db.Tx) error {
		for i := range m.Results {
			if err := s.store(tx, &a, &m.Results[i], attempts[m.Results[i].ID], now); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := s.requested(r.Context(), m.Results); err != nil {
		return nil, err
	}
	loop.Nudge(s.issue)
	return httpd.JSON(http.StatusOK, fleet.Received{Results: len(m.Results)})
}

// requested tells the manager which requests there are. The agent repeats a
// report that was not answered, so none is lost.
func (s *Server) requested(ctx context.Context, results []fleet.Result) error {
	for i := range results {
		if len(results[i].CSR) == 0 || s.cfg.Manager == nil {
			continue
		}
		if err := s.cfg.Manager.Requested(ctx, results[i].ID); err != nil {
			return err
		}
	}
	return nil
}

// Request returns the certificate request of an assignment (DER), or nil; a
// notFound fault when there is no such assignment.
func (s *Server) Request(ctx context.Context, id string) ([]byte, error) {
	a, err := s.Assignment(ctx, id)
	return a.csr, err
}

// Ready has a certificate that a manager obtained handed to its agent.
func (s *Server) Ready(ctx context.Context, id string) error {
	err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error { tx.Queue(qIssueNow, nil, id, time.Now().UTC()); return nil })
	loop.Nudge(s.issue)
	return err
}

func checkResult(r *fleet.Result) error {
	if !db.ValidID(r.ID) || len(r.Leaf) != 0 && len(r.Leaf) != sha256.Size || r.TookMS < 0 {
		return fault.New(fault.Malformed, "a result names an assignment and, if any, the SHA-256 of a certificate")
	}
	r.Error, r.Stderr = fleet.Clip(r.Error), fleet.Clip(r.Stderr)
	if len(r.CSR) == 0 {
		return nil
	}
	_, err := pki.ParseCSR(r.CSR, fleet.MaxCSR)
	return err
}

// attemptsOf reads how often the deployments that failed had failed before.
func (s *Server) attemptsOf(ctx context.Context, results []fleet.Result) (map[string]int, error) {
	out := map[string]int{}
	for i := range results {
		if results[i].Live || len(results[i].Leaf) == 0 {
			continue
		}
		a, err := s.Assignment(ctx, results[i].ID)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return nil, err
		}
		out[results[i].ID] = a.Attempt
	}
	return out, nil
}

// store keeps one result. Results about what is not asked any more, or not of
// this agent, change nothing.
func (s *Server) store(tx *db.Tx, a *Agent, r *fleet.Result, attempt int, now time.Time) error {
	note := func(result string) func(int64) error {
		return func(n int64) error {
			if n == 1 {
				s.meters.deployments.WithLabelValues(result).Inc()
			}
			return nil
		}
	}
	entry := audit.Entry{At: now, Kind: "agent.deploy", Actor: "agent:" + a.Name, Subject: "agent:" + a.ID,
		Data: map[string]any{"assignment": r.ID, "sha256": fmt.Sprintf("%x", r.Leaf), "live": r.Live, "error": r.Error}}
	switch {
	case len(r.Leaf) == 0 && len(r.CSR) > 0:
		tx.Queue(qRequested, nil, r.ID, a.ID, r.CSR, now)
		return nil
	case len(r.Leaf) == 0:
		return nil
	case r.Live:
		var csr, again any = r.CSR, nil
		if len(r.CSR) == 0 {
			csr, again = nil, now // asked for once more
		}
		tx.Queue(qLive, note("live"), r.ID, a.ID, r.Leaf, csr, again, r.TookMS, now)
	case len(r.CSR) > 0:
		tx.Queue(qKeyLost, note("key_lost"), r.ID, a.ID, r.Leaf, r.CSR, now.Add(retry(attempt)), r.Error, now)
	default:
		tx.Queue(qFailed, note("failed"), r.ID, a.ID, r.Leaf, now.Add(retry(attempt)), r.Error, r.Stderr, r.TookMS, now)
	}
	return audit.Append(tx, entry)
}
