package bus

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"chancery/internal/loop"
)

// The client library offers two ways to pull. One fetches ahead: messages that
// a busy process holds count against the cap, and grow old. The other makes a
// subscription for each question and drops what arrives while it is cancelled:
// with a cap of 1, each restart would stop an issuer for a whole AckWait. So
// the loop below asks the server itself (ADR-13 of the NATS architecture): one
// subscription, one question at a time, for as many messages as there are free
// workers; what arrives too late is handed back.

// Times of a pull request.
const (
	pullExpires   = 30 * time.Second
	pullHeartbeat = 2 * time.Second // the server's sign of life while it has nothing
)

// puller is one run of a consumer in this process.
type puller struct {
	c        *Consumer
	h        Handler
	ctx      context.Context // of the run
	work     context.Context // of the handlers: ends a moment later
	inbox    string
	sub      *nats.Subscription
	msgs     chan *nats.Msg
	again    chan struct{} // there is a new connection: earlier questions are void
	slots    chan struct{} // one per free worker
	question uint64        // number of the present question
	asked    int           // of the present question: messages still to come, each with a slot taken
	silence  *time.Timer   // no sign of life
	wg       sync.WaitGroup
}

// Run works on messages until ctx ends, and returns nil when the last handler
// has. It comes back by itself after every failure of the server.
func (c *Consumer) Run(ctx context.Context, h Handler) error {
	if !c.b.enter() {
		return down(nats.ErrConnectionClosed)
	}
	defer c.b.wg.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.b.ctx, cancel)()
	p := &puller{
		c: c, h: h, ctx: ctx, inbox: c.b.nc.NewInbox(),
		msgs:  make(chan *nats.Msg, 2*c.cfg.Batch+64),
		again: make(chan struct{}, 1), slots: make(chan struct{}, c.cfg.Workers),
		silence: time.NewTimer(time.Hour),
	}
	defer p.silence.Stop()
	for range c.cfg.Workers {
		p.slots <- struct{}{}
	}
	var err error
	if p.sub, err = c.b.nc.ChanSubscribe(p.inbox+".*", p.msgs); err != nil {
		return fmt.Errorf("subscribe consumer %s: %w", c.cfg.Name, err)
	}
	c.b.onUp(ctx, func() { loop.Nudge(p.again) })
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	p.work = work
	p.loop()
	p.leave(stop)
	return nil
}

// loop asks and hands out, and sets the consumer up again when it is gone.
func (p *puller) loop() {
	for failures, first := 0, true; p.ctx.Err() == nil; {
		if err := p.c.create(p.ctx, first); err != nil {
			p.trouble(failures, err.Error())
			failures++
			continue
		}
		first = false
		why, worked := p.serve()
		if worked {
			failures = 0
		}
		p.trouble(failures, why)
		failures++
	}
}

// trouble waits a little before the next attempt.
func (p *puller) trouble(failures int, why string) {
	p.giveUp()
	if p.ctx.Err() != nil {
		return
	}
	p.c.b.log.Debug("consumer interrupted", "stream", p.c.cfg.Stream, "consumer", p.c.cfg.Name, "reason", why)
	pause := time.NewTimer(reconnect.Delay(failures))
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-p.again:
	case <-p.ctx.Done():
	}
}

// serve asks again and again, until the consumer cannot be reached. worked
// says that the server answered.
func (p *puller) serve() (why string, worked bool) {
	for {
		free := p.slots
		if p.asked > 0 {
			free = nil // one question at a time
		}
		select {
		case <-free:
			if err := p.ask(); err != nil {
				return err.Error(), worked
			}
		case m := <-p.msgs:
			worked = true
			if why := p.hear(m); why != "" {
				return why, m.Header.Get("Status") != noResponders
			}
		case <-p.silence.C:
			if p.asked > 0 {
				return "no sign of life", worked
			}
		case <-p.again:
			return "new connection", true
		case <-p.ctx.Done():
			return "", worked
		}
	}
}

// ask asks for as many messages as there are free workers. The slot of one is
// taken already.
func (p *puller) ask() error {
	p.asked = 1
	for p.asked < p.c.cfg.Batch && len(p.slots) > 0 {
		<-p.slots // only the loop takes slots, so this does not block
		p.asked++
	}
	p.question++
	p.alive()
	text := fmt.Appendf(nil, `{"batch":%d,"expires":%d,"idle_heartbeat":%d}`, p.asked, pullExpires.Nanoseconds(), pullHeartbeat.Nanoseconds())
	if err := p.c.b.nc.PublishRequest(p.c.next, p.reply(), text); err != nil {
		return fmt.Errorf("ask for messages: %w", err)
	}
	return nil
}

// reply is where answers to the present question go.
func (p *puller) reply() string { return p.inbox + "." + strconv.FormatUint(p.question, 10) }

// alive books a sign of life.
func (p *puller) alive() { p.silence.Reset(pullHeartbeat * 5 / 2) }

// Statuses that the server answers with.
const (
	heartbeat    = "100" // nothing yet
	expired      = "408" // the question is too old
	noResponders = "503" // no such consumer, or it has no leader
)

// hear takes in a message or a status. It returns why the consumer cannot be
// served on, or "".
func (p *puller) hear(m *nats.Msg) (trouble string) {
	if m.Reply != "" {
		p.alive()
		p.take(m)
		return ""
	}
	if m.Subject != p.reply() {
		return "" // about a question given up
	}
	switch status := m.Header.Get("Status"); status {
	case heartbeat:
		p.alive()
	case expired:
		p.giveUp()
	default: // the consumer was deleted, has a new leader, or its server stops
		return status + " " + m.Header.Get("Description")
	}
	return ""
}

// giveUp forgets the present question and frees its slots.
func (p *puller) giveUp() {
	for ; p.asked > 0; p.asked-- {
		p.slots <- struct{}{}
	}
}

// take hands a message to a worker. One that belongs to a question given up
// gets a free worker or goes back to the server.
func (p *puller) take(m *nats.Msg) {
	if p.asked > 0 {
		p.asked--
	} else {
		select {
		case <-p.slots:
		default:
			p.handBack(m)
			return
		}
	}
	p.wg.Go(func() {
		defer func() { p.slots <- struct{}{} }()
		d, err := p.c.parse(m)
		if err != nil {
			p.c.b.log.Warn("not a message of a stream", "subject", m.Subject, "error", err.Error())
			return
		}
		d.work(p.work, p.h)
	})
}

// handBack returns a message that nobody here has begun. If that fails it
// comes back after AckWait.
func (p *puller) handBack(m *nats.Msg) {
	if strings.HasPrefix(m.Reply, "$JS.ACK.") {
		_ = m.Respond([]byte("-NAK"))
	}
	p.c.handled[returned].Inc()
}

// leave withdraws the question, and only then stops the handlers, lest what they
// hand back comes straight to us again. It hands back what was on its way, and
// waits for the handlers.
func (p *puller) leave(stop context.CancelFunc) {
	p.giveUp()
	if p.sub.Unsubscribe() == nil && p.c.b.nc.IsConnected() {
		// All that the server sent before it heard of it is here when the
		// flush returns.
		_ = p.c.b.nc.FlushTimeout(connectTimeout)
	}
	stop()
	for len(p.msgs) > 0 {
		if m := <-p.msgs; m.Reply != "" {
			p.handBack(m)
		}
	}
	p.wg.Wait()
}
