package db_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/db/schema"
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

var (
	qOldSerial = db.SQL("dbtest.put_serial", `INSERT INTO inventory (id, fingerprint, status, source, managed, owner, team, environment, issuer_id, key_type, signature,
			serial, serial_key, spki_hash, spki_key, subject_cn, names, name_count, is_ca, not_before, not_after, first_seen_at)
		VALUES ($1::text, $1::text, 'active', 1, 0, '', '', '', 1, '', '', $1::text, $2, $3, 0, '', '', 0, 0, 0, 0, 0)`)
	qSerialKey = db.SQL("dbtest.get_serial_key", `SELECT serial_key FROM inventory WHERE id = $1`)
)

// Schema 21 looks serials up by another key, which inventory.TestSerialKey makes
// of the same ones: after an upgrade, and after the restore of an older backup.
func TestUpgradeMovesSerials(t *testing.T) {
	dbtest.EachURL(t, func(t *testing.T, url string) {
		ctx := context.Background()
		d, err := db.Open(ctx, db.Config{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		if _, err := db.MigrateTo(d, ctx, time.Now(), 20); err != nil {
			t.Fatal(err)
		}
		keys := map[string]struct{ old, key int64 }{
			"7f123456aabb":     {866984501075763978, 0x7f123456<<32 | 866984501075763978>>32},
			"01":               {-7742665260757011985, 0x01000000<<32 | -7742665260757011985>>32&0xffffffff},
			"-80":              {8778914525145547779, -0x80000000<<32 | 8778914525145547779>>32},
			"fedcba9876543210": {915109226063336758, -0x01234568<<32 | 915109226063336758>>32},
		}
		for serial, k := range keys {
			if err := d.Write(ctx, func(tx *db.Tx) error {
				_, err := tx.Exec(ctx, qOldSerial, serial, k.old, []byte{0})
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		var dump bytes.Buffer
		if _, err := d.Dump(ctx, &dump); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Migrate(ctx, time.Now()); err != nil {
			t.Fatal(err)
		}
		check := func(d *db.DB) {
			t.Helper()
			for serial, k := range keys {
				if got, err := db.Get(ctx, d.Read(), qSerialKey, (*db.Row).Int64, serial); err != nil || got != k.key {
					t.Errorf("serial %s is looked up by %#x, want %#x (%v)", serial, got, k.key, err)
				}
			}
		}
		check(d)
		dbtest.Each(t, func(t *testing.T, d *db.DB) {
			if _, err := d.Restore(ctx, bytes.NewReader(dump.Bytes())); err != nil {
				t.Fatal(err)
			}
			check(d)
		})
	})
}

// A step that changes rows says so, and changes nothing else: Restore takes it too.
func TestStepsOfRows(t *testing.T) {
	names, err := fs.Glob(schema.Files, "*.sql")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	rows, tables := regexp.MustCompile(`(?mi)^\s*(UPDATE|INSERT|DELETE)\b`), regexp.MustCompile(`(?mi)^\s*(CREATE|ALTER|DROP)\b`)
	for _, name := range names {
		text, err := schema.Files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		marked := bytes.HasPrefix(text, []byte("-- Rows:"))
		if rows.Match(text) != marked || marked && tables.Match(text) {
			t.Errorf("%s: a step of rows begins with -- Rows: and has no CREATE, ALTER or DROP", name)
		}
	}
}
