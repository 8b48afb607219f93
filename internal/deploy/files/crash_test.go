//go:build faultpoint

package files_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/gob"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"chancery/internal/deploy"
	"chancery/internal/deploy/deploytest"
	"chancery/internal/deploy/files"
)

// crashDir tells the child process where its files are.
const crashDir = "CHANCERY_TEST_CRASH_DIR"

// saved is an item on its way to the child.
type saved struct {
	ID, Name   string
	Chain      [][]byte
	PrivateKey []byte
}

// TestCrashChild is the process that dies.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		t.Skip("only as a child of TestCrash")
	}
	data, err := os.ReadFile(filepath.Join(dir, "items"))
	if err != nil {
		t.Fatal(err)
	}
	var all []saved
	if err := gob.NewDecoder(bytes.NewReader(data)).Decode(&all); err != nil {
		t.Fatal(err)
	}
	var items []deploy.Item
	for _, s := range all {
		key, err := x509.ParseECPrivateKey(s.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		items = append(items, deploy.Item{ID: s.ID, Names: []string{s.Name}, Chain: s.Chain, Key: key})
	}
	deploy.Run(t.Context(), open(t, config(dir), filepath.Join(dir, "state")), items, deploy.Options{})
}

// Wherever a process dies, even while it recovers from an earlier death, what
// is live is wholly old or wholly new, the next process tidies up, and the
// server was told to read what is live.
func TestCrash(t *testing.T) {
	for _, c := range []struct {
		points []string
		broken bool // the reload fails, so that the batch is rolled back
		done   bool // the new certificates stay
	}{
		{[]string{"deploy.after_plan"}, false, false},
		{[]string{"deploy.after_files"}, false, false},
		{[]string{"deploy.after_stage"}, false, false},
		{[]string{"deploy.before_switch"}, false, false},
		{[]string{"deploy.after_switch"}, false, false},
		{[]string{"deploy.after_reload"}, false, false},
		{[]string{"deploy.before_commit"}, false, true},
		{[]string{"deploy.after_prune"}, false, true},
		{[]string{"deploy.after_revert"}, true, false},
		{[]string{"deploy.after_reload", "deploy.before_recover", "deploy.after_revert", "deploy.after_discard"}, false, false},
		{[]string{"deploy.after_files", "deploy.after_discard"}, false, false},
		{[]string{"deploy.before_commit", "deploy.after_prune"}, false, true},
	} {
		t.Run(c.points[len(c.points)-1], func(t *testing.T) { crash(t, c.points, c.broken, c.done) })
	}
}

func crash(t *testing.T, points []string, broken, done bool) {
	dir, ca := t.TempDir(), deploytest.NewCA(t)
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	c := config(dir)
	old := ca.Items(t, 4)
	deploytest.AllLive(t, deploy.Run(t.Context(), open(t, c, state), old, deploy.Options{}))
	renewed := ca.Items(t, 3)
	save(t, filepath.Join(dir, "items"), renewed)
	if broken {
		deploytest.WriteFile(t, filepath.Join(dir, "reloads.broken"), "")
	}
	for _, p := range points {
		die(t, dir, p)
		wholly(t, c, old, renewed)
	}
	os.Remove(filepath.Join(dir, "reloads.broken"))
	if err := open(t, c, state).(deploy.Recoverer).Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := old
	if done {
		want = append(renewed, old[3])
	}
	for i := range want {
		if err := served(c, &want[i]); err != nil {
			t.Error(err)
		}
	}
	if found, _ := filepath.Glob(filepath.Join(dir, ".live", "items", "*")); len(found) != 4 {
		t.Errorf("left over: %v", found)
	}
	deploytest.AllLive(t, deploy.Run(t.Context(), open(t, c, state), renewed, deploy.Options{}))
}

// wholly checks that all or none of the renewed certificates are live.
func wholly(t *testing.T, c *files.Config, old, renewed []deploy.Item) {
	t.Helper()
	n := 0
	for i := range renewed {
		switch {
		case served(c, &renewed[i]) == nil:
			n++
		case served(c, &old[i]) != nil:
			t.Errorf("%s is neither old nor new", old[i].ID)
		}
	}
	if n != 0 && n != len(renewed) {
		t.Errorf("%d of %d are new: half a deployment", n, len(renewed))
	}
	if err := served(c, &old[3]); err != nil {
		t.Errorf("a certificate that was not renewed: %v", err)
	}
}

// save writes items for the child.
func save(t *testing.T, path string, items []deploy.Item) {
	t.Helper()
	var all []saved
	for _, item := range items {
		der, err := x509.MarshalECPrivateKey(item.Key.(*ecdsa.PrivateKey))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, saved{item.ID, item.Names[0], item.Chain, der})
	}
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(all); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// die runs the child until it is killed at point.
func die(t *testing.T, dir, point string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
	cmd.Env = append(os.Environ(), crashDir+"="+dir, "CHANCERY_FAULT_POINT="+point)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child was not killed at %s: %v\n%s", point, err, out)
	}
}
