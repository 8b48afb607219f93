package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// stage is where a round is.
type stage = int32

const (
	warming stage = iota
	measuring
	over
)

// Bounds of waiting after an error in a closed loop.
const (
	minBackoff    = 10 * time.Millisecond
	maxBackoff    = time.Second
	maxRetryAfter = 5 * time.Second
)

// round is one warm-up and one measured window.
type round struct {
	w        *Workload
	d        *Driver
	clients  int
	totals   *totals
	progress Progress

	latency   Histogram // of this round
	stage     atomic.Int32
	done      chan struct{} // closed when the window ends
	closeOnce sync.Once
	ended     time.Time // set before done is closed

	ops, failed atomic.Int64 // measured
	inWindow    atomic.Int64 // successes while the window was open: what the CPU was used for
	ever        atomic.Int64 // successes since the round began
	misses      atomic.Int64 // failures since the round began

	abort context.CancelCauseFunc

	// Open loop only: operation i is to start at first + i*gap; the window is
	// [from, to) of intended starts.
	ticket   atomic.Int64
	first    time.Time
	from, to time.Time
	giveUp   time.Time // nothing starts after it
}

func newRound(w *Workload, d *Driver, clients int, t *totals) *round {
	return &round{w: w, d: d, clients: clients, totals: t, done: make(chan struct{})}
}

func (r *round) plan() *Plan { return &r.d.Plan }

// run drives all clients through the round.
func (r *round) run(ctx context.Context) (Round, error) {
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	r.abort = abort
	if r.plan().Rate > 0 {
		r.first = time.Now()
		r.from = r.first.Add(r.plan().Warmup)
		r.to = r.from.Add(r.plan().Duration)
		r.giveUp = r.to.Add(r.plan().Drain)
	}
	var clients sync.WaitGroup
	for i := range r.clients {
		clients.Go(func() { r.client(ctx, i) })
	}
	result, err := r.watch(ctx)
	r.finish()
	if err != nil {
		abort(err)
	} else {
		timer := time.AfterFunc(r.plan().Drain, func() { abort(errUnfinished) })
		defer timer.Stop()
	}
	clients.Wait()
	if err != nil {
		return Round{}, err
	}
	result.Operations, result.Failed = r.ops.Load(), r.failed.Load()
	inTime := result.Operations
	if r.plan().Rate > 0 {
		// What an open loop measures may end long after its window.
		inTime = r.inWindow.Load()
	}
	result.PerSecond = round4(float64(inTime) / result.Seconds)
	result.P50, result.P99 = millis(r.latency.Quantile(.5)), millis(r.latency.Quantile(.99))
	return result, nil
}

// errUnfinished ends operations that outlive their round.
var errUnfinished = errors.New("not finished when the round was over")

// watch opens and closes the window.
func (r *round) watch(ctx context.Context) (Round, error) {
	if err := r.wait(ctx, r.plan().Warmup); err != nil {
		return Round{}, err
	}
	before := r.d.Probe.begin(ctx)
	start := time.Now()
	r.stage.CompareAndSwap(warming, measuring)
	length := r.plan().Duration
	if length <= 0 {
		length = time.Duration(1<<63 - 1)
	}
	if err := r.wait(ctx, length); err != nil {
		return Round{}, err
	}
	r.finish()
	seconds := r.ended.Sub(start).Seconds()
	if r.plan().Rate > 0 {
		seconds = r.plan().Duration.Seconds() // its operations are counted by intended start
	}
	opsOfWindow := r.inWindow.Load()
	usage := r.d.Probe.end(ctx, before)
	r.totals.add(opsOfWindow, usage)
	return Round{Seconds: round4(seconds), Usage: usage}, nil
}

// finish closes the window; only the first call counts.
func (r *round) finish() {
	r.closeOnce.Do(func() {
		r.ended = time.Now()
		r.stage.Store(over)
		close(r.done)
	})
}

// wait lets time pass until the window ends by itself, telling the progress.
func (r *round) wait(ctx context.Context, length time.Duration) error {
	ticks := time.NewTicker(250 * time.Millisecond)
	defer ticks.Stop()
	timer := time.NewTimer(length)
	defer timer.Stop()
	start := time.Now()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-r.done:
			return nil
		case <-timer.C:
			return nil
		case now := <-ticks.C:
			r.tell(now.Sub(start))
		}
	}
}

// tell reports how far the round is, elapsed into its present stage.
func (r *round) tell(elapsed time.Duration) {
	if r.d.Progress == nil {
		return
	}
	p, plan := r.progress, r.plan()
	p.Operations, p.Failed = r.ops.Load(), r.misses.Load()
	done, whole := elapsed, plan.Warmup+plan.Duration
	if p.Measuring = r.stage.Load() == measuring; p.Measuring {
		done += plan.Warmup
		p.PerSecond = float64(p.Operations) / elapsed.Seconds()
	}
	share := 0.0
	if plan.Duration > 0 {
		share = float64(done) / float64(whole)
	}
	if plan.Count > 0 {
		share = max(share, float64(p.Operations)/float64(plan.Count))
	}
	finished := (p.Point-1)*p.Rounds + p.Round - 1
	p.Share = min((float64(finished)+min(share, 1))/float64(p.Points*p.Rounds), 1)
	r.d.Progress(p)
}

// client is the loop of one client.
func (r *round) client(ctx context.Context, id int) {
	if r.plan().Rate > 0 {
		r.openLoop(ctx, id)
		return
	}
	r.closedLoop(ctx, id)
}

// closedLoop starts the next operation when the last one is done. After an
// error it waits, as a sane client does; the wait is in nobody's latency.
func (r *round) closedLoop(ctx context.Context, id int) {
	var s Sample
	failures := 0
	for r.stage.Load() != over && ctx.Err() == nil {
		s = Sample{}
		start := time.Now()
		err := r.w.Do(ctx, id, &s)
		r.note(start, start, time.Now(), &s, err)
		if err == nil {
			failures = 0
			continue
		}
		failures++
		r.backOff(ctx, err, failures)
	}
}

// backOff waits before a client tries again, at most until the window ends.
func (r *round) backOff(ctx context.Context, err error, failures int) {
	wait := min(retryAfter(err), maxRetryAfter)
	if wait == 0 {
		wait = min(minBackoff<<min(failures-1, 10), maxBackoff)
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.done:
	case <-ctx.Done():
	}
}

// openLoop takes the next intended start, waits for it, and counts latency
// from it. When all clients are busy starts fall behind, and the lag counts.
func (r *round) openLoop(ctx context.Context, id int) {
	var s Sample
	gap := float64(time.Second) / r.plan().Rate
	for {
		intended := r.first.Add(time.Duration(float64(r.ticket.Add(1)-1) * gap))
		if !intended.Before(r.to) {
			return
		}
		if err := sleep(ctx, time.Until(intended)); err != nil {
			if !errors.Is(err, errUnfinished) {
				return
			}
			r.skip(intended) // and all later ones: each must be counted
			continue
		}
		start := time.Now()
		if start.After(r.giveUp) {
			r.skip(intended)
			continue
		}
		s = Sample{}
		err := r.w.Do(ctx, id, &s)
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		r.note(intended, start, time.Now(), &s, err)
	}
}

// errNotStarted is the failure of operations for which no client was free.
var errNotStarted = errors.New("no client was free to start it before the round was over")

// skip counts an operation that never started.
func (r *round) skip(intended time.Time) {
	if r.counts(intended) {
		r.failed.Add(1)
		r.totals.fail("not started", errNotStarted)
	}
}

// counts reports whether an operation is measured.
func (r *round) counts(intended time.Time) bool {
	if r.plan().Rate > 0 {
		return !intended.Before(r.from) && intended.Before(r.to)
	}
	return r.stage.Load() == measuring
}

// note counts one operation that has ended.
func (r *round) note(intended, start, end time.Time, s *Sample, err error) {
	counts := r.counts(intended)
	if err != nil {
		r.noteFailure(counts, err)
		return
	}
	r.ever.Add(1)
	if r.stage.Load() == measuring {
		r.inWindow.Add(1)
	}
	if !counts {
		return
	}
	n := r.ops.Add(1)
	if limit := int64(r.plan().Count); limit > 0 && r.plan().Rate == 0 {
		if n > limit { // a client that was quicker than the end of the window
			r.ops.Add(-1)
			return
		}
		if n == limit {
			defer r.finish()
		}
	}
	r.latency.Record(end.Sub(intended))
	r.totals.record(end.Sub(intended), end.Sub(start), s)
}

// noteFailure counts a failed operation, and ends the run when nothing works.
func (r *round) noteFailure(counts bool, err error) {
	class := classOf(err)
	if counts {
		r.failed.Add(1)
		r.totals.fail(class, err)
	}
	if n := r.misses.Add(1); r.ever.Load() == 0 && n >= int64(max(10, 2*r.clients)) {
		r.abort(fmt.Errorf("nothing succeeded in %d tries; the last error is %s: %w", n, class, err))
	}
}
