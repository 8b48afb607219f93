package files_test

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"chancery/internal/deploy"
	"chancery/internal/deploy/deploytest"
	"chancery/internal/deploy/files"
)

// config is a target below dir that counts its reloads in dir/reloads.
func config(dir string) *files.Config {
	c := files.Kind.Config().(*files.Config)
	c.Dir = filepath.Join(dir, "live")
	c.Reload = []string{"/bin/sh", "-c", "echo $CHANCERY_TARGET $CHANCERY_DIR >> \"$0\"; test ! -e \"$0.broken\"", filepath.Join(dir, "reloads")}
	return c
}

// served says what is wrong with the files of an item.
func served(c *files.Config, item *deploy.Item) error {
	pair, err := tls.LoadX509KeyPair(filepath.Join(c.Dir, item.ID, "fullchain.pem"), filepath.Join(c.Dir, item.ID, "privkey.pem"))
	if err != nil {
		return err
	}
	if sha256.Sum256(pair.Certificate[0]) != sha256.Sum256(item.Chain[0]) || len(pair.Certificate) != len(item.Chain) {
		return fmt.Errorf("%s: another certificate", item.ID)
	}
	return nil
}

func TestSuite(t *testing.T) {
	dir := t.TempDir()
	c := config(dir)
	deploytest.Run(t, deploytest.Suite{
		Kind: files.Kind, Config: c, Served: func(item *deploy.Item) error { return served(c, item) },
		Break: func(t *testing.T) func() {
			file := deploytest.WriteFile(t, filepath.Join(dir, "reloads.broken"), "")
			return func() { os.Remove(file) }
		},
		Spoil: func(item *deploy.Item) { item.Key = nil }, // held elsewhere: nothing can be written
	})
}

// open opens a target.
func open(t *testing.T, c *files.Config, state string) deploy.Target {
	t.Helper()
	target, err := files.Kind.Open(deploytest.Env(t, state), c)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func TestOneReloadAndNothingLeftOver(t *testing.T) {
	dir, state, ca := t.TempDir(), deploytest.State(t), deploytest.NewCA(t)
	c := config(dir)
	for range 3 {
		deploytest.AllLive(t, deploy.Run(t.Context(), open(t, c, state), ca.Items(t, 5), deploy.Options{}))
	}
	if n := deploytest.Count(t, filepath.Join(dir, "reloads"), "test "+c.Dir+"\n"); n != 3 {
		t.Errorf("%d reloads for three batches", n)
	}
	for pattern, want := range map[string]int{".live/v*": 1, ".live/items/*": 5, ".live/items/*/*": 10, "*": 3, ".*": 1} {
		if found, err := filepath.Glob(filepath.Join(dir, pattern)); err != nil || len(found) != want {
			t.Errorf("%s: %d, want %d: %v", pattern, len(found), want, found)
		}
	}
}

func TestRightsAndLayout(t *testing.T) {
	nobody, err := user.Lookup("nobody")
	if err != nil || os.Getuid() != 0 {
		t.Skip("only root gives files away")
	}
	for _, shared := range []bool{false, true} {
		dir := t.TempDir()
		c := config(dir)
		c.Files = []string{"tls.crt=fullchain.pem", "tls.key=privkey.pem", "cert.pem", "chain.pem", "combined.pem"}
		mode, uid := os.FileMode(0o600), "0"
		if shared {
			mode, uid, c.Owner, c.Group = 0o640, nobody.Uid, "nobody", "nogroup"
		}
		item := deploytest.NewCA(t).Item(t, "web", "web.test")
		item.Params = map[string]string{"name": "other"}
		deploytest.AllLive(t, deploy.Run(t.Context(), open(t, c, deploytest.State(t)), []deploy.Item{item}, deploy.Options{}))
		for name, blocks := range map[string]string{"tls.crt": "CC", "tls.key": "P", "cert.pem": "C", "chain.pem": "C", "combined.pem": "PCC"} {
			path := filepath.Join(c.Dir, "other", name)
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Mode().Perm(); got != mode || fmt.Sprint(info.Sys().(*syscall.Stat_t).Uid) != uid {
				t.Errorf("%s: mode %o", name, got)
			}
			if got := kinds(t, path); got != blocks {
				t.Errorf("%s holds %s, not %s", name, got, blocks)
			}
		}
		if info, err := os.Stat(c.Dir); err != nil || info.Mode().Perm()&0o007 != 0 {
			t.Errorf("everybody can enter: %v %v", info.Mode(), err)
		}
	}
}

// kinds returns the first letter of each PEM block.
func kinds(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		out.WriteByte(block.Type[0])
	}
	return out.String()
}

// What an administrator made is never overwritten.
func TestForeignFilesAreLeftAlone(t *testing.T) {
	for name, make := range map[string]func(string) error{
		"directory":    func(p string) error { return os.Mkdir(p, 0o700) },
		"file":         func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"another link": func(p string) error { return os.Symlink("/etc", p) },
	} {
		c := config(t.TempDir())
		if err := make(c.Dir); err != nil {
			t.Fatal(err)
		}
		target := open(t, c, deploytest.State(t))
		out := deploy.Run(t.Context(), target, deploytest.NewCA(t).Items(t, 1), deploy.Options{})
		if err := target.(deploy.Checker).Check(t.Context()); err == nil || out[0].Live || !strings.Contains(out[0].Err.Error(), "move it away") {
			t.Errorf("%s: %v, %v", name, err, out[0].Err)
		}
	}
}

// A reload that fails is undone, and the server started anew where that helps.
func TestRestart(t *testing.T) {
	dir, state, ca := t.TempDir(), deploytest.State(t), deploytest.NewCA(t)
	c := config(dir)
	items := ca.Items(t, 2)
	deploytest.AllLive(t, deploy.Run(t.Context(), open(t, c, state), items, deploy.Options{}))
	deploytest.WriteFile(t, filepath.Join(dir, "reloads.broken"), "")
	c.Restart = []string{"/bin/rm", filepath.Join(dir, "reloads.broken")}
	out := deploy.Run(t.Context(), open(t, c, state), ca.Items(t, 1), deploy.Options{})
	if ce, ok := errors.AsType[*deploy.CommandError](out[0].Err); !ok || ce.Program != "sh" {
		t.Errorf("%+v", out[0])
	}
	if err := served(c, &items[0]); err != nil {
		t.Error(err)
	}
	deploytest.AllLive(t, deploy.Run(t.Context(), open(t, c, state), ca.Items(t, 1), deploy.Options{}))
}

// The configured test stops a deployment before the reload, and has a limit.
func TestTestAndTimeout(t *testing.T) {
	dir, ca := t.TempDir(), deploytest.NewCA(t)
	c := config(dir)
	c.Test = []string{"/bin/sh", "-c", "echo wrong >&2; exit 1"}
	out := deploy.Run(t.Context(), open(t, c, deploytest.State(t)), ca.Items(t, 1), deploy.Options{})
	if out[0].Live || out[0].Stderr != "wrong\n" {
		t.Errorf("%+v", out[0])
	}
	c.Test, c.Timeout = []string{"/bin/sleep", "60"}, 50*time.Millisecond
	out = deploy.Run(t.Context(), open(t, c, deploytest.State(t)), ca.Items(t, 1), deploy.Options{})
	if out[0].Live || !strings.Contains(out[0].Err.Error(), "did not end in time") {
		t.Errorf("%+v", out[0])
	}
	if _, err := os.Stat(filepath.Join(dir, "reloads")); err == nil {
		t.Error("the server was reloaded")
	}
	if _, err := os.Lstat(c.Dir); err == nil {
		t.Error("the link was left behind")
	}
}

func TestUnit(t *testing.T) {
	bin := t.TempDir()
	log := filepath.Join(bin, "log")
	script := "#!/bin/sh\necho \"$@\" >> " + log + "\n"
	if err := os.WriteFile(filepath.Join(bin, "systemctl"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	c := config(t.TempDir())
	c.Unit = "gitea.service"
	if _, err := files.Kind.Open(deploytest.Env(t, ""), c); err == nil {
		t.Error("unit and reload are both accepted")
	}
	c.Reload = nil
	deploytest.AllLive(t, deploy.Run(t.Context(), open(t, c, deploytest.State(t)), deploytest.NewCA(t).Items(t, 1), deploy.Options{}))
	if deploytest.Count(t, log, "reload gitea.service\n") != 1 {
		t.Error("the unit was not reloaded once")
	}
	c.Unit = "--force"
	if _, err := files.Kind.Open(deploytest.Env(t, ""), c); err == nil {
		t.Error("an option is taken for a unit")
	}
}

func TestTwoWithOneName(t *testing.T) {
	ca := deploytest.NewCA(t)
	items := ca.Items(t, 3)
	items[2].Params = map[string]string{"name": "c000"}
	c := config(t.TempDir())
	out := deploy.Run(t.Context(), open(t, c, deploytest.State(t)), items, deploy.Options{})
	if !out[0].Live || !out[1].Live || out[2].Live {
		t.Errorf("%+v", out)
	}
	items[0].Params = map[string]string{"name": "../.."}
	out = deploy.Run(t.Context(), open(t, c, deploytest.State(t)), items[:1], deploy.Options{})
	if out[0].Live {
		t.Error("a name leaves the directory")
	}
}
