package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/internal/testenv"
)

// tool is one call of a program.
type tool struct {
	name string // program, or path
	args []string
	env  []string // added to the environment
	dir  string   // working directory
}

// call runs a program to its end and returns what it wrote.
func (c tool) call(t testing.TB) (string, error) {
	t.Helper()
	path := testenv.NeedBinary(t, c.name)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, c.args...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = append(os.Environ(), c.env...), c.dir, time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// run is call for programs that must succeed.
func run(t testing.TB, c tool) string {
	t.Helper()
	out, err := c.call(t)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(c.name), strings.Join(c.args, " "), err, out)
	}
	return out
}

// poll calls f until it returns nil, the limit passes or stop is closed, and
// returns f's last error. It is for what offers nothing to wait on.
func poll(limit time.Duration, stop <-chan struct{}, f func() error) error {
	deadline, tick := time.NewTimer(limit), time.NewTicker(10*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-stop:
			return err
		case <-deadline.C:
			return fmt.Errorf("not within %v: %w", limit, err)
		case <-tick.C:
		}
	}
}

// eventually fails the test unless f returns nil before the limit.
func eventually(t testing.TB, limit time.Duration, f func() error) {
	t.Helper()
	if err := poll(limit, t.Context().Done(), f); err != nil {
		t.Fatal(err)
	}
}

// webroot serves the files of a directory as a web server would that several
// ACME clients share: PATH/token is /.well-known/acme-challenge/token.
func (s *site) webroot() string {
	s.t.Helper()
	dir := s.t.TempDir()
	const prefix = "/.well-known/acme-challenge/"
	s.serveHTTP01(http.StripPrefix(prefix, http.FileServer(http.Dir(dir))))
	return dir
}

// serveHTTP01 runs h where the server looks for http-01 challenges.
func (s *site) serveHTTP01(h http.Handler) {
	s.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:"+s.http01)
	if err != nil {
		s.t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go srv.Serve(ln)
	s.t.Cleanup(func() { srv.Close() })
}

// writeFile writes a file below the test's temporary directory.
func writeFile(t testing.TB, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// readFile returns the text of a file that must exist.
func readFile(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// only returns the one file that matches the pattern.
func only(t testing.TB, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s matches %q (%v), want one file", pattern, found, err)
	}
	return found[0]
}
