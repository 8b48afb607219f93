package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"chancery/internal/testenv"
)

// network is a small internet of network namespaces: machines on one link,
// each with routes of its own. Whoever changes the route of one machine does
// what a hijacked BGP announcement does to it.
type network struct {
	t      testing.TB
	prefix string // of the names of namespaces, different for each process
}

// hub is the machine that is the link itself; the test runs its own sockets there.
const hub = "hub"

// newNetwork makes a network with a hub of 10.77.0.1.
func newNetwork(t testing.TB) *network {
	t.Helper()
	testenv.NeedBinary(t, "ip", "/usr/sbin/ip", "/sbin/ip")
	n := &network{t: t, prefix: fmt.Sprintf("chy%d-", os.Getpid())}
	if out, err := ip("netns", "add", n.prefix+hub); err != nil {
		testenv.Skip(t, "network namespaces cannot be made here: "+out)
	}
	t.Cleanup(func() { n.remove(hub) })
	n.do(hub, "link", "set", "lo", "up")
	n.do(hub, "link", "add", "br0", "type", "bridge")
	n.do(hub, "addr", "add", "10.77.0.1/24", "dev", "br0")
	n.do(hub, "link", "set", "br0", "up")
	return n
}

// machine adds one with the address 10.77.0.HOST.
func (n *network) machine(name string, host int) {
	n.t.Helper()
	if out, err := ip("netns", "add", n.prefix+name); err != nil {
		n.t.Fatalf("ip netns add: %v: %s", err, out)
	}
	n.t.Cleanup(func() { n.remove(name) })
	port := fmt.Sprintf("v%d", host)
	n.do(hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", n.prefix+name)
	n.do(hub, "link", "set", port, "master", "br0", "up")
	n.do(name, "link", "set", "lo", "up")
	n.do(name, "addr", "add", fmt.Sprintf("10.77.0.%d/24", host), "dev", "eth0")
	n.do(name, "link", "set", "eth0", "up")
}

// route makes a machine send what is for an address to another machine.
func (n *network) route(name, to, via string) {
	n.t.Helper()
	n.do(name, "route", "replace", to, "via", via)
}

// remove deletes a namespace; what runs in it has ended by then, or ends with
// the test.
func (n *network) remove(name string) {
	if out, err := ip("netns", "del", n.prefix+name); err != nil {
		n.t.Errorf("ip netns del: %v: %s", err, out)
	}
}

// do configures one machine.
func (n *network) do(name string, args ...string) {
	n.t.Helper()
	if out, err := ip(append([]string{"-n", n.prefix + name}, args...)...); err != nil {
		n.t.Fatalf("ip -n %s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

func ip(args ...string) (string, error) {
	out, err := exec.Command("ip", args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// command is a command on a machine.
func (n *network) command(name, program string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", n.prefix + name, program}, args...)...)
}

// on runs f with a thread that is on a machine: the sockets that f makes are
// that machine's for as long as they live. The thread ends with f.
func (n *network) on(name string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: nobody else may get this thread
		ns, err := os.Open("/var/run/netns/" + n.prefix + name)
		if err != nil {
			done <- err
			return
		}
		defer ns.Close()
		if _, _, errno := syscall.RawSyscall(sysSetns, ns.Fd(), syscall.CLONE_NEWNET, 0); errno != 0 {
			done <- fmt.Errorf("setns: %w", errno)
			return
		}
		done <- f()
	}()
	return <-done
}

// listen opens a TCP listener on a machine.
func (n *network) listen(name, addr string) net.Listener {
	n.t.Helper()
	var ln net.Listener
	if err := n.on(name, func() (err error) { ln, err = net.Listen("tcp4", addr); return err }); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { ln.Close() })
	return ln
}

// dial connects from the hub. The address is not a name, so the dialling
// happens in the calling thread.
func (n *network) dial(ctx context.Context, _, addr string) (conn net.Conn, err error) {
	d := net.Dialer{FallbackDelay: -1}
	err = n.on(hub, func() (err error) { conn, err = d.DialContext(ctx, "tcp4", addr); return err })
	return conn, err
}
