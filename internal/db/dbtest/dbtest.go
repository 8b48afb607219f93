// Package dbtest gives tests real databases: SQLite files, and databases in a
// private PostgreSQL cluster that the test process starts and stops.
package dbtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"chancery/internal/db"
)

// Each runs f once per engine, each time on an empty, migrated database.
func Each(t *testing.T, f func(t *testing.T, d *db.DB)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { f(t, Open(t, SQLiteURL(t))) })
	t.Run("postgres", func(t *testing.T) { f(t, Open(t, PostgresURL(t))) })
}

// EachURL runs f once per engine with the URL of an empty database of its own.
func EachURL(t *testing.T, f func(t *testing.T, url string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { f(t, SQLiteURL(t)) })
	t.Run("postgres", func(t *testing.T) { f(t, PostgresURL(t)) })
}

// Open opens and migrates the database at url and closes it with the test.
func Open(t testing.TB, url string) *db.DB {
	t.Helper()
	ctx := context.Background()
	d, err := db.Open(ctx, db.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	if _, err := d.Migrate(ctx, time.Now()); err != nil {
		t.Fatal(err)
	}
	return d
}

// SQLiteURL returns the path of a database file that does not exist yet.
func SQLiteURL(t testing.TB) string { return filepath.Join(t.TempDir(), "chancery.db") }

// PostgresURL creates an empty database and returns its URL. Without
// PostgreSQL on the machine the test is skipped, or fails when CI=true.
func PostgresURL(t testing.TB) string {
	t.Helper()
	c := shared()
	if c.err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(c.err)
		}
		t.Skip("SKIPPED, no PostgreSQL: ", c.err)
	}
	name := fmt.Sprintf("t%d", databases.Add(1))
	conn, err := pgx.Connect(context.Background(), c.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(context.Background(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	return c.URL(name)
}

var (
	shared    = sync.OnceValue(func() *Cluster { return start() })
	started   atomic.Pointer[Cluster]
	databases atomic.Int64
)

// Main runs the tests of a package and then stops the cluster, if they started
// one. Call it from TestMain: os.Exit(dbtest.Main(m)).
func Main(m *testing.M) int {
	code := m.Run()
	if c := started.Load(); c != nil {
		c.Stop()
	}
	return code
}

// Cluster is a private PostgreSQL server on a unix socket and a loopback port.
type Cluster struct {
	dir  string
	cmd  *exec.Cmd
	cred *syscall.Credential
	err  error
}

// binDir finds PostgreSQL's server programs, which Debian keeps off the PATH.
func binDir() (string, error) {
	if p, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(p), nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return "", fmt.Errorf("no initdb on PATH or below /usr/lib/postgresql; install the package postgresql")
	}
	return filepath.Dir(found[len(found)-1]), nil
}

// credential returns the user to run PostgreSQL as: it refuses root.
func credential() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("running as root needs the user postgres: %w", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err1 != nil || err2 != nil {
		return nil, fmt.Errorf("user postgres has no numeric id")
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func start() *Cluster {
	c := &Cluster{}
	started.Store(c)
	c.err = c.start()
	if c.err != nil {
		c.err = fmt.Errorf("start PostgreSQL: %w", c.err)
	}
	return c
}

func (c *Cluster) start() error {
	bin, err := binDir()
	if err != nil {
		return err
	}
	if c.cred, err = credential(); err != nil {
		return err
	}
	if c.dir, err = os.MkdirTemp("", "chancery-pg-"); err != nil {
		return err
	}
	if c.cred != nil {
		if err := os.Chown(c.dir, int(c.cred.Uid), int(c.cred.Gid)); err != nil {
			return err
		}
	}
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", c.dir+"/data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
	initdb.SysProcAttr = &syscall.SysProcAttr{Credential: c.cred}
	initdb.Dir = c.dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return c.run(bin)
}

// run starts the server; it dies with this process even if that is killed.
func (c *Cluster) run(bin string) error {
	log, err := os.Create(c.dir + "/log")
	if err != nil {
		return err
	}
	// No TCP: the socket directory is private to this cluster. fsync stays on
	// by default so that crash tests mean something.
	c.cmd = exec.Command(filepath.Join(bin, "postgres"), "-D", c.dir+"/data", "-k", c.dir, "-c", "listen_addresses=",
		"-c", "max_connections=200", "-c", "shared_buffers=64MB", "-c", "default_transaction_isolation=read committed")
	c.cmd.Stdout, c.cmd.Stderr, c.cmd.Dir = log, log, c.dir
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.cred, Pdeathsig: syscall.SIGQUIT}
	ready := make(chan error, 1)
	go func() { // Pdeathsig follows the thread that forked, so keep it alive
		runtime.LockOSThread()
		ready <- c.cmd.Start()
		select {}
	}()
	if err := <-ready; err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, c.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		if ctx.Err() != nil {
			text, _ := os.ReadFile(c.dir + "/log")
			return fmt.Errorf("%w: %s", err, text)
		}
		select { // the server offers nothing to wait on but its socket
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// URL returns the connection URL of a database in c.
func (c *Cluster) URL(database string) string {
	return "postgres://postgres@/" + database + "?host=" + strings.ReplaceAll(c.dir, "/", "%2F")
}

// Stop ends the server and removes its files.
func (c *Cluster) Stop() {
	if c.cmd != nil && c.cmd.Process != nil && c.cmd.Process.Pid > 1 {
		_ = c.cmd.Process.Signal(syscall.SIGINT) // fast shutdown
		_ = c.cmd.Wait()
	}
	_ = os.RemoveAll(c.dir)
}

// New starts a cluster that the test may stop and start again; it ends with
// the test. Skips like PostgresURL.
func New(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{}
	if err := c.start(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("SKIPPED, no PostgreSQL: ", err)
	}
	t.Cleanup(c.Stop)
	return c
}

// Halt stops the server at once, as a crash would, and keeps its files.
func (c *Cluster) Halt() error {
	if err := c.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		return err
	}
	_ = c.cmd.Wait()
	return nil
}

// Resume starts a halted server again.
func (c *Cluster) Resume() error {
	bin, err := binDir()
	if err != nil {
		return err
	}
	return c.run(bin)
}
