//go:build faultpoint

package renew_test

import (
	"context"
	"crypto/x509"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"chancery/internal/ca"
	"chancery/internal/db/dbtest"
	"chancery/internal/issuer"
	"chancery/internal/renew"
)

// crashDir tells the child process where its files are.
const crashDir = "CHANCERY_TEST_CRASH_DIR"

// crashPoints are where processes die, one after the other.
var crashPoints = [][]string{
	{"renew.after_begin"}, {"renew.before_issue"},
	{"renew.before_save_ordered"}, {"renew.after_save_ordered"},
	{"renew.before_save_authz_pending"}, {"renew.after_save_authz_pending"},
	{"renew.before_save_posted"}, {"renew.after_save_posted"}, {"renew.before_poll"},
	{"renew.before_save_ready"}, {"renew.after_save_ready"},
	{"renew.before_save_finalizing"}, {"renew.after_save_finalizing"},
	{"ca.before_intent"}, {"ca.after_intent"}, {"ca.after_sign"}, {"ca.after_result"},
	{"renew.after_issue"}, {"renew.before_store_chain"}, {"renew.after_store_chain"},
	{"renew.before_handover"}, {"renew.after_inventory"}, {"renew.after_handover"},
	{"renew.before_deploy"}, {"renew.after_deploy"}, {"renew.before_placed"}, {"renew.after_placed"},
	{"renew.after_desire"}, {"renew.after_settle"},
	{"renew.before_fail"}, {"renew.after_fail"},
	{"renew.after_begin", "renew.after_save_finalizing", "ca.after_sign", "renew.before_store_chain", "renew.after_inventory", "renew.after_deploy"},
}

// crashWorld opens the world of a directory and an engine whose clock is ahead,
// so that what a dead process had claimed is due again.
func crashWorld(t *testing.T, dir string, ahead time.Duration) *world {
	t.Helper()
	w := newWorld(t, dbtest.Open(t, filepath.Join(dir, "chancery.db")), dir, 24*time.Hour)
	shift := newClock()
	shift.set(ahead)
	f := &folder{dir: dir}
	own := &flaky{Issuer: w.own}
	if strings.HasSuffix(os.Getenv("CHANCERY_FAULT_POINT"), "_fail") {
		own.set(nil, &issuer.Error{Class: issuer.Unavailable, Err: errors.New("down")})
	}
	w.engine = w.open(renew.Config{Now: shift.now, Issuers: map[string]*renew.Issuer{"own": {Issuer: stepper{own, 1}, Own: true}},
		Targets: map[string]*renew.Place{"folder": {Run: f.run}}, Remote: remoteHolder(t, dir).remote()})
	return w
}

// settled waits until a certificate has another issuance than before in service.
func (w *world) settled(t *testing.T, ref, before string) renew.Managed {
	t.Helper()
	return w.until(t, ref, "idle", func(m renew.Managed) bool { return m.State == renew.Idle && m.LiveID != before })
}

// TestCrashChild is the process that dies.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		t.Skip("only as a child of TestCrash")
	}
	ahead, err := time.ParseDuration(os.Getenv("CHANCERY_TEST_AHEAD"))
	must(t, err)
	w := crashWorld(t, dir, ahead)
	run(t, w.engine)
	if h := remoteHolder(t, dir); h.exists() {
		w.settled(t, h.ref(), h.before(t))
	}
	w.settled(t, "crash", "")
}

// Wherever a process dies, a new one brings the certificate to its target: one
// certificate, for the stored key, and the invariants of issuance hold.
func TestCrash(t *testing.T) {
	for _, points := range crashPoints {
		t.Run(strings.Join(points, " "), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			w := crashWorld(t, dir, 0)
			_, err := w.engine.Create(context.Background(), renew.Spec{Name: "crash", Names: names(t, "crash.example.test"),
				Targets: []renew.Target{{Name: "folder", Params: map[string]string{"site": "crash"}}}, Endpoints: []string{"crash.example.test:443"}}, "test")
			must(t, err)
			must(t, w.db.Close())
			for i, p := range points {
				die(t, dir, p, time.Duration(i)*15*time.Minute)
			}

			w = crashWorld(t, dir, time.Duration(len(points))*15*time.Minute)
			run(t, w.engine)
			m := w.settled(t, "crash", "")
			live := w.leaf(t, &m)
			served, err := os.ReadFile(filepath.Join(dir, "crash"))
			must(t, err)
			if cert, err := x509.ParseCertificate(served); err != nil || !cert.Equal(live) {
				t.Errorf("the target serves something else: %v", err)
			}
			issued := 0
			must(t, ca.Walk(context.Background(), w.db.Read(), func(c *ca.Certificate) error {
				if len(c.Names) == 1 && c.Names[0] == "crash.example.test" && c.State == ca.StateIssued {
					issued++
				}
				return nil
			}))
			if issued != 1 {
				t.Errorf("%d certificates were issued", issued)
			}
			placed, err := renew.Placements(context.Background(), w.db.Read(), m.ID)
			must(t, err)
			if len(placed) != 1 || !placed[0].Live() {
				t.Errorf("placements: %+v", placed)
			}
			w.mustHold(t)
		})
	}
}

// die runs the child until it is killed at point.
func die(t *testing.T, dir, point string, ahead time.Duration) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
	cmd.Env = append(os.Environ(), crashDir+"="+dir, "CHANCERY_FAULT_POINT="+point, "CHANCERY_TEST_AHEAD="+ahead.String())
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child was not killed at %s: %v\n%s", point, err, out)
	}
}
