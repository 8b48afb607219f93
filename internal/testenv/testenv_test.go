package testenv

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// recorder stands for the test that asks, and ends like one.
type recorder struct {
	testing.TB
	skipped, failed bool
}

func (r *recorder) Helper()               {}
func (r *recorder) Skipf(string, ...any)  { r.skipped = true; runtime.Goexit() }
func (r *recorder) Fatalf(string, ...any) { r.failed = true; runtime.Goexit() }

// ask runs NeedBinary in a goroutine of its own, which it may end.
func ask(t *testing.T, name string, extra ...string) (path string, r *recorder) {
	r = &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		path = NeedBinary(r, name, extra...)
	}()
	<-done
	return path, r
}

func TestMissingProgramSkipsLocallyAndFailsInCI(t *testing.T) {
	t.Setenv("CI", "")
	if _, r := ask(t, "no-such-program"); !r.skipped || r.failed {
		t.Errorf("locally: skipped=%v failed=%v, want a skip", r.skipped, r.failed)
	}
	t.Setenv("CI", "true")
	if _, r := ask(t, "no-such-program"); r.skipped || !r.failed {
		t.Errorf("in CI: skipped=%v failed=%v, want a failure", r.skipped, r.failed)
	}
}

func TestNewestMatchWins(t *testing.T) {
	dir := t.TempDir()
	for _, v := range []string{"15", "16"} {
		if err := os.MkdirAll(filepath.Join(dir, v), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, v, "tool-of-mine"), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	got, _ := ask(t, "tool-of-mine", filepath.Join(dir, "*", "tool-of-mine"))
	if want := filepath.Join(dir, "16", "tool-of-mine"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
