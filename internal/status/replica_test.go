package status

import (
	"context"
	"crypto"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chancery/internal/audit"
	"chancery/internal/ca"
	"chancery/internal/ca/catest"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/loop"
	"chancery/internal/pki"
)

// process is a replica with the loops of a whole program.
type process struct {
	*world
	stop context.CancelFunc
	done sync.WaitGroup
}

// boot starts another process on the database at url.
func (w *world) boot(url string) *process {
	w.t.Helper()
	d, err := db.Open(w.t.Context(), db.Config{URL: url})
	must(w.t, err)
	w.t.Cleanup(func() { d.Close() })
	other := *w
	other.db = d
	p := &process{world: other.replica(Config{})}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = func() { stop(); p.done.Wait() }
	w.t.Cleanup(p.stop)
	loops := append(p.Loops(),
		loop.Every{Name: "audit.sequence", Interval: 300 * time.Millisecond, Tick: func(ctx context.Context) (loop.Count, error) {
			n, err := audit.Sequence(ctx, d, 1000)
			return loop.Count{More: n == 1000}, err
		}},
		loop.Every{Name: "ca.incident", Interval: time.Second, Tick: func(ctx context.Context) (loop.Count, error) {
			n, err := p.ca.RunIncidents(ctx)
			if n.Done > 0 {
				p.Wake()
			}
			return n, err
		}})
	for _, l := range loops {
		p.done.Go(func() { _ = l.Run(ctx) })
	}
	return p
}

// statusOf asks as a client does, without the way through HTTP.
func (w *world) statusOf(serial pki.Serial) (pki.OCSPStatus, error) {
	sc := new(scratch)
	sc.raw = pki.EncodeOCSPRequest(w.hashes(), crypto.SHA1, nil, serial)
	if err := pki.ParseOCSPRequest(sc.raw, &sc.req); err != nil {
		return 0, err
	}
	a, err := w.answer(context.Background(), w.issuing.ID, sc)
	return a.status, err
}

// until polls until ok, and returns how long it took.
func until(t *testing.T, what string, limit time.Duration, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		if <-again.C; time.Since(start) > limit {
			t.Errorf("%s: not after %s", what, limit)
			return limit
		}
	}
	return time.Since(start)
}

func (p *process) revokedHere(serial pki.Serial) bool {
	s, err := p.statusOf(serial)
	return err == nil && s == pki.OCSPRevoked
}

var qRevokeForTest = db.SQL("status_test.revoke", `UPDATE certificate SET revoked_at = $2, revoked_reason = 4, revoked_by = 'test' WHERE id = $1`)

// revokeSlowly revokes in a transaction that stays open until release is
// closed; all its work, its place in the order of ids included, is done before.
func (w *world) revokeSlowly(id string, release <-chan struct{}) (begun, committed chan struct{}) {
	begun, committed = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(committed)
		err := w.db.Write(context.Background(), func(tx *db.Tx) error {
			now := time.Now()
			if err := audit.Append(tx, audit.Entry{At: now, Kind: "certificate.revoke", Actor: "test", Subject: "certificate:" + id, Data: map[string]string{"reason": "superseded"}}); err != nil {
				return err
			}
			if _, err := tx.Exec(context.Background(), qRevokeForTest, id, now.Truncate(time.Second)); err != nil {
				return err
			}
			close(begun)
			<-release
			return nil
		})
		if err != nil {
			w.t.Error(err)
		}
	}()
	return begun, committed
}

// TestEveryReplicaKnows: three processes on one PostgreSQL; certificates are
// revoked on each of them, one process stops and another starts in its place,
// and all the while a transaction that began before everything stays open.
func TestEveryReplicaKnows(t *testing.T) {
	url := dbtest.PostgresURL(t)
	w := newWorld(t, dbtest.Open(t, url), withShards(4))
	const each = 40
	ids, serials := w.fill(catest.Spec{N: 3*each + 1, Journal: true})
	n := scale(t)
	_, seeded := used(t, func() { w.fill(catest.Spec{N: n}) })
	t.Logf("%d more certificates stored in %.1f s", n, seeded.Seconds())
	all, start, before := make([]*process, 3), time.Now(), heap()
	for i := range all {
		all[i] = w.boot(url)
	}
	for _, p := range all {
		until(t, "ready", 2*time.Minute, func() bool { return p.Ready(t.Context()) == nil })
	}
	t.Logf("three processes have loaded them after %.2f s", time.Since(start).Seconds())
	slow := len(ids) - 1
	release := make(chan struct{})
	begun, committed := w.revokeSlowly(ids[slow], release)
	<-begun

	var delays []time.Duration
	round := func(up []*process, from int) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for worker := range 8 {
			wg.Go(func() {
				for i := from + worker; i < from+each; i += 8 {
					p := up[i%len(up)]
					r, err := p.ca.Revoke(t.Context(), ca.Revocation{CertificateID: ids[i], Reason: pki.Superseded, Actor: "test"})
					if err != nil {
						t.Error(err)
						return
					}
					if err := p.Revoked(t.Context(), r); err != nil {
						t.Error(err)
					}
					start := time.Now()
					for _, other := range up {
						until(t, "revoked everywhere", 20*time.Second, func() bool { return other.revokedHere(serials[i]) })
						mu.Lock()
						delays = append(delays, time.Since(start))
						mu.Unlock()
					}
				}
			})
		}
		wg.Wait()
	}
	round(all, 0)
	all[2].stop()
	round(all[:2], each)
	all[2] = w.boot(url)
	again := until(t, "ready again", 2*time.Minute, func() bool { return all[2].Ready(t.Context()) == nil })
	t.Logf("one that starts anew is ready after %.2f s", again.Seconds())
	for i := range 2 * each {
		if !all[2].revokedHere(serials[i]) {
			t.Errorf("certificate %d: a process that just started does not know that it is revoked", i)
		}
	}
	round(all, 2*each)

	for _, p := range all {
		if s, err := p.statusOf(serials[slow]); err != nil || s != pki.OCSPGood {
			t.Errorf("before the commit: %v, %v", s, err)
		}
	}
	close(release)
	<-committed
	for _, p := range all {
		delays = append(delays, until(t, "the slow revocation", 20*time.Second, func() bool { return p.revokedHere(serials[slow]) }))
	}
	slices.Sort(delays)
	p99 := delays[len(delays)*99/100]
	t.Logf("%d observations: median %s, p99 %s, worst %s", len(delays), delays[len(delays)/2], p99, delays[len(delays)-1])
	if n >= measured {
		// The one that was stopped is still held, by its clean-up.
		t.Logf("%.1f bytes of heap per serial and process", float64(heap()-before)/float64((len(all)+1)*all[0].Serials()))
	}
	if p99 > 2*time.Second {
		t.Errorf("p99 %s, the bar is 2 s", p99)
	}
	for _, p := range all {
		until(t, "listed", 20*time.Second, func() bool {
			listed := 0
			for shard := range 4 {
				listed += len(p.listed(shard))
			}
			return listed == len(ids)
		})
	}
}

// TestReadPathAsksNoDatabase: neither a good nor a revoked nor an unknown
// answer, nor a CRL, costs a statement.
func TestReadPathAsksNoDatabase(t *testing.T) {
	dbtest.EachURL(t, func(t *testing.T, url string) {
		var statements atomic.Int64
		d, err := db.Open(t.Context(), db.Config{URL: url, Observe: func(string, time.Duration, error) { statements.Add(1) }})
		must(t, err)
		t.Cleanup(func() { d.Close() })
		_, err = d.Migrate(t.Context(), time.Now())
		must(t, err)
		w := newWorld(t, d).load()
		good, leaf := w.issue(true)
		bad, revoked := w.issue(true)
		w.revoke(bad, pki.Superseded, true)
		w.tickCRLs()
		before := statements.Load()
		for range 50 {
			w.ask(leaf)
			w.ask(revoked)
			w.get(w.getTarget(leaf))
			w.post(pki.EncodeOCSPRequest(w.hashes(), crypto.SHA256, nil, good.Serial))
			w.post(pki.EncodeOCSPRequest(w.hashes(), crypto.SHA1, nil, good.Serial[:10]))
			w.post(pki.EncodeOCSPRequest(w.hashes(), crypto.SHA1, nil, good.Serial, bad.Serial))
			w.get("/crl/" + w.issuing.ID + "/0.crl")
			w.get("/ca/root.pem")
		}
		if n := statements.Load() - before; before == 0 || n != 0 {
			t.Errorf("%d statements for 400 requests, %d before", n, before)
		}
	})
}

// TestMassRevocation revokes many certificates by an incident, on three
// processes, while they issue; CHANCERY_MASS says how many (100000 is what
// docs/design/revocation.md reports).
func TestMassRevocation(t *testing.T) {
	n := 1000
	if text := os.Getenv("CHANCERY_MASS"); text != "" {
		var err error
		n, err = strconv.Atoi(text)
		must(t, err)
	}
	url := dbtest.PostgresURL(t)
	w := newWorld(t, dbtest.Open(t, url), withShards(16))
	ids, serials := w.fill(catest.Spec{N: n, Names: true})
	all := []*process{w.boot(url), w.boot(url), w.boot(url)}
	for _, p := range all {
		until(t, "ready", time.Minute, func() bool { return p.Ready(t.Context()) == nil })
	}
	issuing, stop := context.WithCancel(t.Context())
	var issued atomic.Int64
	var slowest atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for issuing.Err() == nil {
			start := time.Now()
			if _, err := all[1].ca.Issue(context.WithoutCancel(issuing), all[1].request()); err != nil {
				t.Error(err)
				return
			}
			issued.Add(1)
			slowest.Store(max(slowest.Load(), int64(time.Since(start))))
		}
	})
	start := time.Now()
	i, err := w.ca.CreateIncident(t.Context(), ca.IncidentSpec{Name: "exercise", ExplanationURL: "https://ca.example/why",
		Selection: ca.Selection{Query: "*.seed.example"}, Reason: pki.Superseded, Actor: "test"})
	must(t, err)
	limit := 2 * time.Minute
	until(t, "ARI", limit, func() bool {
		got, err := ca.GetIncident(t.Context(), w.db.Read(), i.ID)
		return err == nil && got.Marked == int64(n)
	})
	t.Logf("%d renewal windows moved after %.1f s", n, time.Since(start).Seconds())
	until(t, "rows", limit, func() bool {
		got, err := ca.GetIncident(t.Context(), w.db.Read(), i.ID)
		return err == nil && got.Revoked == int64(n)
	})
	t.Logf("revoked in the database after %.1f s", time.Since(start).Seconds())
	for _, p := range all {
		until(t, "OCSP", limit, func() bool {
			for j := len(serials) - 1; j >= 0; j -= max(n/2000, 1) {
				if !p.revokedHere(serials[j]) {
					return false
				}
			}
			return true
		})
	}
	t.Logf("OCSP everywhere after %.1f s", time.Since(start).Seconds())
	for _, p := range all {
		until(t, "CRL", limit, func() bool {
			listed := 0
			for shard := range 16 {
				list := p.book(w.issuing.ID).crls[shard].published.Load()
				for _, err := range pki.CRLEntries(list.der) {
					must(t, err)
					listed++
				}
			}
			return listed == n
		})
	}
	total := time.Since(start)
	stop()
	wg.Wait()
	t.Logf("CRLs everywhere after %.1f s; %d certificates issued meanwhile, the slowest in %s", total.Seconds(), issued.Load(), time.Duration(slowest.Load()))
	if total > limit || issued.Load() == 0 {
		t.Errorf("%s, %d issued", total, issued.Load())
	}
	c, err := ca.Get(t.Context(), w.db.Read(), ids[n/2])
	must(t, err)
	if _, why, ok, err := w.ca.Explanation(t.Context(), &c, time.Now()); err != nil || !ok || why != "https://ca.example/why" {
		t.Errorf("%q, %v, %v", why, ok, err)
	}
	for _, p := range all {
		p.stop()
	}
}
