package follow_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"chancery/internal/audit"
	"chancery/internal/ca"
	"chancery/internal/ca/catest"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/inventory"
	"chancery/internal/inventory/follow"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

// world is an installation with one issuing authority.
type world struct {
	db      *db.DB
	ca      *ca.Service
	issuing *ca.Authority
	store   *inventory.Store
	made    int
}

func newWorld(t *testing.T, d *db.DB) *world {
	t.Helper()
	ctx := context.Background()
	pass, err := keys.NewPassphrase([]byte("correct horse battery"))
	check(t, err)
	store, err := keys.OpenFileStore(filepath.Join(t.TempDir(), "keys"), pass)
	check(t, err)
	w := &world{db: d, store: inventory.New(d)}
	w.ca, err = ca.Open(ctx, ca.Config{DB: d, Keys: store, URLs: ca.URLs{Base: "http://localhost:8080"}})
	check(t, err)
	root, err := w.ca.CreateRoot(ctx, ca.Spec{CA: "default", KeyType: pki.P256}, "test")
	check(t, err)
	w.issuing, err = w.ca.CreateIssuing(ctx, root.ID, ca.Spec{CA: "default", KeyType: pki.P256}, "test")
	check(t, err)
	return w
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fill makes n certificates with entries in the journal.
func (w *world) fill(t *testing.T, n int) []string {
	t.Helper()
	from := w.made
	w.made += n
	ids, _, err := catest.Fill(context.Background(), w.db, catest.Spec{Authority: w.issuing, URLs: w.ca.URLs(), N: n, Names: true, Journal: true,
		Name: func(i int) string { return fmt.Sprintf("h%d.example.com", from+i) }})
	check(t, err)
	return ids
}

// sequence gives every entry of the journal its place.
func (w *world) sequence(t *testing.T) {
	t.Helper()
	for {
		n, err := audit.Sequence(context.Background(), w.db, 1000)
		check(t, err)
		if n == 0 {
			return
		}
	}
}

// tick runs a follower until it has nothing to do.
func tick(t *testing.T, f *follow.Follower) {
	t.Helper()
	for {
		n, err := f.Tick(context.Background())
		check(t, err)
		if !n.More {
			return
		}
	}
}

func (w *world) count(t *testing.T, query string) int {
	t.Helper()
	f, err := inventory.Parse(query, time.Now())
	check(t, err)
	n, err := w.store.Count(context.Background(), f)
	check(t, err)
	return int(n.N)
}

// What was issued before the program knew of the inventory, what is issued
// later and what is revoked are in it, under the ids that they have.
func TestInventoryFollowsTheAuthorities(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		before := w.fill(t, 250)
		f := follow.New(d, w.ca, w.store)
		w.sequence(t)
		tick(t, f)
		if n := w.count(t, "source:ca ca:no"); n != 250 {
			t.Errorf("%d of 250 certificates from before", n)
		}
		if n := w.count(t, "source:ca ca:yes"); n != 2 {
			t.Errorf("%d of 2 authorities", n)
		}
		after := w.fill(t, 30)
		_, err := w.ca.Revoke(context.Background(), ca.Revocation{CertificateID: before[7], Reason: pki.Superseded, Actor: "test"})
		check(t, err)
		w.sequence(t)
		tick(t, f)
		if n := w.count(t, "source:ca ca:no"); n != 280 {
			t.Errorf("%d of 280 certificates", n)
		}
		for _, id := range []string{before[0], before[249], after[29]} {
			got, err := w.store.Get(context.Background(), id)
			if err != nil || got.Status != inventory.Active || len(got.Names) != 1 {
				t.Errorf("%s: %+v %v", id, got.Certificate, err)
			}
		}
		if got, err := w.store.Get(context.Background(), before[7]); err != nil || got.Status != inventory.Revoked || got.RevokedAt.IsZero() {
			t.Errorf("the revoked one: %+v %v", got.Certificate, err)
		}
	})
}

// Several processes follow, each is cut off again and again, and every
// certificate is in the inventory once.
func TestFollowersTakeOverFromEachOther(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.fill(t, 150)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 3 {
			f := follow.New(d, w.ca, w.store)
			f.SetLease(time.Duration(i+1) * 100 * time.Millisecond)
			wg.Go(func() {
				for n := 1; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					// Cut off after a time that grows: every step is the last one once.
					ctx, cancel := context.WithTimeout(context.Background(), time.Duration(n*(i+1)*3)*time.Millisecond)
					_, _ = f.Tick(ctx)
					cancel()
				}
			})
		}
		for range 5 {
			w.fill(t, 60)
			w.sequence(t)
		}
		again := time.NewTicker(20 * time.Millisecond)
		defer again.Stop()
		for begin := time.Now(); w.count(t, "source:ca ca:no") < 450 && time.Since(begin) < time.Minute; <-again.C {
		}
		close(stop)
		wg.Wait()
		if n := w.count(t, "source:ca ca:no"); n != 450 {
			t.Errorf("%d of 450", n)
		}
		page, err := w.store.List(context.Background(), inventory.Query{Limit: 1000})
		check(t, err)
		if len(page.Certificates) != 452 {
			t.Errorf("the list has %d", len(page.Certificates))
		}
	})
}
