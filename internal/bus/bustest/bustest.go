// Package bustest gives tests a real bus: embedded, or servers on loopback that
// can be stopped and started again.
package bustest

import (
	"fmt"
	"net/url"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"chancery/internal/bus"
	"chancery/internal/testenv"
)

// startTimeout is how long a server may take to start.
const startTimeout = 20 * time.Second

// Open opens a bus that is closed at the end of the test.
func Open(tb testing.TB, cfg bus.Config) *bus.Bus {
	tb.Helper()
	if cfg.Dir == "" {
		cfg.Dir = tb.TempDir()
	}
	b, err := bus.Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatalf("open bus: %v", err)
	}
	tb.Cleanup(func() {
		if err := b.Close(); err != nil {
			tb.Errorf("close bus: %v", err)
		}
	})
	return b
}

// Servers are the nodes of an external bus, all in this process.
type Servers struct {
	tb    testing.TB
	opts  []*server.Options
	nodes []*server.Server // nil: stopped
}

// Start starts n servers, a cluster if n > 1, that keep their data on disk and
// are stopped at the end of the test.
func Start(tb testing.TB, n int) *Servers {
	tb.Helper()
	s := &Servers{tb: tb, nodes: make([]*server.Server, n)}
	routes := make([]int, n)
	for i := range n {
		routes[i] = testenv.FreePort(tb)
	}
	for i := range n {
		s.opts = append(s.opts, options(fmt.Sprintf("node%d", i), testenv.FreePort(tb), filepath.Join(tb.TempDir(), "store")))
		if n > 1 {
			join(s.opts[i], routes[i], routes)
		}
	}
	tb.Cleanup(func() {
		for i := range n {
			s.Stop(i)
		}
	})
	for i := range n {
		s.launch(i)
	}
	for i := range n {
		s.wait(i)
	}
	if n > 1 {
		s.waitLeader()
	}
	return s
}

// options are those of one server on loopback.
func options(name string, port int, dir string) *server.Options {
	return &server.Options{
		ServerName: name, Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: dir, JetStreamMaxMemory: 16 << 30, JetStreamMaxStore: 16 << 30, DisableJetStreamBanner: true,
	}
}

// join makes a server part of a cluster.
func join(o *server.Options, port int, all []int) {
	o.Cluster = server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: port, PoolSize: -1}
	for _, p := range all {
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats-route", Host: fmt.Sprintf("127.0.0.1:%d", p)})
	}
}

// URL is what bus.Config wants.
func (s *Servers) URL() string {
	var urls []string
	for _, o := range s.opts {
		urls = append(urls, fmt.Sprintf("nats://%s:%d", o.Host, o.Port))
	}
	return strings.Join(urls, ",")
}

// Stop ends a node; its data stay.
func (s *Servers) Stop(i int) {
	if s.nodes[i] != nil {
		s.nodes[i].Shutdown()
		s.nodes[i].WaitForShutdown()
		s.nodes[i] = nil
	}
}

// StartAgain starts a node that was stopped.
func (s *Servers) StartAgain(i int) {
	s.tb.Helper()
	s.launch(i)
	s.wait(i)
}

// Leader is the node that leads a stream (a stream as the server names it), or
// -1 if none does.
func (s *Servers) Leader(stream string) int {
	for i, n := range s.nodes {
		if n != nil && n.JetStreamIsStreamLeader("$G", stream) {
			return i
		}
	}
	return -1
}

// launch starts a node.
func (s *Servers) launch(i int) {
	s.tb.Helper()
	node, err := server.NewServer(s.opts[i].Clone())
	if err != nil {
		s.tb.Fatalf("configure server: %v", err)
	}
	s.nodes[i] = node
	node.Start()
}

// waitLeader waits until the cluster has chosen who sets up streams.
func (s *Servers) waitLeader() {
	s.tb.Helper()
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); runtime.Gosched() {
		for _, n := range s.nodes {
			if n != nil && n.JetStreamIsLeader() && len(n.JetStreamClusterPeers()) == len(s.nodes) {
				return
			}
		}
	}
	s.tb.Fatal("the cluster has no leader")
}

// wait waits until a node answers clients.
func (s *Servers) wait(i int) {
	s.tb.Helper()
	if !s.nodes[i].ReadyForConnections(startTimeout) {
		s.tb.Fatalf("server %d did not start", i)
	}
}
