package bench

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"chancery/internal/acme/solver"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/fleet/server"
	plug "chancery/internal/issuer"
	"chancery/internal/issuer/acme"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

// AgentsConfig says what a benchmark of parked agents does.
type AgentsConfig struct {
	Program string        // the chancery to run
	Dir     string        // data directory; must be empty or absent
	Environ []string      // of the program
	Agents  int           // how many park
	For     time.Duration // how long the idle server is watched
	Limit   time.Duration // for the crowd to come, and to come back
	// Progress is told how many are parked; may be nil.
	Progress func(stage string, share float64)
}

// Agents measures a chancery of its own with many parked agents: what each
// costs, what the idle server costs, how fast one more agent has a certificate in
// service, and a restart of the server, during which certificates are ordered all
// the time. The figures are of the run; the point is what happened to those orders.
func Agents(ctx context.Context, cfg AgentsConfig) (figures []Figure, p Point, err error) {
	if cfg.Progress == nil {
		cfg.Progress = func(string, float64) {}
	}
	if err := openFiles(uint64(cfg.Agents + spareFiles)); err != nil {
		return nil, p, err
	}
	web := solver.NewHTTP("")
	at, err := freeAddress()
	if err != nil {
		return nil, p, err
	}
	b := &agentsBench{cfg: cfg, web: web, http01: at, Scratch: Scratch{cfg: ScratchConfig{Program: cfg.Program, Dir: cfg.Dir, Environ: cfg.Environ,
		Flags: []string{"--http01-port", at[strings.LastIndexByte(at, ':')+1:]}, Progress: cfg.Progress}}}
	defer func() { err = errors.Join(err, b.Close()) }()
	for _, step := range []func(context.Context) error{b.prepare, b.come, b.idle, b.deployments, b.restart} {
		if err := step(ctx); err != nil {
			return b.Figures, b.point, err
		}
	}
	return b.Figures, b.point, nil
}

// agentsBench is one run.
type agentsBench struct {
	Scratch
	cfg    AgentsConfig
	crowd  *crowd
	cancel context.CancelFunc
	web    *solver.HTTP
	http01 string // address of the responder
	base   float64
	rss    int64
	alone  float64 // cores of the server while it has no agents
	point  Point
}

// Close ends the crowd, then the server.
func (b *agentsBench) Close() error {
	if b.cancel != nil {
		b.cancel()
		b.crowd.done.Wait()
	}
	return b.Scratch.Close()
}

// prepare makes an installation that knows the agents already.
func (b *agentsBench) prepare(ctx context.Context) error {
	if found, err := os.ReadDir(b.cfg.Dir); err == nil && len(found) > 0 {
		return fault.New(fault.Conflict, "%s is not empty; agents that nobody enrolled belong into a directory of their own", b.cfg.Dir)
	}
	if err := os.MkdirAll(b.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("make scratch directory: %w", err)
	}
	if err := b.start(ctx); err != nil {
		return err
	}
	if err := b.stop(); err != nil {
		return err
	}
	b.cfg.Progress("storing agents", 0)
	d, err := db.Open(ctx, db.Config{URL: filepath.Join(b.cfg.Dir, "chancery.db")})
	if err != nil {
		return err
	}
	key, certs, err := server.Seed(ctx, d, b.cfg.Agents, time.Now())
	if err = errors.Join(err, d.Close()); err != nil {
		return err
	}
	if err := b.start(ctx); err != nil {
		return err
	}
	if b.base, err = b.memory(ctx); err != nil {
		return err
	}
	b.rss = b.probe().resident()
	b.cfg.Progress("watching the server alone", 0)
	if b.alone, err = b.cores(ctx, min(b.cfg.For, aloneTime)); err != nil {
		return err
	}
	b.crowd, err = newCrowd(b.listen[0], key, certs)
	return err
}

func (b *agentsBench) probe() *Probe { return &Probe{PIDs: []int{b.Ready.PID}} }

// memory is what the server needs for objects and stacks after a collection, in
// bytes.
func (b *agentsBench) memory(ctx context.Context) (float64, error) {
	if _, err := b.heap(ctx); err != nil {
		return 0, err
	}
	m, err := fetchMetrics(ctx, b.Ready.Metrics, "go_memstats_heap_alloc_bytes", "go_memstats_stack_inuse_bytes")
	return m["go_memstats_heap_alloc_bytes"] + m["go_memstats_stack_inuse_bytes"], err
}

// parked waits until the server holds all questions.
func (b *agentsBench) parked(ctx context.Context, stage string) error {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Limit)
	defer cancel()
	n := 0.0
	for {
		m, err := fetchMetrics(ctx, b.Ready.Metrics, "chancery_agents_parked")
		if err == nil {
			n = m["chancery_agents_parked"]
			b.cfg.Progress(stage, n/float64(b.cfg.Agents))
			if int(n) == b.cfg.Agents {
				return nil
			}
		}
		if err := b.pause(ctx, 100*time.Millisecond); err != nil {
			if ctx.Err() != nil {
				return fault.Wrap(b.crowd.trouble(), fault.Unavailable, "%d of %d agents were parked after %s", int(n), b.cfg.Agents, b.cfg.Limit)
			}
			return err
		}
	}
}

// come measures how fast they connect and what each costs.
func (b *agentsBench) come(ctx context.Context) error {
	run, cancel := context.WithCancel(ctx)
	b.cancel = cancel
	cpu, start := b.probe().serverCPU(), time.Now()
	b.crowd.start(run)
	if err := b.parked(ctx, "agents come"); err != nil {
		return err
	}
	took, n := time.Since(start), float64(b.cfg.Agents)
	b.figure("agents", n, "")
	b.figure("connected and parked", n/took.Seconds(), "agents/s")
	b.figure("server CPU for each", float64(b.probe().serverCPU()-cpu)/1e6/n, "ms")
	after, err := b.memory(ctx)
	if err != nil {
		return err
	}
	b.figure("memory per parked agent", (after-b.base)/n/1024, "KB of heap and stacks")
	b.figure("resident per parked agent", float64(b.probe().resident()-b.rss)/n/1024, "KB")
	return nil
}

// aloneTime is how long the server is watched before there are agents.
const aloneTime = 20 * time.Second

// cores is the CPU that the server uses in d, as a share of one core.
func (b *agentsBench) cores(ctx context.Context, d time.Duration) (float64, error) {
	cpu, start := b.probe().serverCPU(), time.Now()
	err := b.pause(ctx, d)
	return float64(b.probe().serverCPU()-cpu) / float64(time.Since(start)), err
}

// idle measures a server whose agents have nothing to do.
func (b *agentsBench) idle(ctx context.Context) error {
	b.cfg.Progress("watching the idle server", 0)
	asked, start := b.crowd.asked.Load(), time.Now()
	cores, err := b.cores(ctx, b.cfg.For)
	if err != nil {
		return err
	}
	questions := float64(b.crowd.asked.Load()-asked) / time.Since(start).Seconds()
	b.figure("idle", cores, "cores")
	b.figure("idle without agents", b.alone, "cores")
	b.figure("questions while idle", questions, "per second")
	return nil
}

// restart stops the server and starts it again, while certificates are ordered.
func (b *agentsBench) restart(ctx context.Context) (err error) {
	orders, err := b.newOrders(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, orders.close()) }()
	if err := orders.one(ctx); err != nil { // the account, before anything is measured
		return fmt.Errorf("order a certificate: %w", err)
	}
	if err := b.stop(); err != nil {
		return err
	}
	begin := time.Now()
	if err := b.start(ctx); err != nil {
		return err
	}
	b.figure("restart: server answers again after", time.Since(begin).Seconds(), "s")
	work, end := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() { orders.run(work) })
	cpu := b.probe().serverCPU()
	err = b.parked(ctx, "agents come back")
	back := time.Since(begin)
	end()
	all.Wait()
	if err != nil {
		return err
	}
	b.figure("restart: all parked again after", back.Seconds(), "s")
	b.figure("restart: server CPU until then", (b.probe().serverCPU() - cpu).Seconds(), "s")
	b.figure("restart: connections that were refused or lost", float64(b.crowd.lost.Load()), "")
	b.figure("restart: certificates issued meanwhile", float64(orders.ok.Load()), "")
	b.figure("restart: certificates refused meanwhile", float64(orders.failed.Load()), "")
	b.point = Point{Clients: 1, PerSecond: spread([]float64{float64(orders.ok.Load()) / back.Seconds()}), Latency: orders.took.Latency(), Service: orders.took.Latency(), Errors: orders.errors}
	return nil
}

// orders is a client that gets one certificate after the other.
type orders struct {
	issuer     plug.Issuer
	stop       func() error
	n          atomic.Int64
	ok, failed atomic.Int64
	took       Histogram
	errors     map[string]int64
}

// newOrders opens an account at the scratch server. Names below localhost lead
// to loopback there without DNS.
func (b *agentsBench) newOrders(ctx context.Context) (*orders, error) {
	s, err := solver.New(solver.Config{HTTP: b.web})
	if err != nil {
		return nil, err
	}
	ln, err := listen("http-01", b.http01)
	if err != nil {
		return nil, err
	}
	srv := b.web.Server()
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	kept := map[string][]byte{}
	config := acme.Kind.Config().(*acme.Config)
	config.Directory, config.RootsFile = b.Ready.Directory, b.Ready.Root
	i, err := acme.Kind.Open(plug.Env{Name: "bench", Solver: s,
		Keep: func(_ context.Context, name string, value []byte) error { kept[name] = value; return nil },
		Kept: func(_ context.Context, name string) ([]byte, error) { return kept[name], nil }}, config)
	if err != nil {
		return nil, errors.Join(err, srv.Close())
	}
	return &orders{issuer: i, errors: map[string]int64{}, stop: func() error {
		err := srv.Close()
		<-served // it says that it was closed
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return errors.Join(err, s.Close(end))
	}}, nil
}

func (o *orders) close() error { return o.stop() }

// one gets a certificate.
func (o *orders) one(ctx context.Context) error {
	name := fmt.Sprintf("n%d.bench.localhost", o.n.Add(1))
	key, err := keys.Generate(pki.P256)
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{name}}, key)
	if err != nil {
		return fmt.Errorf("make certificate request: %w", err)
	}
	r := &plug.Request{ID: fmt.Sprintf("bench-%d", o.n.Load()), CSR: csr, Identifiers: []pki.Identifier{{Type: pki.DNS, Value: name}}, Urgent: true}
	r.Save = func(_ context.Context, s plug.State) error { r.State = s; return nil }
	for {
		reply, err := o.issuer.Issue(ctx, r)
		if err != nil || len(reply.Chain) > 0 {
			return err
		}
		if err := sleep(ctx, time.Until(reply.PollAt)); err != nil {
			return err
		}
	}
}

// run gets certificates until ctx ends, ten a second at most: the load that a
// server has while its fleet comes back.
func (o *orders) run(ctx context.Context) {
	for {
		start := time.Now()
		err := o.one(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			o.failed.Add(1)
			o.errors[classOf(err)]++
		default:
			o.ok.Add(1)
			o.took.Record(time.Since(start))
		}
		if sleep(ctx, 100*time.Millisecond-time.Since(start)) != nil {
			return
		}
	}
}
