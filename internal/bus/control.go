package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Depth is how much work a consumer has.
type Depth struct {
	Pending  int       // messages that wait
	InFlight int       // messages in the hands of handlers
	Oldest   time.Time // when the oldest of both was published; zero if there is none
}

// Depth asks the server. A consumer that never ran has its whole stream
// pending, or the part that its filter selects. With a filter the server lists
// the subjects that it selects: ask every few seconds, not for every request.
//
// The numbers are taken from the stream. The server also counts for each
// consumer, but in a cluster that count was seen to stay wrong for seconds.
func (c *Consumer) Depth(ctx context.Context) (Depth, error) {
	ctx, cancel := c.b.bound(ctx)
	defer cancel()
	stream, err := c.b.js.Stream(ctx, c.b.streamName(c.cfg.Stream))
	if err != nil {
		return Depth{}, c.failed("measure", err)
	}
	var d Depth
	stored, err := c.stored(ctx, stream)
	if err == nil {
		d.InFlight, err = c.held(ctx, stream)
	}
	if err == nil && stored > 0 {
		d.Oldest, err = c.oldest(ctx, stream)
	}
	if err != nil {
		return Depth{}, c.failed("measure", err)
	}
	d.InFlight = min(d.InFlight, stored) // the two questions were not asked at one instant
	d.Pending = stored - d.InFlight
	c.pending.Set(float64(d.Pending))
	c.inFlight.Set(float64(d.InFlight))
	return d, nil
}

// held counts the messages in the hands of handlers.
func (c *Consumer) held(ctx context.Context, stream jetstream.Stream) (int, error) {
	info, err := c.info(ctx, stream)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return info.CachedInfo().NumAckPending, nil
}

// info asks about the consumer. A cluster leaves the question unanswered while
// the consumer is being made, so it is asked again early.
func (c *Consumer) info(ctx context.Context, stream jetstream.Stream) (jetstream.Consumer, error) {
	early, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	info, err := stream.Consumer(early, c.cfg.Name)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return stream.Consumer(ctx, c.cfg.Name)
	}
	return info, err
}

// filter is the consumer's pattern.
func (c *Consumer) filter() string {
	if c.cfg.Filter != "" {
		return c.b.subject(c.cfg.Filter)
	}
	return ">"
}

// stored counts the stream's messages that the filter selects. They stay until
// they are settled.
func (c *Consumer) stored(ctx context.Context, stream jetstream.Stream) (int, error) {
	if c.cfg.Filter == "" {
		return int(stream.CachedInfo().State.Msgs), nil
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(c.filter()))
	if err != nil {
		return 0, err
	}
	n := 0
	for _, count := range info.State.Subjects {
		n += int(count)
	}
	return n, nil
}

// oldest returns when the first message that the filter selects was published.
func (c *Consumer) oldest(ctx context.Context, stream jetstream.Stream) (time.Time, error) {
	if c.cfg.Filter == "" {
		return stream.CachedInfo().State.FirstTime, nil
	}
	m, err := stream.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(c.filter()))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return time.Time{}, nil // settled in the meantime
	}
	if err != nil {
		return time.Time{}, err
	}
	return m.Time, nil
}

// SetCap changes the cap, in all processes at once. Lowering it takes no
// message away from a handler: no more are handed out until the number falls
// below. Setting the value that it has costs one question. A process that has
// to create the consumer anew uses the last value given to its own handle; so
// whoever stores caps tells every replica.
func (c *Consumer) SetCap(ctx context.Context, n int) error {
	if n < 1 {
		return fmt.Errorf("cap %d of consumer %s: want at least 1; use Pause to stop", n, c.cfg.Name)
	}
	c.cap.Store(int64(n))
	if err := c.create(ctx, true); err != nil {
		return c.failed("change cap of", err)
	}
	return nil
}

// Pause stops handing out messages in all processes until a time, or until
// Resume. Handlers that run go on.
func (c *Consumer) Pause(ctx context.Context, until time.Time) error {
	ctx, cancel := c.b.bound(ctx)
	defer cancel()
	_, err := c.b.js.PauseConsumer(ctx, c.b.streamName(c.cfg.Stream), c.cfg.Name, until)
	if err != nil {
		return c.failed("pause", err)
	}
	return nil
}

// Resume ends a pause.
func (c *Consumer) Resume(ctx context.Context) error {
	ctx, cancel := c.b.bound(ctx)
	defer cancel()
	if _, err := c.b.js.ResumeConsumer(ctx, c.b.streamName(c.cfg.Stream), c.cfg.Name); err != nil {
		return c.failed("resume", err)
	}
	return nil
}

// failed wraps what a question to the server failed with. Not found and not
// reachable are the same to the caller: not now.
func (c *Consumer) failed(verb string, err error) error {
	return fmt.Errorf("%s consumer %s of stream %s: %w", verb, c.cfg.Name, c.cfg.Stream, down(err))
}
