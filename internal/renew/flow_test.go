package renew_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/issuer"
	"chancery/internal/limit"
	"chancery/internal/renew"
)

// driven is a lease that a clock which is driven on does not end at once.
const driven = 24 * time.Hour

// drive moves the clock on, step by step, until ok holds.
func (w *world) drive(t *testing.T, c *clock, step, most time.Duration, ref, what string, ok func(m renew.Managed) bool) renew.Managed {
	t.Helper()
	for begin := c.now(); c.now().Sub(begin) < most; {
		m, err := renew.Get(context.Background(), w.db.Read(), ref)
		must(t, err)
		if ok(m) {
			return m
		}
		c.ahead.Add(int64(step))
		w.engine.Wake()
		time.Sleep(25 * time.Millisecond)
	}
	m, err := renew.Get(context.Background(), w.db.Read(), ref)
	must(t, err)
	events, err := renew.Events(context.Background(), w.db.Read(), m.ID, 20)
	must(t, err)
	t.Fatalf("%s: not %s within %s: %+v\n%+v", ref, what, most, m, events)
	return m
}

func rules(t *testing.T, w *world, m *renew.Managed) string {
	t.Helper()
	events, err := renew.Events(context.Background(), w.db.Read(), m.ID, 60)
	must(t, err)
	var out []string
	for i := range events {
		out = append(out, events[len(events)-1-i].Rule)
	}
	return strings.Join(out, " ")
}

func isIdle(m renew.Managed) bool { return m.State == renew.Idle && m.LiveID != "" }

// While its CA is down, a certificate comes from the fallback; the CA is left
// alone but for probes, and has its queue back when it works again.
func TestOutageAndFallback(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		w := newWorld(t, d, t.TempDir(), 24*time.Hour)
		first, second := &flaky{Issuer: w.own}, &flaky{Issuer: w.own}
		first.set(&issuer.Error{Class: issuer.Unavailable, Err: errors.New("connection refused")})
		c := newClock()
		w.start(t, renew.Config{Now: c.now, Lease: driven, Issuers: map[string]*renew.Issuer{
			"first": {Issuer: first, Fallbacks: []string{"second"}}, "second": {Issuer: second}}})
		for i := range 12 {
			_, err := w.engine.Create(ctx, renew.Spec{Names: names(t, fmt.Sprintf("n%d.example.test", i)), Issuer: "first"}, "test")
			must(t, err)
		}
		m := w.drive(t, c, time.Minute, 3*time.Hour, "n0.example.test", "served by the fallback", isIdle)
		if m.IssuedBy != "second" || m.Issuer != "first" {
			t.Errorf("issued by %s, wanted from %s", m.IssuedBy, m.Issuer)
		}
		if got := rules(t, w, &m); !strings.Contains(got, "fallback order issued") {
			t.Errorf("its decisions are %s", got)
		}
		for i := range 12 {
			w.drive(t, c, time.Minute, 3*time.Hour, fmt.Sprintf("n%d.example.test", i), "served by the fallback", isIdle)
		}
		lanes, err := w.engine.Lanes(ctx)
		must(t, err)
		if l := lanes[0]; l.Name != "first" || l.Breaker == "closed" {
			t.Errorf("the breaker of the CA that is down is %+v", l)
		}
		if calls, _ := first.count(); calls > 60 {
			t.Errorf("a CA that is down got %d calls", calls)
		}
		first.set(nil)
		_, err = w.engine.Create(ctx, renew.Spec{Name: "later", Names: names(t, "later.example.test"), Issuer: "first"}, "test")
		must(t, err)
		if m := w.drive(t, c, 10*time.Second, 3*time.Hour, "later", "issued", isIdle); m.IssuedBy == "" {
			t.Error("nobody issued it")
		}
	})
}

// Failed validations wait longer each time; then a rehearsal at staging comes
// first, and only one that goes well lets the CA be asked again.
func TestValidationLadderAndRehearsal(t *testing.T) {
	w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), t.TempDir(), 24*time.Hour)
	prod, staging := &flaky{Issuer: w.own}, &flaky{Issuer: w.own}
	no := &issuer.Error{Class: issuer.Validation, Identifier: "bad.example.test", Err: errors.New("no TXT record")}
	prod.set(no)
	staging.set(nil, no)
	c := newClock()
	w.start(t, renew.Config{Now: c.now, Lease: driven, Issuers: map[string]*renew.Issuer{"prod": {Issuer: prod, Staging: "staging"}, "staging": {Issuer: staging}}})
	_, err := w.engine.Create(context.Background(), renew.Spec{Name: "bad", Names: names(t, "bad.example.test"), Issuer: "prod"}, "test")
	must(t, err)
	w.drive(t, c, 5*time.Minute, 100*time.Hour, "bad", "failed three times", func(m renew.Managed) bool { return m.Attempts >= 3 })
	if calls, _ := prod.count(); calls != 3 {
		t.Errorf("%d calls before the rehearsal", calls)
	}
	prod.set(nil)
	m := w.drive(t, c, 5*time.Minute, 100*time.Hour, "bad", "issued", isIdle)
	if got := rules(t, w, &m); !strings.HasSuffix(got, "order retry order rehearsal order issued") {
		t.Errorf("its decisions are %s", got)
	}
	if n, _ := prod.count(); n != 4 {
		t.Errorf("the CA was asked %d times", n)
	}
	if n, _ := staging.count(); n != 2 {
		t.Errorf("staging was asked %d times", n)
	}
	if m.IssuedBy != "prod" {
		t.Errorf("it serves a certificate of %s", m.IssuedBy)
	}
}

// wrongName returns certificates for other names, or of another key.
type wrong struct {
	issuer.Issuer
	w   *world
	key bool
}

func (x wrong) Issue(ctx context.Context, r *issuer.Request) (issuer.Reply, error) {
	o, err := x.w.otherRequest(r, x.key)
	if err != nil {
		return issuer.Reply{}, err
	}
	return x.Issuer.Issue(ctx, o)
}

// A certificate that does not fit key and names is never used.
func TestMismatchIsNeverDeployed(t *testing.T) {
	for _, key := range []bool{true, false} {
		w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), t.TempDir(), 24*time.Hour)
		f := &folder{dir: t.TempDir()}
		w.start(t, renew.Config{Issuers: map[string]*renew.Issuer{"own": {Issuer: wrong{w.own, w, key}}}, Targets: map[string]*renew.Place{"folder": {Run: f.run}}})
		_, err := w.engine.Create(context.Background(), renew.Spec{Name: "x", Names: names(t, "x.example.test"),
			Targets: []renew.Target{{Name: "folder", Params: map[string]string{"site": "x"}}}}, "test")
		must(t, err)
		m := w.until(t, "x", "stopped", func(m renew.Managed) bool { return m.State == renew.Stopped })
		if m.ErrorClass != issuer.Mismatch || m.LiveID != "" || m.CertificateID != "" || len(f.sizes()) != 0 {
			t.Errorf("key %v: %+v, %v", key, m, f.sizes())
		}
		if n := w.journal(t, "managed.stop"); n != 1 {
			t.Errorf("%d journal entries call for a person", n)
		}
	}
}

// A CA that asks for patience stops the account, not one certificate; when it
// wakes, its queue does not come at once.
func TestThrottleMakesTheAccountSleep(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), t.TempDir(), 24*time.Hour)
	f := &flaky{Issuer: w.own}
	f.set(nil, &issuer.Error{Class: issuer.Throttled, RetryAfter: 10 * time.Minute, Err: errors.New("429")})
	c := newClock()
	w.start(t, renew.Config{Now: c.now, Lease: driven, Issuers: map[string]*renew.Issuer{"own": {Issuer: f, Workers: 1}}})
	for i := range 5 {
		_, err := w.engine.Create(ctx, renew.Spec{Name: fmt.Sprint("n", i), Names: names(t, fmt.Sprintf("n%d.example.test", i))}, "test")
		must(t, err)
	}
	w.untilLane(t, "own", func(l renew.LaneView) bool { return !l.SleepUntil.IsZero() })
	c.set(5 * time.Minute)
	w.engine.Wake()
	time.Sleep(100 * time.Millisecond)
	if calls, _ := f.count(); calls != 1 {
		t.Errorf("%d calls while it sleeps", calls)
	}
	for i := range 5 {
		m := w.drive(t, c, time.Minute, time.Hour, fmt.Sprint("n", i), "issued", isIdle)
		if m.Attempts != 0 {
			t.Errorf("%s was blamed", m.Name)
		}
	}
}

// The cap of a CA holds in the whole fleet, and is used; so does its budget.
func TestCapsHoldWithThreeReplicas(t *testing.T) {
	const certificates, budget, workers = 400, 320, 80
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		w := newWorld(t, d, t.TempDir(), 24*time.Hour)
		slow := &flaky{Issuer: sleepy{w.own, 250 * time.Millisecond}}
		config := func() renew.Config {
			return renew.Config{Issuers: map[string]*renew.Issuer{"own": {Issuer: slow, Workers: workers,
				Budgets: []renew.Budget{{Name: "orders", Scope: limit.PerAccount, Rate: limit.Rate{Count: budget, Per: 24 * time.Hour}}}}}}
		}
		w.engine = w.open(config())
		specs := make([]renew.Spec, certificates)
		for i := range specs {
			specs[i] = renew.Spec{Names: names(t, fmt.Sprintf("n%d.example.test", i)), Issuer: "own"}
		}
		must(t, w.engine.CreateMany(ctx, specs, "test"))
		for range 3 {
			run(t, w.open(config()))
		}
		w.untilLane(t, "own", func(l renew.LaneView) bool {
			calls, _ := slow.count()
			return calls >= budget && l.InFlight == 0
		})
		calls, most := slow.count()
		t.Logf("%d calls, %d at once", calls, most)
		if calls != budget || most > workers {
			t.Errorf("%d calls, %d at once; the budget is %d and the cap %d", calls, most, budget, workers)
		}
		if most <= workers*3/4 {
			t.Errorf("%d at once: the cap of %d was never near", most, workers)
		}
		w.mustHold(t)
	})
}

// sleepy takes its time.
type sleepy struct {
	issuer.Issuer
	takes time.Duration
}

func (s sleepy) Issue(ctx context.Context, r *issuer.Request) (issuer.Reply, error) {
	time.Sleep(s.takes)
	return s.Issuer.Issue(ctx, r)
}

// What many certificates need of one target is one batch; one that is refused
// is tried again and keeps nobody else back.
func TestDeploymentsAreBatched(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		w := newWorld(t, d, t.TempDir(), 24*time.Hour)
		f := &folder{dir: t.TempDir()}
		f.set("n3", errors.New("nginx: configuration test failed"))
		c := newClock()
		w.start(t, renew.Config{Now: c.now, Lease: driven, Targets: map[string]*renew.Place{"folder": {Run: f.run, Collect: 15 * time.Minute}}})
		const n = 20
		for i := range n {
			site := fmt.Sprint("n", i)
			_, err := w.engine.Create(ctx, renew.Spec{Name: site, Names: names(t, site+".example.test"), Endpoints: []string{site + ".example.test:443"},
				Targets: []renew.Target{{Name: "folder", Params: map[string]string{"site": site}}}}, "test")
			must(t, err)
		}
		for i := range n {
			w.until(t, fmt.Sprint("n", i), "deploying", func(m renew.Managed) bool { return m.State == renew.Deploying })
		}
		if got := f.sizes(); len(got) != 0 {
			t.Errorf("deployed before the time of collecting: %v", got)
		}
		c.set(15 * time.Minute)
		w.engine.Wake()
		for i := range n {
			if i != 3 {
				w.until(t, fmt.Sprint("n", i), "idle", isIdle)
			}
		}
		if got := f.sizes(); len(got) != 1 || got[0] != n {
			t.Errorf("batches of %v, want one of %d", got, n)
		}
		bad, err := renew.Get(ctx, d.Read(), "n3")
		must(t, err)
		p, err := renew.Placements(ctx, d.Read(), bad.ID)
		must(t, err)
		if bad.State != renew.Deploying || p[0].Live() || !strings.Contains(p[0].Error, "configuration test failed") || p[0].Detail != "tested n3" {
			t.Errorf("%+v %+v", bad, p)
		}
		w.matrix(t, n, bad.ID)
		f.set("n3", nil)
		m := w.drive(t, c, time.Minute, 2*time.Hour, "n3", "idle", isIdle)
		batches, err := renew.Batches(ctx, d.Read(), "folder", "", 10)
		must(t, err)
		if len(batches) < 2 || batches[0].Items != 1 || batches[0].Live != 1 || batches[0].Error != "" {
			t.Errorf("%+v", batches)
		}
		if failing, err := renew.Deployments(ctx, d.Read(), renew.DeployedQuery{Failing: true, Limit: 10}); err != nil || len(failing) != 0 {
			t.Errorf("%+v %v", failing, err)
		}
		c.set(32 * 24 * time.Hour)
		_, err = w.engine.Tidy(ctx)
		must(t, err)
		if batches, err := renew.Batches(ctx, d.Read(), "", "", 10); err != nil || len(batches) != 0 {
			t.Errorf("a month later: %+v %v", batches, err)
		}
		served, err := os.ReadFile(filepath.Join(f.dir, "n3"))
		must(t, err)
		if leaf := w.leaf(t, &m); string(leaf.Raw) != string(served) {
			t.Error("the target serves another certificate")
		}
		drift, err := w.engine.Drift(ctx, "", 100)
		must(t, err)
		if len(drift.Endpoints) != n {
			t.Errorf("%d endpoints are not yet seen to serve what they should, want %d", len(drift.Endpoints), n)
		}
	})
}

// matrix checks what is told after one batch of n of which one was refused: what
// is where, page by page, and the batch.
func (w *world) matrix(t *testing.T, n int, bad string) {
	t.Helper()
	ctx := context.Background()
	batches, err := renew.Batches(ctx, w.db.Read(), "", "", 10)
	must(t, err)
	if len(batches) != 1 || batches[0].Target != "folder" || batches[0].Items != n || batches[0].Live != n-1 ||
		!strings.Contains(batches[0].Error, "configuration test failed") || batches[0].Detail != "tested n3" {
		t.Fatalf("%+v", batches)
	}
	for _, target := range []string{"", "folder"} {
		after, live := "", 0
		for pages := 0; ; pages++ {
			page, err := renew.Deployments(ctx, w.db.Read(), renew.DeployedQuery{Target: target, After: after, Limit: 7})
			must(t, err)
			for _, d := range page {
				if d.Name == "" || len(d.Placements) != 1 || d.Placements[0].BatchID != batches[0].ID || d.Placements[0].Live() == (d.ID == bad) || d.ID <= after {
					t.Errorf("%+v", d)
				}
				after, live = d.ID, live+1
			}
			if len(page) < 7 {
				break
			}
		}
		if live != n {
			t.Errorf("%d certificates are at %q, want %d", live, target, n)
		}
	}
	for _, q := range []renew.DeployedQuery{{Failing: true, Limit: 10}, {Failing: true, Target: "folder", Limit: 10}} {
		if failing, err := renew.Deployments(ctx, w.db.Read(), q); err != nil || len(failing) != 1 || failing[0].ID != bad {
			t.Errorf("%+v: %+v %v", q, failing, err)
		}
	}
	if none, err := renew.Deployments(ctx, w.db.Read(), renew.DeployedQuery{Target: "other", Limit: 10}); err != nil || len(none) != 0 {
		t.Errorf("%+v %v", none, err)
	}
	if none, err := renew.Batches(ctx, w.db.Read(), "other", "", 10); err != nil || len(none) != 0 {
		t.Errorf("%+v %v", none, err)
	}
}

// A target that goes on failing is in the journal, again and again, and so is
// the end of it: alerts are made of both.
func TestFailingTargetIsInTheJournal(t *testing.T) {
	w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), t.TempDir(), 24*time.Hour)
	f := &folder{dir: t.TempDir()}
	f.set("x", errors.New("no space left"))
	c := newClock()
	w.start(t, renew.Config{Now: c.now, Lease: driven, Targets: map[string]*renew.Place{"folder": {Run: f.run}}})
	_, err := w.engine.Create(context.Background(), renew.Spec{Name: "x", Names: names(t, "x.example.test"),
		Targets: []renew.Target{{Name: "folder", Params: map[string]string{"site": "x"}}}}, "test")
	must(t, err)
	for n := 1; n <= 2; n++ {
		w.drive(t, c, time.Minute, 40*time.Hour, "x", "told", func(renew.Managed) bool { return w.journal(t, "managed.deploy_failed") == n })
		if got := len(f.sizes()); got != 3*n {
			t.Errorf("told the %d. time after %d failures", n, got)
		}
	}
	f.set("x", nil)
	w.drive(t, c, time.Minute, 40*time.Hour, "x", "idle", isIdle)
	if n := w.journal(t, "managed.deploy_recovered"); n != 1 {
		t.Errorf("%d entries say that it is over", n)
	}
}

// Two replicas never give one target two batches at once, and a person's wish
// does not wait for the time of collecting.
func TestOneBatchAtATime(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, dbtest.Open(t, dbtest.PostgresURL(t)), t.TempDir(), 24*time.Hour)
	x := &exclusive{folder: folder{dir: t.TempDir()}}
	config := func() renew.Config {
		return renew.Config{Targets: map[string]*renew.Place{"folder": {Run: func(ctx context.Context, items []deployItem) []deployOutcome { return x.enter(ctx, items) }, MaxBatch: 3}}}
	}
	w.engine = w.open(config())
	for range 3 {
		run(t, w.open(config()))
	}
	for i := range 12 {
		site := fmt.Sprint("n", i)
		_, err := w.engine.Create(ctx, renew.Spec{Name: site, Names: names(t, site+".example.test"),
			Targets: []renew.Target{{Name: "folder", Params: map[string]string{"site": site}}}}, "test")
		must(t, err)
	}
	for i := range 12 {
		w.until(t, fmt.Sprint("n", i), "idle", isIdle)
	}
	if x.most != 1 {
		t.Errorf("%d batches at once", x.most)
	}
}

// exclusive counts how many are inside.
type exclusive struct {
	folder
	gate      sync.Mutex
	now, most int
}

func (x *exclusive) enter(ctx context.Context, items []deployItem) []deployOutcome {
	x.gate.Lock()
	x.now++
	x.most = max(x.most, x.now)
	x.gate.Unlock()
	time.Sleep(20 * time.Millisecond)
	out := x.run(ctx, items)
	x.gate.Lock()
	x.now--
	x.gate.Unlock()
	return out
}

// What a person may do to a certificate, and what becomes of it.
func TestPauseResumeRenewUpdateRemove(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), t.TempDir(), 24*time.Hour)
	f := &folder{dir: t.TempDir()}
	w.start(t, renew.Config{Targets: map[string]*renew.Place{"folder": {Run: f.run, Collect: time.Hour}}})
	spec := renew.Spec{Name: "p", Names: names(t, "p.example.test"), KeyPolicy: renew.ReuseKey}
	_, err := w.engine.Create(ctx, spec, "test")
	must(t, err)
	if _, err := w.engine.Create(ctx, spec, "test"); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("the same name again: %v", err)
	}
	m := w.until(t, "p", "idle", isIdle)
	first := w.leaf(t, &m)
	_, err = w.engine.Pause(ctx, "p", "test")
	must(t, err)
	if _, err := w.engine.RenewNow(ctx, "p", "test"); err == nil {
		t.Error("a paused certificate was renewed")
	}
	_, err = w.engine.Resume(ctx, "p", "test")
	must(t, err)
	if _, err := w.engine.Resume(ctx, "p", "test"); err == nil {
		t.Error("it was resumed twice")
	}
	spec.Names = names(t, "p.example.test", "q.example.test")
	spec.Targets = []renew.Target{{Name: "folder", Params: map[string]string{"site": "p"}}}
	f.mu.Lock()
	_, err = w.engine.Update(ctx, "p", spec, "test")
	must(t, err)
	w.until(t, "p", "taken", func(m renew.Managed) bool {
		ps, err := renew.Placements(ctx, w.db.Read(), m.ID)
		must(t, err)
		return len(ps) == 1 && ps[0].DueAt.After(time.Now())
	})
	_, err = w.engine.RenewNow(ctx, "p", "test") // deploys what is there, at once; which is what happens
	must(t, err)
	f.mu.Unlock()
	w.until(t, "p", "deployed", func(m renew.Managed) bool { return m.State == renew.Idle && len(f.sizes()) == 1 })
	_, err = w.engine.RenewNow(ctx, "p", "test")
	must(t, err)
	m = w.until(t, "p", "renewed", func(n renew.Managed) bool { return isIdle(n) && n.LiveID != m.LiveID })
	second := w.leaf(t, &m)
	if len(second.DNSNames) != 2 || string(first.RawSubjectPublicKeyInfo) != string(second.RawSubjectPublicKeyInfo) {
		t.Errorf("names %v, or another key", second.DNSNames)
	}
	spec.Endpoints = []string{"p.example.test:443"}
	for _, want := range []int{1, 0} {
		_, err = w.engine.Update(ctx, "p", spec, "test")
		must(t, err)
		drift, err := w.engine.Drift(ctx, "", 10)
		must(t, err)
		if len(drift.Endpoints) != want {
			t.Errorf("%d endpoints drift, want %d", len(drift.Endpoints), want)
		}
		spec.Endpoints = nil
	}
	must(t, w.engine.Remove(ctx, "p", "test"))
	if _, err := renew.Get(ctx, w.db.Read(), "p"); err == nil {
		t.Error("it is still there")
	}
	if _, err := w.inventory.Get(ctx, m.CertificateID); err != nil {
		t.Errorf("the inventory forgot the certificate: %v", err)
	}
}

// A certificate of the inventory is adopted: it renews when its life says so.
func TestAdopt(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), t.TempDir(), 24*time.Hour)
	c := newClock()
	w.start(t, renew.Config{Now: c.now})
	_, err := w.engine.Create(ctx, renew.Spec{Name: "old", Names: names(t, "old.example.test"), Owner: "team a"}, "test")
	must(t, err)
	old := w.until(t, "old", "idle", isIdle)
	must(t, w.engine.Remove(ctx, "old", "test"))

	m, err := w.engine.Adopt(ctx, old.CertificateID, renew.Spec{Issuer: "own"}, "test")
	must(t, err)
	if _, err := w.engine.Adopt(ctx, old.CertificateID, renew.Spec{Name: "twice", Issuer: "own"}, "test"); !fault.Is(err, fault.Conflict) {
		t.Errorf("adopted twice: %v", err)
	}
	if m.State != renew.Idle || m.Owner != "team a" || m.Name != "old.example.test" || !m.NotAfter.Equal(old.NotAfter) || m.RenewAt.IsZero() {
		t.Fatalf("%+v", m)
	}
	c.set(time.Until(m.RenewAt) + time.Minute)
	w.engine.Wake()
	m = w.until(t, m.ID, "renewed", isIdle)
	now, err := w.inventory.Get(ctx, old.CertificateID)
	must(t, err)
	if now.SuccessorID != m.CertificateID {
		t.Errorf("%+v", now)
	}
}
