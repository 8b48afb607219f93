// Package perspectivetest runs remote perspectives on loopback for tests: the
// real agent behind a real listener, with a resolver and targets of its own.
package perspectivetest

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/acme/challenge"
	"chancery/internal/acme/perspective"
	"chancery/internal/dns"
	"chancery/internal/httpd"
)

// Where is what a perspective sees of the world.
type Where struct {
	Name, Region string
	DNS          string // address of its DNS server
	HTTPPort     uint16 // on which names answer http-01 and tls-alpn-01
}

// Key returns a new key.
func Key(t testing.TB) *perspective.Key {
	t.Helper()
	k, err := perspective.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Registry returns the validators that look from w, and their resolver.
func Registry(t testing.TB, w Where) (*challenge.Registry, *dns.Resolver) {
	t.Helper()
	r, err := dns.New(dns.Config{Servers: []string{w.DNS}, Timeout: time.Second, Attempts: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	policy, err := challenge.NewPolicy([]string{"127.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	c := challenge.Config{Resolver: r, Policy: policy, HTTP01Port: w.HTTPPort, TLSALPN01Port: w.HTTPPort, Perspective: w.Name}
	v, err := challenge.NewRegistry(challenge.NewHTTP01(c), challenge.NewDNS01(c), challenge.NewTLSALPN01(c), challenge.NewDNSAccount01(c), challenge.NewDNSPersist01(c))
	if err != nil {
		t.Fatal(err)
	}
	return v, r
}

// Start runs an agent until the test ends, or until stop is called.
func Start(t testing.TB, primary *perspective.Key, w Where) (remote perspective.Remote, stop func()) {
	t.Helper()
	key := Key(t)
	v, r := Registry(t, w)
	agent, err := perspective.NewAgent(perspective.AgentConfig{Name: w.Name, Region: w.Region, Key: key, Primaries: []perspective.Pin{primary.Pin()},
		Validators: v, Resolver: r, CAATimeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := httpd.NewMetrics(prometheus.NewRegistry())
	mux := httpd.NewMux(m)
	agent.Routes(mux)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := httpd.New(httpd.Config{Name: "perspective", Handler: mux, TLS: agent.TLS(), Metrics: m, Grace: time.Millisecond}).Run(ctx, ln); err != nil {
			t.Errorf("perspective %s: %v", w.Name, err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return perspective.Remote{Name: w.Name, Region: w.Region, URL: "https://" + ln.Addr().String(), Pin: key.Pin()}, stop
}
