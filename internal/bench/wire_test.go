package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// testCaller returns a caller that trusts srv (which may be nil).
func testCaller(t *testing.T, srv *httptest.Server) *caller {
	t.Helper()
	tr := &Transport{Timeout: 5 * time.Second, UserAgent: "test"}
	if srv != nil && srv.TLS != nil {
		pool := x509.NewCertPool()
		pool.AddCert(srv.Certificate())
		tr.TLS = &tls.Config{RootCAs: pool}
	}
	c := newCaller(tr)
	t.Cleanup(c.close)
	return c
}

// Against the standard library's server, over TLS: methods, bodies of all
// framings, headers, and one connection for all.
func TestCallerSpeaksHTTP(t *testing.T) {
	var conns atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Replay-Nonce", "n1")
		w.Header().Set("Location", "/there")
		w.Header().Set("Retry-After", "3")
		w.Header().Set("ETag", `"e"`)
		w.Header().Set("Trailer", "X-After")
		switch r.URL.Path {
		case "/chunked":
			for range 3 {
				fmt.Fprintf(w, "%s %s %s;", r.Method, r.URL.RawQuery, body)
				w.(http.Flusher).Flush()
			}
			w.Header().Set("X-After", "x")
		case "/early":
			w.WriteHeader(http.StatusEarlyHints)
			io.WriteString(w, "late")
		case "/none":
			w.WriteHeader(http.StatusNoContent)
		case "/close":
			w.Header().Set("Connection", "close")
			io.WriteString(w, "bye")
		default:
			fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.RawQuery, body)
		}
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	c := testCaller(t, srv)
	var s Sample
	for _, step := range []struct {
		method, path, body, want string
		status                   int
	}{
		{"GET", "/", "", "GET  ", 200},
		{"GET", "", "", "GET  ", 200},
		{"POST", "/x?q=1", "hello", "POST q=1 hello", 200},
		{"HEAD", "/", "", "", 200},
		{"POST", "/chunked?a", "b", "POST a b;POST a b;POST a b;", 200},
		{"GET", "/early", "", "late", 200},
		{"GET", "/none", "", "", 204},
		{"GET", "/close", "", "bye", 200},
		{"GET", "/", "", "GET  ", 200},
	} {
		var body []byte
		if step.method == "POST" {
			body = []byte(step.body)
		}
		res, err := c.do(t.Context(), &s, step.method, srv.URL+step.path, "X-Test: 1\r\n", body)
		if err != nil {
			t.Fatalf("%s %s: %v", step.method, step.path, err)
		}
		if res.status != step.status || string(res.body) != step.want {
			t.Errorf("%s %s: %d %q", step.method, step.path, res.status, res.body)
		}
		if res.nonce != "n1" || res.location != "/there" || res.retryAfter != 3*time.Second || res.etag != `"e"` {
			t.Errorf("%s %s: headers %+v", step.method, step.path, res)
		}
	}
	if n := conns.Load(); n != 2 {
		t.Errorf("%d connections, want one, and one more after Connection: close", n)
	}
	if s.Requests != 9 || s.Retries != 0 {
		t.Errorf("%d requests, %d retries", s.Requests, s.Retries)
	}
}

// raw serves one canned reply per request, a connection for each reply.
func raw(t *testing.T, replies ...string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for _, r := range replies {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				io.WriteString(conn, r)
			}
			conn.Close()
		}
	}()
	return "http://" + ln.Addr().String() + "/"
}

func TestRepliesThatAreWrong(t *testing.T) {
	for name, text := range map[string]string{
		"not HTTP":           "220 mail.example ESMTP\r\n\r\n",
		"HTTP/2":             "HTTP/2 200 OK\r\n\r\n",
		"no status":          "HTTP/1.1 abc OK\r\n\r\n",
		"status too small":   "HTTP/1.1 042 OK\r\n\r\n",
		"header without :":   "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
		"endless head":       "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 300) + "\r\n",
		"endless line":       "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("b", 40000) + "\r\n\r\n",
		"bad length":         "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
		"two lengths":        "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n",
		"huge length":        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
		"short body":         "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
		"unknown encoding":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
		"broken chunk":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"cut in the head":    "HTTP/1.1 200 OK\r\nA: b",
		"interim only":       strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 20),
		"nothing whatsoever": "",
	} {
		c := testCaller(t, nil)
		if res, err := c.do(t.Context(), &Sample{}, "GET", raw(t, text), "", nil); err == nil {
			t.Errorf("%s: accepted as %d %q", name, res.status, res.body)
		}
	}
}

func TestABodyMayEndWithTheConnection(t *testing.T) {
	c := testCaller(t, nil)
	res, err := c.do(t.Context(), &Sample{}, "GET", raw(t, "HTTP/1.0 200 OK\nContent-Type: text/plain\n\nall of it"), "", nil)
	if err != nil || string(res.body) != "all of it" {
		t.Errorf("%v %v", res, err)
	}
}

// A server may close a kept connection at any time; the request is repeated
// on a new one, and that is counted.
func TestAKeptConnectionThatIsGoneIsReplaced(t *testing.T) {
	c := testCaller(t, nil)
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	url := raw(t, ok, ok, ok)
	var s Sample
	for range 3 {
		if _, err := c.do(t.Context(), &s, "POST", url, "", []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if s.Requests != 3 || s.Retries != 2 {
		t.Errorf("%d requests, %d retries", s.Requests, s.Retries)
	}
}

func TestCallerObeysTimeoutAndCancel(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	c := testCaller(t, nil)
	c.t.Timeout = 30 * time.Millisecond
	_, err = c.do(t.Context(), &Sample{}, "GET", "http://"+ln.Addr().String(), "", nil)
	if !errors.Is(err, os.ErrDeadlineExceeded) || classOf(err) != "timeout" {
		t.Errorf("timeout: %v", err)
	}
	c = testCaller(t, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(20*time.Millisecond, func() { cancel(errUnfinished) })
	if _, err = c.do(ctx, &Sample{}, "GET", "http://"+ln.Addr().String(), "", nil); !errors.Is(err, errUnfinished) {
		t.Errorf("cancel: %v", err)
	}
}

func TestURLsThatCannotBeAsked(t *testing.T) {
	c := testCaller(t, nil)
	for _, u := range []string{"", "/relative", "ftp://a.example/", "https://", "http://a b/", "https://u:p@a.example/", "http://a.example/x\r\nEvil: 1", "http://a.example/#f"} {
		if _, err := c.do(t.Context(), &Sample{}, "GET", u, "", nil); err == nil {
			t.Errorf("%q was asked", u)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"0": 0, "5": 5 * time.Second, "-3": 0, "999999999": 24 * time.Hour, "soon": 0, "": 0,
		"Sun, 22 Nov 2026 03:00:07 GMT": 7 * time.Second, "Sun, 22 Nov 2026 02:00:00 GMT": 0, "Fri, 01 Jan 2100 00:00:00 GMT": 24 * time.Hour,
	} {
		if got := parseRetryAfter(text, now); got != want {
			t.Errorf("%q is %v, want %v", text, got, want)
		}
	}
}

func TestErrorClasses(t *testing.T) {
	refusedPort := func() error {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
		_, err = testCaller(t, nil).do(t.Context(), &Sample{}, "GET", "http://"+ln.Addr().String(), "", nil)
		return err
	}
	for want, err := range map[string]error{
		"connection refused": refusedPort(),
		"connection lost":    fmt.Errorf("read: %w", io.ErrUnexpectedEOF),
		"timeout":            context.DeadlineExceeded,
		"dns":                &net.DNSError{Err: "no such host", Name: "x.example"},
		"verify":             fmt.Errorf("%w: wrong key", errVerify),
		"other":              errors.New("hm"),
	} {
		if got := classOf(err); got != want {
			t.Errorf("%v is of class %q, want %q", err, got, want)
		}
	}
}

// FuzzReply feeds hostile bytes to the reader of replies.
func FuzzReply(f *testing.F) {
	f.Add("GET", []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nReplay-Nonce: x\r\n\r\nok"))
	f.Add("GET", []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nA: b\r\n\r\n"))
	f.Add("HEAD", []byte("HTTP/1.1 103 Early\r\n\r\nHTTP/1.0 404 No\r\nRetry-After: 99999999999999999999\r\n\r\n"))
	f.Add("POST", []byte("HTTP/1.1 200\r\n:\r\n\r\n"))
	f.Fuzz(func(t *testing.T, method string, in []byte) {
		c := newCaller(&Transport{})
		o := &origin{in: bufio.NewReaderSize(strings.NewReader(string(in)), maxHeadLine)}
		res, err := c.read(o, method)
		if err != nil {
			return
		}
		if res.status < 200 || res.status > 999 || len(res.body) > maxReplyBody || res.retryAfter < 0 || res.retryAfter > 24*time.Hour {
			t.Errorf("read %+v", res)
		}
	})
}
