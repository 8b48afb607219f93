package loop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/obs"
)

// PoolConfig bounds a Pool.
type PoolConfig struct {
	Name    string // labels metrics and log lines
	Workers int    // most tasks at once; at least 1
	PerKey  int    // most tasks of one key at once; 0 = Workers
	Queue   int    // most tasks waiting; beyond it Submit blocks; 0 = Workers

	// KeyLimit, when set, gives the limit of one key, for issuers or hosts
	// that need another than PerKey. It is asked each time, so it may change;
	// 0 or less stops the key until the next submission or completion.
	KeyLimit func(key string) int

	Log     *slog.Logger // nil: discard
	Metrics *Metrics     // nil: not measured
}

// ErrFull says that a pool took no more work. The caller answers "try again
// later" or keeps the row for the next tick.
var ErrFull = errors.New("pool is full")

// ErrClosed says that a pool was closed.
var ErrClosed = errors.New("pool is closed")

// Pool runs tasks with a bound on all of them and one on each key. A task
// whose key is busy waits without holding a worker, so that one slow host
// never delays the others; within a key order is kept.
//
// Goroutines are made when needed and end when there is nothing to do: an
// idle pool costs nothing.
type Pool struct {
	cfg   PoolConfig
	slots chan struct{} // one per task that waits or runs: the back-pressure

	mu      sync.Mutex // guards what follows
	queues  map[string]*keyQueue
	ready   []*keyQueue // keys with work and room, in the order to serve them
	running int
	closed  bool
	idle    sync.Cond // running == 0 and nothing waits

	gaugeRunning, gaugeWaiting prometheus.Gauge
}

// keyQueue is the work of one key. It exists while any is waiting or running.
type keyQueue struct {
	key     string
	tasks   []func()
	running int
	listed  bool // in ready
}

// NewPool returns a pool that accepts work at once.
func NewPool(cfg PoolConfig) *Pool {
	cfg.Workers = max(cfg.Workers, 1)
	if cfg.Queue <= 0 {
		cfg.Queue = cfg.Workers
	}
	if cfg.PerKey <= 0 {
		cfg.PerKey = cfg.Workers
	}
	if cfg.Log == nil {
		cfg.Log = obs.Discard()
	}
	p := &Pool{cfg: cfg, slots: make(chan struct{}, cfg.Workers+cfg.Queue), queues: map[string]*keyQueue{}}
	p.idle.L = &p.mu
	if cfg.Metrics != nil {
		p.gaugeRunning = cfg.Metrics.running.WithLabelValues(cfg.Name)
		p.gaugeWaiting = cfg.Metrics.waiting.WithLabelValues(cfg.Name)
	}
	return p
}

// Submit hands over a task, and blocks while the queue is full: that is how a
// slow stage slows the one before it. It returns ctx's error or ErrClosed if
// the task was not taken.
func (p *Pool) Submit(ctx context.Context, key string, task func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case p.slots <- struct{}{}:
		return p.add(key, task)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TrySubmit hands over a task, or returns ErrFull at once.
func (p *Pool) TrySubmit(key string, task func()) error {
	select {
	case p.slots <- struct{}{}:
		return p.add(key, task)
	default:
		return ErrFull
	}
}

// Do runs fn in the pool and waits for it. If ctx ends while fn waits for its
// turn, fn is never run; once it runs, Do returns when it does.
func (p *Pool) Do(ctx context.Context, key string, fn func(context.Context) error) error {
	const waiting, taken, dropped = 0, 1, 2
	var (
		mu    sync.Mutex
		state = waiting
		done  = make(chan error, 1)
	)
	claim := func(to int) bool {
		mu.Lock()
		defer mu.Unlock()
		if state != waiting {
			return false
		}
		state = to
		return true
	}
	task := func() {
		if !claim(taken) {
			return
		}
		err := fmt.Errorf("task of pool %s panicked", p.cfg.Name) // stays when fn panics
		defer func() { done <- err }()
		err = fn(ctx)
	}
	if err := p.Submit(ctx, key, task); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		if claim(dropped) {
			return ctx.Err()
		}
		return <-done
	}
}

// Wait blocks until nothing waits or runs.
func (p *Pool) Wait() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.queues) > 0 {
		p.idle.Wait()
	}
}

// Close refuses further work and waits for what was taken. Cancel the tasks'
// own contexts first to make that short.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Wait()
}

// Load returns how many tasks run and how many wait.
func (p *Pool) Load() (running, waiting int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running, len(p.slots) - p.running
}

// add queues a task that has its slot.
func (p *Pool) add(key string, task func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		<-p.slots
		return ErrClosed
	}
	q := p.queues[key]
	if q == nil {
		q = &keyQueue{key: key}
		p.queues[key] = q
	}
	q.tasks = append(q.tasks, task)
	p.list(q)
	p.dispatch()
	return nil
}

// list puts a key among the ready ones if it has work and room. mu is held.
func (p *Pool) list(q *keyQueue) {
	if !q.listed && len(q.tasks) > 0 && q.running < p.limit(q.key) {
		q.listed = true
		p.ready = append(p.ready, q)
	}
}

// limit is the bound of one key.
func (p *Pool) limit(key string) int {
	if p.cfg.KeyLimit != nil {
		return p.cfg.KeyLimit(key)
	}
	return p.cfg.PerKey
}

// dispatch starts workers while there is room and ready work. mu is held.
func (p *Pool) dispatch() {
	for p.running < p.cfg.Workers {
		q, task := p.next()
		if task == nil {
			break
		}
		p.running++
		go p.work(q, task)
	}
	if p.gaugeRunning != nil {
		p.gaugeRunning.Set(float64(p.running))
		p.gaugeWaiting.Set(float64(len(p.slots) - p.running))
	}
}

// next takes the oldest task of the first ready key, which then goes to the
// end of the line. mu is held.
func (p *Pool) next() (*keyQueue, func()) {
	for len(p.ready) > 0 {
		q := p.ready[0]
		p.ready[0] = nil
		p.ready = p.ready[1:]
		q.listed = false
		if len(q.tasks) == 0 || q.running >= p.limit(q.key) {
			continue
		}
		task := q.tasks[0]
		q.tasks[0] = nil
		q.tasks = q.tasks[1:]
		q.running++
		p.list(q)
		return q, task
	}
	return nil, nil
}

// work runs tasks until none is ready.
func (p *Pool) work(q *keyQueue, task func()) {
	for task != nil {
		p.guarded(q.key, task)
		<-p.slots
		q, task = p.finished(q)
	}
}

// finished books the end of a task and takes the next one.
func (p *Pool) finished(q *keyQueue) (*keyQueue, func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q.running--
	if q.running == 0 && len(q.tasks) == 0 {
		delete(p.queues, q.key)
	}
	p.list(q)
	next, task := p.next()
	if task == nil {
		p.running--
	}
	p.dispatch()
	if len(p.queues) == 0 {
		p.idle.Broadcast()
	}
	return next, task
}

// guarded runs one task; a panic is logged and counted, and ends only it.
func (p *Pool) guarded(key string, task func()) {
	defer func() {
		if v := recover(); v != nil {
			if p.cfg.Metrics != nil {
				p.cfg.Metrics.panics.WithLabelValues(p.cfg.Name).Inc()
			}
			p.cfg.Log.Error("task panicked", "pool", p.cfg.Name, "key", key, "panic", v, "stack", string(debug.Stack()))
		}
	}()
	task()
}
