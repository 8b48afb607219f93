package haproxy_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"chancery/internal/deploy"
	"chancery/internal/deploy/deploytest"
	"chancery/internal/deploy/haproxy"
	"chancery/internal/scan/probe"
	"chancery/internal/testenv"
)

// site is an HAProxy of a test.
type site struct {
	bin, dir, conf string
	port           uint16
	server         *deploytest.Server
}

// newSite writes the configuration and the list of n certificates.
func newSite(t *testing.T, n int) *site {
	t.Helper()
	s := &site{bin: testenv.NeedBinary(t, "haproxy", "/usr/sbin/haproxy"), dir: deploytest.Dir(t), port: deploytest.Port(t)}
	var list strings.Builder
	for i := range n {
		fmt.Fprintf(&list, "%s/live/%s/combined.pem\n", s.dir, deploytest.Name(i))
	}
	deploytest.WriteFile(t, s.dir+"/crt-list", list.String())
	s.conf = deploytest.WriteFile(t, s.dir+"/haproxy.cfg", fmt.Sprintf(`global
  stats socket %[1]s/admin.sock level admin
  nbthread 2
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
frontend tls
  bind 127.0.0.1:%[2]d ssl crt-list %[1]s/crt-list
  http-request return status 204
`, s.dir, s.port))
	return s
}

func (s *site) start(t *testing.T) {
	t.Helper()
	s.server = deploytest.Start(t, s.port, syscall.SIGTERM, exec.Command(s.bin, "-db", "-f", s.conf))
}

func (s *site) config() *haproxy.Config {
	c := haproxy.Kind.Config().(*haproxy.Config)
	c.Dir, c.Socket, c.CrtList = s.dir+"/live", s.dir+"/admin.sock", s.dir+"/crt-list"
	c.Test = []string{s.bin, "-c", "-q", "-f", s.conf}
	return c
}

func (s *site) open(t *testing.T, state string, offline bool) deploy.Target {
	t.Helper()
	env := deploytest.Env(t, state)
	env.Offline = offline
	target, err := haproxy.Kind.Open(env, s.config())
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func TestSuite(t *testing.T) {
	s := newSite(t, 4)
	deploytest.Run(t, deploytest.Suite{
		Kind: haproxy.Kind, Config: s.config(), Probe: deploytest.At(probe.TLS, s.port), Start: s.start,
		Break: func(t *testing.T) func() { // the socket is away, and HAProxy cannot be told
			if err := os.Rename(s.dir+"/admin.sock", s.dir+"/away"); err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := os.Rename(s.dir+"/away", s.dir+"/admin.sock"); err != nil {
					t.Fatal(err)
				}
			}
		},
	})
}

// A hundred certificates change in a running process, which is the same
// process afterwards.
func TestHundredWithoutReload(t *testing.T) {
	s := newSite(t, 100)
	state, ca := deploytest.State(t), deploytest.NewCA(t)
	deploytest.AllLive(t, deploy.Run(t.Context(), s.open(t, state, true), ca.Items(t, 100), deploy.Options{}))
	s.start(t)
	load := deploytest.StartLoad(s.port, 100)
	began := time.Now()
	deploytest.AllLive(t, deploy.Run(t.Context(), s.open(t, state, false), ca.Items(t, 100), deploy.Options{Probe: deploytest.At(probe.TLS, s.port)}))
	t.Logf("100 certificates in %s", time.Since(began).Round(time.Millisecond))
	load.Stop(t)
	if s.server.Cmd.ProcessState != nil || syscall.Kill(s.server.Cmd.Process.Pid, 0) != nil {
		t.Error("HAProxy is another process now")
	}
}

// A certificate that HAProxy does not know joins the list, in the process and
// in the file; when it is taken back, both are as before.
func TestNewCertificates(t *testing.T) {
	s := newSite(t, 2)
	state, ca := deploytest.State(t), deploytest.NewCA(t)
	deploytest.AllLive(t, deploy.Run(t.Context(), s.open(t, state, true), ca.Items(t, 2), deploy.Options{}))
	s.start(t)
	where := deploytest.At(probe.TLS, s.port)
	where.Settle = time.Second
	items := ca.Items(t, 4)
	items[3].Params = map[string]string{"probe": "elsewhere.test"}
	out := deploy.Run(t.Context(), s.open(t, state, false), items, deploy.Options{Probe: where})
	deploytest.AllLive(t, out[:3])
	if out[3].Live {
		t.Error("what nobody serves is live")
	}
	list, err := os.ReadFile(s.dir + "/crt-list")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(list), "\n"); n != 3 || strings.Count(string(list), "c002") != 1 {
		t.Errorf("the list is:\n%s", list)
	}
	// HAProxy starts with what is on the disk.
	if out, err := exec.Command(s.bin, "-c", "-f", s.conf).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	config := s.config()
	config.CrtList = ""
	target, err := haproxy.Kind.Open(deploytest.Env(t, state), config)
	if err != nil {
		t.Fatal(err)
	}
	out = deploy.Run(t.Context(), target, ca.Items(t, 5), deploy.Options{Probe: where})
	if out[4].Live || !strings.Contains(out[4].Err.Error(), "set crt_list") {
		t.Errorf("%+v", out[4])
	}
	deploytest.AllLive(t, out[:3])
}

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		change func(*haproxy.Config)
		want   string
	}{
		{func(c *haproxy.Config) { c.Socket = "" }, "socket:"},
		{func(c *haproxy.Config) { c.Files = []string{"fullchain.pem"} }, "files: must have"},
		{func(c *haproxy.Config) { c.Reload = []string{"true"} }, "reload:"},
	} {
		config := haproxy.Kind.Config().(*haproxy.Config)
		config.Dir = filepath.Join(t.TempDir(), "live")
		c.change(config)
		if _, err := haproxy.Kind.Open(deploytest.Env(t, ""), config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q, got %v", c.want, err)
		}
	}
}
