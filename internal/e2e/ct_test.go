package e2e

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/internal/ct/cttest"
	"chancery/internal/db/dbtest"
)

// configure makes the site one of `chancery serve`, with a configuration file
// and authorities made by `chancery ca init`.
func (s *site) configure(text string) {
	s.t.Helper()
	s.write(text)
	run(s.t, tool{name: s.bin, args: []string{"ca", "init", "--offline", "--config", s.config}})
}

// write is configure for a site that has its authorities.
func (s *site) write(text string) {
	s.t.Helper()
	url := ""
	if s.db != "" {
		url = fmt.Sprintf("[database]\nurl = %q\n", s.db)
	}
	s.config = writeFile(s.t, filepath.Join(s.t.TempDir(), "chancery.toml"), fmt.Sprintf(`[server]
data = %q
listen = %q
http_listen = %q
debug_listen = %q
url = "https://localhost:%s"
http_url = "http://%s"
%s[validation]
http01_port = %s
tlsalpn01_port = %s
resolvers = [%q]
allow_targets = ["127.0.0.0/8"]
[limits]
enabled = false
%s`, s.data, s.listen, s.plain, s.debug, portOf(s.listen), s.plain, url, s.http01, s.alpn, s.dns.Addr(), text), 0o600)
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// logConfig starts logs and returns the configuration that uses them: two
// timestamps of two operators, and one log in reserve.
func logConfig(t testing.TB) (config string, logs []*cttest.Log) {
	t.Helper()
	config = "[ca.default]\n[profile.default]\nct_logs = [\"argon\", \"willow\", \"oak\"]\nct_deadline = \"5s\"\n"
	for i, name := range []string{"argon", "willow", "oak"} {
		l := cttest.New(t)
		l.Static = i == 1
		kind := "rfc6962"
		if l.Static {
			kind = "static-ct"
		}
		config += fmt.Sprintf("[ct_log.%s]\nurl = %q\nkey = %q\nkind = %q\n", name, l.URL, base64.StdEncoding.EncodeToString(l.SPKI), kind)
		logs = append(logs, l)
	}
	return config, logs
}

// TestCertificateTransparency: a client gets a certificate with timestamps that
// OpenSSL verifies as a TLS client; logs that are down cost it a retry, not the
// order.
func TestCertificateTransparency(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	config, logs := logConfig(t)
	s.configure(config)
	s.resolve("ct.test", "down.test")
	p := s.start()
	c := newClient(t, p)
	key := newKey(t)
	csr, err := request(key, "ct.test")
	if err != nil {
		t.Fatal(err)
	}
	url, o, err := c.order(t.Context(), "ct.test")
	if err != nil {
		t.Fatal(err)
	}
	chain, err := c.finalize(t.Context(), url, o, csr)
	if err != nil {
		t.Fatal(err)
	}
	i := s.judge(t, string(chain), "ct.test")
	if text := run(t, tool{name: "openssl", args: []string{"x509", "-in", i.leaf, "-noout", "-text"}}); strings.Count(text, "Signed Certificate Timestamp:") != 2 {
		t.Errorf("openssl x509 -text shows no timestamps:\n%s", text)
	}
	var served tls.Certificate
	for _, b := range pemBlocks(t, string(chain)) {
		served.Certificate = append(served.Certificate, b.Bytes)
	}
	served.PrivateKey = key
	opensslValidates(t, s, &served, logs)

	url, o, err = c.order(t.Context(), "down.test")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range logs {
		l.Break(cttest.Down)
	}
	if csr, err = request(newKey(t), "down.test"); err != nil {
		t.Fatal(err)
	}
	r, err := c.once(t.Context(), o.Finalize, map[string]string{"csr": base64.RawURLEncoding.EncodeToString(csr)})
	if err != nil || r.status != 503 || r.header.Get("Retry-After") == "" || r.header.Get("Content-Type") != "application/problem+json" {
		t.Fatalf("%+v %v", r, err)
	}
	if _, err := c.post(t.Context(), url, nil, &o); err != nil || o.Status != "ready" {
		t.Fatalf("the order is %s, want ready (%v)", o.Status, err)
	}
	for _, l := range logs {
		l.Break(cttest.None)
	}
	if chain, err = c.finalize(t.Context(), url, o, csr); err != nil {
		t.Fatal(err)
	}
	s.judge(t, string(chain), "down.test")
	p.stop()
	s.doctor()
}

// opensslValidates serves a certificate, and has OpenSSL check its timestamps
// with the keys of the logs.
func opensslValidates(t *testing.T, s *site, cert *tls.Certificate, logs []*cttest.Log) {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(time.Minute))
				conn.Read(make([]byte, 1))
			}()
		}
	}()
	list, names := "", []string{}
	for i, l := range logs {
		names = append(names, fmt.Sprintf("log%d", i))
		list += fmt.Sprintf("[log%d]\ndescription = Log %d\nkey = %s\n", i, i, base64.StdEncoding.EncodeToString(l.SPKI))
	}
	file := writeFile(t, filepath.Join(t.TempDir(), "ct.cnf"), "enabled_logs = "+strings.Join(names, ",")+"\n"+list, 0o600)
	// OpenSSL 3.0 counts its own clock in whole seconds and takes a timestamp of
	// this very second for one from the future.
	eventually(t, 10*time.Second, func() error {
		out, err := tool{name: "sh", args: []string{"-c", `openssl s_client -connect "$1" -servername ct.test -CAfile "$2" -verify_return_error -ct -ctlogfile "$3" </dev/null`,
			"sh", ln.Addr().String(), s.root(), file}}.call(t)
		if err != nil || strings.Count(out, "validation status: valid") != 2 || !strings.Contains(out, "SCTs present (2)") {
			return fmt.Errorf("OpenSSL does not say that both timestamps are valid: %v\n%s", err, out)
		}
		return nil
	})
}

// TestKillWhileLogging kills the program between precertificate, logs and
// certificate, and expects what TestKillUnderLoad expects.
func TestKillWhileLogging(t *testing.T) {
	t.Parallel()
	dbtest.EachURL(t, func(t *testing.T, url string) {
		s := faultSite(t, url)
		config, _ := logConfig(t)
		s.configure(config)
		p := s.start()
		l := startLoad(t, p, 2)
		p.kill()
		for i, point := range []string{"ca.after_precertificate", "ca.after_logs", "ca.after_sign"} {
			s.killAt(killSpot{point, 1 + i})
		}
		p = s.start()
		s.doctor()
		l.finish()
		if n := s.count(qProcessing); n != 0 {
			t.Errorf("%d orders are still processing when every client is content", n)
		}
		l.keepsPromises()
		p.stop()
		s.doctor()
	})
}
