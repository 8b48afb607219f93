package db

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// pgEngine is a pool of PostgreSQL connections. Writes that only queue
// statements share transactions (see pgGroup); others have their own.
type pgEngine struct {
	pgQuery
	pool  *pgxpool.Pool
	group *pgGroup
}

// pgQuerier is what a pool, a connection and a transaction have in common.
type pgQuerier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// pgQuery runs named statements on a pgQuerier.
type pgQuery struct {
	q       pgQuerier
	observe func(string, time.Duration, error)
}

func openPostgres(ctx context.Context, cfg Config) (*pgEngine, error) {
	pc, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("open database: the PostgreSQL URL is not valid: %w", err)
	}
	// A pool_max_conns in the URL wins over the default, ReadPool over both.
	if cfg.ReadPool > 0 {
		pc.MaxConns = int32(cfg.ReadPool)
	} else if !strings.Contains(cfg.URL, "pool_max_conns") {
		pc.MaxConns = int32(max(10, 4*runtime.GOMAXPROCS(0)))
	}
	// CacheDescribe also works behind pgbouncer in transaction mode, where
	// named prepared statements do not; chosen by default_query_exec_mode.
	rp := pc.ConnConfig.RuntimeParams
	if rp["application_name"] == "" {
		rp["application_name"] = "chancery"
	}
	pc.AfterConnect = steady
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("open database: %w", postgresError("connect", err))
	}
	e := &pgEngine{pgQuery: pgQuery{q: pool, observe: cfg.Observe}, pool: pool}
	e.group = newPGGroup(e, cfg)
	return e, nil
}

// steady makes plans independent of how much PostgreSQL knows about the tables.
// A plan that it made while a table was empty stays in use until the table is
// analyzed, and reads by then thousands of rows for each that is asked for. Every
// statement of ours has an index for what it asks (a test explains them under the
// same setting), or reads the whole table on purpose, which it still may. Without
// sequential scans such a statement seems dear enough to be compiled, which takes
// longer than to run it.
//
// Behind a proxy that hands connections from client to client settings of a
// connection are nobody's, so there they are left alone.
func steady(ctx context.Context, conn *pgx.Conn) error {
	if conn.Config().DefaultQueryExecMode != pgx.QueryExecModeCacheStatement {
		return nil
	}
	_, err := conn.Exec(ctx, "SET enable_seqscan = off; SET jit = off", pgx.QueryExecModeSimpleProtocol)
	return err
}

func (e *pgEngine) close() error {
	e.group.close()
	e.pool.Close()
	return nil
}

func (e *pgEngine) ping(ctx context.Context) error {
	return postgresError("db.ping", e.pool.Ping(ctx))
}

// ---- statements ----

// bindPG returns the statement that serves args, and what to send with it.
func bindPG(s *Stmt, args []any) (*Stmt, []any) {
	one, only := s.of(args)
	out := make([]any, len(args))
	for i, a := range args {
		if only != nil && i+1 == s.list {
			a = only
		}
		out[i] = argument(a)
	}
	return one, out
}

// Exec implements Q.
func (p pgQuery) Exec(ctx context.Context, s *Stmt, args ...any) (int64, error) {
	start := time.Now()
	s, args = bindPG(s, args)
	tag, err := p.q.Exec(ctx, s.Text, args...)
	p.observe(s.Name, time.Since(start), err)
	return tag.RowsAffected(), postgresError(s.Name, err)
}

// One implements Q.
func (p pgQuery) One(ctx context.Context, s *Stmt, scan func(*Row), args ...any) error {
	n := 0
	err := p.All(ctx, s, func(r *Row) error {
		if n++; n > 1 {
			return fmt.Errorf("%s: more than one row", s.Name)
		}
		scan(r)
		return nil
	}, args...)
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return err
}

// All implements Q.
func (p pgQuery) All(ctx context.Context, s *Stmt, scan func(*Row) error, args ...any) (err error) {
	start := time.Now()
	defer func() { p.observe(s.Name, time.Since(start), err) }()
	s, args = bindPG(s, args)
	rows, err := p.q.Query(ctx, s.Text, args...)
	if err != nil {
		return postgresError(s.Name, err)
	}
	defer rows.Close()
	fields := rows.FieldDescriptions()
	r := Row{text: func(col int) bool { return fields[col].Format == pgx.TextFormatCode }}
	for rows.Next() {
		r.pg, r.col = rows.RawValues(), 0
		if err := scan(&r); err != nil {
			return err
		}
		if r.err != nil {
			return fmt.Errorf("%s: %w", s.Name, r.err)
		}
	}
	return postgresError(s.Name, rows.Err())
}

// ---- transactions ----

// maxRetries bounds how often a transaction that lost a race runs again.
const maxRetries = 8

func (e *pgEngine) write(ctx context.Context, fn func(*Tx) error) error {
	return e.group.write(ctx, fn)
}

// alone runs fn in a transaction of its own.
func (e *pgEngine) alone(ctx context.Context, fn func(*Tx) error) error {
	for attempt := 0; ; attempt++ {
		err := e.writeOnce(ctx, fn)
		if err == nil || !serializationFailure(err) || attempt == maxRetries {
			return err
		}
		select { // full jitter, so that the losers of one race do not meet again
		case <-time.After(rand.N(time.Millisecond << min(attempt, 6))):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (e *pgEngine) writeOnce(ctx context.Context, fn func(*Tx) error) (err error) {
	conn, err := e.pool.Acquire(ctx)
	if err != nil {
		return postgresError("db.begin", err)
	}
	defer conn.Release()
	t := &pgTx{pgQuery: pgQuery{q: conn, observe: e.observe}, ctx: ctx, conn: conn}
	// A callback that panics leaves the connection in a transaction; the pool
	// destroys such connections on Release.
	tx := &Tx{Q: t, queue: t.enqueue, bulk: t.insert}
	if err = fn(tx); err == nil {
		err = t.flush()
	}
	if err != nil {
		t.rollback()
		return err
	}
	if !t.begun {
		return nil // the callback asked for nothing
	}
	// Past this point a cancelled context must not turn a commit into a doubt.
	start := time.Now()
	tag, err := conn.Exec(context.WithoutCancel(ctx), "commit")
	e.observe("db.commit", time.Since(start), err)
	if err == nil && tag.String() != "COMMIT" {
		err = errors.New("transaction was aborted")
	}
	return postgresError("db.commit", err)
}

// pgTx is a transaction whose BEGIN and queued statements travel together with
// the first statement that needs an answer.
type pgTx struct {
	pgQuery
	ctx     context.Context
	conn    *pgxpool.Conn
	begun   bool
	pending []pgQueued
	answers int // of the last flush, until one was an error
}

type pgQueued struct {
	s     *Stmt
	args  []any
	check func(int64) error
}

func (t *pgTx) enqueue(s *Stmt, check func(int64) error, args []any) {
	s, args = bindPG(s, args)
	t.pending = append(t.pending, pgQueued{s, args, check})
}

// flush sends BEGIN (once) and all queued statements in one round trip.
func (t *pgTx) flush() error {
	if len(t.pending) == 0 {
		return nil
	}
	b := &pgx.Batch{}
	if !t.begun {
		b.Queue("begin")
	}
	for _, p := range t.pending {
		b.Queue(p.s.Text, p.args...)
	}
	start := time.Now()
	res := t.conn.SendBatch(t.ctx, b)
	err := t.results(res)
	if cerr := res.Close(); err == nil && cerr != nil {
		err = postgresError("db.flush", cerr)
	}
	t.observe("db.flush", time.Since(start), err)
	t.pending = t.pending[:0]
	return err
}

func (t *pgTx) results(res pgx.BatchResults) error {
	if !t.begun {
		if _, err := res.Exec(); err != nil {
			return postgresError("db.begin", err)
		}
		t.begun = true
	}
	for i, p := range t.pending {
		t.answers = i
		tag, err := res.Exec()
		if err != nil {
			return postgresError(p.s.Name, err)
		}
		if p.check != nil {
			if err := p.check(tag.RowsAffected()); err != nil {
				return err
			}
		}
	}
	return nil
}

// ready makes the transaction begin and all queued statements run.
func (t *pgTx) ready() error {
	if len(t.pending) > 0 {
		return t.flush()
	}
	if t.begun {
		return nil
	}
	if _, err := t.conn.Exec(t.ctx, "begin"); err != nil {
		return postgresError("db.begin", err)
	}
	t.begun = true
	return nil
}

func (t *pgTx) rollback() {
	if t.conn.Conn().PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), 5*time.Second)
	defer cancel()
	// If this fails the connection is broken, and Release destroys it.
	_, _ = t.conn.Exec(ctx, "rollback")
}

// Exec implements Q.
func (t *pgTx) Exec(ctx context.Context, s *Stmt, args ...any) (int64, error) {
	if err := t.ready(); err != nil {
		return 0, err
	}
	return t.pgQuery.Exec(ctx, s, args...)
}

// One implements Q.
func (t *pgTx) One(ctx context.Context, s *Stmt, scan func(*Row), args ...any) error {
	if err := t.ready(); err != nil {
		return err
	}
	return t.pgQuery.One(ctx, s, scan, args...)
}

// All implements Q.
func (t *pgTx) All(ctx context.Context, s *Stmt, scan func(*Row) error, args ...any) error {
	if err := t.ready(); err != nil {
		return err
	}
	return t.pgQuery.All(ctx, s, scan, args...)
}

// insert uses COPY, or single inserts when existing rows must be kept.
func (t *pgTx) insert(ctx context.Context, b *Bulk, rows [][]any) error {
	if b.Ignore {
		for _, row := range rows {
			t.enqueue(b.insert, nil, row)
		}
		return t.flush()
	}
	if err := t.ready(); err != nil {
		return err
	}
	start := time.Now()
	_, err := t.conn.Conn().CopyFrom(ctx, pgx.Identifier{b.Table}, b.Columns,
		pgx.CopyFromSlice(len(rows), func(i int) ([]any, error) { _, row := bindPG(b.insert, rows[i]); return row, nil }))
	t.observe(b.Name, time.Since(start), err)
	return postgresError(b.Name, err)
}

func (e *pgEngine) snapshot(ctx context.Context, fn func(Q) error) error {
	tx, err := e.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return postgresError("db.begin_read", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	return fn(pgQuery{q: tx, observe: e.observe})
}

// ---- schema and checks ----

// script runs several statements in one transaction.
func (e *pgEngine) script(ctx context.Context, sql string) error {
	conn, err := e.pool.Acquire(ctx)
	if err != nil {
		return postgresError("db.script", err)
	}
	defer conn.Release()
	// The simple protocol runs a whole text as one implicit transaction.
	_, err = conn.Conn().PgConn().Exec(ctx, sql).ReadAll()
	return postgresError("db.script", err)
}

func (e *pgEngine) prepare(ctx context.Context, s *Stmt) error {
	conn, err := e.pool.Acquire(ctx)
	if err != nil {
		return postgresError(s.Name, err)
	}
	defer conn.Release()
	_, err = conn.Conn().Prepare(ctx, "", s.Text)
	return postgresError(s.Name, err)
}

// explain asks for a generic plan with sequential scans made unattractive, so
// that an empty table does not hide a missing index.
func (e *pgEngine) explain(ctx context.Context, s *Stmt) (string, error) {
	conn, err := e.pool.Acquire(ctx)
	if err != nil {
		return "", postgresError(s.Name, err)
	}
	defer conn.Release()
	desc, err := conn.Conn().Prepare(ctx, "explained", s.Text)
	if err != nil {
		return "", postgresError(s.Name, err)
	}
	nulls := make([]string, len(desc.ParamOIDs))
	for i := range nulls {
		nulls[i] = "NULL"
	}
	call := "explained"
	if len(nulls) > 0 {
		call += "(" + strings.Join(nulls, ",") + ")"
	}
	res, err := conn.Conn().PgConn().Exec(ctx, "SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan; EXPLAIN EXECUTE "+call+
		"; DEALLOCATE explained; RESET enable_seqscan; RESET plan_cache_mode").ReadAll()
	if err != nil {
		return "", postgresError(s.Name, err)
	}
	var plan strings.Builder
	for _, r := range res {
		for _, row := range r.Rows {
			if len(row) == 1 {
				plan.WriteString(string(row[0]) + "\n")
			}
		}
	}
	return plan.String(), nil
}
