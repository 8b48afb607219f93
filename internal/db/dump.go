package db

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"chancery/internal/fault"
)

// columnKind is a column's storage class, the same on both engines.
type columnKind string

const (
	kindInt   columnKind = "int"
	kindFloat columnKind = "float"
	kindText  columnKind = "text"
	kindBytes columnKind = "bytes"
)

// table is a table of the live schema.
type table struct {
	Name    string       `json:"table"`
	Columns []string     `json:"columns"`
	Kinds   []columnKind `json:"kinds"`
	Key     []string     `json:"-"` // primary key
}

// dumpFormat is the version of the dump's own layout.
const dumpFormat = 1

// dumpHeader is the first line of a dump.
type dumpHeader struct {
	Format int    `json:"chancery_dump"`
	Schema int64  `json:"schema"`
	Engine Engine `json:"engine"`
}

// dumpEnd is the last line of a dump; its absence means a truncated file.
type dumpEnd struct {
	End  bool  `json:"end"`
	Rows int64 `json:"rows"`
}

// Dump writes every row of one consistent state to w, while d goes on serving,
// and returns the number of rows. The format is engine neutral: JSON lines; a
// header, then for each table its columns followed by one array per row (bytes
// as base64), then an end line with the count.
func (d *DB) Dump(ctx context.Context, w io.Writer) (rows int64, err error) {
	version, err := d.Version(ctx)
	if err != nil {
		return 0, err
	}
	tables, err := d.tables(ctx)
	if err != nil {
		return 0, fmt.Errorf("list tables: %w", err)
	}
	bw := bufio.NewWriterSize(w, 1<<16)
	enc := json.NewEncoder(bw)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(dumpHeader{dumpFormat, version, d.kind}); err != nil {
		return 0, err
	}
	err = d.Snapshot(ctx, func(q Q) error {
		for _, t := range tables {
			n, err := t.dump(ctx, q, enc)
			if err != nil {
				return fmt.Errorf("dump table %s: %w", t.Name, err)
			}
			rows += n
		}
		return nil
	})
	if err == nil {
		err = enc.Encode(dumpEnd{true, rows})
	}
	if err == nil {
		err = bw.Flush()
	}
	return rows, err
}

func (t table) dump(ctx context.Context, q Q, enc *json.Encoder) (n int64, err error) {
	if err := enc.Encode(t); err != nil {
		return 0, err
	}
	text := "SELECT " + strings.Join(t.Columns, ", ") + " FROM " + t.Name
	if len(t.Key) > 0 {
		text += " ORDER BY " + strings.Join(t.Key, ", ")
	}
	s := &Stmt{Name: "db.dump_table", Text: text, sqlite: text, FullScan: true}
	row := make([]any, len(t.Columns))
	err = q.All(ctx, s, func(r *Row) error {
		for i, k := range t.Kinds {
			row[i] = r.any(k)
			if b, ok := row[i].([]byte); ok {
				row[i] = base64.StdEncoding.EncodeToString(b)
			}
		}
		n++
		return enc.Encode(row)
	})
	return n, err
}

// restoreBatch is the number of rows per transaction of Restore.
const restoreBatch = 2000

// Restore fills an empty, migrated database from a dump of the same schema
// version, made on either engine, and returns the number of rows.
func (d *DB) Restore(ctx context.Context, r io.Reader) (rows int64, err error) {
	version, err := d.Version(ctx)
	if err != nil {
		return 0, err
	}
	live, err := d.tables(ctx)
	if err != nil {
		return 0, err
	}
	ld := loader{d: d, live: map[string]table{}}
	for _, t := range live {
		ld.live[t.Name] = t
	}
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 1<<16), 64<<20)
	if err := readHeader(sc, version); err != nil {
		return 0, err
	}
	if err := ld.requireEmpty(ctx); err != nil {
		return 0, err
	}
	for sc.Scan() {
		if err := ld.line(ctx, sc.Bytes()); err != nil {
			return ld.rows, err
		}
	}
	if err := sc.Err(); err != nil {
		return ld.rows, fmt.Errorf("read dump: %w", err)
	}
	if !ld.ended {
		return ld.rows, fault.New(fault.Invalid, "the dump is cut off: its end line is missing; use another backup")
	}
	return ld.rows, nil
}

func readHeader(sc *bufio.Scanner, version int64) error {
	var h dumpHeader
	if !sc.Scan() || json.Unmarshal(sc.Bytes(), &h) != nil || h.Format == 0 {
		return fault.New(fault.Invalid, "this is not a chancery dump")
	}
	if h.Format > dumpFormat || h.Schema > version {
		return fault.New(fault.Precondition, "the dump was made by a newer chancery (schema %d, this program has %d): restore with that version", h.Schema, version)
	}
	return nil
}

// loader collects rows of one table and inserts them in batches.
type loader struct {
	d     *DB
	live  map[string]table
	bulk  *Bulk
	kinds []columnKind
	batch [][]any
	rows  int64
	ended bool
}

func (l *loader) requireEmpty(ctx context.Context) error {
	for name := range l.live {
		if name == "migration" {
			continue
		}
		text := "SELECT 1 FROM " + name + " LIMIT 1"
		err := l.d.Read().One(ctx, &Stmt{Name: "db.probe_table", Text: text, sqlite: text}, func(*Row) {})
		if err == nil {
			return fault.New(fault.Precondition, "the database is not empty (table %s has rows): restore into a new data directory or database", name)
		}
		if !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return nil
}

func (l *loader) line(ctx context.Context, line []byte) error {
	if l.ended {
		return fault.New(fault.Invalid, "the dump has data after its end line")
	}
	if len(line) > 0 && line[0] == '[' {
		return l.row(ctx, line)
	}
	if err := l.flush(ctx); err != nil {
		return err
	}
	var end dumpEnd
	if err := json.Unmarshal(line, &end); err == nil && end.End {
		if end.Rows != l.rows {
			return fault.New(fault.Invalid, "the dump announces %d rows and holds %d", end.Rows, l.rows)
		}
		l.ended = true
		return nil
	}
	return l.table(line)
}

// table starts the next table; columns are checked against the live schema, so
// no text of the dump reaches SQL unchecked.
func (l *loader) table(line []byte) error {
	var t table
	if err := json.Unmarshal(line, &t); err != nil || t.Name == "" {
		return fault.Wrap(err, fault.Invalid, "the dump has a line that is neither a table nor a row")
	}
	have, ok := l.live[t.Name]
	if !ok {
		return fault.New(fault.Invalid, "the dump has a table %q that this schema does not have", t.Name)
	}
	if len(t.Kinds) != len(t.Columns) {
		return fault.New(fault.Invalid, "the dump's table %s has %d columns and %d kinds", t.Name, len(t.Columns), len(t.Kinds))
	}
	for i, c := range t.Columns {
		if !have.has(c, t.Kinds[i]) {
			return fault.New(fault.Invalid, "the dump's table %s has a column %q that this schema does not have", t.Name, c)
		}
	}
	insert := &Bulk{Name: "db.restore_table", Table: t.Name, Columns: t.Columns}
	ph := make([]string, len(t.Columns))
	for i := range ph {
		ph[i] = fmt.Sprintf("$%d", i+1)
	}
	text := "INSERT INTO " + t.Name + " (" + strings.Join(t.Columns, ", ") + ") VALUES (" + strings.Join(ph, ", ") + ")"
	insert.insert = &Stmt{Name: "db.restore_table", Text: text, sqlite: toSQLite(text)}
	l.bulk, l.kinds = insert, t.Kinds
	return nil
}

func (t table) has(column string, kind columnKind) bool {
	for i, c := range t.Columns {
		if c == column {
			return t.Kinds[i] == kind
		}
	}
	return false
}

func (l *loader) row(ctx context.Context, line []byte) error {
	if l.bulk == nil {
		return fault.New(fault.Invalid, "the dump has a row before its table")
	}
	var raw []json.RawMessage
	if err := json.Unmarshal(line, &raw); err != nil || len(raw) != len(l.kinds) {
		return fault.Wrap(err, fault.Invalid, "the dump has a damaged row in table %s", l.bulk.Table)
	}
	row := make([]any, len(raw))
	for i, v := range raw {
		var err error
		if row[i], err = dumpValue(v, l.kinds[i]); err != nil {
			return fault.Wrap(err, fault.Invalid, "the dump has a damaged row in table %s", l.bulk.Table)
		}
	}
	l.rows++
	if l.bulk.Table == "migration" { // the target has its own, at least as new
		return nil
	}
	l.batch = append(l.batch, row)
	if len(l.batch) >= restoreBatch {
		return l.flush(ctx)
	}
	return nil
}

func dumpValue(v json.RawMessage, kind columnKind) (any, error) {
	if string(v) == "null" {
		return nil, nil
	}
	var err error
	switch kind {
	case kindInt:
		var n int64
		err = json.Unmarshal(v, &n)
		return n, err
	case kindFloat:
		var f float64
		err = json.Unmarshal(v, &f)
		return f, err
	case kindBytes:
		b := []byte{}
		err = json.Unmarshal(v, &b)
		return b, err
	}
	var s string
	err = json.Unmarshal(v, &s)
	return s, err
}

func (l *loader) flush(ctx context.Context) error {
	if len(l.batch) == 0 {
		return nil
	}
	batch, bulk := l.batch, l.bulk
	l.batch = nil
	err := l.d.Write(ctx, func(tx *Tx) error { return tx.Insert(ctx, bulk, batch) })
	if err != nil {
		return fmt.Errorf("restore table %s: %w", bulk.Table, err)
	}
	return nil
}

// ---- the live schema ----

var reKind = regexp.MustCompile(`(?i)^(bigint|integer|int)`)

func kindOf(declared string) columnKind {
	switch d := strings.ToLower(declared); {
	case reKind.MatchString(d):
		return kindInt
	case d == "real", d == "double precision":
		return kindFloat
	case d == "blob", d == "bytea":
		return kindBytes
	}
	return kindText
}

func (e *liteEngine) tables(ctx context.Context) ([]table, error) {
	const text = `SELECT m.name, p.name, p.type, p.pk FROM sqlite_schema m, pragma_table_info(m.name) p
		WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' ORDER BY m.name, p.cid`
	var ts []table
	err := e.readers.with(ctx, false, func(c *liteConn) error {
		return sqlitex.ExecuteTransient(c.c, text, &sqlitex.ExecOptions{ResultFunc: func(st *sqlite.Stmt) error {
			ts = addColumn(ts, st.ColumnText(0), st.ColumnText(1), st.ColumnText(2), st.ColumnInt(3) > 0)
			return nil
		}})
	})
	return ts, sqliteError("db.tables", err)
}

func (e *pgEngine) tables(ctx context.Context) ([]table, error) {
	const text = `SELECT c.table_name::text, c.column_name::text, c.data_type::text,
		CASE WHEN k.column_name IS NULL THEN 0 ELSE 1 END::bigint
		FROM information_schema.columns c
		JOIN information_schema.tables t ON t.table_schema = c.table_schema AND t.table_name = c.table_name AND t.table_type = 'BASE TABLE'
		LEFT JOIN information_schema.table_constraints tc ON tc.table_schema = c.table_schema AND tc.table_name = c.table_name AND tc.constraint_type = 'PRIMARY KEY'
		LEFT JOIN information_schema.key_column_usage k ON k.constraint_name = tc.constraint_name AND k.table_schema = c.table_schema AND k.table_name = c.table_name AND k.column_name = c.column_name
		WHERE c.table_schema = current_schema() ORDER BY c.table_name, c.ordinal_position`
	var ts []table
	err := e.All(ctx, &Stmt{Name: "db.tables", Text: text}, func(r *Row) error {
		ts = addColumn(ts, r.Text(), r.Text(), r.Text(), r.Bool())
		return nil
	})
	return ts, err
}

func addColumn(ts []table, name, column, declared string, key bool) []table {
	if len(ts) == 0 || ts[len(ts)-1].Name != name {
		ts = append(ts, table{Name: name})
	}
	t := &ts[len(ts)-1]
	t.Columns = append(t.Columns, column)
	t.Kinds = append(t.Kinds, kindOf(declared))
	if key {
		t.Key = append(t.Key, column)
	}
	return ts
}
