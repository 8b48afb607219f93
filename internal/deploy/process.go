package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrNotRunning says that the process of a pid file does not exist.
var ErrNotRunning = errors.New("the server is not running")

// Process is a server that is reloaded by a signal.
type Process struct {
	PIDFile     string   // its first line is the number
	Executables []string // base names that the process may have, as it may be a stranger with an old number
}

// Find returns the process. A number below 2 is refused: 0 would mean our own
// process group, and an empty file is easily read as 0.
func (p Process) Find() (*os.Process, error) {
	text, err := os.ReadFile(p.PIDFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read pid file %s: %w", p.PIDFile, ErrNotRunning)
	}
	if err != nil {
		return nil, fmt.Errorf("read pid file: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid < 2 {
		return nil, fmt.Errorf("pid file %s holds no process number greater than 1", p.PIDFile)
	}
	proc, err := os.FindProcess(pid) // on Linux a handle, which a later process with the same number is not
	if err != nil || proc.Signal(syscall.Signal(0)) != nil {
		return nil, fmt.Errorf("pid file %s names process %d: %w", p.PIDFile, pid, ErrNotRunning)
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return nil, fmt.Errorf("find the program of process %d: %w; give a reload command instead", pid, err)
	}
	name := filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
	if !slices.Contains(p.Executables, name) {
		return nil, fmt.Errorf("pid file %s names process %d, which is %s and not %s", p.PIDFile, pid, name, strings.Join(p.Executables, " or "))
	}
	return proc, nil
}

// Signal sends sig to the process.
func (p Process) Signal(sig syscall.Signal) error {
	proc, err := p.Find()
	if err != nil {
		return err
	}
	if err := proc.Signal(sig); err != nil {
		return fmt.Errorf("signal process %d: %w", proc.Pid, err)
	}
	return nil
}

// SignalWorkers sends sig, which makes the server read its configuration and
// start new workers, and waits for the first of them. Without the wait a later
// change could be read in the place of this one: a signal is handled when the
// server gets to it, and two that wait are one.
func (p Process) SignalWorkers(ctx context.Context, sig syscall.Signal, patience time.Duration) error {
	proc, err := p.Find()
	if err != nil {
		return err
	}
	before, err := children(proc.Pid)
	if err != nil {
		return p.Signal(sig) // a kernel without such a list
	}
	return await(ctx, proc, sig, patience, func() bool {
		now, err := children(proc.Pid)
		return err == nil && slices.ContainsFunc(now, func(child string) bool { return !slices.Contains(before, child) })
	})
}

// SignalRewrite is SignalWorkers for a server that has new workers at any time,
// and writes its pid file whenever it has read its configuration.
func (p Process) SignalRewrite(ctx context.Context, sig syscall.Signal, patience time.Duration) error {
	proc, err := p.Find()
	if err != nil {
		return err
	}
	before, err := os.Stat(p.PIDFile)
	if err != nil {
		return fmt.Errorf("look at pid file: %w", err)
	}
	return await(ctx, proc, sig, patience, func() bool {
		now, err := os.Stat(p.PIDFile)
		return err == nil && !(os.SameFile(now, before) && now.ModTime().Equal(before.ModTime()))
	})
}

// await sends sig and waits until done, or until the process ends.
func await(ctx context.Context, proc *os.Process, sig syscall.Signal, patience time.Duration, done func() bool) error {
	if err := proc.Signal(sig); err != nil {
		return fmt.Errorf("signal process %d: %w", proc.Pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		if ended(proc) {
			return fmt.Errorf("process %d ended instead of reloading; its log says why", proc.Pid)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("process %d did not begin anew within %s; its log says why", proc.Pid, patience)
		}
	}
	return nil
}

// ended reports whether a process has ended, even if its parent has not
// noticed.
func ended(proc *os.Process) bool {
	if proc.Signal(syscall.Signal(0)) != nil {
		return true
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", proc.Pid))
	return err == nil && strings.Contains(string(text), ") Z ")
}

// children lists the children of a process.
func children(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil, fmt.Errorf("list children: %w", err)
	}
	return strings.Fields(string(text)), nil
}
