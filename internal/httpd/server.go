package httpd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"chancery/internal/obs"
)

// Config says how a Server behaves. The zero value of each field works.
type Config struct {
	// Name labels log lines: "https", "http".
	Name string

	// Handler answers; usually a *Mux.
	Handler http.Handler

	// TLS, when set, wraps every listener. Use Certificates.TLS for one that
	// can be swapped while serving.
	TLS *tls.Config

	// HTTP2 also offers h2 on TLS. It is off by default: for ACME's few,
	// small, sequential requests it costs twice the CPU and saves nothing.
	HTTP2 bool

	// MaxBody caps what ReadBody and std handlers accept, in bytes; 0 = 64 KiB.
	MaxBody int64

	// MaxHeader caps the request header, in bytes; 0 = 16 KiB.
	MaxHeader int

	// ReadTimeout bounds reading one request, header and body; 0 = 15 s.
	ReadTimeout time.Duration

	// WriteTimeout bounds handling one request and writing its reply; 0 = 60 s.
	// Streams lift it for themselves.
	WriteTimeout time.Duration

	// IdleTimeout is how long a kept-alive connection may wait; 0 = 2 min.
	IdleTimeout time.Duration

	// Grace is how long requests in flight may take once the server is told
	// to stop; 0 = 15 s. New connections are refused at once.
	Grace time.Duration

	// TrustedProxies are the peers whose X-Forwarded-For is believed. None by
	// default: a header that anybody can send must not choose the address
	// that rate limits and the audit log see.
	TrustedProxies []netip.Prefix

	// Outside, if set, goes around the whole server: what it answers by itself
	// is neither logged nor measured here.
	Outside func(http.Handler) http.Handler

	Log     *slog.Logger // nil: discard
	Metrics *Metrics     // nil: not measured
}

// Server serves one handler on any number of listeners.
type Server struct {
	std     http.Server
	handler http.Handler
	name    string
	maxBody int64
	grace   time.Duration
	trusted []netip.Prefix
	log     *slog.Logger
	metrics *Metrics
	tracer  *obs.Tracer // set by Run; nil: nothing is traced
	mux     bool        // handler is a Mux, whose 404 and 405 become problems
	noRoute *route      // stands for requests that match nothing
}

// New returns a server. It opens nothing.
func New(cfg Config) *Server {
	s := &Server{
		handler: cfg.Handler, name: cfg.Name, trusted: cfg.TrustedProxies, log: cfg.Log, metrics: cfg.Metrics,
		maxBody: either(cfg.MaxBody, 64<<10), grace: either(cfg.Grace, 15*time.Second),
	}
	_, s.mux = cfg.Handler.(*Mux)
	if s.log == nil {
		s.log = obs.Discard()
	}
	if s.metrics == nil {
		s.metrics = NewMetrics(prometheus.NewRegistry())
	}
	s.noRoute = &route{types: OwnTypes}
	s.noRoute.seconds, s.noRoute.total = s.metrics.route("none")
	s.std = http.Server{
		Handler:           s,
		ReadTimeout:       either(cfg.ReadTimeout, 15*time.Second),
		ReadHeaderTimeout: min(either(cfg.ReadTimeout, 15*time.Second), 10*time.Second),
		WriteTimeout:      either(cfg.WriteTimeout, time.Minute),
		IdleTimeout:       either(cfg.IdleTimeout, 2*time.Minute),
		MaxHeaderBytes:    either(cfg.MaxHeader, 16<<10),
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // handshakes of port scanners
		Protocols:         protocols(cfg.HTTP2),
		TLSConfig:         cfg.TLS,
		// OPTIONS * and paths must reach our handler like everything else.
		DisableGeneralOptionsHandler: true,
	}
	if cfg.Outside != nil {
		s.std.Handler = cfg.Outside(s)
	}
	return s
}

// either returns v, or def when v is zero.
func either[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// protocols returns HTTP/1.1, and h2 over TLS when asked for.
func protocols(h2 bool) *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetHTTP2(h2)
	return p
}

// Run serves on every listener until ctx ends, then lets requests in flight
// finish for at most the grace period. It closes the listeners and returns
// nil after a clean drain, an error when requests had to be cut off.
func (s *Server) Run(ctx context.Context, listeners ...net.Listener) error {
	s.tracer = obs.TracerOf(ctx)
	// Requests outlive ctx by the grace period, so they only inherit values.
	s.std.BaseContext = func(net.Listener) context.Context { return context.WithoutCancel(ctx) }
	g, running := errgroup.WithContext(ctx)
	for _, ln := range listeners {
		s.log.Info("listening", "listener", s.name, "addr", ln.Addr().String())
		g.Go(func() error { return s.serve(ln) })
	}
	g.Go(func() error {
		<-running.Done()
		return s.drain()
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("serve %s: %w", s.name, err)
	}
	return nil
}

// serve accepts on one listener until the server is shut down.
func (s *Server) serve(ln net.Listener) error {
	run := s.std.Serve
	if s.std.TLSConfig != nil {
		run = func(ln net.Listener) error { return s.std.ServeTLS(ln, "", "") }
	}
	if err := run(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// drain stops accepting, waits for requests in flight, and cuts the rest.
func (s *Server) drain() error {
	ctx, cancel := context.WithTimeout(context.Background(), s.grace)
	defer cancel()
	err := s.std.Shutdown(ctx)
	if err == nil {
		return nil
	}
	s.std.Close()
	return fmt.Errorf("drain: requests were cut off after %s: %w", s.grace, err)
}

// ServeHTTP wraps one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, std *http.Request) {
	x := &exchange{w: w, srv: s, start: time.Now()}
	x.req.Request, x.req.x, x.req.ClientIP = std, x, clientIP(std, s.trusted)
	ctx, span, trace := s.tracer.Serve(std.Context(), std.Method, std.Header.Get(obs.TraceparentHeader))
	x.span = span
	x.req.event.Init(ctx, newID(), trace)
	x.set(w.Header(), "X-Request-Id", x.req.event.RequestID)
	s.metrics.inFlight.Inc()
	defer x.finish()
	x.serve(s.handler)
}

// finish recovers, measures and logs. It is deferred directly, so that
// recover works.
func (x *exchange) finish() {
	p := recover()
	if p != nil {
		x.recovered(p)
	}
	d := time.Since(x.start)
	x.srv.metrics.inFlight.Dec()
	x.status = either(x.status, http.StatusOK) // nothing written: net/http sends 200
	if x.route != nil {
		x.route.observe(d, x.status)
	}
	x.trace()
	x.log(d)
	x.release()
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p) // how std handlers drop a connection on purpose
	}
}

// recovered turns a panic into a 500, if the header is not out yet.
func (x *exchange) recovered(p any) {
	err := fmt.Errorf("handler panicked: %v", p)
	if cause, ok := p.(error); ok && errors.Is(cause, http.ErrAbortHandler) {
		x.noteError(cause)
		return
	}
	x.srv.metrics.panics.Inc()
	x.srv.log.LogAttrs(x.req.Context(), slog.LevelError, "handler panicked",
		slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
	if x.status == 0 {
		x.route = either(x.route, x.srv.noRoute)
		x.fail(err)
		return
	}
	x.noteError(err)
}

// trace ends the span of the request. It is named by its route, never by its
// path, which a stranger chose.
func (x *exchange) trace() {
	if x.span == nil {
		return
	}
	if x.route != nil && x.route.pattern != "" {
		x.span.Name(x.route.pattern)
		x.span.Str("http.route", x.route.pattern)
	}
	x.span.Str("http.request.method", clip(x.req.Method, 32))
	x.span.Int("http.response.status_code", x.status)
	x.span.Str("chancery.listener", x.srv.name)
	x.span.Str("chancery.request_id", x.req.event.RequestID)
	err := x.err
	if err == nil && x.status >= 500 {
		err = fmt.Errorf("answered with %d", x.status)
	}
	x.span.End(err)
}

// log writes the one wide event. The caller's faults are info like success,
// because anybody can cause them at will; ours are errors.
func (x *exchange) log(d time.Duration) {
	level := slog.LevelInfo
	if x.quiet && x.status < 400 && x.err == nil {
		level = slog.LevelDebug
	}
	if x.status >= 500 && x.status != http.StatusServiceUnavailable {
		level = slog.LevelError
	}
	ctx, log := x.req.Context(), x.srv.log
	if !log.Enabled(ctx, level) {
		return
	}
	pattern := ""
	if x.route != nil {
		pattern = x.route.pattern
	}
	var few [16]slog.Attr
	attrs := append(few[:0],
		slog.String("listener", x.srv.name),
		slog.String("method", clip(x.req.Method, 32)),
		slog.String("route", pattern),
		slog.String("path", clip(x.req.URL.Path, 256)),
		slog.Int("status", x.status),
		slog.Int64("bytes", x.bytes),
		slog.Int64("duration_us", d.Microseconds()),
		slog.String("remote", x.req.ClientIP.String()),
	)
	if x.err != nil {
		attrs = append(attrs, slog.String("error", x.err.Error()))
	}
	// What a Logger would do, but for the place in the source, which says nothing
	// here, and with all attributes at once.
	x.req.event.Attrs(func(a slog.Attr) { attrs = append(attrs, a) })
	record := slog.NewRecord(time.Now(), level, "request", 0)
	record.AddAttrs(attrs...)
	_ = log.Handler().Handle(context.Background(), record) // as a Logger does
}

// clip bounds text that a stranger chose.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}
