package deploy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"chancery/internal/deploy"
	"chancery/internal/deploy/deploytest"
	"chancery/internal/scan/probe"
)

func TestCheck(t *testing.T) {
	ca, other := deploytest.NewCA(t), deploytest.NewCA(t)
	for _, c := range []struct {
		name   string
		change func(*deploy.Item)
		now    time.Time
		want   string
	}{
		{"good", func(*deploy.Item) {}, time.Now(), ""},
		{"key held elsewhere", func(i *deploy.Item) { i.Key = nil }, time.Now(), ""},
		{"leaf only", func(i *deploy.Item) { i.Chain = i.Chain[:1] }, time.Now(), ""},
		{"path as id", func(i *deploy.Item) { i.ID = "../../etc" }, time.Now(), "the id"},
		{"hidden id", func(i *deploy.Item) { i.ID = ".." }, time.Now(), "the id"},
		{"no chain", func(i *deploy.Item) { i.Chain = nil }, time.Now(), "0 certificates"},
		{"long chain", func(i *deploy.Item) { i.Chain = make([][]byte, 11) }, time.Now(), "11 certificates"},
		{"no certificate", func(i *deploy.Item) { i.Chain[1] = []byte("x") }, time.Now(), "certificate 2"},
		{"huge", func(i *deploy.Item) { i.Chain[0] = make([]byte, 1<<17) }, time.Now(), "131072 bytes"},
		{"another key", func(i *deploy.Item) { i.Key = deploytest.NewKey(t) }, time.Now(), "not that of the certificate"},
		{"order", func(i *deploy.Item) { i.Chain[0], i.Chain[1] = i.Chain[1], i.Chain[0]; i.Key = nil }, time.Now(), "the order must be"},
		{"same name, other key", func(i *deploy.Item) { i.Chain[1] = other.Item(t, "x", "x.test").Chain[1] }, time.Now(), "is not signed by"},
		{"expired", func(*deploy.Item) {}, time.Now().Add(950 * time.Hour), "certificate 1 of the chain expired"},
		{"intermediate expired too", func(i *deploy.Item) {}, time.Now().Add(-2 * time.Hour), "not valid before"},
		{"another name", func(i *deploy.Item) { i.Names = append(i.Names, "else.test") }, time.Now(), `not for "else.test"`},
		{"address", func(i *deploy.Item) { *i = ca.Item(t, "ip", "127.0.0.1", "::1") }, time.Now(), ""},
		{"another address", func(i *deploy.Item) { *i = ca.Item(t, "ip", "127.0.0.1"); i.Names = []string{"127.0.0.2"} }, time.Now(), "not for"},
		{"wildcard", func(i *deploy.Item) { *i = ca.Item(t, "w", "*.w.test") }, time.Now(), ""},
		{"wildcard of one name", func(i *deploy.Item) { *i = ca.Item(t, "w", "a.w.test"); i.Names = []string{"*.w.test"} }, time.Now(), "not for"},
	} {
		item := ca.Item(t, "web-1", "a.test", "b.test")
		c.change(&item)
		err := deploy.Check(&item, c.now)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: want %q, got %v", c.name, c.want, err)
		}
	}
}

func TestNextOpen(t *testing.T) {
	at := func(s string) time.Time {
		out, err := time.Parse("2006-01-02 15:04", s)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	// 2026-03-27 is a Friday; clocks in Berlin change on the 29th.
	for _, c := range []struct{ window, now, want string }{
		{"02:00-05:00", "2026-03-27 02:00", "2026-03-27 02:00"},
		{"02:00-05:00", "2026-03-27 04:59", "2026-03-27 04:59"},
		{"02:00-05:00", "2026-03-27 05:00", "2026-03-28 02:00"},
		{"22:00-06:00", "2026-03-27 03:00", "2026-03-27 03:00"},
		{"22:00-06:00", "2026-03-27 12:00", "2026-03-27 22:00"},
		{"sat,sun 22:00-06:00", "2026-03-27 23:00", "2026-03-28 22:00"},
		{"sun 22:00-06:00", "2026-03-30 03:00", "2026-03-30 03:00"},
		{"mon-fri 02:00-03:00", "2026-03-27 04:00", "2026-03-30 02:00"},
		{"fri-mon 02:00-03:00", "2026-03-27 04:00", "2026-03-28 02:00"},
		{"wed 00:00-00:00", "2026-03-27 04:00", "2026-04-01 00:00"},
		{"12:00-13:00 Europe/Berlin", "2026-03-28 09:00", "2026-03-28 11:00"},
		{"12:00-13:00 Europe/Berlin", "2026-03-29 09:00", "2026-03-29 10:00"},
	} {
		w, err := deploy.ParseWindow(c.window)
		if err != nil {
			t.Fatal(err)
		}
		if got := deploy.NextOpen([]deploy.Window{w}, at(c.now)); !got.Equal(at(c.want)) {
			t.Errorf("%s at %s: opens %s, want %s", c.window, c.now, got.UTC(), c.want)
		}
	}
	for _, bad := range []string{"", "2-5", "02:00", "02:00-25:00", "someday 02:00-03:00", "02:00-03:00 Mars/Olympus", "mon 02:00-03:00 UTC x", "mon"} {
		if _, err := deploy.ParseWindow(bad); err == nil {
			t.Errorf("%q is taken for a window", bad)
		}
	}
}

func FuzzParseWindow(f *testing.F) {
	f.Add("mon-fri 02:00-04:00 Europe/Berlin")
	f.Add("22:00-06:00")
	f.Fuzz(func(t *testing.T, s string) {
		w, err := deploy.ParseWindow(s)
		if err != nil {
			return
		}
		now := time.Unix(1_790_000_000, 0)
		at := deploy.NextOpen([]deploy.Window{w}, now)
		if at.Before(now) || at.After(now.AddDate(0, 0, 9)) {
			t.Errorf("%q opens at %s", s, at)
		}
	})
}

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]string{"127.0.0.1:443": "tls://127.0.0.1:443", "smtp://mail.test:25": "smtp://mail.test:25", "[::1]:993": "tls://[::1]:993"} {
		if a, err := deploy.ParseAddress(in, ""); err != nil || a.String() != want {
			t.Errorf("%s: %s %v", in, a, err)
		}
	}
	for _, bad := range []string{"", "host", ":443", "host:0", "host:99999", "gopher://host:70", "https://host"} {
		if _, err := deploy.ParseAddress(bad, probe.TLS); err == nil {
			t.Errorf("%q is taken for an address", bad)
		}
	}
}

func TestProbeNames(t *testing.T) {
	for _, c := range []struct{ names, param, want string }{
		{"a.test,*.b.test,192.0.2.1", "-", "a.test chancery-probe.b.test"},
		{"192.0.2.1", "-", ""},
		{"a.test,b.test", "b.test", "b.test"},
		{"a.test", "none", ""},
		{"a.test", "x.test, y.test", "x.test y.test"},
	} {
		item := deploy.Item{Names: strings.Split(c.names, ",")}
		if c.param != "-" {
			item.Params = map[string]string{"probe": c.param}
		}
		if got := strings.Join(deploy.ProbeNames(&item), " "); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
	if n := len(deploy.ProbeNames(&deploy.Item{Names: []string{"192.0.2.1"}})); n != 1 {
		t.Errorf("an address is asked %d times", n)
	}
}

func TestCommand(t *testing.T) {
	t.Setenv("CHANCERY_KEYS_PASSPHRASE", "secret")
	out, err := deploy.Command{Argv: []string{"/bin/sh", "-c", "cat; env"}, Stdin: []byte("in\n"), Env: []string{"A=1"}}.Run(t.Context())
	if err != nil || !strings.HasPrefix(string(out), "in\n") || !strings.Contains(string(out), "A=1\n") || strings.Contains(string(out), "secret") {
		t.Errorf("%q %v", out, err)
	}
	_, err = deploy.Command{Argv: []string{"/bin/sh", "-c", "echo first >&2; echo why >&2; exit 7"}}.Run(t.Context())
	var ce *deploy.CommandError
	if !errors.As(err, &ce) || ce.Output != "first\nwhy\n" || err.Error() != "sh: exit status 7: why" {
		t.Errorf("%v %+v", err, ce)
	}
	if _, err = (deploy.Command{}).Run(t.Context()); err == nil {
		t.Error("no program is no error")
	}
	if _, err = (deploy.Command{Argv: []string{"/nowhere/program"}}).Run(t.Context()); !errors.As(err, &ce) {
		t.Errorf("%v", err)
	}
}

func TestCommandOutputIsBounded(t *testing.T) {
	out, err := deploy.Command{Argv: []string{"/bin/sh", "-c", "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2; echo end >&2; exit 1"}}.Run(t.Context())
	var ce *deploy.CommandError
	if !errors.As(err, &ce) || len(out) != 64<<10 || len(ce.Output) > 8<<10 || !strings.HasSuffix(ce.Output, "end\n") {
		t.Errorf("%d bytes, %v", len(out), len(fmt.Sprint(err)))
	}
}

// The time limit ends the program and what it started.
func TestCommandTimeoutKillsTheGroup(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	_, err := deploy.Command{Argv: []string{"/bin/sh", "-c", "sleep 300 & echo $! > " + file + "; wait"}, Timeout: 300 * time.Millisecond}.Run(t.Context())
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	deploytest.Wait(t, "the grandchild to end", func() bool { return gone(pid) })
}

// gone reports whether a process has ended; a zombie that nobody has waited
// for has, too.
func gone(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(text), ") Z ")
}

func TestPIDFilesAreNotBelieved(t *testing.T) {
	cmd := exec.Command("sleep", "300")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	file := filepath.Join(t.TempDir(), "pid")
	for _, c := range []struct{ text, exe, want string }{
		{"", "sleep", "no process number"}, {"0\n", "sleep", "no process number"}, {"1\n", "sleep", "no process number"},
		{"-1\n", "sleep", "no process number"}, {"x", "sleep", "no process number"}, {"4194399\n", "sleep", "not running"},
		{fmt.Sprint(cmd.Process.Pid), "nginx", "and not nginx"},
	} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := (deploy.Process{PIDFile: file, Executables: []string{c.exe}}).Signal(syscall.SIGTERM); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.text, err)
		}
	}
	if err := (deploy.Process{PIDFile: file + "x"}).Signal(syscall.SIGTERM); !errors.Is(err, deploy.ErrNotRunning) {
		t.Errorf("%v", err)
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	p := deploy.Process{PIDFile: file, Executables: []string{filepath.Base(exe)}}
	if err := p.Signal(syscall.SIGCONT); err != nil {
		t.Error(err)
	}
	if err := p.SignalWorkers(t.Context(), syscall.SIGCONT, 50*time.Millisecond); err == nil || !strings.Contains(err.Error(), "did not begin anew") {
		t.Errorf("%v", err)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	dir := t.TempDir()
	a, err := deploy.TakeLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := deploy.TakeLock(dir); err == nil {
		t.Error("two hold the lock")
	}
	a.Release()
	a.Release()
	b, err := deploy.TakeLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	b.Release()
}
