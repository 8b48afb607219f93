package chaos

import (
	"bytes"
	"encoding/json"
	"html"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/acme"
	"chancery/internal/fault"
	"chancery/internal/httpd"
	"chancery/internal/obs"
)

// Header is in every answer of a server that misbehaves on purpose.
const Header = "Chancery-Chaos"

// Chaos decides what goes wrong. It is safe for concurrent use.
type Chaos struct {
	spec   Spec
	text   string
	log    *slog.Logger
	faults *prometheus.CounterVec

	mu   sync.Mutex
	rand *rand.Rand
	held map[string]time.Time // order path -> until when it is shown as processing
}

// New returns what spec says. registry and log may be nil.
func New(spec Spec, registry prometheus.Registerer, log *slog.Logger) *Chaos {
	if log == nil {
		log = obs.Discard()
	}
	c := &Chaos{spec: spec, text: spec.String(), log: log, rand: rand.New(rand.NewPCG(spec.Seed, spec.Seed)), held: map[string]time.Time{},
		faults: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chancery_chaos_faults_total", Help: "Faults made on purpose (--chaos)."}, []string{"fault"})}
	if registry != nil {
		registry.MustRegister(c.faults)
	}
	return c
}

// Wrap returns next with faults. Only requests below /acme/ meet them; every
// answer says that they are on.
func (c *Chaos) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(Header, c.text)
		if strings.HasPrefix(r.URL.Path, "/acme/") {
			c.acme(w, r, next)
			return
		}
		p := &page{ResponseWriter: w}
		next.ServeHTTP(p, r)
		p.finish(c.text)
	})
}

// draw is what happens to one request: one number of the sequence per fault,
// so that the rate of one does not move the others.
type draw struct{ limited, unavailable, nonce, lost, slow, processing bool }

func (c *Chaos) draw() draw {
	c.mu.Lock()
	defer c.mu.Unlock()
	hit := func(rate float64) bool { return c.rand.Float64() < rate }
	s := &c.spec
	return draw{hit(s.Limited), hit(s.Unavailable), hit(s.Nonce), hit(s.Lost), hit(s.Slow), hit(s.Processing)}
}

// note counts and logs a fault.
func (c *Chaos) note(r *http.Request, name string) {
	c.faults.WithLabelValues(name).Inc()
	c.log.InfoContext(r.Context(), "chaos", "fault", name, "method", r.Method, "path", r.URL.Path)
}

func (c *Chaos) acme(w http.ResponseWriter, r *http.Request, next http.Handler) {
	d := c.draw()
	post := r.Method == http.MethodPost
	switch {
	case d.limited:
		c.note(r, "429")
		c.refuse(w, r, next, fault.New(fault.RateLimited, "chaos: refused as if a rate limit were exceeded; try again after the time in Retry-After"))
		return
	case d.unavailable:
		c.note(r, "503")
		c.refuse(w, r, next, fault.New(fault.Unavailable, "chaos: refused as if the server were overloaded; try again after the time in Retry-After"))
		return
	case d.nonce && post:
		c.note(r, "nonce")
		c.refuse(w, r, next, fault.New(fault.BadNonce, "chaos: the nonce is refused; send the request again with the one in this answer"))
		return
	}
	rec := &recorder{w: w, header: http.Header{Header: {c.text}}}
	next.ServeHTTP(rec, r)
	order, finalize := strings.CutSuffix(r.URL.Path, "/finalize")
	if finalize && d.slow {
		c.note(r, "slow")
		c.sleep(r)
	}
	if finalize && d.processing && rec.status == http.StatusOK {
		c.hold(order)
	}
	if post && c.holds(order) {
		c.note(r, "processing")
		rec.showProcessing(c.spec.Retry)
	}
	if post && d.lost {
		c.note(r, "lost")
		panic(http.ErrAbortHandler) // closes the connection without an answer
	}
	rec.send()
}

// sleep waits for Delay, or until the client has gone.
func (c *Chaos) sleep(r *http.Request) {
	timer := time.NewTimer(c.spec.Delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
	}
}

// mostHeld bounds the memory of orders.
const mostHeld = 10000

// hold shows an order as processing for a while.
func (c *Chaos) hold(order string) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.held) >= mostHeld {
		for o, until := range c.held {
			if now.After(until) {
				delete(c.held, o)
			}
		}
	}
	if _, known := c.held[order]; !known && len(c.held) < mostHeld { // once: a client must get through
		c.held[order] = now.Add(c.spec.Hold)
	}
}

func (c *Chaos) holds(order string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(c.held[order])
}

// refuse answers with a problem document and, for a request that had a nonce, a
// good one of the server's own.
func (c *Chaos) refuse(w http.ResponseWriter, r *http.Request, next http.Handler, e *fault.Error) {
	if r.Method == http.MethodPost {
		if nonce := freshNonce(r, next); nonce != "" {
			w.Header().Set("Replay-Nonce", nonce)
		}
	}
	if e.Code != fault.BadNonce {
		w.Header().Set("Retry-After", httpd.Seconds(c.spec.Retry))
	}
	body, err := json.Marshal(httpd.NewProblem(e, acme.TypeURI, ""))
	if err != nil {
		panic(http.ErrAbortHandler) // strings and ints only
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(e.Status())
	w.Write(body)
}

// freshNonce asks the server itself: HEAD /acme/{ca}/new-nonce.
func freshNonce(r *http.Request, next http.Handler) string {
	ca, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/acme/"), "/")
	ask := r.Clone(r.Context())
	ask.Method, ask.Body, ask.ContentLength = http.MethodHead, http.NoBody, 0
	ask.URL.Path, ask.URL.RawPath, ask.RequestURI = "/acme/"+ca+"/new-nonce", "", "/acme/"+ca+"/new-nonce"
	rec := &recorder{w: nowhere{}, header: http.Header{}}
	next.ServeHTTP(rec, ask)
	return rec.header.Get("Replay-Nonce")
}

// nowhere is the connection of a request that nobody sent.
type nowhere struct{}

func (nowhere) Header() http.Header         { return http.Header{} }
func (nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (nowhere) WriteHeader(int)             {}

// recorder keeps an answer until it is known what becomes of it. Those of ACME
// are small.
type recorder struct {
	w      http.ResponseWriter
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.w }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
	}
}

func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(b)
}

// showProcessing changes the answer about a valid order into one that is still
// processing (RFC 8555 section 7.4).
func (r *recorder) showProcessing(retry time.Duration) {
	var order map[string]json.RawMessage
	if json.Unmarshal(r.body.Bytes(), &order) != nil || string(order["status"]) != `"valid"` {
		return
	}
	order["status"] = json.RawMessage(`"processing"`)
	delete(order, "certificate")
	delete(order, "star-certificate")
	body, err := json.Marshal(order)
	if err != nil {
		return
	}
	r.body.Reset()
	r.body.Write(body)
	r.header.Del("Content-Length")
	r.header.Set("Retry-After", httpd.Seconds(retry))
}

// send writes what was recorded.
func (r *recorder) send() {
	h := r.w.Header()
	for name, values := range r.header {
		h[name] = values
	}
	r.WriteHeader(http.StatusOK)
	r.w.WriteHeader(r.status)
	r.w.Write(r.body.Bytes())
}

// page lets everything through, and adds a warning to pages.
type page struct {
	http.ResponseWriter
	decided, warn bool
}

// Unwrap lets http.ResponseController reach the connection.
func (p *page) Unwrap() http.ResponseWriter { return p.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (p *page) WriteHeader(status int) {
	if !p.decided && status >= 200 {
		h := p.Header()
		p.decided = true
		p.warn = status == http.StatusOK && strings.HasPrefix(h.Get("Content-Type"), "text/html") && h.Get("Content-Encoding") == ""
		if p.warn {
			h.Del("Content-Length")
			h.Del("Etag")
		}
	}
	p.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (p *page) Write(b []byte) (int, error) {
	if !p.decided {
		p.WriteHeader(http.StatusOK)
	}
	return p.ResponseWriter.Write(b)
}

// finish adds the warning behind the page, which browsers take as its end.
func (p *page) finish(text string) {
	if p.warn {
		p.ResponseWriter.Write([]byte(`<div role="alert" style="position:fixed;bottom:0;left:0;right:0;padding:.5rem;background:#b00020;color:#fff;text-align:center">` +
			`Chaos is on: this server misbehaves on purpose (` + html.EscapeString(text) + `). For tests only.</div>`))
	}
}
