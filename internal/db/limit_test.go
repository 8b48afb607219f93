package db

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"zombiezen.com/go/sqlite"
)

// TestLimitIsPlannedOnce: a statement whose LIMIT is a parameter is compiled
// once per connection, not at every execution.
func TestLimitIsPlannedOnce(t *testing.T) {
	ctx := context.Background()
	c, err := openLite(filepath.Join(t.TempDir(), "x.db"), Config{Observe: func(string, time.Duration, error) {}}, sqlite.OpenReadWrite|sqlite.OpenCreate)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	looks := 0 // of the compiler at what it may read
	if err := c.c.SetAuthorizer(sqlite.AuthorizeFunc(func(sqlite.Action) sqlite.AuthResult { looks++; return sqlite.AuthResultOK })); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(ctx, &Stmt{Name: "t.make", sqlite: "CREATE TABLE t (id INTEGER PRIMARY KEY, due INTEGER NOT NULL) STRICT"}); err != nil {
		t.Fatal(err)
	}
	insert := &Stmt{Name: "t.add", sqlite: toSQLite("INSERT INTO t VALUES ($1, $2)")}
	for i := range 9 {
		if _, err := c.Exec(ctx, insert, i, i); err != nil {
			t.Fatal(err)
		}
	}
	due := &Stmt{Name: "t.due", sqlite: toSQLite("SELECT id FROM t WHERE due >= $1 ORDER BY id LIMIT $2")}
	first := 0
	for limit := 1; limit <= 5; limit++ {
		n := 0
		if err := c.All(ctx, due, func(*Row) error { n++; return nil }, int64(2), int64(limit)); err != nil {
			t.Fatal(err)
		}
		if n != limit {
			t.Errorf("LIMIT %d gave %d rows", limit, n)
		}
		if limit == 1 {
			first = looks
		}
	}
	if looks != first {
		t.Errorf("the statement was compiled again: %d looks after the first execution, %d after the fifth", first, looks)
	}
}
