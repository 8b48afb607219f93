package db

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"chancery/internal/fault"
)

// liteConn is one SQLite connection with its prepared statements. One
// goroutine owns it at a time.
type liteConn struct {
	c       *sqlite.Conn
	stmts   map[*Stmt]*sqlite.Stmt
	observe func(string, time.Duration, error)
	live    []*liteWrite // of the batch that runs; kept for its memory

	tx      *Tx        // what callbacks get, one after the other
	running *liteWrite // the callback that has tx
	queued  error      // of the first of its queued statements that failed
}

// liteEngine is one writer goroutine over one connection, and a pool of
// read-only connections that never wait for it (WAL).
type liteEngine struct {
	readers *litePool
	path    string

	queue   chan *liteWrite
	writes  sync.Pool // writes that were answered, for their memory
	batch   int
	mu      sync.RWMutex // guards closed against a send on queue
	closed  bool
	stopped chan *liteConn // gets the write connection when the writer has ended

	// broken is set by a failed commit and cleared by the next good one; while
	// set, ping writes a page to find out whether storage has recovered.
	broken atomic.Bool
}

// liteWrite is one callback on its way through the writer.
type liteWrite struct {
	ctx   context.Context
	fn    func(*Tx) error
	taken atomic.Bool // set by whoever comes first: the writer, or a caller that gives up
	done  chan error  // capacity 1
	err   error
}

func openSQLite(path string, cfg Config) (*liteEngine, error) {
	if dir := filepath.Dir(path); dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("open database: %w", err)
		}
	}
	n := cfg.ReadPool
	if n <= 0 {
		n = 4
	}
	w, err := openLite(path, cfg, sqlite.OpenReadWrite|sqlite.OpenCreate|sqlite.OpenWAL|sqlite.OpenNoMutex)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("open database: %w", err), w.close())
	}
	e := &liteEngine{
		path:  path,
		queue: make(chan *liteWrite, cfg.WriteQueue), batch: cfg.WriteBatch,
		stopped: make(chan *liteConn, 1),
	}
	e.readers, n = newLitePool(n)
	for range n {
		r, err := openLite(path, cfg, sqlite.OpenReadOnly|sqlite.OpenNoMutex)
		if err != nil {
			return nil, errors.Join(err, e.readers.close(), w.close())
		}
		e.readers.add(r)
	}
	go e.writer(w)
	return e, nil
}

// The page caches of a connection, in KiB. A reader's holds nothing beyond the
// next commit. The writer's lasts, but a commit that moved pages of an index
// looks through all of it, and what it lacks is in the kernel's cache.
const (
	writerCache = 6 << 10
	readerCache = 4 << 10
)

// spillPages is how many pages (of 4 KiB) a transaction may change before it
// writes some of them ahead of its commit. An import changes a page of each
// index of hashes per row; spilled ones are read, changed and written again.
// What is beyond the cache is given back after the commit.
const spillPages = 16 << 10

func openLite(path string, cfg Config, flags sqlite.OpenFlags) (*liteConn, error) {
	c, err := sqlite.OpenConn(path, flags)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, sqliteError("open", err))
	}
	c.SetBusyTimeout(10 * time.Second)
	// FULL: a commit is on the disk before Write returns. The checkpoint
	// threshold (16 MiB) bounds both the WAL and the recovery time at start.
	cache := writerCache
	if flags&sqlite.OpenReadOnly != 0 {
		cache = readerCache
	}
	for _, pragma := range []string{"synchronous=FULL", "temp_store=MEMORY", "cache_size=-" + strconv.Itoa(cache),
		"wal_autocheckpoint=4000", "cache_spill=" + strconv.Itoa(spillPages), "journal_size_limit=67108864"} {
		if err := sqlitex.ExecuteTransient(c, "PRAGMA "+pragma, nil); err != nil {
			return nil, errors.Join(fmt.Errorf("open database %s: %w", path, sqliteError("pragma", err)), c.Close())
		}
	}
	lite := &liteConn{c: c, stmts: map[*Stmt]*sqlite.Stmt{}, observe: cfg.Observe}
	lite.tx = &Tx{Q: lite, queue: lite.queue, bulk: lite.insert}
	return lite, nil
}

// close ends the connection for good: SQLite keeps one alive while it has
// statements.
func (c *liteConn) close() error {
	var err error
	for _, st := range c.stmts {
		err = errors.Join(err, st.Finalize())
	}
	return errors.Join(err, c.c.Close())
}

func (e *liteEngine) close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	close(e.queue)
	e.mu.Unlock()
	w := <-e.stopped
	// The write connection goes last: SQLite empties the WAL into the database
	// when its last connection ends, which a reader could not do.
	return errors.Join(e.readers.close(), w.close())
}

// ---- writing ----

func (e *liteEngine) write(ctx context.Context, fn func(*Tx) error) (err error) {
	w, _ := e.writes.Get().(*liteWrite)
	if w == nil {
		w = &liteWrite{done: make(chan error, 1)}
	}
	w.ctx, w.fn, w.err = ctx, fn, nil
	w.taken.Store(false)
	if err := e.enqueue(w); err != nil {
		return err
	}
	select {
	case err = <-w.done:
	case <-ctx.Done():
		if w.taken.CompareAndSwap(false, true) {
			return ctx.Err() // still queued, and so not for the pool: it will never run
		}
		err = <-w.done // running or committing: the answer must be the true one
	}
	w.ctx, w.fn = nil, nil
	e.writes.Put(w)
	return err
}

func (e *liteEngine) enqueue(w *liteWrite) error {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.closed {
		return unavailable(errors.New("database is closed"))
	}
	select {
	case e.queue <- w:
		return nil
	default:
		return fault.New(fault.Unavailable, "too many writes are waiting for the database; nothing was stored, try again").Retry(retryAfter)
	}
}

// yields is how often the writer lets everything else that could run go first,
// before it begins a batch. On an idle machine that takes no time; on a busy one
// those who are about to write come along, and a commit costs about the same
// for one as for twenty.
const yields = 2

// writer owns the write connection. While one commit waits for the disk the
// next callbacks gather in the queue, so the batch adapts to the load and no
// timer is needed.
func (e *liteEngine) writer(c *liteConn) {
	defer func() { e.stopped <- c }()
	batch := make([]*liteWrite, 0, e.batch)
	for w := range e.queue {
		batch = append(batch[:0], w)
		for range yields {
			runtime.Gosched()
		}
	gather:
		for len(batch) < e.batch {
			select {
			case w, ok := <-e.queue:
				if !ok {
					break gather
				}
				batch = append(batch, w)
			default:
				break gather
			}
		}
		err := c.runBatch(batch)
		e.broken.Store(err != nil)
		for _, w := range batch { // which is the caller's again once it has its answer
			if err != nil && w.err == nil {
				w.err = err
			}
			w.done <- w.err
		}
		clear(batch)
	}
}

// runBatch runs every callback in one transaction and commits. The error is
// that of the whole batch; a callback's own is in its err.
//
// A savepoint for each callback would keep the failure of one from the others,
// but SQLite copies every page that is changed inside one. Failures are rare, so
// the callbacks run bare first; if one of several fails, everything is undone
// and the batch runs again with savepoints.
func (c *liteConn) runBatch(batch []*liteWrite) (err error) {
	start := time.Now()
	defer func() { c.observe("db.commit_batch", time.Since(start), err) }()
	live := c.live[:0]
	defer func() { clear(live); c.live = live[:0] }()
	for _, w := range batch {
		if !w.taken.CompareAndSwap(false, true) {
			w.err = context.Canceled
		} else if w.err = w.ctx.Err(); w.err == nil {
			live = append(live, w)
		}
	}
	if ok, err := c.runBare(live); ok || err != nil {
		return err
	}
	return c.runCareful(live)
}

// runBare runs the callbacks without savepoints and commits. If one fails, all
// is undone: ok tells whether the results stand.
func (c *liteConn) runBare(batch []*liteWrite) (ok bool, err error) {
	if len(batch) == 0 {
		return true, nil
	}
	if err := c.raw(stBegin); err != nil {
		return true, err
	}
	for _, w := range batch {
		if w.err = c.call(w); w.err == nil {
			continue
		}
		if len(batch) == 1 && c.c.AutocommitEnabled() {
			return true, w.err // SQLite itself rolled everything back (disk full, I/O error)
		}
		return len(batch) == 1, c.rollback()
	}
	if err := c.raw(stCommit); err != nil {
		return true, errors.Join(err, c.rollback())
	}
	return true, nil
}

// runCareful runs the callbacks, each in its own savepoint, and commits those
// that succeed.
func (c *liteConn) runCareful(batch []*liteWrite) error {
	if err := c.raw(stBegin); err != nil {
		return err
	}
	for _, w := range batch {
		if err := c.runOne(w); err != nil {
			return errors.Join(err, c.rollback())
		}
	}
	if err := c.raw(stCommit); err != nil {
		return errors.Join(err, c.rollback())
	}
	return nil
}

// runOne runs one callback; a non-nil result means the whole transaction is lost.
func (c *liteConn) runOne(w *liteWrite) error {
	if err := c.raw(stSavepoint); err != nil {
		return err
	}
	if w.err = c.call(w); w.err != nil {
		if c.c.AutocommitEnabled() {
			return w.err // SQLite itself rolled everything back (disk full, I/O error)
		}
		if err := c.raw(stUndo); err != nil {
			return err
		}
	}
	return c.raw(stRelease)
}

func (c *liteConn) call(w *liteWrite) (err error) {
	c.running, c.queued = w, nil
	defer func() {
		c.running = nil
		if p := recover(); p != nil {
			err = fmt.Errorf("write callback panicked: %v\n%s", p, debug.Stack())
		}
	}()
	if err := w.fn(c.tx); err != nil {
		return err
	}
	return c.queued
}

// queue is Tx.Queue: it runs at once, and what fails is the answer of the
// callback.
func (c *liteConn) queue(s *Stmt, check func(int64) error, args []any) {
	if c.queued != nil {
		return
	}
	n, err := c.Exec(c.running.ctx, s, args...)
	if err == nil && check != nil {
		err = check(n)
	}
	c.queued = err
}

// insert is Tx.Insert.
func (c *liteConn) insert(ctx context.Context, b *Bulk, rows [][]any) error {
	for _, row := range rows {
		if _, err := c.Exec(ctx, b.insert, row...); err != nil {
			return err
		}
	}
	return nil
}

func (c *liteConn) rollback() error {
	if c.c.AutocommitEnabled() {
		return nil
	}
	return c.raw(stRollback)
}

// The transaction statements; not in the registry, they are not portable.
var (
	stBegin     = &Stmt{Name: "db.begin", sqlite: "BEGIN IMMEDIATE"}
	stReadBegin = &Stmt{Name: "db.begin_read", sqlite: "BEGIN"}
	stCommit    = &Stmt{Name: "db.commit", sqlite: "COMMIT"}
	stRollback  = &Stmt{Name: "db.rollback", sqlite: "ROLLBACK"}
	stSavepoint = &Stmt{Name: "db.savepoint", sqlite: "SAVEPOINT w"}
	stUndo      = &Stmt{Name: "db.undo", sqlite: "ROLLBACK TO w"}
	stRelease   = &Stmt{Name: "db.release", sqlite: "RELEASE w"}
)

func (c *liteConn) raw(s *Stmt) error {
	st, err := c.prepared(s)
	if err != nil {
		return sqliteError(s.Name, err)
	}
	_, err = st.Step()
	return sqliteError(s.Name, errors.Join(err, st.Reset()))
}

// ---- statements on one connection ----

func (c *liteConn) prepared(s *Stmt) (*sqlite.Stmt, error) {
	if st := c.stmts[s]; st != nil {
		return st, nil
	}
	st, trailing, err := c.c.PrepareTransient(s.sqlite)
	if err != nil {
		return nil, err
	}
	if trailing > 0 {
		return nil, errors.Join(fmt.Errorf("more than one statement"), st.Finalize())
	}
	c.stmts[s] = st
	return st, nil
}

func (c *liteConn) bind(s *Stmt, args []any) (*sqlite.Stmt, error) {
	one, only := s.of(args)
	st, err := c.prepared(one)
	if err != nil {
		return nil, err
	}
	if want := st.BindParamCount(); want != len(args) {
		return nil, fmt.Errorf("%d arguments for %d parameters", len(args), want)
	}
	for i, a := range args {
		if only != nil && i+1 == s.list {
			a = only
		}
		bindOne(st, i+1, a)
	}
	return st, nil
}

// bindOne binds an argument. The frequent kinds go in without another interface
// value, which would be an allocation each.
func bindOne(st *sqlite.Stmt, i int, a any) {
	switch v := a.(type) {
	case string:
		st.BindText(i, v)
		return
	case *string:
		if v != nil {
			st.BindText(i, *v)
			return
		}
	case int:
		st.BindInt64(i, int64(v))
		return
	case int64:
		st.BindInt64(i, v)
		return
	case time.Time:
		if !v.IsZero() {
			st.BindInt64(i, v.UnixMilli())
			return
		}
	case *time.Time:
		if v != nil && !v.IsZero() {
			st.BindInt64(i, v.UnixMilli())
			return
		}
	case []byte:
		if v != nil {
			st.BindBytes(i, v)
			return
		}
	case *[]byte:
		if v != nil && *v != nil {
			st.BindBytes(i, *v)
			return
		}
	case *int64:
		if v != nil {
			st.BindInt64(i, *v)
			return
		}
	}
	switch v := argument(a).(type) {
	case nil:
		st.BindNull(i)
	case int64:
		st.BindInt64(i, v)
	case float64:
		st.BindFloat(i, v)
	case string:
		st.BindText(i, v)
	case []byte:
		st.BindBytes(i, v)
	default:
		st.BindText(i, jsonList(v))
	}
}

// run steps through s, calling row for each result row.
func (c *liteConn) run(ctx context.Context, s *Stmt, row func(*sqlite.Stmt) error, args []any) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	start := time.Now()
	defer func() { c.observe(s.Name, time.Since(start), err) }()
	st, err := c.bind(s, args)
	if err != nil {
		return sqliteError(s.Name, err)
	}
	if s.FullScan { // only long statements pay for being interruptible
		defer c.c.SetInterrupt(c.c.SetInterrupt(ctx.Done()))
	}
	for {
		more, err := st.Step()
		if err == nil && more {
			err = row(st)
			if err == nil {
				continue
			}
			return errors.Join(err, st.Reset())
		}
		if rerr := st.Reset(); err == nil {
			err = rerr
		}
		return sqliteError(s.Name, err)
	}
}

func noRow(*sqlite.Stmt) error { return nil }

// Exec implements Q.
func (c *liteConn) Exec(ctx context.Context, s *Stmt, args ...any) (int64, error) {
	if err := c.run(ctx, s, noRow, args); err != nil {
		return 0, err
	}
	return int64(c.c.Changes()), nil
}

// One implements Q.
func (c *liteConn) One(ctx context.Context, s *Stmt, scan func(*Row), args ...any) error {
	found := false
	err := c.All(ctx, s, func(r *Row) error {
		if found {
			return fmt.Errorf("%s: more than one row", s.Name)
		}
		found = true
		scan(r)
		return nil
	}, args...)
	if err == nil && !found {
		return ErrNotFound
	}
	return err
}

// All implements Q.
func (c *liteConn) All(ctx context.Context, s *Stmt, scan func(*Row) error, args ...any) error {
	var r Row
	return c.run(ctx, s, func(st *sqlite.Stmt) error {
		r = Row{lite: st}
		if err := scan(&r); err != nil {
			return err
		}
		if r.err != nil {
			return fmt.Errorf("%s: %w", s.Name, r.err)
		}
		return nil
	}, args)
}

// ---- reading through the pool ----

// Exec implements Q: a write of a single statement.
func (e *liteEngine) Exec(ctx context.Context, s *Stmt, args ...any) (n int64, err error) {
	err = e.write(ctx, func(tx *Tx) error {
		n, err = tx.Exec(ctx, s, args...)
		return err
	})
	return n, err
}

// One implements Q.
func (e *liteEngine) One(ctx context.Context, s *Stmt, scan func(*Row), args ...any) error {
	return e.readers.with(ctx, s.long, func(c *liteConn) error { return c.One(ctx, s, scan, args...) })
}

// All implements Q. scan must not use the pool again: it could wait for itself.
func (e *liteEngine) All(ctx context.Context, s *Stmt, scan func(*Row) error, args ...any) error {
	return e.readers.with(ctx, s.long, func(c *liteConn) error { return c.All(ctx, s, scan, args...) })
}

func (e *liteEngine) snapshot(ctx context.Context, fn func(Q) error) error {
	return e.readers.with(ctx, true, func(c *liteConn) error {
		if err := c.raw(stReadBegin); err != nil {
			return err
		}
		return errors.Join(fn(c), c.rollback())
	})
}

// ---- schema and checks ----

// script runs several statements in one transaction on the writer.
func (e *liteEngine) script(ctx context.Context, sql string) error {
	return e.write(ctx, func(tx *Tx) error {
		// ExecuteScript brings its own savepoint, which nests in the batch's.
		return sqliteError("db.script", sqlitex.ExecuteScript(tx.Q.(*liteConn).c, sql, nil))
	})
}

func (e *liteEngine) ping(ctx context.Context) error {
	if e.broken.Load() {
		return e.write(ctx, func(tx *Tx) error {
			return sqliteError("db.ping", sqlitex.ExecuteTransient(tx.Q.(*liteConn).c, "PRAGMA user_version = 1", nil))
		})
	}
	return e.readers.with(ctx, false, func(c *liteConn) error {
		return sqliteError("db.ping", sqlitex.ExecuteTransient(c.c, "SELECT 1", nil))
	})
}

func (e *liteEngine) prepare(ctx context.Context, s *Stmt) error {
	return e.readers.with(ctx, false, func(c *liteConn) error {
		_, err := c.prepared(s)
		return sqliteError(s.Name, err)
	})
}

func (e *liteEngine) explain(ctx context.Context, s *Stmt) (plan string, err error) {
	err = e.readers.with(ctx, false, func(c *liteConn) error {
		plan, err = c.explain(s)
		return err
	})
	return plan, err
}

func (c *liteConn) explain(s *Stmt) (string, error) {
	st, _, err := c.c.PrepareTransient("EXPLAIN QUERY PLAN " + s.sqlite) // parameters stay NULL
	if err != nil {
		return "", sqliteError(s.Name, err)
	}
	defer st.Finalize()
	var plan strings.Builder
	for {
		row, err := st.Step()
		if err != nil || !row {
			return plan.String(), sqliteError(s.Name, err)
		}
		plan.WriteString(st.ColumnText(3) + "\n")
	}
}
