package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"chancery/internal/fault"
	"chancery/internal/fleet"
	"chancery/internal/fleet/server"
	"chancery/internal/loop"
)

// crowd are agents that have nothing to do: each holds one TLS connection with a
// question on it, asks again when it is answered, and comes back as agents do
// when the connection is lost.
type crowd struct {
	addr  string // of the server
	key   any
	certs [][]byte // DER, one per agent
	body  string   // of the question
	ramp  chan struct{}
	asked atomic.Int64 // ever
	lost  atomic.Int64 // connections that broke or were refused
	done  sync.WaitGroup

	mu   sync.Mutex
	last error // why a connection was lost
}

// Bounds of a crowd.
const (
	perSource   = 8000 // connections from one loopback address: half of the ports that Linux hands out
	dialsAtOnce = 64   // of the first connections; later ones come by themselves
	spareFiles  = 200
)

// openFiles raises the number of files that this process, and those it starts,
// may have open, and says why when that is not enough.
func openFiles(need uint64) error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("read limit of open files: %w", err)
	}
	if l.Cur >= need {
		return nil
	}
	want := syscall.Rlimit{Cur: need, Max: max(l.Max, need)}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want); err != nil {
		return fault.New(fault.Precondition, "%d open files are needed, for the server and for the agents each, and the limit is %d: raise it with `ulimit -Hn %d` as root, or measure at most %d agents", need, l.Max, need, max(int64(l.Max)-spareFiles, 0))
	}
	return nil
}

// newCrowd prepares a crowd of those that server.Seed made.
func newCrowd(addr string, keyDER []byte, certs [][]byte) (*crowd, error) {
	key, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return nil, fmt.Errorf("read key of the agents: %w", err)
	}
	return &crowd{addr: addr, key: key, certs: certs, ramp: make(chan struct{}, dialsAtOnce),
		body: `{"generation":1,"instance":"` + server.SeedInstance + `","version":"bench","targets":["web"]}`}, nil
}

// start lets all of them come, until ctx ends.
func (c *crowd) start(ctx context.Context) {
	for i := range c.certs {
		c.done.Go(func() { c.agent(ctx, i) })
	}
}

// agent is one agent. Its pauses are those of a real one: full jitter, 10 s at
// first, at most 120 s.
func (c *crowd) agent(ctx context.Context, i int) {
	back := loop.Backoff{Base: 10 * time.Second, Max: 2 * time.Minute}
	for failures := 0; ctx.Err() == nil; failures++ {
		answered, err := c.connection(ctx, i)
		if ctx.Err() != nil {
			return
		}
		c.lost.Add(1)
		c.mu.Lock()
		c.last = err
		c.mu.Unlock()
		if answered {
			failures = 0
		}
		if back.Sleep(ctx, failures) != nil {
			return
		}
	}
}

// connection connects, and asks on the connection until it breaks. answered
// says that the server spoke on it.
func (c *crowd) connection(ctx context.Context, i int) (answered bool, err error) {
	conn, err := c.dial(ctx, i)
	if err != nil {
		return false, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer func() {
		stop()
		conn.Close()
	}()
	in := bufio.NewReaderSize(conn, 1<<10)
	for {
		if _, err := fmt.Fprintf(conn, "POST %swait HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", fleet.Prefix, len(c.body), c.body); err != nil {
			return answered, err
		}
		c.asked.Add(1)
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			return answered, err
		}
		text, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
		res.Body.Close()
		if err != nil {
			return answered, err
		}
		if res.StatusCode != http.StatusOK {
			return answered, fmt.Errorf("the server answered %d: %.200s", res.StatusCode, text)
		}
		answered = true
	}
}

// dial makes an agent's connection, some at a time, and from one of several
// addresses of loopback: the ports of one would not do.
func (c *crowd) dial(ctx context.Context, i int) (net.Conn, error) {
	select {
	case c.ramp <- struct{}{}:
		defer func() { <-c.ramp }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	n := 2 + i/perSource
	from := netip.AddrFrom4([4]byte{127, 0, byte(n >> 8), byte(n)})
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 30 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), KeepAlive: -1},
		Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{fleet.ALPN, "http/1.1"}, // it is our own server, on loopback
			Certificates: []tls.Certificate{{Certificate: [][]byte{c.certs[i]}, PrivateKey: c.key}}}}
	return d.DialContext(ctx, "tcp", c.addr)
}

// trouble is why a connection was lost last.
func (c *crowd) trouble() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil {
		return errors.New("no connection was lost")
	}
	return c.last
}
