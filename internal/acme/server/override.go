package server

import (
	"context"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/limit"
	"chancery/internal/loop"
)

// Override is the rate of one key of one limit, in place of that of the
// configuration. It holds on every replica within seconds.
type Override struct {
	Limit     string     // one of Limits.Names
	Key       string     // what the limit counts by: see Limits
	Rate      limit.Rate // the zero rate lets the key do anything
	Note      string     // why, for people
	CreatedAt time.Time
	ExpiresAt time.Time // zero: never
}

// Bounds of overrides: all of them are in memory.
const (
	maxOverrides   = 100000
	maxOverrideKey = 512
	maxNote        = 500
)

const overrideColumns = `name, subject, count, per, burst, deny, note, created_at, expires_at`

var (
	qPutOverride = db.SQL("acme.put_limit_override", `INSERT INTO limit_override (`+overrideColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		ON CONFLICT (name, subject) DO UPDATE SET count = excluded.count, per = excluded.per, burst = excluded.burst, deny = excluded.deny,
			note = excluded.note, created_at = excluded.created_at, expires_at = excluded.expires_at`)
	qDropOverride  = db.SQL("acme.delete_limit_override", `DELETE FROM limit_override WHERE name = $1 AND subject = $2`)
	qListOverrides = db.SQL("acme.list_limit_overrides", `SELECT `+overrideColumns+` FROM limit_override WHERE (name, subject) > ($1, $2)
		ORDER BY name, subject LIMIT $3`)
)

func scanOverride(r *db.Row) Override {
	o := Override{Limit: r.Text(), Key: r.Text()}
	o.Rate = limit.Rate{Count: r.Int(), Per: time.Duration(r.Int64()) * time.Millisecond, Burst: r.Int(), Deny: r.Bool()}
	o.Note, o.CreatedAt, o.ExpiresAt = r.Text(), r.Time(), r.Time()
	return o
}

// Names returns the names of the limits there are, sorted.
func (l *Limits) Names() []string {
	var names []string
	for _, x := range l.List() {
		names = append(names, x.Name)
	}
	return names
}

// Limits returns the rate limits of the server.
func (s *Server) Limits() *Limits { return s.limits }

// PutOverride stores o under its OverrideKey, in place of the one that is there,
// and lets it hold here at once. actor is for the journal.
func (s *Server) PutOverride(ctx context.Context, o Override, actor string, now time.Time) (_ Override, err error) {
	if err := o.check(); err != nil {
		return o, err
	}
	if o.Key, err = s.OverrideKey(ctx, o.Limit, o.Key); err != nil {
		return o, err
	}
	o.CreatedAt = now
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qPutOverride, nil, o.Limit, o.Key, o.Rate.Count, o.Rate.Per.Milliseconds(), o.Rate.Burst, o.Rate.Deny, o.Note, now, o.ExpiresAt)
		return audit.Append(tx, audit.Entry{At: now, Kind: "limit.override", Actor: actor, Subject: "limit:" + o.Limit,
			Data: map[string]string{"key": o.Key, "rate": o.Rate.String(), "note": o.Note}})
	})
	if err != nil {
		return o, wrap("store override", err)
	}
	return o, s.ReloadOverrides(ctx, now)
}

// check reports what makes o unusable.
func (o *Override) check() error {
	switch {
	case len(o.Note) > maxNote:
		return fault.New(fault.Invalid, "the note is longer than %d characters", maxNote)
	case o.Rate.Per%time.Millisecond != 0:
		return fault.New(fault.Invalid, "the period of a rate is whole milliseconds")
	}
	if err := o.Rate.Validate(); err != nil {
		return fault.Wrap(err, fault.Invalid, "the rate makes no sense: %v", err)
	}
	return nil
}

// DropOverride deletes the override of a key, as ListOverrides shows it; the
// configuration holds for it again.
func (s *Server) DropOverride(ctx context.Context, name, key, actor string, now time.Time) error {
	none := fault.New(fault.NotFound, "limit %.64s has no override for that key", name)
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qDropOverride, db.ExactlyOne(none), name, key)
		return audit.Append(tx, audit.Entry{At: now, Kind: "limit.restore", Actor: actor, Subject: "limit:" + name, Data: map[string]string{"key": key}})
	})
	if err != nil {
		return wrap("delete override", err)
	}
	return s.ReloadOverrides(ctx, now)
}

// ListOverrides returns up to limit overrides after the one of a limit and key
// ("" = from the first), by limit and key. Those that expired are among them.
func ListOverrides(ctx context.Context, q db.Q, afterLimit, afterKey string, limit int) ([]Override, error) {
	return db.List(ctx, q, qListOverrides, scanOverride, afterLimit, afterKey, limit)
}

// LoadLimits reads all overrides and what was spent of limits before the start.
// Call it before requests are served.
func (s *Server) LoadLimits(ctx context.Context, now time.Time) error {
	if err := s.ReloadOverrides(ctx, now); err != nil {
		return err
	}
	return s.ledger.Load(ctx, now)
}

// ShareLimits tells the other replicas, and this one after a restart, what was
// spent of limits, and learns what they spent. Each replica runs it every few
// seconds, and once at its end.
func (s *Server) ShareLimits(ctx context.Context, now time.Time) (loop.Count, error) {
	return s.ledger.Tick(ctx, now)
}

// ReloadOverrides reads all overrides and lets those hold that have not
// expired. Each replica runs it every few seconds.
func (s *Server) ReloadOverrides(ctx context.Context, now time.Time) error {
	list, err := ListOverrides(ctx, s.db.Read(), "", "", maxOverrides)
	if err != nil {
		return wrap("read overrides", err)
	}
	if len(list) == maxOverrides {
		s.log.WarnContext(ctx, "not every override of a limit is read", "most", maxOverrides)
	}
	byLimit := map[string]map[string]limit.Rate{}
	for _, o := range list {
		if !o.ExpiresAt.IsZero() && !now.Before(o.ExpiresAt) {
			continue
		}
		if byLimit[o.Limit] == nil {
			byLimit[o.Limit] = map[string]limit.Rate{}
		}
		byLimit[o.Limit][o.Key] = o.Rate
	}
	for _, c := range s.limits.counted() {
		if err := c.limiter.SetOverrides(byLimit[c.limiter.Name()]); err != nil {
			return err
		}
	}
	return nil
}
