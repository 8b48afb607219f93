package apache_test

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
	"chancery/internal/deploy/apache"
	"chancery/internal/deploy/deploytest"
	"chancery/internal/scan/probe"
	"chancery/internal/testenv"
)

// site is an Apache of a test.
type site struct {
	bin, dir, conf, log string
	port                uint16
	server              *deploytest.Server
}

// newSite writes the configuration of n hosts.
func newSite(t *testing.T, n int) *site {
	t.Helper()
	s := &site{bin: testenv.NeedBinary(t, "apache2", "/usr/sbin/apache2"), dir: deploytest.Dir(t), port: deploytest.Port(t)}
	s.log = filepath.Join(s.dir, "error.log")
	var b strings.Builder
	for _, m := range []string{"mpm_event", "authz_core", "socache_shmcb", "ssl"} {
		fmt.Fprintf(&b, "LoadModule %s_module /usr/lib/apache2/modules/mod_%s.so\n", m, m)
	}
	fmt.Fprintf(&b, "ServerName localhost\nServerRoot %s\nDefaultRuntimeDir %s\nPidFile %s/apache.pid\nErrorLog %s\nLogLevel notice\nListen 127.0.0.1:%d\nUser www-data\nGroup www-data\nSSLSessionCache none\n",
		s.dir, s.dir, s.dir, s.log, s.port)
	b.WriteString("StartServers 2\nThreadsPerChild 16\nMaxRequestWorkers 64\nServerLimit 8\n")
	for i := range n {
		id := deploytest.Name(i)
		fmt.Fprintf(&b, "<VirtualHost *:%d>\nServerName %s.test\nSSLEngine on\nSSLCertificateFile %s/live/%s/fullchain.pem\nSSLCertificateKeyFile %s/live/%s/privkey.pem\n</VirtualHost>\n",
			s.port, id, s.dir, id, s.dir, id)
	}
	s.conf = deploytest.WriteFile(t, filepath.Join(s.dir, "apache.conf"), b.String())
	return s
}

// start starts the server.
func (s *site) start(t *testing.T) {
	t.Helper()
	s.server = deploytest.Start(t, s.port, syscall.SIGTERM, exec.Command(s.bin, "-f", s.conf, "-DFOREGROUND"))
	deploytest.Wait(t, "apache to write its pid file", func() bool { // it listens before that
		_, err := os.Stat(s.dir + "/apache.pid")
		return err == nil
	})
	t.Cleanup(func() {
		if text, err := os.ReadFile(s.log); err == nil && t.Failed() {
			t.Logf("%s", text[max(0, len(text)-3000):])
		}
	})
}

// config is the target's configuration.
func (s *site) config() *apache.Config {
	c := apache.Kind.Config().(*apache.Config)
	c.Dir, c.PIDFile = s.dir+"/live", s.dir+"/apache.pid"
	c.Test = []string{s.bin, "-f", s.conf, "-t"}
	return c
}

// open opens the target.
func (s *site) open(t *testing.T, state string, offline bool) deploy.Target {
	t.Helper()
	env := deploytest.Env(t, state)
	env.Offline = offline
	target, err := apache.Kind.Open(env, s.config())
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func TestSuite(t *testing.T) {
	s := newSite(t, 4)
	deploytest.Run(t, deploytest.Suite{
		Kind: apache.Kind, Config: s.config(), Probe: deploytest.At(probe.TLS, s.port), Start: s.start,
		Break: func(t *testing.T) func() {
			text, err := os.ReadFile(s.conf)
			if err != nil {
				t.Fatal(err)
			}
			deploytest.WriteFile(t, s.conf, string(text)+"Nonsense on\n")
			return func() { deploytest.WriteFile(t, s.conf, string(text)) }
		},
	})
}

// A thousand virtual hosts, two hundred renewed, one of which would end the
// server at the restart although its own test finds nothing wrong: it never
// gets there, and the others go live with one restart.
func TestManyHostsOneReload(t *testing.T) {
	s := newSite(t, 1000)
	state, ca := deploytest.State(t), deploytest.NewCA(t)
	deploytest.AllLive(t, deploy.Run(t.Context(), s.open(t, state, true), ca.Items(t, 1000), deploy.Options{}))
	s.start(t)
	load := deploytest.StartLoad(s.port, 1000)
	items := ca.Items(t, 200)
	items[77].Key = deploytest.NewKey(t)
	began := time.Now()
	out := deploy.Run(t.Context(), s.open(t, state, false), items, deploy.Options{Probe: deploytest.At(probe.TLS, s.port)})
	t.Logf("200 of 1,000 hosts renewed in %s", time.Since(began).Round(time.Millisecond))
	load.Stop(t)
	for i, o := range out {
		if o.Live != (i != 77) {
			t.Errorf("%s: live %t, %v", o.ID, o.Live, o.Err)
		}
	}
	if n := deploytest.Count(t, s.log, "SIGUSR1 received"); n != 1 {
		t.Errorf("%d restarts for one batch", n)
	}
}

// What the check in process is for: without it Apache's test is content, and
// the server dies. The files come back, and the server with them.
func TestApacheAcceptsAMismatchAndDies(t *testing.T) {
	s := newSite(t, 2)
	state, ca := deploytest.State(t), deploytest.NewCA(t)
	old := ca.Items(t, 2)
	deploytest.AllLive(t, deploy.Run(t.Context(), s.open(t, state, true), old, deploy.Options{}))
	s.start(t)
	bad := ca.Items(t, 2)
	bad[0].Key = deploytest.NewKey(t)
	staged, err := s.open(t, state, false).Stage(t.Context(), bad) // around deploy.Run, which would refuse it
	if err != nil {
		t.Fatal(err)
	}
	if err := staged.Apply(t.Context()); err == nil {
		_, err = staged.Verify(t.Context())
		t.Fatalf("apache survived, %v", err)
	} else if strings.Contains(err.Error(), "test configuration") {
		t.Skipf("this apache tests pairs: %v", err)
	}
	if err := staged.Rollback(t.Context()); err == nil {
		t.Error("a server that is gone was reloaded")
	}
	s2 := *s
	s2.start(t)
	if bad := deploytest.At(probe.TLS, s.port).Items(t.Context(), old); len(bad) > 0 {
		t.Errorf("the old certificates are not back: %v", bad)
	}
}
