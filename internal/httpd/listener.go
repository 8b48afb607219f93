package httpd

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// Memory is a listener inside the process: no port, no kernel. Tests serve on
// it, also within a testing/synctest bubble, because a blocked pipe is
// durably blocked where a blocked socket is not.
type Memory struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// NewMemory returns an open in-memory listener.
func NewMemory() *Memory {
	return &Memory{conns: make(chan net.Conn), done: make(chan struct{})}
}

// Accept implements net.Listener.
func (m *Memory) Accept() (net.Conn, error) {
	select {
	case c := <-m.conns:
		return c, nil
	case <-m.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (m *Memory) Close() error {
	m.once.Do(func() { close(m.done) })
	return nil
}

// Addr implements net.Listener.
func (m *Memory) Addr() net.Addr { return memoryAddr{} }

// memoryAddr is the address of every in-memory connection. It looks like an
// IP endpoint so that code which parses peers needs no special case.
type memoryAddr struct{}

func (memoryAddr) Network() string { return "memory" }
func (memoryAddr) String() string  { return "127.0.0.1:0" }

// memoryConn is a pipe with parseable addresses.
type memoryConn struct{ net.Conn }

func (memoryConn) LocalAddr() net.Addr  { return memoryAddr{} }
func (memoryConn) RemoteAddr() net.Addr { return memoryAddr{} }

// DialContext connects to the listener; network and address are ignored.
func (m *Memory) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case m.conns <- memoryConn{server}:
		return memoryConn{client}, nil
	case <-m.done:
		return nil, errors.New("dial memory listener: closed")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Client returns an HTTP client whose every request goes to this listener,
// whatever host its URL names. tlsConfig may be nil for plain HTTP.
func (m *Memory) Client(tlsConfig *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: m.DialContext, TLSClientConfig: tlsConfig, MaxIdleConnsPerHost: 64,
	}}
}

// Certificates holds the certificate a server presents; it can be swapped
// while the server runs, and handshakes never wait for a swap.
type Certificates struct {
	current atomic.Pointer[tls.Certificate]
}

// Set presents cert from now on.
func (c *Certificates) Set(cert *tls.Certificate) { c.current.Store(cert) }

// Current returns what is presented now, or nil.
func (c *Certificates) Current() *tls.Certificate { return c.current.Load() }

// TLS returns a server configuration that always presents the current
// certificate. TLS 1.2 is the floor.
func (c *Certificates) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if cert := c.current.Load(); cert != nil {
				return cert, nil
			}
			return nil, errors.New("no server certificate has been set yet")
		},
	}
}
