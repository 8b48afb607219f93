package db_test

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/db/schema"
)

// Both engines have the same tables, columns, storage classes and keys, and
// the same indexes.
func TestSchemasAgree(t *testing.T) {
	ctx := context.Background()
	var all [2][]db.Table
	for i, url := range []string{dbtest.SQLiteURL(t), dbtest.PostgresURL(t)} {
		tables, err := dbtest.Open(t, url).Tables(ctx)
		if err != nil {
			t.Fatal(err)
		}
		all[i] = tables
	}
	if diff := cmp.Diff(all[0], all[1]); diff != "" {
		t.Errorf("SQLite (-) and PostgreSQL (+) differ:\n%s", diff)
	}
	if diff := cmp.Diff(indexes(t, "sqlite"), indexes(t, "postgres")); diff != "" {
		t.Errorf("indexes of SQLite (-) and PostgreSQL (+) differ:\n%s", diff)
	}
}

var reIndex = regexp.MustCompile(`(?s)CREATE (?:UNIQUE )?INDEX .*?;`)

// indexes returns the CREATE INDEX statements of an engine's steps, in order,
// without what only PostgreSQL needs.
func indexes(t *testing.T, engine string) []string {
	t.Helper()
	entries, err := schema.Files.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), "."+engine+".sql") {
			continue
		}
		text, err := schema.Files.ReadFile(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range reIndex.FindAllString(string(text), -1) {
			out = append(out, strings.Join(strings.Fields(strings.ReplaceAll(s, ` COLLATE "C"`, "")), " "))
		}
	}
	slices.Sort(out)
	return out
}
