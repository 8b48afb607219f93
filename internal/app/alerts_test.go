package app_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/app"
	"chancery/internal/config"
	"chancery/internal/db/dbtest"
)

// loadText loads a configuration from a file.
func loadText(t *testing.T, text string) *config.Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "chancery.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAlertChannelsThatAreWrong(t *testing.T) {
	for text, want := range map[string]string{
		"[alert_channel.ops]\nkind = \"pigeon\"\n":                                             "there is no kind \"pigeon\" of alert channel",
		"[alert_channel.ops]\nkind = \"slack\"\n":                                              "url_file: must be set",
		"[alert_channel.ops]\nkind = \"slack\"\nurl_file = \"x\"\ncolour = \"red\"\n":          "alert_channel.ops.colour",
		"[alert_channel.ops]\nkind = \"slack\"\nurl_file = \"x\"\nseverity = \"dreadful\"\n":   "must be info, warning or critical",
		"[alert_channel.ops]\nkind = \"email\"\nserver = \"m.example:587\"\nfrom = \"nobody\"": "chancery.toml:4: alert_channel.ops.from: must be an address",
	} {
		c := loadText(t, text)
		var all []string
		for _, err := range append(c.Check(), app.CheckKinds(c)...) {
			all = append(all, err.Error())
		}
		if got := strings.Join(all, "\n"); !strings.Contains(got, want) {
			t.Errorf("%s\ngot %q, want %q", text, got, want)
		}
	}
}

// TestAlertsOfARunningServer tries a channel, and has a rule find something,
// through the program's own front door.
func TestAlertsOfARunningServer(t *testing.T) {
	var mu sync.Mutex
	got, up := map[string]int{}, false
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if !up {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		got[r.Header.Get("Chancery-Delivery")]++
	}))
	defer hook.Close()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := loadText(t, "[alert]\ngroup_wait = \"0s\"\n[alert_channel.hook]\nkind = \"webhook\"\nseverity = \"info\"\nurl = \""+hook.URL+"\"\nsecret_file = \""+secret+"\"\n")
	cfg := configure(t, dbtest.SQLiteURL(t))
	cfg.Alert, cfg.AlertChannel = c.Alert, c.AlertChannel
	in := start(t, cfg)
	ctx := context.Background()
	delivery, err := client.Post[api.AlertDelivery](ctx, in.api, "/alerts/channels/hook/test", nil)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first try failed", 90*time.Second, func() bool {
		d, err := client.Get[api.AlertDelivery](ctx, in.api, "/alerts/deliveries/"+delivery.ID, nil)
		return err == nil && d.State == "waiting" && d.Attempts == 1 && strings.Contains(d.Error, "503")
	})
	in.stop() // while the receiver is down
	mu.Lock()
	up = true
	mu.Unlock()
	in = start(t, cfg)
	eventually(t, "it was sent after the restart", 90*time.Second, func() bool {
		d, err := client.Get[api.AlertDelivery](ctx, in.api, "/alerts/deliveries/"+delivery.ID, nil)
		return err == nil && d.State == "sent"
	})
	var rule api.AlertRule
	body := map[string]any{"kind": "authority-expiry", "severity": "info", "enabled": true, "share": 1, "within": "9000d"}
	if err := in.api.Do(ctx, http.MethodPut, "/alerts/rules/mine", nil, body, &rule); err == nil {
		t.Error("a rule with a duration of 24 years was taken")
	}
	body["within"] = "3650d"
	if err := in.api.Do(ctx, http.MethodPut, "/alerts/rules/mine", nil, body, &rule); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the rule told the hook", 90*time.Second, func() bool {
		all, _, err := client.List[api.AlertDelivery](ctx, in.api, "/alerts/deliveries", nil, 0)
		return err == nil && len(all) > 1 && all[0].State == "sent" && all[0].Rule == "mine" && all[0].Alerts > 0
	})
	mu.Lock()
	defer mu.Unlock()
	for id, n := range got {
		if n != 1 {
			t.Errorf("delivery %s was taken %d times", id, n)
		}
	}
}
