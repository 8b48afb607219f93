package db_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
)

var qLong = db.SQL("dbtest.long", `SELECT value FROM setting WHERE name = $1`, db.Long("test"))

// However many long reads there are, a short one finds a connection.
func TestShortReadsDoNotWaitForLongOnes(t *testing.T) {
	url := dbtest.SQLiteURL(t)
	first := dbtest.Open(t, url)
	if err := first.Write(t.Context(), func(tx *db.Tx) error { return put(t.Context(), tx, "a", "1") }); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 2, 4, 5} {
		synctest.Test(t, func(t *testing.T) {
			ctx := context.Background()
			d, err := db.Open(ctx, db.Config{URL: url, ReadPool: size})
			if err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			inside, done := 0, 0
			release := make(chan struct{})
			for range 3 * size {
				go func() {
					err := d.Read().All(ctx, qLong, func(*db.Row) error {
						mu.Lock()
						inside++
						mu.Unlock()
						<-release
						return nil
					}, "a")
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					done++
					mu.Unlock()
				}()
			}
			synctest.Wait()
			if inside != size {
				t.Errorf("%d long reads at once, want %d", inside, size)
			}
			if v, err := db.Get(ctx, d.Read(), qGet, (*db.Row).Text, "a"); err != nil || v != "1" {
				t.Errorf("a short read among long ones: %q, %v", v, err)
			}
			gone, cancel := context.WithCancel(ctx)
			cancel()
			if _, err := db.Get(gone, d.Read(), qLong, (*db.Row).Text, "a"); err != context.Canceled {
				t.Errorf("a caller who went away: %v", err)
			}
			close(release)
			synctest.Wait()
			if done != 3*size {
				t.Errorf("%d of %d long reads ended", done, 3*size)
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
