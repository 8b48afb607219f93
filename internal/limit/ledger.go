package limit

import (
	"context"
	"fmt"
	"sync"
	"time"

	"chancery/internal/db"
	"chancery/internal/loop"
)

// Which spending the Ledger keeps.
const (
	// keptFrom is how long a burst must take to refill. What is forgiven sooner
	// is not worth a row: the restart that forgets it takes about as long.
	keptFrom = 10 * time.Minute
	// keptShare is the share of the burst, one part in so many, that a replica
	// lets a key spend before it tells the others. Most keys never get there, so
	// most requests cost no row.
	keptShare = 8
	// tickKeys bounds the keys of one tick.
	tickKeys = 500
	// loadPage is how many rows Load reads at once.
	loadPage = 1000
)

var (
	// An interval that changed is another limit: the debt was counted in time,
	// and the time meant another number of units.
	qSpend = db.SQL("limit.spend", `INSERT INTO rate_limit (name, key, interval_ns, tat) VALUES ($1, $2, $3, $4::bigint + $5::bigint)
		ON CONFLICT (name, key) DO UPDATE SET interval_ns = $3,
			tat = CASE WHEN rate_limit.interval_ns = $3 AND rate_limit.tat > $4::bigint THEN rate_limit.tat ELSE $4::bigint END + $5::bigint
		RETURNING tat`)
	qSpent = db.SQL("limit.list_spent", `SELECT key, interval_ns, tat FROM rate_limit WHERE name = $1 AND key > $2 ORDER BY key LIMIT $3`)
	qPrune = db.SQL("limit.delete_refilled", `DELETE FROM rate_limit WHERE tat <= $1`)
)

// Ledger keeps in the database what is spent of limits, so that a restart
// forgives little, and replicas that share the database count together. Requests
// never wait for it: it tells what was spent since the last Tick, and learns what
// others spent of the same keys.
//
// What can be spent beyond a limit is bounded: each replica lets a key have an
// eighth of the burst before it tells, and what it spends between two ticks. A
// restart forgives as much. Limits whose burst refills within 10 minutes are not
// kept.
type Ledger struct {
	db       *db.DB
	limiters []*Limiter

	mu     sync.Mutex // one Tick at a time
	pruned time.Time
}

// NewLedger keeps limiters from now on. They must not be in use yet, and their
// names must differ.
func NewLedger(d *db.DB, limiters ...*Limiter) *Ledger {
	for _, l := range limiters {
		l.kept = true
	}
	return &Ledger{db: d, limiters: limiters}
}

// spending is what is told of one key.
type spending struct {
	l        *Limiter
	key      string
	interval int64 // nanoseconds of one unit
	spent    int64 // nanoseconds; negative: given back
}

// Load reads what was spent before the start.
func (g *Ledger) Load(ctx context.Context, now time.Time) error {
	for _, l := range g.limiters {
		for after, more := "", true; more; {
			n := 0
			err := g.db.Read().All(ctx, qSpent, func(r *db.Row) error {
				key, interval, tat := r.Text(), r.Int64(), r.Int64()
				l.learn(spending{l: l, key: key, interval: interval}, tat, now)
				after = key
				n++
				return nil
			}, l.name, after, loadPage)
			if err != nil {
				return fmt.Errorf("read what is spent of limit %s: %w", l.name, err)
			}
			more = n == loadPage
		}
	}
	return nil
}

// Tick tells the database what was spent, and learns what others spent of the
// same keys. Without news it asks nothing. Call it every few seconds, and once
// before the end of the process.
func (g *Ledger) Tick(ctx context.Context, now time.Time) (n loop.Count, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var due []spending
	for _, l := range g.limiters {
		due = l.unsent(due, tickKeys)
	}
	n.Claimed, n.More = len(due), len(due) >= tickKeys
	if len(due) == 0 {
		return n, nil
	}
	told := make([]int64, len(due))
	prune := now.Sub(g.pruned) >= keptFrom
	err = g.db.Write(ctx, func(tx *db.Tx) error {
		for i := range due {
			s := &due[i]
			if told[i], err = db.Get(ctx, tx, qSpend, (*db.Row).Int64, s.l.name, s.key, s.interval, now.UnixNano(), s.spent); err != nil {
				return err
			}
		}
		if prune {
			tx.Queue(qPrune, nil, now.UnixNano())
		}
		return nil
	})
	if err != nil {
		for _, s := range due {
			s.l.takeBack(s)
		}
		n.Failed = n.Claimed
		return n, fmt.Errorf("store what is spent of limits: %w", err)
	}
	if prune {
		g.pruned = now
	}
	for i, s := range due {
		s.l.learn(s, told[i], now)
	}
	n.Done = n.Claimed
	return n, nil
}

// worthARow reports whether the ledger is told of a key with this debt.
func (r Rate) worthARow(debt int64) bool {
	full := int64(r.tolerance())
	return full >= int64(keptFrom) && debt >= full/keptShare
}

// unsent appends to out what the ledger has not been told, up to limit in all.
func (l *Limiter) unsent(out []spending, limit int) []spending {
	for i := range l.shard {
		s := &l.shard[i]
		s.mu.Lock()
		taken := 0
		for _, key := range s.due {
			if len(out) >= limit {
				break
			}
			taken++
			d, ok := s.keys[key]
			if !ok || !d.due {
				continue // forgotten since
			}
			if rate := l.Rate(key); d.unsent != 0 && rate.Count > 0 && !rate.Deny {
				out = append(out, spending{l, key, int64(rate.interval()), d.unsent})
			}
			d.unsent, d.due = 0, false
			s.keys[key] = d
		}
		s.due = s.due[:copy(s.due, s.due[taken:])]
		if len(s.due) == 0 {
			s.due = nil
		}
		s.mu.Unlock()
	}
	return out
}

// takeBack puts back what could not be told.
func (l *Limiter) takeBack(p spending) {
	s := l.shardOf(p.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.keys[p.key]; ok {
		d.unsent += p.spent
		s.put(p.key, d, true)
	}
}

// learn takes over what all replicas together spent of a key, unless it was
// counted at another rate than the one that holds.
func (l *Limiter) learn(p spending, tat int64, now time.Time) {
	at, rate := now.UnixNano(), l.Rate(p.key)
	if rate.Count <= 0 || rate.Deny || int64(rate.interval()) != p.interval {
		return
	}
	s := l.shardOf(p.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	d, known := s.keys[p.key]
	tat += d.unsent // spent while the database was told of the rest
	if tat <= at || tat <= d.tat {
		return
	}
	if !known {
		s.makeRoom(l.perShard, at)
	}
	d.tat = tat
	s.keys[p.key] = d
}
