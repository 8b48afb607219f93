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
// workers; what arrives too late is handed back at once.

// Times of a pull request.
const (
	pullExpires   = 30 * time.Second
	pullHeartbeat = 2 * time.Second // the server's sign of life while it has nothing
)

// Statuses that the server answers with.
const (
	heartbeat    = "100" // nothing yet
	expired      = "408" // the question is too old
	noResponders = "503" // no such consumer, or it has no leader

	consumerDeleted = "409 Consumer Deleted"
)

// puller is one run of a consumer in this process. A message never waits for
// its loop, which may be busy setting the consumer up again: by then the server
// could have given the message to somebody else.
type puller struct {
	c        *Consumer
	h        Handler
	ctx      context.Context // of the run
	work     context.Context // of the handlers: ends a moment later
	inbox    string
	sub      *nats.Subscription
	question uint64 // number of the present question
	silence  *time.Timer
	statuses chan *nats.Msg
	freed    chan struct{} // there are free workers and nothing is asked
	again    chan struct{} // there is a new connection: earlier questions are void
	wg       sync.WaitGroup

	mu      sync.Mutex // guards what follows
	free    int        // workers
	asked   int        // messages of the present question still to come, each with its worker
	leaving bool       // take no more
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
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	p := &puller{
		c: c, h: h, ctx: ctx, work: work, inbox: c.b.nc.NewInbox(), free: c.cfg.Workers,
		statuses: make(chan *nats.Msg, 16), freed: make(chan struct{}, 1), again: make(chan struct{}, 1),
		silence: time.NewTimer(time.Hour),
	}
	defer p.silence.Stop()
	var err error
	if p.sub, err = c.b.nc.Subscribe(p.inbox+".*", p.hear); err != nil {
		return fmt.Errorf("subscribe consumer %s: %w", c.cfg.Name, err)
	}
	c.b.onUp(ctx, func() { loop.Nudge(p.again) })
	p.loop()
	p.leave(stop)
	return nil
}

// missing is how many times in a row nobody answers before the consumer is set
// up again. Mostly it is between two leaders, and setting up then would have to
// wait for a leader of the whole cluster, which may take longer.
const missing = 4

// loop asks, and sets the consumer up when it is new or gone.
func (p *puller) loop() {
	for failures, created, unanswered := 0, false, missing; p.ctx.Err() == nil; failures++ {
		if unanswered >= missing {
			if err := p.c.create(p.ctx, !created); err != nil {
				p.trouble(failures, err.Error())
				continue
			}
			created, unanswered = true, 0
		}
		why, worked := p.serve()
		switch {
		case why == consumerDeleted:
			unanswered = missing
		case worked:
			failures, unanswered = 0, 0
		default:
			unanswered++
		}
		p.trouble(failures, why)
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
	loop.Nudge(p.freed)
	for {
		select {
		case <-p.freed:
			if err := p.ask(); err != nil {
				return err.Error(), worked
			}
		case m := <-p.statuses:
			if m.Subject != p.reply() {
				continue // about a question given up
			}
			status := m.Header.Get("Status")
			worked = worked || status != noResponders
			switch status {
			case heartbeat:
			case expired:
				p.giveUp()
			default: // the consumer was deleted, has a new leader, or its server stops
				return status + " " + m.Header.Get("Description"), worked
			}
		case <-p.silence.C:
			if p.waiting() {
				return "no sign of life", worked
			}
		case <-p.again:
			return "new connection", true
		case <-p.ctx.Done():
			return "", worked
		}
	}
}

// ask asks for as many messages as there are free workers, unless a question
// is open or there is none.
func (p *puller) ask() error {
	p.mu.Lock()
	if p.asked == 0 {
		p.asked = min(p.free, p.c.cfg.Batch)
		p.free -= p.asked
		p.question++
	} else {
		p.mu.Unlock()
		return nil
	}
	n := p.asked
	p.mu.Unlock()
	if n == 0 {
		return nil
	}
	p.alive()
	text := fmt.Appendf(nil, `{"batch":%d,"expires":%d,"idle_heartbeat":%d}`, n, pullExpires.Nanoseconds(), pullHeartbeat.Nanoseconds())
	if err := p.c.b.nc.PublishRequest(p.c.next, p.reply(), text); err != nil {
		return fmt.Errorf("ask for messages: %w", err)
	}
	return nil
}

// reply is where answers to the present question go.
func (p *puller) reply() string { return p.inbox + "." + strconv.FormatUint(p.question, 10) }

// alive books a sign of life.
func (p *puller) alive() { p.silence.Reset(pullHeartbeat * 5 / 2) }

// waiting reports whether a question is open.
func (p *puller) waiting() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked > 0
}

// giveUp forgets the present question and frees its workers.
func (p *puller) giveUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free, p.asked = p.free+p.asked, 0
	loop.Nudge(p.freed)
}

// hear is called with each message and status, one after the other.
func (p *puller) hear(m *nats.Msg) {
	p.alive()
	switch {
	case m.Reply == "":
		select {
		case p.statuses <- m:
		default: // heartbeats that the loop had no time for
		}
	case p.take():
		p.wg.Go(func() {
			defer p.release()
			p.begin(m)
		})
	default:
		p.handBack(m)
	}
}

// take takes the worker that was kept for a message of the present question.
// One that belongs to a question given up gets a free worker, or none.
func (p *puller) take() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.leaving:
		return false
	case p.asked > 0:
		p.asked--
	case p.free > 0:
		p.free--
	default:
		return false
	}
	if p.asked == 0 {
		loop.Nudge(p.freed)
	}
	return true
}

// release frees a worker.
func (p *puller) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free++
	if p.asked == 0 {
		loop.Nudge(p.freed)
	}
}

// begin works on a message.
func (p *puller) begin(m *nats.Msg) {
	d, err := p.c.parse(m)
	if err != nil {
		p.c.b.log.Warn("not a message of a stream", "subject", m.Subject, "error", err.Error())
		return
	}
	d.work(p.work, p.h)
}

// handBack returns a message that nobody here has begun. If that fails it
// comes back after AckWait.
func (p *puller) handBack(m *nats.Msg) {
	if strings.HasPrefix(m.Reply, "$JS.ACK.") {
		_ = m.Respond([]byte("-NAK"))
	}
	p.c.handled[returned].Inc()
}

// leave withdraws the question, handing back what is on its way, and only then
// stops the handlers, lest what they hand back comes straight to us again. It
// waits for the handlers.
func (p *puller) leave(stop context.CancelFunc) {
	p.giveUp()
	p.mu.Lock()
	p.leaving = true
	p.mu.Unlock()
	closed := make(chan struct{})
	p.sub.SetClosedHandler(func(string) { close(closed) })
	if p.c.b.nc.IsConnected() && p.sub.Drain() == nil {
		select {
		case <-closed:
		case <-time.After(connectTimeout):
		}
	}
	_ = p.sub.Unsubscribe() // it is closed already, as a rule
	stop()
	p.wg.Wait()
}
