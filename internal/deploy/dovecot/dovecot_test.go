package dovecot_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"chancery/internal/deploy/deploytest"
	"chancery/internal/deploy/dovecot"
	"chancery/internal/scan/probe"
	"chancery/internal/testenv"
)

func TestSuite(t *testing.T) {
	bin := testenv.NeedBinary(t, "dovecot", "/usr/sbin/dovecot")
	doveconf := testenv.NeedBinary(t, "doveconf")
	if os.Getuid() != 0 {
		testenv.Skip(t, "dovecot starts as root only")
	}
	dir, port := deploytest.Dir(t), deploytest.Port(t)
	var b strings.Builder
	fmt.Fprintf(&b, `base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = %[1]s/log
protocols = imap
ssl = required
ssl_min_protocol = TLSv1.2
ssl_cert = <%[1]s/live/c000/fullchain.pem
ssl_key = <%[1]s/live/c000/privkey.pem
mail_location = maildir:%[1]s/mail
passdb {
  driver = static
  args = nopassword=y
}
userdb {
  driver = static
  args = uid=nobody gid=nogroup home=%[1]s
}
service imap-login {
  inet_listener imap {
    address = 127.0.0.1
    port = %[2]d
  }
  inet_listener imaps {
    port = 0
  }
}
`, dir, port)
	for i := range 4 {
		id := deploytest.Name(i)
		fmt.Fprintf(&b, "local_name %s.test {\n  ssl_cert = <%s/live/%s/fullchain.pem\n  ssl_key = <%s/live/%s/privkey.pem\n}\n", id, dir, id, dir, id)
	}
	conf := deploytest.WriteFile(t, dir+"/dovecot.conf", b.String())
	c := dovecot.Kind.Config().(*dovecot.Config)
	c.Dir, c.PIDFile, c.Test = dir+"/live", dir+"/run/master.pid", []string{doveconf, "-c", conf, "-n"}
	deploytest.Run(t, deploytest.Suite{
		Kind: dovecot.Kind, Config: c, Probe: deploytest.At(probe.IMAP, port),
		Start: func(t *testing.T) {
			deploytest.Start(t, port, syscall.SIGTERM, exec.Command(bin, "-F", "-c", conf))
			t.Cleanup(func() {
				if text, err := os.ReadFile(dir + "/log"); err == nil && t.Failed() {
					t.Logf("%s", text)
				}
			})
		},
		Break: func(t *testing.T) func() {
			deploytest.WriteFile(t, conf, b.String()+"nonsense = on\n")
			return func() { deploytest.WriteFile(t, conf, b.String()) }
		},
	})
}
