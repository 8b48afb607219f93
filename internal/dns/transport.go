package dns

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	socketsPerServer = 4
	socketQueries    = 1024             // then a new socket, and so a new source port
	socketAge        = 30 * time.Second // likewise
	readBuffer       = 4096             // more than we offer by EDNS; anything as long goes to TCP
	maxAliens        = 3                // wrong answers to one query before UDP is not trusted with it
)

var (
	errTimeout = errors.New("no answer in time")
	errClosed  = errors.New("the resolver is closed")
)

// upstream is one recursive server and the sockets kept to it.
type upstream struct {
	addr netip.AddrPort

	mu     sync.Mutex
	closed bool
	socks  [socketsPerServer]*socket
}

// socket is a connected UDP socket with many queries in flight. It is
// connected, so the kernel drops datagrams from elsewhere and reports a closed
// port at once.
type socket struct {
	conn *net.UDPConn
	born time.Time

	mu      sync.Mutex
	sent    int
	retired bool // close when the last waiter leaves
	waiters map[uint16]*waiter
}

// waiter is one query in flight on a socket.
type waiter struct {
	query  query
	aliens int
	reply  chan reply // holds one
}

type reply struct {
	msg   []byte
	match match
	err   error
}

// exchange sends q over UDP and waits for the answer until the deadline.
func (u *upstream) exchange(q query, deadline time.Time, closed <-chan struct{}) reply {
	w := &waiter{query: q, reply: make(chan reply, 1)}
	s, err := u.enter(w)
	if err != nil {
		return reply{err: err}
	}
	defer s.leave(w)
	if _, err := s.conn.Write(q.msg); err != nil {
		return reply{err: err}
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case r := <-w.reply:
		return r
	case <-timer.C:
		return reply{err: errTimeout}
	case <-closed:
		return reply{err: errClosed}
	}
}

// enter puts w on one of the kept sockets at random, replacing it when worn.
func (u *upstream) enter(w *waiter) (*socket, error) {
	i := rand.IntN(socketsPerServer)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return nil, errClosed
	}
	if s := u.socks[i]; s != nil {
		if s.take(w) {
			return s, nil
		}
		s.retire()
		u.socks[i] = nil
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(u.addr))
	if err != nil {
		return nil, err
	}
	s := &socket{conn: conn, born: time.Now(), waiters: make(map[uint16]*waiter)}
	s.take(w)
	u.socks[i] = s
	go s.read()
	return s, nil
}

// close retires every socket at once, whoever waits.
func (u *upstream) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	for _, s := range u.socks {
		if s != nil {
			s.conn.Close()
		}
	}
}

// take registers w under an id that is free on s, preferring its own, and
// reports whether s may carry it: it is neither worn nor crowded.
func (s *socket) take(w *waiter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.retired || s.sent >= socketQueries || time.Since(s.born) >= socketAge {
		return false
	}
	for range 8 {
		id := binary.BigEndian.Uint16(w.query.msg)
		if s.waiters[id] == nil {
			s.waiters[id] = w
			s.sent++
			return true
		}
		binary.BigEndian.PutUint16(w.query.msg, uint16(rand.Uint32()))
	}
	return false
}

// retire lets s close with its last waiter.
func (s *socket) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
	if len(s.waiters) == 0 {
		s.conn.Close()
	}
}

// leave forgets w; a late answer to it is then alien to everyone.
func (s *socket) leave(w *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiters, binary.BigEndian.Uint16(w.query.msg))
	if s.retired && len(s.waiters) == 0 {
		s.conn.Close()
	}
}

// read hands every datagram to its waiter until the socket is closed. An error
// of the socket (port unreachable) is news for all who wait on it.
func (s *socket) read() {
	buf := make([]byte, readBuffer)
	for {
		n, err := s.conn.Read(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			s.fail(errClosed)
			return
		case err != nil:
			s.fail(err)
		case n >= headerSize:
			s.deliver(buf[:n])
		}
	}
}

// fail answers every waiter with err. The socket takes no more queries: its
// server or its port is gone.
func (s *socket) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
	for _, w := range s.waiters {
		w.answer(reply{err: err})
	}
	if len(s.waiters) == 0 {
		s.conn.Close()
	}
}

// deliver finds the waiter of msg by id and judges the rest of it.
func (s *socket) deliver(msg []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.waiters[binary.BigEndian.Uint16(msg)]
	if w == nil {
		return
	}
	m := w.query.compare(msg)
	if m == alien {
		if w.aliens++; w.aliens < maxAliens {
			return
		}
		m = doubted
	}
	if m == good && len(msg) == readBuffer {
		m = cut
	}
	r := reply{match: m}
	if m == good {
		r.msg = append([]byte(nil), msg...)
	}
	w.answer(r)
}

// answer gives w its reply, if it has none yet.
func (w *waiter) answer(r reply) {
	select {
	case w.reply <- r:
	default:
	}
}

// exchangeTCP asks one question over a TCP connection of its own.
func (u *upstream) exchangeTCP(q query, deadline time.Time) reply {
	d := net.Dialer{Deadline: deadline}
	conn, err := d.Dial("tcp", u.addr.String())
	if err != nil {
		return reply{err: err}
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return reply{err: err}
	}
	framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(q.msg)), uint16(len(q.msg)))
	if _, err := conn.Write(append(framed, q.msg...)); err != nil {
		return reply{err: err}
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return reply{err: err}
	}
	msg := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, msg); err != nil {
		return reply{err: err}
	}
	return reply{msg: msg, match: q.compare(msg)}
}
