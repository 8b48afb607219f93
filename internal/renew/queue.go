package renew

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/inventory"
	"chancery/internal/loop"
)

// LaneView is what a queue looks like from outside.
type LaneView struct {
	Kind       LaneKind
	Name       string
	Paused     bool
	Divert     string // issuer that gets what is due here
	Breaker    loop.BreakerState
	SleepUntil time.Time // it is not asked before, zero = now
	Waiting    int64     // due, not begun
	InFlight   int64     // being worked on in the whole fleet
	Cap        int       // most at once, issuers only
	Allowed    int       // of these, as many as it may have now
	Oldest     time.Time // since when the first of those waiting is due
	Next       time.Time // when the next one is due
	Error      string
}

var (
	qTargetsWaiting = db.SQL("renew.count_targets", `SELECT count(*) FROM managed_target WHERE target = $1 AND due_at IS NOT NULL AND due_at <= $2`)
	qTargetNames    = db.SQL("renew.list_target_names", `SELECT name FROM renew_lane WHERE kind = 'target' ORDER BY name`)
)

// Lanes returns the queue of every issuer and then that of every target, by
// name: those that are configured, and others that still have work.
func (e *Engine) Lanes(ctx context.Context) ([]LaneView, error) {
	names := map[string]bool{}
	for name := range e.issuers {
		names[name] = true
	}
	waiting, err := lanesOf(ctx, e.db.Read(), issue)
	if err != nil {
		return nil, err
	}
	for _, name := range waiting {
		names[name] = true
	}
	var out []LaneView
	for _, name := range sortedKeys(names) {
		v, err := e.issuerView(ctx, name)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	known, err := db.List(ctx, e.db.Read(), qTargetNames, (*db.Row).Text)
	if err != nil {
		return nil, err
	}
	names = map[string]bool{}
	for name := range e.targets {
		names[name] = true
	}
	for _, name := range known {
		names[name] = true
	}
	for _, name := range sortedKeys(names) {
		v, err := e.targetView(ctx, name)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// view is what kinds of lanes have in common.
func (l *Lane) view(now time.Time) LaneView {
	v := LaneView{Kind: l.Kind, Name: l.Name, Paused: l.Paused, Divert: l.Divert, Breaker: loop.Closed, SleepUntil: l.until(now), Error: l.Error}
	if l.open() {
		if v.Breaker = loop.HalfOpen; !v.SleepUntil.IsZero() {
			v.Breaker = loop.Open
		}
	}
	return v
}

func (e *Engine) issuerView(ctx context.Context, name string) (v LaneView, err error) {
	now, q := e.now(), e.db.Read()
	l, err := laneOf(ctx, q, IssuerLane, name)
	if err != nil {
		return v, err
	}
	v = l.view(now)
	v.Cap = e.issuer(name).workers()
	v.Allowed = l.allow(now, v.Cap)
	if v.Waiting, err = db.Get(ctx, q, qWaiting, (*db.Row).Int64, string(issue), name, now); err != nil {
		return v, err
	}
	if v.InFlight, err = db.Get(ctx, q, qInFlight, (*db.Row).Int64, string(issue), name, now, now.Add(2*e.leaseFor)); err != nil {
		return v, err
	}
	at, err := nextDue(ctx, q, issue, name)
	v.due(at, now)
	return v, err
}

// due says when the first row is due.
func (v *LaneView) due(at, now time.Time) {
	if at.After(now) {
		v.Next = at
	} else {
		v.Oldest = at
	}
}

func (e *Engine) targetView(ctx context.Context, name string) (v LaneView, err error) {
	now, q := e.now(), e.db.Read()
	l, err := laneOf(ctx, q, TargetLane, name)
	if err != nil {
		return v, err
	}
	v = l.view(now)
	v.Cap, v.Allowed = 1, l.allow(now, 1)
	if l.LeaseToken != "" && l.LeaseUntil.After(now) {
		v.InFlight = 1
	}
	if v.Waiting, err = db.Get(ctx, q, qTargetsWaiting, (*db.Row).Int64, name, now); err != nil {
		return v, err
	}
	at, err := db.Get(ctx, q, qTargetDue, (*db.Row).Time, name)
	if errors.Is(err, db.ErrNotFound) {
		err = nil
	}
	v.due(at, now)
	return v, err
}

// LaneEdit changes a queue; nil leaves a part as it is.
type LaneEdit struct {
	Paused *bool   // true: nothing new is begun; what is under way ends
	Divert *string // issuer that gets what is due here from now on; "" = none
	Reset  bool    // closes the breaker, wakes the account
}

// EditLane changes a queue by a person's wish.
func (e *Engine) EditLane(ctx context.Context, kind LaneKind, name string, edit LaneEdit, actor string) error {
	known := kind == IssuerLane && e.issuers[name] != nil || kind == TargetLane && e.targets[name] != nil
	if !known {
		return fault.New(fault.NotFound, "there is no %s %.64q; `chancery queue` shows them", kind, name)
	}
	if d := edit.Divert; d != nil && *d != "" && (kind != IssuerLane || e.issuers[*d] == nil || *d == name) {
		return fault.New(fault.Invalid, "what is due at an issuer can be moved to another issuer of the configuration; %.64q is none", *d)
	}
	now := e.now()
	err := editLane(ctx, e.db, kind, name, now, func(tx *db.Tx, l *Lane) error {
		if edit.Paused != nil {
			l.Paused = *edit.Paused
		}
		if edit.Divert != nil {
			l.Divert = *edit.Divert
		}
		if edit.Reset {
			l.SleepUntil = time.Time{}
			l.succeeded()
		}
		return audit.Append(tx, audit.Entry{At: now, Kind: "queue.change", Actor: actor, Subject: "queue:" + string(kind) + "/" + name,
			Data: map[string]any{"paused": l.Paused, "divert": l.Divert, "reset": edit.Reset}})
	})
	e.Wake()
	return err
}

// Drift returns one page of the endpoints that serve something else than they
// should, or were not seen to serve it yet.
func (e *Engine) Drift(ctx context.Context, cursor string, limit int) (inventory.EndpointPage, error) {
	p, err := e.inventory.Endpoints(ctx, inventory.EndpointQuery{Drift: true, Cursor: cursor, Limit: limit})
	if err != nil {
		return p, fmt.Errorf("list drift: %w", err)
	}
	return p, nil
}

// Late returns how long the first of those certificates is due that wait to be
// looked at for an issuer; 0 = none is.
func (e *Engine) Late(ctx context.Context, name string) (time.Duration, error) {
	at, err := nextDue(ctx, e.db.Read(), check, name)
	if err != nil || at.IsZero() {
		return 0, err
	}
	return max(e.now().Sub(at), 0), nil
}
