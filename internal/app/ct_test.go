package app_test

import (
	"context"
	"encoding/base64"
	"net/http"
	"testing"
	"time"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/config"
	"chancery/internal/ctwatch"
	"chancery/internal/ctwatch/ctwatchtest"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/scan/cloud/cloudtest"
)

// Logs of the configuration are followed; what is looked for comes from the
// configuration and from what we obtained; the API shows and closes findings.
func TestLogsFollowTheConfiguration(t *testing.T) {
	static, old := ctwatchtest.New(t, ctwatch.Static), ctwatchtest.New(t, ctwatch.RFC6962)
	vault, foreign := cloudtest.Vault(t), ctwatchtest.NewIssuer(t, "Somebody's CA")
	vault.Put(cloudtest.Item{Name: "0a", DER: cloudtest.Certificates(t, 1, "vault.test")[0]})
	old.Bulk(t, foreign, 10)
	cfg := configure(t, dbtest.SQLiteURL(t))
	cfg.CT.Domains, cfg.CT.Interval, cfg.CT.Grace = []string{"ours.test"}, time.Second, time.Second
	section := func(s *ctwatchtest.Server, kind config.CTKind, begin config.CTBegin) config.CTLog {
		l := s.Log("", false)
		return config.CTLog{URL: l.URL, Key: base64.StdEncoding.EncodeToString(l.Key), Kind: kind, Watch: true, Begin: begin}
	}
	off := section(static, "static-ct", "start")
	off.Watch = false
	logs := map[string]config.CTLog{"static": section(static, "static-ct", "start"), "old": section(old, "rfc6962", "end"), "off": off}
	cfg.CloudSource = map[string]config.CloudSource{"main": vault.Configure("vault-pki")}
	in := start(t, cfg)
	ctx := context.Background()
	eventually(t, "the source is listed", 30*time.Second, func() bool {
		s, err := client.Get[api.Source](ctx, in.api, "/scan/sources/main", nil)
		return err == nil && s.Tally.Listed == 1
	})
	in.stop()
	// Our domains are known from here on: what was logged before one of them was
	// is not looked at again.
	cfg.CTLog = logs
	if errs := cfg.Check(); len(errs) > 0 {
		t.Fatal(errs)
	}
	in = start(t, cfg)
	static.Put(t, foreign.Issue(t, "pay.ours.test"), true)
	static.Put(t, foreign.Issue(t, "other.vault.test"), false)
	static.Put(t, foreign.Issue(t, "www.elsewhere.test"), false)
	var found []api.CTFinding
	eventually(t, "the findings", 30*time.Second, func() bool {
		var err error
		if found, _, err = client.List[api.CTFinding](ctx, in.api, "/ct/findings", map[string][]string{"state": {"open"}}, 0); err != nil {
			t.Fatal(err)
		}
		return len(found) == 2 && found[0].AlertedAt != nil && found[1].AlertedAt != nil
	})
	if found[0].Matched != "other.vault.test" || found[0].Precertificate || found[1].Matched != "pay.ours.test" || !found[1].Precertificate {
		t.Errorf("%+v", found)
	}
	one, err := client.Get[api.CTFinding](ctx, in.api, "/ct/findings/"+found[0].ID, nil)
	if err != nil || len(one.DER) == 0 {
		t.Errorf("%+v %v", one, err)
	}
	if err := in.api.Do(ctx, http.MethodPost, "/ct/findings/"+one.ID+"/acknowledge", nil, map[string]string{"comment": "a partner's"}, &one); err != nil || one.State != "acknowledged" || one.Comment != "a partner's" {
		t.Errorf("%+v %v", one, err)
	}
	if err := in.api.Do(ctx, http.MethodPost, "/ct/findings/nothing/acknowledge", nil, map[string]string{}, nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("no such finding: %v", err)
	}
	var read []api.CTLog
	eventually(t, "both logs are followed", 20*time.Second, func() bool {
		if read, _, err = client.List[api.CTLog](ctx, in.api, "/ct/logs", nil, 0); err != nil {
			t.Fatal(err)
		}
		return len(read) == 2 && read[0].Size == 10 && read[1].Size == 3
	})
	if read[0].Name != "old" || read[0].Entries > 2 || read[1].Entries != 3 || read[1].Matches != 2 {
		t.Errorf("%+v", read)
	}
	if err := in.api.Do(ctx, http.MethodPost, "/ct/logs/static/reset", nil, nil, nil); err != nil {
		t.Error(err)
	}
	eventually(t, "it is read anew", 20*time.Second, func() bool {
		l, err := client.Get[api.CTLog](ctx, in.api, "/ct/logs/static", nil)
		return err == nil && l.Size == 3 && l.Entries == 6
	})
	if again, _, err := client.List[api.CTFinding](ctx, in.api, "/ct/findings", nil, 0); err != nil || len(again) != 2 {
		t.Errorf("%d findings after the log was read twice, %v", len(again), err)
	}
}
