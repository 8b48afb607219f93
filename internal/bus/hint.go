package bus

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"chancery/internal/loop"
)

// mergeWindow is how long after a hint further ones without data on the same
// subject are held back, to be sent as one. The first is never delayed.
const mergeWindow = 5 * time.Millisecond

// watchMessages bounds what waits for one watcher. Beyond it hints are dropped,
// and the watcher is told that it missed some.
const watchMessages = 1024

// Hint says that something happened.
type Hint struct {
	Subject string
	Data    []byte

	// Missed says that hints may have been lost: there was no connection, or
	// the watcher was too slow. Subject is then the watched pattern, and the
	// watcher treats everything it knows as out of date.
	Missed bool
}

// hints are the hints being merged, and the watchers.
type hints struct {
	bus *Bus

	mu       sync.Mutex
	held     map[string]*bool // subjects in their window; true = one more to send
	watchers map[*nats.Subscription]func()
}

// Notify sends a hint to all watchers of subject, in this process and others.
// It never blocks and never fails: without a connection the hint is lost, and
// watchers are told that they missed something when there is one again. Hints
// without data are merged: a thousand in a row are a few messages, of which
// the last is sent after the last call.
func (b *Bus) Notify(subject string, data []byte) {
	if len(data) > 0 {
		b.send(subject, data)
		return
	}
	h := &b.hints
	h.mu.Lock()
	more, held := h.held[subject]
	if held {
		*more = true
		h.mu.Unlock()
		b.m.hints.WithLabelValues("merged").Inc()
		return
	}
	if h.held == nil {
		h.held = map[string]*bool{}
	}
	h.held[subject] = new(bool)
	h.mu.Unlock()
	b.send(subject, nil)
	time.AfterFunc(mergeWindow, func() { h.windowEnded(subject) })
}

// windowEnded sends the merged hints of a subject, if there were any, and then
// holds back for another window.
func (h *hints) windowEnded(subject string) {
	h.mu.Lock()
	more := *h.held[subject]
	if more {
		*h.held[subject] = false
	} else {
		delete(h.held, subject)
	}
	h.mu.Unlock()
	if more {
		h.bus.send(subject, nil)
		time.AfterFunc(mergeWindow, func() { h.windowEnded(subject) })
	}
}

// send publishes one hint.
func (b *Bus) send(subject string, data []byte) {
	err := checkSubject(subject, false)
	if err == nil {
		err = b.nc.Publish(b.hintSubject(subject), data)
	}
	if err != nil {
		b.m.hints.WithLabelValues("dropped").Inc()
		b.log.Debug("hint dropped", "subject", subject, "error", err.Error())
		return
	}
	b.m.hints.WithLabelValues("sent").Inc()
}

// hintSubject keeps hints apart from streams.
func (b *Bus) hintSubject(subject string) string { return b.cfg.Prefix + "-hint." + subject }

// ownHint is the inverse of hintSubject.
func (b *Bus) ownHint(subject string) string {
	return subject[min(len(subject), len(b.cfg.Prefix)+len("-hint.")):]
}

// Watch calls fn for each hint whose subject matches pattern ("*" is one token,
// ">" at the end is the rest), one after the other, until ctx ends. fn must be
// quick: it delays the hints behind it.
func (b *Bus) Watch(ctx context.Context, pattern string, fn func(Hint)) error {
	if err := checkSubject(pattern, true); err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	return b.watch(ctx, b.hintSubject(pattern), pattern, func(m *nats.Msg) {
		fn(Hint{Subject: b.ownHint(m.Subject), Data: m.Data})
	}, func() {
		fn(Hint{Subject: pattern, Missed: true})
	})
}

// watch subscribes until ctx ends. got and missed are never called at the same
// time.
func (b *Bus) watch(ctx context.Context, subject, what string, got func(*nats.Msg), missed func()) error {
	msgs, gap := make(chan *nats.Msg, watchMessages), make(chan struct{}, 1)
	sub, err := b.nc.ChanSubscribe(subject, msgs)
	if err != nil {
		return fmt.Errorf("watch %s: %w", what, down(err))
	}
	h := &b.hints
	h.mu.Lock()
	if h.watchers == nil {
		h.watchers = map[*nats.Subscription]func(){}
	}
	h.watchers[sub] = func() { loop.Nudge(gap) }
	h.mu.Unlock()
	b.onUp(ctx, func() { loop.Nudge(gap) })
	go b.deliver(ctx, sub, msgs, gap, got, missed)
	return b.settled(ctx)
}

// settled waits until the server knows of our subscriptions, so that nothing
// sent from now on is lost. Without a connection there is nothing to wait for.
func (b *Bus) settled(ctx context.Context) error {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	if err := b.nc.FlushWithContext(ctx); err != nil && ctx.Err() == nil && b.nc.IsClosed() {
		return down(err)
	}
	return nil
}

// deliver calls a watcher until its context or the bus ends.
func (b *Bus) deliver(ctx context.Context, sub *nats.Subscription, msgs <-chan *nats.Msg, gap <-chan struct{}, got func(*nats.Msg), missed func()) {
	defer b.hints.forget(sub)
	for {
		select {
		case m := <-msgs:
			b.m.hints.WithLabelValues("received").Inc()
			got(m)
		case <-gap:
			b.m.hints.WithLabelValues("missed").Inc()
			missed()
		case <-ctx.Done():
			return
		case <-b.ctx.Done():
			return
		}
	}
}

// forget ends a watcher's subscription.
func (h *hints) forget(sub *nats.Subscription) {
	h.mu.Lock()
	delete(h.watchers, sub)
	h.mu.Unlock()
	_ = sub.Unsubscribe() // fails only when the connection is closed already
}

// overrun tells a watcher that it was too slow.
func (h *hints) overrun(sub *nats.Subscription) {
	h.mu.Lock()
	tell := h.watchers[sub]
	h.mu.Unlock()
	if tell != nil {
		tell()
	}
}

// Wake returns a channel for loop.Every.Wake, which gets a value after each
// hint that matches pattern, and after each gap: many hints are one value. It
// works until ctx ends.
func (b *Bus) Wake(ctx context.Context, pattern string) (<-chan struct{}, error) {
	wake := make(chan struct{}, 1)
	if err := b.Watch(ctx, pattern, func(Hint) { loop.Nudge(wake) }); err != nil {
		return nil, err
	}
	return wake, nil
}
