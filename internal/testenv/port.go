package testenv

import (
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
)

// lastPort spreads test programs that run at the same time over the range.
var lastPort = func() *atomic.Int64 {
	n := new(atomic.Int64)
	n.Store(int64(os.Getpid()%220) * 100)
	return n
}()

// FreePort returns a port of this machine on which nobody listens, neither by
// TCP nor by UDP. It lies below the range from which the kernel takes the ports
// of outgoing connections, and no test of this process gets it again: so it is
// still free when a program asks for it, and after a restart of that program.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 2000 {
		port := 10000 + int(lastPort.Add(1)%22000)
		addr := ":" + strconv.Itoa(port)
		tcp, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		tcp.Close()
		if udp, err := net.ListenPacket("udp", addr); err == nil {
			udp.Close()
			return port
		}
	}
	t.Fatal("no free port between 10000 and 32000")
	return 0
}

// FreeAddr is a loopback address with a FreePort.
func FreeAddr(t testing.TB) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(t)))
}
