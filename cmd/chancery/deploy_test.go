package main

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"chancery/internal/app"
	"chancery/internal/deploy/deploytest"
	"chancery/internal/pki"
)

// deployShell runs commands in a directory of its own.
type deployShell struct {
	t    *testing.T
	dir  string
	conf string
}

// newDeployShell writes a configuration with a target of files.
func newDeployShell(t *testing.T, more string) *deployShell {
	t.Helper()
	dir := t.TempDir()
	s := &deployShell{t, dir, filepath.Join(dir, "chancery.toml")}
	text := fmt.Sprintf("[server]\ndata = %q\n\n[target.app]\nkind = \"files\"\ndir = %q\nreload = [\"/usr/bin/touch\", %q]\n%s", dir+"/data", dir+"/live", dir+"/reloaded", more)
	if err := os.WriteFile(s.conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs a command and returns its exit code and what it printed.
func (s *deployShell) run(args ...string) (code int, out, errs string) {
	s.t.Helper()
	var o, e bytes.Buffer
	code = run(s.t.Context(), append(args, "--config", s.conf), env{stdin: strings.NewReader(""), stdout: &o, stderr: &e})
	return code, o.String(), e.String()
}

// pair writes a new certificate and its key, and returns the flags.
func (s *deployShell) pair(ca *deploytest.CA, id string, names ...string) []string {
	s.t.Helper()
	item := ca.Item(s.t, id, names...)
	key, err := x509.MarshalPKCS8PrivateKey(item.Key)
	if err != nil {
		s.t.Fatal(err)
	}
	cert, keyFile := filepath.Join(s.dir, id+".pem"), filepath.Join(s.dir, id+".key")
	for path, text := range map[string][]byte{cert: pki.EncodeChain(item.Chain...), keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	return []string{"--cert", cert, "--key", keyFile}
}

func TestDeployCommand(t *testing.T) {
	s, ca := newDeployShell(t, ""), deploytest.NewCA(t)
	args := append([]string{"deploy", "--target", "app"}, append(s.pair(ca, "a", "a.test"), s.pair(ca, "b", "*.b.test")...)...)
	code, out, _ := s.run(append(args, "--dry-run")...)
	if code != exitOK || !strings.Contains(out, "would deploy a.test (a.test) to app\n") {
		t.Errorf("dry run: %d %s", code, out)
	}
	if _, err := os.Stat(s.dir + "/data"); err == nil {
		t.Error("the dry run made the data directory")
	}
	code, out, errs := s.run(append(args, "--json")...)
	var views []outcomeView
	if code != exitOK || json.Unmarshal([]byte(out), &views) != nil || len(views) != 2 || !views[0].Live || views[1].ID != "_.b.test" {
		t.Errorf("%d %s %s", code, out, errs)
	}
	for _, f := range []string{"reloaded", "live/a.test/fullchain.pem", "live/_.b.test/privkey.pem"} {
		if _, err := os.Stat(filepath.Join(s.dir, f)); err != nil {
			t.Error(err)
		}
	}
	// A key of another certificate: nothing of it is deployed, the other is.
	mixed := append([]string{"deploy", "--target", "app"}, s.pair(ca, "a", "a.test")...)
	mixed = append(mixed, "--cert", filepath.Join(s.dir, "b.pem"), "--key", filepath.Join(s.dir, "a.key"))
	code, out, errs = s.run(mixed...)
	if code != exitPartial || !strings.Contains(out, "not that of the certificate") || !strings.Contains(errs, "1 of 2 certificates are not live") {
		t.Errorf("%d %s %s", code, out, errs)
	}
	if code, out, _ := s.run(append(mixed, "--dry-run")...); code != exitProblems || !strings.Contains(out, "would refuse _.b.test: the private key is not that") {
		t.Errorf("%d %s", code, out)
	}
}

func TestDeployWaitsForTheWindow(t *testing.T) {
	hour := time.Now().UTC().Add(6 * time.Hour).Hour()
	s := newDeployShell(t, fmt.Sprintf("windows = [\"%02d:00-%02d:30\"]\n", hour, hour))
	args := append([]string{"deploy", "--target", "app"}, s.pair(deploytest.NewCA(t), "a", "a.test")...)
	if code, out, errs := s.run(args...); code != exitRetry || !strings.Contains(out, "outside the target's windows") || !strings.Contains(errs, "--urgent") {
		t.Errorf("%d %s %s", code, out, errs)
	}
	if code, out, _ := s.run(append(args, "--urgent")...); code != exitOK {
		t.Errorf("%d %s", code, out)
	}
}

func TestDeployUsage(t *testing.T) {
	s, ca := newDeployShell(t, ""), deploytest.NewCA(t)
	pair := s.pair(ca, "a", "a.test")
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"deploy"}, exitUsage, "--target is missing"},
		{[]string{"deploy", "--target", "app"}, exitUsage, "--cert is missing"},
		{[]string{"deploy", "--target", "app", "--cert", "x"}, exitUsage, "each certificate needs its key"},
		{append([]string{"deploy", "--target", "ap"}, pair...), exitUsage, `there is no target "ap"; there are app`},
		{append([]string{"deploy", "--target", "app", "--id", "a", "--id", "b"}, pair...), exitUsage, "2 times --id"},
		{append([]string{"deploy", "--target", "app", "--param", "x:y=z"}, pair...), exitUsage, "is not ID:KEY=VALUE"},
		{[]string{"deploy", "--target", "app", "--cert", pair[1], "--key", pair[1]}, exitFailed, "no private key"},
		{[]string{"deploy", "--target", "app", "--cert", pair[3], "--key", pair[3]}, exitFailed, "not a certificate"},
		{append([]string{"deploy", "--target", "app", "--id", "../x"}, pair...), exitFailed, "1 of 1 certificates are not live"},
	} {
		if code, _, errs := s.run(c.args...); code != c.code || !strings.Contains(errs, c.want) {
			t.Errorf("%v: %d %s", c.args, code, errs)
		}
	}
}

func TestTargetsCommands(t *testing.T) {
	s := newDeployShell(t, "\n[target.edge]\nkind = \"nginx\"\ndir = \"/nowhere/at/all/live\"\nprobe = [\"none\"]\n")
	if code, out, _ := s.run("targets", "list"); code != exitOK || !strings.Contains(out, "edge\tnginx\tnone\t15m\t") {
		t.Errorf("%d %s", code, out)
	}
	code, out, errs := s.run("targets", "check")
	if code != exitProblems || !strings.Contains(out, "app\tfiles\tok\n") || !strings.Contains(out, "edge\tnginx\tlook at the parent of dir") || !strings.Contains(errs, "1 of 2 targets") {
		t.Errorf("%d %s %s", code, out, errs)
	}
	if code, _, _ := s.run("targets", "check", "app"); code != exitOK {
		t.Errorf("exit %d", code)
	}
	var o bytes.Buffer
	if code := run(t.Context(), []string{"targets", "kinds", "haproxy"}, env{stdout: &o, stderr: &o}); code != exitOK || !strings.Contains(o.String(), "socket\tstring\t/run/haproxy/admin.sock\n") {
		t.Errorf("%d %s", code, o.String())
	}
}

// Every mistake in a target is one line with its place, before anything runs.
func TestTargetMistakes(t *testing.T) {
	for more, want := range map[string]string{
		"colour = 1\n":                                                  "chancery.toml:8: target.app.colour: unknown key",
		"unit = \"x\"\n":                                                "chancery.toml:8: target.app.unit: set either unit or reload",
		"windows = [\"noon\"]\n":                                        "chancery.toml:8: target.app.windows: \"noon\" is not a window",
		"probe = [\"here\"]\n":                                          "chancery.toml:8: target.app.probe: \"here\" is not where to probe",
		"[target.x]\nkind = \"ngnix\"\n":                                "chancery.toml:9: target.x.kind: there is no kind \"ngnix\"",
		"[target.x]\nkind = \"nginx\"\ndir = \"/a/live\"\n":             "target.x.probe: must say where the server is asked",
		"[target.x]\nkind = \"nginx\"\nprobe = [\"none\"]\n":            "target.x.dir: must be set",
		"[target.x]\nkind = \"pkcs12\"\ndir = \"/a\"\nencoding=\"a\"\n": "\"a\" is none of modern, legacy",
	} {
		code, _, errs := newDeployShell(t, more).run("config", "check")
		if code != exitProblems || !strings.Contains(errs, want) {
			t.Errorf("%q: %d %s", more, code, errs)
		}
	}
}

// Every key of every kind stands in the manual, under the kind's own heading,
// and no kind has a key that all targets have.
func TestKindsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/deploy.md")
	if err != nil {
		t.Fatal(err)
	}
	common := map[string]bool{"name": true, "kind": true, "probe": true, "settle": true, "collect": true, "windows": true}
	_, shared, _ := strings.Cut(string(text), "\n## Files\n")
	shared, _, _ = strings.Cut(shared, "\n## ")
	for _, k := range app.DeployKinds() {
		_, section, ok := strings.Cut(string(text), "\n### "+k.Name+"\n")
		section, _, _ = strings.Cut(section, "\n### ")
		if !ok {
			t.Errorf("docs/deploy.md has no section ### %s", k.Name)
			continue
		}
		for _, f := range reflect.VisibleFields(reflect.TypeOf(k.Config()).Elem()) {
			key := f.Tag.Get("toml")
			switch {
			case f.Anonymous:
			case common[key]:
				t.Errorf("%s has the key %s, which all targets have", k.Name, key)
			case len(f.Index) > 1 && strings.Contains(shared, "`"+key+"`"):
			case !strings.Contains(section, "`"+key+"`"):
				t.Errorf("docs/deploy.md says nothing of `%s` under ### %s", key, k.Name)
			}
		}
	}
}

// The examples of the manual are configurations that work, but for users and
// files that only their machine has.
func TestExamplesOfTheManual(t *testing.T) {
	text, err := os.ReadFile("../../docs/deploy.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := strings.Split(string(text), "```toml\n")[1:]
	if len(examples) < len(app.DeployKinds()) {
		t.Errorf("%d examples for %d kinds", len(examples), len(app.DeployKinds()))
	}
	for _, example := range examples {
		example, _, _ = strings.Cut(example, "```")
		path := filepath.Join(t.TempDir(), "chancery.toml")
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(example, "\nowner = ", "\n# owner = ")), 0o600); err != nil {
			t.Fatal(err)
		}
		var o bytes.Buffer
		if code := run(t.Context(), []string{"config", "check", "--config", path}, env{stdout: &o, stderr: &o}); code != exitOK && !strings.Contains(o.String(), "unknown user postgres") {
			t.Errorf("%s\n%s", example, o.String())
		}
	}
}
