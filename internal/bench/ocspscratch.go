package bench

import (
	"context"
	"crypto/x509"
	"encoding/json/v2"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"chancery/internal/app"
	"chancery/internal/ca"
	"chancery/internal/ca/catest"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// ScratchConfig says what a Scratch is made of.
type ScratchConfig struct {
	Program string   // the chancery to run
	Dir     string   // data directory; must be empty or absent
	DB      string   // database URL; "" = SQLite in Dir
	N       int      // certificates
	Environ []string // of the program
	Flags   []string // more of `chancery dev`

	Progress func(stage string, share float64) // may be nil; share is 0..1 of the stage
}

// Scratch is a chancery in a process of its own, whose database was filled with
// certificates that nobody trusts (see package catest) while it was stopped.
type Scratch struct {
	Ready     app.Ready
	Issuer    *x509.Certificate
	Serials   []pki.Serial
	Responder string // URL of OCSP
	Figures   []Figure

	cfg   ScratchConfig
	child *exec.Cmd
	log   *os.File
	done  chan error
	empty float64 // heap before there were certificates, bytes

	listen []string // addresses of HTTPS, plain HTTP and debugging
}

// OpenScratch starts the program once so that it makes its authorities, fills
// the database, starts it again and waits until every answer is signed.
func OpenScratch(ctx context.Context, cfg ScratchConfig) (_ *Scratch, err error) {
	if cfg.N < 1 || cfg.N > 20_000_000 {
		return nil, fault.New(fault.Invalid, "%d certificates: choose 1 to 20 million", cfg.N)
	}
	if found, err := os.ReadDir(cfg.Dir); err == nil && len(found) > 0 {
		return nil, fault.New(fault.Conflict, "%s is not empty; certificates that nobody trusts belong into a directory of their own", cfg.Dir)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make scratch directory: %w", err)
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string, float64) {}
	}
	s := &Scratch{cfg: cfg}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	for _, step := range []func(context.Context) error{s.first, s.fill, s.second, s.measure} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// figure keeps a result that belongs to the whole run.
func (s *Scratch) figure(name string, value float64, unit string) {
	s.Figures = append(s.Figures, Figure{name, round4(value), unit})
}

// first makes the authorities and the responder, and reads what an empty
// process needs.
func (s *Scratch) first(ctx context.Context) error {
	s.cfg.Progress("making authorities", 0)
	if err := s.start(ctx); err != nil {
		return err
	}
	err := s.wait(ctx, "chancery_crl_builds_total{result=\"published\"}", 1)
	if err == nil {
		s.empty, err = s.heap(ctx)
	}
	return errors.Join(err, s.stop())
}

// fillStep is how many certificates are made between two looks at the progress.
const fillStep = 20_000

// fill stores the certificates.
func (s *Scratch) fill(ctx context.Context) error {
	url := s.cfg.DB
	if url == "" {
		url = filepath.Join(s.cfg.Dir, "chancery.db")
	}
	d, err := db.Open(ctx, db.Config{URL: url})
	if err != nil {
		return err
	}
	defer d.Close()
	service, err := ca.Open(ctx, ca.Config{DB: d, URLs: ca.URLs{Base: s.origin()}})
	if err != nil {
		return err
	}
	a, err := service.Issuing("default")
	if err != nil {
		return err
	}
	s.Issuer, s.Responder = a.Cert, service.URLs().OCSP(a)
	start := time.Now()
	for len(s.Serials) < s.cfg.N {
		from := len(s.Serials)
		s.cfg.Progress("storing certificates", float64(from)/float64(s.cfg.N))
		_, made, err := catest.Fill(ctx, d, catest.Spec{Authority: a, URLs: service.URLs(), N: min(fillStep, s.cfg.N-from),
			Name: func(i int) string { return fmt.Sprintf("i%d.seed.example", from+i) }})
		if err != nil {
			return err
		}
		s.Serials = append(s.Serials, made...)
	}
	s.figure("serials", float64(s.cfg.N), "")
	s.figure("stored in", time.Since(start).Seconds(), "s")
	return nil
}

// second starts the program on the full database and waits until every answer
// is signed ahead.
func (s *Scratch) second(ctx context.Context) error {
	s.cfg.Progress("loading", 0)
	start := time.Now()
	if err := s.start(ctx); err != nil {
		return err
	}
	probe := &Probe{PIDs: []int{s.Ready.PID}}
	loaded := probe.serverCPU()
	s.figure("start to first answer", time.Since(start).Seconds(), "s")
	s.figure("CPU until then", loaded.Seconds(), "s")
	if err := s.wait(ctx, `chancery_ocsp_signatures_total{kind="presigned"}`, float64(s.cfg.N)); err != nil {
		return err
	}
	s.figure("all answers signed after", time.Since(start).Seconds(), "s")
	s.figure("CPU for that", (probe.serverCPU() - loaded).Seconds(), "s")
	return nil
}

// idleTime is how long the statements of an idle server are counted.
const idleTime = 5 * time.Second

// measure reads memory, and what the program asks its database for by itself.
func (s *Scratch) measure(ctx context.Context) error {
	heap, err := s.heap(ctx)
	if err != nil {
		return err
	}
	s.figure("memory per serial", (heap-s.empty)/float64(s.cfg.N), "B of heap")
	probe := &Probe{PIDs: []int{s.Ready.PID}, MetricsURL: s.Ready.Metrics}
	s.figure("resident", float64(probe.resident())/1e6, "MB")
	s.cfg.Progress("listening to the idle server", 0)
	before, err := statements(ctx, s.Ready.Metrics)
	if err != nil {
		return err
	}
	if err := sleep(ctx, idleTime); err != nil {
		return err
	}
	after, err := statements(ctx, s.Ready.Metrics)
	s.figure("SQL when idle", (after-before)/idleTime.Seconds(), "statements/s")
	return err
}

// heap returns what lives on the heap, in bytes, after a collection.
func (s *Scratch) heap(ctx context.Context) (float64, error) {
	for range 2 { // the second one frees what the first found in pools
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(s.Ready.Metrics, "/metrics")+"/debug/pprof/heap?gc=1", nil)
		if err != nil {
			return 0, err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, fmt.Errorf("collect garbage of the server: %w", err)
		}
		res.Body.Close()
	}
	const name = "go_memstats_heap_alloc_bytes"
	m, err := fetchMetrics(ctx, s.Ready.Metrics, name)
	return m[name], err
}

// wait waits until a metric has reached a value.
func (s *Scratch) wait(ctx context.Context, name string, value float64) error {
	for {
		m, err := fetchMetrics(ctx, s.Ready.Metrics, name)
		if err != nil {
			return fmt.Errorf("read metrics of the server: %w", err)
		}
		s.cfg.Progress("signing answers", min(m[name]/value, 1))
		if m[name] >= value {
			return nil
		}
		if err := s.pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// pause lets time pass while the program runs.
func (s *Scratch) pause(ctx context.Context, d time.Duration) error {
	select {
	case err := <-s.done:
		s.done <- err
		return fmt.Errorf("the scratch server ended: %v; it said last: %s", err, lastLine(s.log.Name()))
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// lastLine returns the end of a log, for an error.
func lastLine(file string) string {
	text := strings.TrimSpace(firstFile(file))
	return text[max(strings.LastIndexByte(text, '\n')+1, len(text)-500):]
}

// origin is the URL of plain HTTP, the same for both starts.
func (s *Scratch) origin() string {
	origin, _, _ := strings.Cut(s.Ready.OCSP, "/ocsp")
	return origin
}

// start runs the program until it answers.
func (s *Scratch) start(ctx context.Context) error {
	for len(s.listen) < 3 { // a second start has the addresses of the first: certificates point there
		addr, err := freeAddress()
		if err != nil {
			return err
		}
		s.listen = append(s.listen, addr)
	}
	args := []string{"dev", "--data", s.cfg.Dir, "--listen", s.listen[0], "--http-listen", s.listen[1], "--debug-listen", s.listen[2], "--no-limits"}
	args = append(args, s.cfg.Flags...)
	if s.cfg.DB != "" {
		args = append(args, "--db", s.cfg.DB)
	}
	var err error
	if s.log, err = os.OpenFile(filepath.Join(s.cfg.Dir, "server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return fmt.Errorf("open log of the scratch server: %w", err)
	}
	s.child = exec.Command(s.cfg.Program, args...)
	s.child.Stdout, s.child.Stderr, s.child.Env = s.log, s.log, s.cfg.Environ
	s.child.SysProcAttr = dieWithParent()
	if err := s.child.Start(); err != nil {
		return fmt.Errorf("start scratch server: %w", err)
	}
	child := s.child
	s.done = make(chan error, 1)
	go func() { s.done <- child.Wait() }()
	return s.ready(ctx, "http://"+s.listen[2]+"/readyz")
}

// ready waits for the first answers, and reads where the program is. The file
// is there a moment after the first answer, and gone when the program ends.
func (s *Scratch) ready(ctx context.Context, url string) error {
	for {
		text, err := s.answers(ctx, url)
		if err != nil {
			return err
		}
		if text != nil {
			if err := json.Unmarshal(text, &s.Ready); err != nil {
				return fmt.Errorf("read ready file of the scratch server: %w", err)
			}
			return nil
		}
		if err := s.pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// answers returns the ready file, or nil while the program is not ready.
func (s *Scratch) answers(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, nil // nobody listens yet
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, nil
	}
	text, err := os.ReadFile(filepath.Join(s.cfg.Dir, "ready.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read ready file of the scratch server: %w", err)
	}
	return text, nil
}

// stop ends the program in good order.
func (s *Scratch) stop() error {
	if s.child == nil {
		return nil
	}
	err := s.child.Process.Signal(syscall.SIGINT)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	err = errors.Join(err, <-s.done, s.log.Close())
	s.child = nil
	return err
}

// Close ends the program. Its directory stays.
func (s *Scratch) Close() error { return s.stop() }

// freeAddress returns an address of loopback that nobody listens on.
func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}
