package pass_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chancery/internal/bus"
	"chancery/internal/bus/bustest"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/inventory"
	"chancery/internal/scan"
	"chancery/internal/scan/pass"
	"chancery/internal/scan/probe"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

// world is a database, a bus and an estate of which a scan finds out.
type world struct {
	t      *testing.T
	db     *db.DB
	bus    *bus.Bus
	store  *inventory.Store
	chains []*x509.Certificate

	scanned atomic.Int64 // results that scans handed to their sinks and that these took
	held    atomic.Int64 // results that scans hold and sinks have not taken
	most    atomic.Int64 // of held
	slowed  atomic.Int64 // refusals
}

func newWorld(t *testing.T, d *db.DB) *world {
	t.Helper()
	w := &world{t: t, db: d, store: inventory.New(d)}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	for i := range 50 {
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: fmt.Sprintf("c%d.test", i)},
			DNSNames: []string{fmt.Sprintf("c%d.test", i)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
		check(t, err)
		c, err := x509.ParseCertificate(der)
		check(t, err)
		w.chains = append(w.chains, c)
	}
	w.openBus(64 << 20)
	return w
}

// openBus replaces the bus by an empty one; what waited on the old one is lost.
func (w *world) openBus(bytes int64) {
	w.t.Helper()
	w.bus = bustest.Open(w.t, bus.Config{Streams: []bus.Stream{{Name: pass.Stream, MaxBytes: bytes}}})
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// service returns a replica.
func (w *world) service(cfg pass.Config) *pass.Service {
	if cfg.DB == nil {
		cfg.DB = w.db
	}
	if cfg.Scan == nil {
		cfg.Scan = w.scan
	}
	if cfg.ShardSize == 0 {
		cfg.ShardSize = 500
	}
	cfg.Bus, cfg.Inventory = w.bus, inventory.New(cfg.DB)
	return pass.New(cfg)
}

// scan is a scanner without a network: every tenth endpoint refuses.
func (w *world) scan(ctx context.Context, _ scan.Kind, targets []scan.Target, sink scan.Sink) (sum scan.Summary, err error) {
	sum = scan.Summary{Targets: len(targets), Remaining: len(targets), Classes: map[probe.Class]int{}}
	var batch []scan.Result
	flush := func() error {
		w.most.Store(max(w.most.Load(), w.held.Add(int64(len(batch)))))
		defer w.held.Add(-int64(len(batch)))
		for {
			err := sink(ctx, batch)
			if err == nil {
				break
			}
			after := fault.As(err).RetryAfter
			if after <= 0 {
				return err
			}
			w.slowed.Add(1)
			select {
			case <-time.After(min(after, 50*time.Millisecond)):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		w.scanned.Add(int64(len(batch)))
		sum.Done, sum.Remaining = sum.Done+len(batch), sum.Remaining-len(batch)
		batch = nil
		return nil
	}
	for i, t := range targets {
		r := scan.Result{Target: t, At: time.Now(), Class: probe.OK, Addr: netip.MustParseAddrPort("127.0.0.1:443"), Chain: []*x509.Certificate{w.chains[i%50]}}
		if i%10 == 9 {
			r.Class, r.Chain = probe.Refused, nil
		} else {
			sum.Healthy++
		}
		sum.Classes[r.Class]++
		if batch = append(batch, r); len(batch) == 50 || i == len(targets)-1 {
			if err := flush(); err != nil {
				return sum, err
			}
		}
	}
	return sum, nil
}

// run runs parts of a service until the returned function is called.
func (w *world) run(s *pass.Service, scanner, writer bool) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var loops = s.WriterLoops()[:1]
	if scanner {
		loops = append(loops, s.ScanLoops()...)
	}
	for _, l := range loops {
		l.Interval = 20 * time.Millisecond
		wg.Go(func() {
			if err := l.Run(ctx); err != nil {
				w.t.Error(err)
			}
		})
	}
	if writer {
		wg.Go(func() {
			if err := s.Write(ctx); err != nil {
				w.t.Error(err)
			}
		})
	}
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); wg.Wait() }) }
	w.t.Cleanup(stop)
	return stop
}

// schedule makes a schedule of n targets that is due.
func (w *world) schedule(s *pass.Service, n int) pass.Schedule {
	w.t.Helper()
	v, err := s.Save(context.Background(), pass.Schedule{Name: "all", Targets: fmt.Sprintf("10.0.0.0-10.0.%d.%d", (n-1)/256, (n-1)%256), Kind: scan.Observe,
		Period: time.Hour, Enabled: true}, "test", time.Now())
	check(w.t, err)
	return v
}

// wait waits for the first pass of a schedule to end.
func (w *world) wait(s *pass.Service, schedule string, within time.Duration) pass.Pass {
	w.t.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	var last []pass.Pass
	for begin := time.Now(); time.Since(begin) < within; <-again.C {
		var err error
		last, err = s.Passes(context.Background(), schedule, "", 10)
		check(w.t, err)
		if len(last) > 0 && last[len(last)-1].State != pass.Running {
			return last[len(last)-1]
		}
	}
	w.t.Fatalf("no pass has ended within %s: %+v", within, last)
	return pass.Pass{}
}

// account checks that a pass of n targets and the inventory account for all.
func (w *world) account(p pass.Pass, n int) {
	w.t.Helper()
	s := p.Summary
	if p.State != pass.Done || p.Targets != n || s.Stored != n || s.Untried != 0 || s.Open != 0 || s.Healthy != n-n/10 || s.Classes[probe.Refused] != n/10 {
		w.t.Errorf("%+v", p)
	}
	found, failing := 0, 0
	for q := (inventory.EndpointQuery{Limit: 1000}); ; {
		page, err := w.store.Endpoints(context.Background(), q)
		check(w.t, err)
		for _, e := range page.Endpoints {
			found++
			if e.Failure != "" {
				failing++
			} else if e.CertificateID == "" {
				w.t.Errorf("%s has no certificate", e.Host)
			}
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			break
		}
	}
	if found != n || failing != n/10 {
		w.t.Errorf("the inventory has %d of %d endpoints, %d of them failing", found, n, failing)
	}
}

func TestPassReachesTheInventory(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		s := w.service(pass.Config{})
		v := w.schedule(s, 2000)
		w.run(s, true, true)
		w.account(w.wait(s, v.ID, time.Minute), 2000)
		again, err := s.Get(context.Background(), "all")
		check(t, err)
		if left := time.Until(again.NextAt); left < 50*time.Minute || left > time.Hour {
			t.Errorf("the next pass begins in %s", left)
		}
	})
}

var qHold = db.SQL("passtest.hold", `UPDATE inventory_version SET version = version + 1 WHERE list = $1`)

// The store stops in the middle of a scan: the scanner is slowed by a full
// stream, holds no more than it may, and nothing is lost.
func TestStoreThatStops(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.openBus(256 << 10)
		// A lease on SQLite cannot be renewed while its writer is stopped.
		s := w.service(pass.Config{Lease: time.Minute})
		v := w.schedule(s, 5000)
		_, err := w.store.Put(context.Background(), []inventory.Observation{{DER: w.chains[0].Raw, Source: inventory.FromImport, SeenAt: time.Now()}}, time.Now())
		check(t, err)
		w.run(s, true, true)
		w.until("a part is stored", func() bool { v, err := w.store.EndpointVersion(context.Background()); check(t, err); return v > 2 })
		release, held, done := make(chan struct{}), make(chan struct{}, 8), make(chan error, 1)
		go func() {
			done <- d.Write(context.Background(), func(tx *db.Tx) error {
				for _, list := range []string{"certificates", "endpoints"} {
					if _, err := tx.Exec(context.Background(), qHold, list); err != nil {
						return err
					}
				}
				held <- struct{}{}
				<-release
				return nil
			})
		}()
		<-held
		w.until("scanners wait", func() bool { return w.slowed.Load() > 10 })
		taken := w.scanned.Load()
		w.until("they go on waiting", func() bool { return w.slowed.Load() > 40 })
		if now := w.scanned.Load(); now != taken {
			t.Errorf("results went on into a full stream: %d, then %d", taken, now)
		}
		close(release)
		check(t, <-done)
		w.account(w.wait(s, v.ID, 2*time.Minute), 5000)
		if most := w.most.Load(); most > 2*50 {
			t.Errorf("two scanners held %d results", most)
		}
	})
}

// until waits for a condition.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for begin := time.Now(); !ok(); <-again.C {
		if time.Since(begin) > time.Minute {
			w.t.Fatalf("%s: not within a minute", what)
		}
	}
}

// A scanner dies half way, with its lease; then the bus with what was on it;
// then the writer, again and again. The pass ends with every target in the
// inventory, counted once.
func TestScannerBusAndWriterDie(t *testing.T) {
	dbtest.EachURL(t, func(t *testing.T, url string) {
		d := dbtest.Open(t, url)
		w := newWorld(t, d)
		short := pass.Config{Lease: 300 * time.Millisecond, StoreLease: 600 * time.Millisecond}

		// The scanner's process ends after 700 results: its database handle is
		// gone, so it can neither renew nor hand back.
		mortal := dbtest.Open(t, url)
		cfg := short
		cfg.DB = mortal
		cfg.Scanners = 1
		var left atomic.Int64
		left.Store(14)
		cfg.Scan = func(ctx context.Context, k scan.Kind, targets []scan.Target, sink scan.Sink) (scan.Summary, error) {
			return w.scan(ctx, k, targets, func(ctx context.Context, batch []scan.Result) error {
				if left.Add(-1) < 0 {
					mortal.Close()
					return fmt.Errorf("killed")
				}
				return sink(ctx, batch)
			})
		}
		s := w.service(short)
		v := w.schedule(s, 2000)
		dying := w.run(w.service(cfg), true, false)
		w.until("the scanner is dead", func() bool { return left.Load() < 0 })
		dying()

		// Another one sends everything, nobody stores it, and the bus is lost.
		stop := w.run(s, true, false)
		w.until("all is sent", func() bool { return w.scanned.Load() >= 700+2000-500 })
		stop()
		check(t, w.bus.Close())
		w.openBus(64 << 20)

		// From now on a scanner stays, and writers are replaced all the time.
		s = w.service(pass.Config{Lease: short.Lease, StoreLease: 2 * time.Second})
		w.run(s, true, false)
		ended := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for n := 1; ; n++ {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(n)*20*time.Millisecond)
				if err := s.Write(ctx); err != nil {
					t.Error(err)
				}
				cancel()
				select {
				case <-ended:
					return
				default:
				}
			}
		})
		p := w.wait(s, v.ID, 2*time.Minute)
		close(ended)
		wg.Wait()
		w.account(p, 2000)
		if p.Summary.Retries == 0 {
			t.Error("nothing was scanned again")
		}
	})
}

func TestCancelledPassStops(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		begun, stopped := make(chan struct{}, 8), make(chan struct{}, 8)
		s := w.service(pass.Config{Lease: 200 * time.Millisecond, Scan: func(ctx context.Context, _ scan.Kind, targets []scan.Target, _ scan.Sink) (scan.Summary, error) {
			begun <- struct{}{}
			<-ctx.Done()
			stopped <- struct{}{}
			return scan.Summary{Targets: len(targets), Remaining: len(targets)}, ctx.Err()
		}})
		v := w.schedule(s, 1000)
		w.run(s, true, true)
		<-begun
		all, err := s.Passes(context.Background(), v.ID, "", 1)
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		p := all[0]
		check(t, s.Cancel(context.Background(), p.ID, time.Now()))
		<-stopped
		if err := s.Cancel(context.Background(), p.ID, time.Now()); !fault.Is(err, fault.Conflict) {
			t.Errorf("cancelled twice: %v", err)
		}
		if got, err := s.Pass(context.Background(), p.ID); err != nil || got.State != pass.Cancelled {
			t.Errorf("%+v %v", got, err)
		}
	})
}

func TestScheduleIsChecked(t *testing.T) {
	w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	s := w.service(pass.Config{})
	good := pass.Schedule{Name: "x", Targets: "a.example\ninventory:*.b.example # all below", Kind: scan.Observe, Period: time.Hour, Enabled: true}
	for name, change := range map[string]func(*pass.Schedule){
		"name":      func(v *pass.Schedule) { v.Name = "a b" },
		"no name":   func(v *pass.Schedule) { v.Name = "" },
		"target":    func(v *pass.Schedule) { v.Targets = "a b" },
		"nothing":   func(v *pass.Schedule) { v.Targets = "# nothing" },
		"kind":      func(v *pass.Schedule) { v.Kind = "look" },
		"period":    func(v *pass.Schedule) { v.Period = time.Second },
		"jitter":    func(v *pass.Schedule) { v.Jitter = 2 * time.Hour },
		"site":      func(v *pass.Schedule) { v.Site = "a b" },
		"too large": func(v *pass.Schedule) { v.Targets = "10.0.0.0/8" },
	} {
		bad := good
		change(&bad)
		if _, err := s.Save(context.Background(), bad, "test", time.Now()); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	made, err := s.Save(context.Background(), good, "test", time.Now())
	check(t, err)
	if _, err := s.Save(context.Background(), good, "test", time.Now()); !fault.Is(err, fault.Conflict) {
		t.Errorf("a name twice: %v", err)
	}
	made.Period = 2 * time.Hour
	if _, err := s.Save(context.Background(), made, "test", time.Now()); err != nil {
		t.Error(err)
	}
	check(t, s.Delete(context.Background(), made.ID, "test", time.Now()))
	if err := s.Delete(context.Background(), made.ID, "test", time.Now()); !fault.Is(err, fault.NotFound) {
		t.Errorf("deleted twice: %v", err)
	}
}
