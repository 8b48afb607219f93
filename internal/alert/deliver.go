package alert

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/loop"
)

// Bounds of sending.
const (
	sendTimeout = 30 * time.Second // for one message
	sendLease   = 2 * time.Minute  // longer than it: another process waits so long before it sends again
	sendsPer    = 50               // messages in one tick
)

// Delivery is a message to a channel, as the log of deliveries has it.
type Delivery struct {
	ID        string
	Channel   string
	Rule      string
	Event     Event
	Severity  Severity
	State     string // collecting, waiting, sent, failed
	Alerts    int
	Attempts  int
	Error     string // of the last try
	CreatedAt time.Time
	DueAt     time.Time // the next try, while it waits
	DoneAt    time.Time
}

const deliveryColumns = `id, channel, rule, event, severity, state, alerts, attempts, error, created_at, due_at, done_at`

func scanDelivery(r *db.Row) Delivery {
	return Delivery{ID: r.Text(), Channel: r.Text(), Rule: r.Text(), Event: Event(r.Text()), Severity: Severity(r.Text()), State: r.Text(),
		Alerts: r.Int(), Attempts: r.Int(), Error: r.Text(), CreatedAt: r.Time(), DueAt: r.Time(), DoneAt: r.Time()}
}

var (
	qDeliveries = db.SQL("alert.list_deliveries", `SELECT `+deliveryColumns+` FROM alert_delivery WHERE id < $1 ORDER BY id DESC LIMIT $2`)
	qDelivery   = db.SQL("alert.read_delivery", `SELECT `+deliveryColumns+` FROM alert_delivery WHERE id = $1`)
	qAlertsOf   = db.SQL("alert.list_of_delivery", `SELECT a.id, a.rule, a.subject, a.state, a.severity, a.summary, a.labels, a.since, a.fired_at, a.resolved_at, a.seen_at, a.silence_id, a.told_at, a.history, a.sample
		FROM alert_notice n JOIN alert a ON a.id = n.alert_id WHERE n.delivery_id = $1 ORDER BY n.alert_id LIMIT 1000`)

	// The oldest message of a channel goes first, and the others wait for it:
	// an end must not overtake its beginning.
	qTake = db.SQL("alert.claim_delivery", `UPDATE alert_delivery SET state = 'waiting', lease_until = $3, lease_token = $4, attempts = attempts + 1
		WHERE id = (SELECT id FROM alert_delivery WHERE channel = $1 AND state IN ('collecting', 'waiting') ORDER BY id LIMIT 1)
			AND state IN ('collecting', 'waiting') AND due_at <= $2 AND lease_until < $2 RETURNING `+deliveryColumns)
	qMark = db.SQL("alert.mark_delivery", `UPDATE alert_delivery SET state = $3, error = $4, due_at = $5, done_at = $6, lease_until = 0 WHERE id = $1 AND lease_token = $2`)

	qOldest   = db.SQL("alert.read_oldest_delivery", `SELECT created_at FROM alert_delivery WHERE channel = $1 AND state IN ('collecting', 'waiting') ORDER BY id LIMIT 1`)
	qOrphans  = db.SQL("alert.list_open_deliveries", `SELECT id, channel, created_at FROM alert_delivery WHERE state IN ('collecting', 'waiting') ORDER BY channel, id LIMIT 5000`)
	qOrphaned = db.SQL("alert.fail_delivery", `UPDATE alert_delivery SET state = 'failed', error = $2, done_at = $3 WHERE id = $1 AND state IN ('collecting', 'waiting')`)

	qFiring       = db.SQL("alert.count_firing", `SELECT severity, count(*) FROM alert WHERE state = 'firing' GROUP BY severity`)
	qSweepAlert   = db.SQL("alert.sweep_alerts", `DELETE FROM alert WHERE id IN (SELECT id FROM alert WHERE state = 'resolved' AND resolved_at < $1 AND closed_at IS NOT NULL ORDER BY resolved_at LIMIT $2)`)
	qSweepNotice  = db.SQL("alert.sweep_notices", `DELETE FROM alert_notice WHERE alert_id IN (SELECT id FROM alert WHERE state = 'resolved' AND resolved_at < $1 AND closed_at IS NOT NULL ORDER BY resolved_at LIMIT $2)`)
	qSweepSent    = db.SQL("alert.sweep_deliveries", `DELETE FROM alert_delivery WHERE id IN (SELECT id FROM alert_delivery WHERE done_at IS NOT NULL AND done_at < $1 ORDER BY done_at LIMIT $2)`)
	qSweepSilence = db.SQL("alert.sweep_silences", `DELETE FROM alert_silence WHERE ends_at < $1`)
)

// Deliveries returns up to limit messages before an id ("" = the newest first).
func Deliveries(ctx context.Context, q db.Q, before string, limit int) ([]Delivery, error) {
	return db.List(ctx, q, qDeliveries, scanDelivery, orLast(before), limit)
}

// FindDelivery returns one message, or a notFound fault.
func FindDelivery(ctx context.Context, q db.Q, id string) (Delivery, error) {
	d, err := db.Get(ctx, q, qDelivery, scanDelivery, id)
	if errors.Is(err, db.ErrNotFound) {
		err = fault.New(fault.NotFound, "there is no delivery with this id")
	}
	return d, err
}

// Deliver sends what waits for one channel, in order. It stops at the first
// message that cannot be sent now.
func (s *Service) Deliver(ctx context.Context, channel string, now time.Time) (n loop.Count, err error) {
	i := slices.IndexFunc(s.cfg.Channels, func(c Channel) bool { return c.Name == channel })
	if i < 0 {
		return n, fmt.Errorf("deliver alerts: there is no channel %q", channel)
	}
	_, err = db.Get(ctx, s.db.Read(), qOldest, (*db.Row).Time, channel)
	if errors.Is(err, db.ErrNotFound) {
		return n, nil // nothing waits, and nothing is written
	}
	if err != nil {
		return n, fmt.Errorf("look at deliveries: %w", err)
	}
	for range sendsPer {
		d, ok, err := s.take(ctx, channel, now)
		if err != nil || !ok {
			return n, err
		}
		n.Claimed++
		sent, err := s.send(ctx, &s.cfg.Channels[i], &d, now)
		if err != nil {
			return n, err
		}
		if !sent {
			n.Failed++
			return n, nil
		}
		n.Done++
	}
	n.More = true
	return n, nil
}

// take claims the oldest message of a channel, if it is due.
func (s *Service) take(ctx context.Context, channel string, now time.Time) (d Delivery, ok bool, err error) {
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		d, err = db.Get(ctx, tx, qTake, scanDelivery, channel, now, now.Add(sendLease), s.token)
		if ok = err == nil; errors.Is(err, db.ErrNotFound) {
			err = nil
		}
		return err
	})
	if err != nil {
		return d, false, fmt.Errorf("claim delivery: %w", err)
	}
	return d, ok, nil
}

// send sends one message and books the outcome. A process that dies in between
// leaves the message claimed: it is sent again, under the same ID, when the
// lease has ended.
func (s *Service) send(ctx context.Context, c *Channel, d *Delivery, now time.Time) (gone bool, err error) {
	m := &Message{ID: d.ID, Event: d.Event, Rule: d.Rule, Severity: d.Severity, At: d.CreatedAt, URL: s.cfg.URL + "/alerts", Instance: s.cfg.Instance}
	if m.Alerts, err = db.List(ctx, s.db.Read(), qAlertsOf, scanAlert, d.ID); err != nil {
		return false, fmt.Errorf("read alerts of delivery: %w", err)
	}
	for i := range m.Alerts {
		if m.Alerts[i].Severity.AtLeast(m.Severity) {
			m.Severity = m.Alerts[i].Severity
		}
	}
	if len(m.Alerts) > 0 || m.Event == Test {
		sendCtx, cancel := context.WithTimeout(ctx, sendTimeout)
		err = c.Send(sendCtx, m)
		cancel()
	}
	fault.Point("alert.after_send")
	if ctx.Err() != nil && err != nil {
		return false, nil // cut off by the shutdown: the lease brings it back
	}
	return s.book(ctx, c, d, err, now)
}

// book writes down what became of a message; gone says that the next one may
// go.
func (s *Service) book(ctx context.Context, c *Channel, d *Delivery, cause error, now time.Time) (gone bool, err error) {
	state, text, due, done := "sent", "", now, now
	switch {
	case cause == nil:
	case IsPermanent(cause) || now.Sub(d.CreatedAt) >= s.cfg.GiveUp:
		state, text = "failed", bound(cause.Error(), maxText)
	default:
		state, text = "waiting", bound(cause.Error(), maxText)
		due, done = now.Add(s.pause.Bound(d.Attempts-1)/2+s.pause.Delay(d.Attempts-1)/2), time.Time{}
	}
	err = s.db.Write(context.WithoutCancel(ctx), func(tx *db.Tx) error {
		tx.Queue(qMark, nil, d.ID, s.token, state, text, due, done)
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("book delivery: %w", err)
	}
	outcome := map[string]string{"sent": "sent", "failed": "failed", "waiting": "retry"}[state]
	s.meter.deliveries.WithLabelValues(c.Name, outcome).Inc()
	level := slog.LevelInfo
	if cause != nil {
		level = slog.LevelWarn
	}
	s.log.LogAttrs(ctx, level, "alert message", slog.String("channel", c.Name), slog.String("delivery", d.ID), slog.String("outcome", outcome),
		slog.Int("alerts", d.Alerts), slog.Int("attempt", d.Attempts), slog.String("error", text))
	return state != "waiting", nil
}

// TestChannel queues a message that says nothing but that the channel works.
func (s *Service) TestChannel(ctx context.Context, channel string, now time.Time) (Delivery, error) {
	if !slices.Contains(s.names(), channel) {
		return Delivery{}, fault.New(fault.NotFound, "no [alert_channel.NAME] has the name %.64q; there are %v", channel, s.names())
	}
	id := db.NewID(now)
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qNewDelivery, nil, id, channel, "", Test, Info, "waiting", 0, now, now)
		return nil
	})
	if err != nil {
		return Delivery{}, fmt.Errorf("queue test: %w", err)
	}
	loop.Nudge(s.wake[channel])
	return FindDelivery(ctx, s.db.Read(), id)
}

// sweepBatch is how many rows of each sort one sweep deletes.
const sweepBatch = 1000

// Sweep deletes what is old, gives up messages of channels that are gone, and
// measures.
func (s *Service) Sweep(ctx context.Context, now time.Time) (n loop.Count, err error) {
	before := now.Add(-s.cfg.Keep)
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qSweepNotice, nil, before, sweepBatch)
		tx.Queue(qSweepSilence, nil, before)
		tx.Queue(qSweepSent, nil, before, sweepBatch)
		deleted, err := tx.Exec(ctx, qSweepAlert, before, sweepBatch)
		n.Claimed, n.Done, n.More = int(deleted), int(deleted), deleted == sweepBatch
		return err
	})
	if err != nil {
		return n, fmt.Errorf("sweep alerts: %w", err)
	}
	if err := s.orphans(ctx, now); err != nil {
		return n, err
	}
	return n, s.measure(ctx, now)
}

// orphans gives up what waits for channels that nobody configures any more.
func (s *Service) orphans(ctx context.Context, now time.Time) error {
	open, err := db.List(ctx, s.db.Read(), qOrphans, func(r *db.Row) Delivery { return Delivery{ID: r.Text(), Channel: r.Text(), CreatedAt: r.Time()} })
	if err != nil {
		return fmt.Errorf("list open deliveries: %w", err)
	}
	known := s.names()
	open = slices.DeleteFunc(open, func(d Delivery) bool {
		return slices.Contains(known, d.Channel) || now.Sub(d.CreatedAt) < s.cfg.GiveUp
	})
	if len(open) == 0 {
		return nil
	}
	return s.db.Write(ctx, func(tx *db.Tx) error {
		for _, d := range open {
			tx.Queue(qOrphaned, nil, d.ID, "no [alert_channel.NAME] has this name any more", now)
		}
		return nil
	})
}

// measure sets the gauges.
func (s *Service) measure(ctx context.Context, now time.Time) error {
	count := map[Severity]int64{}
	err := s.db.Read().All(ctx, qFiring, func(r *db.Row) error { sev := Severity(r.Text()); count[sev] = r.Int64(); return nil })
	if err != nil {
		return fmt.Errorf("count alerts: %w", err)
	}
	for _, sev := range Severities {
		s.meter.firing.WithLabelValues(string(sev)).Set(float64(count[sev]))
	}
	for _, name := range s.names() {
		created, err := db.Get(ctx, s.db.Read(), qOldest, (*db.Row).Time, name)
		if err != nil && !errors.Is(err, db.ErrNotFound) {
			return fmt.Errorf("look at deliveries: %w", err)
		}
		age := 0.0
		if err == nil {
			age = now.Sub(created).Seconds()
		}
		s.meter.waiting.WithLabelValues(name).Set(age)
	}
	return nil
}

var (
	qByState = db.SQL("alert.list_by_state", `SELECT `+alertColumns+` FROM alert WHERE state = $1 AND id < $2 AND ($4::text = '' OR severity = $4::text) ORDER BY id DESC LIMIT $3`)
	qByRule  = db.SQL("alert.list_by_rule", `SELECT `+alertColumns+` FROM alert WHERE state = $1 AND rule = $5 AND id < $2 AND ($4::text = '' OR severity = $4::text) ORDER BY id DESC LIMIT $3`)
)

// Filter says which episodes are listed.
type Filter struct {
	State    State
	Rule     string   // "" = any
	Severity Severity // "" = any
}

// List returns up to limit episodes before an id ("" = the newest first).
func List(ctx context.Context, q db.Q, f Filter, before string, limit int) ([]Alert, error) {
	stmt, args := qByState, []any{f.State, orLast(before), limit, f.Severity}
	if f.Rule != "" {
		stmt, args = qByRule, append(args, f.Rule)
	}
	return db.List(ctx, q, stmt, scanAlert, args...)
}

// RuleRun is how far the evaluation of a rule is.
type RuleRun struct {
	FinishedAt time.Time // of the last whole pass, zero = none yet
	Error      string    // why the last one failed
}

// RuleRuns returns how far each rule is, by its name.
func (s *Service) RuleRuns(ctx context.Context) (map[string]RuleRun, error) {
	runs, err := s.runs(ctx)
	out := make(map[string]RuleRun, len(runs))
	for name, r := range runs {
		out[name] = RuleRun{r.finished, r.problem}
	}
	return out, err
}
