package source

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/loop"
	"chancery/internal/scan/cloud"
)

// maxWatch is how long one watch lasts before the lease is given back, and
// whoever comes first goes on.
const maxWatch = 5 * time.Minute

var (
	qClaim = db.SQL("source.claim", `UPDATE source SET lease_until = $3, lease_token = $4, started_at = $2, state = $5
		WHERE name = $1 AND due_at <= $2 AND (lease_until < $2 OR lease_token = $4)`)
	qRenew    = db.SQL("source.renew", `UPDATE source SET lease_until = $3 WHERE name = $1 AND lease_token = $2`)
	qHandBack = db.SQL("source.hand_back", `UPDATE source SET state = 'waiting', cursor = $3, lease_until = 0, due_at = 0 WHERE name = $1 AND lease_token = $2`)
	qDone     = db.SQL("source.finish", `UPDATE source SET state = $3, error = $4, failures = $5, cursor = $6, generation = $7, tally = $8,
			due_at = CASE WHEN asked_at > $12::bigint THEN 0 ELSE $9::bigint END, finished_at = $10, listed_at = $11, lease_until = 0
		WHERE name = $1 AND lease_token = $2`)
	qGone = db.SQL("source.mark_gone", `UPDATE source_item SET gone_at = $3 WHERE source = $1 AND generation < $2 AND gone_at IS NULL`)
	qHere = db.SQL("source.count_items", `SELECT count(*) FROM source_item WHERE source = $1 AND gone_at IS NULL`)
)

var (
	errLease = errors.New("another process lists the source")
	errAsked = errors.New("a complete list was asked for")
)

// run is one list or watch of a source.
type run struct {
	*Service
	name     string
	settings *Settings
	status   Status
	token    string
	begin    time.Time
	complete bool // everything is listed, rather than changes
	tally    Tally
	cursor   string
	known    map[string]string // fingerprints of known items that were asked for and not stored yet
	mu       sync.Mutex        // of known: lists may ask from several goroutines
}

// tick lists the source when it is due and nobody else does.
func (s *Service) tick(ctx context.Context, name string, c *Settings) (n loop.Count, err error) {
	r := &run{Service: s, name: name, settings: c, token: db.NewID(time.Now()), begin: time.Now(), known: map[string]string{}}
	if r.status, err = s.Get(ctx, name); err != nil || r.status.DueAt.After(r.begin) {
		return n, err
	}
	r.complete = r.status.cursor == "" || !r.status.ListedAt.Add(c.Interval).After(r.begin) || r.status.askedAt.After(r.status.StartedAt)
	state := Watching
	if r.complete {
		state = Listing
	}
	held := int64(0)
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
		held, err = tx.Exec(ctx, qClaim, name, r.begin, r.begin.Add(s.cfg.Lease), r.token, string(state))
		return err
	})
	if err != nil || held == 0 {
		return n, err
	}
	n.Claimed = 1
	if err := r.hold(ctx); err != nil {
		n.Failed = 1
		s.cfg.Log.WarnContext(ctx, "source not listed", "source", name, "kind", c.Kind.Name, "error", err)
		return n, nil // the row says so, and when it is tried again
	}
	n.Done, n.More = 1, !r.complete
	return n, nil
}

// hold lists while it holds the lease, and records the outcome.
func (r *run) hold(ctx context.Context) error {
	listCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var renewing sync.WaitGroup
	renewing.Go(func() { r.renew(listCtx, cancel) })
	err := r.list(listCtx)
	cause := context.Cause(listCtx)
	cancel(nil)
	renewing.Wait()
	switch {
	case errors.Is(cause, errLease):
		return cause
	case errors.Is(cause, errAsked):
		err = nil // the watch ends so that a list can begin
	case errors.Is(err, cloud.ErrExpired):
		r.cursor, err = "", nil
	}
	back, stop := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer stop()
	if ctx.Err() != nil {
		return r.handBack(back) // the program ends: somebody else may begin at once
	}
	return errors.Join(err, r.finish(back, err))
}

// handBack gives the lease back without an outcome.
func (r *run) handBack(ctx context.Context) error {
	return r.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, qHandBack, r.name, r.token, r.cursor)
		return err
	})
}

// renew keeps the lease until ctx ends, and ends the list when it is lost or
// when somebody asks for a complete one in place of a watch.
func (r *run) renew(ctx context.Context, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(min(r.cfg.Lease/3, 2*time.Second))
	defer tick.Stop()
	renewed := r.begin
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if now, err := r.Get(ctx, r.name); err == nil && !r.complete && now.askedAt.After(r.begin) {
			cancel(errAsked)
			return
		}
		if time.Since(renewed) < r.cfg.Lease/3 {
			continue
		}
		n := int64(0)
		err := r.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
			n, err = tx.Exec(ctx, qRenew, r.name, r.token, time.Now().Add(r.cfg.Lease))
			return err
		})
		if err == nil && n == 0 {
			cancel(errLease)
			return
		}
		if err == nil {
			renewed = time.Now()
		}
	}
}

// list lists everything, or watches.
func (r *run) list(ctx context.Context) error {
	src, err := r.open(r.name, r.settings)
	if err != nil {
		return err
	}
	since := cloud.Since{Known: r.lookUp}
	timeout := r.settings.Timeout
	if r.cursor = r.status.cursor; r.complete {
		r.status.generation++
		r.cursor = ""
	} else {
		since.Cursor = r.cursor
		since.Until = r.begin.Add(min(maxWatch, time.Until(r.status.ListedAt.Add(r.settings.Interval))))
		timeout += maxWatch
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fault.New(fault.Unavailable, "the list took longer than %s (source.%s.timeout)", timeout, r.name))
	defer cancel()
	err = r.drain(ctx, src, since)
	if cause, late := errors.AsType[*fault.Error](context.Cause(ctx)); late && err != nil {
		return cause
	}
	if err == nil && r.complete {
		return r.close(ctx)
	}
	return err
}

// Batches of certificates on their way into the inventory.
const (
	batchSize = 50
	batchWait = 500 * time.Millisecond
)

// drain stores what the source yields, in batches.
func (r *run) drain(ctx context.Context, src cloud.Source, since cloud.Since) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	certs := make(chan cloud.Cert) // unbuffered: a store that is slow slows the list
	listed := make(chan error, 1)
	go func() {
		defer close(certs)
		listed <- forward(ctx, src, since, certs)
	}()
	var batch []cloud.Cert
	flush := time.NewTimer(batchWait)
	defer flush.Stop()
	var stored error
	put := func() {
		if len(batch) > 0 && stored == nil {
			if stored = r.put(ctx, batch); stored != nil {
				cancel(stored)
			}
		}
		batch = batch[:0]
	}
	for open := true; open; {
		select {
		case c, ok := <-certs:
			if open = ok; ok {
				batch = append(batch, c)
			}
			if len(batch) == batchSize {
				put()
			}
		case <-flush.C:
			put()
			flush.Reset(batchWait)
		}
	}
	put()
	if stored != nil {
		return stored
	}
	return <-listed
}

// forward sends what the source yields.
func forward(ctx context.Context, src cloud.Source, since cloud.Since, to chan<- cloud.Cert) error {
	for c, err := range src.List(ctx, since) {
		if err != nil {
			return err
		}
		select {
		case to <- c:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return ctx.Err()
}

// close marks what a complete list did not have.
func (r *run) close(ctx context.Context) error {
	now := time.Now()
	err := r.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, qGone, r.name, r.status.generation, now)
		r.tally.Gone = int(n)
		return err
	})
	if err != nil {
		return fmt.Errorf("mark what is gone: %w", err)
	}
	r.status.ListedAt = now
	return nil
}

// retry spaces lists that fail.
var retry = loop.Backoff{Base: 30 * time.Second, Max: time.Hour}

// finish records the outcome and gives the lease back.
func (r *run) finish(ctx context.Context, failed error) error {
	now, st := time.Now(), &r.status
	next := now // a watch goes on at once
	switch {
	case failed != nil:
		next = now.Add(min(retry.Bound(st.Failures), r.settings.Interval))
		st.State, st.Error, st.Failures = Failed, text(failed), st.Failures+1
	default:
		st.State, st.Error, st.Failures = OK, "", 0
	}
	if failed == nil && r.cursor == "" {
		next = r.begin.Add(r.settings.Interval + rand.N(r.settings.Interval/20+1))
		if !r.complete {
			next = now // its cursor expired: list everything
		}
	}
	if r.complete && failed == nil {
		st.Tally = r.tally
		if err := r.cfg.DB.Read().One(ctx, qHere, func(row *db.Row) { st.Tally.Listed = row.Int() }, r.name); err != nil {
			return err
		}
	}
	r.measure(now, failed)
	tally, err := json.Marshal(st.Tally)
	if err != nil {
		return err
	}
	var listed any
	if !st.ListedAt.IsZero() {
		listed = st.ListedAt
	}
	return r.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, qDone, r.name, r.token, string(st.State), st.Error, st.Failures, r.cursor, st.generation, string(tally), next, now, listed, r.begin)
		return err
	})
}

func (r *run) measure(now time.Time, failed error) {
	if !r.complete {
		return
	}
	outcome := "ok"
	if failed != nil {
		outcome = "failed"
	} else {
		r.m.certs.WithLabelValues(r.name).Set(float64(r.status.Tally.Listed))
		r.m.listed.WithLabelValues(r.name).Set(float64(now.Unix()))
	}
	r.m.lists.WithLabelValues(r.name, outcome).Inc()
	r.m.duration.WithLabelValues(r.name).Observe(now.Sub(r.begin).Seconds())
}
