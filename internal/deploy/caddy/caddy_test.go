package caddy_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"chancery/internal/deploy/caddy"
	"chancery/internal/deploy/deploytest"
	"chancery/internal/scan/probe"
	"chancery/internal/testenv"
)

// site writes the configuration of a Caddy with n certificates.
func site(t *testing.T, n int, admin string) (dir string, port uint16, start func(*testing.T)) {
	t.Helper()
	bin := testenv.NeedBinary(t, "caddy")
	dir, port = deploytest.Dir(t), deploytest.Port(t)
	var load []map[string]string
	for i := range n {
		path := dir + "/live/" + deploytest.Name(i)
		load = append(load, map[string]string{"certificate": path + "/fullchain.pem", "key": path + "/privkey.pem"})
	}
	files, err := json.Marshal(load)
	if err != nil {
		t.Fatal(err)
	}
	conf := deploytest.WriteFile(t, dir+"/caddy.json", fmt.Sprintf(`{"admin": {"listen": %q, "config": {"persist": false}},
 "storage": {"module": "file_system", "root": %q},
 "apps": {"tls": {"certificates": {"load_files": %s}},
  "http": {"servers": {"s": {"listen": ["127.0.0.1:%d"], "automatic_https": {"disable": true}, "tls_connection_policies": [{}],
   "routes": [{"handle": [{"handler": "static_response", "status_code": 204}]}]}}}}}`, strings.ReplaceAll(admin, "DIR", dir), dir+"/storage", files, port))
	return dir, port, func(t *testing.T) {
		cmd := exec.Command(bin, "run", "--config", conf)
		cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
		deploytest.Start(t, port, syscall.SIGTERM, cmd)
	}
}

func TestSuite(t *testing.T) {
	for name, admin := range map[string]string{"socket": "unix/DIR/admin.sock", "port": fmt.Sprintf("127.0.0.1:%d", deploytest.Port(t))} {
		t.Run(name, func(t *testing.T) {
			dir, port, start := site(t, 4, admin)
			c := caddy.Kind.Config().(*caddy.Config)
			c.Dir, c.Admin = dir+"/live", strings.ReplaceAll(admin, "DIR", dir)
			deploytest.Run(t, deploytest.Suite{
				Kind: caddy.Kind, Config: c, Probe: deploytest.At(probe.TLS, port), Start: start,
				Break: func(*testing.T) func() {
					right := c.Admin
					c.Admin = "127.0.0.1:1"
					return func() { c.Admin = right }
				},
			})
		})
	}
}

func TestConfig(t *testing.T) {
	for _, bad := range []string{"", "localhost", "unix/relative", "http://localhost:2019", ":2019"} {
		c := caddy.Kind.Config().(*caddy.Config)
		c.Dir, c.Admin = "/nowhere/live", bad
		if _, err := caddy.Kind.Open(deploytest.Env(t, ""), c); err == nil || !strings.HasPrefix(err.Error(), "admin:") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
