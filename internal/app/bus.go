package app

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"time"

	"chancery/internal/bus"
	"chancery/internal/config"
	"chancery/internal/fault"
	"chancery/internal/loop"
	"chancery/internal/scan/pass"
)

// Subjects of hints and requests. Hints only wake loops that would find the
// same by themselves a little later.
const (
	// hintJournal: the sequencer gave entries of the journal their place.
	hintJournal = "journal"
	// hintChanged: something was changed through the API of a replica, such as
	// an authority or the override of a limit.
	hintChanged = "changed"
	// askNonce begins the subject at which a replica redeems its own nonces.
	askNonce = "nonce."
)

// redeemTimeout is how long another replica may take to redeem a nonce. The
// client is told badNonce after that, and tries again with a fresh one.
const redeemTimeout = 500 * time.Millisecond

// openBus opens the bus: embedded, or the external one. An external one that
// is away does not stop the start.
func (a *App) openBus(ctx context.Context) (err error) {
	c := a.cfg.Bus
	cfg := bus.Config{URL: c.URL, Creds: c.CredentialsFile, Prefix: c.Prefix, Replicas: c.Replicas, Log: a.log,
		Metrics: bus.NewMetrics(a.metrics.Registry), Streams: []bus.Stream{{Name: pass.Stream, MaxBytes: c.ScanBuffer}}}
	if c.CAFile != "" {
		if cfg.TLS, err = busTLS(c.CAFile); err != nil {
			return err
		}
	}
	if a.bus, err = bus.Open(ctx, cfg); err != nil {
		return err
	}
	a.replica = newReplica()
	return nil
}

// busTLS trusts the roots in a file.
func busTLS(file string) (*tls.Config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read bus.ca_file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fault.New(fault.Invalid, "bus.ca_file: %s holds no certificate in PEM", file)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

// newReplica is a number that no other process of the installation has, but
// for a chance of one in four thousand million.
func newReplica() uint32 {
	var b [4]byte
	rand.Read(b[:]) // never fails; see crypto/rand
	return max(binary.BigEndian.Uint32(b[:]), 1)
}

// has reports whether this process has a role.
func (a *App) has(r config.Role) bool { return slices.Contains(a.cfg.Server.Roles, r) }

// nonceSubject is where the replica with a number answers.
func nonceSubject(replica uint32) string { return fmt.Sprintf("%s%08x", askNonce, replica) }

// redeemer returns how nonces of other replicas are redeemed: by asking them.
// With an embedded bus there is nobody to ask.
func (a *App) redeemer() func(context.Context, uint32, string) (bool, error) {
	if a.cfg.Bus.URL == "" {
		return nil
	}
	return func(ctx context.Context, owner uint32, nonce string) (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, redeemTimeout)
		defer cancel()
		answer, err := a.bus.Request(ctx, nonceSubject(owner), []byte(nonce))
		return err == nil && string(answer) == "ok", err
	}
}

// wakes are the channels that start a tick early.
type wakes struct {
	sequence, reload, limits, follow, incidents chan struct{}
}

func newWakes() wakes {
	one := func() chan struct{} { return make(chan struct{}, 1) }
	return wakes{one(), one(), one(), one(), one()}
}

// attend answers and listens on the bus until ctx ends. What it misses, the
// loops find when their time comes.
func (a *App) attend(ctx context.Context) {
	warn := func(what string, err error) {
		if err != nil {
			a.log.WarnContext(ctx, "bus is not listened to; polls do the work", "subject", what, "error", err)
		}
	}
	subject := nonceSubject(a.replica)
	warn(subject, a.bus.Serve(ctx, subject, func(_ context.Context, _ string, nonce []byte) ([]byte, error) {
		if a.acme.RedeemNonce(string(nonce)) {
			return []byte("ok"), nil
		}
		return []byte("no"), nil
	}))
	warn(hintJournal, a.bus.Watch(ctx, hintJournal, func(bus.Hint) {
		a.status.Wake()
		loop.Nudge(a.wake.follow)
	}))
	warn(hintChanged, a.bus.Watch(ctx, hintChanged, func(bus.Hint) {
		a.status.Wake()
		loop.Nudge(a.wake.reload)
		loop.Nudge(a.wake.limits)
		loop.Nudge(a.wake.incidents)
	}))
}

// changed wakes what follows changes made through the API, here and on the
// other replicas.
func (a *App) changed() {
	a.status.Wake()
	loop.Nudge(a.wake.sequence)
	loop.Nudge(a.wake.incidents)
	if a.bus != nil {
		a.bus.Notify(hintChanged, nil)
	}
}
