package f5_test

import (
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"chancery/internal/deploy"
	"chancery/internal/deploy/deploytest"
	"chancery/internal/deploy/f5"
	"chancery/internal/pki"
)

// bigip is a device: files, objects, profiles and transactions, which validate
// that every certificate of a profile exists and fits its key.
type bigip struct {
	mu       sync.Mutex
	uploads  map[string]string
	objects  map[string]string // "ssl-cert//Common/x.crt" to PEM
	profiles map[string]map[string]string
	queue    map[string][]func() error
	commits  int
	down     bool
	refuse   string
}

const base = "/mgmt/tm/"

func (b *bigip) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	user, password, _ := r.BasicAuth()
	if b.down || user != "admin" || password != "secret" {
		w.WriteHeader(401)
		return
	}
	status, answer := b.handle(r, body)
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(answer)
}

func (b *bigip) handle(r *http.Request, body []byte) (int, any) {
	no := func(status int, text string) (int, any) { return status, map[string]string{"message": text} }
	if name, ok := strings.CutPrefix(r.URL.Path, "/mgmt/shared/file-transfer/uploads/"); ok {
		if want := fmt.Sprintf("0-%d/%d", len(body)-1, len(body)); r.Header.Get("Content-Range") != want {
			return no(400, "range")
		}
		b.uploads[name] = string(body)
		return 200, struct{}{}
	}
	var in map[string]string
	_ = json.Unmarshal(body, &in)
	path := strings.TrimPrefix(r.URL.Path, base)
	kind, name, _ := strings.Cut(path, "/~Common~")
	tx := r.Header.Get("X-F5-REST-Coordination-Id")
	switch {
	case path == "transaction" && r.Method == "POST":
		id := len(b.queue) + 1
		b.queue[strconv.Itoa(id)] = []func() error{}
		return 200, map[string]int{"transId": id}
	case strings.HasPrefix(path, "transaction/"):
		return b.finish(r.Method, strings.TrimPrefix(path, "transaction/"))
	case strings.HasPrefix(path, "ltm/profile/client-ssl") && r.Method == "GET" && name == "":
		return 200, struct{}{}
	case kind == "ltm/profile/client-ssl" && b.profiles[name] == nil:
		return no(404, "there is no profile "+name)
	case kind == "ltm/profile/client-ssl" && r.Method == "GET":
		return 200, b.profiles[name]
	case kind == "ltm/profile/client-ssl" && name == b.refuse:
		return no(400, "refused")
	case r.Method == "DELETE":
		key := strings.TrimPrefix(kind, "sys/file/") + "//Common/" + name
		if _, ok := b.objects[key]; !ok {
			return no(404, "gone")
		}
		delete(b.objects, key)
		return 200, struct{}{}
	case tx == "":
		return no(400, "only in a transaction")
	}
	b.queue[tx] = append(b.queue[tx], func() error { return b.do(kind, name, path, in) })
	return 200, struct{}{}
}

// do is one request of a transaction.
func (b *bigip) do(kind, name, path string, in map[string]string) error {
	if kind == "ltm/profile/client-ssl" {
		b.profiles[name] = in
		return nil
	}
	file, ok := b.uploads[strings.TrimPrefix(in["sourcePath"], "file:/var/config/rest/downloads/")]
	if !ok {
		return fmt.Errorf("no file %s", in["sourcePath"])
	}
	b.objects[strings.TrimPrefix(path, "sys/file/")+"//"+in["partition"]+"/"+in["name"]] = file
	return nil
}

// finish commits or drops a transaction, as a whole.
func (b *bigip) finish(method, id string) (int, any) {
	queue := b.queue[id]
	b.queue[id] = nil
	if method == "DELETE" {
		return 200, struct{}{}
	}
	objects, profiles := maps.Clone(b.objects), maps.Clone(b.profiles)
	err := func() error {
		for _, do := range queue {
			if err := do(); err != nil {
				return err
			}
		}
		for name, p := range b.profiles {
			if p["cert"] == "/Common/default.crt" {
				continue
			}
			if _, err := tls.X509KeyPair([]byte(b.objects["ssl-cert/"+p["cert"]]), []byte(b.objects["ssl-key/"+p["key"]])); err != nil {
				return fmt.Errorf("profile %s: %w", name, err)
			}
		}
		return nil
	}()
	if err != nil {
		b.objects, b.profiles = objects, profiles
		return 400, map[string]string{"message": err.Error()}
	}
	b.commits++
	return 200, struct{}{}
}

// start starts a device with profiles and returns the configuration.
func start(t *testing.T) (*bigip, *f5.Config) {
	t.Helper()
	b := &bigip{uploads: map[string]string{}, objects: map[string]string{}, profiles: map[string]map[string]string{}, queue: map[string][]func() error{}}
	for i := range 4 {
		b.profiles[deploytest.Name(i)] = map[string]string{"cert": "/Common/default.crt", "key": "/Common/default.key", "chain": "none"}
	}
	s := httptest.NewTLSServer(b)
	t.Cleanup(s.Close)
	c := f5.Kind.Config().(*f5.Config)
	dir := t.TempDir()
	c.URL, c.PasswordFile = s.URL, deploytest.WriteFile(t, dir+"/password", "secret\n")
	c.CAFile = deploytest.WriteFile(t, dir+"/ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	return b, c
}

func TestSuite(t *testing.T) {
	b, c := start(t)
	deploytest.Run(t, deploytest.Suite{
		Kind: f5.Kind, Config: c,
		Served: func(item *deploy.Item) error {
			b.refuse = ""
			if b.objects["ssl-cert/"+b.profiles[item.ID]["cert"]] != string(pki.EncodeChain(item.Chain[0])) {
				return fmt.Errorf("the profile %s uses %s", item.ID, b.profiles[item.ID]["cert"])
			}
			return nil
		},
		Break: func(*testing.T) func() { b.down = true; return func() { b.down = false } },
		Spoil: func(item *deploy.Item) { item.Params = map[string]string{"profile": "nothing-has-this-name"} },
	})
	if len(b.objects) != 4*3 {
		t.Errorf("%d objects are left for 4 certificates", len(b.objects))
	}
}

// A batch is one transaction, and a profile that is refused takes it back as a
// whole.
func TestOneTransaction(t *testing.T) {
	b, c := start(t)
	target, err := f5.Kind.Open(deploytest.Env(t, deploytest.State(t)), c)
	if err != nil {
		t.Fatal(err)
	}
	ca := deploytest.NewCA(t)
	deploytest.AllLive(t, deploy.Run(t.Context(), target, ca.Items(t, 4), deploy.Options{}))
	if b.commits != 1 {
		t.Errorf("%d transactions for one batch", b.commits)
	}
	items := ca.Items(t, 4)
	staged, err := target.Stage(t.Context(), items)
	if err != nil {
		t.Fatal(err)
	}
	before := maps.Clone(b.profiles)
	delete(b.uploads, "chancery-c003-"+fmt.Sprintf("%x", pki.Fingerprint(items[3].Chain[0]))[:12]+".key")
	if err := staged.Apply(t.Context()); err == nil || !strings.Contains(err.Error(), "no file") {
		t.Errorf("%v", err)
	}
	for name := range before {
		if !maps.Equal(before[name], b.profiles[name]) {
			t.Errorf("the profile %s changed", name)
		}
	}
	if err := staged.Rollback(t.Context()); err != nil || len(b.objects) != 12 {
		t.Errorf("%v, %d objects", err, len(b.objects))
	}
}

func TestConfig(t *testing.T) {
	for name, change := range map[string]func(*f5.Config){
		"url:": func(c *f5.Config) { c.URL = "http://x" }, "password_file:": func(c *f5.Config) { c.PasswordFile = "" }, "partition:": func(c *f5.Config) { c.Partition = "a/b" },
	} {
		_, c := start(t)
		change(c)
		if _, err := f5.Kind.Open(deploytest.Env(t, ""), c); err == nil || !strings.HasPrefix(err.Error(), name) {
			t.Errorf("want %q, got %v", name, err)
		}
	}
}
