package solvertest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/internal/dns"
	"chancery/internal/testenv"
)

// TSIGKey is a key file as BIND writes it, of the key "chancery".
const TSIGKey = "key \"chancery\" {\n\talgorithm hmac-sha256;\n\tsecret \"c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ=\";\n};\n"

const tsigSecret = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ="

// DNSServer is a real authoritative server.
type DNSServer struct {
	Addr netip.AddrPort // DNS, UDP and TCP
	API  string         // URL of its API, if it has one
	t    testing.TB
	r    *dns.Resolver
}

// Values returns the TXT values of a name, asked from the server.
func (s *DNSServer) Values(t testing.TB, name string) []string {
	t.Helper()
	v, err := s.r.TXTAt(context.Background(), s.Addr, name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// output collects what a server says; safe for concurrent use.
type output struct {
	mu sync.Mutex
	bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.Buffer.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.Buffer.String()
}

// start runs a server until the test ends, and waits until it answers for zone.
func start(t testing.TB, s *DNSServer, zone string, argv ...string) {
	t.Helper()
	out := &output{}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-done })
	r, err := dns.New(dns.Config{Servers: []string{s.Addr.String()}, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	s.r, s.t = r, t
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; {
		if got, err := r.ZoneOf(context.Background(), zone); err == nil && got == zone {
			return
		}
		select {
		case <-done:
			t.Fatalf("%s ended: %s", argv[0], out)
		case <-tick.C:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not answer: %s", argv[0], out)
		}
	}
}

// StartBIND runs named with a zone that the key of TSIGKey may change.
func StartBIND(t testing.TB, zone string) *DNSServer {
	t.Helper()
	named := testenv.NeedBinary(t, "named", "/usr/sbin/named")
	dir, err := os.MkdirTemp("", "named") // not below the test's directory, whose name AppArmor may refuse
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	port := testenv.FreePort(t)
	write(t, filepath.Join(dir, "zone.db"), fmt.Sprintf("$TTL 60\n@ IN SOA ns.%[1]s. admin.%[1]s. 1 3600 600 86400 5\n@ IN NS ns.%[1]s.\nns IN A 127.0.0.1\n_acme-challenge.keep IN TXT \"foreign\"\n", zone))
	write(t, filepath.Join(dir, "named.conf"), fmt.Sprintf(`%[1]s
options { directory "%[2]s"; pid-file "%[2]s/named.pid"; session-keyfile "%[2]s/session.key"; listen-on port %[3]d { 127.0.0.1; }; listen-on-v6 { none; };
	recursion no; dnssec-validation no; };
controls { };
zone "%[4]s" { type primary; file "%[2]s/zone.db"; update-policy { grant chancery zonesub TXT; }; };
`, TSIGKey, dir, port, zone))
	s := &DNSServer{Addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port))}
	start(t, s, zone, named, "-g", "-c", filepath.Join(dir, "named.conf"))
	return s
}

// APIKey is that of StartPowerDNS.
const APIKey = "changeme-api-key"

// StartPowerDNS runs pdns_server with a zone, its API, and updates with the key
// of TSIGKey.
func StartPowerDNS(t testing.TB, zone string) *DNSServer {
	t.Helper()
	pdns := testenv.NeedBinary(t, "pdns_server", "/usr/sbin/pdns_server")
	util := testenv.NeedBinary(t, "pdnsutil", "/usr/bin/pdnsutil")
	if m, _ := filepath.Glob("/usr/lib/*/pdns/libgsqlite3backend.so"); len(m) == 0 {
		testenv.Skip(t, "the SQLite backend of PowerDNS (pdns-backend-sqlite3) is not installed")
	}
	dir := t.TempDir()
	port, api := testenv.FreePort(t), testenv.FreePort(t)
	db := filepath.Join(dir, "pdns.sqlite3")
	makeDatabase(t, db)
	write(t, filepath.Join(dir, "pdns.conf"), fmt.Sprintf(`launch=gsqlite3
gsqlite3-database=%s
local-address=127.0.0.1
local-port=%d
api=yes
api-key=%s
webserver=yes
webserver-address=127.0.0.1
webserver-port=%d
dnsupdate=yes
allow-dnsupdate-from=127.0.0.0/8
socket-dir=%s
daemon=no
guardian=no
query-cache-ttl=0
negquery-cache-ttl=0
cache-ttl=0
zone-cache-refresh-interval=0
setuid=
setgid=
`, db, port, APIKey, api, dir))
	for _, args := range [][]string{{"create-zone", zone, "ns." + zone}, {"import-tsig-key", "chancery", "hmac-sha256", tsigSecret},
		{"set-meta", zone, "TSIG-ALLOW-DNSUPDATE", "chancery"}, {"add-record", zone, "_acme-challenge.keep", "TXT", "60", `"foreign"`}} {
		if out, err := exec.Command(util, append([]string{"--config-dir=" + dir}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("pdnsutil %v: %v: %s", args, err, out)
		}
	}
	s := &DNSServer{Addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port)), API: fmt.Sprintf("http://127.0.0.1:%d", api)}
	start(t, s, zone, pdns, "--config-dir="+dir)
	return s
}

// Proxy is an http.Handler that passes requests on to the server's API.
func (s *DNSServer) Proxy() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), r.Method, s.API+r.URL.RequestURI(), r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		req.Header, req.ContentLength = r.Header.Clone(), r.ContentLength
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer res.Body.Close()
		for k, v := range res.Header {
			if !strings.EqualFold(k, "Content-Length") {
				w.Header()[k] = v
			}
		}
		w.WriteHeader(res.StatusCode)
		io.Copy(w, res.Body)
	})
}
