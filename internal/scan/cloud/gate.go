package cloud

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// inFlight is how many requests each provider gets at once, from all sources
// of the process.
var inFlight = map[string]int{"aws": 32, "azure": 16, "gcp": 16, "kubernetes": 16, "vault": 16, "ct": 32}

// sharedInFlight is how many requests the process sends at once to all
// providers together; it bounds memory.
const sharedInFlight = 64

// Gates are what all requests to providers pass through. One value serves the
// whole process.
type Gates struct {
	shared chan struct{}

	mu        sync.Mutex
	providers map[string]chan struct{}
	buckets   map[string]*Bucket

	requests  *prometheus.CounterVec
	throttles *prometheus.CounterVec
	rate      *prometheus.GaugeVec
	waited    *prometheus.CounterVec
	duration  *prometheus.HistogramVec
}

// NewGates returns gates; reg may be nil.
func NewGates(reg prometheus.Registerer) *Gates {
	labels := []string{"source", "provider", "operation"}
	g := &Gates{shared: make(chan struct{}, sharedInFlight), providers: map[string]chan struct{}{}, buckets: map[string]*Bucket{},
		requests:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chancery_source_requests_total", Help: "Requests to providers of certificates, by outcome."}, append(labels, "outcome")),
		throttles: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chancery_source_throttles_total", Help: "Requests that a provider asked to repeat later."}, labels),
		rate:      prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "chancery_source_rate", Help: "Requests a second that a provider gets at the most now."}, labels),
		waited:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chancery_source_wait_seconds_total", Help: "Time that requests waited for the rate of their provider."}, labels),
		duration:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "chancery_source_request_seconds", Help: "Time of one request to a provider, to the end of its header.", Buckets: prometheus.ExponentialBuckets(0.005, 2, 13)}, labels)}
	if reg != nil {
		reg.MustRegister(g.requests, g.throttles, g.rate, g.waited, g.duration)
	}
	return g
}

// Scope says whose requests a client sends.
type Scope struct {
	Source   string // name in the configuration
	Provider string // aws, azure, gcp, kubernetes, vault
	Account  string
	Region   string
	// Rate of each operation; of "" for those that have none of their own.
	Rates map[string]Rate
	// Hosts are the only ones that requests may go to, host or host:port; nil:
	// any.
	Hosts []string
	// Throttle recognises throttling that is not 429 or 503; nil: there is
	// none. It may look at the first bytes of the body.
	Throttle func(resp *http.Response, body []byte) bool
}

// Client returns an HTTP client whose requests pass through the gates. base is
// the transport behind them; nil: one of its own with the system's roots. No
// redirect is followed: a token must not go to somebody else.
func (g *Gates) Client(scope Scope, base http.RoundTripper) *http.Client {
	if base == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost, t.ResponseHeaderTimeout = 32, time.Minute
		base = t
	}
	return &http.Client{Transport: &gate{g, scope, base}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

type operationKey struct{}

// WithOperation names the operation that the requests of a context are.
func WithOperation(ctx context.Context, operation string) context.Context {
	return context.WithValue(ctx, operationKey{}, operation)
}

func operationOf(ctx context.Context) string {
	if op, ok := ctx.Value(operationKey{}).(string); ok {
		return op
	}
	return "other"
}

// bucket returns the bucket of an operation, which all sources of one account
// and region share.
func (g *Gates) bucket(s *Scope, operation string) *Bucket {
	key := strings.Join([]string{s.Provider, s.Account, s.Region, operation}, "\x00")
	g.mu.Lock()
	defer g.mu.Unlock()
	b := g.buckets[key]
	if b == nil {
		rate, ok := s.Rates[operation]
		if !ok {
			rate = s.Rates[""]
		}
		if rate.PerSecond <= 0 {
			rate = Rate{PerSecond: 5, Burst: 5}
		}
		b = NewBucket(rate, time.Now())
		g.buckets[key] = b
	}
	return b
}

func (g *Gates) provider(name string) chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.providers[name]
	if p == nil {
		p = make(chan struct{}, max(inFlight[name], 8))
		g.providers[name] = p
	}
	return p
}

// gate is the transport of one source.
type gate struct {
	*Gates
	scope Scope
	base  http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *gate) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := t.host(r); err != nil {
		return nil, err
	}
	ctx, operation := r.Context(), operationOf(r.Context())
	labels := []string{t.scope.Source, t.scope.Provider, operation}
	b := t.bucket(&t.scope, operation)
	begin := time.Now()
	if err := b.Wait(ctx); err != nil {
		return nil, err
	}
	t.waited.WithLabelValues(labels...).Add(time.Since(begin).Seconds())
	release, err := t.enter(ctx)
	if err != nil {
		return nil, err
	}
	begin = time.Now()
	resp, err := t.base.RoundTrip(r)
	t.duration.WithLabelValues(labels...).Observe(time.Since(begin).Seconds())
	if err != nil {
		release()
		t.requests.WithLabelValues(append(labels, "failed")...).Inc()
		return nil, err
	}
	outcome := "ok"
	if throttled := t.throttled(resp); throttled {
		outcome = "throttled"
		t.throttles.WithLabelValues(labels...).Inc()
		b.Throttled(time.Now(), RetryAfter(resp.Header, time.Now()))
	} else if b.Succeeded(time.Now()); resp.StatusCode >= 400 {
		outcome = strconv.Itoa(resp.StatusCode/100) + "xx"
	}
	t.requests.WithLabelValues(append(labels, outcome)...).Inc()
	t.rate.WithLabelValues(labels...).Set(b.Rate())
	resp.Body = &body{ReadCloser: resp.Body, left: MaxAnswer, release: release}
	return resp, nil
}

// errElsewhere is the end of a list: the provider lies, or somebody between.
var errElsewhere = errors.New("the provider's answer points to another host")

// host refuses requests to others than the provider: a link of a lying answer
// must not carry a token away.
func (t *gate) host(r *http.Request) error {
	if t.scope.Hosts == nil {
		return nil
	}
	for _, h := range t.scope.Hosts {
		if strings.EqualFold(r.URL.Host, h) {
			return nil
		}
	}
	return fmt.Errorf("%w: %.100q", errElsewhere, r.URL.Host)
}

// enter takes the places of a request: the provider's, then the process's.
func (t *gate) enter(ctx context.Context) (release func(), err error) {
	mine := t.provider(t.scope.Provider)
	select {
	case mine <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case t.shared <- struct{}{}:
	case <-ctx.Done():
		<-mine
		return nil, ctx.Err()
	}
	return sync.OnceFunc(func() { <-t.shared; <-mine }), nil
}

// peeked is how much of a refusal is read to see whether it is a throttle.
const peeked = 8 << 10

func (t *gate) throttled(resp *http.Response) bool {
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		return true
	}
	if t.scope.Throttle == nil || resp.StatusCode < 400 {
		return false
	}
	head, err := io.ReadAll(io.LimitReader(resp.Body, peeked))
	if err != nil {
		return false
	}
	rest := resp.Body
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), rest), rest}
	return t.scope.Throttle(resp, head)
}

// RetryAfter reads the header of that name (RFC 9110 section 10.2.3); 0: it is
// not there, or not readable.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	text := strings.TrimSpace(h.Get("Retry-After"))
	if n, err := strconv.ParseFloat(text, 64); err == nil && n > 0 && n < 1e6 {
		return time.Duration(n * float64(time.Second))
	}
	if at, err := http.ParseTime(text); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}

// ErrTooLong says that an answer is longer than MaxAnswer.
var ErrTooLong = fmt.Errorf("the answer is longer than %d MiB", MaxAnswer>>20)

// body bounds what is read of an answer, and gives the places of its request
// back when it is closed.
type body struct {
	io.ReadCloser
	left    int64
	release func()
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, ErrTooLong
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	return n, err
}

// Close implements io.Closer.
func (b *body) Close() error {
	defer b.release()
	return b.ReadCloser.Close()
}
