package app_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/app"
	"chancery/internal/config"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/scan/cloud/cloudtest"
)

// A source of the configuration is listed, and what its section says has an
// effect.
func TestSourcesFollowTheConfiguration(t *testing.T) {
	vault, cluster := cloudtest.Vault(t), cloudtest.Cluster(t)
	for i, der := range cloudtest.Certificates(t, 2, "vault.test") {
		vault.Put(cloudtest.Item{Name: []string{"0a", "0b"}[i], DER: der})
	}
	cluster.Put(cloudtest.Item{Name: "shop", DER: cloudtest.Certificates(t, 1, "shop.test")[0], Tags: map[string]string{"squad": "pay", "unit": "core", "stage": "prod"}})
	cfg := configure(t, dbtest.SQLiteURL(t))
	main, prod, off := vault.Configure("vault-pki"), cluster.Configure("kubernetes"), vault.Configure("vault-pki")
	main.Account, main.Interval = "hq", time.Hour
	prod.OwnerTag, prod.TeamTag, prod.EnvironmentTag = "squad", "unit", "stage"
	off.Enabled = false
	cfg.CloudSource = map[string]config.CloudSource{"main": main, "prod": prod, "off": off}
	in := start(t, cfg)
	ctx := context.Background()
	var known []api.Known
	eventually(t, "the sources are listed", 30*time.Second, func() bool {
		var err error
		if known, _, err = client.List[api.Known](ctx, in.api, "/certs", map[string][]string{"q": {"source:cloud"}}, 0); err != nil {
			t.Fatal(err)
		}
		return len(known) == 3
	})
	for query, n := range map[string]int{"tag:account=hq": 2, "owner:pay": 1, "team:core": 1, "env:prod": 1, "tag:provider=vault": 2} {
		eventually(t, query, 10*time.Second, func() bool {
			found, _, err := client.List[api.Known](ctx, in.api, "/certs", map[string][]string{"q": {query}}, 0)
			return err == nil && len(found) == n
		})
	}
	eventually(t, "their rows say so", 10*time.Second, func() bool {
		s, err := client.Get[api.Source](ctx, in.api, "/scan/sources/main", nil)
		return err == nil && s.State == "ok" && s.Tally.Listed == 2
	})
	if s, err := client.Get[api.Source](ctx, in.api, "/scan/sources/off", nil); err != nil || s.State != "waiting" || s.Enabled || !s.Configured {
		t.Errorf("a source that is off: %+v %v", s, err)
	}
	var items []api.SourceItem
	var err error
	eventually(t, "the items of the other one", 10*time.Second, func() bool {
		items, _, err = client.List[api.SourceItem](ctx, in.api, "/scan/sources/prod/items", nil, 0)
		return err != nil || len(items) == 1 && items[0].Certificate != ""
	})
	if err != nil || len(items) != 1 || items[0].Ref != "web/shop" || items[0].Account != "prod" || items[0].Certificate == "" {
		t.Errorf("%+v %v", items, err)
	}
	before := vault.Requests("ListCertificates")
	if err := in.api.Do(ctx, http.MethodPost, "/scan/sources/main/run", nil, nil, nil); err != nil {
		t.Error(err)
	}
	eventually(t, "a list that was asked for", 20*time.Second, func() bool { return vault.Requests("ListCertificates") > before })
	if err := in.api.Do(ctx, http.MethodPost, "/scan/sources/main/check", nil, nil, nil); err != nil {
		t.Error(err)
	}
	vault.Do(func() {
		vault.Fault = func(string, int) *cloudtest.Fault { return &cloudtest.Fault{Status: 403, Body: "no"} }
	})
	if err := in.api.Do(ctx, http.MethodPost, "/scan/sources/main/check", nil, nil, nil); !fault.Is(err, fault.Precondition) {
		t.Errorf("check with credentials that are refused: %v", err)
	}
	if err := in.api.Do(ctx, http.MethodPost, "/scan/sources/nothing/check", nil, nil, nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("check of no source: %v", err)
	}
}

// Mistakes in the keys of a kind are found before anything is opened.
func TestSourceMistakes(t *testing.T) {
	section := func(kind, name string, v any) *config.Config {
		cfg := config.Default()
		s := config.DefaultCloudSource()
		s.Kind = kind
		cfg.CloudSource = map[string]config.CloudSource{"x": s.With(name, v)}
		return cfg
	}
	for want, cfg := range map[string]*config.Config{
		"there is no kind \"aws\"; kinds are aws-acm":           section("aws", "region", "a"),
		"source.x.regoin: unknown key; did you mean \"region\"": section("aws-acm", "regoin", "a"),
		"source.x.url: \"here\" is not a URL":                   section("vault-pki", "url", "here"),
	} {
		if err := errors.Join(app.CheckSources(cfg)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
