package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"chancery/internal/testenv"
)

// lego is an installation of lego 4 with a directory of its own.
type lego struct {
	site   *site
	server string
	dir    string
	env    []string
	flags  []string // global flags: names and the challenge
}

func newLego(t *testing.T, p *process, flags ...string) *lego {
	t.Helper()
	testenv.NeedBinary(t, "lego")
	return &lego{site: p.site, server: p.ready.Directory, dir: t.TempDir(), flags: flags,
		env: []string{"LEGO_CA_CERTIFICATES=" + p.site.root()}}
}

func (l *lego) run(t *testing.T, command ...string) {
	t.Helper()
	args := append([]string{"--server", l.server, "--path", l.dir, "--accept-tos", "--email", "ops@lego.test"}, l.flags...)
	run(t, tool{name: "lego", args: append(args, command...), env: l.env})
}

// chain returns the chain of the certificate whose first name is given.
func (l *lego) chain(t *testing.T, name string) string {
	t.Helper()
	return readFile(t, filepath.Join(l.dir, "certificates", strings.ReplaceAll(name, "*", "_")+".crt"))
}

// lifecycle issues, renews and revokes.
func (l *lego) lifecycle(t *testing.T, names ...string) {
	t.Helper()
	l.flags = append(l.flags, eachFlag("--domains", names)...)
	l.run(t, "run")
	first := l.site.judge(t, l.chain(t, names[0]), names...)
	l.run(t, "renew", "--days", "1000", "--no-random-sleep")
	second := l.site.judge(t, l.chain(t, names[0]), names...)
	if first.cert.SerialNumber.Cmp(second.cert.SerialNumber) == 0 {
		t.Error("the renewed certificate has the serial of the first")
	}
	second.agree(t, good)
	l.flags = l.flags[:len(l.flags)-2*(len(names)-1)] // it would look for a certificate of each name
	l.run(t, "revoke", "--reason", "4")
	second.agree(t, revoked)
	first.agree(t, good)
}

func TestLegoByHTTP(t *testing.T) {
	t.Parallel()
	s, p := startSite(t, "http.lego.test", "two.lego.test")
	newLego(t, p, "--http", "--http.port", "127.0.0.1:"+s.http01).lifecycle(t, "http.lego.test", "two.lego.test")
	p.stop()
	s.doctor()
}

func TestLegoByTLSALPN(t *testing.T) {
	t.Parallel()
	s, p := startSite(t, "tls.lego.test")
	newLego(t, p, "--key-type", "rsa2048", "--tls", "--tls.port", "127.0.0.1:"+s.alpn).lifecycle(t, "tls.lego.test")
	p.stop()
	s.doctor()
}

func TestLegoWildcardByDNSUpdate(t *testing.T) {
	t.Parallel()
	s, p := startSite(t)
	s.dns.Add("lego.test. 60 IN SOA ns.lego.test. ops.lego.test. 1 3600 600 86400 1", "lego.test. 60 IN NS ns.lego.test.")
	l := newLego(t, p, "--key-type", "ec384", "--dns", "rfc2136", "--dns.disable-cp", "--dns.resolvers", s.dns.Addr())
	l.env = append(l.env, "RFC2136_NAMESERVER="+s.dns.Addr(), "RFC2136_POLLING_INTERVAL=1", "RFC2136_SEQUENCE_INTERVAL=1")
	l.lifecycle(t, "*.wild.lego.test", "exact.lego.test")
	p.stop()
	s.doctor()
}
