package probe

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Tokens bounds how many connections compute at once. Waiting for a peer needs
// no token, so thousands may wait while few compete for the processors: with
// one fixed limit on both, the queue for the processors looks like slow peers
// and ends in time-outs that are not theirs.
type Tokens struct {
	slots chan struct{}
	slow  time.Duration

	taken, delayed, stalled atomic.Uint64
}

// Stall is how many times the bound of a delay a wait must last to count as
// stalled.
const Stall = 5

// NewTokens returns n tokens, at least one. Waits longer than slow count as
// delayed, those longer than Stall times slow as stalled too.
func NewTokens(n int, slow time.Duration) *Tokens {
	return &Tokens{slots: make(chan struct{}, max(n, 1)), slow: slow}
}

// Counts returns how often a token was taken since the start, and how many of
// those were delayed and stalled.
func (t *Tokens) Counts() (taken, delayed, stalled uint64) {
	return t.taken.Load(), t.delayed.Load(), t.stalled.Load()
}

// acquire takes a token.
func (t *Tokens) acquire() {
	t.taken.Add(1)
	select {
	case t.slots <- struct{}{}:
		return
	default:
	}
	began := time.Now()
	t.slots <- struct{}{}
	waited := time.Since(began)
	if waited > t.slow {
		t.delayed.Add(1)
	}
	if waited > Stall*t.slow {
		t.stalled.Add(1)
	}
}

func (t *Tokens) release() { <-t.slots }

const (
	bufferSize   = 4096 // a whole server flight fits, so a handshake is two or three reads
	maxHandshake = 1 << 20
	// lateGrace is how long a connection that ran out of time may still take
	// bytes that the kernel already holds: then it was us who were late.
	lateGrace = 5 * time.Millisecond
)

var errTooMuch = errors.New("the peer sends too much")

// buffers holds read buffers of connections that ended.
type buffers struct{ pool sync.Pool }

func (b *buffers) get() *[bufferSize]byte {
	if buf, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return buf
	}
	return new([bufferSize]byte)
}

// Dialer opens connections that share CPU tokens.
type Dialer struct {
	Tokens  *Tokens
	Connect time.Duration // for the connection
	Wait    time.Duration // for all reads of one connection together, as waited for the network

	net     net.Dialer
	buffers buffers
}

// NewDialer returns a dialer.
func NewDialer(tokens *Tokens, connect, wait time.Duration) *Dialer {
	// Keep-alive costs four system calls and serves nobody here.
	return &Dialer{Tokens: tokens, Connect: connect, Wait: wait, net: net.Dialer{Timeout: connect, KeepAlive: -1}}
}

// Conn is a connection whose deadline counts waiting for the network only, and
// whose reader holds a CPU token except while it waits. It implements net.Conn
// for one goroutine.
type Conn struct {
	*net.TCPConn
	dialer *Dialer
	ctx    context.Context
	stop   func() bool

	left     time.Duration // network waiting still allowed
	received int
	buf      *[bufferSize]byte
	pending  []byte // read from the kernel, not yet by the caller
	unsent   []byte // written by the caller, not yet to the kernel
}

// Dial connects to addr. The caller then holds a CPU token until Close. When
// ctx ends the connection fails.
func (d *Dialer) Dial(ctx context.Context, addr netip.AddrPort) (*Conn, *Failure) {
	raw, err := d.net.DialTCP(ctx, "tcp", netip.AddrPort{}, addr)
	if err != nil {
		if ctx.Err() != nil {
			return nil, &Failure{Class: Canceled, cause: err}
		}
		return nil, dialFailure(err)
	}
	c := &Conn{TCPConn: raw, dialer: d, ctx: ctx, left: d.Wait}
	c.stop = context.AfterFunc(ctx, func() { raw.Close() })
	d.Tokens.acquire()
	return c, nil
}

// Waited returns how long the peer let c wait so far.
func (c *Conn) Waited() time.Duration { return c.dialer.Wait - c.left }

// Read implements io.Reader. One call to the kernel fetches what is there, up
// to a buffer, and the following calls are served from it.
func (c *Conn) Read(p []byte) (int, error) {
	if len(c.pending) == 0 {
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.pending)
	c.pending = c.pending[n:]
	return n, nil
}

// Write implements io.Writer. What is written leaves before the next wait for
// the peer, or with Close, so the last message of a handshake and the farewell
// are one segment.
func (c *Conn) Write(p []byte) (int, error) {
	c.unsent = append(c.unsent, p...)
	return len(p), nil
}

// flush sends what was written.
func (c *Conn) flush() error {
	if len(c.unsent) == 0 {
		return nil
	}
	_, err := c.TCPConn.Write(c.unsent)
	c.unsent = c.unsent[:0]
	return err
}

// fill waits for bytes without a token.
func (c *Conn) fill() error {
	if c.received > maxHandshake {
		return errTooMuch
	}
	if err := c.flush(); err != nil {
		return err
	}
	if c.buf == nil {
		c.buf = c.dialer.buffers.get()
	}
	c.dialer.Tokens.release()
	n, err := c.wait()
	c.dialer.Tokens.acquire()
	if n == 0 && err != nil {
		if c.ctx.Err() != nil {
			return net.ErrClosed
		}
		return err
	}
	c.received += n
	c.pending = c.buf[:n]
	return nil
}

// wait reads once within what is left of the time.
func (c *Conn) wait() (int, error) {
	began := time.Now()
	c.TCPConn.SetReadDeadline(began.Add(max(c.left, 0)))
	n, err := c.TCPConn.Read(c.buf[:])
	c.left -= time.Since(began)
	if n == 0 && isTimeout(err) && c.ctx.Err() == nil {
		c.TCPConn.SetReadDeadline(time.Now().Add(lateGrace))
		n, err = c.TCPConn.Read(c.buf[:])
	}
	return n, err
}

// Deadlines of the library would count computing too: c has its own.

// SetDeadline does nothing; see Dialer.Wait.
func (c *Conn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing; see Dialer.Wait.
func (c *Conn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing: all that a probe writes fits the socket's
// buffer.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }

// Close ends the connection and gives the token back. It must be called once.
func (c *Conn) Close() error {
	c.stop()
	if c.buf != nil {
		c.dialer.buffers.pool.Put(c.buf)
		c.buf, c.pending = nil, nil
	}
	err := c.flush() // before the token goes: whoever gets it should not wait for us
	c.dialer.Tokens.release()
	return errors.Join(err, c.TCPConn.Close())
}
