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
