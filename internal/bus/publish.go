package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"chancery/internal/loop"
)

// Publish hands a message to the stream that the first token of subject names,
// and waits until the stream holds it. Later tokens, if any, tell its messages
// apart: by issuer, by row.
//
// A message whose id was published within the stream's Dedup window is not
// stored again, and that is no error. So an id names one piece of work *and*
// the attempt at it (row, due time): the id of work that was done a minute ago
// is swallowed. An empty id is never a duplicate.
//
// Errors: ErrFull and ErrDown inside an Unavailable *fault.Error that says when
// to try again; TooLarge beyond 1 MiB. Publish itself never retries, and it
// returns at once while there is no connection.
func (b *Bus) Publish(ctx context.Context, subject, id string, data []byte) error {
	name, _, _ := strings.Cut(subject, ".")
	stream, ok := b.stream(name)
	if !ok {
		return fmt.Errorf("publish to %q: no such stream", subject)
	}
	if err := checkSubject(subject, false); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	outcome, err := b.publish(ctx, stream, subject, id, data)
	b.m.published.WithLabelValues(name, outcome).Inc()
	return err
}

// publish does it, and names the outcome.
func (b *Bus) publish(ctx context.Context, stream Stream, subject, id string, data []byte) (string, error) {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	msg := &nats.Msg{Subject: b.subject(subject), Data: data}
	if id != "" {
		msg.Header = nats.Header{jetstream.MsgIDHeader: {id}}
	}
	ack, err := b.js.PublishMsg(ctx, msg, jetstream.WithRetryAttempts(0))
	switch {
	case err == nil && ack.Duplicate, stream.Unique && taken(err):
		return "duplicate", nil
	case err == nil:
		return "stored", nil
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		loop.Nudge(b.kick) // between two leaders, or the stream is gone
	case ctx.Err() != nil:
		err = errors.Join(err, context.Cause(ctx))
	}
	err = publishError(stream.Name, len(data), err)
	if errors.Is(err, ErrFull) {
		return "refused", err
	}
	return "failed", err
}

// bound returns ctx with a time-out for one question to the server, which also
// ends, with the cause ErrDown, when the connection is lost: what is under way
// then will not be answered.
func (b *Bus) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	live := b.connection()
	stop := context.AfterFunc(live, func() { cancel(context.Cause(live)) })
	ctx, cancelTimer := context.WithTimeout(ctx, opTimeout)
	return ctx, func() { stop(); cancelTimer(); cancel(nil) }
}
