package app_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/app"
	"chancery/internal/bench/fleet"
	"chancery/internal/config"
	"chancery/internal/db/dbtest"
	"chancery/internal/scan/verdict"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// known lists certificates.
func known(t testing.TB, in *instance, query string) []api.Known {
	t.Helper()
	list, _, err := client.List[api.Known](context.Background(), in.api, "/certs", url.Values{"q": {query}}, 0)
	check(t, err)
	return list
}

// schedule makes a schedule and waits for the end of its first pass.
func scanned(t testing.TB, in *instance, spec map[string]any) api.Pass {
	t.Helper()
	spec["interval"] = "1d"
	made, err := client.Post[api.Schedule](context.Background(), in.api, "/scan/schedules", spec)
	check(t, err)
	var p api.Pass
	eventually(t, "the pass ends", time.Minute, func() bool {
		list, _, err := client.List[api.Pass](context.Background(), in.api, "/scan/passes", url.Values{"schedule": {made.ID}}, 1)
		check(t, err)
		if len(list) == 1 {
			p = list[0]
		}
		return len(list) == 1 && p.State != "running"
	})
	return p
}

// What the server issues is in the inventory about a second later; files of a
// watched directory are, too (inventory.watch, inventory.watch_interval).
func TestInventoryFillsItself(t *testing.T) {
	cfg := configure(t, dbtest.SQLiteURL(t))
	dir := t.TempDir()
	cfg.Inventory.Watch, cfg.Inventory.WatchInterval = []string{dir}, time.Second
	in := start(t, cfg)
	if list := known(t, in, "source:ca name:localhost status:active"); len(list) != 1 {
		t.Errorf("the server's own certificate: %+v", list)
	}
	if list := known(t, in, "source:ca ca:yes"); len(list) != 2 {
		t.Errorf("authorities: %+v", list)
	}
	_, err := client.Post[api.Certificate](context.Background(), in.api, "/certs/"+known(t, in, "name:localhost")[0].ID+"/revoke", map[string]any{"reason": "superseded"})
	check(t, err)
	eventually(t, "the revocation is in the inventory", 10*time.Second, func() bool { return len(known(t, in, "status:revoked name:localhost")) == 1 })
	f, err := fleet.Start(fleet.Config{Endpoints: 1, Live: true})
	check(t, err)
	f.Close()
	check(t, os.WriteFile(filepath.Join(dir, "ca.pem"), f.Root, 0o600))
	eventually(t, "the file is imported", 20*time.Second, func() bool { return len(known(t, in, "source:import tag:file=ca.pem")) == 1 })
	cfg = configure(t, dbtest.SQLiteURL(t))
	cfg.Inventory.Watch = []string{filepath.Join(dir, "missing")}
	if _, err := app.New(context.Background(), cfg, app.Options{Create: true}); err == nil || !strings.Contains(err.Error(), "inventory.watch") {
		t.Errorf("a directory that is not there: %v", err)
	}
}

// Scheduled scans use scan.resolvers, scan.roots and scan.warn, and refuse more
// than scan.max_targets.
func TestScheduledScansFollowTheConfiguration(t *testing.T) {
	f, err := fleet.Start(fleet.Config{Endpoints: 30, Seed: 3, Live: true})
	check(t, err)
	t.Cleanup(f.Close)
	root := filepath.Join(t.TempDir(), "root.pem")
	check(t, os.WriteFile(root, f.Root, 0o600))
	var targets []string
	for _, e := range f.Endpoints {
		targets = append(targets, e.Target)
	}
	cfg := configure(t, dbtest.SQLiteURL(t))
	cfg.Scan.Resolvers, cfg.Scan.Roots, cfg.Scan.MaxTargets = []string{f.DNS()}, []string{root}, 30
	in := start(t, cfg)
	p := scanned(t, in, map[string]any{"name": "fleet", "targets": strings.Join(targets, "\n")})
	if p.State != "done" || p.Targets != 30 || p.Summary.Healthy != 30 || p.Left != 0 {
		t.Errorf("%+v", p)
	}
	// What was found is scanned again, without a list.
	again := scanned(t, in, map[string]any{"name": "again", "targets": "inventory:*.fleet.test"})
	if again.State != "done" || again.Targets != 30 || again.Summary.Healthy != 30 {
		t.Errorf("%+v", again)
	}
	over := scanned(t, in, map[string]any{"name": "over", "targets": "127.9.0.0/24"})
	if over.State != "failed" || !strings.Contains(over.Error, "more than 30 targets") {
		t.Errorf("%+v", over)
	}
	in.stop()
	cfg = configure(t, dbtest.SQLiteURL(t))
	cfg.Scan.Resolvers, cfg.Scan.Warn = []string{f.DNS()}, 4000*24*time.Hour
	p = scanned(t, start(t, cfg), map[string]any{"name": "fleet", "targets": strings.Join(targets, "\n")})
	if n := p.Summary.Problems; n[verdict.Expiring] != 30 || n[verdict.Untrusted]+n[verdict.Incomplete] == 0 {
		t.Errorf("%+v", p.Summary)
	}
}

// A process runs the schedules of its site (scan.site), and none without the
// role (server.roles).
func TestSitesAndRolesOfScans(t *testing.T) {
	cfg := configure(t, dbtest.SQLiteURL(t))
	cfg.Scan.Site = "dc1"
	in := start(t, cfg)
	_, err := client.Post[api.Schedule](context.Background(), in.api, "/scan/schedules", map[string]any{"name": "other", "site": "dc2", "targets": "127.0.0.1:1", "interval": "1d"})
	check(t, err)
	if p := scanned(t, in, map[string]any{"name": "here", "site": "dc1", "targets": "127.0.0.1:1"}); p.State != "done" || p.Site != "dc1" {
		t.Errorf("%+v", p)
	}
	passes := func(in *instance) []api.Pass {
		list, _, err := client.List[api.Pass](context.Background(), in.api, "/scan/passes", nil, 0)
		check(t, err)
		return list
	}
	if list := passes(in); len(list) != 1 {
		t.Errorf("a schedule of another site was run: %+v", list)
	}
	in.stop()
	cfg.Scan.Site, cfg.Server.Roles = "dc2", []config.Role{config.RoleACME, config.RoleCA, config.RoleStatus, config.RoleAPI, config.RoleWriter}
	in = start(t, cfg)
	// Two loops of the writer pass while a scanner would have begun.
	eventually(t, "certificates are followed", 20*time.Second, func() bool { return len(known(t, in, "source:ca")) > 0 })
	if list := passes(in); len(list) != 1 {
		t.Errorf("a process without the role scans: %+v", list)
	}
}

// silent accepts connections, says nothing, and counts them.
func silent(t *testing.T) (port int, most *atomic.Int64, total *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { l.Close() })
	most, total = new(atomic.Int64), new(atomic.Int64)
	open := new(atomic.Int64)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			total.Add(1)
			most.Store(max(most.Load(), open.Add(1)))
			go func() {
				defer c.Close()
				defer open.Add(-1)
				for buf := make([]byte, 512); ; {
					if _, err := c.Read(buf); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port, most, total
}

// scan.per_address, scan.address_rate and scan.timeout bound what a scan does
// to others.
func TestScansKeepTheirBounds(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*config.Scan)
		most   int64
		least  time.Duration // 80 connections, a burst of 10, 20/s: 3.5 s
	}{
		// A connection ends for the server a little after the next one began.
		{"per address", func(s *config.Scan) { s.PerAddress, s.AddressRate = 1, 10000 }, 3, 0},
		{"rate", func(s *config.Scan) { s.PerAddress, s.AddressRate = 10, 20 }, 14, 3 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			port, most, total := silent(t)
			cfg := configure(t, dbtest.SQLiteURL(t))
			cfg.Scan.Timeout = 150 * time.Millisecond
			c.change(&cfg.Scan)
			var targets strings.Builder
			for i := range 40 {
				fmt.Fprintf(&targets, "tls://127.0.0.1:%d/h%d.test\n", port, i)
			}
			p := scanned(t, start(t, cfg), map[string]any{"name": "x", "targets": targets.String()})
			if p.State != "done" || p.Summary.Classes["timeout-tls"] != 40 || total.Load() < 40 {
				t.Errorf("%+v, %d connections", p, total.Load())
			}
			if got := most.Load(); got > c.most {
				t.Errorf("%d connections at once, want at most %d", got, c.most)
			}
			if took := p.FinishedAt.Sub(p.StartedAt); took < c.least || took > 30*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

// The settings of an external bus are used: files that are not there stop the
// start, another prefix is another installation's.
func TestBusSettings(t *testing.T) {
	for key, change := range map[string]func(*config.Bus){
		"ca_file":     func(b *config.Bus) { b.CAFile = "/nonexistent/ca.pem" },
		"credentials": func(b *config.Bus) { b.CredentialsFile = "/nonexistent/user.creds" },
	} {
		cfg := configure(t, dbtest.SQLiteURL(t))
		cfg.Bus.URL = "nats://127.0.0.1:1"
		change(&cfg.Bus)
		if a, err := app.New(context.Background(), cfg, app.Options{Create: true}); err == nil {
			t.Errorf("%s: a file that is not there was accepted", key)
			a.Close()
		}
	}
	// A server that is away does not stop the start.
	cfg := configure(t, dbtest.SQLiteURL(t))
	cfg.Bus.URL = "nats://127.0.0.1:1"
	in := start(t, cfg)
	if len(known(t, in, "source:ca")) == 0 {
		t.Error("the inventory does not follow without a bus")
	}
}
