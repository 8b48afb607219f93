package e2e

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"chancery/internal/testenv"
)

// TestCaddy runs a web server that gets its certificates by itself, by
// whichever challenge it likes, and staples what our responder says.
func TestCaddy(t *testing.T) {
	t.Parallel()
	path := testenv.NeedBinary(t, "caddy")
	s, p := startSite(t, "caddy.test", "second.caddy.test")
	dir := t.TempDir()
	config := writeFile(t, filepath.Join(dir, "Caddyfile"), fmt.Sprintf(`{
	admin off
	email ops@caddy.test
	http_port %s
	https_port %s
	default_bind 127.0.0.1
	storage file_system %s
	acme_ca %s
	acme_ca_root %s
}
caddy.test, second.caddy.test {
	respond "served by caddy"
}
`, s.http01, s.alpn, filepath.Join(dir, "storage"), p.ready.Directory, s.root()), 0o644)

	var log output
	cmd := exec.Command(path, "run", "--config", config, "--adapter", "caddyfile")
	cmd.Env = []string{"HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "PATH=/usr/bin:/bin"}
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := spawn(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.Process.Pid > 1 {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		if t.Failed() {
			t.Logf("caddy:\n%s", log.last())
		}
	})
	for _, name := range []string{"caddy.test", "second.caddy.test"} {
		s.visit(t, name)
	}
	p.stop()
	s.doctor()
}

// visit fetches a page of caddy's over a connection that our root verifies,
// and checks the status stapled to it.
func (s *site) visit(t *testing.T, name string) {
	t.Helper()
	conf := &tls.Config{RootCAs: s.roots(), ServerName: name}
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}, Timeout: 5 * time.Second}
	eventually(t, time.Minute, func() error {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "https://127.0.0.1:"+s.alpn+"/", nil)
		if err != nil {
			return err
		}
		req.Host = name
		resp, err := web.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %s", resp.Status)
		}
		staple, err := ocsp.ParseResponseForCert(resp.TLS.OCSPResponse, resp.TLS.PeerCertificates[0], resp.TLS.PeerCertificates[1])
		if err != nil {
			return fmt.Errorf("stapled status: %w", err)
		}
		if staple.Status != ocsp.Good {
			return fmt.Errorf("stapled status is %d", staple.Status)
		}
		return nil
	})
}
