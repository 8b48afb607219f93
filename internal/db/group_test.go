package db_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
)

// Writes that fail, ask or conflict share nothing with those that come at the
// same time but the commit.
func TestConcurrentWritesFailEachForItself(t *testing.T) {
	dbtest.EachURL(t, func(t *testing.T, url string) {
		var commits, asked atomic.Int64
		dbtest.Open(t, url).Close()
		d, err := db.Open(t.Context(), db.Config{URL: url, Observe: func(name string, _ time.Duration, _ error) {
			if name == "db.commit_batch" || name == "db.commit" {
				commits.Add(1)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		ctx := t.Context()
		refused := errors.New("refused")
		const n = 400
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				name := fmt.Sprintf("row%03d", i)
				err := d.Write(ctx, func(tx *db.Tx) error {
					tx.Queue(qPut, nil, name, "a", 1)
					switch {
					case i%80 == 1: // changes no row
						tx.Queue(qUpdate, db.ExactlyOne(refused), "nobody", "x")
					case i%80 == 2: // takes a name that is taken
						tx.Queue(qPut, nil, name, "b", 2)
					case i%80 == 3:
						return refused
					case i%80 == 4: // asks
						asked.Add(1)
						if v, err := db.Get(ctx, tx, qGet, (*db.Row).Text, name); err != nil || v != "a" {
							return fmt.Errorf("own write reads as %q, %w", v, err)
						}
					case i%80 == 5: // as above, and hides that it did
						_, _ = tx.Exec(ctx, qUpdate, name, "a")
					}
					tx.Queue(qUpdate, db.ExactlyOne(refused), name, "done")
					return nil
				})
				want := error(nil)
				switch i % 80 {
				case 1, 3:
					want = refused
				case 2:
					want = db.ErrConflict
				}
				if !errors.Is(err, want) {
					t.Errorf("write %d: %v, want %v", i, err, want)
				}
			})
		}
		wg.Wait()
		stored := 0
		err = d.Read().All(ctx, qAll, func(r *db.Row) error {
			if name, value := r.Text(), r.Text(); len(name) == 6 && name[:3] == "row" {
				stored++
				if value != "done" {
					t.Errorf("%s is %q: half a write was stored", name, value)
				}
			}
			return nil
		})
		if err != nil || stored != n-3*n/80 {
			t.Errorf("%d writes stored, %v", stored, err)
		}
		if c := commits.Load(); c > n*3/4 {
			t.Errorf("%d commits for %d writes at once", c, n)
		}
	})
}

// A write whose caller left before it began is not stored, and one that began
// is answered truly.
func TestGroupedWritesHonourContext(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*20*time.Microsecond)
				defer cancel()
				name := fmt.Sprintf("ctx%03d", i)
				err := d.Write(ctx, func(tx *db.Tx) error { tx.Queue(qPut, nil, name, "v", 1); return nil })
				_, missing := db.Get(t.Context(), d.Read(), qGet, (*db.Row).Text, name)
				if stored := missing == nil; stored != (err == nil) {
					t.Errorf("write %d: %v, stored %t", i, err, stored)
				}
			})
		}
		wg.Wait()
	})
}
