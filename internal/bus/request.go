package bus

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"chancery/internal/fault"
)

// requestTimeout bounds a request whose context has no earlier deadline.
const requestTimeout = 2 * time.Second

// maxServing bounds the requests of one Serve that are answered at once.
// Beyond it they are refused, so that the asker knows at once.
const maxServing = 256

// Headers of an answer that is a refusal.
const (
	headerCode   = "Bus-Code"
	headerDetail = "Bus-Detail"
	headerRetry  = "Bus-Retry-Ms"
)

// Request asks whoever serves subject, in this process or another, and returns
// the answer. It waits until ctx ends, at most two seconds, and never asks
// twice: whether that is safe only the caller knows.
//
// Errors: a *fault.Error that the server returned; one of code Unavailable that
// wraps ErrNobody if nobody serves the subject, or ErrDown if no answer came.
func (b *Bus) Request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	if err := checkSubject(subject, false); err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	ctx, cancel := b.bound(ctx)
	defer cancel()
	ctx, cancelTimer := context.WithTimeout(ctx, requestTimeout)
	defer cancelTimer()
	reply, err := b.nc.RequestWithContext(ctx, b.requestSubject(subject), data)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		b.m.requests.WithLabelValues("nobody").Inc()
		return nil, fault.Wrap(ErrNobody, fault.Unavailable, "the replica that would answer is gone").Retry(retryDown)
	case err != nil:
		b.m.requests.WithLabelValues("failed").Inc()
		return nil, down(err)
	case reply.Header.Get(headerCode) != "":
		b.m.requests.WithLabelValues("refused").Inc()
		return nil, refusal(reply.Header)
	}
	b.m.requests.WithLabelValues("answered").Inc()
	return reply.Data, nil
}

// requestSubject keeps requests apart from streams and hints.
func (b *Bus) requestSubject(subject string) string { return b.cfg.Prefix + "-ask." + subject }

// refusal reads an error from the headers of an answer.
func refusal(h nats.Header) error {
	ms, err := strconv.ParseInt(h.Get(headerRetry), 10, 32)
	if err != nil {
		ms = 0
	}
	return fault.New(fault.Code(h.Get(headerCode)), "%s", h.Get(headerDetail)).Retry(time.Duration(ms) * time.Millisecond)
}

// Serve answers the requests whose subject matches pattern until ctx ends. If
// several serve one subject, each request goes to one of them. The asker sees
// the public part of an error: see fault.As. answer is called by many
// goroutines at once, with a context of as long as an asker can wait.
func (b *Bus) Serve(ctx context.Context, pattern string, answer func(ctx context.Context, subject string, data []byte) ([]byte, error)) error {
	if err := checkSubject(pattern, true); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	busy := make(chan struct{}, maxServing)
	full := b.requestSubject(pattern)
	sub, err := b.nc.QueueSubscribe(full, "serve", func(m *nats.Msg) {
		select {
		case busy <- struct{}{}:
			go func() {
				defer func() { <-busy }()
				b.reply(ctx, m, answer)
			}()
		default:
			b.refuse(m, fault.New(fault.Unavailable, "too many requests at once").Retry(retryDown))
		}
	})
	if err != nil {
		return fmt.Errorf("serve %s: %w", pattern, down(err))
	}
	// What has arrived is still answered. Drain fails only when all is closed.
	context.AfterFunc(ctx, func() { _ = sub.Drain() })
	return b.settled(ctx)
}

// reply answers one request.
func (b *Bus) reply(ctx context.Context, m *nats.Msg, answer func(context.Context, string, []byte) ([]byte, error)) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			b.log.Error("request handler panicked", "subject", m.Subject, "panic", p, "stack", string(debug.Stack()))
			b.refuse(m, fault.As(errPanicked))
		}
	}()
	data, err := answer(ctx, m.Subject[len(b.requestSubject("")):], m.Data)
	if err != nil {
		b.log.Debug("request refused", "subject", m.Subject, "error", err.Error())
		b.refuse(m, fault.As(err))
		return
	}
	b.respond(m, &nats.Msg{Data: data})
}

// refuse answers with an error's public part.
func (b *Bus) refuse(m *nats.Msg, e *fault.Error) {
	b.respond(m, &nats.Msg{Header: nats.Header{
		headerCode: {string(e.Code)}, headerDetail: {e.Detail}, headerRetry: {strconv.FormatInt(e.RetryAfter.Milliseconds(), 10)},
	}})
}

// respond sends an answer. If that fails the asker's time-out tells it.
func (b *Bus) respond(m, answer *nats.Msg) {
	if err := m.RespondMsg(answer); err != nil {
		b.log.Debug("request not answered", "subject", m.Subject, "error", err.Error())
	}
}
