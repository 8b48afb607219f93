package alert

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery/internal/db"
	"chancery/internal/loop"
)

// notifyRun is the row whose lease the notifier holds; no rule has this name.
const notifyRun = "~notify"

// Bounds of the notifier.
const (
	notifyPage = 200 // episodes in one transaction
	maxGroup   = 100 // episodes in one message
)

var (
	qUntold     = db.SQL("alert.list_untold", `SELECT `+alertColumns+` FROM alert WHERE state = 'firing' AND told_at IS NULL AND id > $1 ORDER BY id LIMIT $2`)
	qEscalating = db.SQL("alert.list_escalating", `SELECT `+alertColumns+` FROM alert
		WHERE state = 'firing' AND escalate_at IS NOT NULL AND escalate_at <= $1 ORDER BY escalate_at LIMIT $2`)
	qUnclosed = db.SQL("alert.list_unclosed", `SELECT `+alertColumns+` FROM alert WHERE state = 'resolved' AND closed_at IS NULL ORDER BY id LIMIT $1`)

	qTold     = db.SQL("alert.mark_told", `UPDATE alert SET told_at = $2, escalate_at = $3, silence_id = '' WHERE id = $1 AND told_at IS NULL`)
	qSilenced = db.SQL("alert.mark_silenced", `UPDATE alert SET silence_id = $2 WHERE id = $1 AND silence_id <> $2`)
	qRaised   = db.SQL("alert.mark_escalated", `UPDATE alert SET escalate_at = $2, silence_id = $3 WHERE id = $1`)
	qClosed   = db.SQL("alert.mark_closed", `UPDATE alert SET closed_at = $2 WHERE id = $1 AND closed_at IS NULL`)

	qNotice      = db.SQL("alert.insert_notice", `INSERT INTO alert_notice (alert_id, channel, event, delivery_id) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`)
	qNoticed     = db.SQL("alert.list_noticed", `SELECT DISTINCT channel FROM alert_notice WHERE alert_id = $1`)
	qCollecting  = db.SQL("alert.read_collecting", `SELECT id, alerts FROM alert_delivery WHERE channel = $1 AND rule = $2 AND event = $3 AND state = 'collecting' FOR UPDATE`)
	qFull        = db.SQL("alert.end_collecting", `UPDATE alert_delivery SET state = 'waiting', due_at = $2 WHERE id = $1 AND state = 'collecting'`)
	qNewDelivery = db.SQL("alert.insert_delivery", `INSERT INTO alert_delivery (id, channel, rule, event, severity, state, alerts, attempts, error, created_at, due_at, lease_until, lease_token)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 0, '', $8, $9, 0, '')`)
	qJoined = db.SQL("alert.count_delivery", `UPDATE alert_delivery SET alerts = alerts + 1 WHERE id = $1`)
)

// notifier is one tick of the notifier.
type notifier struct {
	s        *Service
	now      time.Time
	rules    map[string]*Rule
	silences []Silence
	wake     map[string]bool // channels with something new
}

// Notify makes messages of what began, ended, and went on for too long.
func (s *Service) Notify(ctx context.Context, now time.Time) (n loop.Count, err error) {
	if idle, err := s.idle(ctx, now); err != nil || idle {
		return n, err
	}
	at, ok, err := s.claim(ctx, notifyRun, now)
	if err != nil || !ok {
		return n, err
	}
	w := notifier{s: s, now: now, rules: map[string]*Rule{}, wake: map[string]bool{}}
	rules, err := Rules(ctx, s.db.Read())
	if err != nil {
		return n, err
	}
	for i := range rules {
		w.rules[rules[i].Name] = &rules[i]
	}
	if w.silences, err = Active(ctx, s.db.Read(), now); err != nil {
		return n, fmt.Errorf("list silences: %w", err)
	}
	for _, step := range []func(context.Context, *run) (int, error){w.begun, w.escalate, w.ended} {
		done, err := step(ctx, &at)
		n.Claimed, n.Done = n.Claimed+done, n.Done+done
		if errors.Is(err, errLost) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
	for name := range w.wake {
		if wake := s.wake[name]; wake != nil {
			loop.Nudge(wake)
		}
	}
	return n, nil
}

// idle reports whether there is nothing to tell: then nothing is written.
func (s *Service) idle(ctx context.Context, now time.Time) (bool, error) {
	found := 0
	look := func(q *db.Stmt, args ...any) error {
		return s.db.Read().All(ctx, q, func(*db.Row) error { found++; return nil }, args...)
	}
	err := errors.Join(look(qUntold, "", 1), look(qEscalating, now, 1), look(qUnclosed, 1))
	if err != nil {
		return false, fmt.Errorf("look for alerts to tell: %w", err)
	}
	return found == 0, nil
}

// page writes one page of episodes under the lease.
func (w *notifier) page(ctx context.Context, at *run, rows []Alert, each func(*group, *Alert) error) error {
	return w.s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qFence, db.ExactlyOne(errLost), at.rule, w.s.token, w.now.Add(w.s.lease))
		g := &group{w: w, ctx: ctx, tx: tx, open: map[[3]string]*collecting{}}
		for i := range rows {
			if err := each(g, &rows[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// begun tells of what began to fire and no silence covers.
func (w *notifier) begun(ctx context.Context, at *run) (done int, err error) {
	for after := ""; ; {
		rows, err := db.List(ctx, w.s.db.Read(), qUntold, scanAlert, after, notifyPage)
		if err != nil || len(rows) == 0 {
			return done, err
		}
		err = w.page(ctx, at, rows, func(g *group, a *Alert) error {
			if id := w.silenced(a); id != "" {
				g.tx.Queue(qSilenced, nil, a.ID, id)
				return nil
			}
			var raise time.Time
			if r := w.rules[a.Rule]; r != nil && r.EscalateAfter > 0 {
				raise = w.now.Add(time.Duration(r.EscalateAfter))
			}
			g.tx.Queue(qTold, nil, a.ID, w.now, raise)
			return g.tell(a, Fire, w.channels(a))
		})
		if err != nil {
			return done, fmt.Errorf("tell of alerts: %w", err)
		}
		done += len(rows)
		after = rows[len(rows)-1].ID
	}
}

// silenceRecheck is when an escalation that a silence held back is tried again.
const silenceRecheck = time.Minute

// escalate tells more people of what went on for too long.
func (w *notifier) escalate(ctx context.Context, at *run) (int, error) {
	rows, err := db.List(ctx, w.s.db.Read(), qEscalating, scanAlert, w.now, notifyPage)
	if err != nil || len(rows) == 0 {
		return 0, err
	}
	err = w.page(ctx, at, rows, func(g *group, a *Alert) error {
		if id := w.silenced(a); id != "" {
			g.tx.Queue(qRaised, nil, a.ID, w.now.Add(silenceRecheck), id)
			return nil
		}
		g.tx.Queue(qRaised, nil, a.ID, nil, "")
		if r := w.rules[a.Rule]; r != nil {
			return g.tell(a, Escalate, r.EscalateTo)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("escalate alerts: %w", err)
	}
	return len(rows), nil
}

// ended tells of the end those who were told of the beginning.
func (w *notifier) ended(ctx context.Context, at *run) (done int, err error) {
	for {
		rows, err := db.List(ctx, w.s.db.Read(), qUnclosed, scanAlert, notifyPage)
		if err != nil || len(rows) == 0 {
			return done, err
		}
		err = w.page(ctx, at, rows, func(g *group, a *Alert) error {
			g.tx.Queue(qClosed, nil, a.ID, w.now)
			if a.toldAt.IsZero() {
				return nil
			}
			told, err := db.List(ctx, g.tx, qNoticed, (*db.Row).Text, a.ID)
			if err != nil {
				return err
			}
			return g.tell(a, Resolve, told)
		})
		if err != nil {
			return done, fmt.Errorf("tell of ends: %w", err)
		}
		done += len(rows)
	}
}

// silenced returns the silence that covers a, or "".
func (w *notifier) silenced(a *Alert) string {
	for i := range w.silences {
		if fits(w.silences[i].Matchers, a) {
			return w.silences[i].ID
		}
	}
	return ""
}

// channels returns who is told of a.
func (w *notifier) channels(a *Alert) []string {
	rule := w.rules[a.Rule]
	if rule == nil {
		return nil
	}
	var out []string
	for _, c := range w.s.cfg.Channels {
		if named := slices.Contains(rule.Channels, c.Name); named || len(rule.Channels) == 0 && a.Severity.AtLeast(c.Severity) {
			out = append(out, c.Name)
		}
	}
	return out
}

// collecting is a message that alerts still join.
type collecting struct {
	id     string
	alerts int
}

// group puts notices of one transaction into messages.
type group struct {
	w    *notifier
	ctx  context.Context
	tx   *db.Tx
	open map[[3]string]*collecting
}

// tell adds a to the messages of channels.
func (g *group) tell(a *Alert, event Event, channels []string) error {
	for _, name := range channels {
		c, err := g.message(a, event, name)
		if err != nil {
			return err
		}
		c.alerts++
		g.tx.Queue(qNotice, nil, a.ID, name, event, c.id)
		g.tx.Queue(qJoined, nil, c.id)
		g.w.wake[name] = true
	}
	return nil
}

// message returns the message that an alert joins, a new one if need be.
func (g *group) message(a *Alert, event Event, channel string) (*collecting, error) {
	key := [3]string{channel, a.Rule, string(event)}
	c := g.open[key]
	if c == nil {
		found, err := db.Get(g.ctx, g.tx, qCollecting, func(r *db.Row) collecting { return collecting{r.Text(), r.Int()} }, channel, a.Rule, event)
		if err == nil {
			c = &found
		} else if !errors.Is(err, db.ErrNotFound) {
			return nil, err
		}
	}
	if c != nil && c.alerts >= maxGroup {
		g.tx.Queue(qFull, nil, c.id, g.w.now)
		c = nil
	}
	if c == nil {
		c = &collecting{id: db.NewID(g.w.now)}
		g.tx.Queue(qNewDelivery, nil, c.id, channel, a.Rule, event, a.Severity, "collecting", 0, g.w.now, g.w.now.Add(max(g.w.s.cfg.GroupWait, 0)))
	}
	g.open[key] = c
	return c, nil
}
