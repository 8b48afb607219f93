// Package db is the only storage seam of Chancery: one SQL text, two engines.
//
// SQLite (pure Go, one machine) and PostgreSQL (many replicas) sit behind the
// same few calls. Statements are written once, in PostgreSQL's dialect, named
// and registered beside the function that uses them (see SQL); Open rewrites
// them for SQLite.
//
// # Durability
//
// Write returns nil only after the commit is on stable storage (SQLite: WAL
// with synchronous=FULL; PostgreSQL: synchronous_commit as the server has it,
// which must not be off). Many concurrent Writes share one commit, so a
// callback must touch nothing but the transaction: it may run more than once,
// and no network call or other side effect belongs inside it.
//
// # Values
//
// Columns are BIGINT, TEXT, BYTEA/BLOB and DOUBLE PRECISION/REAL only. Instants
// are BIGINT Unix milliseconds, booleans are BIGINT 0 or 1. Arguments may be
// nil, bool, any integer or string kind, float64, []byte (nil = NULL),
// time.Time (zero = NULL), pointers to string, int64, []byte and time.Time (nil =
// NULL; they spare the copy that an interface makes), []string and []int64 (for
// `= ANY($1::text[])` and `= ANY($1::bigint[])`).
package db

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"chancery/internal/obs"
)

// ErrNotFound is returned by Q.One when the statement yields no row.
var ErrNotFound = errors.New("db: no row")

// Engine names a database engine.
type Engine string

// The two engines.
const (
	SQLite   Engine = "sqlite"
	Postgres Engine = "postgres"
)

// Q runs named statements: a DB outside a transaction, or a *Tx inside one.
type Q interface {
	// Exec runs s and returns the number of rows it changed.
	Exec(ctx context.Context, s *Stmt, args ...any) (int64, error)
	// One calls scan for the single row of s, or returns ErrNotFound.
	One(ctx context.Context, s *Stmt, scan func(*Row), args ...any) error
	// All calls scan for each row of s in order; an error from scan ends the
	// iteration and is returned. The Row is valid only during the call.
	All(ctx context.Context, s *Stmt, scan func(*Row) error, args ...any) error
}

// Config opens a database. The zero value of each number means its default.
type Config struct {
	// URL is a SQLite path (optionally "sqlite:PATH") or a postgres:// URL.
	URL string
	// ReadPool is the number of SQLite read connections (default 4), besides half
	// as many more for short statements (see Long), or the
	// size of PostgreSQL's pool (default 4 per core, at least 10).
	ReadPool int
	// WriteBatch is the most callbacks that share one commit (default 256).
	WriteBatch int
	// WriteQueue is the most callbacks that wait for the writer; beyond it
	// Write answers fault.Unavailable at once (default 8192).
	WriteQueue int
	// Observe, if set, is told the name, duration and error of each statement.
	Observe func(statement string, d time.Duration, err error)
}

// engine is what a database engine must offer beside Q.
type engine interface {
	Q
	write(ctx context.Context, fn func(*Tx) error) error
	snapshot(ctx context.Context, fn func(Q) error) error
	script(ctx context.Context, sql string) error
	tables(ctx context.Context) ([]table, error)
	prepare(ctx context.Context, s *Stmt) error
	explain(ctx context.Context, s *Stmt) (string, error)
	ping(ctx context.Context) error
	close() error
}

// DB is an open database. All methods are safe for concurrent use.
type DB struct {
	engine
	kind Engine
	url  string
}

// Open opens the database of cfg.URL. It does not migrate; see Migrate.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	if cfg.Observe == nil {
		cfg.Observe = func(string, time.Duration, error) {}
	}
	if cfg.WriteBatch <= 0 {
		cfg.WriteBatch = 256
	}
	if cfg.WriteQueue <= 0 {
		cfg.WriteQueue = 8192
	}
	if IsPostgresURL(cfg.URL) {
		e, err := openPostgres(ctx, cfg)
		if err != nil {
			return nil, err
		}
		return &DB{engine: e, kind: Postgres, url: cfg.URL}, nil
	}
	path := strings.TrimPrefix(cfg.URL, "sqlite:")
	if path == "" || strings.Contains(path, "://") {
		return nil, fmt.Errorf("open database: %q is neither a file path nor a postgres:// URL", cfg.URL)
	}
	e, err := openSQLite(path, cfg)
	if err != nil {
		return nil, err
	}
	return &DB{engine: e, kind: SQLite, url: path}, nil
}

// IsPostgresURL reports whether url names a PostgreSQL database.
func IsPostgresURL(url string) bool {
	return strings.HasPrefix(url, "postgres://") || strings.HasPrefix(url, "postgresql://")
}

// Engine returns which engine d runs on.
func (d *DB) Engine() Engine { return d.kind }

// Path returns the file of a SQLite database, or "".
func (d *DB) Path() string {
	if d.kind == SQLite {
		return d.url
	}
	return ""
}

// Read returns a Q for reads outside a transaction.
func (d *DB) Read() Q { return d.engine }

// Write runs fn in a transaction and returns after its commit is durable, or
// with the error that fn or the commit returned, in which case nothing of fn
// is stored. fn may run more than once; only its last run counts.
func (d *DB) Write(ctx context.Context, fn func(*Tx) error) error {
	ctx, span := obs.Step(ctx, "db.transaction")
	span.Str("db.system.name", string(d.kind))
	err := d.engine.write(ctx, fn)
	span.End(err)
	return err
}

// Snapshot runs fn over one consistent, read-only state of the database.
func (d *DB) Snapshot(ctx context.Context, fn func(Q) error) error {
	return d.engine.snapshot(ctx, fn)
}

// Ping reports whether the database answers (and, on SQLite, can be written).
func (d *DB) Ping(ctx context.Context) error { return d.engine.ping(ctx) }

// Close waits for running writes and releases all connections.
func (d *DB) Close() error { return d.engine.close() }

// Prepare compiles s on d without running it; for tests and `doctor`.
func (d *DB) Prepare(ctx context.Context, s *Stmt) error { return d.engine.prepare(ctx, s) }

// Explain returns the query plan of s, one step a line; for tests.
func (d *DB) Explain(ctx context.Context, s *Stmt) (string, error) { return d.engine.explain(ctx, s) }

// Get returns the single row of s as a T, or ErrNotFound.
func Get[T any](ctx context.Context, q Q, s *Stmt, scan func(*Row) T, args ...any) (T, error) {
	var v T
	err := q.One(ctx, s, func(r *Row) { v = scan(r) }, args...)
	return v, err
}

// List returns all rows of s as Ts.
func List[T any](ctx context.Context, q Q, s *Stmt, scan func(*Row) T, args ...any) ([]T, error) {
	var vs []T
	err := q.All(ctx, s, func(r *Row) error { vs = append(vs, scan(r)); return nil }, args...)
	return vs, err
}

// Tx is a running transaction: a Q whose changes commit together.
type Tx struct {
	Q
	queue func(s *Stmt, check func(int64) error, args []any)
	bulk  func(ctx context.Context, b *Bulk, rows [][]any) error
}

// Queue runs s without waiting for its result: at once on SQLite, pipelined
// with its neighbours on PostgreSQL. check, if not nil, is given the number of
// changed rows; its error, like that of s, fails the whole callback. Prefer
// Queue to Exec where the next step does not need the answer.
func (t *Tx) Queue(s *Stmt, check func(n int64) error, args ...any) { t.queue(s, check, args) }

// Insert adds rows to b's table in the engine's fastest form.
func (t *Tx) Insert(ctx context.Context, b *Bulk, rows [][]any) error {
	if len(rows) == 0 {
		return nil
	}
	return t.bulk(ctx, b, rows)
}

// ExactlyOne returns a check for Queue that fails with err unless one row changed.
func ExactlyOne(err error) func(int64) error {
	return func(n int64) error {
		if n != 1 {
			return err
		}
		return nil
	}
}
