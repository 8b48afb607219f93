package bench

import (
	"errors"
	"net"
	"sync"

	"chancery/internal/acme/challenge"
	"chancery/internal/fault"
)

// responder answers the validation of one challenge type. Every kind is a
// table that the clients fill and a listener that the validators ask.
type responder struct {
	kind    challenge.Type
	present func(name, token, keyAuthorization string)
	forget  func(name, token string)
	close   func() error
	addr    string // HOST:PORT where validators ask
}

// table is what a responder knows, by token or by name.
type table[V any] struct {
	mu sync.RWMutex
	m  map[string]V
}

func newTable[V any]() *table[V] { return &table[V]{m: map[string]V{}} }

func (t *table[V]) set(key string, v V) {
	t.mu.Lock()
	t.m[key] = v
	t.mu.Unlock()
}

func (t *table[V]) get(key string) (V, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	v, ok := t.m[key]
	return v, ok
}

func (t *table[V]) drop(key string) {
	t.mu.Lock()
	delete(t.m, key)
	t.mu.Unlock()
}

// listen opens a TCP listener for a responder, with words for the user.
func listen(kind challenge.Type, addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fault.Wrap(err, fault.Conflict, "cannot answer %s on %s; stop what listens there or choose another address", kind, addr)
	}
	return ln, nil
}

// serveConns hands every connection to handle, in a goroutine of its own,
// until the listener is closed.
func serveConns(ln net.Listener, handle func(net.Conn)) {
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, or the peer is gone already
			continue
		}
		go handle(conn)
	}
}

// newResponder starts the responder of a challenge type.
func newResponder(kind challenge.Type, cfg *IssueConfig) (*responder, error) {
	switch kind {
	case challenge.HTTP01:
		return newHTTP01(cfg.HTTP01Listen)
	case challenge.TLSALPN01:
		return newTLSALPN01(cfg.TLSALPN01Listen)
	case challenge.DNS01:
		return newDNS01(cfg.DNS)
	}
	return nil, fault.New(fault.Invalid, "challenge type %q is unknown; choose http-01, dns-01 or tls-alpn-01", kind)
}

// errNoDNS says that dns-01 lacks its server.
func errNoDNS() error {
	return fault.New(fault.Invalid, "dns-01 needs the built-in DNS server, and the server under test must ask it: give its address, and point the server's resolver at it")
}
