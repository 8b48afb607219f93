package source_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/inventory"
	"chancery/internal/scan/cloud"
	"chancery/internal/scan/cloud/acm"
	"chancery/internal/scan/cloud/certmanager"
	"chancery/internal/scan/cloud/cloudtest"
	"chancery/internal/scan/cloud/keyvault"
	"chancery/internal/scan/cloud/kubernetes"
	"chancery/internal/scan/cloud/vaultpki"
	"chancery/internal/scan/source"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// place is a provider with the kind that reads it.
type place struct {
	*cloudtest.Server
	kind cloud.Kind
	tune func(*source.Settings)
}

// world is an installation with some sources.
type world struct {
	db    *db.DB
	store *inventory.Store
	reg   *prometheus.Registry
	svc   *source.Service
}

// newWorld returns an installation, of which several may share a database.
func newWorld(t testing.TB, d *db.DB, places map[string]place) *world {
	t.Helper()
	w := &world{db: d, store: inventory.New(d), reg: prometheus.NewRegistry()}
	sources := map[string]source.Settings{}
	for name, p := range places {
		section := p.Configure(p.kind.Name)
		s := source.Settings{Kind: p.kind, Enabled: true, Interval: time.Hour, Timeout: time.Minute,
			Open: func(env cloud.Env) (cloud.Source, error) {
				into := p.kind.Config()
				if err := section.Bind(name, into); err != nil {
					return nil, err
				}
				return p.kind.Open(env, into)
			}}
		if p.tune != nil {
			p.tune(&s)
		}
		sources[name] = s
	}
	w.svc = source.New(source.Config{DB: d, Inventory: w.store, Sources: sources, Lease: 2 * time.Second, Registry: w.reg})
	check(t, w.svc.Ensure(context.Background()))
	return w
}

// run runs the loops until the end of the test, or until stop is called.
func (w *world) run(t testing.TB) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, l := range w.svc.Loops() {
		l.Interval = 20 * time.Millisecond
		wg.Go(func() { _ = l.Run(ctx) }) // always nil
	}
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return stop
}

func (w *world) count(t testing.TB, query string) int {
	t.Helper()
	f, err := inventory.Parse(query, time.Now())
	check(t, err)
	n, err := w.store.Count(context.Background(), f)
	check(t, err)
	return int(n.N)
}

func (w *world) status(t testing.TB, name string) source.Status {
	t.Helper()
	s, err := w.svc.Get(context.Background(), name)
	check(t, err)
	return s
}

// eventually looks again and again until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for begin := time.Now(); !ok(); <-again.C {
		if time.Since(begin) > 40*time.Second {
			t.Fatalf("%s: not within 40 s", what)
		}
	}
}

// fill puts n certificates into a server.
func fill(t testing.TB, s *cloudtest.Server, n int, name func(int) string, domain string) [][]byte {
	t.Helper()
	ders := cloudtest.Certificates(t, n, domain)
	for i, der := range ders {
		s.Put(cloudtest.Item{Name: name(i), DER: der, Tags: map[string]string{"team": "pay"}})
	}
	return ders
}

func plain(i int) string { return fmt.Sprintf("c%d", i) }

func serial(i int) string { return fmt.Sprintf("0a:%02x:%02x", i/256, i%256) }

// Five providers are listed at once; their certificates are in the inventory
// with owner and tags, renewals are seen, what is gone is marked.
func TestSourcesFillTheInventory(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		fast := func(s *source.Settings) { s.Rate, s.OwnerTag = cloud.Rate{PerSecond: 1e4, Burst: 1e4}, "team" }
		places := map[string]place{"aws": {cloudtest.ACM(t), acm.Kind, fast}, "azure": {cloudtest.KeyVault(t), keyvault.Kind, fast}, "gcp": {cloudtest.CertificateManager(t), certmanager.Kind, fast},
			"prod": {cloudtest.Cluster(t), kubernetes.Kind, fast}, "vault": {cloudtest.Vault(t), vaultpki.Kind, fast}}
		for name, p := range places {
			at := plain
			if name == "vault" {
				at = serial
			}
			fill(t, p.Server, 60, at, name+".test")
		}
		w := newWorld(t, d, places)
		w.run(t)
		for name := range places {
			eventually(t, name+" is listed", func() bool { s := w.status(t, name); return s.Tally.Listed == 60 && !s.ListedAt.IsZero() })
			if n := w.count(t, "source:cloud tag:source="+name); n != 60 {
				t.Errorf("%d of 60 of %s are in the inventory", n, name)
			}
		}
		if n := w.count(t, "source:cloud owner:pay"); n != 240 { // all but Vault's, which has no tags
			t.Errorf("%d of 240 have an owner", n)
		}
		if n := w.count(t, "tag:provider=aws tag:account=123456789012 tag:region=eu-central-1"); n != 60 {
			t.Errorf("%d of 60 are tagged", n)
		}

		// A renewal, a revocation, a deletion and a broken one.
		gets := places["aws"].Requests("GetCertificate")
		renewed := cloudtest.Certificates(t, 2, "renewed.test")
		places["aws"].Put(cloudtest.Item{Name: "c1", DER: renewed[0]})
		places["aws"].Delete("c2")
		places["aws"].Put(cloudtest.Item{Name: "c3"})
		places["vault"].Put(cloudtest.Item{Name: serial(5), DER: renewed[1], Revoked: true})
		check(t, w.svc.Run(context.Background(), "aws", "test", time.Now()))
		check(t, w.svc.Run(context.Background(), "vault", "test", time.Now()))
		eventually(t, "the lists that were asked for", func() bool { return w.status(t, "aws").Tally.Gone == 1 && w.count(t, "status:revoked") == 1 })
		if tally := w.status(t, "aws").Tally; tally != (source.Tally{Listed: 59, New: 1, Changed: 2, Gone: 1, Refused: 1}) {
			t.Errorf("%+v", tally)
		}
		if n := places["aws"].Requests("GetCertificate") - gets; n != 2 {
			t.Errorf("%d certificates were fetched for 2 changes", n)
		}
		items, err := w.svc.Items(context.Background(), "aws", "", 100)
		check(t, err)
		gone, refused := 0, 0
		for _, it := range items {
			if !it.GoneAt.IsZero() {
				gone++
			}
			if it.Error != "" {
				refused++
			}
		}
		if len(items) != 60 || gone != 1 || refused != 1 {
			t.Errorf("%d items, %d gone, %d refused", len(items), gone, refused)
		}
	})
}

// Of several replicas one lists a source at a time.
func TestOneReplicaListsASource(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		server := cloudtest.KeyVault(t)
		fill(t, server, 100, plain, "azure.test")
		places := map[string]place{"vault": {server, keyvault.Kind, nil}}
		var worlds []*world
		for range 3 {
			worlds = append(worlds, newWorld(t, d, places))
		}
		for _, w := range worlds {
			w.run(t)
		}
		eventually(t, "it is listed", func() bool { return worlds[0].status(t, "vault").Tally.Listed == 100 })
		if n := server.Requests("GetCertificate"); n != 100 {
			t.Errorf("%d requests for 100 certificates", n)
		}
		if n := server.Requests("ListCertificates"); n != 5 { // four pages, and one that asks how to sign in
			t.Errorf("%d requests for 4 pages", n)
		}
	})
}

// A list that is cut off again and again comes to its end, and fetches nothing
// twice that was stored.
func TestListSurvivesItsProcess(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		server := cloudtest.Vault(t)
		fill(t, server, 1000, serial, "vault.test")
		places := map[string]place{"vault": {server, vaultpki.Kind, func(s *source.Settings) { s.Rate = cloud.Rate{PerSecond: 2000, Burst: 50} }}}
		cuts := 0
		for n := 1; ; n++ {
			cuts = n
			w := newWorld(t, d, places)
			stop := w.run(t)
			end := time.After(time.Duration(n) * 60 * time.Millisecond)
			done := func() bool { return w.status(t, "vault").Tally.Listed == 1000 }
			<-end
			stop()
			if done() {
				if n < 2 {
					t.Log("it was not cut off")
				}
				if got := w.count(t, "source:cloud"); got != 1000 {
					t.Errorf("%d of 1000 in the inventory", got)
				}
				break
			}
			if n > 60 {
				t.Fatal("the list never ends")
			}
		}
		// A cut loses the page that is being fetched and the batch that waits.
		if n := server.Requests("GetCertificate"); n > 1000+cuts*110 {
			t.Errorf("%d certificates were fetched for 1000, with %d cuts", n, cuts)
		}
	})
}

// A change in a cluster is in the inventory within seconds; a watch that is too
// old is replaced by a list.
func TestClustersAreWatched(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		server := cloudtest.Cluster(t)
		fill(t, server, 20, plain, "k8s.test")
		w := newWorld(t, d, map[string]place{"prod": {server, kubernetes.Kind, nil}})
		w.run(t)
		eventually(t, "the list and the watch", func() bool { return server.Requests("WatchSecrets") == 1 && w.status(t, "prod").Tally.Listed == 20 })
		fresh := cloudtest.Certificates(t, 2, "fresh.test")
		server.Put(cloudtest.Item{Name: "c3", DER: fresh[0]})
		eventually(t, "a change", func() bool { return w.count(t, "name:0.fresh.test") == 1 })
		server.Delete("c4")
		gone := func() (n int) {
			items, err := w.svc.Items(context.Background(), "prod", "", 100)
			check(t, err)
			for _, it := range items {
				if !it.GoneAt.IsZero() {
					n++
				}
			}
			return n
		}
		eventually(t, "a deletion", func() bool { return gone() == 1 })
		if n := server.Requests("ListSecrets"); n != 1 {
			t.Errorf("%d lists", n)
		}
		// The server forgets: 410 Gone, and everything is listed again.
		server.Do(func() {
			server.Fault = func(op string, n int) *cloudtest.Fault {
				if op == "WatchSecrets" && n == 2 {
					return &cloudtest.Fault{Status: http.StatusGone, Body: `{"code": 410}`}
				}
				return nil
			}
		})
		server.CloseClientConnections()
		server.Put(cloudtest.Item{Name: "c9", DER: fresh[1]})
		eventually(t, "the list after 410", func() bool { return server.Requests("ListSecrets") == 2 && w.count(t, "name:1.fresh.test") == 1 })
	})
}

// A provider that fails loses nothing, and says what is wrong.
func TestFailuresKeepWhatIsKnown(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		server := cloudtest.CertificateManager(t)
		fill(t, server, 5, plain, "gcp.test")
		w := newWorld(t, d, map[string]place{"gcp": {server, certmanager.Kind, func(s *source.Settings) { s.Interval = 10 * time.Second }}})
		w.run(t)
		eventually(t, "it is listed", func() bool { return w.status(t, "gcp").Tally.Listed == 5 })
		again := func(what string, state source.State) source.Status {
			before := w.status(t, "gcp").FinishedAt
			check(t, w.svc.Run(context.Background(), "gcp", "test", time.Now()))
			eventually(t, what, func() bool { s := w.status(t, "gcp"); return s.State == state && s.FinishedAt.After(before) })
			return w.status(t, "gcp")
		}
		server.Do(func() { server.Lost = []string{"projects/estate/locations/asia-east1"}; clear(server.Items) })
		if s := again("a location is lost", source.Failed); s.Tally.Listed != 5 || s.Failures != 1 || !bytes.Contains([]byte(s.Error), []byte("asia-east1")) {
			t.Errorf("%+v", s)
		}
		server.Do(func() {
			server.Fault = func(op string, _ int) *cloudtest.Fault {
				if op != "ListCertificates" {
					return nil
				}
				return &cloudtest.Fault{Status: 403, Body: "quota project\x00 missing"}
			}
		})
		if s := again("the credentials are refused", source.Failed); s.Failures != 2 || !bytes.Contains([]byte(s.Error), []byte("may not do this")) {
			t.Errorf("%+v", s)
		}
		server.Reset()
		if s := again("it is well again", source.OK); s.Failures != 0 || s.Error != "" || s.Tally.Gone != 5 {
			t.Errorf("%+v", s)
		}
	})
}

// One provider that is slow, and one that throttles all the time, slow nobody
// else.
func TestSlowProvidersSlowNobodyElse(t *testing.T) {
	slow, throttling := cloudtest.Vault(t), cloudtest.ACM(t)
	azure, google, cluster := cloudtest.KeyVault(t), cloudtest.CertificateManager(t), cloudtest.Cluster(t)
	fill(t, slow, 300, serial, "slow.test")
	fill(t, throttling, 300, plain, "throttling.test")
	fill(t, azure, 150, plain, "azure.test")
	fill(t, google, 2500, plain, "google.test")
	fill(t, cluster, 1200, plain, "cluster.test")
	slow.Do(func() { slow.Delay = 400 * time.Millisecond })
	throttling.Do(func() {
		throttling.Fault = func(_ string, n int) *cloudtest.Fault {
			if n%2 == 0 {
				return &cloudtest.Fault{Status: 429}
			}
			return nil
		}
	})
	w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), map[string]place{"slow": {slow, vaultpki.Kind, nil}, "throttling": {throttling, acm.Kind, nil},
		"azure": {azure, keyvault.Kind, nil}, "google": {google, certmanager.Kind, nil}, "cluster": {cluster, kubernetes.Kind, nil}})
	begin := time.Now()
	w.run(t)
	for name, n := range map[string]int{"azure": 150, "google": 2500, "cluster": 1200} {
		eventually(t, name, func() bool { return w.status(t, name).Tally.Listed == n })
	}
	took := time.Since(begin)
	for name := range map[string]bool{"slow": true, "throttling": true} {
		if s := w.status(t, name); s.Tally.Listed > 0 {
			t.Errorf("%s is not slow: %+v", name, s)
		}
	}
	for _, name := range []string{"azure", "google", "cluster", "slow", "throttling"} {
		requests := cloudtest.Sum(t, w.reg, "chancery_source_requests_total", "source", name)
		t.Logf("%-10s %4.0f requests, %5.1f a second, %3.0f throttled, waited %.2f s", name, requests, requests/took.Seconds(),
			cloudtest.Sum(t, w.reg, "chancery_source_throttles_total", "source", name), cloudtest.Sum(t, w.reg, "chancery_source_wait_seconds_total", "source", name))
	}
	t.Logf("the others took %s", took)
	if cloudtest.Sum(t, w.reg, "chancery_source_throttles_total", "source", "throttling") == 0 || cloudtest.Sum(t, w.reg, "chancery_source_throttles_total", "source", "azure") != 0 {
		t.Error("throttles are not counted by provider")
	}
}
