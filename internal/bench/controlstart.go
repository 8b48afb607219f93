package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Start is the benchmark of starting a server: an operation is a start, until
// the server says that it is ready. Each is ended again outside of the clock.
type Start struct {
	Program string
	Args    []string // of the program; it writes Ready when it is ready
	Ready   string   // a file that is not there yet
	Timeout time.Duration
}

// startPoll is how often the ready file is looked for.
const startPoll = time.Millisecond

// Run starts and ends the server rounds times, after once that does not count.
// The figures of CPU are those of the whole life of a process.
func (s Start) Run(ctx context.Context, rounds int) (Point, error) {
	p := Point{Clients: 1}
	var h Histogram
	var cpu []float64
	for i := range rounds + 1 {
		took, used, err := s.once(ctx)
		if err != nil {
			return p, err
		}
		if i == 0 {
			continue
		}
		h.Record(took)
		cpu = append(cpu, float64(used)/1e6)
		p.Rounds = append(p.Rounds, Round{Seconds: round4(took.Seconds()), Operations: 1, PerSecond: round4(1 / took.Seconds()), P50: millis(took), P99: millis(took)})
	}
	p.Latency = h.Latency()
	p.PerSecond = spread([]float64{1 / h.Quantile(.5).Seconds()})
	used := spread(cpu)
	p.ServerCPU = &used
	return p, nil
}

// once starts the server and ends it. It returns how long it took to be ready,
// and the CPU time of its life.
func (s Start) once(ctx context.Context) (took, used time.Duration, err error) {
	if err := os.Remove(s.Ready); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, 0, fmt.Errorf("remove ready file: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.Program, s.Args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay, cmd.SysProcAttr = s.Timeout, dieWithParent()
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, fmt.Errorf("start %s: %w", s.Program, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for ready := false; !ready; {
		select {
		case err := <-ended:
			return 0, 0, fmt.Errorf("%s ended before it was ready (%w): %s", s.Program, err, out.text)
		default:
		}
		if text, err := os.ReadFile(s.Ready); err == nil && len(text) > 0 {
			took, ready = time.Since(begin), true
		} else if err := sleep(ctx, startPoll); err != nil {
			cancel()
			<-ended // why it ended is known
			return 0, 0, fmt.Errorf("%s was not ready (%w): %s", s.Program, err, out.text)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return took, 0, fmt.Errorf("end %s: %w", s.Program, err)
	}
	err = <-ended
	used = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if err != nil {
		err = fmt.Errorf("%s did not end well (%w): %s", s.Program, err, out.text)
	}
	return took, used, err
}

// tail keeps the end of what a program says.
type tail struct{ text []byte }

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.text = append(t.text, b...)
	if len(t.text) > 4096 {
		t.text = append(t.text[:0], t.text[len(t.text)-2048:]...)
	}
	return len(b), nil
}
