package e2e

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"chancery/internal/acme"
	"chancery/internal/db/dbtest"
	"chancery/internal/testenv"
)

// mustBeUnavailable fails the test unless r says in the protocol's words that
// the server is out of order and when to come back (RFC 7807, RFC 9110
// section 10.2.3).
func mustBeUnavailable(t testing.TB, r *reply) {
	t.Helper()
	p := r.problem()
	if r.status != http.StatusServiceUnavailable || p == nil {
		t.Fatalf("status %d, want 503: %s", r.status, r.body)
	}
	if s, err := strconv.Atoi(r.header.Get("Retry-After")); err != nil || s < 1 {
		t.Errorf("Retry-After is %q, want whole seconds", r.header.Get("Retry-After"))
	}
	if got := r.header.Get("Content-Type"); got != acme.ProblemType {
		t.Errorf("content type is %q, want %s", got, acme.ProblemType)
	}
	if p.Code() != "serverInternal" || p.Detail == "" || strings.Contains(p.Detail, "internal error") {
		t.Errorf("the problem should say what is wrong: %v", p)
	}
}

// mustIssue gets a certificate from a server that is in order.
func mustIssue(t testing.TB, s *site, c *client, name string) {
	t.Helper()
	s.resolve(name)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l := &load{t: t, site: s, roots: s.roots(), ctx: ctx}
	if _, _, err := l.obtain(ctx, c, name); err != nil {
		t.Fatal(err)
	}
}

// halfway brings an order to the point where only finalize is missing.
func halfway(t testing.TB, s *site, c *client, name string) (url string, o acme.Order, body acme.Finalize) {
	t.Helper()
	s.resolve(name)
	url, o, err := c.order(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := request(newKey(t), name)
	if err != nil {
		t.Fatal(err)
	}
	return url, o, acme.Finalize{CSR: base64.RawURLEncoding.EncodeToString(csr)}
}

// TestDatabaseDown stops PostgreSQL under a running server.
func TestDatabaseDown(t *testing.T) {
	t.Parallel()
	cluster := dbtest.New(t)
	s := newSite(t)
	s.db = cluster.URL("postgres")
	p := s.start()
	c := newClient(t, p)
	mustIssue(t, s, c, "before.test")
	s.settle()
	_, o, body := halfway(t, s, c, "during.test")
	signed := s.signatures()

	if err := cluster.Halt(); err != nil {
		t.Fatal(err)
	}
	for what, call := range map[string]func() (*reply, error){
		"new order": func() (*reply, error) {
			return c.once(t.Context(), c.dir.NewOrder, acme.NewOrder{Identifiers: []acme.Identifier{{Type: "dns", Value: "down.test"}}})
		},
		"finalize": func() (*reply, error) { return c.once(t.Context(), o.Finalize, body) },
	} {
		r, err := call()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		mustBeUnavailable(t, r)
	}
	if n := s.signatures() - signed; n != 0 {
		t.Errorf("%d signatures were made while nothing could be recorded", n)
	}
	if err := cluster.Resume(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.post(t.Context(), o.Finalize, body, &o); err != nil || o.Status != acme.OrderValid {
		t.Errorf("the order of before the outage is %s (%v), want valid", o.Status, err)
	}
	mustIssue(t, s, c, "after.test")
	p.stop()
	s.doctor()
}

// TestDiskFull fills the file system of the data directory.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	disk := mountSmall(t)
	s.data = filepath.Join(disk, "data")
	p := s.start()
	c := newClient(t, p)
	mustIssue(t, s, c, "before.test")
	s.settle()
	_, o, body := halfway(t, s, c, "during.test")
	signed := s.signatures()

	filler := filepath.Join(disk, "filler")
	fill(t, filler)
	r := c.untilRefused(t, o.Finalize, body)
	mustBeUnavailable(t, r)
	if n := s.signatures() - signed; n != 0 {
		t.Errorf("%d signatures were made while nothing could be recorded", n)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if _, err := c.post(t.Context(), o.Finalize, body, &o); err != nil || o.Status != acme.OrderValid {
		t.Errorf("the order of before the outage is %s (%v), want valid", o.Status, err)
	}
	mustIssue(t, s, c, "after.test")
	p.stop()
	s.doctor()
}

// untilRefused sends a request that a server without room must refuse.
func (c *client) untilRefused(t testing.TB, url string, payload any) *reply {
	t.Helper()
	r, err := c.once(t.Context(), url, payload)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// mountSmall mounts a file system that is soon full.
func mountSmall(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m,mode=0700"); err != nil {
		t.Skipf("SKIPPED: mounting a small file system is not permitted: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// fill writes a file until the disk is full to the last octet.
func fill(t testing.TB, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 64 << 10; size > 0; size /= 4 {
		for err == nil {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		err = nil
	}
}

// TestDirectoryThatCannotBeUsed starts the program where it may not write.
func TestDirectoryThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(t *testing.T, s *site){
		"not writable": func(t *testing.T, s *site) {
			if err := os.MkdirAll(s.data, 0o555); err != nil {
				t.Fatal(err)
			}
		},
		"below a file": func(t *testing.T, s *site) {
			s.data = filepath.Join(writeFile(t, s.data, "", 0o644), "data")
		},
		"keys of another user": func(t *testing.T, s *site) {
			writeFile(t, filepath.Join(s.data, "keys", "passphrase"), "secret\n", 0o600)
			for _, dir := range []string{s.data, filepath.Join(s.data, "keys")} {
				if err := os.Chmod(dir, 0o777); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			prepare(t, s)
			code, text := s.fails(t)
			if code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
			if !strings.Contains(text, s.data) {
				t.Errorf("the message does not name the directory %s:\n%s", s.data, text)
			}
			oneClearLine(t, text)
		})
	}
}

// oneClearLine checks what a user sees when the program cannot start: one
// message, perhaps followed by the next command to try, and never a trace.
func oneClearLine(t testing.TB, text string) {
	t.Helper()
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > 2 || len(lines) == 2 && !strings.HasPrefix(lines[1], "next: ") || !strings.HasPrefix(lines[0], "chancery: ") {
		t.Errorf("want one line that begins \"chancery: \", got:\n%s", text)
	}
	for _, word := range []string{"goroutine", "panic", ".go:", "errno", "%!"} {
		if strings.Contains(text, word) {
			t.Errorf("the message contains %q:\n%s", word, text)
		}
	}
}

// fails starts the program, as a user without special rights, and expects that
// it ends by itself.
func (s *site) fails(t testing.TB) (code int, stderr string) {
	t.Helper()
	p := s.prepare()
	p.cmd.SysProcAttr = unprivileged(t)
	if err := p.begin(); err != nil {
		t.Fatal(err)
	}
	if !p.wait(30 * time.Second) {
		t.Fatalf("the program runs, and should not:\n%s", p.log.last())
	}
	return p.state.ExitCode(), p.log.String()
}

// unprivileged makes a child run as nobody when this is root, to whom no
// permission is denied.
func unprivileged(t testing.TB) *syscall.SysProcAttr {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		testenv.Skip(t, "there is no user without rights: "+err.Error())
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

// TestFinalizeTwiceAtOnce sends the same finalize request twice at the same
// time, as a client behind a proxy that retries does: one certificate is
// signed, and both answers lead to it.
func TestFinalizeTwiceAtOnce(t *testing.T) {
	t.Parallel()
	dbtest.EachURL(t, func(t *testing.T, db string) {
		s := newSite(t)
		s.db = db
		p := s.start()
		c := newClient(t, p)
		for round := range 5 {
			url, o, body := halfway(t, s, c, fmt.Sprintf("twice%d.test", round))
			began := time.Now()
			urls := finalizeAtOnce(t, c, url, o, body, 2)
			t.Logf("both answered after %v", time.Since(began).Round(time.Millisecond))
			if urls[0] != urls[1] {
				t.Errorf("two answers name two certificates: %v", urls)
			}
			if n := s.count(qSerials, path.Base(url)); n != 1 {
				t.Errorf("%d serials were used for one order", n)
			}
		}
		p.stop()
		s.doctor()
	})
}

// finalizeAtOnce finalizes an order n times at once and returns the URLs of
// the certificates that the answers lead to.
func finalizeAtOnce(t testing.TB, c *client, url string, o acme.Order, body acme.Finalize, n int) []string {
	t.Helper()
	urls := make([]string, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			r, err := c.once(t.Context(), o.Finalize, body)
			if err != nil {
				t.Error(err)
				return
			}
			if p := r.problem(); p != nil {
				t.Errorf("one of two equal requests was refused: %v", p)
				return
			}
			var o acme.Order
			if err := c.await(t.Context(), url, &o, func() bool { return o.Status == acme.OrderValid }); err != nil {
				t.Error(err)
			}
			urls[i] = o.Certificate
		})
	}
	all.Wait()
	return urls
}
