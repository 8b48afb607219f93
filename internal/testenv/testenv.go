// Package testenv finds the foreign programs that tests run against. What is
// missing on a laptop is skipped, and says so; in CI (CI=true) a missing
// program is a failure, because a test that nobody runs proves nothing.
package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// CI reports whether the tests run where nothing may be skipped.
func CI() bool { return os.Getenv("CI") == "true" }

// NeedBinary returns the path of a program: from $PATH, or from extra, a list
// of glob patterns such as "/usr/lib/postgresql/*/bin/postgres", of which the
// last match (the newest version) wins. Without it the test is skipped, or
// fails in CI.
func NeedBinary(t testing.TB, name string, extra ...string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, pattern := range extra {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatalf("bad pattern %q: %v", pattern, err)
		}
		if len(found) > 0 {
			slices.Sort(found)
			return found[len(found)-1]
		}
	}
	Skip(t, name+" is not installed (.ci/run lists the Debian packages)")
	return ""
}

// Skip skips the test with a reason, or fails it in CI.
func Skip(t testing.TB, reason string) {
	t.Helper()
	if CI() {
		t.Fatalf("cannot run, and CI=true: %s", reason)
	}
	t.Skipf("SKIPPED: %s", reason)
}

// NodeModules returns a directory whose node_modules holds a package for Node
// that a test needs as its peer: $CHANCERY_NODE, or chancery-node in the
// user's cache directory. `npm install --prefix DIR NAME` puts it there. A test
// without it is skipped, or fails where nothing may be missing.
func NodeModules(t testing.TB, name string) string {
	t.Helper()
	NeedBinary(t, "node")
	dir := os.Getenv("CHANCERY_NODE")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			Skip(t, "there is no cache directory to look for Node packages in")
		}
		dir = filepath.Join(cache, "chancery-node")
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", name, "package.json")); err != nil {
		Skip(t, name+" is not installed: npm install --prefix "+dir+" "+name)
	}
	return dir
}
