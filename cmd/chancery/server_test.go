package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/internal/api"
	"chancery/internal/testenv"
)

// shell runs commands as a user would, against one data directory.
type shell struct {
	t   *testing.T
	dir string
}

// out runs a command that must end with code, and returns what it printed.
func (s *shell) out(code int, args ...string) (stdout, stderr string) {
	s.t.Helper()
	var out, errs bytes.Buffer
	args = append(args, "--data", filepath.Join(s.dir, "data"))
	if got := run(s.t.Context(), args, env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs}); got != code {
		s.t.Fatalf("chancery %s: exit %d, want %d\n%s%s", strings.Join(args, " "), got, code, &out, &errs)
	}
	return out.String(), errs.String()
}

// ok runs a command that must work.
func (s *shell) ok(args ...string) string {
	s.t.Helper()
	out, _ := s.out(exitOK, args...)
	return out
}

// path returns a path in the test's directory.
func (s *shell) path(name string) string { return filepath.Join(s.dir, name) }

// lockedBuffer is output that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}
func (l *lockedBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// startDev runs `chancery dev` with more variables of the environment until the
// test ends, and returns a shell for its data directory and everything that it
// prints.
func startDev(t *testing.T, environ ...string) (*shell, *lockedBuffer) {
	t.Helper()
	s, log := &shell{t, t.TempDir()}, &lockedBuffer{}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan int, 1)
	ready := s.path("ready.json")
	args := []string{"dev", "--data", s.path("data"), "--listen", testenv.FreeAddr(t), "--http-listen", testenv.FreeAddr(t), "--debug-listen", "", "--ready-file", ready}
	go func() {
		done <- run(ctx, args, env{stdout: log, stderr: log, environ: append([]string{"CHANCERY_LOG_LEVEL=debug"}, environ...)})
	}()
	t.Cleanup(func() {
		stop()
		if code := <-done; code != exitOK {
			t.Errorf("dev ended with %d: %s", code, log)
		}
	})
	tick := time.NewTicker(10 * time.Millisecond) // the ready file is what users wait for, too
	defer tick.Stop()
	for {
		if _, err := os.Stat(ready); err == nil {
			return s, log
		}
		select {
		case code := <-done:
			done <- code
			t.Fatalf("dev ended with %d: %s", code, log)
		case <-tick.C:
		}
	}
}

// TestCommandsAgainstAServer runs every command that talks to a server against
// the program itself.
func TestCommandsAgainstAServer(t *testing.T) {
	s, log := startDev(t)
	secrets := []string{}

	// Certificates: root, issuing authority and the server's own are the first;
	// the OCSP responder follows when it is needed.
	var list []api.Known
	decode(t, s.ok("certs", "list", "--json"), &list)
	var books []api.Certificate
	if decode(t, s.ok("certs", "issued", "--json"), &books); len(books) < 1 {
		t.Fatalf("%d serial numbers", len(books))
	}
	if len(list) < 3 {
		t.Fatalf("%d certificates", len(list))
	}
	if table := s.ok("certs", "list", "-o", "table", "localhost"); !regexp.MustCompile(`(?m)^127.0.0.1,::1,localhost +active +20`).MatchString(table) {
		t.Error(table)
	}
	_, errs := s.out(exitOK, "certs", "list", "--limit", "1")
	if !strings.Contains(errs, "more than these 1") {
		t.Error("a short list does not say so:", errs)
	}
	if _, errs := s.out(exitFailed, "certs", "list", "profile:tls"); !strings.Contains(errs, "keys are: owner") {
		t.Error(errs)
	}
	shown := s.ok("certs", "show", "localhost", "-o", "tsv")
	serial := regexp.MustCompile(`(?m)^serial\t(\w+)$`).FindStringSubmatch(shown)
	if serial == nil || !strings.Contains(shown, "event\t") {
		t.Fatal(shown)
	}
	if chain := s.ok("certs", "get", serial[1]); strings.Count(chain, "BEGIN CERTIFICATE") != 2 {
		t.Error(chain)
	}
	s.ok("certs", "get", "localhost", "--format", "der", "--out", s.path("leaf.cer"))
	if info, err := os.Stat(s.path("leaf.cer")); err != nil || info.Size() < 300 {
		t.Error(info, err)
	}
	rows, err := csv.NewReader(strings.NewReader(s.ok("certs", "export"))).ReadAll()
	if err != nil || len(rows) < 4 || rows[0][0] != "names" {
		t.Error(rows, err)
	}
	if lines := s.ok("certs", "export", "--format", "jsonl", "status:issued"); strings.Count(lines, "\n") < 3 {
		t.Error(lines)
	}

	// Revocation: plan, then act; once.
	if plan := s.ok("certs", "revoke", "--query", "localhost", "--dry-run"); !strings.Contains(plan, "would revoke 1 certificates") {
		t.Error(plan)
	}
	if dry := s.ok("certs", "revoke", "localhost", "--dry-run"); !strings.HasPrefix(dry, "would revoke 1") {
		t.Error(dry)
	}
	if done := s.ok("certs", "revoke", "localhost", "--reason", "superseded", "-o", "tsv"); !strings.Contains(done, "revoked") {
		t.Error(done)
	}
	if _, errs := s.out(exitFailed, "certs", "revoke", serial[1]); !strings.Contains(errs, "already revoked") {
		t.Error(errs)
	}
	eventually(t, "no active certificate has the name", func() bool {
		return s.ok("certs", "list", "status:revoked", "name:localhost", "-o", "tsv") != s.ok("certs", "list", "name:nothing.test", "-o", "tsv")
	})
	s.out(exitFailed, "certs", "show", "localhost")
	if all := s.ok("certs", "revoke", "--query", "status:revoked"); !strings.Contains(all, "would revoke 0") {
		t.Error(all)
	}

	authorities(t, s)

	// Binding keys and tokens show their secret once.
	var key api.NewEABKey
	decode(t, s.ok("acme", "eab", "create", "--label", "team pay", "--expires", "7d", "--json"), &key)
	if keys := s.ok("acme", "eab", "list", "-o", "tsv"); !strings.Contains(keys, "team pay") || strings.Contains(keys, key.Secret) {
		t.Error(keys)
	}
	s.ok("acme", "eab", "revoke", key.ID, "--dry-run")
	s.ok("acme", "eab", "revoke", key.ID)
	s.out(exitFailed, "acme", "eab", "revoke", key.ID)
	if accounts := s.ok("acme", "accounts", "list") + s.ok("acme", "orders", "list"); !strings.HasPrefix(accounts, "id\tca\tstate") {
		t.Error(accounts)
	}
	s.out(exitFailed, "acme", "accounts", "show", "nothing")
	s.out(exitFailed, "acme", "orders", "show", "nothing")
	s.out(exitFailed, "acme", "accounts", "deactivate", "nothing", "--dry-run")

	limits(t, s)

	var made api.NewToken
	decode(t, s.ok("config", "token", "create", "watcher", "--expires", "1d", "--json"), &made)
	secrets = append(secrets, made.Secret[30:], key.Secret)
	asViewer(t, s, made.Secret)
	s.ok("config", "token", "revoke", made.ID)
	if tokens := s.ok("config", "token", "list"); !strings.Contains(tokens, "watcher\tviewer\tfalse") {
		t.Error(tokens)
	}

	if verified := s.ok("audit", "verify"); !strings.HasPrefix(verified, "journal\twhole\n") {
		t.Error(verified)
	}
	provenJournal(t, s)
	if entries := s.ok("audit", "list", "--subject", "token:"+made.ID); strings.Count(entries, "\n") != 3 || !strings.Contains(entries, "token.revoke") {
		t.Error(entries)
	}
	for _, secret := range secrets {
		if strings.Contains(log.String(), secret) {
			t.Error("the server's log holds a secret")
		}
	}
	backupWhileServing(t, s)
}

// provenJournal exports the journal and proves one of its entries.
func provenJournal(t *testing.T, s *shell) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(s.ok("audit", "export")), "\n")
	if rest := s.ok("audit", "export", "--after", fmt.Sprint(len(lines)-1)); strings.TrimSpace(rest) != lines[len(lines)-1] {
		t.Error(rest)
	}
	var all []api.Checkpoint
	decode(t, s.ok("audit", "checkpoints", "--json"), &all)
	if len(all) == 0 {
		t.Fatal("no checkpoint was signed at the start")
	}
	key, file := strings.TrimSpace(s.ok("audit", "key")), filepath.Join(t.TempDir(), "entry.proof")
	if err := os.WriteFile(file, []byte(s.ok("audit", "prove", "1")), 0o600); err != nil {
		t.Fatal(err)
	}
	if entry := strings.TrimSpace(s.ok("audit", "check", file, "--key", key)); entry != lines[0] {
		t.Errorf("proved %s, exported %s", entry, lines[0])
	}
	s.out(exitFailed, "audit", "prove", "99999999")
	s.out(exitUsage, "audit", "check", file)
	s.out(exitProblems, "audit", "check", file, "--key", "localhost+de1ce7d6+AZ3hd2Z6NnIE2MKvkrJFgSDDwQ3dgG5bRyYuCWDEGL4J")
}

// limits gives an address and a domain rates of their own.
func limits(t *testing.T, s *shell) {
	t.Helper()
	if list := s.ok("acme", "limits", "list"); !strings.Contains(list, "orders_per_account\taccount\t3000 per 3h\n") {
		t.Error(list)
	}
	s.ok("acme", "limits", "set", "accounts_per_ip", "192.0.2.7", "denied", "--dry-run")
	if none := s.ok("acme", "limits", "overrides"); strings.Contains(none, "192.0.2.7") {
		t.Error(none)
	}
	s.ok("acme", "limits", "set", "accounts_per_ip", "192.0.2.7", "denied", "--note", "ticket 7", "--expires", "7d")
	if got := s.ok("acme", "limits", "set", "certificates_per_domain", "www.example.com", "unlimited"); !strings.Contains(got, "key\texample.com\n") {
		t.Error(got)
	}
	if list := s.ok("acme", "limits", "overrides"); !strings.Contains(list, "accounts_per_ip\t192.0.2.7\tdenied\t20") || !strings.Contains(list, "ticket 7") {
		t.Error(list)
	}
	if _, errs := s.out(exitFailed, "acme", "limits", "set", "orders_per_account", "nobody", "1 per 1h"); !strings.Contains(errs, "account") {
		t.Error(errs)
	}
	s.out(exitUsage, "acme", "limits", "set", "accounts_per_ip", "192.0.2.7")
	s.ok("acme", "limits", "drop", "accounts_per_ip", "192.0.2.7", "--dry-run")
	s.ok("acme", "limits", "drop", "accounts_per_ip", "192.0.2.7")
	s.out(exitFailed, "acme", "limits", "drop", "accounts_per_ip", "192.0.2.7")
	s.ok("acme", "limits", "drop", "certificates_per_domain", "example.com")
}

// authorities makes a second CA whose root is, as it were, elsewhere.
func authorities(t *testing.T, s *shell) {
	t.Helper()
	s.ok("ca", "init", "--ca", "corp", "--dry-run")
	s.ok("ca", "init", "--ca", "corp", "--root-only", "--key-type", "ed25519")
	var roots []api.Authority
	decode(t, s.ok("ca", "list", "--json"), &roots)
	root := roots[len(roots)-1].Name
	if !strings.HasPrefix(root, "corp-root-") {
		t.Fatal(root)
	}
	s.ok("ca", "init", "--ca", "corp", "--root", root, "--shards", "2")
	csr, next := s.out(exitOK, "ca", "csr", "--ca", "edge")
	name := regexp.MustCompile(`next: chancery ca import (\S+)`).FindStringSubmatch(next)
	if name == nil {
		t.Fatal(next)
	}
	write(t, s.path("edge.csr"), csr)
	s.ok("ca", "sign", root, s.path("edge.csr"), "--dry-run")
	s.ok("ca", "sign", root, s.path("edge.csr"), "--period", "365d", "--out", s.path("edge.pem"))
	s.ok("ca", "import", name[1], s.path("edge.pem"), "--dry-run")
	if got := s.ok("ca", "import", name[1], s.path("edge.pem")); !strings.Contains(got, "state\tactive") {
		t.Error(got)
	}
	s.out(exitFailed, "ca", "cross-sign", name[1], s.path("edge.pem")) // its own certificate
	s.ok("ca", "sign", root, s.path("edge.csr"), "--period", "300d", "--out", s.path("cross.pem"))
	if got := s.ok("ca", "cross-sign", name[1], s.path("cross.pem")); !strings.Contains(got, "chains\t2") {
		t.Error(got)
	}
	if got := s.ok("ca", "show", root, "--pem"); !strings.HasPrefix(got, "-----BEGIN CERTIFICATE") {
		t.Error(got)
	}
	s.ok("ca", "retire", name[1], "--dry-run")
	if got := s.ok("ca", "retire", name[1], "-o", "yaml"); !strings.Contains(got, "state: retired") {
		t.Error(got)
	}
	if got := s.ok("ca", "profiles"); !strings.HasPrefix(got, "name\tperiod") {
		t.Error(got)
	}
}

// asViewer checks that a viewer's token reads and changes nothing.
func asViewer(t *testing.T, s *shell, text string) {
	t.Helper()
	write(t, s.path("viewer.token"), text+"\n")
	as := func(args ...string) []string { return append(args, "--token-file", s.path("viewer.token")) }
	s.ok(as("certs", "list")...)
	for _, args := range [][]string{{"ca", "init", "--ca", "other"}, {"ca", "csr", "--ca", "other"}, {"config", "token", "list"},
		{"config", "token", "create", "x", "--role", "admin"}, {"acme", "eab", "list"}, {"acme", "limits", "set", "accounts_per_ip", "192.0.2.7", "unlimited"}, {"certs", "revoke", "--query", "*.test", "--yes"}} {
		if _, errs := s.out(exitFailed, as(args...)...); !strings.Contains(errs, "needs the permission") || strings.Contains(errs, text) {
			t.Errorf("%v: %s", args, errs)
		}
	}
}

// backupWhileServing backs the running installation up and restores it beside.
func backupWhileServing(t *testing.T, s *shell) {
	t.Helper()
	s.ok("backup", s.path("b.tar.gz"), "--dry-run")
	s.ok("backup", s.path("b.tar.gz"))
	s.out(exitFailed, "backup", s.path("b.tar.gz"))
	if got := s.ok("migrate", "--dry-run"); got != "the schema is up to date\n" {
		t.Error(got)
	}
	beside := &shell{t, filepath.Join(s.dir, "beside")}
	if got := beside.ok("restore", s.path("b.tar.gz"), "--dry-run"); !strings.Contains(got, "would restore") {
		t.Error(got)
	}
	beside.ok("restore", s.path("b.tar.gz"))
	beside.out(exitFailed, "restore", s.path("b.tar.gz"))
	if got := beside.ok("doctor", "issuance"); !strings.Contains(got, "all hold") {
		t.Error(got)
	}
}

func decode(t *testing.T, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatal(err, text)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
