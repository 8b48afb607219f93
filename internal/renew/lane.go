package renew

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chancery/internal/db"
)

// LaneKind says what the members of a lane share.
type LaneKind string

// Kinds of lanes.
const (
	IssuerLane   LaneKind = "issuer"
	TargetLane   LaneKind = "target"
	ProviderLane LaneKind = "provider" // an account at a DNS provider
)

// Lane is what many certificates wait for together. Its row is the same for
// every replica; its rules are the pure methods below.
type Lane struct {
	Kind       LaneKind
	Name       string
	Paused     bool          // by a person
	Divert     string        // issuer that gets what is due here, "" = none; by a person
	SleepUntil time.Time     // the CA asked for this; zero = awake
	Failures   int           // in a row, while closed
	OpenedAt   time.Time     // when the breaker opened; zero = closed
	OpenUntil  time.Time     // when the next probe may go
	OpenFor    time.Duration // length of the current open period
	Ramp       int           // most in flight while recovering; 0 = no bound
	LeaseToken string        // of the batch under way, targets only
	LeaseUntil time.Time
	Error      string // last failure
	UpdatedAt  time.Time
}

// How breakers of lanes behave.
const (
	laneFailures = 5                // in a row that open a breaker
	laneOpen     = 30 * time.Second // first open period; each failed probe doubles it
	laneMaxOpen  = 15 * time.Minute
	laneMaxSleep = 15 * time.Minute // of an account; longer ones are asked for again
	laneRamp     = 64               // in flight, from where on a recovered lane is free
)

// open reports whether calls are refused but for probes.
func (l *Lane) open() bool { return !l.OpenedAt.IsZero() }

// until returns at when the lane moves again by itself, zero = now. An instant
// further away than any rule allows came from a clock ahead of time.
func (l *Lane) until(now time.Time) time.Time {
	var at time.Time
	if l.SleepUntil.After(now) && l.SleepUntil.Sub(now) <= laneMaxSleep {
		at = l.SleepUntil
	}
	if l.open() && l.OpenUntil.After(now) && l.OpenUntil.Sub(now) <= laneMaxOpen && l.OpenUntil.After(at) {
		at = l.OpenUntil
	}
	return at
}

// allow returns how many may be in flight at now; cap is the configured bound.
func (l *Lane) allow(now time.Time, bound int) int {
	switch {
	case l.Paused || l.Divert != "" || !l.until(now).IsZero():
		return 0
	case l.open():
		return 1 // the probe
	case l.Ramp > 0:
		return min(bound, l.Ramp)
	}
	return bound
}

// failed books a failure that is the other side's.
func (l *Lane) failed(now time.Time, why string) {
	l.Error = why
	switch {
	case l.open() && !l.until(now).IsZero(): // began before the breaker opened
	case l.open():
		l.OpenFor = min(2*max(l.OpenFor, laneOpen), laneMaxOpen)
		l.OpenUntil = now.Add(l.OpenFor)
	default:
		if l.Failures++; l.Failures >= laneFailures {
			l.OpenedAt, l.OpenFor, l.OpenUntil = now, laneOpen, now.Add(laneOpen)
		}
	}
}

// succeeded books a success. A lane that was open or slept does not get its
// whole queue at once: what is in flight doubles with each success.
func (l *Lane) succeeded() {
	if l.open() {
		l.Ramp = 1
	} else if l.Ramp *= 2; l.Ramp >= laneRamp {
		l.Ramp = 0
	}
	l.Failures, l.OpenedAt, l.OpenUntil, l.OpenFor, l.Error = 0, time.Time{}, time.Time{}, 0, ""
}

// sleep stops the lane for d, within bounds.
func (l *Lane) sleep(now time.Time, d time.Duration, why string) {
	l.SleepUntil, l.Error, l.Ramp = now.Add(min(d, laneMaxSleep)), why, 1
}

// calm reports whether a success changes nothing, so that no row is written
// for each certificate.
func (l *Lane) calm() bool { return !l.open() && l.Failures == 0 && l.Ramp == 0 }

const laneColumns = `kind, name, paused, divert, sleep_until, failures, opened_at, open_until, open_for, ramp, lease_token, lease_until, error, updated_at`

func scanLane(r *db.Row) Lane {
	return Lane{Kind: LaneKind(r.Text()), Name: r.Text(), Paused: r.Bool(), Divert: r.Text(), SleepUntil: r.Time(), Failures: r.Int(),
		OpenedAt: r.Time(), OpenUntil: r.Time(), OpenFor: time.Duration(r.Int64()) * time.Millisecond, Ramp: r.Int(),
		LeaseToken: r.Text(), LeaseUntil: r.Time(), Error: r.Text(), UpdatedAt: r.Time()}
}

var (
	qLaneEnsure = db.SQL("renew.insert_lane", `INSERT INTO renew_lane (kind, name, paused, divert, failures, open_for, ramp, lease_token, error, updated_at)
		VALUES ($1, $2, 0, '', 0, 0, 0, '', '', $3) ON CONFLICT DO NOTHING`)
	qLaneLock = db.SQL("renew.lock_lane", `SELECT `+laneColumns+` FROM renew_lane WHERE kind = $1 AND name = $2 FOR UPDATE`)
	qLaneGet  = db.SQL("renew.get_lane", `SELECT `+laneColumns+` FROM renew_lane WHERE kind = $1 AND name = $2`)
	qLanes    = db.SQL("renew.list_lanes", `SELECT `+laneColumns+` FROM renew_lane WHERE kind = $1 ORDER BY name`)
	qLaneSave = db.SQL("renew.update_lane", `UPDATE renew_lane SET paused = $3, divert = $4, sleep_until = $5, failures = $6, opened_at = $7, open_until = $8,
		open_for = $9, ramp = $10, lease_token = $11, lease_until = $12, error = $13, updated_at = $14 WHERE kind = $1 AND name = $2`)
)

// lockLane returns the row of a lane, locked in tx, and makes it if need be.
func lockLane(ctx context.Context, tx *db.Tx, kind LaneKind, name string, now time.Time) (Lane, error) {
	l, err := db.Get(ctx, tx, qLaneLock, scanLane, kind, name)
	if !errors.Is(err, db.ErrNotFound) {
		return l, err
	}
	if _, err := tx.Exec(ctx, qLaneEnsure, kind, name, now); err != nil {
		return l, err
	}
	return db.Get(ctx, tx, qLaneLock, scanLane, kind, name)
}

// save writes the lane.
func (l *Lane) save(tx *db.Tx, now time.Time) {
	tx.Queue(qLaneSave, nil, string(l.Kind), l.Name, l.Paused, l.Divert, l.SleepUntil, l.Failures, l.OpenedAt, l.OpenUntil, l.OpenFor.Milliseconds(), l.Ramp,
		l.LeaseToken, l.LeaseUntil, clip(l.Error), now)
}

// editLane changes a lane under its lock.
func editLane(ctx context.Context, d *db.DB, kind LaneKind, name string, now time.Time, edit func(tx *db.Tx, l *Lane) error) error {
	err := d.Write(ctx, func(tx *db.Tx) error {
		l, err := lockLane(ctx, tx, kind, name, now)
		if err != nil {
			return err
		}
		if err := edit(tx, &l); err != nil {
			return err
		}
		l.save(tx, now)
		return nil
	})
	if err != nil {
		return fmt.Errorf("change lane %s/%s: %w", kind, name, err)
	}
	return nil
}

// laneOf returns a lane as it is; one without a row is new.
func laneOf(ctx context.Context, q db.Q, kind LaneKind, name string) (Lane, error) {
	l, err := db.Get(ctx, q, qLaneGet, scanLane, kind, name)
	if errors.Is(err, db.ErrNotFound) {
		return Lane{Kind: kind, Name: name}, nil
	}
	return l, err
}

// maxError bounds stored error texts, in bytes.
const maxError = 1000

// clip shortens a foreign text to what is stored.
func clip(s string) string {
	if len(s) > maxError {
		s = s[:maxError]
	}
	out := make([]rune, 0, len(s))
	for _, r := range s { // invalid UTF-8 becomes U+FFFD
		if r < 0x20 && r != '\n' {
			r = ' '
		}
		out = append(out, r)
	}
	return string(out)
}

// fallbackAfter is how long an issuer must be down before others do its work.
const fallbackAfter = 15 * time.Minute

// fallback reports whether a certificate leaves an issuer whose lane is l: at
// once when somebody said so, or when it is down for long, or for too long for
// a certificate that has little life left.
func (l *Lane) fallback(now time.Time, left time.Duration, after time.Duration) bool {
	if l.Divert != "" {
		return true
	}
	if !l.open() {
		return false
	}
	down := now.Sub(l.OpenedAt)
	return down >= after || left > 0 && down >= left/8
}
