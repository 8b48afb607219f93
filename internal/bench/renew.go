package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/inventory"
	plug "chancery/internal/issuer"
	"chancery/internal/issuer/local"
	"chancery/internal/keys"
	"chancery/internal/pki"
	"chancery/internal/renew"
)

// RenewConfig says what a benchmark of the renewal engine does.
type RenewConfig struct {
	DB        string        // URL of an empty database; "": SQLite in Dir
	Dir       string        // for keys and SQLite; "": a temporary directory
	Scheduled int           // certificates that wait, while their windows are asked for
	For       time.Duration // how long that is measured
	Due       int           // certificates that are due at once; at least 1
	Workers   int           // cap of the CA
}

// RenewReport is what a benchmark of the renewal engine found. CPU is of this
// process, which with SQLite holds the database, too.
type RenewReport struct {
	Engine     string
	Scheduled  int
	SeededIn   float64 // seconds
	CaughtUpIn float64 // seconds, with what fell due while it was seeded
	Claims     int
	LateP50    float64 // ms from due to claimed, of the oldest row of each claim
	LateP99    float64
	Core       float64 // share of one core while certificates wait and are asked for
	Due        int
	DrainedIn  float64 // seconds
	PerSecond  float64
	CPU        float64 // ms per renewal
}

// Figures are what was found of those that wait.
func (r *RenewReport) Figures() []Figure {
	if r.Scheduled == 0 {
		return nil
	}
	return []Figure{{"scheduled", float64(r.Scheduled), ""}, {"seeded in", r.SeededIn, "s"}, {"caught up in", r.CaughtUpIn, "s"}, {"claims", float64(r.Claims), ""},
		{"due to claimed p50", r.LateP50, "ms"}, {"due to claimed p99", r.LateP99, "ms"}, {"CPU while waiting", round4(r.Core * 100), "% of one core"}}
}

// Point is what was found of those that were due at once, an operation each.
func (r *RenewReport) Point() Point {
	cpu := spread([]float64{r.CPU})
	return Point{Clients: 1, Variant: fmt.Sprintf("%d due at once", r.Due), PerSecond: spread([]float64{r.PerSecond}), ServerCPU: &cpu,
		Latency: Latency{Count: int64(r.Due)}, Rounds: []Round{{Seconds: r.DrainedIn, Operations: int64(r.Due), PerSecond: r.PerSecond}}}
}

// Renew measures the renewal engine against a CA of ours, in this process: how
// late what is due is claimed while many certificates wait, what the waiting
// costs, and how fast many that are due at once are renewed with every check
// on.
func Renew(ctx context.Context, cfg RenewConfig) (r RenewReport, err error) {
	r = RenewReport{Scheduled: cfg.Scheduled, Due: cfg.Due}
	if cfg.Dir == "" {
		if cfg.Dir, err = os.MkdirTemp("", "chancery-bench-"); err != nil {
			return r, fmt.Errorf("make directory: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(cfg.Dir)) }()
	}
	b := &renewBench{cfg: cfg}
	if err := b.open(ctx); err != nil {
		return r, errors.Join(err, b.close())
	}
	defer func() { err = errors.Join(err, b.close()) }()
	r.Engine = string(b.db.Engine())
	if cfg.Scheduled > 0 {
		if err := b.wait(ctx, &r); err != nil {
			return r, err
		}
	}
	return r, b.drain(ctx, &r)
}

// renewBench is an installation of its own.
type renewBench struct {
	cfg    RenewConfig
	db     *db.DB
	log    *keys.SignerLog
	keys   *keys.FileStore
	own    plug.Issuer
	engine *renew.Engine

	mu   sync.Mutex
	late []float64 // ms
}

func (b *renewBench) open(ctx context.Context) (err error) {
	url := b.cfg.DB
	if url == "" {
		url = filepath.Join(b.cfg.Dir, "bench.db")
	}
	if b.db, err = db.Open(ctx, db.Config{URL: url}); err != nil {
		return err
	}
	if _, err := b.db.Migrate(ctx, time.Now()); err != nil {
		return err
	}
	if page, err := renew.List(ctx, b.db.Read(), renew.ListQuery{Limit: 1}); err != nil || len(page) > 0 {
		return errors.Join(err, fault.New(fault.Conflict, "the database has managed certificates; give an empty one"))
	}
	pass, err := keys.NewPassphrase([]byte("only for this benchmark"))
	if err != nil {
		return err
	}
	if b.keys, err = keys.OpenFileStore(filepath.Join(b.cfg.Dir, "keys"), pass); err != nil {
		return err
	}
	if b.log, err = keys.OpenSignerLog(filepath.Join(b.cfg.Dir, "signer.log")); err != nil {
		return err
	}
	service, err := ca.Open(ctx, ca.Config{DB: b.db, Keys: b.keys, URLs: ca.URLs{Base: "http://localhost"}, SignerLog: b.log.Append})
	if err != nil {
		return err
	}
	root, err := service.CreateRoot(ctx, ca.Spec{CA: "default", KeyType: pki.P256}, "bench")
	if err != nil {
		return err
	}
	if _, err := service.CreateIssuing(ctx, root.ID, ca.Spec{CA: "default", KeyType: pki.P256}, "bench"); err != nil {
		return err
	}
	profiles, err := service.Register(ctx, ca.DefaultProfiles())
	if err != nil {
		return err
	}
	kind := local.Kind(local.Authorities{Service: service, Describe: func(string) (ca.OperatorConfig, error) {
		return ca.OperatorConfig{Profiles: profiles, Default: "tls"}, nil
	}})
	b.own, err = kind.Open(plug.Env{Name: "own"}, &local.Config{CA: "default", AllowNames: []string{"*.bench.test"}})
	return err
}

func (b *renewBench) close() (err error) {
	if b.log != nil {
		err = b.log.Close()
	}
	if b.db != nil {
		err = errors.Join(err, b.db.Close())
	}
	return err
}

// run runs an engine while fn does.
func (b *renewBench) run(ctx context.Context, fn func(ctx context.Context, e *renew.Engine) error) error {
	b.engine = renew.New(renew.Config{DB: b.db, Inventory: inventory.New(b.db), Secrets: b.keys.Sealer(), Issuers: map[string]*renew.Issuer{
		"own": {Issuer: b.own, Own: true, Workers: b.cfg.Workers}}, OnClaim: func(late time.Duration) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.late = append(b.late, float64(late)/1e6)
	}})
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- b.engine.Run(ctx) }()
	err := fn(ctx, b.engine)
	cancel()
	return errors.Join(err, <-done)
}

// settled waits until no order is waiting or under way, and want certificates
// exist.
func (b *renewBench) settled(ctx context.Context, e *renew.Engine, done func() (bool, error)) error {
	for {
		ok, err := done()
		if err != nil || ok {
			return err
		}
		t := time.NewTimer(20 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// wait measures a fleet that has nothing to do but to be asked for.
func (b *renewBench) wait(ctx context.Context, r *RenewReport) error {
	var like renew.Managed
	err := b.run(ctx, func(ctx context.Context, e *renew.Engine) error {
		m, err := e.Create(ctx, renew.Spec{Name: "first", Names: benchName("first"), Issuer: "own"}, "bench")
		if err != nil {
			return err
		}
		return b.settled(ctx, e, func() (bool, error) {
			like, err = renew.Get(ctx, b.db.Read(), m.ID)
			return like.State == renew.Idle, err
		})
	})
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := renew.Seed(ctx, b.db, like, b.cfg.Scheduled, time.Now()); err != nil {
		return err
	}
	r.SeededIn = round4(time.Since(begin).Seconds())
	return b.run(ctx, func(ctx context.Context, e *renew.Engine) error {
		// What fell due while it was seeded comes first.
		begin, backlog := time.Now(), true
		for backlog && time.Since(begin) < 5*time.Minute {
			pause(ctx, 500*time.Millisecond)
			late, err := e.Late(ctx, "own")
			if err != nil {
				return err
			}
			backlog = late > time.Second
		}
		r.CaughtUpIn = round4(time.Since(begin).Seconds())
		b.mu.Lock()
		b.late = nil
		b.mu.Unlock()
		cpu, at := ownCPU(), time.Now()
		pause(ctx, b.cfg.For)
		r.Core = round4(float64(ownCPU()-cpu) / float64(time.Since(at)))
		b.mu.Lock()
		defer b.mu.Unlock()
		slices.Sort(b.late)
		if r.Claims = len(b.late); r.Claims > 0 {
			r.LateP50, r.LateP99 = round4(b.late[len(b.late)/2]), round4(b.late[len(b.late)*99/100])
		}
		return ctx.Err()
	})
}

// pause waits.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func benchName(label string) []pki.Identifier {
	return []pki.Identifier{{Type: pki.DNS, Value: label + ".bench.test"}}
}

// drain measures certificates that are due at once.
func (b *renewBench) drain(ctx context.Context, r *RenewReport) error {
	idle := renew.New(renew.Config{DB: b.db, Issuers: map[string]*renew.Issuer{"own": {Issuer: b.own}}})
	var specs []renew.Spec
	for i := range b.cfg.Due {
		specs = append(specs, renew.Spec{Names: benchName(fmt.Sprintf("n%d", i)), Issuer: "own"})
	}
	if err := idle.CreateMany(ctx, specs, "bench"); err != nil {
		return err
	}
	return b.run(ctx, func(ctx context.Context, e *renew.Engine) error {
		cpu, at := ownCPU(), time.Now()
		err := b.settled(ctx, e, func() (bool, error) {
			lanes, err := e.Lanes(ctx)
			return err == nil && lanes[0].Waiting == 0 && lanes[0].InFlight == 0, err
		})
		took := time.Since(at)
		r.DrainedIn, r.PerSecond = round4(took.Seconds()), round4(float64(b.cfg.Due)/took.Seconds())
		r.CPU = round4(float64(ownCPU()-cpu) / 1e6 / float64(b.cfg.Due))
		return err
	})
}
