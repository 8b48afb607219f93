// Package agent is the agent's end of the fleet: a program on a host that makes
// keys there, has them certified, and puts the certificates into service.
//
// It dials out only and has no database. What it must remember is a directory:
//
//	identity.json    who it is, and the session it is in
//	identity.key     its own private key, 0600
//	keys/ID.key      the key of an assignment's certificate in service, 0600
//	keys/ID.next     the key that the next certificate is for
//	journal/ID.json  what was put into service, and where
//	targets/NAME/    the journals of targets (see package deploy)
//
// Every file is replaced whole and synced before the next step that others see,
// so a crash anywhere repeats a step and never loses a key that is in use.
package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"chancery/internal/deploy"
	"chancery/internal/fault"
	"chancery/internal/fleet"
	"chancery/internal/loop"
	"chancery/internal/obs"
)

// Target is a configured place on this host.
type Target struct {
	Target  deploy.Target
	Options deploy.Options
}

// Config is what an Agent needs.
type Config struct {
	Server  string // base URL
	State   string // directory, made when it is missing
	Token   string // for the first enrolment; "" afterwards
	Name    string // of the agent, for enrolment
	Version string
	Targets map[string]Target
	// Roots the server may chain to, beside the pin of the token and the roots
	// it named at enrolment; nil: none.
	Roots *x509.CertPool
	Log   *slog.Logger     // nil: discard
	Now   func() time.Time // for the identity's renewal; nil: time.Now
	// Backoff between attempts to reach the server; zero: full jitter up to
	// 10 s, growing to 120 s.
	Backoff loop.Backoff
}

// Agent is one identity. It is not safe for concurrent use.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	id      identity
	key     []byte // PKCS #8
	client  *client
	started bool
}

// Open reads the state directory, and enrols the agent if it has no identity
// yet.
func Open(ctx context.Context, cfg Config) (*Agent, error) {
	if cfg.Log == nil {
		cfg.Log = obs.Discard()
	}
	if cfg.Backoff == (loop.Backoff{}) {
		cfg.Backoff = loop.Backoff{Base: 10 * time.Second, Max: 2 * time.Minute}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	for _, dir := range []string{"", "keys", "journal", "targets"} {
		if err := os.MkdirAll(filepath.Join(cfg.State, dir), 0o700); err != nil {
			return nil, fmt.Errorf("make state directory: %w", err)
		}
	}
	a := &Agent{cfg: cfg, log: cfg.Log}
	err := a.load()
	if errors.Is(err, os.ErrNotExist) {
		err = a.enroll(ctx)
	}
	if err != nil {
		return nil, err
	}
	a.log.Info("agent is enrolled", "agent", a.id.Name, "id", a.id.ID, "generation", a.id.Generation)
	return a, a.connect()
}

// Name returns the name under which the agent is enrolled, and its id.
func (a *Agent) Name() (name, id string) { return a.id.Name, a.id.ID }

// connect prepares the client for the current identity.
func (a *Agent) connect() error {
	cert, err := a.id.certificate(a.key)
	if err != nil {
		return err
	}
	if a.client != nil {
		a.client.close()
	}
	a.client, err = newClient(a.cfg.Server, a.trust(a.id.Pin, a.id.Roots), []tls.Certificate{cert}, a.cfg.Version)
	return err
}

// trust is what the agent knows its server by.
func (a *Agent) trust(pin, roots string) trust {
	t := trust{pin: pin, more: a.cfg.Roots}
	if roots != "" {
		t.roots = x509.NewCertPool()
		t.roots.AppendCertsFromPEM([]byte(roots))
	}
	return t
}

// Close ends the connections.
func (a *Agent) Close() {
	if a.client != nil {
		a.client.close()
	}
}

// Refused reports whether err is an answer that asking again does not change:
// the agent was revoked, or copied, or is not known.
func Refused(err error) bool {
	return fault.Is(err, fault.Forbidden) || fault.Is(err, fault.Unauthorized)
}

// Run works until ctx ends. It returns early when the server refuses the agent
// for good.
func (a *Agent) Run(ctx context.Context) error {
	for failures := 0; ; {
		after, err := a.turn(ctx, false)
		switch {
		case ctx.Err() != nil:
			return nil
		case Refused(err):
			return err
		case err != nil:
			a.log.Warn("server not reached", "error", err, "failures", failures+1)
			if a.cfg.Backoff.Sleep(ctx, failures) != nil {
				return nil
			}
			failures++
			continue
		}
		failures = 0
		if !sleep(ctx, after) {
			return nil
		}
	}
}

// Once does what there is to do now, waits for certificates that are being
// issued, and returns how many were put into service and how many failed.
func (a *Agent) Once(ctx context.Context) (live, failed int, err error) {
	for {
		began := a.started
		out, err := a.ask(ctx, true)
		if err != nil {
			return live, failed, err
		}
		if began && len(out.Tasks) == 0 && !out.Pending {
			return live, failed, a.renewIfDue(ctx)
		}
		for _, r := range a.work(ctx, out.Tasks) {
			if r.Live {
				live++
			} else if r.Error != "" {
				failed++
			}
		}
		if err := a.deliver(ctx); err != nil {
			return live, failed, err
		}
		if !sleep(ctx, time.Duration(out.AfterMS)*time.Millisecond) {
			return live, failed, ctx.Err()
		}
	}
}

// turn asks once and does what it is told.
func (a *Agent) turn(ctx context.Context, once bool) (after time.Duration, err error) {
	if err := a.deliver(ctx); err != nil { // of an earlier turn
		return 0, err
	}
	out, err := a.ask(ctx, once)
	if err != nil {
		return 0, err
	}
	if len(out.Tasks) > 0 {
		a.work(ctx, out.Tasks)
		return 0, a.deliver(ctx)
	}
	return time.Duration(out.AfterMS) * time.Millisecond, a.renewIfDue(ctx)
}

// renewIfDue renews the identity when half of its life is over.
func (a *Agent) renewIfDue(ctx context.Context) error {
	if !a.id.due(a.cfg.Now()) {
		return nil
	}
	return a.renew(ctx)
}

// ask sends a wait, the first one as the beginning of a session.
func (a *Agent) ask(ctx context.Context, once bool) (*fleet.Tasks, error) {
	m := fleet.Wait{Version: a.cfg.Version, Targets: slices.Sorted(maps.Keys(a.cfg.Targets)), Once: once, Session: a.id.session()}
	if !a.started || a.id.Pending != "" { // a start, or a renewal whose answer was lost
		if err := a.next(); err != nil {
			return nil, err
		}
		m.Next = a.id.Pending
	}
	var out fleet.Tasks
	if err := a.client.post(ctx, "wait", m, &out); err != nil {
		return nil, err
	}
	if m.Next != "" {
		if err := a.advance(out.Generation); err != nil {
			return nil, err
		}
		a.started = true
	}
	return &out, nil
}

// sleep waits, and reports whether ctx still holds.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
