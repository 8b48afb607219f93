package audit_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

var tamper = map[string]*db.Stmt{
	"changed": db.SQL("audittest.change", `UPDATE journal SET actor = 'someone else' WHERE seq = 5`),
	"removed": db.SQL("audittest.remove", `DELETE FROM journal WHERE seq = 5`),
	"cut off": db.SQL("audittest.cut", `DELETE FROM journal WHERE seq > 8`),
	"reordered": db.SQL("audittest.reorder", `UPDATE journal SET at = (SELECT at FROM journal j WHERE j.seq = 6),
		data = (SELECT data FROM journal j WHERE j.seq = 6) WHERE seq = 5`),
}

func appendN(t *testing.T, d *db.DB, from, n int) {
	t.Helper()
	ctx := context.Background()
	for i := from; i < from+n; i++ {
		err := d.Write(ctx, func(tx *db.Tx) error {
			return audit.Append(tx, audit.Entry{At: time.UnixMilli(int64(1_700_000_000_000 + i)), Kind: "test.add",
				Actor: "system", Subject: fmt.Sprintf("thing:%d", i), Data: map[string]int{"n": i}})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestChainVerifiesAndFollowHasNoGaps(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		appendN(t, d, 0, 10)
		for {
			n, err := audit.Sequence(ctx, d, 3)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				break
			}
		}
		appendN(t, d, 10, 1)
		rep, err := audit.Verify(ctx, d)
		if err != nil || rep.Problem != "" || rep.Entries != 10 || rep.Waiting != 1 {
			t.Fatalf("%+v %v", rep, err)
		}
		page, err := audit.Follow(ctx, d.Read(), 4, 100)
		if err != nil || len(page) != 6 || page[0].Seq != 5 || page[0].Data != `{"n":4}` {
			t.Fatalf("%+v %v", page, err)
		}
		skim := func(limit int, whole func(audit.Kind) bool) (skimmed []audit.Record) {
			n, last, err := audit.Skim(ctx, d.Read(), 4, limit, whole, func(r *audit.Record) error {
				skimmed = append(skimmed, *r)
				return nil
			})
			if err != nil || n != len(skimmed) || last != skimmed[n-1].Seq {
				t.Fatalf("%d entries up to %d: %v", n, last, err)
			}
			return skimmed
		}
		if diff := cmp.Diff(page, skim(100, func(k audit.Kind) bool { return k == "test.add" })); diff != "" {
			t.Fatalf("whole entries differ: %s", diff)
		}
		want := []audit.Record{{Seq: 5, Kind: "test.add", Subject: "thing:4"}, {Seq: 6, Kind: "test.add", Subject: "thing:5"}}
		if diff := cmp.Diff(want, skim(2, func(audit.Kind) bool { return false })); diff != "" {
			t.Fatalf("of entries that nobody wants: %s", diff)
		}
		about, err := audit.BySubject(ctx, d.Read(), "thing:10", "", 10)
		if err != nil || len(about) != 1 || about[0].Seq != 0 {
			t.Fatalf("%+v %v", about, err)
		}
	})
}

func TestTamperingIsFound(t *testing.T) {
	for name, s := range tamper {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			d := dbtest.Open(t, dbtest.SQLiteURL(t))
			appendN(t, d, 0, 10)
			if _, err := audit.Sequence(ctx, d, 100); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Read().Exec(ctx, s); err != nil {
				t.Fatal(err)
			}
			rep, err := audit.Verify(ctx, d)
			if err != nil || rep.Problem == "" {
				t.Fatalf("%+v %v", rep, err)
			}
		})
	}
}

// Several replicas sequence while entries arrive: one whole chain results.
func TestSequencersRace(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() { appendN(t, d, w*50, 50) })
			wg.Go(func() {
				for range 40 {
					if _, err := audit.Sequence(ctx, d, 20); err != nil && !strings.Contains(err.Error(), "40001") {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		for {
			n, err := audit.Sequence(ctx, d, 1000)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				break
			}
		}
		rep, err := audit.Verify(ctx, d)
		if err != nil || rep.Problem != "" || rep.Entries != 200 {
			t.Fatalf("%+v %v", rep, err)
		}
	})
}
