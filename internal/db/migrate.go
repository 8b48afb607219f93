package db

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"chancery/internal/db/schema"
	"chancery/internal/fault"
)

var (
	qMigrations = SQL("db.list_migrations", `SELECT version FROM migration ORDER BY version`, Scan("a dozen rows"))
	qMigrated   = SQL("db.insert_migration", `INSERT INTO migration (version, name, applied_at) VALUES ($1, $2, $3)`)
)

// migration is one forward step of the schema.
type migration struct {
	version int64
	name    string
	sql     string
}

// createMigration is the only DDL outside db/schema: it must exist before the
// first step, and stays the same for ever.
const createMigration = `CREATE TABLE IF NOT EXISTS migration (version BIGINT PRIMARY KEY, name TEXT NOT NULL, applied_at BIGINT NOT NULL)`

// migrationLock is the key of the PostgreSQL advisory lock that lets one
// replica migrate while the others wait.
const migrationLock = 0x6368616e63657279 // "chancery"

// Migrate brings the schema up to the version of this program and returns the
// names of the steps it took. It refuses a schema from a newer program. Each
// step is one transaction; a second run does nothing.
func (d *DB) Migrate(ctx context.Context, now time.Time) ([]string, error) {
	return d.migrateTo(ctx, now, 1<<62)
}

func (d *DB) migrateTo(ctx context.Context, now time.Time, last int64) ([]string, error) {
	steps, err := migrations(d.kind)
	if err != nil {
		return nil, err
	}
	if err := d.script(ctx, d.locked(createMigration)); err != nil {
		return nil, fmt.Errorf("migrate database: %w", err)
	}
	done, err := d.Version(ctx)
	if err != nil {
		return nil, err
	}
	if newest := steps[len(steps)-1].version; done > newest {
		return nil, fault.New(fault.Precondition, "the database has schema %d, this program knows %d: run a newer chancery, or restore a backup made by this one", done, newest)
	}
	var names []string
	for _, m := range steps {
		if m.version <= done || m.version > last {
			continue
		}
		err := d.script(ctx, d.step(m, now))
		if errors.Is(err, ErrConflict) { // another replica took this step while we waited for the lock
			continue
		}
		if err != nil {
			return names, fmt.Errorf("migrate database to %s: %w", m.name, err)
		}
		names = append(names, m.name)
	}
	return names, nil
}

// step is one migration as a text that records itself first, so that a second
// runner fails on the key before it repeats the step.
func (d *DB) step(m migration, now time.Time) string {
	record := fmt.Sprintf("INSERT INTO migration (version, name, applied_at) VALUES (%d, '%s', %d);\n", m.version, m.name, now.UnixMilli())
	return d.locked(record + m.sql)
}

// locked makes a script wait for the migration lock (released at its commit).
func (d *DB) locked(sql string) string {
	if d.kind == Postgres {
		return fmt.Sprintf("SELECT pg_advisory_xact_lock(%d);\n%s", int64(migrationLock), sql)
	}
	return sql
}

// Version returns the newest schema step of the database, 0 when empty.
func (d *DB) Version(ctx context.Context) (int64, error) {
	vs, err := List(ctx, d.Read(), qMigrations, (*Row).Int64)
	if err != nil {
		return 0, fmt.Errorf("read schema version: %w", err)
	}
	if len(vs) == 0 {
		return 0, nil
	}
	return vs[len(vs)-1], nil
}

// migrations returns the embedded steps for e, in order.
func migrations(e Engine) ([]migration, error) {
	files, err := fs.Glob(schema.Files, "*."+string(e)+".sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	var ms []migration
	for _, f := range files {
		name := strings.TrimSuffix(f, "."+string(e)+".sql")
		num, _, _ := strings.Cut(name, "_")
		v, err := strconv.ParseInt(num, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("schema file %s: its name must start with a number", f)
		}
		text, err := schema.Files.ReadFile(f)
		if err != nil {
			return nil, err
		}
		ms = append(ms, migration{v, name, string(text)})
	}
	if len(ms) == 0 {
		return nil, fmt.Errorf("no schema for %s", e)
	}
	return ms, nil
}

// jsonList encodes a list argument for json_each.
func jsonList(v any) string {
	if list, ok := v.([]string); ok && plainTexts(list) {
		return `["` + strings.Join(list, `","`) + `"]`
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // []string and []int64 always encode
	}
	return string(b)
}

// plainTexts reports whether list has texts, and only such that stand in JSON as
// they are: most are identifiers and names.
func plainTexts(list []string) bool {
	for _, s := range list {
		for i := range len(s) {
			if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
				return false
			}
		}
	}
	return len(list) > 0
}
