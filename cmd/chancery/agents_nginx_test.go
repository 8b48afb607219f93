package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"chancery/internal/api"
	"chancery/internal/deploy/deploytest"
	"chancery/internal/testenv"
)

// TestAgentReloadsNginx: an nginx that runs with another certificate shows the
// one that an operator assigned, within two seconds.
func TestAgentReloadsNginx(t *testing.T) {
	bin := testenv.NeedBinary(t, "nginx", "/usr/sbin/nginx")
	s, _ := startDev(t)
	dir, port := deploytest.Dir(t), deploytest.Port(t)
	h := &host{t: t, s: s, dir: dir, addr: fmt.Sprintf("127.0.0.1:%d", port)}
	var b strings.Builder
	fmt.Fprintf(&b, "pid %[1]s/nginx.pid;\nerror_log %[1]s/error.log notice;\nworker_processes 1;\nevents { worker_connections 64; }\nhttp {\n  access_log off;\n", dir)
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&b, "  %s_temp_path %s/tmp;\n", kind, dir)
	}
	fmt.Fprintf(&b, "  server { listen 127.0.0.1:%d ssl; server_name www.test; ssl_certificate %[2]s/live/www.test/fullchain.pem; ssl_certificate_key %[2]s/live/www.test/privkey.pem; return 204; }\n}\n", port, dir)
	conf := deploytest.WriteFile(t, filepath.Join(dir, "nginx.conf"), b.String())
	deploytest.WriteFile(t, h.conf(), fmt.Sprintf("[server]\ndata = %q\n\n[target.web]\nkind = \"nginx\"\ndir = %q\npid_file = %q\ntest = [%q, \"-p\", %q, \"-c\", %q, \"-t\", \"-q\"]\nprobe = [%q]\n",
		h.state(), dir+"/live", dir+"/nginx.pid", bin, dir, conf, h.addr))
	if err := os.MkdirAll(h.state(), 0o700); err != nil {
		t.Fatal(err)
	}
	before := &deployShell{t, dir, h.conf()}
	if code, out, errs := before.run(append([]string{"deploy", "--target", "web", "--first"}, before.pair(deploytest.NewCA(t), "old", "www.test")...)...); code != exitOK {
		t.Fatal(out, errs)
	}
	deploytest.Start(t, port, syscall.SIGQUIT, exec.Command(bin, "-p", dir, "-c", conf, "-g", "daemon off;"))
	old := shown(h.addr)
	if old == nil {
		t.Fatal("nginx does not serve")
	}

	h.start(h.state(), "--server", s.url(), "--token", s.agentToken(), "--name", "one")
	until(t, 20*time.Second, "the agent waits", func() bool {
		var list []api.Agent
		decode(t, s.ok("agents", "list", "--json"), &list)
		return len(list) == 1 && list[0].Parked
	})
	s.ok("agents", "assign", "one", "www.test", "--target", "web")
	took := until(t, 10*time.Second, "the certificate is live", func() bool {
		a := s.agent("one").Assignments
		return len(a) == 1 && a[0].State == "live"
	})
	t.Logf("assigned, issued, deployed, reloaded, probed and reported in %s", took)
	if took > 2*time.Second {
		t.Errorf("it took %s, more than 2 s", took)
	}
	// Workers that are on their way out may answer for a moment yet.
	until(t, 10*time.Second, "nginx shows the new certificate", func() bool {
		c := shown(h.addr)
		return c != nil && !c.Equal(old) && c.VerifyHostname("www.test") == nil
	})
}
