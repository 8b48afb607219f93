//go:build faultpoint

package server_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"chancery/internal/acme"
	"chancery/internal/acme/server"
	"chancery/internal/ca"
	"chancery/internal/db/dbtest"
)

// crashDir tells the child process where its files are.
const crashDir = "CHANCERY_TEST_CRASH_DIR"

// crashPoints are where processes die while they issue, one after the other.
var crashPoints = [][]string{
	{"acme.after_account"}, {"acme.after_new_order"}, {"acme.before_validation"}, {"acme.after_validation"},
	{"acme.before_finalize"}, {"ca.before_intent"}, {"ca.after_intent"}, {"ca.after_sign"}, {"ca.after_result"}, {"acme.after_finalize"},
	{"ca.after_sign", "acme.after_recover_claim", "ca.after_sign", "acme.after_recover"}, // the recovery dies too
}

// crashWorld opens the world of a directory, under a name that stays.
func crashWorld(t *testing.T, dir string) (*world, *client) {
	t.Helper()
	w := newWorldIn(t, dbtest.Open(t, filepath.Join(dir, "chancery.db")), filepath.Join(dir, "keys"),
		func(c *server.Config) { c.BaseURL = "http://ca.test" })
	w.names("crash.test")
	c := w.client(t)
	c.via = w.handler(w.Server)
	key, err := x509.ParsePKCS8PrivateKey(read(t, dir, "account.key"))
	if err != nil {
		t.Fatal(err)
	}
	if c.signer, err = acme.NewSigner(key.(crypto.Signer)); err != nil {
		t.Fatal(err)
	}
	return w, c
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// issueIn runs the whole workflow, from wherever it was left.
func issueIn(t *testing.T, c *client, dir string) acme.Order {
	t.Helper()
	c.kid = c.post(c.base+"/new-account", map[string]any{}).want(http.StatusOK, http.StatusCreated).Header.Get("Location")
	url := string(read(t, dir, "order"))
	if url == "" {
		_, url = c.order("crash.test")
		if err := os.WriteFile(filepath.Join(dir, "order"), []byte(url), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := c.post(url, nil).want(http.StatusOK).order()
	c.authorize(o)
	return c.post(o.Finalize, map[string]string{"csr": string(read(t, dir, "csr"))}).want(http.StatusOK).order()
}

// TestCrashChild is the process that dies.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		t.Skip("only as a child of TestCrash")
	}
	w, c := crashWorld(t, dir)
	recoverAll(t, w)
	issueIn(t, c, dir)
}

func recoverAll(t *testing.T, w *world) {
	t.Helper()
	if _, err := w.Recover(context.Background(), time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
}

// Wherever a process dies, a new one brings the order to its one certificate,
// and the invariants of issuance hold.
func TestCrash(t *testing.T) {
	for _, points := range crashPoints {
		t.Run(strings.Join(points, " "), func(t *testing.T) {
			dir := t.TempDir()
			key, err := x509.MarshalPKCS8PrivateKey(newKey(t))
			if err != nil {
				t.Fatal(err)
			}
			for name, data := range map[string][]byte{"account.key": key, "order": nil, "csr": []byte(csr(t, nil, "crash.test"))} {
				if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			w, _ := crashWorld(t, dir) // makes the authorities, whose issuance has the same points
			w.db.Close()
			for _, p := range points {
				die(t, dir, p)
			}

			w, c := crashWorld(t, dir)
			recoverAll(t, w)
			if o := issueIn(t, c, dir); o.Status != acme.OrderValid {
				t.Errorf("%+v", o)
			}
			if n := issuedFor(t, w, "crash.test"); n != 1 {
				t.Errorf("%d certificates", n)
			}
			intents := 0
			if err := ca.Walk(context.Background(), w.db.Read(), func(c *ca.Certificate) error {
				if c.State == ca.StateIntent {
					intents++
				}
				return nil
			}); err != nil || intents != 0 {
				t.Errorf("%d serials are neither issued nor abandoned, %v", intents, err)
			}
			w.mustHold(t)
		})
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
