package scan

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"chancery/internal/fault"
	"chancery/internal/scan/probe"
)

// Scanner examines targets; it may be used for one Run at a time.
type Scanner struct {
	cfg         Config
	observer    *probe.Observer
	least, most int
	note        string

	progress counters
}

// counters are what Progress shows.
type counters struct {
	total, done, unhealthy, flight, limit atomic.Int64
}

// Progress is a moment of a running scan.
type Progress struct {
	Total, Done int // targets, without those skipped
	Unhealthy   int // of Done
	InFlight    int
	Limit       int // how many may be in flight
}

// New returns a Scanner. Judge is required; Resolver is when a target has a
// name.
func New(cfg Config) (*Scanner, error) {
	cfg = cfg.withDefaults()
	if cfg.Judge == nil {
		return nil, errors.New("make scanner: no judge")
	}
	if !cfg.Probe.Valid() {
		return nil, fault.New(fault.Invalid, "the probe %q is none of observe, fetch, dual, features", cfg.Probe)
	}
	s := &Scanner{cfg: cfg, observer: probe.NewObserver(cfg.Now)}
	s.least, s.most, s.note = flightBounds(cfg, cfg.openFiles)
	return s, nil
}

// Bounds returns the most targets that will be in flight, and a note for the
// user when the limit of open files is what bounds it.
func (s *Scanner) Bounds() (most int, note string) { return s.most, s.note }

// Progress returns how far Run is.
func (s *Scanner) Progress() Progress {
	p := &s.progress
	return Progress{Total: int(p.total.Load()), Done: int(p.done.Load()), Unhealthy: int(p.unhealthy.Load()), InFlight: int(p.flight.Load()), Limit: int(p.limit.Load())}
}

// Run examines every target once and gives the results to sink. It returns
// when all is delivered, or early when ctx ends or the sink fails; then what
// was finished is delivered first where possible, and Remaining of the summary
// says what is missing.
func (s *Scanner) Run(ctx context.Context, targets []Target, sink Sink) (Summary, error) {
	r, err := s.begin(ctx, targets, sink)
	if err != nil {
		return Summary{}, err
	}
	err = r.all()
	sum := r.book.close(s.cfg.Now())
	sum.Limit, sum.Peak = s.most, int(r.tuner.peak.Load())
	if s.note != "" {
		sum.Notes = append(sum.Notes, s.note)
	}
	if err == nil && sum.Remaining == 0 {
		err = s.cfg.State.finish()
	}
	if err == nil && sum.Remaining > 0 {
		err = context.Cause(ctx)
	}
	return sum, err
}

// run is one pass.
type run struct {
	*Scanner
	ctx    context.Context // ends with the caller's, or when the sink fails
	cancel context.CancelFunc
	book   *ledger
	tuner  *tuner
	dialer *probe.Dialer // of first attempts
	again  *probe.Dialer // of second ones
	gate   *admission
	out    *outbox

	todo    []Target
	window  chan struct{}  // places for targets between resolving and admission
	names   chan *job      // to the resolving workers
	jobs    chan *job      // to idle workers
	workers sync.WaitGroup // resolving and examining
	open    atomic.Int64   // targets without a result
}

// begin prepares a pass.
func (s *Scanner) begin(ctx context.Context, targets []Target, sink Sink) (*run, error) {
	cfg := &s.cfg
	r := &run{Scanner: s, book: newLedger(cfg.Now())}
	r.dialer, r.again = cfg.dialers()
	r.ctx, r.cancel = context.WithCancel(ctx)
	r.tuner = newTuner(cfg.Start, s.least, s.most, cfg.Latency)
	r.gate = newAdmission(newLimits(cfg.PerAddress, cfg.AddressRate), newLimits(cfg.PerNetwork, cfg.NetworkRate), cfg.Probe.connections())
	r.out = newOutbox(cfg, sink, r.book, r.gate.signal)
	r.window, r.names, r.jobs = make(chan struct{}, 2*cfg.Lookups), make(chan *job), make(chan *job)
	for _, t := range targets {
		if cfg.State.skip(t) {
			r.book.sum.Skipped++
			continue
		}
		if t.Host != "" && cfg.Resolver == nil {
			return nil, fmt.Errorf("scan %s: no resolver", t)
		}
		r.todo = append(r.todo, t)
	}
	r.book.sum.Targets = len(targets)
	shuffle := rand.Shuffle
	if cfg.Shuffle != nil {
		shuffle = cfg.Shuffle
	}
	// In the order of an estate's lists, neighbours share a network and an owner.
	shuffle(len(r.todo), func(i, j int) { r.todo[i], r.todo[j] = r.todo[j], r.todo[i] })
	r.open.Store(int64(len(r.todo)))
	s.progress.total.Store(int64(len(r.todo)))
	s.progress.done.Store(0)
	s.progress.unhealthy.Store(0)
	return r, nil
}

// all runs the stages to their end.
func (r *run) all() error {
	defer r.cancel()
	delivered := make(chan error, 1)
	go func() {
		err := r.out.run(r.ctx)
		if err != nil {
			r.cancel()
		}
		delivered <- err
	}()
	aside, stopAside := context.WithCancel(r.ctx)
	var tuning sync.WaitGroup
	tuning.Go(func() {
		demand := func() bool { return r.gate.demand(int(r.tuner.limit.Load())) }
		r.tuner.run(aside, r.cfg.Tune, r.dialer.Tokens, demand, r.gate.signal)
	})
	r.workers.Go(r.feed)
	r.dispatch()
	r.workers.Wait()
	stopAside()
	tuning.Wait()
	r.out.close()
	return <-delivered
}

// feed sends targets to admission in order, those with names by way of the
// resolving workers, as far ahead as the window allows.
func (r *run) feed() {
	defer close(r.names)
	resolving := 0
	for _, t := range r.todo {
		select {
		case r.window <- struct{}{}:
		case <-r.ctx.Done():
			return
		}
		j := &job{target: t, addr: t.Addr, ahead: true, slow: r.cfg.State.suspect(t)}
		if t.Host == "" {
			r.gate.add(j)
			continue
		}
		select {
		case r.names <- j:
			continue
		default:
		}
		if resolving < r.cfg.Lookups {
			resolving++
			r.workers.Go(r.resolveLoop)
		}
		select {
		case r.names <- j:
		case <-r.ctx.Done():
			return
		}
	}
}

// resolveLoop resolves names until feed ends.
func (r *run) resolveLoop() {
	for j := range r.names {
		if f := r.resolve(j); f != nil {
			r.leaveWindow(j)
			r.finish(j, Result{Class: f.Class, Reason: f.Reason})
			continue
		}
		r.gate.add(j)
	}
}

// leaveWindow gives back the place of j among the targets resolved ahead.
func (r *run) leaveWindow(j *job) {
	if j.ahead {
		j.ahead = false
		<-r.window
	}
}

// dispatch hands admitted targets to workers until every target has a result
// or the context ends.
func (r *run) dispatch() {
	defer close(r.jobs)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for r.open.Load() > 0 && r.ctx.Err() == nil {
		limit, suspects := int(r.tuner.limit.Load()), min(r.cfg.Suspects, r.most)
		r.progress.limit.Store(int64(limit))
		if r.out.full() {
			limit, suspects = 0, 0
		}
		j, wait := r.gate.next(time.Now(), limit, suspects, r.leaveWindow)
		if j != nil {
			r.leaveWindow(j)
			r.hand(j)
			continue
		}
		timer.Reset(wait)
		select {
		case <-r.gate.wake:
		case <-timer.C:
		case <-r.ctx.Done():
		}
	}
}

// hand gives j to an idle worker, whose stack has grown already, or to a new
// one.
func (r *run) hand(j *job) {
	r.progress.flight.Add(1)
	select {
	case r.jobs <- j:
	default:
		r.workers.Go(func() {
			for ok := true; ok; j, ok = <-r.jobs {
				r.work(j)
			}
		})
	}
}

// work examines one target and decides what becomes of it.
func (r *run) work(j *job) {
	j.attempts++
	res := r.examine(j)
	r.progress.flight.Add(-1)
	r.gate.leave(j)
	if r.ctx.Err() != nil && res.Class == probe.Canceled {
		return // it remains
	}
	if res.Class == probe.OK {
		r.tuner.answered(res.Times.Wait)
	}
	if res.Class == probe.Local {
		r.tuner.set(max(int(r.tuner.limit.Load())*4/5, r.least))
	}
	if res.Class.Suspect() && j.attempts == 1 {
		j.slow = true
		r.gate.add(j)
		return
	}
	r.finish(j, res)
}

// finish delivers the one result of j.
func (r *run) finish(j *job, res Result) {
	res.Target, res.Attempts, res.TTL, res.Times.DNS = j.target, j.attempts, j.ttl, j.lookup
	if res.At.IsZero() {
		res.At = r.cfg.Now()
	}
	if res.Class == probe.Canceled {
		return
	}
	r.out.put(res)
	r.progress.done.Add(1)
	if !res.Healthy() {
		r.progress.unhealthy.Add(1)
	}
	if r.open.Add(-1) == 0 {
		r.gate.signal()
	}
}
