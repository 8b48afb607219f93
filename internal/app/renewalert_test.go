package app_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/v2"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/internal/alert/webhook"
	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/config"
	"chancery/internal/db/dbtest"
)

// inbox is a webhook that believes signed messages only.
type inbox struct {
	secret string

	mu  sync.Mutex
	got []webhook.Body
}

func (i *inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	at, sum, _ := strings.Cut(r.Header.Get("Chancery-Signature"), ",v1=")
	mac := hmac.New(sha256.New, []byte(i.secret))
	mac.Write([]byte(strings.TrimPrefix(at, "t=") + "." + string(text)))
	var b webhook.Body
	if err != nil || sum != hex.EncodeToString(mac.Sum(nil)) || json.Unmarshal(text, &b) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.got = append(i.got, b)
}

// fired returns the alerts of a rule that came in, by the text of each.
func (i *inbox) fired(rule string) (out []webhook.Alert) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, b := range i.got {
		if b.Rule == rule && b.Event == "fire" {
			out = append(out, b.Alerts...)
		}
	}
	return out
}

// TestRenewalTroubleReachesPeople: what the renewal engine cannot mend, and what
// an issuer wants replaced at once, arrives outside as a message with the cause
// and the URL that explains it, by the rules that are shipped.
func TestRenewalTroubleReachesPeople(t *testing.T) {
	const why = "https://corp.test/incidents/2026-11"
	people := &inbox{secret: "0123456789abcdef"}
	hook := httptest.NewServer(people)
	defer hook.Close()
	secret := filepath.Join(t.TempDir(), "secret")
	check(t, os.WriteFile(secret, []byte(people.secret+"\n"), 0o600))
	c := loadText(t, "[alert]\ngroup_wait = \"0s\"\n[alert_channel.hook]\nkind = \"webhook\"\nurl = \""+hook.URL+"\"\nsecret_file = \""+secret+"\"\n")
	cfg := configure(t, dbtest.SQLiteURL(t))
	cfg.Alert, cfg.AlertChannel = c.Alert, c.AlertChannel
	issuer := config.DefaultIssuer()
	issuer.Kind = "local"
	cfg.Issuer["internal"] = issuer.With("allow_names", []string{"*.corp.test"})
	in := start(t, cfg)
	ctx := context.Background()
	live := func(name, but string) (m api.Managed) {
		eventually(t, name+" is live", 90*time.Second, func() (ok bool) {
			var err error
			m, err = client.Get[api.Managed](ctx, in.api, "/managed/"+name, nil)
			check(t, err)
			return m.State == "idle" && m.Certificate != "" && m.Certificate != but
		})
		return m
	}
	for _, name := range []string{"fine", "gone"} {
		_, err := client.Post[api.Managed](ctx, in.api, "/managed", map[string]any{"name": name, "names": []string{name + ".corp.test"}, "issuer": "internal"})
		check(t, err)
	}
	first := live("fine", "")
	live("gone", "")
	// What was before the first look of a rule is history to it.
	eventually(t, "the rules follow the journal", time.Minute, func() bool {
		rules, _, err := client.List[api.AlertRule](ctx, in.api, "/alerts/rules", nil, 0)
		check(t, err)
		return !slices.ContainsFunc(rules, func(r api.AlertRule) bool { return strings.HasPrefix(r.Name, "renewal-") && r.LookedAt == nil })
	})

	// A renewal that is refused for good.
	in.stop()
	cfg.Issuer["internal"] = issuer.With("allow_names", []string{"fine.corp.test"})
	in = start(t, cfg)
	_, err := client.Post[api.Managed](ctx, in.api, "/managed/gone/renew", nil)
	check(t, err)
	eventually(t, "people hear that it was given up", 2*time.Minute, func() bool { return len(people.fired("renewal-failing")) > 0 })
	a := people.fired("renewal-failing")
	if len(a) != 1 || a[0].State != "firing" || !strings.Contains(a[0].Summary, "gone") || !strings.Contains(a[0].Summary, "does not allow gone.corp.test") {
		t.Errorf("%+v", a)
	}

	// Windows that the CA moved into the past, with its reason.
	_, err = client.Post[api.IncidentPlan](ctx, in.api, "/incidents", map[string]any{"name": "wrong field", "explanation_url": why, "q": "name:fine.corp.test", "revoke_at": "30s"})
	check(t, err)
	eventually(t, "people hear why it is replaced", 2*time.Minute, func() bool { return len(people.fired("renewal-hurried")) > 0 })
	a = people.fired("renewal-hurried")
	if len(a) != 1 || !strings.Contains(a[0].Summary, why) || !strings.Contains(a[0].Summary, "internal") {
		t.Errorf("%+v", a)
	}
	live("fine", first.Certificate)
}
