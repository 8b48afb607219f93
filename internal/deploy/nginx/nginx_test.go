package nginx_test

import (
	"crypto/rand"
	"crypto/rsa"
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
	"chancery/internal/deploy/nginx"
	"chancery/internal/scan/probe"
	"chancery/internal/testenv"
)

// site is an nginx of a test with n virtual hosts.
type site struct {
	bin, dir, conf, log string
	port                uint16
	n                   int
}

// newSite writes the configuration of n hosts.
func newSite(t *testing.T, n int) *site {
	t.Helper()
	s := &site{bin: testenv.NeedBinary(t, "nginx", "/usr/sbin/nginx"), dir: deploytest.Dir(t), port: deploytest.Port(t), n: n}
	s.log = filepath.Join(s.dir, "error.log")
	var b strings.Builder
	fmt.Fprintf(&b, "pid %s/nginx.pid;\nerror_log %s notice;\nworker_processes 2;\nevents { worker_connections 256; }\nhttp {\n  access_log off;\n  server_names_hash_max_size 8192;\n", s.dir, s.log)
	for _, d := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&b, "  %s_temp_path %s/tmp;\n", d, s.dir)
	}
	for i := range n {
		id := deploytest.Name(i)
		fmt.Fprintf(&b, "  server { listen 127.0.0.1:%d ssl; server_name %s.test; ssl_certificate %s/live/%s/fullchain.pem; ssl_certificate_key %s/live/%s/privkey.pem; return 204; }\n",
			s.port, id, s.dir, id, s.dir, id)
	}
	b.WriteString("}\n")
	s.conf = deploytest.WriteFile(t, filepath.Join(s.dir, "nginx.conf"), b.String())
	return s
}

// start starts the server.
func (s *site) start(t *testing.T) {
	t.Helper()
	deploytest.Start(t, s.port, syscall.SIGQUIT, exec.Command(s.bin, "-p", s.dir, "-c", s.conf, "-g", "daemon off;"))
	t.Cleanup(func() {
		if text, err := os.ReadFile(s.log); err == nil && t.Failed() {
			t.Logf("%s", text)
		}
	})
}

// config is the target's configuration, as docs/deploy.md shows it.
func (s *site) config() *nginx.Config {
	c := nginx.Kind.Config().(*nginx.Config)
	c.Dir, c.PIDFile = s.dir+"/live", s.dir+"/nginx.pid"
	c.Test = []string{s.bin, "-p", s.dir, "-c", s.conf, "-t", "-q"}
	return c
}

// reloads counts the reloads since the start.
func (s *site) reloads(t *testing.T) int { return deploytest.Count(t, s.log, ": reconfiguring") }

// run deploys items.
func (s *site) run(t *testing.T, state string, items []deploy.Item) []deploy.Outcome {
	t.Helper()
	target, err := nginx.Kind.Open(deploytest.Env(t, state), s.config())
	if err != nil {
		t.Fatal(err)
	}
	return deploy.Run(t.Context(), target, items, deploy.Options{Probe: deploytest.At(probe.TLS, s.port)})
}

// first puts the first certificates in place and starts the server.
func (s *site) first(t *testing.T, state string, items []deploy.Item) {
	t.Helper()
	env := deploytest.Env(t, state)
	env.Offline = true
	target, err := nginx.Kind.Open(env, s.config())
	if err != nil {
		t.Fatal(err)
	}
	deploytest.AllLive(t, deploy.Run(t.Context(), target, items, deploy.Options{}))
	s.start(t)
}

func TestSuite(t *testing.T) {
	s := newSite(t, 4)
	deploytest.Run(t, deploytest.Suite{
		Kind: nginx.Kind, Config: s.config(), Probe: deploytest.At(probe.TLS, s.port), Start: s.start,
		Break: func(t *testing.T) func() {
			text, err := os.ReadFile(s.conf)
			if err != nil {
				t.Fatal(err)
			}
			deploytest.WriteFile(t, s.conf, string(text)+"nonsense on;\n")
			return func() { deploytest.WriteFile(t, s.conf, string(text)) }
		},
	})
}

// A thousand virtual hosts, two hundred renewed: one reload, and nobody who
// connects meanwhile notices.
func TestManyHostsOneReload(t *testing.T) {
	s := newSite(t, 1000)
	state, ca := deploytest.State(t), deploytest.NewCA(t)
	s.first(t, state, ca.Items(t, s.n))
	load := deploytest.StartLoad(s.port, s.n)
	items := ca.Items(t, 200)
	items[77].Key = deploytest.NewKey(t) // would end the reload, or worse
	began := time.Now()
	out := s.run(t, state, items)
	t.Logf("200 of 1,000 hosts renewed in %s", time.Since(began).Round(time.Millisecond))
	load.Stop(t)
	for i, o := range out {
		if o.Live != (i != 77) {
			t.Errorf("%s: live %t, %v", o.ID, o.Live, o.Err)
		}
	}
	if n := s.reloads(t); n != 1 {
		t.Errorf("%d reloads for one batch", n)
	}
	if n := deploytest.Count(t, s.log, "[emerg]"); n != 0 {
		t.Errorf("the server saw %d broken configurations", n)
	}
}

// OpenSSL refuses small keys, which nothing in a certificate forbids: nginx
// names the file in its complaint, and the others go live with one reload.
func TestWeakKeyIsIsolated(t *testing.T) {
	s := newSite(t, 200)
	state, ca := deploytest.State(t), deploytest.NewCA(t)
	s.first(t, state, ca.Items(t, s.n))
	items := ca.Items(t, 200)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	items[123] = ca.ItemWith(t, weak, items[123].ID, items[123].Names...)
	load := deploytest.StartLoad(s.port, s.n)
	out := s.run(t, state, items)
	load.Stop(t)
	for i, o := range out {
		if o.Live != (i != 123) {
			t.Errorf("%s: live %t, %v", o.ID, o.Live, o.Err)
		}
	}
	if text := out[123].Stderr; !strings.Contains(text, "ee key too small") {
		t.Errorf("the outcome does not have the server's reason: %q", text)
	}
	if n := s.reloads(t); n != 1 {
		t.Errorf("%d reloads", n)
	}
}

// A test that lies, as Apache's does: the bad item is found by what is served,
// and by halving, as nobody names it.
func TestHalvesFindWhatNobodyNames(t *testing.T) {
	s := newSite(t, 16)
	state, ca := deploytest.State(t), deploytest.NewCA(t)
	s.first(t, state, ca.Items(t, s.n))
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	items := ca.Items(t, s.n)
	items[5] = ca.ItemWith(t, weak, items[5].ID, items[5].Names...)
	config := s.config()
	config.Test = []string{"/bin/true"}
	config.Timeout = time.Second // nginx says nothing when it keeps its old configuration
	target, err := nginx.Kind.Open(deploytest.Env(t, state), config)
	if err != nil {
		t.Fatal(err)
	}
	where := deploytest.At(probe.TLS, s.port)
	where.Settle = time.Second
	for i, o := range deploy.Run(t.Context(), target, items, deploy.Options{Probe: where}) {
		if o.Live != (i != 5) {
			t.Errorf("%s: live %t, %v", o.ID, o.Live, o.Err)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		change func(*nginx.Config)
		want   string
	}{
		{func(c *nginx.Config) { c.Dir = "" }, "dir: must be set"},
		{func(c *nginx.Config) { c.Dir = "live/" }, "not an absolute path"},
		{func(c *nginx.Config) { c.Files = nil }, "names no file"},
		{func(c *nginx.Config) { c.Files = []string{"../x=fullchain.pem"} }, "cannot name a file"},
		{func(c *nginx.Config) { c.Files = []string{"tls.crt=nonsense"} }, "is none of"},
		{func(c *nginx.Config) { c.Owner = "nobody-has-this-name" }, "owner:"},
	} {
		config := nginx.Kind.Config().(*nginx.Config)
		config.Dir = "/nowhere/live"
		c.change(config)
		if _, err := nginx.Kind.Open(deploytest.Env(t, "/nowhere"), config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q, got %v", c.want, err)
		}
	}
}
