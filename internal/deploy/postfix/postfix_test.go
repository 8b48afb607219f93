package postfix_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"chancery/internal/deploy/deploytest"
	"chancery/internal/deploy/postfix"
	"chancery/internal/scan/probe"
	"chancery/internal/testenv"
)

func TestSuite(t *testing.T) {
	bin := testenv.NeedBinary(t, "postfix", "/usr/sbin/postfix")
	if os.Getuid() != 0 {
		testenv.Skip(t, "postfix starts as root only")
	}
	dir, port := deploytest.Dir(t), deploytest.Port(t)
	conf := dir + "/conf"
	deploytest.WriteFile(t, conf+"/main.cf", fmt.Sprintf(`compatibility_level = 3.6
queue_directory = %[1]s/spool
data_directory = %[1]s/data
config_directory = %[1]s/conf
daemon_directory = /usr/lib/postfix/sbin
command_directory = /usr/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = mail.test
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
maillog_file = %[1]s/log
maillog_file_prefixes = %[1]s
smtpd_tls_security_level = may
smtpd_tls_chain_files = %[1]s/live/c000/combined.pem
tls_server_sni_maps = hash:%[1]s/conf/sni
smtpd_tls_session_cache_database =
alias_maps =
`, dir))
	deploytest.WriteFile(t, conf+"/master.cf", fmt.Sprintf(`127.0.0.1:%d inet n - n - - smtpd
postlog unix-dgram n - n - 1 postlogd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
anvil unix - - n - 1 anvil
proxymap unix - - n - - proxymap
`, port))
	var sni strings.Builder
	for i := range 4 {
		fmt.Fprintf(&sni, "%s.test %s/live/%s/combined.pem\n", deploytest.Name(i), dir, deploytest.Name(i))
	}
	deploytest.WriteFile(t, conf+"/sni", sni.String())
	for _, d := range []string{"/spool", "/data"} {
		if err := os.Mkdir(dir+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("chown", "postfix", dir+"/data").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	c := postfix.Kind.Config().(*postfix.Config)
	c.Dir, c.ConfigDir, c.SNIMaps = dir+"/live", conf, []string{"hash:" + conf + "/sni"}
	deploytest.Run(t, deploytest.Suite{
		Kind: postfix.Kind, Config: c, Probe: deploytest.At(probe.SMTP, port),
		Start: func(t *testing.T) {
			if out, err := exec.Command("postmap", "-c", conf, "-F", "hash:"+conf+"/sni").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			deploytest.Start(t, port, syscall.SIGTERM, exec.Command(bin, "-c", conf, "start-fg"))
			t.Cleanup(func() {
				if text, err := os.ReadFile(dir + "/log"); err == nil && t.Failed() {
					t.Logf("%s", text)
				}
			})
		},
		Break: func(t *testing.T) func() { // as if the master did not run: the reload fails
			pid := dir + "/spool/pid/master.pid"
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
	for _, bad := range []string{"sni", "hash:sni", ":/etc/sni", "-x:/etc/sni"} {
		c := postfix.Kind.Config().(*postfix.Config)
		c.Dir, c.SNIMaps = "/nowhere/live", []string{bad}
		if _, err := postfix.Kind.Open(deploytest.Env(t, ""), c); err == nil || !strings.HasPrefix(err.Error(), "sni_maps:") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
