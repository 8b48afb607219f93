package challenge_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/acme/challenge"
	"chancery/internal/dns/dnstest"
	"chancery/internal/fault"
)

const path = "/.well-known/acme-challenge/" + token

// web is a web server that stands for every name of a world.
type web struct {
	*world
	mux *http.ServeMux
	v   *challenge.HTTP01Validator
}

// newWeb starts a plain and a TLS server with one mux; names in records resolve
// to loopback.
func newWeb(t testing.TB, names ...string) *web {
	t.Helper()
	w := &web{world: newWorld(t), mux: http.NewServeMux()}
	plain := httptest.NewServer(w.mux)
	secure := httptest.NewTLSServer(w.mux)
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	w.cfg.HTTP01Port, w.cfg.HTTPSPort = port(t, plain.Listener.Addr()), port(t, secure.Listener.Addr())
	for _, n := range names {
		w.dns.Add(n + ". 60 IN A 127.0.0.1")
	}
	w.v = challenge.NewHTTP01(w.cfg)
	return w
}

// says makes a handler of a status and a body.
func says(status int, body string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(status)
		io.WriteString(rw, body)
	}
}

// goes makes a handler that redirects.
func goes(status int, to string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Location", to)
		rw.WriteHeader(status)
	}
}

func TestHTTP01(t *testing.T) {
	w := newWeb(t, "example.test")
	var seen *http.Request
	w.mux.HandleFunc(path, func(rw http.ResponseWriter, r *http.Request) {
		seen = r
		io.WriteString(rw, keyAuth+"\r\n \t\n")
	})
	p, err := w.v.Validate(t.Context(), request(name("example.test")))
	if err != nil {
		t.Fatal(err)
	}
	if !p.Covers(name("example.test"), account) || p.Method() != challenge.HTTP01 || p.Perspective() != "local" || time.Since(p.At()) > time.Minute {
		t.Errorf("proof %+v", p)
	}
	host := fmt.Sprintf("example.test:%d", w.cfg.HTTP01Port)
	loop := netip.MustParseAddr("127.0.0.1")
	want := []challenge.Step{{URL: "http://" + host + path, Hostname: "example.test", Port: w.cfg.HTTP01Port, Resolved: []netip.Addr{loop}, Used: loop}}
	if diff := cmp.Diff(want, p.Steps(), sameAddr); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	if seen.Method != "GET" || seen.Host != host || seen.Header.Get("Accept-Encoding") != "identity" || seen.UserAgent() != "chancery" {
		t.Errorf("request: %s, host %s, header %v", seen.Method, seen.Host, seen.Header)
	}
}

// RFC 8738 section 7: the address is the host, in brackets if it is IPv6.
func TestHTTP01Address(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(addr, "0"))
		if err != nil {
			t.Logf("no %s here: %v", addr, err)
			continue
		}
		var host string
		s := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			host = r.Host
			io.WriteString(rw, keyAuth)
		})}
		go s.Serve(l)
		defer s.Close()
		w := newWorld(t)
		w.cfg.HTTP01Port = port(t, l.Addr())
		p, err := challenge.NewHTTP01(w.cfg).Validate(t.Context(), request(ip(addr)))
		if err != nil || !p.Covers(ip(addr), account) {
			t.Errorf("%s: %v", addr, err)
		}
		if host != l.Addr().String() {
			t.Errorf("Host %q, want %q", host, l.Addr())
		}
		if n := len(w.dns.Queries()); n != 0 {
			t.Errorf("%d DNS queries for an address", n)
		}
	}
}

func TestHTTP01WrongAnswers(t *testing.T) {
	for label, c := range map[string]struct {
		h    http.HandlerFunc
		part string
	}{
		"not found":         {says(404, "nothing"), "status 404"},
		"status 201":        {says(201, keyAuth), "status 201"},
		"status 204":        {says(204, ""), "status 204"},
		"status 206":        {says(206, keyAuth), "status 206"},
		"status 300":        {goes(300, path+"x"), "status 300"},
		"status 303":        {goes(303, path+"x"), "status 303"},
		"no location":       {says(302, keyAuth), "status 302"},
		"server error":      {says(500, keyAuth), "status 500"},
		"empty":             {says(200, ""), `answers ""`},
		"only the token":    {says(200, token), "not the key authorization"},
		"leading space":     {says(200, " "+keyAuth), "not the key authorization"},
		"byte order mark":   {says(200, "\ufeff"+keyAuth), "not the key authorization"},
		"trailing text":     {says(200, keyAuth+"\nx"), "not the key authorization"},
		"trailing NUL":      {says(200, keyAuth+"\x00"), "not the key authorization"},
		"vertical tab":      {says(200, keyAuth+"\v"), "not the key authorization"},
		"other case":        {says(200, strings.ToUpper(keyAuth)), "not the key authorization"},
		"hostile":           {says(200, "<script>\x1b[2J\r\n"), `\x3cscript\x3e\x1b[2J\r\n`},
		"padding over 1 KB": {says(200, keyAuth+strings.Repeat(" ", 1024)), "more than 1024 octets"},
		"endless":           {endless, "more than"},
		"gzip": {func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Encoding", "gzip")
			io.WriteString(rw, keyAuth)
		}, "content coding"},
		"header too large": {func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("X", strings.Repeat("x", 20<<10))
			io.WriteString(rw, keyAuth)
		}, "more than 16384 octets"},
	} {
		t.Run(label, func(t *testing.T) {
			w := newWeb(t, "example.test")
			w.mux.HandleFunc(path, c.h)
			w.mux.HandleFunc(path+"x", says(200, keyAuth))
			p, err := w.v.Validate(t.Context(), request(name("example.test")))
			wantFault(t, p, err, fault.IncorrectResponse, c.part, "127.0.0.1")
		})
	}
}

// endless streams until the client leaves.
func endless(rw http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		if _, err := io.WriteString(rw, strings.Repeat("a", 1024)); err != nil {
			return
		}
	}
}

// GoDaddy 2017: a "not found" page that repeats the URL counted as proof.
func TestHistoryErrorPageThatEchoesTheURL(t *testing.T) {
	for _, status := range []int{404, 200} {
		w := newWeb(t, "example.test")
		w.mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) {
			rw.WriteHeader(status)
			fmt.Fprintf(rw, "%s was not found", r.URL.Path)
		})
		p, err := w.v.Validate(t.Context(), request(name("example.test")))
		wantFault(t, p, err, fault.IncorrectResponse)
	}
}

func TestHTTP01FollowsRedirects(t *testing.T) {
	for _, status := range []int{301, 302, 307, 308} {
		w := newWeb(t, "example.test", "other.test")
		w.mux.HandleFunc("example.test"+path, goes(status, "https://OTHER.test./x?y=%20z"))
		w.mux.HandleFunc("other.test/x", func(rw http.ResponseWriter, r *http.Request) {
			if r.TLS == nil || r.URL.RawQuery != "y=%20z" {
				t.Errorf("redirected to %v, TLS %v", r.URL, r.TLS != nil)
			}
			rw.Header().Set("Location", "relative")
			rw.WriteHeader(302)
		})
		w.mux.HandleFunc("other.test/relative", says(200, keyAuth))
		p, err := w.v.Validate(t.Context(), request(name("example.test")))
		if err != nil {
			t.Fatalf("%d: %v", status, err)
		}
		if len(p.Steps()) != 3 || p.Steps()[2].Hostname != "other.test" || p.Steps()[2].Port != w.cfg.HTTPSPort {
			t.Errorf("%d: record %+v", status, p.Steps())
		}
		if !p.Covers(name("example.test"), account) || p.Covers(name("other.test"), account) {
			t.Errorf("%d: the proof is about the redirect's target", status)
		}
	}
}

// StartEncrypt 2016: the validator could be sent to any host, port and path.
func TestHistoryRedirectsToAnywhere(t *testing.T) {
	var hits atomic.Int32
	internal := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { hits.Add(1) }))
	defer internal.Close()
	for label, c := range map[string]struct{ to, part string }{
		"other port":          {internal.URL, "only ports"},
		"name, other port":    {strings.Replace(internal.URL, "127.0.0.1", "example.test", 1), "only ports"},
		"port 22":             {"http://example.test:22/", "only ports"},
		"port too large":      {"http://example.test:99999/", "only ports"},
		"ftp":                 {"ftp://example.test/", "only http and https"},
		"file":                {"file:///etc/passwd", "not a URL"},
		"gopher":              {"gopher://example.test/", "only http and https"},
		"javascript":          {"javascript:alert(1)", "not a URL"},
		"user name":           {"http://user:pw@example.test/", "user name"},
		"loopback":            {"http://127.0.0.1/", "must be a name"},
		"metadata service":    {"http://169.254.169.254/latest/meta-data/", "must be a name"},
		"IPv6 literal":        {"http://[::1]/", "must be a name"},
		"zone":                {"http://[fe80::1%25eth0]/", "must be a name"},
		"decimal address":     {"http://2130706433/", "not a DNS name"},
		"hexadecimal address": {"http://0x7f.0x1/", "not a DNS name"},
		"short address":       {"http://127.1/", "not a DNS name"},
		"not ASCII":           {"http://ex\u00e4mple.test/", "not a DNS name"},
		"bad name":            {"http://a..test/", "not a DNS name"},
		"space in query":      {"/x?a b HTTP/1.1", "must escape"},
		"private name":        {"http://internal.test/", "10.0.0.1 is private use"},
		"rebinding":           {"http://mapped.test/", "IPv4-mapped"},
		"absent name":         {"http://absent.test/", ""},
		"too long":            {"http://example.test/" + strings.Repeat("x", 3000), "too long"},
		"hostile text":        {"ftp://x/<script>", "only http and https"},
	} {
		t.Run(label, func(t *testing.T) {
			w := newWeb(t, "example.test")
			w.dns.Add("internal.test. 60 IN A 10.0.0.1", "mapped.test. 60 IN AAAA ::ffff:127.0.0.1")
			w.mux.HandleFunc(path, goes(302, c.to))
			p, err := w.v.Validate(t.Context(), request(name("example.test")))
			code := fault.Connection
			if label == "absent name" {
				code = fault.DNS
			}
			wantFault(t, p, err, code, c.part)
		})
	}
	if hits.Load() != 0 {
		t.Errorf("the internal server was asked %d times", hits.Load())
	}
}

// For an address identifier a redirect may stay on the address, not leave for another.
func TestHTTP01AddressRedirects(t *testing.T) {
	w := newWeb(t)
	w.mux.HandleFunc(path, goes(302, "https://127.0.0.1/x"))
	w.mux.HandleFunc("/x", says(200, keyAuth))
	if _, err := w.v.Validate(t.Context(), request(ip("127.0.0.1"))); err != nil {
		t.Errorf("to itself: %v", err)
	}
	w = newWeb(t)
	w.mux.HandleFunc(path, goes(302, "https://127.0.0.2/x"))
	p, err := w.v.Validate(t.Context(), request(ip("127.0.0.1")))
	wantFault(t, p, err, fault.Connection, "must be a name")
}

func TestHTTP01RedirectLimits(t *testing.T) {
	w := newWeb(t, "example.test")
	w.mux.HandleFunc(path, goes(302, "/n/0"))
	w.mux.HandleFunc("/n/", func(rw http.ResponseWriter, r *http.Request) {
		var n int
		fmt.Sscanf(r.URL.Path, "/n/%d", &n)
		if n == 9 {
			io.WriteString(rw, keyAuth)
			return
		}
		http.Redirect(rw, r, fmt.Sprintf("/n/%d", n+1), http.StatusFound)
	})
	if _, err := w.v.Validate(t.Context(), request(name("example.test"))); err != nil {
		t.Errorf("ten redirects: %v", err)
	}
	w = newWeb(t, "example.test")
	w.mux.HandleFunc(path, goes(302, "/n/0"))
	var asked atomic.Int32
	w.mux.HandleFunc("/n/", func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, fmt.Sprintf("/n/%d", asked.Add(1)), http.StatusFound)
	})
	p, err := w.v.Validate(t.Context(), request(name("example.test")))
	wantFault(t, p, err, fault.Connection, "more than 10 redirects")
	if asked.Load() != 10 {
		t.Errorf("%d redirects followed, want 10", asked.Load())
	}
	w = newWeb(t, "example.test")
	w.mux.HandleFunc(path, goes(302, "/a"))
	w.mux.HandleFunc("/a", goes(302, path))
	p, err = w.v.Validate(t.Context(), request(name("example.test")))
	wantFault(t, p, err, fault.Connection, "in a circle")
}

func TestHTTP01Addresses(t *testing.T) {
	w := newWeb(t)
	w.mux.HandleFunc(path, says(200, keyAuth))
	w.dns.Add("private.test. 60 IN A 10.0.0.1", "private.test. 60 IN AAAA fd00::1",
		"mixed.test. 60 IN A 10.0.0.1", "mixed.test. 60 IN A 127.0.0.1",
		// Nothing listens on ::1, so IPv4 is tried after it, once.
		"dual.test. 60 IN AAAA ::1", "dual.test. 60 IN A 127.0.0.1", "dual.test. 60 IN A 127.0.0.3")
	p, err := w.v.Validate(t.Context(), request(name("private.test")))
	wantFault(t, p, err, fault.Connection, "unique local (RFC 4193)", "ask the operator")
	p, err = w.v.Validate(t.Context(), request(name("mixed.test")))
	if err != nil || p.Steps()[0].Used != netip.MustParseAddr("127.0.0.1") || len(p.Steps()[0].Resolved) != 2 {
		t.Errorf("mixed: %+v, %v", p.Steps(), err)
	}
	p, err = w.v.Validate(t.Context(), request(name("dual.test")))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]netip.Addr{netip.MustParseAddr("::1")}, p.Steps()[0].Tried, sameAddr); diff != "" {
		t.Errorf("tried (-want +got):\n%s", diff)
	}
}

// The address that was filtered is the one that is dialled: an answer that
// changes between two look-ups (rebinding) finds no second look-up.
func TestHTTP01ResolvesOnce(t *testing.T) {
	w := newWeb(t, "example.test")
	w.mux.HandleFunc(path, says(200, keyAuth))
	if _, err := w.v.Validate(t.Context(), request(name("example.test"))); err != nil {
		t.Fatal(err)
	}
	if n := w.dns.Count("example.test", "*"); n != 2 {
		t.Errorf("%d DNS queries, want one A and one AAAA", n)
	}
}

func TestHTTP01DNSFailures(t *testing.T) {
	w := newWeb(t, "servfail.test", "silent.test")
	w.dns.Fail("servfail.test", "*", dnstest.Fault{Rcode: 2})
	w.dns.Fail("silent.test", "*", dnstest.Fault{Drop: true})
	w.dns.Add("loop.test. 60 IN CNAME loop.test.")
	for n, part := range map[string]string{"absent.test": "NXDOMAIN", "servfail.test": "SERVFAIL", "silent.test": "in time", "loop.test": "loop"} {
		p, err := w.v.Validate(t.Context(), request(name(n)))
		wantFault(t, p, err, fault.DNS, part, n)
	}
}

// raw serves octets as they are, one connection at a time.
func raw(t *testing.T, w *world, answer func(net.Conn)) *challenge.HTTP01Validator {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				http.ReadRequest(bufio.NewReader(c))
				answer(c)
			}()
		}
	}()
	w.dns.Add("example.test. 60 IN A 127.0.0.1")
	w.cfg.HTTP01Port = port(t, l.Addr())
	return challenge.NewHTTP01(w.cfg)
}

func TestHTTP01RawResponses(t *testing.T) {
	chunked := fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", keyAuth[:5], len(keyAuth)-5, keyAuth[5:])
	length := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(keyAuth), keyAuth)
	for label, c := range map[string]struct {
		text string
		code fault.Code
	}{
		"chunked":               {chunked, ""},
		"with length":           {length, ""},
		"until close":           {"HTTP/1.0 200 OK\r\n\r\n" + keyAuth, ""},
		"early hints first":     {"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + length, ""},
		"only 1xx":              {strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100), fault.IncorrectResponse},
		"switching protocols":   {"HTTP/1.1 101 Switching Protocols\r\n\r\n" + keyAuth, fault.IncorrectResponse},
		"body cut off":          {"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + keyAuth, fault.Connection},
		"chunk cut off":         {chunked[:len(chunked)-20], fault.Connection},
		"closed at once":        {"", fault.Connection},
		"not HTTP":              {"SSH-2.0-OpenSSH_9.2\r\n\r\n", fault.IncorrectResponse},
		"HTTP/0.9":              {keyAuth + "\r\n\r\n", fault.IncorrectResponse},
		"two lengths":           {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 87\r\n\r\n" + keyAuth, fault.IncorrectResponse},
		"negative length":       {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n" + keyAuth, fault.IncorrectResponse},
		"unknown coding":        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n" + keyAuth, fault.IncorrectResponse},
		"endless header":        {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 64<<10), fault.IncorrectResponse},
		"endless status":        {"HTTP/1.1 200 " + strings.Repeat("x", 64<<10), fault.IncorrectResponse},
		"header without colon":  {"HTTP/1.1 200 OK\r\nbad\r\n\r\n" + keyAuth, fault.IncorrectResponse},
		"huge chunk":            {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n" + strings.Repeat("x", 2000), fault.IncorrectResponse},
		"length beyond 1 KB":    {"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + strings.Repeat("x", 2000), fault.IncorrectResponse},
		"two locations, former": {"HTTP/1.1 302 F\r\nLocation: ftp://a/\r\nLocation: /x\r\n\r\n", fault.Connection},
	} {
		t.Run(label, func(t *testing.T) {
			v := raw(t, newWorld(t), func(conn net.Conn) { io.WriteString(conn, c.text) })
			p, err := v.Validate(t.Context(), request(name("example.test")))
			if c.code == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantFault(t, p, err, c.code, "example.test")
		})
	}
}

// A server that sends one octet at a time, or none, costs the step's time and no more.
func TestHTTP01Deadlines(t *testing.T) {
	for label, answer := range map[string]func(net.Conn){
		"silent": func(c net.Conn) { io.Copy(io.Discard, c) },
		"slow": func(c net.Conn) {
			for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
				if _, err := io.WriteString(c, "H"); err != nil {
					return
				}
			}
		},
	} {
		w := newWorld(t)
		w.cfg.StepTimeout = 200 * time.Millisecond
		v := raw(t, w, answer)
		begun := time.Now()
		p, err := v.Validate(t.Context(), request(name("example.test")))
		if label == "silent" {
			wantFault(t, p, err, fault.Connection, "no answer in time")
		} else if err == nil {
			t.Error("a slow server proves")
		}
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("%s: took %v", label, took)
		}
	}
}

func TestHTTP01EndsWithItsContext(t *testing.T) {
	w := newWorld(t)
	w.cfg.StepTimeout, w.cfg.Timeout = time.Minute, time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	v := raw(t, w, func(c net.Conn) { cancel(); io.Copy(io.Discard, c) })
	p, err := v.Validate(ctx, request(name("example.test")))
	wantFault(t, p, err, fault.Connection)
}

func TestHTTP01Refused(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.cfg.HTTP01Port = port(t, l.Addr())
	l.Close()
	w.dns.Add("example.test. 60 IN A 127.0.0.1")
	p, err := challenge.NewHTTP01(w.cfg).Validate(t.Context(), request(name("example.test")))
	wantFault(t, p, err, fault.Connection, "connection refused", "127.0.0.1", "example.test")
}

// A failure carries what was contacted, for the log.
func TestHTTP01FailureHasARecord(t *testing.T) {
	w := newWeb(t, "example.test")
	w.mux.HandleFunc(path, goes(302, "/there"))
	_, err := w.v.Validate(t.Context(), request(name("example.test")))
	steps := challenge.StepsOf(err)
	if len(steps) != 2 || !strings.HasSuffix(steps[1].URL, "/there") || !steps[1].Used.IsValid() {
		t.Errorf("record %+v of %v", steps, err)
	}
	_, err = w.v.Validate(t.Context(), request(name("*.example.test")))
	if steps := challenge.StepsOf(err); steps != nil {
		t.Errorf("nothing was contacted, but the record is %+v", steps)
	}
}

// Redirects to https meet self-signed, expired and foreign certificates by design.
func TestHTTP01RedirectToBrokenTLS(t *testing.T) {
	w := newWeb(t, "example.test")
	w.mux.HandleFunc(path, goes(302, "https://example.test/x"))
	w.cfg.HTTPSPort = w.cfg.HTTP01Port // speaks no TLS
	p, err := challenge.NewHTTP01(w.cfg).Validate(t.Context(), request(name("example.test")))
	wantFault(t, p, err, fault.TLS, "https://example.test")
}

// A wildcard has no web server (RFC 8555 section 7.4.1).
func TestHTTP01RefusesWildcards(t *testing.T) {
	w := newWeb(t, "example.test")
	w.mux.HandleFunc(path, says(200, keyAuth))
	p, err := w.v.Validate(t.Context(), request(name("*.example.test")))
	wantFault(t, p, err, fault.Malformed)
}
