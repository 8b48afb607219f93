package fleet

import (
	"fmt"
	"net"
	"syscall"
	"time"
)

// blackhole is a port on every loopback address that answers no SYN: a
// listening socket whose queue of accepted connections is full.
type blackhole struct {
	fd   int
	port uint16
	held []net.Conn
}

// newBlackhole opens one and fills its queue.
func newBlackhole() (*blackhole, error) {
	fd, port, err := bindAny()
	if err != nil {
		return nil, err
	}
	b := &blackhole{fd: fd, port: port}
	if err := syscall.Listen(fd, 0); err != nil {
		b.close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	for range 4 { // a queue of 0 takes one or two
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 200*time.Millisecond)
		if err != nil {
			return b, nil
		}
		b.held = append(b.held, c)
	}
	b.close()
	return nil, fmt.Errorf("the kernel does not drop SYNs of a full queue")
}

func (b *blackhole) close() {
	for _, c := range b.held {
		c.Close()
	}
	syscall.Close(b.fd)
}

// deadPort is a port that refuses connections and that nobody else can get:
// bound, but not listening.
type deadPort struct {
	fd   int
	port uint16
}

func newDeadPort() (*deadPort, error) {
	fd, port, err := bindAny()
	if err != nil {
		return nil, err
	}
	return &deadPort{fd, port}, nil
}

func (d *deadPort) close() { syscall.Close(d.fd) }

// bindAny binds a socket to a free port of every address.
func bindAny() (fd int, port uint16, err error) {
	fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, fmt.Errorf("open socket: %w", err)
	}
	if err = syscall.Bind(fd, &syscall.SockaddrInet4{}); err != nil {
		syscall.Close(fd)
		return 0, 0, fmt.Errorf("bind socket: %w", err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		syscall.Close(fd)
		return 0, 0, fmt.Errorf("read socket name: %w", err)
	}
	return fd, uint16(name.(*syscall.SockaddrInet4).Port), nil
}
