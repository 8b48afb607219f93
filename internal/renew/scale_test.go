package renew_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/issuer"
	"chancery/internal/pki"
	"chancery/internal/renew"
)

// size is short, or full when tests run at the size that is promised, which takes
// minutes: CHANCERY_FULL_SIZE=1. Another number is a size between the two.
func size(t *testing.T, short, full int) int {
	t.Helper()
	text := os.Getenv("CHANCERY_FULL_SIZE")
	if text == "" {
		return short
	}
	n, err := strconv.Atoi(text)
	must(t, err)
	if n == 1 {
		return full
	}
	return min(max(n, short), full)
}

// flipped is an issuer that moves every window into the past at an instant, as a
// CA does before it revokes, and has the rest of the day for its answers.
type flipped struct {
	issuer.Issuer
	since time.Time // when the windows were moved

	mu      sync.Mutex
	on      bool
	fresh   map[[32]byte]bool // certificates from after that
	renewed map[string]int    // by name
	busy    int
	most    int // at once
}

// RenewalInfo implements issuer.Informer.
func (f *flipped) RenewalInfo(ctx context.Context, leaf *x509.Certificate) (issuer.RenewalInfo, error) {
	f.mu.Lock()
	on := f.on && !f.fresh[pki.Fingerprint(leaf.Raw)]
	f.mu.Unlock()
	if on {
		return issuer.RenewalInfo{Start: f.since.Add(-2 * time.Hour), End: f.since.Add(-time.Hour), Explanation: "https://ca.test/why", RetryAfter: time.Now().Add(time.Hour)}, nil
	}
	return f.Issuer.(issuer.Informer).RenewalInfo(ctx, leaf)
}

// Issue implements issuer.Issuer.
func (f *flipped) Issue(ctx context.Context, r *issuer.Request) (issuer.Reply, error) {
	f.mu.Lock()
	f.busy++
	f.most = max(f.most, f.busy)
	f.mu.Unlock()
	reply, err := f.Issuer.Issue(ctx, r)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.busy--
	if f.on && err == nil {
		f.fresh[pki.Fingerprint(reply.Chain[0])] = true
		name := ""
		for _, id := range r.Identifiers {
			name += id.Value + " "
		}
		if r.Replaces != nil {
			f.renewed[name]++
		}
	}
	return reply, err
}

// The windows of all certificates are moved into the past: each is replaced
// once, for the same names and as its CA's successor, never more at once than
// the CA takes, and people are told once, with the reason.
func TestFlippedWindows(t *testing.T) {
	n, workers := size(t, 300, 100_000), 16
	if n > 1000 {
		workers = 256 // an issuance waits for commits that it shares with the others
	}
	ctx := context.Background()
	w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), t.TempDir(), 45*24*time.Hour)
	f := &flipped{Issuer: w.own, since: time.Now(), renewed: map[string]int{}, fresh: map[[32]byte]bool{}}
	w.engine = w.open(renew.Config{Issuers: map[string]*renew.Issuer{"own": {Issuer: f, Workers: workers}}})
	var specs []renew.Spec
	for i := range n {
		specs = append(specs, renew.Spec{Names: names(t, fmt.Sprintf("n%d.example.test", i), fmt.Sprintf("www.n%d.example.test", i)), Issuer: "own"})
	}
	must(t, w.engine.CreateMany(ctx, specs, "test"))
	stop := run(t, w.engine)
	first := w.drained(t, n, 0)
	stop()

	f.mu.Lock()
	f.on, f.since, f.most = true, time.Now(), 0
	f.mu.Unlock()
	w.engine = w.open(renew.Config{Issuers: map[string]*renew.Issuer{"own": {Issuer: f, Workers: workers}}, CheckWorkers: 64})
	run(t, w.engine)
	begin := time.Now()
	for moved := 0; moved < n; { // a bounded number of rows each
		k, err := w.engine.AskSoon(ctx, "own", time.Second)
		must(t, err)
		if k == 0 {
			break
		}
		moved += k
	}
	second := w.drained(t, n, len(first))
	took := time.Since(begin)
	t.Logf("%d certificates replaced in %s, %.0f/s", n, took.Round(time.Millisecond), float64(n)/took.Seconds())

	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.renewed) != n {
		t.Errorf("%d of %d name sets were renewed as successors", len(f.renewed), n)
	}
	for name, k := range f.renewed {
		if k != 1 {
			t.Fatalf("%s was renewed %d times", name, k)
		}
	}
	if f.most > workers {
		t.Errorf("%d at once; the CA takes %d", f.most, workers)
	}
	for id, live := range second {
		if first[id] == live {
			t.Fatalf("%s was not renewed", id)
		}
	}
	told, err := db.Get(ctx, w.db.Read(), qTold, (*db.Row).Int64)
	must(t, err)
	if told != 1 {
		t.Errorf("people are told %d times", told)
	}
}

var qLive = db.SQL("renewtest.list_live", `SELECT id, live_id, explanation FROM managed WHERE state = 'idle' AND live_id IS NOT NULL`, db.Scan("test only"))

// drained waits until n certificates are idle, and returns which issuance is
// live of each. With after > 0 that must be another one than the first.
func (w *world) drained(t *testing.T, n, after int) map[string]string {
	t.Helper()
	var done int64
	look := time.Duration(max(n/100, 100)) * time.Millisecond // counting takes its time, too
	for deadline := time.Now().Add(time.Duration(30+n/50) * time.Second); ; time.Sleep(look) {
		lanes, err := w.engine.Lanes(context.Background())
		must(t, err)
		count, err := db.Get(context.Background(), w.db.Read(), qIssuedCount, (*db.Row).Int64)
		must(t, err)
		if done = count; int(count) >= n+after && lanes[0].Waiting == 0 && lanes[0].InFlight == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d certificates; %+v", done, n+after, lanes)
		}
	}
	out := map[string]string{}
	must(t, w.db.Read().All(context.Background(), qLive, func(r *db.Row) error {
		id, live := r.Text(), r.Text()
		out[id] = live
		return nil
	}))
	if len(out) != n {
		t.Fatalf("%d of %d certificates are idle", len(out), n)
	}
	return out
}

var qTold = db.SQL("renewtest.count_hurry", `SELECT count(*) FROM journal WHERE kind = 'managed.hurry'`, db.Scan("test only"))

var qIssuedCount = db.SQL("renewtest.count_issued", `SELECT count(*) FROM operator_issue`, db.Scan("test only"))

// After an outage the queue of a CA comes back as a level stream: once the ramp
// is over, no second has half as much again as the mean.
func TestNoHerdAfterAnOutage(t *testing.T) {
	n, workers := size(t, 500, 5200), 8
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		d := dbtest.Open(t, dbtest.SQLiteURL(t))
		defer d.Close()
		w := newWorld(t, d, t.TempDir(), 45*24*time.Hour)
		up := time.Now().Add(10 * time.Minute)
		var mu sync.Mutex
		var at []time.Time
		ca := issuerFunc(func(ctx context.Context, r *issuer.Request) (issuer.Reply, error) {
			if time.Now().Before(up) {
				return issuer.Reply{}, &issuer.Error{Class: issuer.Unavailable, Err: errors.New("503")}
			}
			time.Sleep(100 * time.Millisecond) // what an order takes
			mu.Lock()
			at = append(at, time.Now())
			mu.Unlock()
			return w.own.Issue(ctx, r)
		})
		config := renew.Config{Issuers: map[string]*renew.Issuer{"ca": {Issuer: ca, Workers: workers}, "own": {Issuer: w.own}}}
		stop := w.start(t, config)
		var specs []renew.Spec
		for i := range n {
			specs = append(specs, renew.Spec{Names: names(t, fmt.Sprintf("n%d.example.test", i)), Issuer: "ca"})
		}
		must(t, w.engine.CreateMany(ctx, specs, "test"))
		_, err := w.engine.Create(ctx, renew.Spec{Name: "elsewhere", Names: names(t, "elsewhere.example.test"), Issuer: "own"}, "test")
		must(t, err)
		time.Sleep(time.Minute)
		if m, err := renew.Get(ctx, d.Read(), "elsewhere"); err != nil || m.LiveID == "" {
			t.Errorf("another CA's certificate waits for one that is down: %+v %v", m.State, err)
		}
		for deadline := time.Now().Add(2 * time.Hour); ; time.Sleep(time.Second) {
			mu.Lock()
			done := len(at)
			mu.Unlock()
			if done >= n {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d after two hours", done, n)
			}
		}
		stop()
		slices.SortFunc(at, func(a, b time.Time) int { return a.Compare(b) })
		begin := at[len(at)/20] // the ramp is its own measure against a herd
		end := begin.Add(time.Minute)
		if last := at[len(at)-1].Add(-time.Second); end.After(last) {
			end = last
		}
		seconds := int(end.Sub(begin).Seconds())
		counts := make([]int, seconds)
		for _, x := range at {
			if s := int(x.Sub(begin) / time.Second); !x.Before(begin) && s < seconds {
				counts[s]++
			}
		}
		sum := 0
		for _, c := range counts {
			sum += c
		}
		mean := float64(sum) / float64(seconds)
		t.Logf("%d seconds, mean %.1f/s, most %d/s; the first second had %d", seconds, mean, slices.Max(counts), firstSecond(at))
		if float64(slices.Max(counts)) >= 1.5*mean {
			t.Errorf("a second has %d, the mean is %.1f: %v", slices.Max(counts), mean, counts)
		}
		if k := firstSecond(at); float64(k) > 1.5*mean {
			t.Errorf("the first second after the outage has %d", k)
		}
	})
}

// firstSecond is how many came within a second of the first.
func firstSecond(at []time.Time) (n int) {
	for _, x := range at {
		if x.Sub(at[0]) < time.Second {
			n++
		}
	}
	return n
}

// issuerFunc is a function as an issuer.
type issuerFunc func(ctx context.Context, r *issuer.Request) (issuer.Reply, error)

// Issue implements issuer.Issuer.
func (f issuerFunc) Issue(ctx context.Context, r *issuer.Request) (issuer.Reply, error) {
	return f(ctx, r)
}
