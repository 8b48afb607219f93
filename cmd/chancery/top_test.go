package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/internal/api"
	"chancery/internal/obs"
	"chancery/internal/testenv"
)

// onTerminal runs the program on a terminal of 100 columns and 30 rows, types
// key when the output holds until, and returns everything that was drawn.
func onTerminal(t *testing.T, until, key string, environ []string, args ...string) string {
	t.Helper()
	script := testenv.NeedBinary(t, "script") // of util-linux: it makes the terminal
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "chancery") // by this name TestMain is the program
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), script, "-qfec", "stty cols 100 rows 30 && exec "+program+" "+strings.Join(args, " "), "/dev/null")
	cmd.Env = append(append(os.Environ(), "TERM=xterm", "NO_COLOR="), environ...)
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick, limit, typed := time.NewTicker(20*time.Millisecond), time.After(30*time.Second), false
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if !typed && strings.Contains(out.String(), until) {
				typed = true
				if _, err := in.Write([]byte(key)); err != nil {
					t.Fatal(err)
				}
			}
		case err := <-ended:
			if err != nil || !typed {
				t.Errorf("ended with %v: %q", err, out.String())
			}
			return out.String()
		case <-limit:
			cmd.Process.Kill()
			t.Fatalf("does not end: %q", out.String())
		}
	}
}

func TestTopOnATerminal(t *testing.T) {
	s, _ := startDev(t)
	args := []string{"top", "--data", s.path("data")}
	for name, key := range map[string]string{"q": "q", "ctrl-c": "\x03"} {
		t.Run(name, func(t *testing.T) {
			got := onTerminal(t, "goroutines", key, nil, args...)
			if !strings.HasPrefix(got, enterScreen) || !strings.HasSuffix(strings.TrimRight(got, "\r\n"), leaveScreen) {
				t.Errorf("the terminal is not given back: %q", got)
			}
			if !strings.Contains(got, "\x1b[1mPHASE") {
				t.Errorf("no colours: %q", got)
			}
		})
	}
	t.Run("no colour", func(t *testing.T) {
		got := onTerminal(t, "goroutines", "q", []string{"NO_COLOR=1"}, args...)
		if strings.Contains(got, "\x1b[1m") || strings.Contains(got, "\x1b[3") {
			t.Errorf("colours: %q", got)
		}
	})
}

func TestFrameFitsTheTerminal(t *testing.T) {
	v := viewLoad(nil, &api.Load{Build: obs.Build{Version: "1.2.3"}})
	lines := v.lines()
	got := frame(lines, 40, 5, true)
	rows := strings.Split(strings.TrimPrefix(got, toTop), "\r\n")
	if len(rows) != 5 || !strings.Contains(rows[4], "more lines; enlarge the") {
		t.Errorf("%d rows: %q", len(rows), rows)
	}
	for _, r := range strings.Split(frame(lines, 40, 5, false), "\r\n") {
		for _, control := range []string{toTop, clearRight, clearBelow} {
			r = strings.ReplaceAll(r, control, "")
		}
		if n := len([]rune(r)); n > 40 || strings.Contains(r, "\x1b") {
			t.Errorf("%d columns: %q", n, r)
		}
	}
	if got := frame(lines, 200, 100, false); strings.Count(got, "\r\n") != len(lines)-1 || strings.Contains(got, "more lines") {
		t.Errorf("a large terminal: %q", got)
	}
}

// What a server says cannot drive the terminal.
func TestViewShowsNoControls(t *testing.T) {
	v := viewLoad(nil, &api.Load{})
	v.Alerts.Firing = []api.AlertView{{Severity: "critical", Summary: "evil\x1b[2Jname"}}
	v.Renewals.Failing = []topFailing{{Name: "a\nb", Error: "\x07"}}
	v.Notes = []string{"\x1b]0;title\x07"}
	for _, l := range v.lines() {
		var b strings.Builder
		if l.write(&b, 0, false); strings.ContainsAny(b.String(), "\x1b\n\x07") {
			t.Errorf("%q", b.String())
		}
	}
}

func TestViewOfTwoReadings(t *testing.T) {
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	op := func(ok, failed float64, fast, slow uint64) []api.OperationLoad {
		return []api.OperationLoad{{Operation: "finalize", Success: ok, Failure: failed, Seconds: obs.Distribution{Count: fast + slow,
			Buckets: []obs.Bound{{LE: 0.01, Count: fast}, {LE: 0.1, Count: fast + slow}}}}}
	}
	before := &api.Load{At: at, Operations: op(100, 0, 100, 0), Runtime: api.RuntimeLoad{CPUSeconds: 10},
		Loops: []api.LoopLoad{{Loop: "x", Runs: 1}}}
	now := &api.Load{At: at.Add(4 * time.Second), Operations: op(130, 10, 120, 20), Runtime: api.RuntimeLoad{CPUSeconds: 12},
		Alerts: map[string]float64{"critical": 2},
		Loops:  []api.LoopLoad{{Loop: "x", Runs: 2}, {Loop: "y", Runs: 1, LastSuccess: &at}, {Loop: "z", Backlog: 3, LastSuccess: &at}}}
	v := viewLoad(before, now)
	p := v.Phases[0]
	if v.Over != 4 || p.PerSecond != 10 || p.Failed != 2.5 || p.Total != 140 || *p.P50 != 0.01 || *p.P95 < 0.09 || *p.P95 > 0.1 {
		t.Errorf("finalize: %+v, p50 %v, p95 %v over %v", p, *p.P50, *p.P95, v.Over)
	}
	if v.Process.Cores != 0.5 {
		t.Errorf("%v cores", v.Process.Cores)
	}
	if len(v.Backlogs) != 2 || v.Backlogs[0].Loop != "x" || v.Backlogs[1].Loop != "z" {
		t.Errorf("loops that are behind: %+v", v.Backlogs)
	}
	if first := viewLoad(nil, now); first.Over != 0 || first.Phases[0].PerSecond != 0 || first.Phases[0].P50 != nil {
		t.Errorf("the first look has rates: %+v", first.Phases[0])
	}
}
