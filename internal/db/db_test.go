package db_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

var (
	qPut    = db.SQL("dbtest.put", `INSERT INTO setting (name, value, updated_at) VALUES ($1, $2, $3)`)
	qGet    = db.SQL("dbtest.get", `SELECT value FROM setting WHERE name = $1`)
	qUpdate = db.SQL("dbtest.update", `UPDATE setting SET value = $2 WHERE name = $1`)
	qAdd    = db.SQL("dbtest.add", `UPDATE setting SET value = ((value::bigint) + $2::bigint)::text WHERE name = $1`)
	qNames  = db.SQL("dbtest.names", `SELECT name FROM setting WHERE name = ANY($1::text[]) ORDER BY name`)
	qAll    = db.SQL("dbtest.all", `SELECT name, value, updated_at FROM setting ORDER BY name`, db.Scan("test table"))
	qTypes  = db.SQL("dbtest.types", `SELECT $1::bigint, $2::text, $3::bytea, $4::bigint, $5::text`)
	qLocked = db.SQL("dbtest.locked", `SELECT value FROM setting WHERE name = $1 FOR UPDATE SKIP LOCKED`)
	putMany = db.BulkInsert("dbtest.put_many", "setting", false, "name", "value", "updated_at")
	putNew  = db.BulkInsert("dbtest.put_new", "setting", true, "name", "value", "updated_at")
)

func put(ctx context.Context, tx *db.Tx, name, value string) error {
	_, err := tx.Exec(ctx, qPut, name, value, 1)
	return err
}

func value(t *testing.T, d *db.DB, name string) string {
	t.Helper()
	v, err := db.Get(context.Background(), d.Read(), qGet, (*db.Row).Text, name)
	if errors.Is(err, db.ErrNotFound) {
		return "<none>"
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestWriteIsVisibleAndFailureLeavesNothing(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		if err := d.Write(ctx, func(tx *db.Tx) error { return put(ctx, tx, "a", "1") }); err != nil {
			t.Fatal(err)
		}
		refused := errors.New("refused")
		err := d.Write(ctx, func(tx *db.Tx) error {
			if err := put(ctx, tx, "b", "1"); err != nil {
				return err
			}
			return refused
		})
		if !errors.Is(err, refused) {
			t.Fatalf("error = %v", err)
		}
		err = d.Write(ctx, func(tx *db.Tx) error {
			tx.Queue(qPut, nil, "c", "1", 1)
			tx.Queue(qUpdate, db.ExactlyOne(refused), "nobody", "1")
			return nil
		})
		if !errors.Is(err, refused) {
			t.Fatalf("error of a queued check = %v", err)
		}
		if got := value(t, d, "a") + value(t, d, "b") + value(t, d, "c"); got != "1<none><none>" {
			t.Fatal(got)
		}
	})
}

func TestPanicInCallbackIsAnError(t *testing.T) {
	d := dbtest.Open(t, dbtest.SQLiteURL(t))
	ctx := context.Background()
	err := d.Write(ctx, func(tx *db.Tx) error {
		if err := put(ctx, tx, "a", "1"); err != nil {
			return err
		}
		panic("boom")
	})
	if err == nil || !strings.Contains(err.Error(), "boom") {
		t.Fatal(err)
	}
	if v := value(t, d, "a"); v != "<none>" {
		t.Fatal("the panicking callback left a row")
	}
}

func TestUniqueKeyIsConflict(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		for i, want := range []bool{false, true} {
			err := d.Write(ctx, func(tx *db.Tx) error { return put(ctx, tx, "a", "1") })
			if errors.Is(err, db.ErrConflict) != want {
				t.Fatalf("write %d: %v", i, err)
			}
		}
	})
}

// Concurrent increments must not lose one, whichever engine serialises them,
// and a failing neighbour in the same batch must not take others down.
func TestConcurrentWritesAllCount(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		if err := d.Write(ctx, func(tx *db.Tx) error { return put(ctx, tx, "n", "0") }); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				err := d.Write(ctx, func(tx *db.Tx) error {
					tx.Queue(qAdd, nil, "n", 1)
					if i%4 == 0 {
						return put(ctx, tx, "n", "conflict")
					}
					return nil
				})
				if (i%4 == 0) != errors.Is(err, db.ErrConflict) {
					t.Errorf("write %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		if v := value(t, d, "n"); v != "48" {
			t.Fatalf("counted %s of 48", v)
		}
	})
}

func TestValuesRoundTrip(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		type state string
		at := time.UnixMilli(1767225600123).UTC()
		var got []any
		err := d.Read().One(context.Background(), qTypes, func(r *db.Row) {
			got = append(got, r.Time(), r.Text(), r.Bytes(), r.Bool(), r.Null(), r.Text())
		}, at, state("ready"), []byte{0, 255}, true, (*string)(nil))
		if err != nil {
			t.Fatal(err)
		}
		want := []any{at, "ready", []byte{0, 255}, true, true, ""}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

// Pointers bind what they lead to, and nil of any kind is NULL.
func TestPointersBindTheirValues(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		at, text, octets, n := time.UnixMilli(1767225600123).UTC(), "ready", []byte{0, 255}, int64(7)
		var none []byte
		for _, c := range []struct{ args, want []any }{
			{[]any{&at, &text, &octets, &n, &text}, []any{at, "ready", octets, int64(7), "ready"}},
			{[]any{&time.Time{}, (*string)(nil), &none, (*int64)(nil), nil}, []any{time.Time{}, "", none, int64(0), ""}},
			{[]any{(*time.Time)(nil), "", (*[]byte)(nil), 0, ""}, []any{time.Time{}, "", none, int64(0), ""}},
		} {
			var got []any
			err := d.Read().One(context.Background(), qTypes, func(r *db.Row) {
				got = append(got, r.Time(), r.Text(), r.Bytes(), r.Int64(), r.Text())
			}, c.args...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		}
	})
}

// Word reads whatever Text reads, again and again, and leaves the row where
// Text would.
func TestWordReadsText(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		for _, text := range []string{"certificate.issue", "", "certificate.issue", "\u00e9", strings.Repeat("x", 64), strings.Repeat("x", 65)} {
			var got []any
			err := d.Read().One(context.Background(), qTypes, func(r *db.Row) {
				got = append(got, r.Int(), r.Word(), r.Bytes(), r.Null())
			}, 1, text, []byte("after"), nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]any{1, text, []byte("after"), true}, got); diff != "" {
				t.Error(diff)
			}
		}
	})
}

func TestListArgumentAndBulk(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		rows := [][]any{{"a", "1", 1}, {"b", "2", 1}, {"c", "3", 1}}
		insert := func(b *db.Bulk, rows [][]any) error {
			return d.Write(ctx, func(tx *db.Tx) error { return tx.Insert(ctx, b, rows) })
		}
		if err := insert(putMany, rows); err != nil {
			t.Fatal(err)
		}
		if err := insert(putMany, rows); !errors.Is(err, db.ErrConflict) {
			t.Fatalf("second bulk insert: %v", err)
		}
		if err := insert(putNew, [][]any{{"a", "other", 1}, {"d", "4", 1}}); err != nil {
			t.Fatal(err)
		}
		names, err := db.List(ctx, d.Read(), qNames, (*db.Row).Text, []string{"d", "a", "zzz"})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"a", "d"}, names); diff != "" {
			t.Fatal(diff)
		}
		if v := value(t, d, "a"); v != "1" {
			t.Fatalf("ignored row overwrote: %s", v)
		}
		if v, err := db.Get(ctx, d.Read(), qLocked, (*db.Row).Text, "a"); err != nil || v != "1" {
			t.Fatal(v, err)
		}
	})
}

func TestCancelledWaiterStoresNothing(t *testing.T) {
	d := dbtest.Open(t, dbtest.SQLiteURL(t))
	ctx, cancel := context.WithCancel(context.Background())
	entered, leave := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	go func() {
		first <- d.Write(context.Background(), func(tx *db.Tx) error { close(entered); <-leave; return nil })
	}()
	<-entered
	second := make(chan error, 1)
	go func() {
		second <- d.Write(ctx, func(tx *db.Tx) error { return put(ctx, tx, "late", "1") })
	}()
	cancel()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	close(leave)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if v := value(t, d, "late"); v != "<none>" {
		t.Fatal("a cancelled write was stored")
	}
}

func TestMigrateIsIdempotentAndRefusesNewer(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		steps, err := d.Migrate(ctx, time.Now())
		if err != nil || len(steps) != 0 {
			t.Fatal(steps, err)
		}
		if _, err := d.Read().Exec(ctx, db.SQL("dbtest.future_"+string(d.Engine()), `INSERT INTO migration (version, name, applied_at) VALUES (9999, 'future', 0)`)); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Migrate(ctx, time.Now()); !fault.Is(err, fault.Precondition) {
			t.Fatalf("migrate of a newer schema: %v", err)
		}
	})
}

// Several replicas start at once on one empty database: all succeed.
func TestMigrateConcurrently(t *testing.T) {
	url := dbtest.PostgresURL(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			d, err := db.Open(context.Background(), db.Config{URL: url})
			if err != nil {
				t.Error(err)
				return
			}
			defer d.Close()
			if _, err := d.Migrate(context.Background(), time.Now()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// A dump of either engine fills either engine, and holds one consistent state
// although writes go on.
func TestDumpAndRestoreAcrossEngines(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, src *db.DB) {
		ctx := context.Background()
		for i := range 50 {
			if err := src.Write(ctx, func(tx *db.Tx) error { return put(ctx, tx, fmt.Sprintf("k%02d", i), "v\n\"'") }); err != nil {
				t.Fatal(err)
			}
		}
		var dump bytes.Buffer
		rows, err := src.Dump(ctx, &dump)
		if err != nil {
			t.Fatal(err)
		}
		dbtest.Each(t, func(t *testing.T, dst *db.DB) {
			n, err := dst.Restore(ctx, bytes.NewReader(dump.Bytes()))
			if err != nil || n != rows {
				t.Fatalf("restored %d of %d rows: %v", n, rows, err)
			}
			var again bytes.Buffer
			if _, err := dst.Dump(ctx, &again); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tail(dump.String()), tail(again.String())); diff != "" {
				t.Fatal(diff)
			}
			if _, err := dst.Restore(ctx, bytes.NewReader(dump.Bytes())); !fault.Is(err, fault.Precondition) {
				t.Fatalf("restore into a full database: %v", err)
			}
		})
	})
}

// tail drops the header (it names the engine) and the migration rows (their time differs).
func tail(dump string) string {
	_, rest, _ := strings.Cut(dump, "\n")
	i := strings.Index(rest, `{"table":"setting"`)
	return rest[i:]
}

func TestDamagedDumpIsRefused(t *testing.T) {
	ctx := context.Background()
	src := dbtest.Open(t, dbtest.SQLiteURL(t))
	if err := src.Write(ctx, func(tx *db.Tx) error { return put(ctx, tx, "a", "1") }); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if _, err := src.Dump(ctx, &buf); err != nil {
		t.Fatal(err)
	}
	good := buf.String()
	for name, bad := range map[string]string{
		"empty":         "",
		"not a dump":    "hello\n",
		"cut off":       good[:strings.LastIndex(strings.TrimSpace(good), "\n")],
		"wrong count":   strings.Replace(good, `{"end":true,"rows":`, `{"end":true,"rows":1`, 1),
		"unknown table": strings.Replace(good, `"table":"setting"`, `"table":"sqlite_schema"`, 1),
		"sql in column": strings.Replace(good, `["name","value","updated_at"]`, `["name","value","updated_at) --"]`, 1),
		"newer schema":  strings.Replace(good, `"schema":`, `"schema":99`, 1),
		"short row":     strings.Replace(good, `["a","1",1]`, `["a","1"]`, 1),
		"wrong kind":    strings.Replace(good, `["a","1",1]`, `["a","1","x"]`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			if bad == good {
				t.Fatal("the case damages nothing")
			}
			dst := dbtest.Open(t, dbtest.SQLiteURL(t))
			_, err := dst.Restore(ctx, strings.NewReader(bad))
			if !fault.Is(err, fault.Invalid) && !fault.Is(err, fault.Precondition) {
				t.Fatalf("error = %v", err)
			}
		})
	}
}

func TestSnapshotDoesNotSeeLaterWrites(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		count := func(q db.Q) int {
			rows, err := db.List(ctx, q, qAll, (*db.Row).Text)
			if err != nil {
				t.Fatal(err)
			}
			return len(rows)
		}
		err := d.Snapshot(ctx, func(q db.Q) error {
			before := count(q)
			if err := d.Write(ctx, func(tx *db.Tx) error { return put(ctx, tx, "a", "1") }); err != nil {
				return err
			}
			if after := count(q); after != before {
				t.Errorf("a snapshot grew from %d to %d rows", before, after)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestDatabaseGoneIsUnavailableAndComesBack(t *testing.T) {
	c := dbtest.New(t)
	d := dbtest.Open(t, c.URL("postgres"))
	ctx := context.Background()
	if err := c.Halt(); err != nil {
		t.Fatal(err)
	}
	err := d.Write(ctx, func(tx *db.Tx) error { return put(ctx, tx, "a", "1") })
	if e := fault.As(err); e.Code != fault.Unavailable || e.RetryAfter <= 0 {
		t.Fatalf("write without a server: %v", err)
	}
	if err := c.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := d.Write(ctx, func(tx *db.Tx) error { return put(ctx, tx, "a", "1") }); err != nil {
		t.Fatalf("write after the server's return: %v", err)
	}
}

// After Close the database is one file again: nothing is left in a WAL that a
// copy of the file would miss.
func TestCloseLeavesOneFile(t *testing.T) {
	path := dbtest.SQLiteURL(t)
	d := dbtest.Open(t, path)
	if err := d.Write(context.Background(), func(tx *db.Tx) error { return put(context.Background(), tx, "a", "1") }); err != nil {
		t.Fatal(err)
	}
	if v := value(t, d, "a"); v != "1" {
		t.Fatal(v)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + "-wal"); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the WAL is still there: %v", err)
	}
}

func TestIDsSortByTime(t *testing.T) {
	at := time.UnixMilli(1767225600123).UTC()
	a, b := db.NewID(at), db.NewID(at.Add(time.Millisecond))
	if a >= b || !db.ValidID(a) || !db.IDTime(a).Equal(at) {
		t.Fatalf("%s %s %v", a, b, db.IDTime(a))
	}
	for _, bad := range []string{"", a[1:], strings.ToUpper(a), a[:25] + "/", a[:25] + "u"} {
		if db.ValidID(bad) {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func BenchmarkWriteParallel(b *testing.B) {
	d := dbtest.Open(b, dbtest.SQLiteURL(b))
	ctx := context.Background()
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			id := db.NewID(time.Now())
			if err := d.Write(ctx, func(tx *db.Tx) error { tx.Queue(qPut, nil, id, "value", 1); return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkRead(b *testing.B) {
	d := dbtest.Open(b, dbtest.SQLiteURL(b))
	ctx := context.Background()
	if err := d.Write(ctx, func(tx *db.Tx) error { return put(ctx, tx, "a", "1") }); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := db.Get(ctx, d.Read(), qGet, (*db.Row).Text, "a"); err != nil {
			b.Fatal(err)
		}
	}
}
