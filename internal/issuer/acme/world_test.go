package acme_test

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"chancery/internal/acme/solver"
	"chancery/internal/acme/solver/rfc2136"
	"chancery/internal/app"
	"chancery/internal/config"
	"chancery/internal/dns"
	"chancery/internal/dns/dnstest"
	"chancery/internal/issuer"
	"chancery/internal/issuer/acme"
	"chancery/internal/issuer/issuertest"
)

// TestMain is our own server when the environment says so: benchmarks measure
// what the client costs, so the server is another process.
func TestMain(m *testing.M) {
	if text := os.Getenv("CHANCERY_TEST_SERVER"); text != "" {
		if err := serve(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// settings are those of a server for tests.
type settings struct {
	Data, DNS string
	HTTPPort  int
	Names     int // h0.example.test and so on, which the server's process itself resolves
}

// configuration returns that of a program that validates names in a test's DNS.
func (s settings) configuration() *config.Config {
	c := config.Default()
	c.Server.Data, c.Database.URL = s.Data, "sqlite://"+s.Data+"/chancery.db"
	addr := free()
	c.Server.Listen, c.Server.HTTPListen, c.Server.DebugListen = addr, "127.0.0.1:0", ""
	c.Server.URL = "https://localhost:" + addr[strings.LastIndexByte(addr, ':')+1:]
	c.Validation.Resolvers = []string{s.DNS}
	c.Validation.AllowTargets = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	c.Validation.HTTP01Port = s.HTTPPort
	c.Limits.Enabled = false
	return c
}

func free() string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "127.0.0.1:0"
	}
	defer ln.Close()
	return ln.Addr().String()
}

// serve runs the program until its standard input ends.
func serve(text string) error {
	var s settings
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	if s.Names > 0 {
		d, err := dnstest.New(dnstest.Options{})
		if err != nil {
			return err
		}
		defer d.Close()
		for n := range s.Names {
			d.Add(fmt.Sprintf("h%d.example.test. 60 IN A 127.0.0.1", n))
		}
		s.DNS = d.Addr()
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { io.Copy(io.Discard, os.Stdin); cancel() }()
	a, err := app.New(ctx, s.configuration(), app.Options{Create: true, OnReady: func(r app.Ready) {
		line, _ := json.Marshal(r)
		fmt.Printf("ready %s\n", line)
	}})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// world is a DNS server, the responders, a solver over both, and a CA.
type world struct {
	dns    *dnstest.Server
	http   *solver.HTTP
	port   int // of http-01
	solver *solver.Solver
	store  issuertest.Store
	ready  app.Ready
}

// newWorld runs everything but a CA.
func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{http: solver.NewHTTP("")}
	var err error
	w.dns, err = dnstest.New(dnstest.Options{TSIGs: map[string]string{"chancery.": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ="}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.dns.Close)
	w.dns.NegativeTTL(0)
	w.dns.Add("example.test. 60 IN SOA ns.example.test. admin.example.test. 1 60 60 60 0", "*.example.test. 60 IN A 127.0.0.1", "example.test. 60 IN A 127.0.0.1")
	web := httptest.NewServer(w.http)
	t.Cleanup(web.Close)
	w.port = web.Listener.Addr().(*net.TCPAddr).Port
	r, err := dns.New(dns.Config{Servers: []string{w.dns.Addr()}, Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	key := t.TempDir() + "/key"
	if err := os.WriteFile(key, []byte("c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := rfc2136.Kind.Open(solver.Env{Name: "test"}, &rfc2136.Config{Server: w.dns.Addr(), KeyName: "chancery", KeyFile: key, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	w.solver, err = solver.New(solver.Config{Resolver: r, HTTP: w.http, Window: 20 * time.Millisecond, Routes: []solver.Route{
		{Account: "test", Provider: p, Nameservers: []netip.AddrPort{netip.MustParseAddrPort(w.dns.Addr())}}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.solver.Close(context.Background()) })
	return w
}

// names gives hosts an address; dnstest knows no wildcards.
func (w *world) names(names ...string) {
	for _, n := range names {
		w.dns.Add(strings.TrimPrefix(n, "*.") + ". 60 IN A 127.0.0.1")
	}
}

// runOurs runs our own server in a process of its own.
func (w *world) runOurs(t testing.TB) { w.runOursWith(t, 0) }

// runOursWith leaves the DNS of some names to that process.
func (w *world) runOursWith(t testing.TB, names int) {
	t.Helper()
	text, err := json.Marshal(settings{Data: t.TempDir(), DNS: w.dns.Addr(), HTTPPort: w.port, Names: names})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CHANCERY_TEST_SERVER="+string(text))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(t.TempDir() + "/log")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); cmd.Wait(); log.Close() })
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if line, ok := strings.CutPrefix(lines.Text(), "ready "); ok {
			if err := json.Unmarshal([]byte(line), &w.ready); err != nil {
				t.Fatal(err)
			}
			go io.Copy(io.Discard, stdout)
			return
		}
	}
	out, _ := os.ReadFile(log.Name())
	t.Fatalf("our own server did not start: %s", out)
}

// open opens an issuer of the kind.
func (w *world) open(t testing.TB, change func(*acme.Config)) issuer.Issuer {
	t.Helper()
	c := acme.Kind.Config().(*acme.Config)
	c.Directory, c.RootsFile = w.ready.Directory, w.ready.Root
	if change != nil {
		change(c)
	}
	i, err := acme.Kind.Open(issuer.Env{Name: "test", Log: slog.New(slog.DiscardHandler), Keep: w.store.Keep, Kept: w.store.Kept, Solver: w.solver}, c)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// issue asks until there is a certificate.
func issue(t testing.TB, i issuer.Issuer, r *issuer.Request) [][]byte {
	t.Helper()
	for range 20 {
		reply, err := i.Issue(context.Background(), r)
		if err != nil {
			t.Fatal(err)
		}
		if len(reply.Chain) > 0 {
			return reply.Chain
		}
		time.Sleep(time.Until(reply.PollAt)) // what the CA asked for
	}
	t.Fatal("no certificate")
	return nil
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func id(n int) string { return "r" + strconv.Itoa(n) }
