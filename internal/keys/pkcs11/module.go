//go:build pkcs11 && cgo

package pkcs11

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lib "github.com/miekg/pkcs11"

	"chancery/internal/fault"
	"chancery/internal/loop"
)

// How a device that is away is asked whether it is back.
const (
	breakerFailures = 3
	breakerOpen     = 200 * time.Millisecond
	breakerMaxOpen  = time.Second
	maxTries        = 8 // of one call, each after a remedy, and one more for each session that may be stale
	busyPause       = 20 * time.Millisecond
)

// module is the loaded library, the token in it, and the sessions with it.
//
// Every call of the library is made in a goroutine of its own, between enter
// and leave. Who waits for it may give up; the call itself cannot be stopped,
// and keeps its slot until it comes back.
type module struct {
	cfg     Config
	want    *URI // the token
	lib     *lib.Ctx
	breaker *loop.Breaker
	slots   chan struct{} // one per session in use
	waiting atomic.Int64
	pin     pinGuard

	mu       sync.Mutex // guards what follows
	gen      int        // grows with each initialisation; 0: never
	slot     uint
	flags    uint          // of its sessions
	token    URI           // what the token says about itself
	mechs    map[uint]bool // that the token has
	idle     []session
	inflight int           // calls in the library
	empty    chan struct{} // closed when inflight is 0, while a flight waits
	flight   *flight       // re-initialisation under way; it shuts the gate
	closed   bool
}

// session is an open session of one generation.
type session struct {
	handle lib.SessionHandle
	gen    int
}

// flight is one initialisation that all who want one share.
type flight struct {
	done chan struct{}
	err  error // valid when done is closed
}

// errStarted marks the failure of a call that must not be repeated.
type errStarted struct{ error }

// Unwrap returns the failure.
func (e errStarted) Unwrap() error { return e.error }

// call is something to do with a session.
type call func(s session) error

// newModule loads the library; nothing is initialised yet.
func newModule(cfg Config) (*module, error) {
	want, err := parseToken(cfg.Token)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(cfg.Module); err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "the PKCS #11 module %s cannot be read; set keys.pkcs11.module to the token's library", cfg.Module)
	}
	l := lib.New(cfg.Module)
	if l == nil {
		return nil, fault.New(fault.Invalid, "%s cannot be loaded as a PKCS #11 module; is it for this machine, and are the libraries that it needs installed?", cfg.Module)
	}
	m := &module{cfg: cfg, want: want, lib: l, slots: make(chan struct{}, cfg.Sessions)}
	m.breaker = loop.NewBreaker(loop.BreakerConfig{Name: "keys.pkcs11", Failures: breakerFailures, Open: breakerOpen, MaxOpen: breakerMaxOpen,
		Counts: deviceFault, Metrics: cfg.Metrics})
	return m, nil
}

// errAway marks failures that are the device's, not the caller's.
var errAway = errors.New("the token is away")

// deviceFault says whether a failure speaks of the device.
func deviceFault(err error) bool { return errors.Is(err, errAway) }

// away returns the fault that a caller sees while the device does not work.
func (m *module) away(cause error, what string) error {
	return fault.Wrap(errors.Join(errAway, cause), fault.Unavailable, "the PKCS #11 token %s; try again", what).Retry(time.Second)
}

// do runs c with a session, within the caller's deadline and ours, and applies
// the remedy that each failure asks for.
func (m *module) do(ctx context.Context, c call) error {
	mine, cancel := context.WithTimeout(ctx, m.cfg.Timeout)
	defer cancel()
	err := m.breaker.Do(func() error {
		err := m.try(mine, c)
		if err != nil && mine.Err() != nil && ctx.Err() == nil && !errors.Is(err, errFull) {
			return m.away(err, fmt.Sprintf("did not answer within %s", m.cfg.Timeout))
		}
		return err
	})
	if open, ok := errors.AsType[*loop.OpenError](err); ok {
		return fault.Wrap(open, fault.Unavailable, "the PKCS #11 token does not work at the moment; try again").Retry(time.Second)
	}
	if _, known := errors.AsType[*fault.Error](err); err != nil && ctx.Err() != nil && !known {
		return fmt.Errorf("use token: %w", ctx.Err())
	}
	return err
}

// try repeats c as long as a remedy may help.
func (m *module) try(ctx context.Context, c call) error {
	var err error
	for n := range maxTries + m.cfg.Sessions {
		var gen int
		if gen, err = m.once(ctx, c); err == nil {
			return nil
		}
		if final(err) {
			return m.report(err)
		}
		switch classify(err) {
		case onSession, onKey:
		case onLogin:
			if err := m.relogin(ctx); err != nil && (final(err) || classify(err) != onSession) {
				return m.report(err)
			}
		case onBusy:
			if !pause(ctx, busyPause<<min(n, 5)) {
				return m.report(err)
			}
		case onDevice:
			m.cfg.Log.WarnContext(ctx, "key token failed", "error", err)
			if err := m.reopen(ctx, gen); err != nil {
				return m.report(err)
			}
		default:
			return m.report(err)
		}
	}
	return m.report(err)
}

// final reports whether an error must not be followed by another try: it is
// what the caller sees already, or the work may have been done.
func final(err error) bool {
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return true
	}
	_, ok := errors.AsType[errStarted](err)
	return ok
}

// report turns the last failure of a call into what its caller sees.
func (m *module) report(err error) error {
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	switch classify(err) {
	case onDevice, onSession, onKey, onLogin:
		return m.away(err, "does not work")
	case onBusy:
		return m.away(err, "is busy")
	}
	return err
}

// pause waits for d or the end of ctx, and says whether it was d.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// errFull refuses a caller because too many wait already.
var errFull = errors.New("too many callers wait for the token")

// acquire takes one of the slots, in the order of arrival.
func (m *module) acquire(ctx context.Context) error {
	select {
	case m.slots <- struct{}{}:
		return nil
	default:
	}
	defer m.waiting.Add(-1)
	if m.waiting.Add(1) > int64(m.cfg.Waiters) {
		return fault.Wrap(errFull, fault.Unavailable, "the PKCS #11 token has too much to sign at the moment; try again").Retry(time.Second)
	}
	select {
	case m.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for a session: %w", ctx.Err())
	}
}

// once runs c one time. gen is the generation that it ran in.
func (m *module) once(ctx context.Context, c call) (gen int, err error) {
	if err := m.acquire(ctx); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil { // given up while it waited
		<-m.slots
		return 0, fmt.Errorf("use token: %w", err)
	}
	if gen, err = m.enter(ctx); err != nil {
		<-m.slots
		return gen, err
	}
	done := make(chan error, 1)
	go func() {
		err := m.with(gen, c)
		m.leave()
		<-m.slots
		done <- err
	}()
	select {
	case err = <-done:
		return gen, err
	case <-ctx.Done():
		return gen, fmt.Errorf("wait for the token: %w", ctx.Err())
	}
}

// with gives c a session: an idle one, or a new one. One that failed, or whose
// state is not certain, is closed.
func (m *module) with(gen int, c call) error {
	s, err := m.take(gen)
	if err != nil {
		return err
	}
	err = c(s)
	if k := classify(err); k == onSession || k == onDevice || k == onBusy {
		_ = m.lib.CloseSession(s.handle) // most likely it is gone already
		return err
	}
	m.mu.Lock()
	keep := gen == m.gen && !m.closed && m.flight == nil
	if keep {
		m.idle = append(m.idle, s)
	}
	m.mu.Unlock()
	if !keep {
		_ = m.lib.CloseSession(s.handle) // the next generation has others
	}
	return err
}

// take returns a session, the one that was used last if there is any.
func (m *module) take(gen int) (session, error) {
	m.mu.Lock()
	slot, flags := m.slot, m.flags
	if n := len(m.idle); n > 0 {
		s := m.idle[n-1]
		m.idle = m.idle[:n-1]
		m.mu.Unlock()
		return s, nil
	}
	m.mu.Unlock()
	h, err := m.lib.OpenSession(slot, flags)
	return session{h, gen}, ret("C_OpenSession", err)
}

// enter waits at the gate while the module is being initialised.
func (m *module) enter(ctx context.Context) (gen int, err error) {
	for {
		m.mu.Lock()
		if m.closed {
			m.mu.Unlock()
			return 0, fault.New(fault.Precondition, "the PKCS #11 key store is closed")
		}
		f := m.flight
		if f == nil {
			m.inflight++
			gen = m.gen
			m.mu.Unlock()
			return gen, nil
		}
		m.mu.Unlock()
		if err := f.wait(ctx); err != nil {
			return 0, err
		}
	}
}

// leave says that a call came back.
func (m *module) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.inflight--; m.inflight == 0 && m.empty != nil {
		close(m.empty)
		m.empty = nil
	}
}

// wait waits for the end of a flight.
func (f *flight) wait(ctx context.Context) error {
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return fmt.Errorf("wait for the token to be opened: %w", ctx.Err())
	}
}

// reopen initialises the module anew, unless that happened since gen.
func (m *module) reopen(ctx context.Context, gen int) error {
	m.mu.Lock()
	if m.gen != gen {
		m.mu.Unlock()
		return nil
	}
	f := m.flight
	if f == nil {
		f = &flight{done: make(chan struct{})}
		m.flight = f
		go m.fly(f)
	}
	m.mu.Unlock()
	return f.wait(ctx)
}

// fly waits until nobody is in the library, and initialises it. A call that
// hangs forbids it: the library would be taken from under that thread.
func (m *module) fly(f *flight) {
	if !m.drained() {
		m.land(f, nil, m.away(errors.New("a call of the module hangs, so it cannot be opened anew"), "does not answer"))
		return
	}
	o, err := m.initialize()
	m.land(f, o, err)
}

// drained waits until no call is in the library, at most Config.Timeout. The
// gate must be shut.
func (m *module) drained() bool {
	m.mu.Lock()
	if m.inflight == 0 {
		m.mu.Unlock()
		return true
	}
	empty := make(chan struct{})
	m.empty = empty
	m.mu.Unlock()
	limit := time.NewTimer(m.cfg.Timeout)
	defer limit.Stop()
	select {
	case <-empty:
		return true
	case <-limit.C:
		return false
	}
}

// land ends a flight and opens the gate.
func (m *module) land(f *flight, o *opened, err error) {
	m.mu.Lock()
	if err == nil {
		m.gen++
		o.first.gen = m.gen
		m.slot, m.flags, m.token, m.mechs, m.idle = o.slot, o.flags, o.token, o.mechs, []session{o.first}
	}
	gen := m.gen
	f.err, m.flight, m.empty = err, nil, nil
	m.mu.Unlock()
	close(f.done)
	if err == nil && gen > 1 {
		m.cfg.Log.Info("key token is back", "generation", gen)
	}
}

// close ends every session and the module, unless a call hangs in it.
func (m *module) close() error {
	m.mu.Lock()
	f, done := m.flight, m.closed || m.gen == 0
	m.closed = true // nobody enters any more
	m.mu.Unlock()
	if f != nil {
		ctx, cancel := context.WithTimeout(context.Background(), m.cfg.Timeout)
		defer cancel()
		_ = f.wait(ctx)
		done = done || ctx.Err() != nil
	}
	if done || !m.drained() {
		return nil // the end of the process ends it
	}
	return ret("C_Finalize", m.lib.Finalize())
}

// ret gives a return value the name of its function.
func ret(function string, err error) error {
	var code lib.Error
	if err == nil || !errors.As(err, &code) {
		return err
	}
	text := code.Error() // "pkcs11: 0xE0: CKR_TOKEN_NOT_PRESENT"
	name := text[strings.LastIndexByte(text, ' ')+1:]
	return &returned{function, uint(code), cmp.Or(name, "a value of the vendor's own")}
}
