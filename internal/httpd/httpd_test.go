package httpd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/fault"
	"chancery/internal/obs"
)

// fixture is a server on a memory listener with its log lines.
type fixture struct {
	client *http.Client
	lines  *bytes.Buffer // whole after stop
	reg    *prometheus.Registry
	mem    *Memory
	stop   func() error
}

// serve runs a server with routes and cfg until the test ends.
func serve(t testing.TB, cfg Config, routes func(*Mux)) *fixture {
	t.Helper()
	f := &fixture{lines: new(bytes.Buffer), reg: prometheus.NewRegistry(), mem: NewMemory()}
	m := NewMetrics(f.reg)
	if routes != nil {
		mux := NewMux(m)
		routes(mux)
		cfg.Handler = mux
	}
	cfg.Metrics = m
	if cfg.Log == nil {
		cfg.Log = obs.NewLogger(f.lines, obs.JSON, slog.LevelInfo)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	srv := New(cfg)
	go func() { done <- srv.Run(ctx, f.mem) }()
	f.client = f.mem.Client(nil)
	stopped := false
	f.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		f.client.CloseIdleConnections()
		return <-done
	}
	t.Cleanup(func() { f.stop() })
	return f
}

// do sends a request and returns the response with its body.
func (f *fixture) do(t testing.TB, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := f.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(text)
}

// event returns the n-th "request" line of the log, after stopping.
func (f *fixture) event(t testing.TB, n int) map[string]any {
	t.Helper()
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(f.lines.String()) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("log line is not JSON: %s", line)
		}
		if e["msg"] == "request" {
			if n--; n < 0 {
				return e
			}
		}
	}
	t.Fatalf("no such request line in %s", f.lines)
	return nil
}

// problem decodes a problem document.
func problem(t testing.TB, res *http.Response, body string) Problem {
	t.Helper()
	if ct := res.Header.Get("Content-Type"); ct != "application/problem+json" {
		t.Fatalf("content type %q, want a problem; body %s", ct, body)
	}
	var p Problem
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestReplyAndEvent(t *testing.T) {
	f := serve(t, Config{Name: "https"}, func(m *Mux) {
		m.Group(OwnTypes, nil).Handle("GET /certs/{id}", func(r *Request) (*Reply, error) {
			obs.Set(r.Context(), slog.String("account", "acct-1"))
			r.SetHeader("Replay-Nonce", "n1")
			return JSON(http.StatusCreated, map[string]string{"id": r.PathValue("id")})
		})
	})
	res, body := f.do(t, "GET", "http://x/certs/42", "", "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if res.StatusCode != 201 || body != `{"id":"42"}` || res.Header.Get("Content-Type") != "application/json" || res.Header.Get("Replay-Nonce") != "n1" {
		t.Fatalf("got %d %v %s", res.StatusCode, res.Header, body)
	}
	e := f.event(t, 0)
	want := map[string]any{
		"listener": "https", "method": "GET", "route": "GET /certs/{id}", "path": "/certs/42", "status": 201.0, "bytes": 11.0,
		"remote": "127.0.0.1", "account": "acct-1", "request_id": res.Header.Get("X-Request-Id"), "trace_id": "0af7651916cd43dd8448eb211c80319c",
		"level": "INFO", "msg": "request",
	}
	delete(e, "time")
	delete(e, "duration_us")
	if diff := cmp.Diff(want, e); diff != "" {
		t.Error(diff)
	}
}

func TestFaultsBecomeProblems(t *testing.T) {
	cause := errors.New("connect to 10.0.0.7: password hunter2")
	errs := map[string]error{
		"/public":  fault.New(fault.BadCSR, "the key is too small").WithSub(fault.Sub{Code: fault.DNS, Detail: "no such name", IdentifierType: "dns", IdentifierValue: "a.example"}),
		"/wrapped": fmt.Errorf("finalize order: %w", fault.Wrap(cause, fault.Unavailable, "the database is away").Retry(1500*time.Millisecond)),
		"/private": cause,
		"/busy":    fault.New(fault.RateLimited, "too fast"),
		"/own":     fault.New(fault.NotFound, "no such order"),
	}
	f := serve(t, Config{}, func(m *Mux) {
		for path, err := range errs {
			m.Group(OwnTypes, nil).Handle("POST "+path, func(r *Request) (*Reply, error) {
				r.SetHeader("Replay-Nonce", "fresh")
				return nil, err
			})
		}
	})
	for _, c := range []struct {
		path   string
		status int
		typ    string
		retry  string
		detail string
	}{
		{"/public", 400, "urn:chancery:error:badCSR", "", "the key is too small"},
		{"/wrapped", 503, "urn:chancery:error:unavailable", "2", "the database is away"},
		{"/private", 500, "urn:chancery:error:serverInternal", "", "internal error; the server's log has the cause under this request's id"},
		{"/busy", 429, "urn:chancery:error:rateLimited", "5", "too fast"},
		{"/own", 404, "urn:chancery:error:notFound", "", "no such order"},
	} {
		res, body := f.do(t, "POST", "http://x"+c.path, "")
		p := problem(t, res, body)
		if res.StatusCode != c.status || p.Status != c.status || p.Type != c.typ || p.Detail != c.detail || res.Header.Get("Retry-After") != c.retry {
			t.Errorf("%s: %d %q %+v", c.path, res.StatusCode, res.Header.Get("Retry-After"), p)
		}
		if strings.Contains(body, "hunter2") {
			t.Errorf("%s: the private cause is public: %s", c.path, body)
		}
		if res.Header.Get("Replay-Nonce") != "fresh" {
			t.Errorf("%s: a header set before the error is missing", c.path)
		}
		if p.RequestID != res.Header.Get("X-Request-Id") || len(p.RequestID) != 16 {
			t.Errorf("%s: request id %q", c.path, p.RequestID)
		}
		if c.path == "/public" && (len(p.Subproblems) != 1 || p.Subproblems[0].Identifier.Value != "a.example" || p.Subproblems[0].Type != "urn:chancery:error:dns") {
			t.Errorf("subproblems: %+v", p.Subproblems)
		}
	}
	f.stop()
	if !strings.Contains(f.lines.String(), "hunter2") {
		t.Error("the log does not have the cause")
	}
}

func TestUnknownRoutesAreProblems(t *testing.T) {
	f := serve(t, Config{}, func(m *Mux) {
		m.Group(OwnTypes, nil).Handle("POST /things", func(*Request) (*Reply, error) { return nil, nil })
	})
	res, body := f.do(t, "GET", "http://x/nothing", "")
	if p := problem(t, res, body); res.StatusCode != 404 || p.Type != "urn:chancery:error:notFound" {
		t.Errorf("%d %+v", res.StatusCode, p)
	}
	res, body = f.do(t, "GET", "http://x/things", "")
	if p := problem(t, res, body); res.StatusCode != 405 || res.Header.Get("Allow") != "POST" || !strings.Contains(p.Detail, "use POST") {
		t.Errorf("%d %v %+v", res.StatusCode, res.Header, p)
	}
	if res, _ = f.do(t, "POST", "http://x/things", ""); res.StatusCode != 204 {
		t.Errorf("nil reply: %d, want 204", res.StatusCode)
	}
}

func TestHandlersOwn404IsKept(t *testing.T) {
	f := serve(t, Config{}, func(m *Mux) {
		m.Group(OwnTypes, nil).HandleStd("GET /std/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if obs.RequestID(r.Context()) == "" {
				t.Error("std handlers have no request id")
			}
			http.Error(w, "mine", http.StatusNotFound)
		}), 0)
	})
	if res, body := f.do(t, "GET", "http://x/std/a", ""); res.StatusCode != 404 || body != "mine\n" {
		t.Errorf("%d %q", res.StatusCode, body)
	}
}

func TestPanicIsA500AndTheServerLivesOn(t *testing.T) {
	f := serve(t, Config{}, func(m *Mux) {
		g := m.Group(OwnTypes, nil)
		g.Handle("GET /boom", func(*Request) (*Reply, error) { panic("secret state") })
		g.Handle("GET /ok", func(*Request) (*Reply, error) { return Bytes("text/plain", []byte("fine")), nil })
	})
	res, body := f.do(t, "GET", "http://x/boom", "")
	if p := problem(t, res, body); res.StatusCode != 500 || strings.Contains(p.Detail, "secret") {
		t.Errorf("%d %+v", res.StatusCode, p)
	}
	if _, body := f.do(t, "GET", "http://x/ok", ""); body != "fine" {
		t.Errorf("after the panic: %q", body)
	}
	if got := counter(t, f.reg, "chancery_http_panics_total"); got != 1 {
		t.Errorf("panics counted: %v", got)
	}
	e := f.event(t, 0)
	if e["level"] != "ERROR" || !strings.Contains(f.lines.String(), "TestPanicIsA500") {
		t.Errorf("the log has no stack: %s", f.lines)
	}
}

// counter returns the sum of one metric family.
func counter(t testing.TB, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

func TestBodyCap(t *testing.T) {
	f := serve(t, Config{MaxBody: 10}, func(m *Mux) {
		g := m.Group(OwnTypes, nil)
		g.Handle("POST /echo", func(r *Request) (*Reply, error) {
			b, err := r.ReadBody()
			return Bytes("text/plain", b), err
		})
		g.Handle("POST /big", func(r *Request) (*Reply, error) {
			b, err := r.ReadBodyMax(1 << 20)
			return Bytes("text/plain", []byte(fmt.Sprint(len(b)))), err
		})
		g.HandleStd("POST /std", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err := io.ReadAll(r.Body)
			var tooBig *http.MaxBytesError
			fmt.Fprint(w, errors.As(err, &tooBig))
		}), 0)
	})
	if _, body := f.do(t, "POST", "http://x/echo", "0123456789"); body != "0123456789" {
		t.Errorf("a body of exactly the cap: %q", body)
	}
	if res, _ := f.do(t, "POST", "http://x/echo", "0123456789a"); res.StatusCode != 413 {
		t.Errorf("one byte more: %d", res.StatusCode)
	}
	// Without a Content-Length the cap must hold just the same.
	req, _ := http.NewRequest("POST", "http://x/echo", io.MultiReader(strings.NewReader("01234"), strings.NewReader("56789a")))
	res, err := f.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 413 {
		t.Errorf("chunked: %d", res.StatusCode)
	}
	if _, body := f.do(t, "POST", "http://x/big", strings.Repeat("x", 100_000)); body != "100000" {
		t.Errorf("a route with its own cap: %q", body)
	}
	if _, body := f.do(t, "POST", "http://x/std", strings.Repeat("x", 11)); body != "true" {
		t.Errorf("std handlers are not capped: %s", body)
	}
}

func TestConditionalGet(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f := serve(t, Config{}, func(m *Mux) {
		m.Group(OwnTypes, nil).Handle("GET /doc", func(*Request) (*Reply, error) {
			return &Reply{ContentType: "text/plain", Body: []byte("hello"), ETag: `"v1"`, LastModified: at, CacheControl: "max-age=60"}, nil
		})
	})
	for header, want := range map[string]int{
		`"v1"`: 304, `W/"v1"`: 304, `"a", "v1"`: 304, `"a,b" ,W/"v1"`: 304, `*`: 304,
		``: 200, `"v2"`: 200, `v1`: 200, `"v1`: 200, `"a" "`: 200,
	} {
		res, body := f.do(t, "GET", "http://x/doc", "", "If-None-Match", header)
		if res.StatusCode != want || (want == 304) != (body == "") {
			t.Errorf("If-None-Match %s: %d %q, want %d", header, res.StatusCode, body, want)
		}
		if res.Header.Get("Etag") != `"v1"` || res.Header.Get("Cache-Control") != "max-age=60" || res.Header.Get("Last-Modified") != "Fri, 02 Jan 2026 03:04:05 GMT" {
			t.Errorf("validators are missing from %d: %v", res.StatusCode, res.Header)
		}
	}
	res, body := f.do(t, "HEAD", "http://x/doc", "")
	if body != "" || res.ContentLength != 5 {
		t.Errorf("HEAD: %q length %d", body, res.ContentLength)
	}
}

func TestNotModifiedBeforeTheWork(t *testing.T) {
	f := serve(t, Config{}, func(m *Mux) {
		m.Group(OwnTypes, nil).Handle("/list", func(r *Request) (*Reply, error) {
			if r.Matches(`"seq-7"`) {
				return &Reply{Status: http.StatusNotModified, ETag: `"seq-7"`}, nil
			}
			return &Reply{ContentType: "text/plain", Body: []byte("worked"), ETag: `"seq-7"`}, nil
		})
	})
	if res, body := f.do(t, "GET", "http://x/list", "", "If-None-Match", `"seq-7"`); res.StatusCode != 304 || body != "" || res.Header.Get("Etag") != `"seq-7"` {
		t.Errorf("%d %q %v", res.StatusCode, body, res.Header)
	}
	for _, method := range []string{"GET", "POST"} { // a POST is never "not modified"
		tag := map[string]string{"GET": `"seq-6"`, "POST": `"seq-7"`}[method]
		if res, body := f.do(t, method, "http://x/list", "", "If-None-Match", tag); res.StatusCode != 200 || body != "worked" {
			t.Errorf("%s: %d %q", method, res.StatusCode, body)
		}
	}
}

func TestRetryAfterIsWholeSecondsRoundedUp(t *testing.T) {
	for d, want := range map[time.Duration]string{1: "1", time.Second: "1", 1001 * time.Millisecond: "2", time.Hour: "3600", 0: "1", -time.Hour: "1", 1<<63 - 1: "9223372037"} {
		if got := Seconds(d); got != want {
			t.Errorf("Seconds(%s) = %s, want %s", d, got, want)
		}
	}
}

// TestRawRoutes sends what ServeMux would clean, redirect or refuse.
func TestRawRoutes(t *testing.T) {
	f := serve(t, Config{}, func(m *Mux) {
		m.Group(OwnTypes, nil).HandleRaw("/ocsp/", func(r *Request) (*Reply, error) {
			return Bytes("text/plain", []byte(r.Method+" "+r.Target())), nil
		})
	})
	for target, want := range map[string]string{
		"/ocsp/MEUw//Qz+A/../B%2Bc=":     "GET /ocsp/MEUw//Qz+A/../B%2Bc=",
		"http://ocsp.example/ocsp//a/./": "GET /ocsp//a/./",
	} {
		c, err := f.mem.DialContext(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		go fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", target)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		c.Close()
		if string(body) != want {
			t.Errorf("%s: %q, want %q", target, body, want)
		}
	}
}

func TestDrainWaitsForRequestsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entered, release := make(chan struct{}), make(chan struct{})
		f := serve(t, Config{Grace: time.Minute}, func(m *Mux) {
			m.Group(OwnTypes, nil).Handle("GET /slow", func(r *Request) (*Reply, error) {
				close(entered)
				<-release
				return Bytes("text/plain", []byte("done")), r.Context().Err()
			})
		})
		got := make(chan string, 1)
		go func() { _, body := f.do(t, "GET", "http://x/slow", ""); got <- body }()
		<-entered
		stopped := make(chan error, 1)
		go func() { stopped <- f.stop() }()
		synctest.Wait()
		if _, err := f.mem.DialContext(t.Context(), "", ""); err == nil {
			t.Error("a stopping server still accepts")
		}
		close(release)
		if body := <-got; body != "done" {
			t.Errorf("the request in flight got %q", body)
		}
		if err := <-stopped; err != nil {
			t.Errorf("drain: %v", err)
		}
	})
}

func TestDrainCutsOffAfterGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entered := make(chan struct{})
		f := serve(t, Config{Grace: 10 * time.Second}, func(m *Mux) {
			m.Group(OwnTypes, nil).Handle("GET /stuck", func(r *Request) (*Reply, error) {
				close(entered)
				<-r.Context().Done() // ends when the connection is closed
				return nil, r.Context().Err()
			})
		})
		go func() { f.client.Get("http://x/stuck") }()
		<-entered
		start := time.Now()
		if err := f.stop(); err == nil || time.Since(start) != 10*time.Second {
			t.Errorf("stop returned %v after %s, want an error after the grace of 10s", err, time.Since(start))
		}
		synctest.Wait()
	})
}

func TestStream(t *testing.T) {
	f := serve(t, Config{}, func(m *Mux) {
		m.Group(OwnTypes, nil).Handle("GET /events", func(*Request) (*Reply, error) {
			return &Reply{ContentType: "text/event-stream", Stream: func(w io.Writer, flush func() error) error {
				for i := range 3 {
					fmt.Fprintf(w, "data: %d\n\n", i)
					if err := flush(); err != nil {
						return err
					}
				}
				return nil
			}}, nil
		})
	})
	if _, body := f.do(t, "GET", "http://x/events", ""); body != "data: 0\n\ndata: 1\n\ndata: 2\n\n" {
		t.Errorf("%q", body)
	}
}

// TestStalledReaderIsCutOff: a stream may last longer than the write
// time-out, but a client that stops reading may not hold it.
func TestStalledReaderIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		f := serve(t, Config{WriteTimeout: 30 * time.Second}, func(m *Mux) {
			m.Group(OwnTypes, nil).Handle("GET /events", func(*Request) (*Reply, error) {
				return &Reply{Stream: func(w io.Writer, flush func() error) error {
					for i := 0; ; i++ {
						if _, err := fmt.Fprintf(w, "%d\n", i); err != nil {
							ended <- err
							return err
						}
						if err := flush(); err != nil {
							ended <- err
							return err
						}
						time.Sleep(10 * time.Second)
					}
				}}, nil
			})
		})
		c, err := f.mem.DialContext(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
		lines := bufio.NewReader(c)
		for start := time.Now(); time.Since(start) < 2*time.Minute; { // reads on: the stream lasts
			if _, err := lines.ReadString('\n'); err != nil {
				t.Fatalf("after %s: %v", time.Since(start), err)
			}
		}
		start := time.Now() // now it stalls
		<-ended
		if d := time.Since(start); d > 45*time.Second {
			t.Errorf("the stalled reader held the stream for %s", d)
		}
	})
}

func TestClientIP(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	for _, c := range []struct {
		peer    string
		xff     []string
		trusted []netip.Prefix
		want    string
	}{
		{"192.0.2.1:999", nil, nil, "192.0.2.1"},
		{"192.0.2.1:999", []string{"203.0.113.9"}, nil, "192.0.2.1"},
		{"192.0.2.1:999", []string{"203.0.113.9"}, trusted, "192.0.2.1"},
		{"10.1.1.1:999", []string{"203.0.113.9"}, trusted, "203.0.113.9"},
		{"10.1.1.1:999", []string{"6.6.6.6, 203.0.113.9, 10.2.2.2"}, trusted, "203.0.113.9"},
		{"10.1.1.1:999", []string{"6.6.6.6", "203.0.113.9"}, trusted, "203.0.113.9"},
		{"10.1.1.1:999", []string{"6.6.6.6, garbage"}, trusted, "10.1.1.1"},
		{"10.1.1.1:999", []string{""}, trusted, "10.1.1.1"},
		{"10.1.1.1:999", nil, trusted, "10.1.1.1"},
		{"[2001:db8::1]:999", []string{"2001:db9::5"}, trusted, "2001:db9::5"},
		{"[::ffff:192.0.2.7]:999", nil, nil, "192.0.2.7"},
		{"@", nil, nil, "invalid IP"},
	} {
		r := &http.Request{RemoteAddr: c.peer, Header: http.Header{"X-Forwarded-For": c.xff}}
		if got := clientIP(r, c.trusted).String(); got != c.want {
			t.Errorf("%s %q: %s, want %s", c.peer, c.xff, got, c.want)
		}
	}
}

// selfSigned makes a certificate for localhost with a serial to tell it by.
func selfSigned(t testing.TB, serial int64) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestCertificateIsSwappedWhileServing(t *testing.T) {
	var certs Certificates
	certs.Set(selfSigned(t, 1))
	f := serve(t, Config{TLS: certs.TLS()}, func(m *Mux) {
		m.Group(OwnTypes, nil).Handle("GET /", func(*Request) (*Reply, error) { return nil, nil })
	})
	for _, want := range []int64{1, 2} {
		certs.Set(selfSigned(t, want))
		client := f.mem.Client(&tls.Config{InsecureSkipVerify: true})
		res, err := client.Get("https://localhost/")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		client.CloseIdleConnections()
		if got := res.TLS.PeerCertificates[0].SerialNumber.Int64(); got != want || res.ProtoMajor != 1 {
			t.Errorf("serial %d over HTTP/%d, want %d over HTTP/1", got, res.ProtoMajor, want)
		}
	}
}

func TestHTTP2OnlyWhenAskedFor(t *testing.T) {
	var certs Certificates
	certs.Set(selfSigned(t, 1))
	for _, h2 := range []bool{false, true} {
		f := serve(t, Config{TLS: certs.TLS(), HTTP2: h2}, func(m *Mux) {
			m.Group(OwnTypes, nil).Handle("GET /", func(*Request) (*Reply, error) { return nil, nil })
		})
		client := f.mem.Client(&tls.Config{InsecureSkipVerify: true})
		client.Transport.(*http.Transport).ForceAttemptHTTP2 = true
		res, err := client.Get("https://localhost/")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		client.CloseIdleConnections()
		if (res.ProtoMajor == 2) != h2 {
			t.Errorf("HTTP2=%v: got HTTP/%d", h2, res.ProtoMajor)
		}
	}
}

func TestSeveralListeners(t *testing.T) {
	srv := New(Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hi") })})
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mem := NewMemory()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx, tcp, mem) }()
	for _, client := range []*http.Client{{Transport: &http.Transport{}}, mem.Client(nil)} {
		res, err := client.Get("http://" + tcp.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		client.CloseIdleConnections()
		if string(body) != "hi" {
			t.Errorf("%q", body)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestMediaType(t *testing.T) {
	for ct, ok := range map[string]bool{
		"application/jose+json": true, "application/jose+json; charset=utf-8": true, "APPLICATION/JOSE+JSON": true,
		"": false, "application/json": false, "application/jose+jsonx": false, ";": false,
	} {
		r := &Request{Request: &http.Request{Header: http.Header{"Content-Type": {ct}}}}
		if err := r.MediaType("application/jose+json"); (err == nil) != ok {
			t.Errorf("%q: %v", ct, err)
		}
	}
}

func FuzzIfNoneMatch(f *testing.F) {
	for _, s := range []string{`"v1"`, `W/"v1", "x"`, `*`, `"`, `,,,"v1"`, `W/`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		if matches([]string{header}, `"v1"`) && !strings.Contains(header, `"v1"`) && !strings.Contains(header, "*") {
			t.Errorf("%q matches", header)
		}
	})
}

// nullWriter is the cheapest ResponseWriter, so that only our cost shows.
type nullWriter struct{ h http.Header }

func (n nullWriter) Header() http.Header         { return n.h }
func (n nullWriter) Write(b []byte) (int, error) { return len(b), nil }
func (n nullWriter) WriteHeader(int)             {}

// BenchmarkOverhead is what the platform adds to one request: routing, ids,
// metrics, the log event (written to nowhere) and the reply.
func BenchmarkOverhead(b *testing.B) {
	mux := NewMux(NewMetrics(prometheus.NewRegistry()))
	body := []byte(`{"status":"valid"}`)
	mux.Group(OwnTypes, nil).Handle("POST /acme/{ca}/order/{id}", func(r *Request) (*Reply, error) {
		in, err := r.ReadBody()
		if err != nil || len(in) == 0 {
			return nil, err
		}
		return Bytes("application/json", body), nil
	})
	srv := New(Config{Handler: mux, Log: obs.NewLogger(io.Discard, obs.JSON, slog.LevelInfo)})
	payload := bytes.Repeat([]byte("x"), 700)
	req, _ := http.NewRequest("POST", "https://localhost/acme/default/order/17", nil)
	req.RemoteAddr, req.RequestURI, req.ContentLength = "192.0.2.1:4711", "/acme/default/order/17", int64(len(payload))
	b.ReportAllocs()
	for b.Loop() {
		req.Body = io.NopCloser(bytes.NewReader(payload))
		srv.ServeHTTP(nullWriter{make(http.Header, 8)}, req)
	}
}
