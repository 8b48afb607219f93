package scan

import (
	"context"
	"sync"
	"time"

	"chancery/internal/fault"
)

// outbox holds finished results until the sink takes them. Putting one in
// never blocks, so nobody holds a place in flight for the sink's sake; the
// dispatcher looks at the backlog instead and admits nobody while it is full.
type outbox struct {
	cfg  *Config
	sink Sink
	book *ledger

	mu     sync.Mutex
	queue  []Result
	closed bool
	wake   chan struct{} // holds one
	room   func()        // called when the backlog shrank
}

func newOutbox(cfg *Config, sink Sink, book *ledger, room func()) *outbox {
	return &outbox{cfg: cfg, sink: sink, book: book, wake: make(chan struct{}, 1), room: room}
}

// put adds a result.
func (o *outbox) put(r Result) {
	o.mu.Lock()
	o.queue = append(o.queue, r)
	full := len(o.queue) >= o.cfg.Batch
	first := len(o.queue) == 1
	o.mu.Unlock()
	if full || first {
		o.signal()
	}
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// full reports whether the backlog is as large as it may be.
func (o *outbox) full() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.queue) >= o.cfg.Backlog
}

// close makes run end when all is delivered.
func (o *outbox) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.signal()
}

// lastWords bounds the delivery of what was finished when ctx ended.
const lastWords = 5 * time.Second

// run delivers batches until close. When ctx ends, what is finished is still
// delivered, within a bounded time.
func (o *outbox) run(ctx context.Context) error {
	ctx, cancel := grace(ctx, lastWords)
	defer cancel()
	var batch []Result
	for {
		var last bool
		batch, last = o.take(batch[:0])
		if len(batch) > 0 {
			if err := o.deliver(ctx, batch); err != nil {
				return err
			}
			clear(batch) // chains must not be kept by the array
			o.room()
		}
		if last {
			return nil
		}
	}
}

// grace returns a context that ends d after ctx.
func grace(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(d, cancel)
		context.AfterFunc(out, func() { timer.Stop() })
	})
	return out, func() { stop(); cancel() }
}

// take waits for a full batch, for the delay since the first result, or for
// the end.
func (o *outbox) take(batch []Result) (_ []Result, last bool) {
	var flush <-chan time.Time
	for {
		o.mu.Lock()
		n := len(o.queue)
		if n >= o.cfg.Batch || o.closed {
			return o.pop(batch)
		}
		o.mu.Unlock()
		if n > 0 && flush == nil {
			timer := time.NewTimer(o.cfg.Flush)
			defer timer.Stop()
			flush = timer.C
		}
		select {
		case <-o.wake:
		case <-flush:
			o.mu.Lock()
			return o.pop(batch)
		}
	}
}

// pop moves a batch out of the queue, whose lock it releases. last is true
// when nothing is left to come.
func (o *outbox) pop(batch []Result) (_ []Result, last bool) {
	defer o.mu.Unlock()
	n := min(len(o.queue), o.cfg.Batch)
	batch = append(batch, o.queue[:n]...)
	rest := copy(o.queue, o.queue[n:])
	clear(o.queue[rest:])
	o.queue = o.queue[:rest]
	return batch, o.closed && rest == 0
}

// deliver gives batch to the sink until it is taken.
func (o *outbox) deliver(ctx context.Context, batch []Result) error {
	for {
		err := o.sink(ctx, batch)
		if err == nil {
			break
		}
		f := fault.As(err)
		if !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.RateLimited) || f.RetryAfter <= 0 {
			return err
		}
		o.book.sum.Slowed++
		select {
		case <-time.After(f.RetryAfter):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for i := range batch {
		o.book.add(&batch[i])
	}
	return o.cfg.State.record(batch)
}
