package deploytest

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chancery/internal/deploy"
	"chancery/internal/scan/probe"
)

// Port returns a TCP port of 127.0.0.1 that was free a moment ago.
func Port(t testing.TB) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// At returns a probe of a port of 127.0.0.1, with a short settling time.
func At(p probe.Protocol, ports ...uint16) deploy.Probe {
	out := deploy.Probe{Settle: 4 * time.Second}
	for _, port := range ports {
		out.Addresses = append(out.Addresses, deploy.Address{Protocol: p, Host: "127.0.0.1", Port: port})
	}
	return out
}

// Dir returns a directory that servers with other users can enter: not below
// the 0700 directories of t.TempDir.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "chancery-deploy-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// WriteFile writes a file of a test.
func WriteFile(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// Server is a running server of a test.
type Server struct {
	Cmd  *exec.Cmd
	out  bytes.Buffer
	done chan struct{}
}

// Start runs a server in the foreground and waits until the port accepts
// connections. The server is stopped at the end of the test, by its own
// process number, with the signal.
func Start(t testing.TB, port uint16, stop syscall.Signal, cmd *exec.Cmd) *Server {
	t.Helper()
	s := &Server{Cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &s.out, &s.out
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		cmd.Wait()
		close(s.done)
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(stop)
		select {
		case <-s.done:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
			<-s.done
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", cmd.Args[0], s.out.Bytes()[max(0, s.out.Len()-4000):])
		}
	})
	Wait(t, cmd.Args[0]+" to listen", func() bool {
		select {
		case <-s.done:
			t.Fatalf("%s ended: %s", cmd.Args, s.out.String())
		default:
		}
		return Listens(port)
	})
	return s
}

// Listens reports whether a port of 127.0.0.1 accepts connections.
func Listens(port uint16) bool {
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// Count returns how often a file has a text in it.
func Count(t testing.TB, path, text string) int {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(data), text)
}

// Load makes handshakes until Stop.
type Load struct {
	stop   chan struct{}
	wg     sync.WaitGroup
	n      atomic.Int64
	failed atomic.Int64
	first  atomic.Value // the first failure, a string
}

// StartLoad begins handshakes with TLS servers on a port, for the names of
// n items, by two clients, at most 400 a second.
func StartLoad(port uint16, n int) *Load {
	l := &Load{stop: make(chan struct{})}
	for worker := range 2 {
		l.wg.Go(func() {
			pace := time.NewTicker(5 * time.Millisecond) // a load, not a test of the processor
			defer pace.Stop()
			for i := worker; ; i += 7 {
				select {
				case <-l.stop:
					return
				case <-pace.C:
					l.handshake(port, Name(i%n)+".test")
				}
			}
		})
	}
	return l
}

func (l *Load) handshake(port uint16, name string) {
	d := &net.Dialer{Timeout: 10 * time.Second}
	c, err := tls.DialWithDialer(d, "tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{ServerName: name, InsecureSkipVerify: true})
	l.n.Add(1)
	if err == nil {
		if got := c.ConnectionState().PeerCertificates[0].DNSNames; len(got) != 1 || got[0] != name {
			err = fmt.Errorf("the certificate is for %v", got)
		}
		c.Close()
	}
	if err != nil {
		l.failed.Add(1)
		l.first.CompareAndSwap(nil, name+": "+err.Error())
	}
}

// Stop ends the load and fails the test if a handshake failed.
func (l *Load) Stop(t testing.TB) {
	t.Helper()
	close(l.stop)
	l.wg.Wait()
	if n := l.failed.Load(); n > 0 {
		t.Errorf("%d of %d handshakes failed during the deployment; the first: %v", n, l.n.Load(), l.first.Load())
	}
	t.Logf("%d handshakes during the deployment", l.n.Load())
}
