package app_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/acme"
	"chancery/internal/app"
	"chancery/internal/config"
	"chancery/internal/db/dbtest"
)

// What the configuration turns on is in the directory that clients read.
func TestDirectoryFollowsTheConfiguration(t *testing.T) {
	cfg := config.Default()
	cfg.Server.Data, cfg.Database.URL = t.TempDir(), dbtest.SQLiteURL(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	free.Close()
	cfg.Server.Listen, cfg.Server.HTTPListen, cfg.Server.DebugListen = "127.0.0.1:"+port, "127.0.0.1:0", ""
	cfg.Server.URL = "https://localhost:" + port
	cfg.ACME.CAAIdentities = []string{"ca.test"}
	ca, profile := cfg.CA["default"], cfg.Profile["default"]
	ca.Subdomains, ca.StarMinLifetime, ca.StarMaxDuration, ca.StarAllowGet = true, time.Hour, 48*time.Hour, true
	ca.Delegation = true
	profile.Challenges = []config.Challenge{"http-01", "dns-01", "dns-account-01", "dns-persist-01"}
	cfg.CA["default"], cfg.Profile["default"] = ca, profile
	ctx, stop := context.WithCancel(context.Background())
	ready := make(chan app.Ready, 1)
	a, err := app.New(ctx, cfg, app.Options{Create: true, OnReady: func(r app.Ready) { ready <- r }})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	var r app.Ready
	select {
	case r = <-ready:
	case <-time.After(time.Minute):
		t.Fatal("the program is not ready after a minute")
	}
	root, err := os.ReadFile(r.Root)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "localhost"}}, Timeout: 10 * time.Second}
	resp, err := client.Get(r.Directory)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var d acme.Directory
	if err := json.NewDecoder(resp.Body).Decode(&d); err != nil {
		t.Fatal(err)
	}
	if m := d.Meta; !m.SubdomainAuthAllowed || m.AccountHashPrefix == "" || !cmp.Equal(m.IssuerDomainNames, []string{"ca.test"}) ||
		!m.DelegationEnabled || !m.AllowCertificateGet || m.AutoRenewal == nil || *m.AutoRenewal != (acme.AutoRenewalMeta{MinLifetime: 3600, MaxDuration: 172800, AllowCertificateGet: true}) {
		t.Errorf("%+v", m)
	}
	client.CloseIdleConnections()
}
