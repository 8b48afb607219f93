package e2e

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"chancery/internal/db/dbtest"
	"chancery/internal/testenv"
)

// TestFirstUse does what a new user does: start `dev`, read what it prints,
// paste the two commands into a shell.
func TestFirstUse(t *testing.T) {
	t.Parallel()
	testenv.NeedBinary(t, "certbot")
	testenv.NeedBinary(t, "curl")
	s, p := startSite(t)
	welcome := p.out.String()
	for what, text := range map[string]string{"directory": p.ready.Directory, "API": p.ready.API, "OCSP": p.ready.OCSP,
		"CRL": p.ready.CRL, "root": p.ready.Root, "token": p.ready.Token, "metrics": p.ready.Metrics} {
		if text == "" || !strings.Contains(welcome, text) {
			t.Errorf("the welcome does not name the %s %q:\n%s", what, text, welcome)
		}
	}
	if p.ready.PID != p.cmd.Process.Pid || p.ready.Root != s.root() {
		t.Errorf("ready file: pid %d, root %s; want %d, %s", p.ready.PID, p.ready.Root, p.cmd.Process.Pid, s.root())
	}
	out := paste(t, welcome, "certbot")
	if !strings.Contains(out, "Successfully received certificate") {
		t.Errorf("certbot says:\n%s", out)
	}
	chain := only(t, filepath.Join(s.data, "certbot", "live", "*", "fullchain.pem"))
	s.judge(t, readFile(t, chain), "demo.localhost")
	if out := paste(t, welcome, "curl"); !strings.Contains(out, "demo.localhost") {
		t.Errorf("the API does not show the new certificate:\n%s", out)
	}
	p.stop()
	s.doctor()
}

// paste runs the line of the welcome that calls the program, as it stands.
func paste(t testing.TB, welcome, program string) string {
	t.Helper()
	for line := range strings.Lines(welcome) {
		if slices.Contains(strings.Fields(line), program) {
			return run(t, tool{name: "sh", args: []string{"-c", line}, dir: t.TempDir()})
		}
	}
	t.Fatalf("the welcome has no line that calls %s:\n%s", program, welcome)
	return ""
}

// TestURLsAnswer asks every URL of the ready file.
func TestURLsAnswer(t *testing.T) {
	t.Parallel()
	s, p := startSite(t)
	for _, c := range []struct{ url, want string }{
		{p.ready.Directory, `"newOrder"`},
		{p.ready.UI, ""},
		{p.ready.CRL, ""},
		{p.ready.Metrics, "certificate_operations_total"},
	} {
		out := run(t, tool{name: "curl", args: []string{"--silent", "--show-error", "--fail", "--output", "-", "--cacert", s.root(), c.url}})
		if !strings.Contains(out, c.want) {
			t.Errorf("%s answers without %q:\n%s", c.url, c.want, short(out))
		}
	}
	var certs struct{ Items []struct{ Names []string } }
	s.callAPI(p, "GET", "/certs?limit=1", "", &certs)
	if len(certs.Items) != 1 {
		t.Errorf("the API lists %+v, want one certificate", certs)
	}
	p.stop()
}

// TestOnlyLoopbackIsOpen reads from the kernel what the process listens on.
func TestOnlyLoopbackIsOpen(t *testing.T) {
	t.Parallel()
	s, p := startSite(t)
	open := listening(t, p.cmd.Process.Pid)
	for _, want := range []string{s.listen, s.plain, s.debug} {
		if !slices.Contains(open, netip.MustParseAddrPort(want)) {
			t.Errorf("%s is not open; open are %v", want, open)
		}
	}
	for _, a := range open {
		if !a.Addr().Unmap().IsLoopback() {
			t.Errorf("%s is open to the world", a)
		}
	}
	p.stop()
}

// listening returns the TCP listeners and bound UDP sockets of a process.
func listening(t testing.TB, pid int) (found []netip.AddrPort) {
	t.Helper()
	ours := map[string]bool{} // inodes
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(fds) == 0 {
		testenv.Skip(t, "/proc does not show the files of a process")
	}
	for _, fd := range fds {
		if link, err := os.Readlink(fd); err == nil && strings.HasPrefix(link, "socket:[") {
			ours[strings.Trim(link, "socket:[]")] = true
		}
	}
	for file, state := range map[string]string{"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"} {
		for line := range strings.Lines(readFile(t, fmt.Sprintf("/proc/%d/net/%s", pid, file))) {
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == state && ours[f[9]] {
				found = append(found, procAddr(t, f[1]))
			}
		}
	}
	return found
}

// procAddr reads an address as /proc/net writes it: hexadecimal, each group of
// four octets in the order of the machine.
func procAddr(t testing.TB, text string) netip.AddrPort {
	t.Helper()
	host, port, _ := strings.Cut(text, ":")
	ip, err1 := hex.DecodeString(host)
	n, err2 := hex.DecodeString(port)
	if err1 != nil || err2 != nil || len(n) != 2 {
		t.Fatalf("address %q", text)
	}
	for i := 0; i+4 <= len(ip); i += 4 {
		slices.Reverse(ip[i : i+4])
	}
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		t.Fatalf("address %q", text)
	}
	return netip.AddrPortFrom(addr, uint16(n[0])<<8|uint16(n[1]))
}

// TestSecondProcessIsRefused starts the program twice on one data directory,
// and once on a port that is taken.
func TestSecondProcessIsRefused(t *testing.T) {
	t.Parallel()
	s, p := startSite(t)
	refused := func(second *site, want string) {
		t.Helper()
		q := second.launch()
		if !q.wait(30 * time.Second) {
			t.Fatal("the second process runs")
		}
		if code := q.state.ExitCode(); code != 1 {
			t.Errorf("exit code %d, want 1", code)
		}
		if text := q.log.String(); !strings.Contains(text, want) {
			t.Errorf("the message does not name %s:\n%s", want, text)
		}
		oneClearLine(t, q.log.String())
	}
	sameData := newSite(t)
	sameData.data = s.data
	refused(sameData, s.data)
	samePort := newSite(t)
	samePort.listen = s.listen
	refused(samePort, s.listen)
	mustIssue(t, s, newClient(t, p), "undisturbed.test") // the first took no harm
	p.stop()
}

// TestRestartKeepsEverything stops the program in good order and starts it
// again: the root, the account and the certificates are the same.
func TestRestartKeepsEverything(t *testing.T) {
	t.Parallel()
	dbtest.EachURL(t, func(t *testing.T, db string) {
		s := newSite(t)
		s.db = db
		p := s.start()
		first := time.Since(p.began)
		root := readFile(t, s.root())
		c := newClient(t, p)
		mustIssue(t, s, c, "one.test")
		s.settle()
		signed := s.signatures()
		p.stop()

		p = s.start()
		t.Logf("ready after %v the first time, %v the second", first.Round(time.Millisecond), time.Since(p.began).Round(time.Millisecond))
		if readFile(t, s.root()) != root {
			t.Error("the restart made another root")
		}
		if n := s.signatures(); n != signed {
			t.Errorf("the restart signed %d times without need", n-signed)
		}
		mustIssue(t, s, c, "two.test")
		p.stop()
		s.doctor()
	})
}

// TestStopsUnderLoad sends SIGTERM while clients are at work: what was taken
// in is answered, and the process ends with 0.
func TestStopsUnderLoad(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.flags = append(s.flags, "--no-limits")
	p := s.start()
	l := startLoad(t, p, 4)
	eventually(t, 30*time.Second, func() error {
		if issued, _ := l.count(); issued < 10 {
			return fmt.Errorf("%d certificates so far", issued)
		}
		return nil
	})
	p.signal(syscall.SIGTERM)
	if !p.wait(30 * time.Second) {
		t.Fatal("the process did not end within 30 s of SIGTERM")
	}
	if code := p.state.ExitCode(); code != 0 {
		t.Errorf("exit code %d, want 0:\n%s", code, p.log.last())
	}
	s.doctor()
	p = s.start()
	l.finish()
	l.keepsPromises()
	p.stop()
	s.doctor()
}

// TestBadConfiguration starts `serve` with files that are wrong.
func TestBadConfiguration(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"unknown key":  {"[server]\nlisten_on = \"127.0.0.1:1\"\n", "server.listen_on"},
		"wrong type":   {"[acme]\nmax_names = \"many\"\n", "acme.max_names"},
		"out of range": {"[acme]\nmax_names = 0\n", "acme.max_names"},
		"no such word": {"[log]\nlevel = \"loud\"\n", "log.level"},
		"not TOML":     {"[server\n", "chancery.toml:"},
	} {
		t.Run(name, func(t *testing.T) {
			file := writeFile(t, filepath.Join(t.TempDir(), "chancery.toml"), c.text, 0o644)
			out, err := tool{name: binary(t), args: []string{"serve", "--config", file}}.call(t)
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 3 {
				t.Errorf("%v, want exit code 3", err)
			}
			if !strings.Contains(out, file) || !strings.Contains(out, c.want) {
				t.Errorf("the message should name %s and %s:\n%s", file, c.want, out)
			}
			if strings.Contains(out, "goroutine") || strings.Count(out, "\n") > 3 {
				t.Errorf("want a short message:\n%s", out)
			}
		})
	}
}

// TestCertificateOfTheHTTPSListener checks that one root serves every client.
func TestCertificateOfTheHTTPSListener(t *testing.T) {
	t.Parallel()
	s, p := startSite(t)
	u, err := url.Parse(p.ready.Directory)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"localhost", "127.0.0.1"} {
		out := run(t, tool{name: "curl", args: []string{"--silent", "--show-error", "--fail", "--cacert", s.root(),
			"https://" + net.JoinHostPort(host, u.Port()) + u.Path}})
		if !strings.Contains(out, "newNonce") {
			t.Errorf("https://%s answers %s", host, short(out))
		}
	}
	p.stop()
}
