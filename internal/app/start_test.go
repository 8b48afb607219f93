package app_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"chancery/internal/api/client"
	"chancery/internal/app"
	"chancery/internal/config"
)

// instance is a running program.
type instance struct {
	app.Ready
	*app.App
	api    *client.Client
	client *http.Client // reaches its HTTPS listener, whatever the URL says
	stop   func()       // and waits; more than once is harmless
}

// free returns an address on loopback that was free a moment ago.
func free(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// configure returns a configuration with a data directory and addresses of its
// own.
func configure(t testing.TB, url string) *config.Config {
	t.Helper()
	cfg := config.Default()
	cfg.Server.Data, cfg.Database.URL = t.TempDir(), url
	cfg.Server.Listen, cfg.Server.HTTPListen, cfg.Server.DebugListen = free(t), "127.0.0.1:0", ""
	cfg.Server.URL = "https://localhost:" + cfg.Server.Listen[strings.LastIndexByte(cfg.Server.Listen, ':')+1:]
	return cfg
}

// start runs a program until the end of the test.
func start(t testing.TB, cfg *config.Config) *instance {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan app.Ready, 1)
	a, err := app.New(ctx, cfg, app.Options{Create: true, OnReady: func(r app.Ready) { ready <- r }})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	in := &instance{App: a}
	stopped := false
	in.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(in.stop)
	select {
	case in.Ready = <-ready:
	case err := <-done:
		t.Fatalf("the program ended: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("the program is not ready after a minute")
	}
	in.connect(t, cfg.Server.Listen)
	return in
}

// connect makes the clients.
func (in *instance) connect(t testing.TB, listen string) {
	t.Helper()
	root, err := os.ReadFile(in.Root)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, listen)
	}
	in.client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DialContext: dial,
		TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "localhost"}}}
	t.Cleanup(in.client.CloseIdleConnections)
	token, err := os.ReadFile(in.Token)
	if err != nil {
		t.Fatal(err)
	}
	in.api, err = client.New(client.Config{Server: strings.TrimSuffix(in.API, "/api/v1"), Token: strings.TrimSpace(string(token)), HTTP: in.client})
	if err != nil {
		t.Fatal(err)
	}
}

// eventually looks again and again until ok.
func eventually(t testing.TB, what string, within time.Duration, ok func() bool) {
	t.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for begin := time.Now(); !ok(); <-again.C {
		if time.Since(begin) > within {
			t.Fatalf("%s: not within %s", what, within)
		}
	}
}
