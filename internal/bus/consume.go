package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/fault"
	"chancery/internal/loop"
)

// ConsumerConfig describes a consumer: one group of handlers, in any number of
// processes, that shares the messages of a stream or of a part of it. All
// processes that run a consumer of one name must give it the same values.
type ConsumerConfig struct {
	Stream string // a declared stream
	Name   string // unique within the stream

	// Filter selects subjects: "renew.letsencrypt.>". Filters of the consumers
	// of one stream must not overlap. Empty: the whole stream.
	Filter string

	// Cap bounds the messages in the hands of handlers over all processes,
	// exactly. It can be changed with SetCap. 0: 256.
	Cap int

	// Workers bounds the handlers that run at once in this process, and no
	// message is fetched before there is one for it: a busy process neither
	// holds messages back from idle ones, nor spends the cap on them. 0: 8.
	Workers int

	// Batch is the most messages that one question to the server asks for.
	// 0: Workers.
	Batch int

	// AckWait is how long after its process died a message is handed out
	// again. Handlers may take longer: their messages are extended while they
	// run. 0: 30 s; at least 1 s.
	AckWait time.Duration

	// MaxDeliver is how many times a message is handed to a handler; then it
	// is dropped and logged. 0: 10.
	MaxDeliver int

	// Backoff spaces attempts of messages whose handler failed without saying
	// when to try again. The zero value is 1 s to 1 min.
	Backoff loop.Backoff
}

// Message is a message in the hands of a handler.
type Message struct {
	Subject     string // as published
	ID          string // as published
	Data        []byte // the handler may keep and change it
	Attempt     int    // from 1
	PublishedAt time.Time
}

// Handler works on one message. nil settles it; Later and Discard say what
// else to do; an Unavailable *fault.Error comes back after its RetryAfter; any
// other error, and a panic, after the consumer's back-off. The context ends
// when the consumer stops (the message goes back at once, whatever the handler
// returns an error for), or with the cause ErrClaimLost when the server could
// not be told in time that work goes on.
//
// A handler that finished may still see its message again: the answer may have
// been lost on the way.
type Handler func(ctx context.Context, m Message) error

// Consumer is a handle on a consumer. It need not run here to be asked for its
// depth or to be given another cap.
type Consumer struct {
	b       *Bus
	cfg     ConsumerConfig
	cap     atomic.Int64
	next    string                        // where pull requests go
	handled map[string]prometheus.Counter // by outcome

	redelivered       prometheus.Counter
	pending, inFlight prometheus.Gauge
}

// Outcomes of a delivery.
const (
	done      = "done"
	retried   = "retried"
	discarded = "discarded"
	dead      = "dead"
	returned  = "returned"
	panicked  = "panicked"
	unsettled = "unsettled"
)

// Consumer returns a handle. Nothing is asked of the server yet.
func (b *Bus) Consumer(cfg ConsumerConfig) (*Consumer, error) {
	if _, ok := b.stream(cfg.Stream); !ok {
		return nil, fmt.Errorf("consumer %q: no stream %q", cfg.Name, cfg.Stream)
	}
	if err := checkName("consumer", cfg.Name); err != nil {
		return nil, err
	}
	if cfg.Filter != "" {
		if err := checkSubject(cfg.Filter, true); err != nil {
			return nil, fmt.Errorf("consumer %q: %w", cfg.Name, err)
		}
	}
	cfg.Cap, cfg.Workers = cmp.Or(cfg.Cap, 256), max(cmp.Or(cfg.Workers, 8), 1)
	cfg.Batch = min(cmp.Or(cfg.Batch, cfg.Workers), cfg.Workers)
	cfg.AckWait = max(cmp.Or(cfg.AckWait, 30*time.Second), time.Second)
	cfg.MaxDeliver = cmp.Or(cfg.MaxDeliver, 10)
	if cfg.Backoff == (loop.Backoff{}) {
		cfg.Backoff = loop.Backoff{Base: time.Second, Max: time.Minute}
	}
	if cfg.Cap < 1 {
		return nil, fmt.Errorf("consumer %q: cap %d: want at least 1; use Pause to stop", cfg.Name, cfg.Cap)
	}
	return newConsumer(b, cfg), nil
}

// newConsumer resolves the meters.
func newConsumer(b *Bus, cfg ConsumerConfig) *Consumer {
	c := &Consumer{
		b: b, cfg: cfg, next: "$JS.API.CONSUMER.MSG.NEXT." + b.streamName(cfg.Stream) + "." + cfg.Name,
		handled:     map[string]prometheus.Counter{},
		redelivered: b.m.redelivered.WithLabelValues(cfg.Stream, cfg.Name),
		pending:     b.m.depth.WithLabelValues(cfg.Stream, cfg.Name, "pending"),
		inFlight:    b.m.depth.WithLabelValues(cfg.Stream, cfg.Name, "in_flight"),
	}
	for _, o := range []string{done, retried, discarded, dead, returned, panicked, unsettled} {
		c.handled[o] = b.m.handled.WithLabelValues(cfg.Stream, cfg.Name, o)
	}
	c.cap.Store(int64(cfg.Cap))
	return c
}

// config is the consumer as the server knows it. Attempts are bounded here and
// not there: the server would leave a message that had too many in the stream,
// where nobody gets it and it takes up room.
func (c *Consumer) config() jetstream.ConsumerConfig {
	cfg := jetstream.ConsumerConfig{
		Durable: c.cfg.Name, AckPolicy: jetstream.AckExplicitPolicy, AckWait: c.cfg.AckWait,
		MaxDeliver: -1, MaxAckPending: int(c.cap.Load()), MaxWaiting: 4096, InactiveThreshold: 24 * time.Hour,
	}
	if c.cfg.Filter != "" {
		cfg.FilterSubject = c.b.subject(c.cfg.Filter)
	}
	return cfg
}

// createTimeout bounds one attempt at setting a consumer up. A cluster that has
// no leader does not answer at all.
const createTimeout = 2 * time.Second

// create makes sure that the consumer exists. One that exists is brought to
// our values only if update is set: afterwards somebody may have changed the
// cap.
func (c *Consumer) create(ctx context.Context, update bool) error {
	ctx, cancel := c.b.bound(ctx)
	defer cancel()
	ctx, cancelEarly := context.WithTimeout(ctx, createTimeout)
	defer cancelEarly()
	_, err := c.b.js.CreateConsumer(ctx, c.b.streamName(c.cfg.Stream), c.config())
	switch {
	case errors.Is(err, jetstream.ErrConsumerExists):
		err = nil // with other values than ours
		if update {
			err = c.update(ctx)
		}
	case errors.Is(err, jetstream.ErrStreamNotFound):
		loop.Nudge(c.b.kick)
	}
	if err != nil {
		return fmt.Errorf("set up consumer %s of stream %s: %w", c.cfg.Name, c.cfg.Stream, err)
	}
	return nil
}

// lowerPause stops a replicated consumer while its cap is lowered, at the
// longest. Lowering makes the server (2.15) forget deliveries that wait for
// their quorum: they would count against the cap, with nobody at work, for a
// whole AckWait. During a pause there are none.
const lowerPause = 2 * time.Second

// update brings an existing consumer to our values. A pause stays one.
func (c *Consumer) update(ctx context.Context) error {
	stream, want := c.b.streamName(c.cfg.Stream), c.config()
	have, err := c.b.js.Consumer(ctx, stream, c.cfg.Name)
	if err != nil {
		return err
	}
	now := have.CachedInfo().Config
	if same(now, want) {
		return nil
	}
	if want.MaxAckPending < now.MaxAckPending && c.b.replicas() > 1 {
		if _, err := c.b.js.PauseConsumer(ctx, stream, c.cfg.Name, time.Now().Add(lowerPause)); err != nil {
			return err
		}
	}
	want.PauseUntil = now.PauseUntil
	_, err = c.b.js.UpdateConsumer(ctx, stream, want)
	return err
}

// same reports whether a consumer has the values we want.
func same(have, want jetstream.ConsumerConfig) bool {
	return have.MaxAckPending == want.MaxAckPending && have.AckWait == want.AckWait && have.FilterSubject == want.FilterSubject
}

// delivery is one message being worked on.
type delivery struct {
	c      *Consumer
	raw    *nats.Msg
	msg    Message
	cancel context.CancelCauseFunc // of the handler's context
	claim  claim
}

// parse reads what the server says about a message in its reply subject.
func (c *Consumer) parse(raw *nats.Msg) (*delivery, error) {
	meta, err := raw.Metadata()
	if err != nil {
		return nil, fmt.Errorf("read delivery: %w", err)
	}
	if meta.NumDelivered > 1 {
		c.redelivered.Inc()
	}
	return &delivery{c: c, raw: raw, msg: Message{
		Subject: c.b.own(raw.Subject), ID: raw.Header.Get(jetstream.MsgIDHeader), Data: raw.Data,
		Attempt: int(min(meta.NumDelivered, 1<<30)), PublishedAt: meta.Timestamp,
	}}, nil
}

// work hands a message to the handler and settles it.
func (d *delivery) work(ctx context.Context, h Handler) {
	if d.msg.Attempt > d.c.cfg.MaxDeliver {
		d.log(slog.LevelError, "message dropped after too many attempts", nil)
		d.settle(dead, "+TERM too many attempts")
		return
	}
	running, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.cancel = cancel
	d.hold()
	err := d.guarded(running, h)
	d.release()
	d.answer(ctx, err)
}

// errPanicked stands for a handler that did not return.
var errPanicked = errors.New("handler panicked")

// guarded runs the handler; a panic ends only this attempt.
func (d *delivery) guarded(ctx context.Context, h Handler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			d.c.handled[panicked].Inc()
			err = fmt.Errorf("%w: %v", errPanicked, p)
			d.log(slog.LevelError, "handler panicked", err, slog.String("stack", string(debug.Stack())))
		}
	}()
	return h(ctx, d.msg)
}

// answer tells the server what became of the message.
func (d *delivery) answer(ctx context.Context, err error) {
	if err == nil {
		d.settle(done, "+ACK")
		return
	}
	if _, ok := errors.AsType[*discard](err); ok {
		d.log(slog.LevelWarn, "message discarded", err)
		d.settle(discarded, "+TERM discarded by its handler")
		return
	}
	if ctx.Err() != nil {
		d.settle(returned, "-NAK")
		return
	}
	after := d.after(err)
	d.log(slog.LevelInfo, "message will be tried again", err, slog.Int64("after_ms", after.Milliseconds()))
	d.settle(retried, fmt.Sprintf(`-NAK {"delay": %d}`, after.Nanoseconds()))
}

// after is how long a message whose handler failed is to wait.
func (d *delivery) after(err error) time.Duration {
	if l, ok := errors.AsType[*later](err); ok {
		return max(l.after, 1)
	}
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Code == fault.Unavailable && f.RetryAfter > 0 {
		return f.RetryAfter
	}
	return d.c.cfg.Backoff.Delay(d.msg.Attempt - 1)
}

// settle sends an answer. If it cannot be sent the server hands the message
// out again after AckWait.
func (d *delivery) settle(outcome, answer string) {
	if err := d.raw.Respond([]byte(answer)); err != nil {
		outcome = unsettled
		d.log(slog.LevelWarn, "message not settled", err)
	}
	d.c.handled[outcome].Inc()
}

// log writes a line about the message.
func (d *delivery) log(level slog.Level, text string, err error, more ...slog.Attr) {
	attrs := append([]slog.Attr{
		slog.String("stream", d.c.cfg.Stream), slog.String("consumer", d.c.cfg.Name), slog.String("subject", d.msg.Subject),
		slog.String("message_id", d.msg.ID), slog.Int("attempt", d.msg.Attempt), slog.String("error", errText(err)),
	}, more...)
	d.c.b.log.LogAttrs(context.Background(), level, text, attrs...)
}
