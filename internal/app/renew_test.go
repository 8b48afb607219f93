package app

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"chancery/internal/ca"
	"chancery/internal/config"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/pki"
	"chancery/internal/renew"
)

// openWith opens the program with a configuration file.
func openWith(t *testing.T, text string) (*App, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path, nil)
	if err != nil {
		return nil, err
	}
	cfg.Server.Data, cfg.Database.URL = t.TempDir(), dbtest.SQLiteURL(t)
	if err := errors.Join(CheckKinds(cfg)...); err != nil {
		return nil, err
	}
	a, err := New(context.Background(), cfg, Options{Create: true})
	if err == nil {
		t.Cleanup(func() { a.Close() })
	}
	return a, err
}

// What an [issuer.NAME] says is what the engine does.
func TestIssuerSectionsHaveAnEffect(t *testing.T) {
	a, err := openWith(t, `
[ca.default]
deny_names = ["secret.corp.test"]
[issuer.internal]
kind = "local"
allow_names = ["*.corp.test"]
workers = 3
orders = "2 per 1h"
fallbacks = ["other"]
fallback_after = "1m"
staging = "other"
step_timeout = "30s"
[issuer.other]
kind = "local"
allow_names = ["*.corp.test"]
profile = "default"
limits = "letsencrypt"
[renew]
lease = "2m"
check_workers = 2
`)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	issuers, err := a.openIssuers(mustRegister(t, a))
	if err != nil {
		t.Fatal(err)
	}
	i, o := issuers["internal"], issuers["other"]
	if i.Workers != 3 || len(i.Budgets) != 1 || i.Budgets[0].Rate.Count != 2 || !slices.Equal(i.Fallbacks, []string{"other"}) || i.FallbackAfter != time.Minute ||
		i.Staging != "other" || i.Timeout != 30*time.Second || !i.Own || len(o.Budgets) != 4 {
		t.Errorf("%+v\n%+v", i, o)
	}
	run, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- a.renew.Run(run) }()
	defer func() { stop(); <-done }()
	for name, want := range map[string]renew.State{"a.corp.test": renew.Idle, "secret.corp.test": renew.Stopped, "b.other.test": renew.Stopped} {
		ids, err := pki.ParseNames([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		issuer := "internal"
		if want == renew.Stopped {
			issuer = "other" // internal has two orders an hour
		}
		m, err := a.renew.Create(ctx, renew.Spec{Names: ids, Issuer: issuer}, "test")
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); m.State != renew.Idle && m.State != renew.Stopped; time.Sleep(5 * time.Millisecond) {
			if m, err = renew.Get(ctx, a.db.Read(), m.ID); err != nil || time.Now().After(deadline) {
				t.Fatalf("%+v %v", m, err)
			}
		}
		if m.State != want {
			t.Errorf("%s is %s: %s", name, m.State, m.Error)
		}
	}
}

func mustRegister(t *testing.T, a *App) map[string]*ca.Profile {
	t.Helper()
	r, err := a.ca.Register(context.Background(), profiles(a.cfg))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What cannot work is refused before anything serves.
func TestBadIssuersAreRefused(t *testing.T) {
	for what, text := range map[string]string{
		"unknown kind":           "[issuer.x]\nkind = \"carrier-pigeon\"\n",
		"unknown key":            "[issuer.x]\nkind = \"local\"\nallow = [\"*.test\"]\n",
		"nothing":                "[issuer.x]\nkind = \"local\"\n",
		"unknown ca":             "[issuer.x]\nkind = \"local\"\nca = \"nobody\"\nallow_names = [\"*.test\"]\n",
		"bad pattern":            "[issuer.x]\nkind = \"local\"\nallow_names = [\"*.*\"]\n",
		"public ca":              "[ca.default]\ntrust = \"public-webpki\"\n[issuer.x]\nkind = \"local\"\nallow_names = [\"*.test\"]\n",
		"certificates of agents": "[issuer.x]\nkind = \"local\"\nallow_names = [\"*.test\"]\n[certificate.x]\nnames = [\"a.test\"]\n",
		"unknown target":         "[target.x]\nkind = \"carrier-pigeon\"\n",
	} {
		_, err := openWith(t, text)
		if _, located := errors.AsType[*config.Problem](err); err == nil || fault.As(err).Code == fault.ServerInternal && !located {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A process without the role renews nothing.
func TestRenewRole(t *testing.T) {
	for _, c := range []struct {
		roles string
		want  bool
	}{{`["api", "renew"]`, true}, {`["api", "acme"]`, false}} {
		a, err := openWith(t, "[server]\nroles = "+c.roles+"\n")
		if err != nil {
			t.Fatal(err)
		}
		if a.renews() != c.want || len(a.renewLoops()) > 0 != c.want {
			t.Errorf("%s: renews is %v, %d loops", c.roles, a.renews(), len(a.renewLoops()))
		}
	}
}

// The limits that configuration offers are those that the engine knows.
func TestLimitNamesAgree(t *testing.T) {
	if got := config.IssuerLimits("").Choices(); !slices.Equal(got, renew.PresetNames()) {
		t.Errorf("%v, %v", got, renew.PresetNames())
	}
}

// An incident at our own CA renews its certificates before it revokes them,
// long before anybody would have asked for their windows.
func TestIncidentRenewsInTime(t *testing.T) {
	a, err := openWith(t, "[issuer.internal]\nkind = \"local\"\nallow_names = [\"*.corp.test\"]\n")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.renew.Run(ctx) }()
	defer func() { stop(); <-done }()
	ids, err := pki.ParseNames([]string{"a.corp.test"})
	if err != nil {
		t.Fatal(err)
	}
	m, err := a.renew.Create(ctx, renew.Spec{Name: "a", Names: ids}, "test")
	if err != nil {
		t.Fatal(err)
	}
	until := func(ok func(renew.Managed) bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !ok(m); time.Sleep(5 * time.Millisecond) {
			if m, err = renew.Get(ctx, a.db.Read(), "a"); err != nil || time.Now().After(deadline) {
				t.Fatalf("%+v %v", m, err)
			}
		}
	}
	until(func(m renew.Managed) bool { return m.State == renew.Idle })
	first := m.LiveID
	if _, err := a.ca.CreateIncident(ctx, ca.IncidentSpec{Name: "key ceremony", ExplanationURL: "https://corp.test/why", Selection: ca.Selection{Query: "name:a.corp.test"},
		RevokeAt: time.Now().Add(time.Hour), Actor: "test"}); err != nil {
		t.Fatal(err)
	}
	tick := a.followIncidents()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := a.ca.RunIncidents(ctx); err != nil {
			t.Fatal(err)
		}
		n, err := tick(ctx)
		if err != nil || time.Now().After(deadline) {
			t.Fatal(n, err)
		}
		if n.Done > 0 {
			break
		}
	}
	if got, err := renew.Get(ctx, a.db.Read(), "a"); err != nil || got.AskAt.After(time.Now()) {
		t.Errorf("asked at %s, %v", got.AskAt, err)
	}
	if _, err := a.renew.AskSoon(ctx, "internal", time.Second); err != nil {
		t.Fatal(err)
	}
	until(func(m renew.Managed) bool { return m.State == renew.Idle && m.LiveID != first })
}
