package exec_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chancery/internal/deploy"
	"chancery/internal/deploy/deploytest"
	"chancery/internal/deploy/exec"
	"chancery/internal/pki"
)

// hook is a program of an administrator's: it copies what it is told to use,
// refuses certificates whose ID is in the file "refuse", and keeps its input.
const hook = `#!/bin/sh
set -e
cd "$0.d"
cat > input.json
echo "$CHANCERY_EVENT $CHANCERY_TARGET $CHANCERY_COUNT" >> calls
test ! -e broken || { echo "out of order" >&2; exit 3; }
if [ -e refuse ] && grep -q "\"id\":\"$(cat refuse)\"" input.json && [ "$CHANCERY_EVENT" = deploy ]; then
	echo "{\"errors\": {\"$(cat refuse)\": \"not this one\", \"stranger\": \"x\"}}"
	exit 1
fi
rm -rf used; cp -RL "$CHANCERY_DIR" used 2>/dev/null || mkdir used
echo "done, and this is no JSON"
`

// config is a target with the hook.
func config(t *testing.T) (*exec.Config, string) {
	dir := t.TempDir()
	path := filepath.Join(dir, "hook")
	if err := os.WriteFile(path, []byte(hook), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path+".d", 0o700); err != nil {
		t.Fatal(err)
	}
	c := exec.Kind.Config().(*exec.Config)
	c.Command, c.Dir = []string{path}, filepath.Join(dir, "live")
	return c, path + ".d"
}

func TestSuite(t *testing.T) {
	c, dir := config(t)
	refuse := filepath.Join(dir, "refuse")
	deploytest.Run(t, deploytest.Suite{
		Kind: exec.Kind, Config: c,
		Served: func(item *deploy.Item) error {
			os.Remove(refuse)
			text, err := os.ReadFile(filepath.Join(dir, "used", item.ID, "cert.pem"))
			if err == nil && string(text) != string(pki.EncodeChain(item.Chain[0])) {
				err = os.ErrInvalid
			}
			return err
		},
		Break: func(t *testing.T) func() {
			file := deploytest.WriteFile(t, filepath.Join(dir, "broken"), "")
			return func() { os.Remove(file) }
		},
		Spoil: func(item *deploy.Item) { deploytest.WriteFile(t, refuse, item.ID) },
	})
}

// The program gets the whole batch in one call, with everything it needs.
func TestCall(t *testing.T) {
	c, dir := config(t)
	target, err := exec.Kind.Open(deploytest.Env(t, deploytest.State(t)), c)
	if err != nil {
		t.Fatal(err)
	}
	items := deploytest.NewCA(t).Items(t, 3)
	items[1].Params = map[string]string{"frontend": "blue"}
	deploytest.AllLive(t, deploy.Run(t.Context(), target, items, deploy.Options{}))
	if text, err := os.ReadFile(filepath.Join(dir, "calls")); err != nil || string(text) != "deploy test 3\n" {
		t.Errorf("%q %v", text, err)
	}
	var call exec.Call
	text, err := os.ReadFile(filepath.Join(dir, "input.json"))
	if err != nil || json.Unmarshal(text, &call) != nil {
		t.Fatalf("%s %v", text, err)
	}
	got := call.Certificates[1]
	if call.Version != 1 || call.Dir != c.Dir || got.ID != "c001" || got.Names[0] != "c001.test" || !got.New || got.Params["frontend"] != "blue" ||
		got.Paths["privkey.pem"] != c.Dir+"/c001/privkey.pem" || len(got.SHA256) != 64 || got.Serial == "" || got.NotAfter == nil {
		t.Errorf("%s", text)
	}
	if strings.Contains(string(text), "PRIVATE") {
		t.Error("a key is in the call")
	}
}

func TestConfig(t *testing.T) {
	c, _ := config(t)
	c.Command = nil
	if _, err := exec.Kind.Open(deploytest.Env(t, ""), c); err == nil {
		t.Error("no command is needed")
	}
	c, _ = config(t)
	c.Reload = []string{"true"}
	if _, err := exec.Kind.Open(deploytest.Env(t, ""), c); err == nil {
		t.Error("reload is ignored")
	}
	c, _ = config(t)
	c.Dir = ""
	state := deploytest.State(t)
	target, err := exec.Kind.Open(deploytest.Env(t, state), c)
	if err != nil {
		t.Fatal(err)
	}
	deploytest.AllLive(t, deploy.Run(t.Context(), target, deploytest.NewCA(t).Items(t, 1), deploy.Options{}))
	if _, err := os.Stat(filepath.Join(state, "files", "c000", "privkey.pem")); err != nil {
		t.Error(err)
	}
}
