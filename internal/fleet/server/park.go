package server

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/fleet"
	"chancery/internal/httpd"
	"chancery/internal/loop"
	"chancery/internal/pki"
)

// parked is a question that is held.
type parked struct {
	wake chan struct{} // capacity 1
}

// Times of the dialogue.
const (
	longestHold = 10 * time.Minute // an agent asks again well before it counts as silent
	holdRate    = 25               // questions per second that holds are stretched to
	offerLease  = 2 * time.Minute  // until a task that was given is given again
	pendingPoll = time.Second      // how soon --once looks for what is being issued
)

// Drain ends all held questions, for the end of the process.
func (s *Server) Drain() { s.drained.Do(func() { close(s.drain) }) }

// Wake lets an agent's held question look again.
func (s *Server) Wake(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.held[id]; p != nil {
		loop.Nudge(p.wake)
	}
}

// parked reports whether a question of an agent is held here.
func (s *Server) parked(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held[id] != nil
}

// park registers a question; nil when there are too many. An earlier one of
// the same agent is let go: its connection is gone, or a copy asks.
func (s *Server) park(id string, now time.Time) *parked {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[id] = now
	old := s.held[id]
	if old != nil {
		loop.Nudge(old.wake)
	} else if len(s.held) >= s.cfg.MaxParked {
		return nil
	}
	p := &parked{wake: make(chan struct{}, 1)}
	s.held[id] = p
	return p
}

func (s *Server) unpark(id string, p *parked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[id] == p {
		delete(s.held, id)
	}
}

// hold returns how long questions are held at most: longer when there are many,
// so that a fleet asks about holdRate times a second.
func (s *Server) hold() time.Duration {
	s.mu.Lock()
	n := len(s.held)
	s.mu.Unlock()
	return min(max(s.cfg.Hold, time.Duration(n)*time.Second/holdRate), max(longestHold, s.cfg.Hold))
}

// flush writes who was seen, in one statement.
func (s *Server) flush(ctx context.Context) (loop.Count, error) {
	s.mu.Lock()
	seen := s.seen
	s.seen = make(map[string]time.Time, len(seen))
	s.mu.Unlock()
	if len(seen) == 0 {
		return loop.Count{}, nil
	}
	var last time.Time
	ids := make([]string, 0, len(seen))
	for id, at := range seen {
		ids = append(ids, id)
		if at.After(last) {
			last = at
		}
	}
	slices.Sort(ids)
	err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error { tx.Queue(qSeen, nil, ids, last); return nil })
	return loop.Count{Claimed: len(ids), Done: len(ids)}, err
}

// offer wakes the agents that became due since the last look, whichever
// process made them so.
func (s *Server) offer(ctx context.Context) (loop.Count, error) {
	now := time.Now().UTC()
	s.mu.Lock()
	since := s.last
	s.mu.Unlock()
	// Rows that are committed late may have an earlier instant.
	ids, err := db.List(ctx, s.cfg.DB.Read(), qWake, (*db.Row).Text, since.Add(-5*time.Second), now)
	if err != nil {
		return loop.Count{}, err
	}
	s.mu.Lock()
	s.last = now
	s.mu.Unlock()
	for _, id := range ids {
		s.Wake(id)
	}
	return loop.Count{Claimed: len(ids), Done: len(ids)}, nil
}

func checkWait(m *fleet.Wait) error {
	if len(m.Targets) > fleet.MaxTargets || len(m.Version) > 128 || !utf8.ValidString(m.Version) {
		return fault.New(fault.Malformed, "an agent has at most %d targets", fleet.MaxTargets)
	}
	for _, t := range m.Targets {
		if !fleet.ValidTarget(t) {
			return fault.New(fault.Malformed, "%.80q is not the name of a target", t)
		}
	}
	return nil
}

// wait answers with what an agent has to do, and holds the question until
// there is something.
func (s *Server) wait(r *httpd.Request) (*httpd.Reply, error) {
	now := time.Now().UTC()
	var m fleet.Wait
	if err := message(r, &m); err != nil {
		return nil, err
	}
	a, _, err := s.authenticate(r, now)
	if err == nil {
		err = checkWait(&m)
	}
	if err != nil {
		return nil, err
	}
	if err := s.begin(r, &a, &m, now); err != nil {
		return nil, err
	}
	r.Quiet()
	p := s.park(a.ID, now)
	if p != nil {
		defer s.unpark(a.ID, p)
	}
	out, err := s.tasks(r.Context(), &a, now)
	if err == nil && len(out.Tasks) == 0 {
		switch {
		case m.Next != "": // it must write down that its session has begun
		case m.Once:
			err = s.pending(r.Context(), &a, out, now)
		case p == nil:
			out.AfterMS = s.cfg.CheckIn.Milliseconds()
		default:
			out, err = s.sleep(r, a.ID, a.Generation, p)
		}
	}
	if err != nil {
		return nil, err
	}
	return httpd.JSON(http.StatusOK, out)
}

// begin checks the session, and begins another if the agent has just started.
func (s *Server) begin(r *httpd.Request, a *Agent, m *fleet.Wait, now time.Time) error {
	repeated, err := s.check(r.Context(), a, &m.Session, now)
	if err != nil || m.Next == "" || repeated {
		return err
	}
	err = s.cfg.DB.Write(r.Context(), func(tx *db.Tx) error {
		tx.Queue(qAdvance, db.ExactlyOne(fault.New(fault.Conflict, "the agent asked twice at once; ask again").Retry(time.Second)),
			a.ID, a.Generation+1, m.Next, m.Version, r.ClientIP.Unmap().String(), encodeList(m.Targets), now, a.Generation, a.instance)
		tx.Queue(qAgain, nil, a.ID, now) // what an earlier run was given, or failed at
		return nil
	})
	if err != nil {
		return err
	}
	a.Generation, a.instance = a.Generation+1, m.Next
	s.Wake(a.ID) // a copy that is parked shall ask, and be found out
	return nil
}

// sleep holds a question until there is work, or its time is over.
func (s *Server) sleep(r *httpd.Request, id string, generation int64, p *parked) (*fleet.Tasks, error) {
	d := s.hold()
	d -= rand.N(d/5 + 1) // those who came together shall not come back together
	if err := r.Hold(d + 30*time.Second); err != nil {
		s.log.LogAttrs(r.Context(), slog.LevelDebug, "question cannot be held", slog.Any("error", err))
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-p.wake:
		case <-timer.C:
			return &fleet.Tasks{Generation: generation}, nil
		case <-s.drain:
			return &fleet.Tasks{Generation: generation}, nil
		case <-r.Context().Done():
			return nil, fault.New(fault.Unavailable, "the agent went away")
		}
		a, err := db.Get(r.Context(), s.cfg.DB.Read(), qAgent, scanAgent, id)
		if err != nil {
			return nil, err
		}
		if a.State != Active || a.Generation != generation {
			return &fleet.Tasks{Generation: generation}, nil // it asks again, and hears why
		}
		out, err := s.tasks(r.Context(), &a, time.Now().UTC())
		if err != nil || len(out.Tasks) > 0 {
			return out, err
		}
	}
}

// tasks returns what an agent has to do now, and leases it to it.
func (s *Server) tasks(ctx context.Context, a *Agent, now time.Time) (*fleet.Tasks, error) {
	out := &fleet.Tasks{Generation: a.Generation}
	rows, err := db.List(ctx, s.cfg.DB.Read(), qTasks, scanAssignment, a.ID, now, fleet.MaxBatch)
	if err != nil || len(rows) == 0 {
		return out, err
	}
	ids := make([]string, len(rows))
	for i := range rows {
		t := fleet.Task{ID: rows[i].ID, Names: rows[i].Names, Targets: rows[i].Targets}
		if rows[i].chain != "" {
			if t.Chain, err = pki.DecodeChain([]byte(rows[i].chain), 256<<10, 10); err != nil {
				return nil, err
			}
		}
		out.Tasks = append(out.Tasks, t)
		ids[i] = rows[i].ID
	}
	return out, s.cfg.DB.Write(ctx, func(tx *db.Tx) error { tx.Queue(qOffered, nil, ids, now, now.Add(offerLease)); return nil })
}

// pending says whether something is on its way to an agent that does not stay.
func (s *Server) pending(ctx context.Context, a *Agent, out *fleet.Tasks, now time.Time) error {
	n, err := db.Get(ctx, s.cfg.DB.Read(), qPending, (*db.Row).Int, a.ID, now)
	if out.Pending = n > 0; out.Pending {
		out.AfterMS = pendingPoll.Milliseconds()
	}
	return err
}
