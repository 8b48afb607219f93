package db_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
)

var (
	qNamed    = db.SQL("dbtest.named", `SELECT name FROM setting WHERE name = ANY($1::text[]) AND updated_at > $2 ORDER BY name`)
	qTimed    = db.SQL("dbtest.timed", `SELECT name FROM setting WHERE updated_at = ANY($2::bigint[]) AND value = $1 ORDER BY name`, db.Scan("a test"))
	qRename   = db.SQL("dbtest.set_values", `UPDATE setting SET value = $2 WHERE name = ANY($1::text[])`)
	qTwoLists = db.SQL("dbtest.two_lists", `SELECT name FROM setting WHERE name = ANY($1::text[]) AND value = ANY($2::text[])`)
)

// A list gives the same rows whether it has none, one or several elements, which
// are three ways to run the statement.
func TestLists(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		if err := d.Write(ctx, func(tx *db.Tx) error {
			for i, name := range []string{"a", "b", "c"} {
				tx.Queue(qPut, nil, name, "v", int64(i+1))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			q    *db.Stmt
			args []any
			want string
		}{
			{qNamed, []any{[]string{}, 0}, ""},
			{qNamed, []any{[]string{"b"}, 0}, "b"},
			{qNamed, []any{[]string{"b"}, 2}, ""},
			{qNamed, []any{[]string{"a,b"}, 0}, ""},
			{qNamed, []any{[]string{"c", "x", "a"}, 0}, "a c"},
			{qTimed, []any{"v", []int64{3}}, "c"},
			{qTimed, []any{"v", []int64{3, 1}}, "a c"},
			{qTwoLists, []any{[]string{"a"}, []string{"v"}}, "a"},
			{qTwoLists, []any{[]string{"a"}, []string{"v", "w"}}, "a"},
		} {
			for range 2 { // arguments are the caller's, and as they were
				got, err := db.List(ctx, d.Read(), c.q, (*db.Row).Text, c.args...)
				if slices.Sort(got); err != nil || strings.Join(got, " ") != c.want {
					t.Errorf("%s %v: %v, %v", c.q.Name, c.args, got, err)
				}
			}
		}
		for _, names := range [][]string{{"a"}, {"b", "c"}} {
			if err := d.Write(ctx, func(tx *db.Tx) error {
				tx.Queue(qRename, func(n int64) error {
					if n != int64(len(names)) {
						t.Errorf("%v: %d rows changed", names, n)
					}
					return nil
				}, names, "w")
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Every statement that compares with one list has a form for a list of one, which
// the tests of all statements prepare and explain as well.
func TestListOfOneIsExplained(t *testing.T) {
	var texts []string
	for _, s := range db.Statements() {
		if s.Name == qNamed.Name || s.Name == qTwoLists.Name {
			texts = append(texts, s.Text)
		}
	}
	want := []string{qNamed.Text, strings.Replace(qNamed.Text, "ANY($1::text[])", "$1::text", 1), qTwoLists.Text}
	if !slices.Equal(texts, want) {
		t.Errorf("statements: %q", texts)
	}
}
