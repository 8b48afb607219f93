package rest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// TempFail is the exit status of a program whose failure passes (EX_TEMPFAIL
// of sysexits.h).
const TempFail = 75

const (
	maxStdout = 1 << 20
	maxStderr = 4 << 10
)

// Program is a program of the operator that is run once per request.
type Program struct {
	argv, env []string
	timeout   time.Duration
}

// NewProgram checks a command. Nothing is run.
func NewProgram(argv, env []string, timeout time.Duration) (*Program, error) {
	if len(argv) == 0 {
		return nil, errors.New("command: must be set")
	}
	if !filepath.IsAbs(argv[0]) {
		return nil, fmt.Errorf("command: %q must be an absolute path", argv[0])
	}
	if _, err := exec.LookPath(argv[0]); err != nil {
		return nil, fmt.Errorf("command: %w", err)
	}
	for _, e := range env {
		if !strings.Contains(e, "=") {
			return nil, fmt.Errorf("env: %q is not NAME=VALUE", e)
		}
	}
	if timeout <= 0 {
		timeout = time.Minute
	}
	return &Program{argv, append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, env...), timeout}, nil
}

// Run runs the program with a text as its input, and returns its output. The
// error of another exit status than 0 wraps *exec.ExitError and has the end of
// standard error.
func (p *Program) Run(ctx context.Context, stdin io.Reader) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.argv[0], p.argv[1:]...)
	stdout, stderr := &limited{max: maxStdout}, &limited{max: maxStderr, tail: true}
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = stdin, stdout, stderr, p.env
	cmd.WaitDelay = 2 * time.Second // children may hold the pipes
	err := cmd.Run()
	name := filepath.Base(p.argv[0])
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded) && err != nil:
		return nil, fmt.Errorf("run %s: it took longer than %s", name, p.timeout)
	case err != nil:
		return stdout.buf.Bytes(), fmt.Errorf("run %s: %w: %s", name, err, Tidy(strings.TrimSpace(stderr.buf.String())))
	case stdout.over:
		return nil, fmt.Errorf("run %s: its output is longer than %d bytes", name, maxStdout)
	}
	return stdout.buf.Bytes(), nil
}

// limited keeps the first, or the last, octets that are written to it. The
// buffer is not embedded: its ReadFrom would have no limit.
type limited struct {
	buf  bytes.Buffer
	max  int
	tail bool
	over bool
}

func (l *limited) Write(b []byte) (int, error) {
	n := len(b)
	if l.tail {
		l.buf.Write(b)
		if extra := l.buf.Len() - l.max; extra > 0 {
			l.buf.Next(extra)
		}
		return n, nil
	}
	if room := l.max - l.buf.Len(); len(b) > room {
		l.over, b = true, b[:room]
	}
	l.buf.Write(b)
	return n, nil
}
