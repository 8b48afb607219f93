package db_test

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
)

// testdata/schema1.jsonl is the dump of an installation with schema 1: three
// authorities, an ACME account, an order, a certificate and its revocation.
// An upgrade keeps every row and every value, whatever the steps since added.
func TestUpgradeKeepsEveryRow(t *testing.T) {
	old, err := os.ReadFile("testdata/schema1.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	dbtest.EachURL(t, func(t *testing.T, url string) {
		ctx := context.Background()
		d, err := db.Open(ctx, db.Config{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		if _, err := db.MigrateTo(d, ctx, time.Now(), 1); err != nil {
			t.Fatal(err)
		}
		if v, err := d.Version(ctx); err != nil || v != 1 {
			t.Fatalf("schema %d, %v", v, err)
		}
		if _, err := d.Restore(ctx, bytes.NewReader(old)); err != nil {
			t.Fatal(err)
		}
		before := rows(t, d)
		if _, err := d.Migrate(ctx, time.Now()); err != nil {
			t.Fatal(err)
		}
		after := rows(t, d)
		for table, want := range before {
			if len(want) > 0 && len(after[table]) != len(want) {
				t.Errorf("table %s had %d rows and has %d", table, len(want), len(after[table]))
			}
			for i := range want {
				if i < len(after[table]) && !strings.HasPrefix(after[table][i], strings.TrimSuffix(want[i], "]")) {
					t.Errorf("table %s: %s", table, cmp.Diff(want[i], after[table][i]))
				}
			}
		}
		if len(before["certificate"]) == 0 || len(before["acme_order"]) == 0 {
			t.Fatal("the dump of schema 1 holds no certificate or no order")
		}
	})
}

// rows returns the dumped rows of each table but migration. New columns are
// added at the end, so the row before is the beginning of the row after.
func rows(t *testing.T, d *db.DB) map[string][]string {
	t.Helper()
	var buf bytes.Buffer
	if _, err := d.Dump(context.Background(), &buf); err != nil {
		t.Fatal(err)
	}
	out, table := map[string][]string{}, ""
	for line := range strings.Lines(buf.String()) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, `{"table":"`); ok {
			table, _, _ = strings.Cut(rest, `"`)
		} else if strings.HasPrefix(line, "[") && table != "migration" {
			out[table] = append(out[table], line)
		}
	}
	return out
}
