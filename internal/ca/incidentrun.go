package ca

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/loop"
)

const (
	// incidentLease is how long a replica may be silent before another one goes
	// on with its incident. It is renewed by each chunk.
	incidentLease = 30 * time.Second
	// settle is how long after an incident was made a certificate may still
	// appear whose intent is older: an issuance that was under way, a
	// transaction that commits late. The last search begins after it.
	settle = 2 * time.Minute
	// incidentTurn is how long one tick works on one incident.
	incidentTurn = 10 * time.Second
)

var (
	// due_at is both: when there is something to do, and when a lease ends.
	qClaimIncident = db.SQL("ca.claim_incident", `UPDATE incident SET due_at = $2, lease_token = $3
		WHERE id IN (SELECT id FROM incident WHERE state IN ('marking', 'waiting', 'revoking') AND due_at <= $1
			ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
		RETURNING `+incidentColumns)
	qAdvance = db.SQL("ca.advance_incident", `UPDATE incident SET state = $3, position = $4, marked = marked + $5, revoked = revoked + $6,
		skipped = skipped + $7, due_at = $8, finished_at = $9, pass_at = $10 WHERE id = $1 AND lease_token = $2 AND state IN ('marking', 'waiting', 'revoking')`)

	qMark = db.SQL("ca.mark_certificates", `UPDATE certificate SET incident_id = $1
		WHERE id = ANY($2::text[]) AND state = 'issued' AND revoked_at IS NULL
		AND (incident_id IS NULL OR incident_id <> $1 AND incident_id NOT IN
			(SELECT id FROM incident WHERE state IN ('marking', 'waiting', 'revoking') AND revoke_at <= $3))`)
	qMarked = db.SQL("ca.list_marked", `SELECT id FROM certificate WHERE incident_id = $1 AND id > $2 ORDER BY id LIMIT $3`)
)

// errLease means that another replica took an incident over, or that it was
// cancelled.
var errLease = errors.New("the lease of the incident is lost")

// RunIncidents is the tick of the loop that does the work of incidents: it
// claims one and goes on with it for a while. Done counts the certificates that
// it revoked or marked; whoever runs the loop tells the status service (Wake)
// once when it is not 0.
func (s *Service) RunIncidents(ctx context.Context) (n loop.Count, err error) {
	now := time.Now()
	token := db.NewID(now)
	var claimed []Incident
	err = s.db.Write(ctx, func(tx *db.Tx) (err error) {
		claimed, err = db.List(ctx, tx, qClaimIncident, scanIncident, now, now.Add(incidentLease), token)
		return err
	})
	if err != nil || len(claimed) == 0 {
		return n, err
	}
	i := &claimed[0]
	n.Claimed, n.More = 1, true
	for end := now.Add(incidentTurn); i.State.Open() && time.Now().Before(end); {
		if i.State == IncidentWaiting && i.due().After(time.Now()) {
			break
		}
		done, err := s.step(ctx, i)
		n.Done += done
		if errors.Is(err, errLease) {
			return n, nil // whoever has it now goes on
		}
		if err != nil {
			n.Failed++
			return n, fmt.Errorf("work on incident %s: %w", i.ID, err)
		}
	}
	return n, s.release(ctx, i)
}

// settled reports whether the last search for certificates saw all there are.
func (i *Incident) settled() bool { return !i.passAt.Before(i.CreatedAt.Add(settle)) }

// revokedOnce is the position of an incident that waits for its last look only.
const revokedOnce = "revoked"

// due is when a waiting incident has something to do: to look again, or to
// revoke.
func (i *Incident) due() time.Time {
	look := i.CreatedAt.Add(settle)
	if i.settled() || i.position != revokedOnce && i.RevokeAt.Before(look) {
		return i.RevokeAt
	}
	return look
}

// release gives the lease back, so that the next tick need not wait for its end.
func (s *Service) release(ctx context.Context, i *Incident) error {
	if !i.State.Open() {
		return nil
	}
	due := time.Now()
	if i.State == IncidentWaiting {
		due = i.due()
	}
	err := s.advance(ctx, i, i.State, i.position, progress{due: due}, nil)
	if errors.Is(err, errLease) {
		return nil
	}
	return err
}

// step does one chunk of an incident, in one transaction with its progress, and
// returns how many certificates it changed.
func (s *Service) step(ctx context.Context, i *Incident) (changed int, err error) {
	fault.Point("ca.incident_step")
	switch i.State {
	case IncidentMarking:
		return s.markStep(ctx, i)
	case IncidentWaiting:
		next := IncidentRevoking
		if !i.settled() && !time.Now().Before(i.CreatedAt.Add(settle)) {
			next = IncidentMarking
		}
		return 0, s.advance(ctx, i, next, "", progress{}, nil)
	}
	return s.revokeStep(ctx, i)
}

// progress is what one chunk adds to an incident.
type progress struct {
	marked, revoked, skipped int64
	due                      time.Time // zero: the lease is renewed
}

// advance runs work and moves i, in one transaction, if the lease still holds.
func (s *Service) advance(ctx context.Context, i *Incident, state IncidentState, position string, p progress, work func(*db.Tx, *progress) error) error {
	now := time.Now()
	if p.due.IsZero() {
		p.due = now.Add(incidentLease)
	}
	var finished time.Time
	if !state.Open() {
		finished = now
	}
	total := p
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		total = p
		if work != nil {
			if err := work(tx, &total); err != nil {
				return err
			}
		}
		tx.Queue(qAdvance, db.ExactlyOne(errLease), i.ID, i.token, state, position, total.marked, total.revoked, total.skipped, total.due, finished, i.passAt)
		if finished.IsZero() {
			return nil
		}
		return i.journal(tx, "incident.finish", "system", map[string]any{"marked": i.Marked, "revoked": i.Revoked + total.revoked})
	})
	if err != nil {
		return err
	}
	i.State, i.position, i.FinishedAt = state, position, finished
	i.Marked, i.Revoked, i.Skipped = i.Marked+total.marked, i.Revoked+total.revoked, i.Skipped+total.skipped
	return nil
}

// markStep moves the renewal windows of one page of certificates.
func (s *Service) markStep(ctx context.Context, i *Incident) (marked int, err error) {
	now := time.Now()
	if i.position == "" {
		i.passAt = now
	}
	found, next, err := i.Selection.page(ctx, s.db.Read(), i.position, revokeChunk, i.CreatedAt, now)
	if err != nil {
		return 0, err
	}
	state := IncidentMarking
	if next == "" {
		state = IncidentWaiting
	}
	ids := make([]string, len(found))
	for j := range found {
		ids[j] = found[j].ID
	}
	err = s.advance(ctx, i, state, next, progress{}, func(tx *db.Tx, p *progress) (err error) {
		if len(ids) > 0 {
			p.marked, err = tx.Exec(ctx, qMark, i.ID, ids, i.RevokeAt)
		}
		return err
	})
	return len(ids), err
}

// revokeStep revokes one chunk of what was marked. The journal gets one entry
// for the chunk, with the ids of all that it revoked.
func (s *Service) revokeStep(ctx context.Context, i *Incident) (revoked int, err error) {
	ids, err := db.List(ctx, s.db.Read(), qMarked, (*db.Row).Text, i.ID, i.position, revokeChunk)
	if err != nil {
		return 0, err
	}
	if len(ids) == 0 && i.settled() {
		return 0, s.advance(ctx, i, IncidentDone, "", progress{}, nil)
	}
	if len(ids) == 0 {
		return 0, s.advance(ctx, i, IncidentWaiting, revokedOnce, progress{}, nil)
	}
	r := Revocation{Reason: i.Reason, Actor: i.Actor, BlockKey: i.BlockKeys}
	err = s.advance(ctx, i, IncidentRevoking, ids[len(ids)-1], progress{}, func(tx *db.Tx, p *progress) error {
		done, err := revokeIn(ctx, tx, ids, r, "keyCompromise in incident "+i.ID)
		if err != nil {
			return err
		}
		revoked = len(done)
		p.revoked, p.skipped = int64(revoked), int64(len(ids)-revoked)
		if revoked == 0 {
			return nil
		}
		all := make([]string, revoked)
		for j := range done {
			all[j] = done[j].ID
		}
		return i.journal(tx, RevokeBatch, i.Actor, map[string]any{"reason": i.Reason.String(), "certificates": all})
	})
	return revoked, err
}
