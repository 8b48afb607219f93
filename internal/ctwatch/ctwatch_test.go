package ctwatch_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/audit"
	"chancery/internal/ca"
	"chancery/internal/ca/catest"
	"chancery/internal/ctwatch"
	"chancery/internal/ctwatch/ctwatchtest"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/inventory"
	"chancery/internal/keys"
	"chancery/internal/pki"
	"chancery/internal/scan/cloud"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// each runs f for both kinds of logs on both engines.
func each(t *testing.T, f func(t *testing.T, d *db.DB, kind ctwatch.Kind)) {
	for _, kind := range []ctwatch.Kind{ctwatch.Static, ctwatch.RFC6962} {
		t.Run(string(kind), func(t *testing.T) {
			dbtest.Each(t, func(t *testing.T, d *db.DB) { f(t, d, kind) })
		})
	}
}

// watch runs a service until the end of the test.
func watch(t testing.TB, d *db.DB, logs ...ctwatch.Log) (s *ctwatch.Service, stop func()) {
	t.Helper()
	s = ctwatch.New(ctwatch.Config{DB: d, Inventory: inventory.New(d), Logs: logs, Domains: []string{"ours.test"}, Interval: 20 * time.Millisecond, Grace: 100 * time.Millisecond,
		Lease: 2 * time.Second, Registry: prometheus.NewRegistry()})
	check(t, s.Ensure(context.Background()))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, l := range s.Loops() {
		l.Interval, l.Backoff.Base, l.Backoff.Max = 10*time.Millisecond, 20*time.Millisecond, 50*time.Millisecond
		wg.Go(func() { _ = l.Run(ctx) }) // always nil
	}
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return s, stop
}

// eventually looks again and again until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for begin := time.Now(); !ok(); <-again.C {
		if time.Since(begin) > 40*time.Second {
			t.Fatalf("%s: not within 40 s", what)
		}
	}
}

func status(t testing.TB, s *ctwatch.Service, name string) ctwatch.Status {
	t.Helper()
	v, err := s.Get(context.Background(), name)
	check(t, err)
	return v
}

func findings(t testing.TB, s *ctwatch.Service, state ctwatch.FindingState) []ctwatch.Finding {
	t.Helper()
	all, err := s.Findings(context.Background(), state, "", 1000)
	check(t, err)
	return all
}

func count(t testing.TB, d *db.DB, query string) int {
	t.Helper()
	f, err := inventory.Parse(query, time.Now())
	check(t, err)
	n, err := inventory.New(d).Count(context.Background(), f)
	check(t, err)
	return int(n.N)
}

// ownCA issues n certificates with an authority of ours, whose serial numbers
// our database has.
func ownCA(t *testing.T, d *db.DB, n int) [][]byte {
	t.Helper()
	ctx := context.Background()
	pass, err := keys.NewPassphrase([]byte("correct horse battery"))
	check(t, err)
	store, err := keys.OpenFileStore(filepath.Join(t.TempDir(), "keys"), pass)
	check(t, err)
	svc, err := ca.Open(ctx, ca.Config{DB: d, Keys: store, URLs: ca.URLs{Base: "http://localhost:8080"}})
	check(t, err)
	root, err := svc.CreateRoot(ctx, ca.Spec{CA: "default", KeyType: pki.P256}, "test")
	check(t, err)
	issuing, err := svc.CreateIssuing(ctx, root.ID, ca.Spec{CA: "default", KeyType: pki.P256}, "test")
	check(t, err)
	ids, _, err := catest.Fill(ctx, d, catest.Spec{Authority: issuing, URLs: svc.URLs(), N: n, Names: true, Name: func(int) string { return "issued.ours.test" }})
	check(t, err)
	var out [][]byte
	for _, id := range ids {
		c, err := ca.Get(ctx, d.Read(), id)
		check(t, err)
		out = append(out, c.DER)
	}
	return out
}

// A log is followed from its beginning and as it grows. Certificates for our
// names that nobody of us obtained are findings, once, whether the log has the
// certificate, its precertificate or both; what we obtained is none.
func TestUnknownCertificatesAreFound(t *testing.T) {
	each(t, func(t *testing.T, d *db.DB, kind ctwatch.Kind) {
		log, foreign := ctwatchtest.New(t, kind), ctwatchtest.NewIssuer(t, "Somebody's CA")
		rogue, late, renewed, mixed := foreign.Issue(t, "pay.ours.test"), foreign.Issue(t, "late.ours.test"), foreign.Issue(t, "shop.ours.test"), foreign.Issue(t, "x.elsewhere.test", "*.Deep.OURS.test")
		obtain := func(p ctwatchtest.Pair) {
			_, err := inventory.New(d).Put(context.Background(), []inventory.Observation{{DER: p.Cert, Source: inventory.FromRenew, SeenAt: time.Now()}}, time.Now())
			check(t, err)
		}
		obtain(renewed)
		log.Bulk(t, foreign, 700)
		log.Put(t, rogue, true)
		log.Put(t, renewed, true)
		log.Put(t, renewed, false)
		for _, der := range ownCA(t, d, 3) {
			log.Put(t, ctwatchtest.Pair{Cert: der}, false)
		}
		log.Bulk(t, foreign, 4000)
		s, _ := watch(t, d, log.Log("one", true))
		eventually(t, "the log is read", func() bool {
			v := status(t, s, "one")
			return v.Size == 4706 && v.Lag() == 0 && v.State == ctwatch.Following
		})
		found := findings(t, s, "")
		if len(found) != 1 || !found[0].Precert || found[0].Matched != "pay.ours.test" || found[0].Index != 700 || found[0].Issuer != "CN=Somebody's CA" || found[0].Fingerprint != "" {
			t.Fatalf("%+v", found)
		}
		if n := count(t, d, "source:ct tag:ct=precertificate name:pay.ours.test"); n != 1 {
			t.Errorf("the inventory has %d precertificates", n)
		}

		// The certificate itself, another that is obtained a little later, and one
		// under a second name.
		log.Put(t, rogue, false)
		log.Put(t, late, true)
		log.Put(t, mixed, false)
		log.Bulk(t, foreign, 300)
		eventually(t, "the log has grown", func() bool { return status(t, s, "one").Size == 5009 })
		obtain(late)
		eventually(t, "what was obtained later", func() bool { return len(findings(t, s, ctwatch.Ours)) == 1 })
		eventually(t, "the others are told of", func() bool {
			n := 0
			for _, f := range findings(t, s, ctwatch.Open) {
				if !f.AlertedAt.IsZero() {
					n++
				}
			}
			return n == 2
		})
		for _, f := range findings(t, s, ctwatch.Open) {
			if f.Precert || len(f.Fingerprint) != 64 {
				t.Errorf("the certificate was logged, too: %+v", f)
			}
		}
		if v := status(t, s, "one"); v.Entries != 5009 || v.Matches != 9 || v.Unreadable != 0 {
			t.Errorf("%+v", v)
		}
		told := 0
		check(t, audit.Waiting(context.Background(), d.Read(), func(r *audit.Record) error {
			if r.Kind == "ct.finding" {
				told++
			}
			return nil
		}))
		if told != 2 && told != 3 { // the late one, too, when this machine is slow
			t.Errorf("%d findings were told of", told)
		}
		one := findings(t, s, ctwatch.Open)[0]
		check(t, s.Acknowledge(context.Background(), one.ID, "test", "a partner's", time.Now()))
		if err := s.Acknowledge(context.Background(), one.ID, "test", "again", time.Now()); !fault.Is(err, fault.Conflict) {
			t.Errorf("acknowledged twice: %v", err)
		}
		if n := len(findings(t, s, ctwatch.Open)); n != 1 {
			t.Errorf("%d are open", n)
		}
	})
}

// TestAdoption: a finding whose certificate somebody claims is ours from then on,
// with an owner, and so is the certificate behind a precertificate.
func TestAdoption(t *testing.T) {
	each(t, func(t *testing.T, d *db.DB, kind ctwatch.Kind) {
		ctx, pay := context.Background(), ctwatch.Holder{Owner: "pay", Team: "core", Environment: "prod"}
		log, foreign := ctwatchtest.New(t, kind), ctwatchtest.NewIssuer(t, "Somebody's CA")
		first, second := foreign.Issue(t, "pay.ours.test"), foreign.Issue(t, "shop.ours.test")
		log.Put(t, first, true)
		log.Put(t, second, false)
		s, _ := watch(t, d, log.Log("one", true))
		eventually(t, "both are found", func() bool { return len(findings(t, s, ctwatch.Open)) == 2 })
		of := func(name string) ctwatch.Finding {
			t.Helper()
			for _, f := range findings(t, s, "") {
				if f.Matched == name {
					return f
				}
			}
			t.Fatalf("no finding of %s", name)
			return ctwatch.Finding{}
		}
		one, two := of("pay.ours.test"), of("shop.ours.test")
		for what, bad := range map[string]struct {
			id, comment string
			to          ctwatch.Holder
			code        fault.Code
		}{
			"nothing":            {"nothing", "", pay, fault.NotFound},
			"nobody's":           {one.ID, "", ctwatch.Holder{Team: "core"}, fault.Invalid},
			"a name of spaces":   {one.ID, "", ctwatch.Holder{Owner: "  "}, fault.Invalid},
			"a hostile name":     {one.ID, "", ctwatch.Holder{Owner: "pay\x1b[2J"}, fault.Invalid},
			"a long comment":     {one.ID, strings.Repeat("x", ctwatch.MaxComment+1), pay, fault.Invalid},
			"a comment of lines": {one.ID, "a\nb", pay, fault.Invalid},
		} {
			if err := s.Adopt(ctx, bad.id, bad.to, "test", bad.comment, time.Now()); !fault.Is(err, bad.code) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if n := count(t, d, "owner:pay"); n != 0 || len(findings(t, s, ctwatch.Open)) != 2 {
			t.Fatalf("what was refused left %d certificates", n)
		}
		check(t, s.Acknowledge(ctx, two.ID, "test", "a partner's", time.Now())) // and then it is ours after all
		for _, f := range []ctwatch.Finding{one, two} {
			check(t, s.Adopt(ctx, f.ID, pay, "test", "ordered by hand", time.Now()))
			if err := s.Adopt(ctx, f.ID, ctwatch.Holder{Owner: "shop"}, "test", "", time.Now()); !fault.Is(err, fault.Conflict) {
				t.Errorf("adopted twice: %v", err)
			}
		}
		if err := s.Acknowledge(ctx, one.ID, "test", "", time.Now()); !fault.Is(err, fault.Conflict) {
			t.Errorf("acknowledged after its adoption: %v", err)
		}
		if n := count(t, d, "owner:pay team:core env:prod source:import"); n != 2 {
			t.Errorf("%d certificates belong to those who adopted them", n)
		}
		if f := of("pay.ours.test"); f.State != ctwatch.Ours || f.DecidedBy != "test" || f.Comment != "ordered by hand" {
			t.Errorf("%+v", f)
		}
		told := 0
		check(t, audit.Waiting(ctx, d.Read(), func(r *audit.Record) error {
			if r.Kind == "ct.adopt" && r.Actor == "test" && strings.Contains(string(r.Data), `"owner":"pay"`) {
				told++
			}
			return nil
		}))
		if told != 2 {
			t.Errorf("the journal has %d adoptions", told)
		}
		log.Put(t, first, false) // the certificate itself
		log.Put(t, foreign.Issue(t, "other.ours.test"), false)
		eventually(t, "the log is read", func() bool { return len(findings(t, s, ctwatch.Open)) == 1 })
		if n := len(findings(t, s, "")); n != 3 {
			t.Errorf("%d findings: the certificate of an adopted precertificate is one", n)
		}
	})
}

// Unless told otherwise a log is followed from its end.
func TestFollowsFromTheEnd(t *testing.T) {
	each(t, func(t *testing.T, d *db.DB, kind ctwatch.Kind) {
		for _, size := range []int{1, 2, 3, 5, 256, 257, 600} {
			log, foreign := ctwatchtest.New(t, kind), ctwatchtest.NewIssuer(t, "Somebody's CA")
			log.Put(t, foreign.Issue(t, "old.ours.test"), false)
			log.Bulk(t, foreign, size-1)
			name := "l" + string(rune('a'+size%26)) + strings.Repeat("x", size%7)
			s, stop := watch(t, d, log.Log(name, false))
			eventually(t, "the end", func() bool { v := status(t, s, name); return v.Size == int64(size) && v.State == ctwatch.Following })
			log.Put(t, foreign.Issue(t, "new.ours.test"), false)
			log.Bulk(t, foreign, 300)
			eventually(t, "what is new", func() bool { return status(t, s, name).Size == int64(size+301) })
			if v := status(t, s, name); v.Entries > 303 && size > 3 {
				t.Errorf("%d entries of %d new ones were looked at", v.Entries, 301)
			}
			stop()
		}
		fresh := 0
		s, _ := watch(t, d)
		for _, f := range findings(t, s, "") {
			if f.Matched == "new.ours.test" {
				fresh++
			}
		}
		if fresh != 7 {
			t.Errorf("%d of 7 new certificates were found", fresh)
		}
	})
}

// Processes that end at any moment, and several at once, lose nothing.
func TestFollowingSurvivesProcesses(t *testing.T) {
	each(t, func(t *testing.T, d *db.DB, kind ctwatch.Kind) {
		log, foreign := ctwatchtest.New(t, kind), ctwatchtest.NewIssuer(t, "Somebody's CA")
		for range 10 {
			log.Bulk(t, foreign, 1000)
			log.Put(t, foreign.Issue(t, "pay.ours.test"), true)
		}
		log.Do(func() { log.Delay = 2 * time.Millisecond })
		fast := log.Log("one", true)
		fast.Rate = cloud.Rate{PerSecond: 1e4, Burst: 1e4}
		var s *ctwatch.Service
		for n := 1; ; n++ {
			a, stopA := watch(t, d, fast)
			_, stopB := watch(t, d, fast)
			s = a
			<-time.After(time.Duration(n) * 15 * time.Millisecond)
			stopA()
			stopB()
			if v := status(t, s, "one"); v.Size == 10010 {
				if v.Entries != 10010 {
					t.Errorf("%d entries were counted", v.Entries)
				}
				break
			}
			if n > 150 {
				t.Fatalf("it never ends: %+v", status(t, s, "one"))
			}
		}
		if n := len(findings(t, s, "")); n != 10 {
			t.Errorf("%d of 10 findings", n)
		}
	})
}

// Two signed statements that contradict each other are a fork: kept, told of,
// and the end of following.
func TestForksAreProven(t *testing.T) {
	for name, grow := range map[string]int{"same size": 0, "larger": 300} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, d *db.DB, kind ctwatch.Kind) {
				log, foreign := ctwatchtest.New(t, kind), ctwatchtest.NewIssuer(t, "Somebody's CA")
				log.Bulk(t, foreign, 599)
				before := log.Tree.Clone()
				log.Put(t, foreign.Issue(t, "a.elsewhere.test"), false)
				s, _ := watch(t, d, log.Log("one", true))
				eventually(t, "the log is read", func() bool { return status(t, s, "one").Size == 600 })
				log.Do(func() { log.Tree = before; before.Add(t, foreign.Issue(t, "b.elsewhere.test").Cert, nil, time.Now()) })
				log.Bulk(t, foreign, grow)
				eventually(t, "the fork", func() bool { return status(t, s, "one").State == ctwatch.Forked })
				v := status(t, s, "one")
				if v.Size != 600 || strings.Count(v.Proof, "600") == 0 || !strings.Contains(v.Error, "contradicts itself") {
					t.Errorf("%+v", v)
				}
				told := 0
				check(t, audit.Waiting(context.Background(), d.Read(), func(r *audit.Record) error {
					if r.Kind == "ct.fork" {
						told++
					}
					return nil
				}))
				if told != 1 {
					t.Errorf("told of %d times", told)
				}
				requests := log.Count("get-sth") + log.Count("checkpoint")
				<-time.After(100 * time.Millisecond)
				if n := log.Count("get-sth") + log.Count("checkpoint"); n != requests {
					t.Error("a forked log is asked again")
				}
				check(t, s.Reset(context.Background(), "one", "test", time.Now()))
				eventually(t, "it is followed anew", func() bool { v := status(t, s, "one"); return v.State == ctwatch.Following && v.Lag() == 0 })
			})
		})
	}
}

// A log that lies without signing the lie, or that is broken, is not believed:
// the position stays until it is well again.
func TestLiesAreNotBelieved(t *testing.T) {
	flip := func(b []byte, at int) []byte {
		out := append([]byte(nil), b...)
		out[at%len(out)] ^= 1
		return out
	}
	entries := func(path string) bool { return strings.HasPrefix(path, "tile/data/") || path == "get-entries" }
	heads := func(path string) bool { return path == "checkpoint" || path == "get-sth" }
	for name, lie := range map[string]func(path string, b []byte) []byte{
		"changed entry": func(path string, b []byte) []byte {
			if entries(path) {
				return []byte(strings.Replace(string(flip(b, len(b)/2)), "\x00\x00", "\x00\x00", 1))
			}
			return b
		},
		"missing entries": func(path string, b []byte) []byte {
			if strings.HasPrefix(path, "tile/data/") {
				return b[:len(b)/2]
			}
			if path == "get-entries" {
				return []byte(`{"entries": []}`)
			}
			return b
		},
		"unsigned head": func(path string, b []byte) []byte {
			if heads(path) {
				return []byte(strings.Replace(string(b), "900", "901", 1))
			}
			return b
		},
		"bad proof": func(path string, b []byte) []byte {
			switch {
			case path == "get-sth-consistency":
				return []byte(`{"consistency": ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]}`)
			case strings.HasPrefix(path, "tile/") && !entries(path):
				return flip(b, 7)
			}
			return b
		},
		"garbage": func(_ string, b []byte) []byte { return b[:len(b)/3] },
	} {
		t.Run(name, func(t *testing.T) {
			for _, kind := range []ctwatch.Kind{ctwatch.Static, ctwatch.RFC6962} {
				t.Run(string(kind), func(t *testing.T) {
					d := dbtest.Open(t, dbtest.SQLiteURL(t))
					log, foreign := ctwatchtest.New(t, kind), ctwatchtest.NewIssuer(t, "Somebody's CA")
					log.Bulk(t, foreign, 500)
					s, _ := watch(t, d, log.Log("one", true))
					eventually(t, "the log is read", func() bool { return status(t, s, "one").Size == 500 })
					log.Do(func() { log.Lie = lie })
					log.Bulk(t, foreign, 399)
					log.Put(t, foreign.Issue(t, "pay.ours.test"), false)
					eventually(t, "the lie", func() bool { v := status(t, s, "one"); return v.State == ctwatch.Failing && v.Failures >= 1 })
					if v := status(t, s, "one"); v.Size != 500 || v.Error == "" {
						t.Errorf("%+v", v)
					}
					log.Do(func() { log.Lie = nil })
					check(t, s.Reset(context.Background(), "one", "test", time.Now())) // rather than wait for the next try
					eventually(t, "it is well again", func() bool { return status(t, s, "one").Size == 900 })
					if n := len(findings(t, s, "")); n != 1 {
						t.Errorf("%d findings", n)
					}
				})
			}
		})
	}
}

// Slow logs, throttling, old heads and huge entries are a matter of time.
func TestHardships(t *testing.T) {
	each(t, func(t *testing.T, d *db.DB, kind ctwatch.Kind) {
		log, foreign := ctwatchtest.New(t, kind), ctwatchtest.NewIssuer(t, "Somebody's CA")
		log.Bulk(t, foreign, 600)
		log.Do(func() {
			log.Tree.Add(t, append([]byte{0x30, 0x83, 0x20, 0, 0}, make([]byte, 2<<20)...), nil, time.Now()) // 2 MB that is no certificate
			log.Delay = 5 * time.Millisecond
			log.Status = func(_ string, n int) int {
				if n == 1 {
					return http.StatusTooManyRequests
				}
				return 0
			}
		})
		s, _ := watch(t, d, log.Log("one", true))
		eventually(t, "the log is read", func() bool { return status(t, s, "one").Size == 601 })
		if v := status(t, s, "one"); v.Unreadable != 1 {
			t.Errorf("%d entries are unreadable", v.Unreadable)
		}
		log.Do(func() { log.Served = 300 }) // a frontend that lags
		seen := status(t, s, "one").CheckedAt
		eventually(t, "a look at an old head", func() bool { return status(t, s, "one").CheckedAt.After(seen.Add(50 * time.Millisecond)) })
		if v := status(t, s, "one"); v.State != ctwatch.Following || v.HeadSize != 601 {
			t.Errorf("after an old head: %+v", v)
		}
		log.Put(t, foreign.Issue(t, "pay.ours.test"), false)
		eventually(t, "the next entry", func() bool { return len(findings(t, s, "")) == 1 })
	})
}
