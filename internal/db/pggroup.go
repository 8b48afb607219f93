package db

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// pgGroup lets writes share a transaction on PostgreSQL, as they do on SQLite:
// a transaction of its own costs the server several times what the statements
// of one write do. It is for writes that only queue statements, which is all
// that is frequent; one that asks the database something gets a transaction of
// its own.
//
// The statements of all writes of a batch travel together, then every check is
// made, then the batch is committed. If one fails the batch is undone, that write
// runs alone, and the others try again without it: its failure is not theirs.
//
// There is one batch at a time, so batches cannot wait for each other, and while
// one is committed the next gathers. When few write there is nothing to share,
// and they run alone at once.
type pgGroup struct {
	e       *pgEngine
	batch   int
	active  atomic.Int64 // writes under way
	queue   chan *pgWrite
	mu      sync.RWMutex // guards closed against a send on queue
	closed  bool
	stopped chan struct{}
}

// pgWrite is a write on its way through the group.
type pgWrite struct {
	queued []pgQueued
	taken  atomic.Bool // set by whoever comes first: the group, or a caller that gives up
	done   chan error  // capacity 1
}

const (
	// aloneBelow is how many writes run at once without sharing.
	aloneBelow = 3
	// groupTimeout bounds a batch: its writes have contexts of their own, of
	// which none may end the others.
	groupTimeout = 30 * time.Second
	// maxTries is how often a batch is tried while writes of it fail, before all
	// that are left run alone.
	maxTries = 4
	// maxGroup bounds a batch further than Config.WriteBatch does: rows stay
	// locked until it is committed.
	maxGroup = 64
)

// errAlone sends a write of a batch that failed back to run alone.
var errAlone = errors.New("run alone")

// errAsks means that a write wants an answer from the database.
var errAsks = errors.New("the write asks the database")

func newPGGroup(e *pgEngine, cfg Config) *pgGroup {
	g := &pgGroup{e: e, batch: min(cfg.WriteBatch, maxGroup), queue: make(chan *pgWrite, cfg.WriteQueue), stopped: make(chan struct{})}
	go g.run()
	return g
}

func (g *pgGroup) close() {
	g.mu.Lock()
	if !g.closed {
		g.closed = true
		close(g.queue)
	}
	g.mu.Unlock()
	<-g.stopped
}

// write runs fn with others if that pays, else alone.
func (g *pgGroup) write(ctx context.Context, fn func(*Tx) error) error {
	defer g.active.Add(-1)
	if g.active.Add(1) < aloneBelow {
		return g.e.alone(ctx, fn)
	}
	w := &pgWrite{done: make(chan error, 1)}
	if err := w.collect(fn); errors.Is(err, errAsks) {
		return g.e.alone(ctx, fn)
	} else if err != nil || len(w.queued) == 0 {
		return err
	}
	if !g.enqueue(w) {
		return g.e.alone(ctx, fn)
	}
	var err error
	select {
	case err = <-w.done:
	case <-ctx.Done():
		if w.taken.CompareAndSwap(false, true) {
			return ctx.Err() // still queued: it will never run
		}
		err = <-w.done // running or committing: the answer must be the true one
	}
	if errors.Is(err, errAlone) {
		return g.e.alone(ctx, fn)
	}
	return err
}

func (g *pgGroup) enqueue(w *pgWrite) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return false
	}
	select {
	case g.queue <- w:
		return true
	default:
		return false
	}
}

// collect runs fn for the statements that it queues.
func (w *pgWrite) collect(fn func(*Tx) error) error {
	asks := &pgAsks{}
	err := fn(&Tx{Q: asks,
		queue: func(s *Stmt, check func(int64) error, args []any) {
			s, args = bindPG(s, args)
			w.queued = append(w.queued, pgQueued{s, args, check})
		},
		bulk: func(context.Context, *Bulk, [][]any) error { return asks.ask() }})
	if asks.asked { // whatever fn made of the error
		return errAsks
	}
	return err
}

// pgAsks is the Q of a write whose statements are collected: it has no answers.
type pgAsks struct{ asked bool }

func (a *pgAsks) ask() error { a.asked = true; return errAsks }

// Exec implements Q.
func (a *pgAsks) Exec(context.Context, *Stmt, ...any) (int64, error) { return 0, a.ask() }

// One implements Q.
func (a *pgAsks) One(context.Context, *Stmt, func(*Row), ...any) error { return a.ask() }

// All implements Q.
func (a *pgAsks) All(context.Context, *Stmt, func(*Row) error, ...any) error { return a.ask() }

// run gathers batches and commits them.
func (g *pgGroup) run() {
	defer close(g.stopped)
	var batch []*pgWrite
	for w := range g.queue {
		batch = batch[:0]
		for range yields {
			runtime.Gosched()
		}
		for more := true; more; {
			if w.taken.CompareAndSwap(false, true) {
				batch = append(batch, w)
			}
			if len(batch) == g.batch {
				break
			}
			select {
			case w, more = <-g.queue:
			default:
				more = false
			}
		}
		g.settle(batch)
		clear(batch)
	}
}

// settle commits a batch and answers every write of it.
func (g *pgGroup) settle(batch []*pgWrite) {
	for try := 1; len(batch) > 0; try++ {
		bad, err := g.commit(batch)
		if errors.Is(err, errAlone) && bad >= 0 && try < maxTries {
			batch[bad].done <- errAlone
			batch = slices.Delete(batch, bad, bad+1)
			continue
		}
		for _, w := range batch {
			w.done <- err
		}
		return
	}
}

// commit runs a batch in one transaction. The error is errAlone if nothing of
// it was stored and each write may run again; bad is then which one failed, or
// -1 if none did.
func (g *pgGroup) commit(batch []*pgWrite) (bad int, err error) {
	start := time.Now()
	defer func() { g.e.observe("db.commit_batch", time.Since(start), err) }()
	ctx, cancel := context.WithTimeout(context.Background(), groupTimeout)
	defer cancel()
	conn, err := g.e.pool.Acquire(ctx)
	if err != nil {
		return -1, errAlone
	}
	defer conn.Release()
	t := &pgTx{pgQuery: pgQuery{q: conn, observe: g.e.observe}, ctx: ctx, conn: conn}
	for _, w := range batch {
		t.pending = append(t.pending, w.queued...)
	}
	if err := t.flush(); err != nil {
		t.rollback()
		return t.culprit(batch), errAlone
	}
	tag, err := conn.Exec(ctx, "commit")
	if err == nil && tag.String() != "COMMIT" {
		return -1, errAlone // it was rolled back, and says so
	}
	return -1, postgresError("db.commit", err)
}

// culprit returns which write of a batch the failed statement belongs to.
func (t *pgTx) culprit(batch []*pgWrite) int {
	n := t.answers
	for i, w := range batch {
		if n -= len(w.queued); n < 0 {
			return i
		}
	}
	return -1
}
