package alert

import (
	"cmp"
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"strings"
	"time"

	"chancery/internal/db"
	"chancery/internal/loop"
)

// Bounds of one tick. A page is one transaction.
const (
	pageSize     = 500
	pagesPerTick = 20
	endBatch     = 500 // episodes that are ended in one transaction
	maxSubject   = 512 // bytes
	maxSummary   = 1000
)

// forget is how long observations that never made an alert are kept.
const forget = 7 * 24 * time.Hour

const openColumns = `id, rule, subject, state, severity, summary, labels, since, fired_at, resolved_at, seen_at, silence_id, told_at, history, sample`

var (
	qOpenOf = db.SQL("alert.list_open_of", `SELECT `+openColumns+` FROM alert WHERE rule = $1 AND subject = ANY($2::text[]) AND state <> 'resolved'`)
	qInsert = db.SQL("alert.insert_alert", `INSERT INTO alert (id, rule, subject, state, severity, summary, labels, since, fired_at, seen, seen_at, history, sample, silence_id)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, '')`)
	qUpdate = db.SQL("alert.update_alert", `UPDATE alert SET state = $2, severity = $3, summary = $4, labels = $5, since = $6, fired_at = $7, resolved_at = $8,
		seen = $9, seen_at = $10, history = $11, sample = $12 WHERE id = $1 AND state <> 'resolved'`)

	qEndUnseen = db.SQL("alert.resolve_unseen", `UPDATE alert SET state = 'resolved', resolved_at = $3, escalate_at = NULL
		WHERE id IN (SELECT id FROM alert WHERE rule = $1 AND seen < $2 AND state <> 'resolved' AND state = 'firing' ORDER BY seen, id LIMIT $4)`)
	qGoodUnseen = db.SQL("alert.shift_unseen", `UPDATE alert SET history = (history * 2) & 1152921504606846975, seen = $2
		WHERE id IN (SELECT id FROM alert WHERE rule = $1 AND seen < $2 AND state <> 'resolved' AND state = 'pending' AND seen_at > $3 AND (history & 1) = 1 ORDER BY seen, id LIMIT $4)`)
	qDropUnseen = db.SQL("alert.delete_unseen", `DELETE FROM alert
		WHERE id IN (SELECT id FROM alert WHERE rule = $1 AND seen < $2 AND state <> 'resolved' AND state = 'pending' AND seen_at <= $3 ORDER BY seen, id LIMIT $4)`)
	qEndOld = db.SQL("alert.resolve_old", `UPDATE alert SET state = 'resolved', resolved_at = $3, escalate_at = NULL
		WHERE id IN (SELECT id FROM alert WHERE rule = $1 AND state <> 'resolved' AND seen_at < $2 ORDER BY id LIMIT $4)`)
)

// Evaluate looks for every rule that is due, up to twenty pages each. A rule
// that fails says so in its row, and does not stop the others.
func (s *Service) Evaluate(ctx context.Context, now time.Time) (n loop.Count, err error) {
	rules, err := Rules(ctx, s.db.Read())
	if err != nil {
		return n, err
	}
	runs, err := s.runs(ctx)
	if err != nil {
		return n, err
	}
	var errs []error
	for i := range rules {
		r := &rules[i]
		if run, ok := runs[r.Name]; !r.Enabled || ok && run.nextAt.After(now) {
			continue
		}
		more, err := s.evaluate(ctx, r, now, &n)
		if err != nil && !errors.Is(err, errLost) {
			n.Failed++
			errs = append(errs, fmt.Errorf("evaluate rule %s: %w", r.Name, err))
		}
		n.More = n.More || more
	}
	return n, errors.Join(errs...)
}

func (s *Service) runs(ctx context.Context) (map[string]run, error) {
	rows, err := db.List(ctx, s.db.Read(), qRuns, scanRun)
	if err != nil {
		return nil, fmt.Errorf("list runs of alert rules: %w", err)
	}
	out := make(map[string]run, len(rows))
	for _, r := range rows {
		out[r.rule] = r
	}
	return out, nil
}

// evaluate goes on with the pass of one rule.
func (s *Service) evaluate(ctx context.Context, rule *Rule, now time.Time, n *loop.Count) (more bool, err error) {
	look := lookOf(rule.Kind)
	if look == nil {
		return false, fmt.Errorf("there is no kind %q of rule any more", rule.Kind)
	}
	at, ok, err := s.claim(ctx, rule.Name, now)
	if err != nil || !ok {
		return false, err
	}
	for range pagesPerTick {
		in := looking{db: s.db, rule: rule, at: at.position, kept: at.kept, now: now, limit: pageSize}
		found, next, err := look.page(ctx, &in)
		if err != nil {
			return false, errors.Join(err, s.postpone(ctx, &at, look, err, now))
		}
		at.kept, at.position = in.kept, next
		fired, err := s.storePage(ctx, rule, look, &at, found, now)
		if err != nil {
			return false, err
		}
		n.Claimed, n.Done = n.Claimed+fired, n.Done+fired
		if next == "" {
			return false, s.finish(ctx, rule, look, &at, now)
		}
	}
	return true, nil
}

// postpone says in the row why a pass failed.
func (s *Service) postpone(ctx context.Context, at *run, look *Look, cause error, now time.Time) error {
	at.problem, at.nextAt = strings.ToValidUTF8(fmt.Sprintf("%.500v", cause), "?"), now.Add(look.interval)
	return s.db.Write(ctx, func(tx *db.Tx) error { s.move(tx, at, time.Time{}, now); return nil })
}

// storePage writes what a page found, and where the pass goes on.
func (s *Service) storePage(ctx context.Context, rule *Rule, look *Look, at *run, found []Match, now time.Time) (fired int, err error) {
	matches, subjects := admit(rule, found)
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		fired = 0
		// The row of the run is the lock: what is open is read behind it.
		if held, err := tx.Exec(ctx, qFence, at.rule, s.token, now.Add(s.lease)); err != nil || held != 1 {
			return cmp.Or(err, errLost)
		}
		open := map[string]*Alert{}
		if len(subjects) > 0 {
			rows, err := db.List(ctx, tx, qOpenOf, scanAlert, rule.Name, subjects)
			if err != nil {
				return err
			}
			for i := range rows {
				open[rows[i].Subject] = &rows[i]
			}
		}
		for i := range matches {
			if s.storeMatch(tx, rule, at, open[matches[i].Subject], &matches[i], now) {
				fired++
			}
		}
		at.problem = ""
		s.move(tx, at, time.Time{}, now.Add(s.lease))
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("store what was found: %w", err)
	}
	return fired, nil
}

// admit bounds what was found, leaves out what the rule does not ask for, and
// lets the last match of a subject stand for all of them.
func admit(rule *Rule, found []Match) (out []Match, subjects []string) {
	index := map[string]int{}
	for _, m := range found {
		m.Subject, m.Summary = bound(m.Subject, maxSubject), bound(m.Summary, maxSummary)
		a := Alert{Rule: rule.Name, Subject: m.Subject, Severity: rule.Severity, Labels: m.Labels}
		if !fits(rule.Match, &a) {
			continue
		}
		if i, ok := index[m.Subject]; ok {
			out[i] = m
			continue
		}
		index[m.Subject] = len(out)
		out, subjects = append(out, m), append(subjects, m.Subject)
	}
	return out, subjects
}

// bound cuts foreign text to n bytes of valid UTF-8 without NUL.
func bound(text string, n int) string {
	if len(text) > n {
		text = text[:n]
	}
	return strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", ""), "")
}

// storeMatch begins, continues or ends one episode; fired says that it began
// to fire.
func (s *Service) storeMatch(tx *db.Tx, rule *Rule, at *run, old *Alert, m *Match, now time.Time) (fired bool) {
	if m.Clear && old == nil {
		return false
	}
	a := rule.advance(old, m, now)
	labels, err := json.Marshal(a.Labels, json.Deterministic(true))
	if err != nil { // not UTF-8: the labels are worth less than the alert
		labels = []byte("{}")
	}
	if old == nil {
		a.ID = db.NewID(now)
		tx.Queue(qInsert, nil, a.ID, a.Rule, a.Subject, a.State, a.Severity, a.Summary, string(labels), a.Since, a.FiredAt, at.number, now, int64(a.history), a.sample)
	} else {
		tx.Queue(qUpdate, nil, a.ID, a.State, a.Severity, a.Summary, string(labels), a.Since, a.FiredAt, a.ResolvedAt, at.number, now, int64(a.history), a.sample)
	}
	return a.State == Firing && (old == nil || old.State != Firing)
}

// historyBits is how many observations are remembered.
const historyBits = 60

// advance is the state machine of an episode: pending to firing to resolved.
// It never goes back; what comes again is another episode.
func (r *Rule) advance(old *Alert, m *Match, now time.Time) Alert {
	a := Alert{Rule: r.Name, Subject: m.Subject, State: Pending, Since: now}
	if old != nil {
		a = *old
	}
	a.Severity, a.Summary, a.Labels, a.SeenAt = r.Severity, m.Summary, m.Labels, now
	if !m.Since.IsZero() {
		a.Since = m.Since
	}
	sample := m.Sample
	if sample.IsZero() {
		sample = now
	}
	if ms := sample.UnixMilli(); ms > a.sample {
		a.sample, a.history = ms, (a.history<<1|1)&(1<<historyBits-1)
	}
	switch {
	case m.Clear:
		a.State, a.ResolvedAt = Resolved, now
	case a.State == Pending && r.enough(&a, now):
		a.State, a.FiredAt = Firing, now
	}
	return a
}

// enough reports whether it was so for long and often enough.
func (r *Rule) enough(a *Alert, now time.Time) bool {
	window := uint64(1)<<max(r.Of, 1) - 1
	return now.Sub(a.Since) >= time.Duration(r.For) && bits.OnesCount64(a.history&window) >= max(r.Failures, 1)
}

// finish ends what the pass did not find, and the pass.
func (s *Service) finish(ctx context.Context, rule *Rule, look *Look, at *run, now time.Time) error {
	old := now // pending episodes that end at once
	if rule.Of > 1 {
		old = now.Add(-forget)
	}
	for more := true; more; {
		err := s.db.Write(ctx, func(tx *db.Tx) error {
			tx.Queue(qFence, db.ExactlyOne(errLost), at.rule, s.token, now.Add(s.lease))
			counts, err := s.endBatch(ctx, tx, rule, look, at.number, old, now)
			more = counts == endBatch
			return err
		})
		if err != nil {
			return fmt.Errorf("end what is over: %w", err)
		}
	}
	at.number, at.nextAt = at.number+1, now.Add(look.interval)
	err := s.db.Write(ctx, func(tx *db.Tx) error { s.move(tx, at, now, now); return nil })
	if err != nil {
		return fmt.Errorf("end pass: %w", err)
	}
	s.log.LogAttrs(ctx, slog.LevelDebug, "alert rule was evaluated", slog.String("rule", rule.Name), slog.Int64("pass", at.number-1))
	return nil
}

// endBatch ends up to endBatch episodes of each sort and returns the largest
// number.
func (s *Service) endBatch(ctx context.Context, tx *db.Tx, rule *Rule, look *Look, pass int64, old, now time.Time) (most int64, err error) {
	do := func(q *db.Stmt, args ...any) {
		if err == nil {
			var n int64
			n, err = tx.Exec(ctx, q, args...)
			most = max(most, n)
		}
	}
	if look.events {
		do(qEndOld, rule.Name, now.Add(-time.Duration(rule.Lasts)), now, endBatch)
		return most, err
	}
	do(qEndUnseen, rule.Name, pass, now, endBatch)
	do(qDropUnseen, rule.Name, pass, old, endBatch)
	if rule.Of > 1 {
		do(qGoodUnseen, rule.Name, pass, old, endBatch)
	}
	return most, err
}

// Preview returns what a rule would find now, whether or not long and often
// enough, up to limit subjects; more says that it stopped before the end.
// Nothing is stored.
func (s *Service) Preview(ctx context.Context, rule Rule, limit int, now time.Time) (out []Match, more bool, err error) {
	if err := rule.Check(s.names()); err != nil {
		return nil, false, err
	}
	look, at := lookOf(rule.Kind), ""
	for range pagesPerTick {
		in := looking{db: s.db, rule: &rule, at: at, now: now, limit: pageSize, dry: true}
		found, next, err := look.page(ctx, &in)
		if err != nil {
			return nil, false, fmt.Errorf("preview rule: %w", err)
		}
		matches, _ := admit(&rule, found)
		out = append(out, matches...)
		if len(out) > limit {
			return out[:limit], true, nil
		}
		if at = next; next == "" {
			return out, false, nil
		}
	}
	return out, true, nil
}
