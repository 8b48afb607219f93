package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chancery/internal/dns/dnstest"
)

// estate is an internet with a CA, its five remote perspectives, the owner of
// victim.test and somebody who would like to be.
type estate struct {
	*network
	bin   string
	data  string
	site  *site // for what tests of one machine use
	ready ready

	dns             []*dnstest.Server // of the primary (0), and of each perspective
	owner, attacker *client
}

const (
	victimAddr = "10.99.0.1" // what victim.test is, wherever one looks
	ownerVia   = "10.77.0.10"
	thiefVia   = "10.77.0.66"
)

// regions of the perspectives p1 ... p5.
var regions = []string{"eu", "eu", "eu", "eu", "us"}

func newEstate(t *testing.T) *estate {
	t.Helper()
	e := &estate{network: newNetwork(t), bin: binary(t), data: filepath.Join(t.TempDir(), "data")}
	e.site = &site{t: t, bin: e.bin, data: e.data}
	e.machine("primary", 2)
	e.machine("owner", 10)
	e.machine("thief", 66)
	for _, m := range []string{"owner", "thief"} {
		e.do(m, "addr", "add", victimAddr+"/32", "dev", "lo")
	}
	watchers := []string{"primary"}
	for i := range regions {
		name := fmt.Sprintf("p%d", i+1)
		e.machine(name, 20+i)
		watchers = append(watchers, name)
	}
	for i, w := range watchers {
		e.honest(w)
		e.dns = append(e.dns, e.nameserver(5300+i))
	}
	e.startPerspectives()
	e.startPrimary()
	e.owner, e.attacker = e.account("owner"), e.account("thief")
	return e
}

// honest lets a machine reach the owner under the victim's address; hijack
// leads it to the thief.
func (e *estate) honest(machine string) { e.route(machine, victimAddr, ownerVia) }
func (e *estate) hijack(machine string) { e.route(machine, victimAddr, thiefVia) }

// nameserver runs a DNS server on the hub that knows the truth, until it is told otherwise.
func (e *estate) nameserver(port int) *dnstest.Server {
	e.t.Helper()
	var s *dnstest.Server
	err := e.on(hub, func() (err error) {
		s, err = dnstest.New(dnstest.Options{Addr: fmt.Sprintf("10.77.0.1:%d", port)})
		return err
	})
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(s.Close)
	s.Add("victim.test. 60 IN A "+victimAddr, "forged.test. 60 IN A "+victimAddr)
	return s
}

// start runs the program on a machine until the test ends.
func (e *estate) start(machine string, args ...string) *process {
	e.t.Helper()
	p := &process{site: e.site, ended: make(chan struct{})}
	p.cmd = e.command(machine, e.bin, args...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.log
	if err := p.begin(); err != nil {
		e.t.Fatal(err)
	}
	return p
}

// pin makes a key and returns its pin.
func (e *estate) pin(path string) string {
	e.t.Helper()
	return strings.TrimSpace(run(e.t, tool{name: e.bin, args: []string{"agent", "key", path}}))
}

func (e *estate) startPerspectives() {
	e.t.Helper()
	if err := os.MkdirAll(e.data, 0o700); err != nil {
		e.t.Fatal(err)
	}
	primary := e.pin(filepath.Join(e.data, "perspective.key"))
	var conf strings.Builder
	fmt.Fprintf(&conf, `[server]
listen = "10.77.0.2:8443"
http_listen = "10.77.0.2:8080"
debug_listen = "127.0.0.1:8081"
url = "https://10.77.0.2:8443"
http_url = "http://10.77.0.2:8080"
data = %q
[acme]
caa_identities = ["ca.test"]
[validation]
resolvers = ["10.77.0.1:5300"]
allow_targets = ["10.0.0.0/8"]
[ca.default]
min_perspectives = 5
`, e.data)
	for i, region := range regions {
		name, dir := fmt.Sprintf("p%d", i+1), e.t.TempDir()
		key, up := filepath.Join(dir, "agent.key"), filepath.Join(dir, "ready")
		fmt.Fprintf(&conf, "[perspective.%s]\nregion = %q\nurl = \"https://10.77.0.%d:9443\"\npin = %q\n", name, region, 20+i, e.pin(key))
		e.start(name, "agent", "--perspective", name, "--region", region, "--key", key, "--primary", primary, "--ready-file", up,
			"--resolver", fmt.Sprintf("10.77.0.1:%d", 5301+i), "--allow-target", "10.0.0.0/8")
		eventually(e.t, 30*time.Second, func() error { _, err := os.Stat(up); return err })
	}
	writeFile(e.t, filepath.Join(e.data, "..", "chancery.toml"), conf.String(), 0o600)
}

func (e *estate) startPrimary() {
	e.t.Helper()
	conf, up := filepath.Join(e.data, "..", "chancery.toml"), filepath.Join(e.t.TempDir(), "ready.json")
	run(e.t, tool{name: e.bin, args: []string{"ca", "init", "--offline", "--config", conf, "--ca", "default"}})
	p := e.start("primary", "serve", "--config", conf, "--ready-file", up)
	p.file = up
	if err := p.waitReady(); err != nil {
		e.t.Fatalf("%v\n%s", err, p.log.last())
	}
	e.ready = p.ready
}

// account makes an ACME account that talks from the hub, and a web server on a
// machine that answers its challenges under every address of that machine.
func (e *estate) account(machine string) *client {
	e.t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: e.site.roots()}, DialContext: e.dial}
	e.t.Cleanup(tr.CloseIdleConnections)
	c := &client{web: &http.Client{Transport: tr, Timeout: 30 * time.Second}, nonces: make(chan string, 64), tokens: new(sync.Map), retries: new(atomic.Int64)}
	web := &http.Server{Handler: c}
	e.t.Cleanup(func() { web.Close() })
	go web.Serve(e.listen(machine, "0.0.0.0:80"))
	if err := c.fetch(e.t.Context(), e.ready.Directory, &c.dir); err != nil {
		e.t.Fatal(err)
	}
	c, err := c.register(e.t.Context(), newKey(e.t))
	if err != nil {
		e.t.Fatal(err)
	}
	return c
}

// obtain orders a name and returns the authorization's id, and an error
// unless there is a certificate.
func (e *estate) obtain(c *client, name string) (authz string, err error) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), 30*time.Second)
	defer cancel()
	url, o, err := c.order(ctx, name)
	if len(o.Authorizations) == 1 {
		authz = filepath.Base(o.Authorizations[0])
	}
	if err != nil {
		return authz, err
	}
	csr, err := request(newKey(e.t), name)
	if err != nil {
		e.t.Fatal(err)
	}
	chain, err := c.finalize(ctx, url, o, csr)
	if err == nil && !bytes.Contains(chain, []byte("BEGIN CERTIFICATE")) {
		err = fmt.Errorf("no certificate: %s", chain)
	}
	return authz, err
}

// shown is what `chancery acme authz show` says of an authorization.
func (e *estate) shown(authz string) (v struct {
	Evidence []struct {
		Corroborated bool
		Perspectives []struct {
			Perspective, Verdict, Region string
			Used                         []string
		}
	}
}) {
	e.t.Helper()
	out, err := e.command(hub, e.bin, "acme", "authz", "show", authz, "--data", e.data, "--json").Output()
	if err != nil {
		e.t.Fatalf("acme authz show: %v", err)
	}
	if err := json.Unmarshal(out, &v); err != nil {
		e.t.Fatalf("%v: %s", err, out)
	}
	return v
}

// refused fails the test unless an order got no certificate, for a reason that
// has text in it.
func (e *estate) refused(t *testing.T, c *client, name, text string) {
	t.Helper()
	_, err := e.obtain(c, name)
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Fatalf("got %v, want a refusal with %q", err, text)
	}
}

// TestHijackedRoutes is multi-perspective corroboration against what it is
// for: somebody who attracts the traffic, or forges the DNS, of some places on
// the network but not of all.
func TestHijackedRoutes(t *testing.T) {
	e := newEstate(t)

	t.Run("a hijacked perspective of five does not block the owner", func(t *testing.T) {
		e.hijack("p1")
		authz, err := e.obtain(e.owner, "victim.test")
		if err != nil {
			t.Fatal(err)
		}
		v := e.shown(authz)
		if len(v.Evidence) != 1 || !v.Evidence[0].Corroborated || len(v.Evidence[0].Perspectives) != 5 {
			t.Fatalf("%+v", v)
		}
		for i, p := range v.Evidence[0].Perspectives {
			want := "agrees"
			if i == 0 {
				want = "disagrees"
			}
			if p.Verdict != want || p.Region != regions[i] || len(p.Used) != 1 || p.Used[0] != victimAddr {
				t.Errorf("%+v, want %s", p, want)
			}
		}
	})
	// The owner's authorization would be used again.
	fresh := func() {
		c, err := e.owner.register(t.Context(), newKey(t))
		if err != nil {
			t.Fatal(err)
		}
		e.owner = c
	}
	t.Run("two block: it cannot be told who is right", func(t *testing.T) {
		fresh()
		e.hijack("p1")
		e.hijack("p4")
		e.refused(t, e.owner, "victim.test", "2 of 5 remote network perspectives")
		e.honest("p4")
	})
	t.Run("a poisoned resolver is as bad as a hijacked route", func(t *testing.T) {
		fresh()
		e.dns[2].Remove("forged.test.")
		e.dns[2].Add("forged.test. 60 IN A " + thiefVia)
		e.refused(t, e.owner, "forged.test", "2 of 5 remote network perspectives")
	})
	t.Run("agreement in one region alone is none", func(t *testing.T) {
		fresh()
		e.honest("p1")
		e.hijack("p5")
		e.refused(t, e.owner, "victim.test", "those that agree must be in 2 regions")
		e.honest("p5")
	})
	t.Run("whoever hijacks the primary gets nothing", func(t *testing.T) {
		e.hijack("primary")
		e.refused(t, e.attacker, "victim.test", "5 of 5 remote network perspectives")
	})
	t.Run("nor with a perspective, nor with three", func(t *testing.T) {
		e.hijack("p1")
		e.refused(t, e.attacker, "victim.test", "4 of 5 remote network perspectives")
		e.hijack("p2")
		e.hijack("p3")
		e.refused(t, e.attacker, "victim.test", "2 of 5 remote network perspectives")
	})
	t.Run("the owner can have one again when the routes are right", func(t *testing.T) {
		fresh()
		for _, m := range []string{"primary", "p1", "p2", "p3"} {
			e.honest(m)
		}
		if _, err := e.obtain(e.owner, "victim.test"); err != nil {
			t.Fatal(err)
		}
	})
}
