package ctwatch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/loop"
)

// Bounds of one tick.
const (
	chunk    = 16 * window      // entries that are verified and committed together
	fetchers = 4                // windows in memory at once; each is at most one answer
	tickTime = 20 * time.Second // after that others may take over
)

var (
	qClaim = db.SQL("ctwatch.claim", `UPDATE ct_log SET lease_until = $3, lease_token = $4 WHERE name = $1 AND due_at <= $2 AND state <> 'forked' AND (lease_until < $2 OR lease_token = $4)`)
	qHead  = db.SQL("ctwatch.set_head", `UPDATE ct_log SET head_size = $3, head_root = $4, head_at = $5, head = $6, checked_at = $7, lease_until = $8 WHERE name = $1 AND lease_token = $2`)
	qMove  = db.SQL("ctwatch.move", `UPDATE ct_log SET size = $3, frontier = $4, entries = entries + $5, matches = matches + $6, unreadable = unreadable + $7, entry_at = $8, lease_until = $9
		WHERE name = $1 AND lease_token = $2`)
	qDone = db.SQL("ctwatch.finish", `UPDATE ct_log SET state = $3, error = $4, failures = $5, proof = $6, due_at = $7, lease_until = 0, checked_at = $8 WHERE name = $1 AND lease_token = $2`)
)

var errLease = errors.New("another process follows the log")

// errFork is what a log signed against itself.
type errFork struct{ a, b, why string }

// Error implements error.
func (e *errFork) Error() string { return "the log contradicts itself: " + e.why }

// follower follows one log for one tick.
type follower struct {
	*Service
	r     *reader
	row   Status
	token string
	begin time.Time
}

// tick follows a log when it is due and nobody else does.
func (s *Service) tick(ctx context.Context, l *Log) (n loop.Count, err error) {
	f := &follower{Service: s, token: db.NewID(time.Now()), begin: time.Now()}
	if f.row, err = s.Get(ctx, l.Name); err != nil || f.row.dueAt.After(f.begin) || f.row.State == Forked {
		s.m.position(&f.row, f.begin)
		return n, err
	}
	if f.row.URL != l.URL || f.row.Kind != l.Kind {
		return n, fault.New(fault.Precondition, "ct_log.%s was another log before; give the new one another name, or forget the old one with `chancery ct logs reset %s`", l.Name, l.Name)
	}
	held := int64(0)
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
		held, err = tx.Exec(ctx, qClaim, l.Name, f.begin, f.begin.Add(s.cfg.Lease), f.token)
		return err
	})
	if err != nil || held == 0 {
		return n, err
	}
	if f.r, err = newReader(*l, s.cfg.Gates); err != nil {
		return n, err
	}
	before := f.row.Size
	err = f.follow(ctx)
	n.Claimed, n.Backlog = 1, int(f.row.Lag())
	if errors.Is(err, errLease) {
		return n, nil
	}
	n.More = err == nil && f.row.Lag() > 0
	if n.Done = 1; err != nil {
		n.Done, n.Failed = 0, 1
	}
	back, stop := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer stop()
	if ctx.Err() != nil {
		err = nil // the program ends; whoever follows next begins at once
	}
	s.cfg.Log.DebugContext(ctx, "log followed", "entries", f.row.Size-before, "lag", f.row.Lag())
	return n, f.finish(back, err)
}

// follow fetches a head, holds it against the last one, and looks at entries
// until the tick's time is over.
func (f *follower) follow(ctx context.Context) error {
	h, err := f.r.head(ctx)
	if err != nil {
		return err
	}
	// A log that was empty when it was seen first is followed from its start.
	grew := f.row.head != "" && f.row.HeadSize <= 3
	if err := f.compare(ctx, &h); err != nil {
		return err
	}
	if f.row.Size == 0 && f.row.Entries == 0 && !f.r.log.Begin && !grew && h.size > 3 {
		if err := f.enter(ctx, h); err != nil {
			return err
		}
	}
	for f.row.Size < h.size && time.Since(f.begin) < tickTime {
		if err := f.advance(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

// compare holds a head against the last one and stores the newer. An older
// head, as a stale frontend may give, is replaced by the one that is known.
func (f *follower) compare(ctx context.Context, h *head) error {
	last := head{f.row.HeadSize, f.row.headRoot, f.row.HeadAt, f.row.head}
	older, newer := last, *h
	if h.size < last.size {
		older, newer = *h, last
	}
	switch {
	case last.text == "":
	case older.size == newer.size && older.root != newer.root:
		return &errFork{older.text, newer.text, fmt.Sprintf("two trees of %d entries have different roots", newer.size)}
	case older.size < newer.size && older.size > 0:
		proven, err := f.r.prove(ctx, older.size, &older.root, newer)
		if err != nil {
			return fmt.Errorf("show that the tree of %d entries has grown out of that of %d: %w", newer.size, older.size, err)
		}
		if proven.root() != older.root {
			return &errFork{older.text, newer.text, fmt.Sprintf("the tree of %d entries is not the beginning of that of %d", older.size, newer.size)}
		}
	}
	if h.size < last.size || h.size == last.size && !h.at.After(last.at) {
		*h = last
		return nil
	}
	return f.write(ctx, func(tx *db.Tx) (int64, error) {
		f.row.HeadSize, f.row.headRoot, f.row.HeadAt, f.row.head = h.size, h.root, h.at, h.text
		return tx.Exec(ctx, qHead, f.row.Name, f.token, h.size, h.root[:], h.at, h.text, time.Now(), time.Now().Add(f.cfg.Lease))
	})
}

// write runs a conditional update, which fails when the lease is lost.
func (f *follower) write(ctx context.Context, do func(*db.Tx) (int64, error)) error {
	return f.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		n, err := do(tx)
		if err == nil && n == 0 {
			err = errLease
		}
		return err
	})
}

// enter begins near the end of a log: with its last entry or two, because a
// consistency proof, which gives a place to append to, needs a larger tree.
func (f *follower) enter(ctx context.Context, h head) (err error) {
	size := h.size - 1
	if size&(size-1) == 0 {
		size-- // the proof of a perfect tree does not have its root
	}
	start, err := f.r.prove(ctx, size, nil, h)
	if err != nil {
		return fmt.Errorf("find the end of the log: %w", err)
	}
	f.row.Size, f.row.frontier = size, start
	return nil
}

// looked is what became of one window.
type looked struct {
	hashes     []tlog.Hash
	found      []match
	unreadable int
	last       time.Time
}

// advance looks at the next chunk, verifies it, and moves the position.
func (f *follower) advance(ctx context.Context, h head) error {
	ours, err := f.ours(ctx)
	if err != nil {
		return err
	}
	from := f.row.Size
	to := min(h.size, (from/window)*window+chunk)
	windows, err := f.fetch(ctx, ours, from, to, h)
	if err != nil {
		return err
	}
	next := f.row.frontier.clone()
	var found []match
	unreadable, last := 0, f.row.EntryAt
	for _, w := range windows {
		for _, hash := range w.hashes {
			next.add(hash)
		}
		found, unreadable, last = append(found, w.found...), unreadable+w.unreadable, w.last
	}
	if err := f.verify(ctx, &next, h); err != nil {
		return err
	}
	if err := f.record(ctx, found); err != nil {
		return err
	}
	err = f.write(ctx, func(tx *db.Tx) (int64, error) {
		return tx.Exec(ctx, qMove, f.row.Name, f.token, next.size, next.bytes(), to-from, len(found), unreadable, last, time.Now().Add(f.cfg.Lease))
	})
	if err != nil {
		return err
	}
	f.m.entries.WithLabelValues(f.row.Name).Add(float64(to - from))
	f.m.matches.WithLabelValues(f.row.Name).Add(float64(len(found)))
	f.row.Size, f.row.frontier, f.row.EntryAt, f.row.Entries = next.size, next, last, f.row.Entries+to-from
	return nil
}

// fetch looks at the windows of a chunk, some at once.
func (f *follower) fetch(ctx context.Context, ours *matcher, from, to int64, h head) ([]looked, error) {
	var out []looked
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	first := from / window
	out = make([]looked, (to-1)/window-first+1)
	for i := range out {
		low := max(from, (first+int64(i))*window)
		high := min(to, (first+int64(i)+1)*window)
		g.Go(func() error {
			entries, err := f.r.entries(ctx, low, high, h)
			if err != nil {
				return fmt.Errorf("entries %d to %d: %w", low, high-1, err)
			}
			out[i] = look(ours, entries, low)
			return nil
		})
	}
	return out, g.Wait()
}

// look hashes entries, and picks those that are for our names.
func look(ours *matcher, entries []entry, index int64) looked {
	w := looked{hashes: make([]tlog.Hash, len(entries))}
	for i := range entries {
		e := &entries[i]
		w.hashes[i] = tlog.RecordHash(e.leaf)
		w.last = e.at
		fields, ok := dissect(e.tbs)
		if !ok {
			w.unreadable++
			continue
		}
		hit := ""
		complete := fields.names(func(name []byte) bool {
			if ours.match(name) {
				hit = string(name)
			}
			return hit == ""
		})
		if hit != "" {
			w.found = append(w.found, newMatch(e, &fields, hit, index+int64(i)))
		} else if !complete {
			w.unreadable++
		}
	}
	return w
}

// verify holds a tree that was built of entries against what the log signed.
func (f *follower) verify(ctx context.Context, next *frontier, h head) error {
	root := next.root()
	if next.size == h.size {
		if root != h.root {
			return fmt.Errorf("the entries up to %d do not make the tree that the log signed", h.size)
		}
		return nil
	}
	proven, err := f.r.prove(ctx, next.size, &root, h)
	if err != nil {
		return fmt.Errorf("verify the first %d entries: %w", next.size, err)
	}
	if proven.root() != root {
		return fmt.Errorf("the entries up to %d are not those of the tree that the log signed", next.size)
	}
	return nil
}

// retry spaces looks at a log that fails.
var retry = loop.Backoff{Base: 10 * time.Second, Max: 30 * time.Minute}

// finish records the outcome and gives the lease back.
func (f *follower) finish(ctx context.Context, failed error) error {
	now, v := time.Now(), &f.row
	next := now.Add(f.cfg.Interval)
	v.State, v.Error, v.Proof = Following, "", ""
	fork, forked := errors.AsType[*errFork](failed)
	switch {
	case forked:
		v.State, v.Error, v.Proof = Forked, fork.Error(), fork.a+"\n\n"+fork.b+"\n"
		f.cfg.Log.ErrorContext(ctx, "certificate transparency log contradicts itself", "log", v.Name, "error", fork)
	case failed != nil:
		next = now.Add(max(min(retry.Bound(v.Failures), 30*time.Minute), f.cfg.Interval))
		v.State, v.Error, v.Failures = Failing, text(failed), v.Failures+1
		f.cfg.Log.WarnContext(ctx, "certificate transparency log not followed", "log", v.Name, "error", failed)
	default:
		if v.Failures = 0; v.Lag() > 0 {
			next = now
		}
	}
	f.m.position(v, now)
	return f.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, qDone, v.Name, f.token, string(v.State), v.Error, v.Failures, v.Proof, next, now)
		if err != nil || n == 0 || !forked {
			return err
		}
		return audit.Append(tx, audit.Entry{At: now, Kind: "ct.fork", Actor: "system", Subject: "ct_log:" + v.Name, Data: map[string]any{"why": fork.why, "first": fork.a, "second": fork.b}})
	})
}

// text is what a row says of an error: storable, and short.
func text(err error) string {
	s := err.Error()
	if f, ok := errors.AsType[*fault.Error](err); ok {
		s = f.Detail
	}
	s = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(s, "?"))
	return strings.ToValidUTF8(s[:min(len(s), 1000)], "")
}
