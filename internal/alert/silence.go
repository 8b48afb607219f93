package alert

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"strings"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
)

// Silence keeps alerts that fit all its matchers from being told, and from
// escalating, until it ends. They are told then if they still fire.
type Silence struct {
	ID        string
	Matchers  []Matcher
	Reason    string
	CreatedBy string
	CreatedAt time.Time
	EndsAt    time.Time
}

// maxSilence is the longest silence; maxActive how many there may be at once.
const (
	maxSilence = 365 * 24 * time.Hour
	maxActive  = 500
)

var (
	qInsertSilence = db.SQL("alert.insert_silence", `INSERT INTO alert_silence (id, matchers, reason, created_by, created_at, ends_at) VALUES ($1, $2, $3, $4, $5, $6)`)
	qActive        = db.SQL("alert.list_active_silences", `SELECT id, matchers, reason, created_by, created_at, ends_at FROM alert_silence WHERE ends_at > $1 ORDER BY ends_at LIMIT 501`)
	qSilences      = db.SQL("alert.list_silences", `SELECT id, matchers, reason, created_by, created_at, ends_at FROM alert_silence WHERE id < $1 ORDER BY id DESC LIMIT $2`)
	qEndSilence    = db.SQL("alert.end_silence", `UPDATE alert_silence SET ends_at = $2 WHERE id = $1 AND ends_at > $2`)
)

func scanSilence(r *db.Row) Silence {
	s := Silence{ID: r.Text()}
	_ = json.Unmarshal(r.Bytes(), &s.Matchers) // written by this package
	s.Reason, s.CreatedBy, s.CreatedAt, s.EndsAt = r.Text(), r.Text(), r.Time(), r.Time()
	return s
}

// Active returns the silences that hold at the instant now.
func Active(ctx context.Context, q db.Q, now time.Time) ([]Silence, error) {
	return db.List(ctx, q, qActive, scanSilence, now)
}

// Silences returns up to limit silences before an id ("" = the newest first),
// also those that ended.
func Silences(ctx context.Context, q db.Q, before string, limit int) ([]Silence, error) {
	return db.List(ctx, q, qSilences, scanSilence, orLast(before), limit)
}

// orLast stands for the end of a list that goes backwards.
func orLast(before string) string {
	if before == "" {
		return "~"
	}
	return before
}

// check returns what is wrong with s.
func (s *Silence) check(now time.Time) error {
	switch {
	case len(s.Matchers) == 0:
		return fault.New(fault.Invalid, "matchers: say what is silenced; subject=* is everything")
	case strings.TrimSpace(s.Reason) == "" || len(s.Reason) > maxText:
		return fault.New(fault.Invalid, "reason: say why, in at most %d bytes", maxText)
	case !s.EndsAt.After(now) || s.EndsAt.Sub(now) > maxSilence:
		return fault.New(fault.Invalid, "a silence ends within a year from now")
	}
	return checkMatchers(s.Matchers)
}

// AddSilence begins a silence at once.
func (s *Service) AddSilence(ctx context.Context, in Silence, now time.Time) (Silence, error) {
	if err := in.check(now); err != nil {
		return in, err
	}
	active, err := Active(ctx, s.db.Read(), now)
	if err != nil {
		return in, fmt.Errorf("count silences: %w", err)
	}
	if len(active) >= maxActive {
		return in, fault.New(fault.Conflict, "%d silences hold already; end some", len(active))
	}
	in.ID, in.CreatedAt, in.EndsAt = db.NewID(now), now.Truncate(time.Millisecond), in.EndsAt.Truncate(time.Millisecond)
	matchers, err := json.Marshal(in.Matchers)
	if err != nil {
		return in, fmt.Errorf("encode matchers: %w", err)
	}
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qInsertSilence, nil, in.ID, string(matchers), in.Reason, in.CreatedBy, in.CreatedAt, in.EndsAt)
		return audit.Append(tx, audit.Entry{At: now, Kind: "alert.silence", Actor: in.CreatedBy, Subject: "alert-silence:" + in.ID,
			Data: map[string]any{"matchers": in.Matchers, "reason": in.Reason, "ends_at": in.EndsAt}})
	})
	if err != nil {
		return in, fmt.Errorf("store silence: %w", err)
	}
	return in, nil
}

// errEnded ends a transaction that found nothing to end.
var errEnded = errors.New("no such silence")

// EndSilence ends a silence now.
func (s *Service) EndSilence(ctx context.Context, id, actor string, now time.Time) error {
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qEndSilence, db.ExactlyOne(errEnded), id, now)
		return audit.Append(tx, audit.Entry{At: now, Kind: "alert.end_silence", Actor: actor, Subject: "alert-silence:" + id})
	})
	if errors.Is(err, errEnded) {
		return fault.New(fault.NotFound, "no silence with this id holds")
	}
	if err != nil {
		return fmt.Errorf("end silence: %w", err)
	}
	return nil
}
