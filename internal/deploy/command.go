package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// maxOutput is how much of a program's output is kept: the end of it, where
// the reason is.
const maxOutput = 8 << 10

// Command is a program to be run: an argument vector, never a shell's line.
type Command struct {
	Argv    []string
	Stdin   []byte
	Env     []string      // KEY=value, added to PATH, HOME, LANG, TZ and TMPDIR; nothing else is handed on
	Timeout time.Duration // of the program and all it started; 0 = 60 s
}

// CommandError is a program that failed.
type CommandError struct {
	Program string // base name
	Output  string // the end of its standard error, or of its output when that is empty; at most 8 KB
	Err     error
}

// Error implements error. It has the last line of the output, the reason.
func (e *CommandError) Error() string {
	text := e.Program + ": " + e.Err.Error()
	lines := strings.Split(strings.TrimSpace(e.Output), "\n")
	if last := lines[len(lines)-1]; last != "" {
		text += ": " + strings.ToValidUTF8(last[:min(len(last), 500)], "?")
	}
	return text
}

// Unwrap returns the cause.
func (e *CommandError) Unwrap() error { return e.Err }

// Run runs the program in a process group of its own, which is killed when
// the time is over. It returns the standard output, whose first 64 KB are
// kept, or a *CommandError.
func (c Command) Run(ctx context.Context) ([]byte, error) {
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return nil, errors.New("run command: no program is named")
	}
	ctx, cancel := context.WithTimeout(ctx, orDuration(c.Timeout, time.Minute))
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Env = append(inherited(), c.Env...)
	cmd.Stdin = bytes.NewReader(c.Stdin)
	out, errs := &head{max: 64 << 10}, &tail{max: maxOutput}
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it ended well, and left a child that holds its output open
	}
	if err == nil {
		return out.b, nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("did not end in time: %w", ctx.Err())
	}
	text := errs.String()
	if text == "" {
		text = string(out.b[max(0, len(out.b)-maxOutput):])
	}
	return out.b, &CommandError{Program: filepath.Base(c.Argv[0]), Output: text, Err: err}
}

// inherited are the variables that a program gets from ours. Not all of them:
// the environment of this process may hold secrets.
func inherited() []string {
	env := []string{}
	for _, name := range []string{"PATH", "HOME", "LANG", "TZ", "TMPDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// orDuration returns d, or def when d is 0.
func orDuration(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}

// head keeps the beginning of what is written to it.
type head struct {
	mu  sync.Mutex
	b   []byte
	max int
}

// Write implements io.Writer and never fails.
func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.b = append(h.b, p[:min(len(p), h.max-len(h.b))]...)
	return len(p), nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	b   []byte
	max int
}

// Write implements io.Writer and never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p[max(0, len(p)-t.max):]...)
	if over := len(t.b) - t.max; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

// String returns what was kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(string(t.b), "?")
}
