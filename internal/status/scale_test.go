package status

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"chancery/internal/ca"
	"chancery/internal/ca/catest"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/pki"
)

// scale is how many certificates the tests of this file work with. The bars of
// docs/design/revocation.md are stated for a million:
//
//	CHANCERY_SERIALS=1000000 go test ./internal/status -run TestScale -v
func scale(t *testing.T) int {
	if text := os.Getenv("CHANCERY_SERIALS"); text != "" {
		n, err := strconv.Atoi(text)
		must(t, err)
		return n
	}
	return 3000
}

// measured is the scale from which on the bars count. Below, fixed costs and
// the race detector say more than the code does.
const measured = 500_000

// cpu returns the processor time that this process has used.
func cpu(t *testing.T) time.Duration {
	var u syscall.Rusage
	must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// used runs f and returns the processor time and the time that it took.
func used(t *testing.T, f func()) (busy, took time.Duration) {
	t.Helper()
	start, before := time.Now(), cpu(t)
	f()
	return cpu(t) - before, time.Since(start)
}

// fill adds n certificates to the database that no service has heard of.
func (w *world) fill(spec catest.Spec) (ids []string, serials []pki.Serial) {
	w.t.Helper()
	spec.Authority, spec.URLs = w.issuing, w.ca.URLs()
	ids, serials, err := catest.Fill(w.t.Context(), w.db, spec)
	must(w.t, err)
	return ids, serials
}

// TestScale loads and signs everything, and holds it to its bars.
func TestScale(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		n := scale(t)
		if n >= measured && d.Engine() == db.Postgres && os.Getenv("CHANCERY_SERIALS_POSTGRES") == "" {
			t.Skip("a million rows on one engine are enough; set CHANCERY_SERIALS_POSTGRES for the other")
		}
		w := newWorld(t, d)
		busy, took := used(t, func() { w.fill(catest.Spec{N: n}) })
		t.Logf("seeded %d certificates in %.1f s (CPU %.1f s)", n, took.Seconds(), busy.Seconds())

		late := w.replica(Config{})
		before := heap()
		busy, took = used(t, func() { late.catchUp() })
		t.Logf("loaded in %.2f s (CPU %.2f s)", took.Seconds(), busy.Seconds())
		if got := late.Serials(); got < n {
			t.Fatalf("%d serials, want %d", got, n)
		}
		if per := busy / time.Duration(n); n >= measured && per > 10*time.Microsecond {
			t.Errorf("%s of CPU per serial to load", per)
		}
		_, err := late.renewResponders(t.Context())
		must(t, err)
		signed := 0
		busy, took = used(t, func() {
			for more := true; more; {
				c, err := late.presign(t.Context())
				must(t, err)
				signed, more = signed+c.Done, c.More
			}
		})
		if signed < n {
			t.Fatalf("%d signed, want %d", signed, n)
		}
		t.Logf("signed in %.1f s (CPU %.1f s, %.1f µs each)", took.Seconds(), busy.Seconds(), busy.Seconds()*1e6/float64(n))
		if per := busy / time.Duration(n); n >= measured && per > 40*time.Microsecond {
			t.Errorf("%s of CPU per answer", per)
		}
		per := float64(heap()-before) / float64(n)
		t.Logf("%.1f bytes per serial", per)
		if n >= measured && per > 150 {
			t.Errorf("%.1f bytes per serial, the bar is 150", per)
		}
		busy, _ = used(t, func() {
			_, err := late.presign(t.Context())
			must(t, err)
		})
		t.Logf("a tick that finds nothing to sign: CPU %s", busy)
		runtime.KeepAlive(late)
	})
}

// TestScaleCRL: one shard that lists everything.
func TestScaleCRL(t *testing.T) {
	n := scale(t)
	w := newWorld(t, sqlite(t))
	w.fill(catest.Spec{N: n, Revoked: true})
	before := heap()
	late := w.replica(Config{})
	late.catchUp()
	b := late.book(w.issuing.ID)
	c := b.crls[0]
	table := heap() - before
	busy, took := used(t, late.tickCRLs)
	t.Logf("first list of %d entries published in %.2f s (CPU %.2f s)", n, took.Seconds(), busy.Seconds())
	var next *candidate
	busy, took = used(t, func() {
		var err error
		next, err = late.build(t.Context(), b, c, b.auth.Load(), time.Now())
		must(t, err)
	})
	t.Logf("next list, %d bytes, built in %.3f s (CPU %.3f s)", len(next.next.der), took.Seconds(), busy.Seconds())
	if n >= measured && busy > 250*time.Millisecond {
		t.Errorf("CPU %s, the bar is 0.25 s", busy)
	}
	peak := int64(heap()-before-table) >> 20
	t.Logf("table %d MB with the entries; the published list and the next one: %d MB more", table>>20, peak)
	if total := int64(cap(c.entries)>>20) + peak; n >= measured && total > 250 {
		t.Errorf("%d MB for entries and lists, the bar is 250", total)
	}
	runtime.KeepAlive(next)

	// A shard that is touched is published within seconds.
	one, leaf := late.issue(true)
	w.catchUp() // places the entry of the journal
	r, err := w.ca.Revoke(t.Context(), ca.Revocation{CertificateID: one.ID, Reason: pki.KeyCompromise, Actor: "test"})
	must(t, err)
	start := time.Now()
	must(t, late.Revoked(t.Context(), r))
	late.tickCRLs()
	t.Logf("republished in %.2f s", time.Since(start).Seconds())
	if time.Since(start) > 5*time.Second {
		t.Errorf("republished after %s", time.Since(start))
	}
	if got := late.ask(leaf); got.Status != ocsp.Revoked {
		t.Errorf("%+v", got)
	}
	on := newEntrySet(crlEntries(c.published.Load().der))
	if on.find(pki.CRLEntry(one.Serial, r.RevokedAt, r.Reason)) == nil {
		t.Error("the revoked certificate is not listed")
	}
}

// TestLoadReadsOneIndex: a start reads no certificate, only the index that has
// all that a status needs.
func TestLoadReadsOneIndex(t *testing.T) {
	d := sqlite(t)
	plan, err := d.Explain(t.Context(), qLoad)
	must(t, err)
	if want := "USING COVERING INDEX certificate_status"; !strings.Contains(plan, want) {
		t.Errorf("the plan is not %q: %s", want, plan)
	}
}
