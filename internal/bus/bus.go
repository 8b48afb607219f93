package bus

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/loop"
	"chancery/internal/obs"
)

// Config says where the bus is and what is on it.
type Config struct {
	// URL names an external server, or several of one cluster with commas in
	// between: "nats://user:password@host:4222", "tls://...". Empty: a server
	// is embedded in this process.
	URL string

	// Creds is a NATS credentials file (user JWT and seed), or "".
	Creds string

	// TLS is the client configuration of tls:// URLs; nil: the system's roots.
	TLS *tls.Config

	// Prefix begins the names of all streams and subjects, so that several
	// installations may share a server. Empty: "chancery".
	Prefix string

	// Replicas is how many servers of a cluster keep a copy of each stream.
	// 0: three in a cluster, one otherwise.
	Replicas int

	// Dir is where the embedded server makes its directory, which stays empty.
	// Empty: the system's directory of temporary files.
	Dir string

	Streams []Stream    // all streams that this installation uses
	Caches  []CacheSpec // all caches

	Log     *slog.Logger // nil: discard
	Metrics *Metrics     // nil: not measured
}

// Stream is a queue of work.
type Stream struct {
	Name string // first token of its subjects

	// MaxBytes bounds the messages waiting and in flight. Beyond it Publish
	// refuses. 0: 64 MiB.
	MaxBytes int64

	// MaxAge ends messages that nobody came for. 0: 24 h.
	MaxAge time.Duration

	// Dedup is how long the id of a message is remembered. 0: 2 min.
	Dedup time.Duration

	// Unique keeps at most one message of each subject, waiting or in flight;
	// publishing another is no error and changes nothing. It makes it safe for
	// a sweeper to publish all that is due, again and again, with one subject
	// per row.
	Unique bool
}

// Times that are not worth a setting.
const (
	opTimeout      = 5 * time.Second // one question to the server
	connectTimeout = 2 * time.Second
	pingEvery      = 10 * time.Second // two lost pings end a connection
	drainTimeout   = 10 * time.Second
)

// reconnect spaces attempts to connect, and to set up streams.
var reconnect = loop.Backoff{Base: 50 * time.Millisecond, Max: 2 * time.Second}

// Bus is a connection, and the embedded server if there is one. It is safe for
// concurrent use.
type Bus struct {
	cfg    Config
	log    *slog.Logger
	m      *Metrics
	server *server.Server // embedded; nil: external
	stop   func()         // stops it
	nc     *nats.Conn
	js     jetstream.JetStream
	closed chan struct{} // the connection is closed for good

	ctx   context.Context         // ends with Close
	end   context.CancelCauseFunc // with ErrDown
	wg    sync.WaitGroup          // the maintenance and all consumers
	kick  chan struct{}           // wakes the maintenance
	hints hints

	mu        sync.Mutex // guards what follows
	live      context.Context
	drop      context.CancelCauseFunc // ends live
	ready     bool
	changed   chan struct{} // closed and replaced when ready changes
	err       error         // why it is not ready
	listeners map[*func()]struct{}
}

// Open starts the embedded server and sets up the streams, or begins to
// connect to an external one. An external server that is away is no error:
// see Ready. Errors are those of the configuration.
func Open(ctx context.Context, cfg Config) (*Bus, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("configure bus: %w", err)
	}
	if cfg.URL != "" {
		return connect(cfg, nil, func() {})
	}
	e, err := startEmbedded(cfg.Dir, cfg.memory(), cfg.Log)
	if err != nil {
		return nil, err
	}
	b, err := connect(cfg, e.srv, e.stop)
	if err != nil {
		e.stop()
		return nil, err
	}
	if err := b.Ready(ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// withDefaults checks the configuration and fills in what was left out.
func (c Config) withDefaults() (Config, error) {
	c.Prefix = cmp.Or(c.Prefix, "chancery")
	if c.Log == nil {
		c.Log = obs.Discard()
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(prometheus.NewRegistry())
	}
	if err := checkName("prefix", c.Prefix); err != nil {
		return c, err
	}
	seen := map[string]bool{}
	for _, s := range c.Streams {
		if err := checkName("stream", s.Name); err != nil {
			return c, err
		}
		if seen[s.Name] {
			return c, fmt.Errorf("stream %q is there twice", s.Name)
		}
		seen[s.Name] = true
	}
	for _, s := range c.Caches {
		if err := checkName("cache", s.Name); err != nil {
			return c, err
		}
	}
	for _, u := range strings.Split(c.URL, ",") {
		if _, err := url.Parse(strings.TrimSpace(u)); err != nil {
			return c, errors.New("the URL of the bus cannot be read") // it may hold a password
		}
	}
	return c, nil
}

// memory is the most that the streams and caches may take, with room for what
// the server adds to each.
func (c Config) memory() int64 {
	sum := int64(16 << 20)
	for _, s := range c.Streams {
		sum += s.maxBytes()
	}
	for _, s := range c.Caches {
		sum += s.maxBytes()
	}
	return sum
}

// connect makes the connection and starts the maintenance.
func connect(cfg Config, srv *server.Server, stop func()) (*Bus, error) {
	b := &Bus{
		cfg: cfg, log: cfg.Log, m: cfg.Metrics, server: srv, stop: stop,
		closed: make(chan struct{}), kick: make(chan struct{}, 1), changed: make(chan struct{}),
		listeners: map[*func()]struct{}{}, err: errors.New("not connected yet"),
	}
	b.ctx, b.end = context.WithCancelCause(context.Background())
	b.live, b.drop = context.WithCancelCause(b.ctx)
	b.drop(ErrDown)
	b.hints.bus = b
	nc, err := nats.Connect(cfg.URL, b.options()...)
	if err != nil {
		b.end(ErrDown)
		return nil, fmt.Errorf("connect to bus: %w", err)
	}
	b.nc = nc
	if b.js, err = jetstream.New(nc, jetstream.WithDefaultTimeout(opTimeout)); err != nil {
		b.end(ErrDown)
		nc.Close()
		return nil, fmt.Errorf("connect to bus: %w", err)
	}
	b.wg.Go(b.maintain)
	return b, nil
}

// options are those of the connection.
func (b *Bus) options() []nats.Option {
	opts := []nats.Option{
		nats.Name(b.cfg.Prefix), nats.Timeout(connectTimeout), nats.PingInterval(pingEvery), nats.DrainTimeout(drainTimeout),
		// An external server may come later, restart, or change its mind about
		// us: never give up. Nothing is buffered meanwhile, so that publishers
		// learn at once.
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(), nats.ReconnectBufSize(-1),
		nats.CustomReconnectDelay(reconnect.Delay),
		nats.ConnectHandler(func(*nats.Conn) { b.up() }),
		nats.ReconnectHandler(func(*nats.Conn) { b.m.reconnects.Inc(); b.up() }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { b.downNow(err) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { b.note(err) }),
		nats.ErrorHandler(b.asyncError),
		nats.ClosedHandler(func(*nats.Conn) { close(b.closed) }),
	}
	if b.server != nil {
		opts = append(opts, nats.InProcessServer(b.server))
	}
	if b.cfg.Creds != "" {
		opts = append(opts, nats.UserCredentials(b.cfg.Creds))
	}
	if b.cfg.TLS != nil {
		opts = append(opts, nats.Secure(b.cfg.TLS))
	}
	return opts
}

// up books a new connection.
func (b *Bus) up() {
	b.m.connected.Set(1)
	b.log.Debug("bus connected", "embedded", b.server != nil)
	b.mu.Lock()
	b.drop(ErrDown)
	b.live, b.drop = context.WithCancelCause(b.ctx)
	calls := make([]func(), 0, len(b.listeners))
	for fn := range b.listeners {
		calls = append(calls, *fn)
	}
	b.mu.Unlock()
	for _, fn := range calls {
		fn()
	}
	loop.Nudge(b.kick)
}

// downNow books the loss of the connection: calls under way end.
func (b *Bus) downNow(err error) {
	b.m.connected.Set(0)
	if b.ctx.Err() == nil {
		b.log.Warn("bus connection lost", "error", errText(err))
	}
	b.mu.Lock()
	b.drop(ErrDown)
	b.mu.Unlock()
	b.setReady(false, cmp.Or(err, ErrDown))
}

// errText is the text of an error that may be nil.
func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// note keeps the latest reason for not being connected.
func (b *Bus) note(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

// asyncError hears of errors that belong to no call.
func (b *Bus) asyncError(_ *nats.Conn, sub *nats.Subscription, err error) {
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	if sub != nil && errors.Is(err, nats.ErrSlowConsumer) {
		b.hints.overrun(sub)
	}
	b.log.Warn("bus error", "subject", subject, "error", err.Error())
}

// reason is why the bus is not ready.
func (b *Bus) reason() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// setReady changes readiness and wakes those that wait for it.
func (b *Bus) setReady(ready bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ready && b.live.Err() != nil {
		return // the connection was lost in the meantime
	}
	b.err = err
	if b.ready != ready {
		b.ready = ready
		close(b.changed)
		b.changed = make(chan struct{})
	}
}

// onUp calls fn after each new connection, until ctx ends.
func (b *Bus) onUp(ctx context.Context, fn func()) {
	key := &fn
	b.mu.Lock()
	b.listeners[key] = struct{}{}
	b.mu.Unlock()
	context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.listeners, key)
	})
}

// connection returns a context that ends, with the cause ErrDown, when the
// present connection does.
func (b *Bus) connection() context.Context {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.live
}

// Ready waits until there is a connection and every stream and cache is set
// up, and returns nil. If ctx ends before, it returns an Unavailable error with
// the reason.
func (b *Bus) Ready(ctx context.Context) error {
	for {
		b.mu.Lock()
		ready, changed := b.ready, b.changed
		b.mu.Unlock()
		if ready {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return down(b.reason())
		case <-b.ctx.Done():
			return down(nats.ErrConnectionClosed)
		}
	}
}

// enter counts a consumer that begins to run, unless the bus is closed.
func (b *Bus) enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ctx.Err() != nil {
		return false
	}
	b.wg.Add(1)
	return true
}

// Close waits for handlers that run (end the contexts of consumers first),
// sends what is still to be sent and stops the embedded server.
func (b *Bus) Close() error {
	b.mu.Lock()
	b.end(ErrDown)
	b.mu.Unlock()
	b.wg.Wait()
	var err error
	if b.nc.IsConnected() {
		err = b.nc.Drain()
	}
	if err != nil || !b.nc.IsDraining() {
		b.nc.Close()
	}
	<-b.closed
	b.stop()
	if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		return fmt.Errorf("close bus: %w", err)
	}
	return nil
}
