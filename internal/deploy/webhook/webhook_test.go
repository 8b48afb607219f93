package webhook_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/internal/deploy"
	"chancery/internal/deploy/deploytest"
	"chancery/internal/deploy/webhook"
	"chancery/internal/pki"
)

const secret = "0123456789abcdef0123456789abcdef"

// receiver is what an administrator may write: it checks the signature, keeps
// what it got, and goes back when told to.
type receiver struct {
	mu     sync.Mutex
	live   map[string]string // ID to chain
	saved  map[string]string // before the batch
	calls  []string
	down   bool
	flaky  int // so many requests fail first
	refuse string
	keys   bool
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	body, _ := io.ReadAll(req.Body)
	at, _, _ := strings.Cut(strings.TrimPrefix(req.Header.Get("Chancery-Signature"), "t="), ",")
	unix, _ := strconv.ParseInt(at, 10, 64)
	var call webhook.Call
	switch {
	case req.Header.Get("Chancery-Signature") != webhook.Sign([]byte(secret), body, time.Unix(unix, 0)), json.Unmarshal(body, &call) != nil:
		w.WriteHeader(403)
		return
	case r.down:
		w.WriteHeader(400)
		return
	case r.flaky > 0:
		r.flaky--
		w.WriteHeader(503)
		return
	}
	r.calls = append(r.calls, call.Event+" "+strconv.Itoa(len(call.Certificates)))
	switch call.Event {
	case "deploy":
		r.saved = map[string]string{}
		for id, chain := range r.live {
			r.saved[id] = chain
		}
		for _, c := range call.Certificates {
			if c.ID == r.refuse {
				w.WriteHeader(422)
				fmt.Fprintf(w, `{"errors": {%q: "not here"}}`, c.ID)
				return
			}
			r.live[c.ID], r.keys = c.Chain, c.Key != ""
		}
	case "rollback":
		if r.saved != nil {
			r.live = r.saved
		}
		r.saved = nil
	case "commit":
		r.saved = nil
	}
}

// start starts a receiver.
func start(t *testing.T) (*receiver, *webhook.Config) {
	t.Helper()
	r := &receiver{live: map[string]string{}}
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	c := webhook.Kind.Config().(*webhook.Config)
	c.URL, c.Retries = s.URL+"/hook", 1
	c.SecretFile = deploytest.WriteFile(t, t.TempDir()+"/secret", secret+"\n")
	return r, c
}

func TestSuite(t *testing.T) {
	r, c := start(t)
	deploytest.Run(t, deploytest.Suite{
		Kind: webhook.Kind, Config: c,
		Served: func(item *deploy.Item) error {
			r.refuse = ""
			if r.live[item.ID] != string(pki.EncodeChain(item.Chain...)) {
				return fmt.Errorf("%s: something else", item.ID)
			}
			return nil
		},
		Break: func(*testing.T) func() { r.down = true; return func() { r.down = false } },
		Spoil: func(item *deploy.Item) { r.refuse = item.ID },
	})
}

func TestCallsRetriesAndKeys(t *testing.T) {
	r, c := start(t)
	open := func() deploy.Target {
		target, err := webhook.Kind.Open(deploytest.Env(t, deploytest.State(t)), c)
		if err != nil {
			t.Fatal(err)
		}
		return target
	}
	r.flaky = 1
	deploytest.AllLive(t, deploy.Run(t.Context(), open(), deploytest.NewCA(t).Items(t, 3), deploy.Options{}))
	if got := strings.Join(r.calls, ", "); got != "deploy 3, commit 3" || r.keys {
		t.Errorf("%s, keys %t", got, r.keys)
	}
	c.Retries, r.flaky = 0, 1
	if out := deploy.Run(t.Context(), open(), deploytest.NewCA(t).Items(t, 1), deploy.Options{}); out[0].Live {
		t.Error("live although the receiver failed")
	}
	c.SecretFile = deploytest.WriteFile(t, t.TempDir()+"/secret", "another secret of any length")
	if out := deploy.Run(t.Context(), open(), deploytest.NewCA(t).Items(t, 1), deploy.Options{}); out[0].Live {
		t.Error("live under a wrong secret")
	}
}

func TestKeysTravelUnderTLSOnly(t *testing.T) {
	c := webhook.Kind.Config().(*webhook.Config)
	c.URL, c.Keys, c.SecretFile = "http://127.0.0.1/x", true, "/x"
	if _, err := webhook.Kind.Open(deploytest.Env(t, ""), c); err == nil || !strings.HasPrefix(err.Error(), "keys:") {
		t.Errorf("%v", err)
	}
	for _, bad := range []webhook.Config{{SecretFile: "x"}, {URL: "https://x"}} {
		if _, err := webhook.Kind.Open(deploytest.Env(t, ""), &bad); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}
