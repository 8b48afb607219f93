package postgresql_test

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"chancery/internal/deploy/deploytest"
	"chancery/internal/deploy/postgresql"
	"chancery/internal/scan/probe"
	"chancery/internal/testenv"
)

// as makes a command run as a user, where we are root.
func as(t *testing.T, name string, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	if os.Getuid() != 0 {
		return cmd
	}
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	cmd.Dir = "/"
	return cmd
}

// PostgreSQL has one certificate for all names: the suite's items are its
// names in turn, of which the server uses the first.
func TestSuite(t *testing.T) {
	initdb := testenv.NeedBinary(t, "initdb", "/usr/lib/postgresql/*/bin/initdb")
	dir, port := deploytest.Dir(t), deploytest.Port(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	if out, err := as(t, "postgres", exec.Command(initdb, "-D", data, "-A", "trust", "-N", "--no-instructions")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	settings := fmt.Sprintf("listen_addresses = '127.0.0.1'\nport = %d\nunix_socket_directories = ''\nssl = on\nfsync = off\nssl_cert_file = '%[2]s/live/c000/fullchain.pem'\nssl_key_file = '%[2]s/live/c000/privkey.pem'\n", port, dir)
	f, err := os.OpenFile(data+"/postgresql.conf", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(settings); err != nil || f.Close() != nil {
		t.Fatal(err)
	}
	c := postgresql.Kind.Config().(*postgresql.Config)
	c.Dir, c.Data = dir+"/live", data
	if os.Getuid() != 0 {
		c.Owner = ""
	}
	deploytest.Run(t, deploytest.Suite{
		Kind: postgresql.Kind, Config: c, Probe: deploytest.At(probe.Postgres, port), One: true,
		Start: func(t *testing.T) {
			deploytest.Start(t, port, syscall.SIGINT, as(t, "postgres", exec.Command(filepath.Join(filepath.Dir(initdb), "postgres"), "-D", data)))
		},
		Break: func(t *testing.T) func() {
			pid := data + "/postmaster.pid"
			if err := os.Rename(pid, dir+"/away"); err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := os.Rename(dir+"/away", pid); err != nil {
					t.Fatal(err)
				}
			}
		},
	})
}

func TestConfig(t *testing.T) {
	c := postgresql.Kind.Config().(*postgresql.Config)
	c.Dir = "/nowhere/live"
	if _, err := postgresql.Kind.Open(deploytest.Env(t, ""), c); err == nil || !strings.HasPrefix(err.Error(), "data:") {
		t.Errorf("%v", err)
	}
}
