package kubernetes_test

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"chancery/internal/deploy"
	"chancery/internal/deploy/deploytest"
	"chancery/internal/deploy/kubernetes"
	"chancery/internal/pki"
)

// cluster is an API server with Secrets, their versions, and faults.
type cluster struct {
	mu      sync.Mutex
	secrets map[string]map[string]any
	version int
	down    bool
	meddle  int // so many writes find that somebody else was faster
	refuse  string
	writes  int
}

const prefix = "/api/v1/namespaces/web/secrets"

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	reply := func(status int, v any) {
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(v)
	}
	no := func(status int, reason string) { reply(status, map[string]any{"kind": "Status", "reason": reason}) }
	name := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, prefix), "/")
	switch {
	case r.Header.Get("Authorization") != "Bearer sesame":
		no(401, "Unauthorized")
		return
	case c.down:
		no(503, "ServiceUnavailable")
		return
	case !strings.HasPrefix(r.URL.Path, prefix):
		no(404, "NotFound")
		return
	}
	var body map[string]any
	if r.Method == http.MethodPost || r.Method == http.MethodPut {
		if json.NewDecoder(r.Body).Decode(&body) != nil {
			no(400, "BadRequest")
			return
		}
	}
	meta, _ := body["metadata"].(map[string]any)
	if r.Method == http.MethodPost {
		name, _ = meta["name"].(string)
	}
	old := c.secrets[name]
	switch {
	case r.Method == http.MethodGet && old != nil:
		reply(200, old)
	case r.Method == http.MethodDelete && old != nil:
		delete(c.secrets, name)
		no(200, "")
	case r.Method == http.MethodPost && old != nil:
		no(409, "AlreadyExists")
	case r.Method == http.MethodPost, r.Method == http.MethodPut && old != nil:
		c.write(name, body, meta, old, reply, no)
	default:
		no(404, "NotFound")
	}
}

// write stores a Secret if the version that was read is still the newest.
func (c *cluster) write(name string, body, meta, old map[string]any, reply func(int, any), no func(int, string)) {
	if name == c.refuse {
		no(422, "Invalid")
		return
	}
	if c.meddle > 0 && old != nil {
		c.meddle--
		c.version++
		old["metadata"].(map[string]any)["resourceVersion"] = strconv.Itoa(c.version)
		old["metadata"].(map[string]any)["annotations"] = map[string]any{"theirs": "kept"}
	}
	if old != nil && meta["resourceVersion"] != old["metadata"].(map[string]any)["resourceVersion"] {
		no(409, "Conflict")
		return
	}
	c.version++
	c.writes++
	meta["resourceVersion"] = strconv.Itoa(c.version)
	c.secrets[name] = body
	reply(200, body)
}

// start starts the cluster and returns the configuration of a target.
func start(t *testing.T) (*cluster, *kubernetes.Config) {
	t.Helper()
	c := &cluster{secrets: map[string]map[string]any{}}
	s := httptest.NewTLSServer(c)
	t.Cleanup(s.Close)
	cfg := kubernetes.Kind.Config().(*kubernetes.Config)
	cfg.Server, cfg.Namespace = s.URL, "web"
	dir := t.TempDir()
	cfg.TokenFile = deploytest.WriteFile(t, dir+"/token", "sesame\n")
	cfg.CAFile = deploytest.WriteFile(t, dir+"/ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	return c, cfg
}

// holds says what is wrong with a Secret.
func (c *cluster) holds(name string, item *deploy.Item) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	text, _ := json.Marshal(c.secrets[name])
	var s struct {
		Type string
		Data map[string][]byte
	}
	if err := json.Unmarshal(text, &s); err != nil || s.Type != "kubernetes.io/tls" || !bytes.Equal(s.Data["tls.crt"], pki.EncodeChain(item.Chain...)) || !bytes.Contains(s.Data["tls.key"], []byte("PRIVATE KEY")) {
		return fmt.Errorf("the Secret %s holds something else", name)
	}
	return nil
}

func TestSuite(t *testing.T) {
	c, cfg := start(t)
	deploytest.Run(t, deploytest.Suite{
		Kind: kubernetes.Kind, Config: cfg,
		Served: func(item *deploy.Item) error { c.refuse = ""; return c.holds(item.ID, item) },
		Break:  func(*testing.T) func() { c.down = true; return func() { c.down = false } },
		Spoil:  func(item *deploy.Item) { c.refuse = item.ID },
	})
}

// open opens a target.
func open(t *testing.T, cfg *kubernetes.Config) deploy.Target {
	t.Helper()
	target, err := kubernetes.Kind.Open(deploytest.Env(t, deploytest.State(t)), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// Others change the Secret at the same time: nothing of theirs is lost.
func TestOthersAreFaster(t *testing.T) {
	c, cfg := start(t)
	ca := deploytest.NewCA(t)
	target := open(t, cfg)
	deploytest.AllLive(t, deploy.Run(t.Context(), target, ca.Items(t, 1), deploy.Options{}))
	c.meddle = 3
	items := ca.Items(t, 1)
	deploytest.AllLive(t, deploy.Run(t.Context(), target, items, deploy.Options{}))
	if err := c.holds("c000", &items[0]); err != nil {
		t.Error(err)
	}
	if got := c.secrets["c000"]["metadata"].(map[string]any)["annotations"]; fmt.Sprint(got) != "map[theirs:kept]" {
		t.Errorf("their change is lost: %v", got)
	}
}

func TestNamesAndTypes(t *testing.T) {
	c, cfg := start(t)
	ca := deploytest.NewCA(t)
	items := []deploy.Item{ca.Item(t, "_.Shop.test", "*.shop.test"), ca.Item(t, "b", "b.test"), ca.Item(t, "c", "c.test"), ca.Item(t, "opaque", "d.test")}
	items[1].Params = map[string]string{"secret": "shop-tls"}
	items[2].Params = map[string]string{"secret": "../x"}
	c.secrets["opaque"] = map[string]any{"type": "Opaque", "metadata": map[string]any{"resourceVersion": "0"}}
	out := deploy.Run(t.Context(), open(t, cfg), items, deploy.Options{})
	deploytest.AllLive(t, out[:2])
	if c.holds("wildcard.shop.test", &items[0]) != nil || c.holds("shop-tls", &items[1]) != nil || out[2].Live || out[3].Live {
		t.Errorf("%+v", out)
	}
}

func TestCheckAndConfig(t *testing.T) {
	_, cfg := start(t)
	if err := open(t, cfg).(deploy.Checker).Check(t.Context()); err != nil {
		t.Error(err)
	}
	bad := *cfg
	bad.TokenFile = deploytest.WriteFile(t, filepath.Join(t.TempDir(), "token"), "wrong")
	if err := open(t, &bad).(deploy.Checker).Check(t.Context()); err == nil || !strings.Contains(err.Error(), `401 "Unauthorized"`) || strings.Contains(err.Error(), "wrong") {
		t.Errorf("%v", err)
	}
	bad = *cfg
	bad.CAFile = os.DevNull
	if err := open(t, &bad).(deploy.Checker).Check(t.Context()); err == nil {
		t.Error("a server that nothing vouches for is believed")
	}
	for _, change := range []func(*kubernetes.Config){
		func(c *kubernetes.Config) { c.Server = "http://x" }, func(c *kubernetes.Config) { c.Server = "" },
		func(c *kubernetes.Config) { c.Namespace = "" }, func(c *kubernetes.Config) { c.Namespace = "a/b" },
	} {
		bad := *cfg
		change(&bad)
		if _, err := kubernetes.Kind.Open(deploytest.Env(t, ""), &bad); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}
