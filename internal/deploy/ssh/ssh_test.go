package ssh_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"chancery/internal/deploy"
	"chancery/internal/deploy/deploytest"
	sshtarget "chancery/internal/deploy/ssh"
	"chancery/internal/testenv"
)

// key writes an OpenSSH key pair and returns the public line.
func key(t *testing.T, path string) string {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	line, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return string(ssh.MarshalAuthorizedKey(line))
}

// start starts OpenSSH's server and returns the configuration of a target.
func start(t *testing.T) (dir string, c *sshtarget.Config) {
	t.Helper()
	bin := testenv.NeedBinary(t, "sshd", "/usr/sbin/sshd")
	dir = deploytest.Dir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	port := deploytest.Port(t)
	host := key(t, dir+"/host")
	deploytest.WriteFile(t, dir+"/authorized", key(t, dir+"/client"))
	conf := deploytest.WriteFile(t, dir+"/sshd_config", fmt.Sprintf("ListenAddress 127.0.0.1\nPort %d\nHostKey %s/host\nAuthorizedKeysFile %s/authorized\nPidFile none\nStrictModes no\nUsePAM no\nSetEnv HOME=%s\nPermitRootLogin yes\nPasswordAuthentication no\n", port, dir, dir, dir))
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		testenv.Skip(t, "cannot make /run/sshd for the server")
	}
	deploytest.Start(t, port, syscall.SIGTERM, exec.Command(bin, "-D", "-e", "-f", conf))
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	c = sshtarget.Kind.Config().(*sshtarget.Config)
	c.Address, c.User, c.KeyFile, c.Dir = fmt.Sprintf("127.0.0.1:%d", port), me.Username, dir+"/client", dir+"/live"
	c.KnownHosts = deploytest.WriteFile(t, dir+"/known_hosts", fmt.Sprintf("[127.0.0.1]:%d %s", port, host))
	c.Reload = []string{"/bin/sh", "-c", "echo reload >> \"$0\"; test ! -e \"$0.broken\"", dir + "/reloads"}
	return dir, c
}

func TestSuite(t *testing.T) {
	dir, c := start(t)
	deploytest.Run(t, deploytest.Suite{
		Kind: sshtarget.Kind, Config: c,
		Served: func(item *deploy.Item) error {
			pair, err := tls.LoadX509KeyPair(filepath.Join(c.Dir, item.ID, "fullchain.pem"), filepath.Join(c.Dir, item.ID, "privkey.pem"))
			if err == nil && sha256.Sum256(pair.Certificate[0]) != sha256.Sum256(item.Chain[0]) {
				err = errors.New("another certificate")
			}
			return err
		},
		Break: func(t *testing.T) func() {
			file := deploytest.WriteFile(t, dir+"/reloads.broken", "")
			return func() { os.Remove(file) }
		},
		Spoil: func(item *deploy.Item) { item.Key = nil },
	})
	for pattern, want := range map[string]int{".live/v*": 1, ".live/items/*": 4, ".live/items/*/*": 8} {
		if found, err := filepath.Glob(filepath.Join(dir, pattern)); err != nil || len(found) != want {
			t.Errorf("%s: %d, want %d", pattern, len(found), want)
		}
	}
	if info, err := os.Stat(c.Dir + "/c000/privkey.pem"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

// Names with dots, as IDs mostly are, survive the removal of old files.
func TestDots(t *testing.T) {
	_, c := start(t)
	ca := deploytest.NewCA(t)
	items := []deploy.Item{ca.Item(t, "www.example.com", "www.example.com"), ca.Item(t, "www.example.com.2", "x.test"), ca.Item(t, "_.example.com", "*.example.com")}
	for range 3 {
		target, err := sshtarget.Kind.Open(deploytest.Env(t, deploytest.State(t)), c)
		if err != nil {
			t.Fatal(err)
		}
		deploytest.AllLive(t, deploy.Run(t.Context(), target, items[:2], deploy.Options{}))
		items[0], items[2] = items[2], items[0]
	}
	for _, item := range items {
		if _, err := os.Stat(filepath.Join(c.Dir, item.ID, "privkey.pem")); err != nil {
			t.Error(err)
		}
	}
}

// A server with another key is not the server; nothing is sent to it.
func TestHostKeyIsPinned(t *testing.T) {
	dir, c := start(t)
	target, err := sshtarget.Kind.Open(deploytest.Env(t, deploytest.State(t)), c)
	if err != nil {
		t.Fatal(err)
	}
	right, err := os.ReadFile(c.KnownHosts)
	if err != nil {
		t.Fatal(err)
	}
	address, _, _ := strings.Cut(string(right), " ")
	for name, text := range map[string]string{"another": address + " " + key(t, dir+"/other"), "none": ""} {
		deploytest.WriteFile(t, c.KnownHosts, text)
		out := deploy.Run(t.Context(), target, deploytest.NewCA(t).Items(t, 1), deploy.Options{})
		if out[0].Live || !strings.Contains(out[0].Err.Error(), "knownhosts: key") {
			t.Errorf("%s: %+v", name, out[0])
		}
	}
	if _, err := os.Stat(dir + "/.live"); err == nil {
		t.Error("files were sent")
	}
}

func TestConfig(t *testing.T) {
	for name, change := range map[string]func(*sshtarget.Config){
		"address:": func(c *sshtarget.Config) { c.Address = "" }, "key_file:": func(c *sshtarget.Config) { c.KeyFile = "" },
		"known_hosts:": func(c *sshtarget.Config) { c.KnownHosts = "" }, "files: names": func(c *sshtarget.Config) { c.Files = nil },
		"files: \"keystore": func(c *sshtarget.Config) { c.Files = []string{"keystore.p12"} }, "dir:": func(c *sshtarget.Config) { c.Dir = "/x/$(reboot)" },
	} {
		c := sshtarget.Kind.Config().(*sshtarget.Config)
		c.Address, c.KeyFile, c.KnownHosts, c.Dir = "127.0.0.1:22", "/k", "/h", "/etc/live"
		change(c)
		if _, err := sshtarget.Kind.Open(deploytest.Env(t, ""), c); err == nil || !strings.HasPrefix(err.Error(), name) {
			t.Errorf("want %q, got %v", name, err)
		}
	}
}
