package obs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Debug is the private side of a node:
//
//	/metrics     Prometheus text
//	/livez       200 while the process can serve at all
//	/readyz      200, or 503 with the reason of each check that fails
//	/buildinfo   which program this is, JSON
//	/debug/pprof profiles; mutex and block count while ?seconds=N of them pass
//
// Profiles and build information answer loopback and unix-socket callers
// only, whatever the listener is bound to: a profile holds secrets.
type Debug struct {
	metrics *Metrics
	build   Build
	log     *slog.Logger

	mu     sync.Mutex // guards checks
	checks map[string]Check
}

// Check returns nil when the part it speaks for can serve, and otherwise an
// error whose text an operator can act on. It must honour ctx.
type Check func(ctx context.Context) error

// checkTimeout bounds all readiness checks together; probes commonly give up
// after a second or two, and a late answer is no answer.
const checkTimeout = 900 * time.Millisecond

// NewDebug returns a debug surface with no readiness checks.
func NewDebug(m *Metrics, build Build, log *slog.Logger) *Debug {
	return &Debug{metrics: m, build: build, log: log, checks: map[string]Check{}}
}

// Ready adds or replaces a readiness check.
func (d *Debug) Ready(name string, check Check) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.checks[name] = check
}

// Handler returns the HTTP handler of the surface.
func (d *Debug) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.metrics.Registry, promhttp.HandlerOpts{Registry: d.metrics.Registry}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", d.readyz)
	mux.Handle("GET /buildinfo", local(d.buildinfo))
	mux.Handle("GET /debug/pprof/", local(pprof.Index))
	mux.Handle("GET /debug/pprof/cmdline", local(pprof.Cmdline))
	mux.Handle("GET /debug/pprof/profile", local(pprof.Profile))
	mux.Handle("GET /debug/pprof/symbol", local(pprof.Symbol))
	mux.Handle("GET /debug/pprof/trace", local(pprof.Trace))
	mux.Handle("GET /debug/pprof/mutex", local(while("mutex", func(rate int) { runtime.SetMutexProfileFraction(rate) }, mutexFraction)))
	mux.Handle("GET /debug/pprof/block", local(while("block", runtime.SetBlockProfileRate, blockNanos)))
	return mux
}

// What is counted while a profile of contention is made: one contention of so
// many, and blocking from about so many nanoseconds.
const (
	mutexFraction = 10
	blockNanos    = 10_000
)

// while serves a profile that costs something to keep: it is kept while the
// seconds of a request pass. One request at a time is served, so that none ends
// the profile of another.
func while(name string, keep func(rate int), rate int) http.HandlerFunc {
	profile := pprof.Handler(name)
	var mu sync.Mutex
	return func(w http.ResponseWriter, r *http.Request) {
		if !mu.TryLock() {
			http.Error(w, "another request makes this profile now; try again", http.StatusConflict)
			return
		}
		defer mu.Unlock()
		keep(rate)
		defer keep(0)
		profile.ServeHTTP(w, r)
	}
}

// buildinfo serves the build as JSON.
func (d *Debug) buildinfo(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(d.build); err != nil {
		d.log.Debug("write build info failed", "error", err)
	}
}

// readyz runs every check at once and lists each with its verdict.
func (d *Debug) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	verdicts := d.Verdicts(ctx)
	lines, status := make([]string, 0, len(verdicts)), http.StatusOK
	for name, err := range verdicts {
		if err != nil {
			status = http.StatusServiceUnavailable
			lines = append(lines, fmt.Sprintf("[-] %s: %s", name, err))
			continue
		}
		lines = append(lines, "[+] "+name)
	}
	slices.Sort(lines)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintln(w, strings.Join(append(lines, http.StatusText(status)), "\n"))
}

// Verdicts runs every readiness check concurrently. A check that does not
// return before ctx ends has failed.
func (d *Debug) Verdicts(ctx context.Context) map[string]error {
	d.mu.Lock()
	checks := make(map[string]Check, len(d.checks))
	for name, c := range d.checks {
		checks[name] = c
	}
	d.mu.Unlock()

	type verdict struct {
		name string
		err  error
	}
	results := make(chan verdict, len(checks))
	for name, check := range checks {
		go func() { results <- verdict{name, check(ctx)} }()
	}
	out := make(map[string]error, len(checks))
	for len(out) < len(checks) {
		select {
		case v := <-results:
			out[v.name] = v.err
		case <-ctx.Done():
			for name := range checks {
				if _, done := out[name]; !done {
					out[name] = errors.New("no answer in time")
				}
			}
		}
	}
	return out
}

// local refuses callers that are neither on loopback nor on a unix socket.
func local(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && !ap.Addr().Unmap().IsLoopback() {
			http.Error(w, "only from this host", http.StatusForbidden)
			return
		}
		h(w, r)
	})
}

// Run serves on addr ("host:port", or "unix:/path" with mode 0600) until ctx
// ends.
func (d *Debug) Run(ctx context.Context, addr string) error {
	ln, err := ListenDebug(addr)
	if err != nil {
		return err
	}
	return d.Serve(ctx, ln)
}

// Serve answers on ln until ctx ends. It closes ln.
func (d *Debug) Serve(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           d.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
	// Health must stay visible while the rest drains, so this listener closes
	// abruptly and last; nothing here is worth waiting for.
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	d.log.Info("debug listener ready", "addr", ln.Addr().String())
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve debug: %w", err)
	}
	return nil
}

// ListenDebug opens the listener of a debug address.
func ListenDebug(addr string) (net.Listener, error) {
	path, isUnix := strings.CutPrefix(addr, "unix:")
	if !isUnix {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("listen debug: %w", err)
		}
		return ln, nil
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen debug: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, fmt.Errorf("restrict debug socket: %w", err)
	}
	return ln, nil
}

// removeStale deletes a socket that a killed process left behind. A socket
// that somebody still answers on is an error, and any other file is left for
// the listen to trip over.
func removeStale(path string) error {
	if st, err := os.Lstat(path); err != nil || st.Mode().Type() != os.ModeSocket {
		return nil
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return fmt.Errorf("listen debug: %s is in use by another process", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove stale socket: %w", err)
	}
	return nil
}
