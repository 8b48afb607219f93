package deploy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"time"

	"chancery/internal/obs"
)

// Options say how a run goes about it. The zero value works: no probe, no
// window, the usual bounds.
type Options struct {
	Now      func() time.Time // for dates of certificates and windows; nil = time.Now
	Probe    Probe            // where the server is asked what it serves
	Windows  []Window         // when the target may be touched; none = always
	Urgent   bool             // do not wait for a window
	Attempts int              // most applications of one run, with those of the search for a bad item; 0 = 64
	Log      *slog.Logger     // nil = silent
}

// ClosedError says that the target must not be touched now.
type ClosedError struct{ OpensAt time.Time }

// Error implements error.
func (e *ClosedError) Error() string {
	return "outside the target's windows until " + e.OpensAt.Format(time.RFC3339)
}

// rollbackTime is how long a rollback may take: it goes on when the caller has
// given up, because half a deployment is worse than a late answer.
const rollbackTime = 2 * time.Minute

// errGaveUp is why items were not tried any more.
var errGaveUp = errors.New("gave up: too many attempts failed before this item's turn; the target itself seems to be out of order")

// Run puts items into service at a target and says what became of each, in
// their order. An item that is bad in itself never reaches the target; one
// that the server does not serve is taken out, and the others go live.
func Run(ctx context.Context, target Target, items []Item, opts Options) []Outcome {
	r := newRun(target, items, opts)
	if at, closed := r.closed(); closed {
		r.fail(items, &ClosedError{OpensAt: at})
		return r.outcomes
	}
	good := r.check(items)
	if len(good) == 0 {
		return r.outcomes
	}
	if rec, ok := target.(Recoverer); ok {
		if err := rec.Recover(ctx); err != nil {
			r.fail(good, fmt.Errorf("recover what an earlier run left: %w", err))
			return r.outcomes
		}
	}
	r.batch(ctx, good)
	return r.outcomes
}

// run is one call of Run.
type run struct {
	target   Target
	opts     Options
	began    time.Time
	outcomes []Outcome
	index    map[string]int // of the outcome, by ID
	size     int            // items of the run
	attempts int            // applications so far
	failed   int            // of those, in a row
	broken   error          // a rollback failed: nothing may be tried any more
}

func newRun(target Target, items []Item, opts Options) *run {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Attempts <= 0 {
		opts.Attempts = 64
	}
	r := &run{target: target, opts: opts, began: time.Now(), outcomes: make([]Outcome, len(items)), index: make(map[string]int, len(items)), size: len(items)}
	for i := range items {
		r.outcomes[i].ID = items[i].ID
		if _, twice := r.index[items[i].ID]; !twice {
			r.index[items[i].ID] = i
		}
	}
	return r
}

// closed reports whether no window is open, and when the next one is.
func (r *run) closed() (time.Time, bool) {
	if r.opts.Urgent || len(r.opts.Windows) == 0 {
		return time.Time{}, false
	}
	now := r.opts.Now()
	at := NextOpen(r.opts.Windows, now)
	return at, at.After(now)
}

// check returns the items that are good in themselves.
func (r *run) check(items []Item) []Item {
	good := make([]Item, 0, len(items))
	for i := range items {
		err := Check(&items[i], r.opts.Now())
		if r.index[items[i].ID] != i {
			err = fmt.Errorf("the batch has two items with the id %q", items[i].ID)
		}
		if err != nil {
			r.settle(i, err)
			continue
		}
		good = append(good, items[i])
	}
	return good
}

// settle records the end of one item; a nil error means that it is live.
func (r *run) settle(i int, err error) {
	o := &r.outcomes[i]
	o.Live, o.Err, o.Finished, o.Took = err == nil, err, r.opts.Now(), time.Since(r.began)
	if ce, ok := errors.AsType[*CommandError](err); ok {
		o.Stderr = ce.Output
	}
	if err != nil {
		r.opts.Log.Warn("certificate not deployed", slog.String("item", o.ID), slog.Any("error", err))
	}
}

// fail records the same failure for many items.
func (r *run) fail(items []Item, err error) {
	for i := range items {
		r.settle(r.index[items[i].ID], err)
	}
}

// batch brings items into service together, or finds out which of them spoil
// it.
func (r *run) batch(ctx context.Context, items []Item) {
	for len(items) > 0 {
		if err := r.exhausted(ctx); err != nil {
			r.fail(items, err)
			return
		}
		bad, err := r.attempt(ctx, items)
		switch {
		case err == nil:
			r.fail(items, nil)
			return
		case r.broken != nil:
			r.fail(items, err)
			return
		case len(bad) > 0 && len(bad) < len(items):
			items = r.without(items, bad)
		case len(items) == 1:
			r.fail(items, orItem(bad, items[0].ID, err))
			return
		default:
			half := len(items) / 2
			r.batch(ctx, items[:half])
			items = items[half:]
		}
	}
}

// exhausted says why nothing may be tried any more, if so. A batch with one
// bad item fails about log2(n) times in a row before a half without it goes
// live; twice that without any success is the target's fault.
func (r *run) exhausted(ctx context.Context) error {
	switch {
	case r.broken != nil:
		return r.broken
	case ctx.Err() != nil:
		return fmt.Errorf("deploy: %w", ctx.Err())
	case r.attempts >= r.opts.Attempts, r.failed > 2*bits.Len(uint(r.size))+2:
		return errGaveUp
	}
	return nil
}

// without settles the items to blame and returns the others.
func (r *run) without(items []Item, bad map[string]error) []Item {
	rest := make([]Item, 0, len(items))
	for i := range items {
		if err := bad[items[i].ID]; err != nil {
			r.settle(r.index[items[i].ID], err)
			continue
		}
		rest = append(rest, items[i])
	}
	return rest
}

// orItem returns what bad says of an item, or err.
func orItem(bad map[string]error, id string, err error) error {
	if bad[id] != nil {
		return bad[id]
	}
	return err
}

// attempt stages, applies, verifies and commits a batch. When it fails what
// was live before is live again, and bad says whose fault it was, if known.
func (r *run) attempt(ctx context.Context, items []Item) (bad map[string]error, err error) {
	ctx, span := obs.Step(ctx, "deploy.attempt")
	span.Int("deploy.items", len(items))
	defer func() { span.End(err) }()
	staged, err := stage(ctx, r.target, items)
	if err != nil {
		if bad = blame(err); bad == nil {
			r.count(false)
		}
		return bad, fmt.Errorf("stage: %w", err)
	}
	if bad, err = r.apply(ctx, staged, items); err == nil {
		err = traced(context.WithoutCancel(ctx), "deploy.commit", staged.Commit)
	}
	r.count(err == nil)
	if err == nil {
		r.opts.Log.Info("certificates deployed", slog.Int("items", len(items)), slog.Duration("took", time.Since(r.began)))
		return nil, nil
	}
	r.opts.Log.Warn("deployment rolled back", slog.Int("items", len(items)), slog.Int("blamed", len(bad)), slog.Any("error", err))
	return bad, r.rollback(ctx, staged, items, err)
}

// stage is Stage as a step of the trace.
func stage(ctx context.Context, t Target, items []Item) (staged Staged, err error) {
	err = traced(ctx, "deploy.stage", func(ctx context.Context) error {
		staged, err = t.Stage(ctx, items)
		return err
	})
	return staged, err
}

// traced runs f as a step of the trace.
func traced(ctx context.Context, name string, f func(context.Context) error) error {
	ctx, span := obs.Step(ctx, name)
	err := f(ctx)
	span.End(err)
	return err
}

// count keeps the bounds of the search.
func (r *run) count(ok bool) {
	r.attempts++
	r.failed++
	if ok {
		r.failed = 0
	}
}

// apply switches and asks the server.
func (r *run) apply(ctx context.Context, staged Staged, items []Item) (bad map[string]error, err error) {
	if err = traced(ctx, "deploy.apply", staged.Apply); err != nil {
		return blame(err), fmt.Errorf("apply: %w", err)
	}
	err = traced(ctx, "deploy.verify", func(ctx context.Context) error {
		if bad, err = staged.Verify(ctx); err == nil && len(bad) == 0 {
			bad = r.opts.Probe.Items(ctx, items)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	for id, why := range bad {
		return bad, fmt.Errorf("verify: %d of %d items: %s: %w", len(bad), len(items), id, why)
	}
	return nil, nil
}

// rollback undoes an attempt that failed because of err.
func (r *run) rollback(ctx context.Context, staged Staged, items []Item, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTime)
	defer cancel()
	if undo := traced(ctx, "deploy.rollback", staged.Rollback); undo != nil {
		r.broken = fmt.Errorf("roll back: %w; it was needed because: %w", undo, err)
		r.opts.Log.Error("rollback failed", slog.Any("error", r.broken))
		return r.broken
	}
	for id, still := range r.opts.Probe.Gone(ctx, items) {
		// No failure: the item may have been live before, and be so again.
		r.opts.Log.Warn("certificate still served after the rollback", slog.String("item", id), slog.Any("error", still))
	}
	return err
}

// blame returns the items that an error names, or nil.
func blame(err error) map[string]error {
	var bad map[string]error
	var walk func(error)
	walk = func(err error) {
		if e, ok := err.(*ItemError); ok {
			if bad == nil {
				bad = map[string]error{}
			}
			bad[e.ID] = e.Err
			return
		}
		switch u := err.(type) {
		case interface{ Unwrap() error }:
			walk(u.Unwrap())
		case interface{ Unwrap() []error }:
			for _, one := range u.Unwrap() {
				walk(one)
			}
		}
	}
	if err != nil {
		walk(err)
	}
	return bad
}
