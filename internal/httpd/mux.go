package httpd

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Mux is a routing table: patterns of net/http's ServeMux to handlers. One
// edge (ACME, the API, ...) registers its routes through a Group, which fixes
// how its problems are spelled.
type Mux struct {
	std     *http.ServeMux
	raw     []rawRoute // few: tried in turn before std
	metrics *Metrics
}

// rawRoute is a route found by the raw request target.
type rawRoute struct {
	prefix string
	route  *route
}

// NewMux returns an empty routing table.
func NewMux(m *Metrics) *Mux { return &Mux{std: http.NewServeMux(), metrics: m} }

// ServeHTTP implements http.Handler. It is meant to run under a Server.
func (m *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for i := range m.raw {
		if strings.HasPrefix(target(r), m.raw[i].prefix) {
			m.raw[i].route.ServeHTTP(w, r)
			return
		}
	}
	m.std.ServeHTTP(w, r)
}

// target returns the request target as it was sent, without the scheme and
// host of the absolute form that proxies use (RFC 9112 section 3.2.2).
func target(r *http.Request) string {
	t := r.RequestURI
	if strings.HasPrefix(t, "/") {
		return t
	}
	if _, rest, ok := strings.Cut(t, "://"); ok {
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			return rest[i:]
		}
		return "/"
	}
	return t
}

// Group is a set of routes that share the spelling of problems.
type Group struct {
	mux   *Mux
	types TypeFunc
	wrap  func(Handler) Handler
}

// Group returns a group of routes. wrap, when not nil, goes around each of
// its handlers: authentication, or headers that every answer carries.
func (m *Mux) Group(types TypeFunc, wrap func(Handler) Handler) *Group {
	return &Group{mux: m, types: types, wrap: wrap}
}

// route is one registered pattern with its meters resolved.
type route struct {
	pattern string
	types   TypeFunc
	handler Handler
	std     http.Handler // instead of handler
	maxBody int64        // of std; 0 = the server's cap
	seconds prometheus.Observer
	total   [6]prometheus.Counter // by status class; [0] is unused
}

// Handle registers a handler. The pattern is a net/http one with its method:
// "POST /acme/{ca}/new-order".
func (g *Group) Handle(pattern string, h Handler) {
	if g.wrap != nil {
		h = g.wrap(h)
	}
	g.mux.std.Handle(pattern, g.mux.route(pattern, &route{types: g.types, handler: h}))
}

// HandleRaw registers a handler for every method and for every target that
// starts with prefix, compared as it was sent: nothing is decoded, cleaned or
// redirected. OCSP GET needs it, whose base64 may hold "//" (RFC 6960 A.1).
// The handler checks the method itself.
func (g *Group) HandleRaw(prefix string, h Handler) {
	if g.wrap != nil {
		h = g.wrap(h)
	}
	rt := g.mux.route(prefix, &route{types: g.types, handler: h})
	g.mux.raw = append(g.mux.raw, rawRoute{prefix, rt})
}

// HandleStd registers a net/http handler, for libraries that write for
// themselves. Its requests are logged, measured and guarded like all others.
// maxBody caps the request body in bytes; 0 = the server's cap.
func (g *Group) HandleStd(pattern string, h http.Handler, maxBody int64) {
	g.mux.std.Handle(pattern, g.mux.route(pattern, &route{types: g.types, std: h, maxBody: maxBody}))
}

// route completes rt with its meters.
func (m *Mux) route(pattern string, rt *route) *route {
	rt.pattern = pattern
	rt.seconds, rt.total = m.metrics.route(pattern)
	return rt
}

// guardBrowser adds what answers to browsers have in common: they are taken for
// what they say they are, and the host is asked for by HTTPS alone from now on
// (RFC 6797), if it has a name that belongs to nobody else on the machine.
func guardBrowser(h http.Header, r *http.Request) {
	h.Set("X-Content-Type-Options", "nosniff")
	if r.TLS == nil {
		return
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil || host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return
	}
	h.Set("Strict-Transport-Security", "max-age=31536000")
}

// ServeHTTP is called by the std mux with the exchange as the writer: that is
// how the state travels without a context look-up.
func (rt *route) ServeHTTP(w http.ResponseWriter, std *http.Request) {
	x, ok := w.(*exchange)
	if !ok {
		http.Error(w, "routes are served by httpd.Server only", http.StatusInternalServerError)
		return
	}
	x.req.Request, x.route = std, rt
	if rt.std != nil {
		std = std.WithContext(x.req.Context())
		std.Body = http.MaxBytesReader(x, std.Body, either(rt.maxBody, x.srv.maxBody))
		guardBrowser(x.Header(), std)
		rt.std.ServeHTTP(x, std)
		return
	}
	reply, err := rt.handler(&x.req)
	if err != nil {
		x.fail(err)
		return
	}
	x.reply(reply)
}

// observe records the finished request.
func (rt *route) observe(d time.Duration, status int) {
	rt.seconds.Observe(d.Seconds())
	if class := status / 100; class > 0 && class < len(rt.total) {
		rt.total[class].Inc()
	}
}
