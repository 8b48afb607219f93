package bus

import (
	"context"
	"sync"
	"time"
)

// claim keeps a message in the hands of a handler that takes long: at every
// third of AckWait the server is told that work goes on, and its confirmation
// awaited. If none came when AckWait is nearly over, the handler is cancelled,
// because the server will hand the message to somebody else.
type claim struct {
	mu       sync.Mutex // guards what follows
	timer    *time.Timer
	deadline time.Time // when the server gives up on us
	released bool
	stop     context.CancelFunc // ends a confirmation under way
	idle     sync.WaitGroup
}

// hold starts the clock. Handlers that are done before its first tick cost
// one timer.
func (d *delivery) hold() {
	c := &d.claim
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = time.Now().Add(d.c.cfg.AckWait)
	c.timer = time.AfterFunc(d.c.cfg.AckWait/3, d.extend)
}

// release stops the clock and waits for a confirmation under way, so that
// nothing is said about the message after its answer.
func (d *delivery) release() {
	c := &d.claim
	c.mu.Lock()
	c.released = true
	c.timer.Stop()
	if c.stop != nil {
		c.stop()
	}
	c.mu.Unlock()
	c.idle.Wait()
}

// extend asks for another AckWait.
func (d *delivery) extend() {
	c, wait := &d.claim, d.c.cfg.AckWait
	c.mu.Lock()
	if c.released {
		c.mu.Unlock()
		return
	}
	ctx, cancel := context.WithDeadline(context.Background(), c.deadline.Add(-wait/10))
	defer cancel()
	c.stop = cancel
	c.idle.Add(1)
	c.mu.Unlock()
	defer c.idle.Done()

	asked := time.Now()
	err := d.confirm(ctx)

	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.released:
	case err == nil:
		c.deadline = asked.Add(wait)
		c.timer.Reset(wait / 3)
	case time.Until(c.deadline) > wait/5:
		c.timer.Reset(wait / 20)
	default:
		d.cancel(ErrClaimLost)
	}
}

// confirm sends the extension and waits for the server's word.
func (d *delivery) confirm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.c.cfg.AckWait/3)
	defer cancel()
	_, err := d.c.b.nc.RequestWithContext(ctx, d.raw.Reply, []byte("+WPI"))
	return err
}
