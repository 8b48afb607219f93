package httpd

import (
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"chancery/internal/fault"
	"chancery/internal/obs"
)

// exchange is one request and its answer, in one allocation. It is the
// http.ResponseWriter that the std mux and std handlers see, so that the
// status and the size are known without another wrapper.
type exchange struct {
	req   Request
	w     http.ResponseWriter // the connection's own writer
	srv   *Server
	route *route // nil until a route was found
	start time.Time

	status  int   // 0 until the header was written
	bytes   int64 // of the body
	quiet   bool  // a success is logged for debugging only
	unknown int   // 404 or 405 that the mux wanted to write as plain text
	err     error // what went wrong, for the log
	span    *obs.Span
	scratch *scratch // nil until some is wanted

	values [8]string // of headers of the answer that have one value
	used   int
}

// set sets a header of the answer, whose key is canonical already.
func (x *exchange) set(h http.Header, key, value string) {
	if x.used == len(x.values) {
		h[key] = []string{value}
		return
	}
	x.values[x.used] = value
	x.used++
	h[key] = x.values[x.used-1 : x.used : x.used]
}

// Header implements http.ResponseWriter.
func (x *exchange) Header() http.Header { return x.w.Header() }

// Unwrap lets http.ResponseController reach the connection.
func (x *exchange) Unwrap() http.ResponseWriter { return x.w }

// WriteHeader implements http.ResponseWriter. What the std mux says about
// paths it does not know is held back: serve answers with a problem instead.
func (x *exchange) WriteHeader(status int) {
	if x.route == nil && x.srv.mux && (status == http.StatusNotFound || status == http.StatusMethodNotAllowed) {
		x.unknown = status
		return
	}
	if x.status == 0 && status >= 200 {
		x.status = status
	}
	x.w.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (x *exchange) Write(b []byte) (int, error) {
	if x.unknown != 0 {
		return len(b), nil
	}
	if x.status == 0 {
		x.status = http.StatusOK
	}
	n, err := x.w.Write(b)
	x.bytes += int64(n)
	return n, err
}

// serve dispatches the request and answers for routes that do not exist.
func (x *exchange) serve(h http.Handler) {
	h.ServeHTTP(x, x.req.Request)
	if status := x.unknown; status != 0 {
		x.unknown, x.route = 0, x.srv.noRoute
		x.w.Header().Del("X-Content-Type-Options")
		x.fail(x.unrouted(status))
	}
}

// unrouted is the fault that stands for the mux's own 404 and 405.
func (x *exchange) unrouted(status int) error {
	if status == http.StatusMethodNotAllowed {
		return fault.New(fault.BadMethod, "%s is not allowed here; use %s", clip(x.req.Method, 32), x.w.Header().Get("Allow"))
	}
	return fault.New(fault.NotFound, "there is nothing at this path")
}

// fail answers with a problem document and remembers err for the log.
func (x *exchange) fail(err error) {
	x.noteError(err)
	x.reply(problemReply(err, x.route.types, x.req.ID()))
}

// noteError remembers the first error of the request for its log event.
func (x *exchange) noteError(err error) {
	if x.err == nil {
		x.err = err
	}
}

// reply writes an answer. It is the only place that does.
func (x *exchange) reply(p *Reply) {
	if p == nil {
		p = &Reply{Status: http.StatusNoContent}
	}
	status, r := either(p.Status, http.StatusOK), &x.req
	if status == http.StatusOK && r.Matches(p.ETag) {
		status = http.StatusNotModified
	}
	h := x.w.Header()
	p.header(x, h, bodyAllowed(status))
	if p.Stream == nil && bodyAllowed(status) {
		x.set(h, "Content-Length", strconv.Itoa(len(p.Body)))
	}
	x.WriteHeader(status)
	switch {
	case r.Method == http.MethodHead || !bodyAllowed(status):
	case p.Stream != nil:
		x.noteError(p.Stream(streamWriter{x}, http.NewResponseController(x.w).Flush))
	case len(p.Body) > 0:
		_, err := x.Write(p.Body)
		x.noteError(err)
	}
}

// streamWriter gives each write of a long answer a deadline of its own, so
// that a stream may last but a reader that stalls may not.
type streamWriter struct{ x *exchange }

// Write implements io.Writer.
func (s streamWriter) Write(b []byte) (int, error) {
	deadline := time.Now().Add(s.x.srv.std.WriteTimeout)
	if err := http.NewResponseController(s.x.w).SetWriteDeadline(deadline); err != nil {
		s.x.srv.log.LogAttrs(s.x.req.Context(), slog.LevelDebug, "stream has no deadline", slog.Any("error", err))
	}
	return s.x.Write(b)
}

var _ io.Writer = streamWriter{}
