package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"chancery/internal/acme/perspective"
	"chancery/internal/acme/server"
	"chancery/internal/alert"
	"chancery/internal/api"
	"chancery/internal/audit"
	"chancery/internal/bus"
	"chancery/internal/ca"
	"chancery/internal/chaos"
	"chancery/internal/config"
	"chancery/internal/ctwatch"
	"chancery/internal/db"
	"chancery/internal/dns"
	"chancery/internal/fault"
	fleet "chancery/internal/fleet/server"
	"chancery/internal/httpd"
	"chancery/internal/inventory"
	"chancery/internal/inventory/follow"
	"chancery/internal/inventory/importer"
	"chancery/internal/keys"
	"chancery/internal/loop"
	"chancery/internal/obs"
	"chancery/internal/obs/otlp"
	"chancery/internal/pki"
	"chancery/internal/renew"
	"chancery/internal/scan/pass"
	"chancery/internal/scan/source"
	"chancery/internal/status"
	"chancery/internal/token"
)

// Options are what the command line adds to a configuration.
type Options struct {
	Build obs.Build
	Log   *slog.Logger // nil: discard

	// Create makes missing authorities by itself; set by `dev`.
	Create bool

	// Hosts are names that are never asked in DNS; `dev` adds localhost.
	Hosts map[string][]netip.Addr

	// Estate, if positive, is how many invented certificates the inventory is
	// given, once. EstateProgress, if set, is told how many there are.
	Estate         int
	EstateProgress func(made int)

	// ReadyFile, if set, is written when everything serves (see Ready).
	ReadyFile string

	// Chaos, if set, makes the HTTPS listener misbehave. It is for tests of
	// clients, and no configuration key sets it.
	Chaos *chaos.Spec

	// OnReady, if set, is called once at the same moment.
	OnReady func(Ready)
}

// App is a composed program. Close releases what Run did not.
type App struct {
	cfg  *config.Config
	opts Options
	log  *slog.Logger

	paths     paths
	lock      *os.File
	metrics   *obs.Metrics
	loops     *loop.Metrics
	db        *db.DB
	keys      *keys.FileStore // seals small secrets
	stores    *keyStores
	signerLog *keys.SignerLog
	traces    *otlp.Exporter // nil: nothing is traced
	weak      pki.WeakKeys
	ca        *ca.Service
	resolver  *dns.Resolver
	acme      *server.Server

	perspectives *perspective.Set
	status       *status.Service
	journal      *audit.Log
	sessions     *token.Sessions
	checker      *ca.Checker
	renew        *renew.Engine
	responders   responders
	api          *api.Server
	https        *httpsCert
	fleet        *fleet.Server
	agents       *fleetIssuer // what agents may have

	inventory *inventory.Store
	follower  *follow.Follower // with the role writer
	watches   []*importer.Watch
	scanDNS   *dns.Resolver
	passes    *pass.Service
	alerts    *alert.Service
	sources   *source.Service
	ct        *ctwatch.Service

	bus     *bus.Bus
	replica uint32 // this process, among those of the bus
	wake    wakes
}

// New opens the data directory, the database, the keys and the authorities,
// and prepares every edge; it listens to nothing yet. On error everything that
// was opened is closed again.
func New(ctx context.Context, cfg *config.Config, opts Options) (_ *App, err error) {
	if opts.Log == nil {
		opts.Log = obs.Discard()
	}
	for name := range cfg.Certificate {
		return nil, cfg.Locate("certificate."+name, errors.New("is for agents; on a server say `chancery order`"))
	}
	a := &App{cfg: cfg, opts: opts, log: opts.Log, metrics: obs.NewMetrics(opts.Build), wake: newWakes()}
	a.loops = loop.NewMetrics(a.metrics.Registry)
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	for _, step := range []func(context.Context) error{a.openTraces, a.openStorage, a.openCA, a.openBus, a.openInventory, a.openScan, a.openSources, a.openCT, a.openAlerts, a.openEdges} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// openStorage opens the data directory, the database and the key store.
func (a *App) openStorage(ctx context.Context) (err error) {
	if a.paths, a.lock, err = openData(a.cfg.Server.Data); err != nil {
		return err
	}
	dc := dbConfig(a.cfg, a.paths)
	dc.Observe = func(name string, d time.Duration, _ error) { a.metrics.Query(name).Observe(d.Seconds()) }
	if a.db, err = db.Open(ctx, dc); err != nil {
		return err
	}
	if _, err = a.db.Migrate(ctx, time.Now()); err != nil {
		return err
	}
	if a.stores, err = openKeyStores(ctx, a.cfg, a.paths, a.log, a.loops); err != nil {
		return err
	}
	a.keys = a.stores.file
	if a.journal, err = openJournal(ctx, a.cfg, a.db, a.keys); err != nil {
		return err
	}
	a.signerLog, err = keys.OpenSignerLog(a.paths.signerLog())
	return err
}

// loadCA loads the authorities.
func (a *App) loadCA(ctx context.Context) (err error) {
	logs, err := a.ctLogs()
	if err != nil {
		return err
	}
	if a.weak, err = weakKeys(a.cfg.ACME.WeakKeyFiles); err != nil {
		return err
	}
	refuse, err := a.openPolicies(ctx)
	if err != nil {
		return err
	}
	a.ca, err = ca.Open(ctx, ca.Config{DB: a.db, Keys: a.stores.all, ResponderKeys: a.stores.responders, URLs: ca.URLs{Base: a.cfg.Server.HTTPURL}, Trust: trusts(a.cfg),
		SignerLog: a.signerLog.Append, Submit: logs, WeakKeys: a.weak, Refuse: refuse, Log: a.log})
	return err
}

// openCA loads the authorities, and makes those that are missing if allowed.
func (a *App) openCA(ctx context.Context) (err error) {
	if err := a.loadCA(ctx); err != nil {
		return err
	}
	if err := ensureAuthorities(ctx, a.cfg, a.ca, a.opts.Create); err != nil {
		return err
	}
	return writeFile(a.paths.root(), rootPEM(a.ca), 0o644)
}

// Metrics is the registry of everything that the program measures.
func (a *App) Metrics() *prometheus.Registry { return a.metrics.Registry }

// Close releases everything that New opened.
func (a *App) Close() error {
	var errs []error
	if a.acme != nil {
		errs = append(errs, a.acme.Close())
	}
	a.perspectives.Close()
	errs = append(errs, a.closeSolver())
	if a.resolver != nil {
		a.resolver.Close()
	}
	if a.scanDNS != nil {
		a.scanDNS.Close()
	}
	for _, w := range a.watches {
		errs = append(errs, w.Close())
	}
	if a.bus != nil {
		errs = append(errs, a.bus.Close())
	}
	if a.db != nil {
		errs = append(errs, a.db.Close())
	}
	if a.stores != nil {
		errs = append(errs, a.stores.Close())
	}
	if a.signerLog != nil {
		errs = append(errs, a.signerLog.Close())
	}
	if a.lock != nil {
		errs = append(errs, a.lock.Close())
	}
	errs = append(errs, a.closeTraces())
	return errors.Join(errs...)
}

// Run serves until ctx ends, then drains. It closes the App.
func (a *App) Run(ctx context.Context) error {
	defer a.Close()
	if a.traces != nil {
		ctx = obs.WithTracer(ctx, a.traces.Tracer())
	}
	listeners, err := a.listen()
	if err != nil {
		return err
	}
	// Loops outlive the servers by design: what a request in flight needs must
	// run until the last one is answered.
	loopCtx, stopLoops := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLoops()
	servers, serveCtx := errgroup.WithContext(ctx)
	defer context.AfterFunc(serveCtx, func() { a.api.Drain(); a.fleet.Drain() })()
	background, _ := errgroup.WithContext(loopCtx)
	background.Go(func() error { a.attend(loopCtx); return nil })
	if a.has(config.RoleWriter) {
		background.Go(func() error { return a.passes.Write(loopCtx) })
	}
	for _, l := range a.backgroundLoops() {
		background.Go(func() error { return l.Run(loopCtx) })
	}
	if a.renews() {
		background.Go(func() error { return a.renew.Run(loopCtx) })
	}
	for _, l := range listeners {
		servers.Go(func() error { return l.server.Run(serveCtx, l.ln) })
	}
	if err := a.serveDebug(serveCtx, servers); err != nil {
		return err
	}
	if err := a.serveChallenges(serveCtx, servers); err != nil {
		return err
	}
	if err := a.serveMail(serveCtx, servers); err != nil {
		return err
	}
	if err := a.announce(listeners); err != nil {
		return err
	}
	err = servers.Wait()
	stopLoops()
	err = errors.Join(err, background.Wait())
	a.shareLimits(ctx)
	if a.opts.ReadyFile != "" {
		err = errors.Join(err, ignoreMissing(os.Remove(a.opts.ReadyFile)))
	}
	return err
}

// shareLimits tells what was spent of limits at the end of the process.
func (a *App) shareLimits(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	for {
		n, err := a.acme.ShareLimits(ctx, time.Now())
		if err != nil {
			a.log.WarnContext(ctx, "a restart forgives what was spent of limits lately", "error", err)
		}
		if err != nil || !n.More {
			return
		}
	}
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// listener is an open socket and the server behind it.
type listener struct {
	name   string
	ln     net.Listener
	server *httpd.Server
}

// listen opens all sockets before anything is served, so that a taken port
// stops the start and nothing is half up.
func (a *App) listen() ([]listener, error) {
	httpMetrics := httpd.NewMetrics(a.metrics.Registry)
	secure := httpd.NewMux(httpMetrics)
	a.acme.Routes(secure)
	a.api.Routes(secure)
	if a.has(config.RoleAgents) {
		a.fleet.Routes(secure)
	}
	if err := a.homeRoutes(secure); err != nil {
		return nil, err
	}
	plain := httpd.NewMux(httpMetrics)
	a.status.Routes(plain)
	s := a.cfg.Server
	base := httpd.Config{MaxBody: a.cfg.ACME.MaxBody, MaxHeader: int(s.MaxHeader), ReadTimeout: s.ReadTimeout, WriteTimeout: s.WriteTimeout,
		IdleTimeout: s.IdleTimeout, Grace: s.ShutdownGrace, TrustedProxies: s.TrustedProxies, Log: a.log, Metrics: httpMetrics}
	var out []listener
	open := func(name, addr string, cfg httpd.Config) error {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return fault.Wrap(err, fault.Conflict, "cannot listen on %s for %s; stop what uses it, or choose another address", addr, name)
		}
		cfg.Name = name
		out = append(out, listener{name, ln, httpd.New(cfg)})
		return nil
	}
	https := base
	https.Handler, https.TLS, https.HTTP2 = secure, fleet.TLS(a.https.certs.TLS()), s.HTTP2
	if a.opts.Chaos != nil {
		https.Outside = chaos.New(*a.opts.Chaos, a.metrics.Registry, a.log).Wrap
	}
	err := open("https", s.Listen, https)
	if err == nil && s.HTTPListen != "" {
		http := base
		http.Handler = plain
		err = open("http", s.HTTPListen, http)
	}
	if err != nil {
		for _, l := range out {
			err = errors.Join(err, l.ln.Close())
		}
		return nil, err
	}
	return out, nil
}

// serveDebug starts the private listener.
func (a *App) serveDebug(ctx context.Context, g *errgroup.Group) error {
	if a.cfg.Server.DebugListen == "" {
		return nil
	}
	d := obs.NewDebug(a.metrics, a.opts.Build, a.log)
	d.Ready("database", a.db.Ping)
	d.Ready("authorities", func(context.Context) error {
		for name := range a.cfg.CA {
			if _, err := a.ca.Issuing(name); err != nil {
				return err
			}
		}
		return nil
	})
	d.Ready("status", a.status.Ready)
	ln, err := obs.ListenDebug(a.cfg.Server.DebugListen)
	if err != nil {
		return fault.Wrap(err, fault.Conflict, "cannot listen on %s for server.debug_listen; stop what uses it, or choose another address", a.cfg.Server.DebugListen)
	}
	g.Go(func() error { return d.Serve(ctx, ln) })
	return nil
}

// backgroundLoops lists every loop of the process.
func (a *App) backgroundLoops() []loop.Every {
	every := func(name string, interval time.Duration, tick loop.Tick) loop.Every {
		return loop.Every{Name: name, Interval: interval, Tick: tick, Log: a.log, Metrics: a.loops}
	}
	woken := func(wake <-chan struct{}, l loop.Every) loop.Every { l.Wake = wake; return l }
	loops := []loop.Every{
		woken(a.wake.sequence, every("audit.sequence", 300*time.Millisecond, a.sequence)),
		every("audit.checkpoint", time.Minute, func(ctx context.Context) (loop.Count, error) {
			n, more, err := a.journal.Tick(ctx, time.Now())
			return loop.Count{Claimed: n, Done: n, More: more}, err
		}),
		woken(a.wake.reload, every("ca.reload", 15*time.Second, func(ctx context.Context) (loop.Count, error) {
			return loop.Count{}, a.ca.Reload(ctx)
		})),
		every("ca.recover", time.Minute, func(ctx context.Context) (loop.Count, error) {
			n, err := a.ca.Recover(ctx, time.Now().Add(-claimLease))
			return loop.Count{Claimed: n, Done: n}, err
		}),
		every("acme.recover", 5*time.Second, func(ctx context.Context) (loop.Count, error) {
			n, err := a.acme.Recover(ctx, time.Now().Add(-claimLease))
			return loop.Count{Claimed: n, Done: n}, err
		}),
		every("acme.renew_star", 5*time.Second, func(ctx context.Context) (loop.Count, error) {
			return a.acme.RenewStar(ctx, time.Now())
		}),
		every("acme.mail", time.Second, func(ctx context.Context) (loop.Count, error) {
			return a.acme.SendMail(ctx, time.Now())
		}),
		woken(a.wake.limits, every("acme.limits", 10*time.Second, func(ctx context.Context) (loop.Count, error) {
			return loop.Count{}, a.acme.ReloadOverrides(ctx, time.Now())
		})),
		every("acme.spent", 2*time.Second, func(ctx context.Context) (loop.Count, error) {
			return a.acme.ShareLimits(ctx, time.Now())
		}),
		every("acme.expire", 10*time.Minute, func(ctx context.Context) (loop.Count, error) {
			return a.acme.Expire(ctx, time.Now())
		}),
		every("app.https_certificate", time.Hour, a.https.tick),
	}
	loops = append(loops, a.accessLoops(every)...)
	loops = append(loops, a.inventoryLoops()...)
	loops = append(loops, a.policyLoop())
	loops = append(loops, a.scanLoops()...)
	loops = append(loops, a.renewLoops()...)
	loops = append(loops, a.alertLoops()...)
	if a.has(config.RoleAgents) {
		loops = append(loops, a.fleet.Loops(a.log, a.loops)...)
	}
	loops = append(loops, a.sourceLoops()...)
	loops = append(loops, a.ctLoops()...)
	return append(loops, a.statusLoops()...)
}

// sequence gives entries of the journal their place and says so: whoever
// follows the journal need not wait for its next look.
func (a *App) sequence(ctx context.Context) (loop.Count, error) {
	n, err := audit.Sequence(ctx, a.db, sequenceBatch)
	if n > 0 {
		a.bus.Notify(hintJournal, nil)
	}
	return loop.Count{Claimed: n, Done: n, More: n == sequenceBatch}, err
}

const (
	// sequenceBatch is the most journal entries placed in one transaction.
	sequenceBatch = 1000
	// claimLease is how long an issuance may be under way before another
	// replica takes its order over.
	claimLease = 30 * time.Second
)

// recoverNow resumes what a crash of this process left behind.
func (a *App) recoverNow(ctx context.Context) error {
	before := time.Now().Add(-claimLeaseFor(a.db.Engine()))
	n, err := a.acme.Recover(ctx, before)
	if err != nil {
		return fmt.Errorf("recover orders: %w", err)
	}
	m, err := a.ca.Recover(ctx, before)
	if err != nil {
		return fmt.Errorf("recover serials: %w", err)
	}
	if err := a.signJournal(ctx); err != nil {
		return err
	}
	if n+m > 0 {
		a.log.InfoContext(ctx, "recovered interrupted issuances", "orders", n, "serials", m)
	}
	return nil
}
