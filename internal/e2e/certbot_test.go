package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"chancery/internal/testenv"
)

// certbot is an installation of certbot 2 with a directory of its own.
type certbot struct {
	site *site
	dir  string
}

func newCertbot(t *testing.T, s *site) *certbot {
	t.Helper()
	testenv.NeedBinary(t, "certbot")
	return &certbot{s, t.TempDir()}
}

func (c *certbot) call(t *testing.T, args ...string) (string, error) {
	t.Helper()
	args = append(args, "-n", "--config-dir", c.dir, "--work-dir", c.dir, "--logs-dir", c.dir)
	return tool{name: "certbot", args: args, env: []string{"REQUESTS_CA_BUNDLE=" + c.site.root()}}.call(t)
}

func (c *certbot) run(t *testing.T, args ...string) {
	t.Helper()
	if out, err := c.call(t, args...); err != nil {
		t.Fatalf("certbot %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// issue gets one certificate for all names and returns its chain.
func (c *certbot) issue(t *testing.T, p *process, names ...string) string {
	t.Helper()
	c.run(t, append([]string{"certonly", "--standalone", "--http-01-address", "127.0.0.1", "--http-01-port", c.site.http01,
		"--agree-tos", "--register-unsafely-without-email", "--server", p.ready.Directory}, eachFlag("-d", names)...)...)
	return c.live(t, names[0], "fullchain.pem")
}

func (c *certbot) live(t *testing.T, name, file string) string {
	return readFile(t, c.path(name, file))
}

func (c *certbot) path(name, file string) string { return filepath.Join(c.dir, "live", name, file) }

// eachFlag returns flag v1 flag v2 ...
func eachFlag(flag string, values []string) (args []string) {
	for _, v := range values {
		args = append(args, flag, v)
	}
	return args
}

func TestCertbotIssuesRenewsAndRevokes(t *testing.T) {
	t.Parallel()
	names := []string{"certbot.test", "www.certbot.test", "mail.certbot.test"}
	s, p := startSite(t, names...)
	bot := newCertbot(t, s)

	first := s.judge(t, bot.issue(t, p, names...), names...)
	first.agree(t, good)

	bot.run(t, "renew", "--force-renewal", "--no-random-sleep-on-renew")
	second := s.judge(t, bot.live(t, names[0], "fullchain.pem"), names...)
	if first.cert.SerialNumber.Cmp(second.cert.SerialNumber) == 0 {
		t.Error("the renewed certificate has the serial of the first")
	}

	// The account that ordered may revoke what is no longer its newest.
	bot.run(t, "revoke", "--cert-path", first.leaf, "--no-delete-after-revoke", "--reason", "superseded", "--server", p.ready.Directory)
	first.agree(t, revoked)
	second.agree(t, good)

	// So may whoever holds the certificate's key, without any account.
	stranger := newCertbot(t, s)
	stranger.run(t, "revoke", "--cert-path", second.leaf, "--key-path", bot.path(names[0], "privkey.pem"),
		"--no-delete-after-revoke", "--reason", "keycompromise", "--server", p.ready.Directory)
	second.agree(t, revoked)
	p.stop()
	s.doctor()
}

func TestCertbotHearsWhyItWasRefused(t *testing.T) {
	t.Parallel()
	s, p := startSite(t)
	bot := newCertbot(t, s)
	// The name does not exist, and the answer must say so.
	out, err := bot.call(t, "certonly", "--standalone", "--http-01-address", "127.0.0.1", "--http-01-port", s.http01, "--agree-tos",
		"--register-unsafely-without-email", "--server", p.ready.Directory, "-d", "nowhere.test")
	if err == nil {
		t.Fatal("certbot got a certificate for a name that does not exist")
	}
	if !strings.Contains(out, "nowhere.test") || !strings.Contains(out, "dns") && !strings.Contains(out, "DNS") {
		t.Errorf("certbot's output does not say that DNS is the trouble:\n%s", out)
	}
	p.stop()
}

// TestCertbotWithExternalAccountBinding lets only those in to whom the
// operator gave a key, which the control-plane API makes.
func TestCertbotWithExternalAccountBinding(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.resolve("eab.test")
	p := s.start("CHANCERY_ACME_EAB_REQUIRED=true")
	bot := newCertbot(t, s)
	order := []string{"certonly", "--standalone", "--http-01-address", "127.0.0.1", "--http-01-port", s.http01, "--agree-tos",
		"--register-unsafely-without-email", "--server", p.ready.Directory, "-d", "eab.test"}
	if out, err := bot.call(t, order...); err == nil || !strings.Contains(strings.ToLower(out), "external account") {
		t.Errorf("without a binding certbot says (%v):\n%s", err, out)
	}
	var key struct{ ID, Secret string }
	s.callAPI(p, "POST", "/acme/eab", `{"ca": "default", "label": "the mail team"}`, &key)
	bot.run(t, append(order, "--eab-kid", key.ID, "--eab-hmac-key", key.Secret)...)
	s.judge(t, bot.live(t, "eab.test", "fullchain.pem"), "eab.test")

	second := newCertbot(t, s)
	if out, err := second.call(t, append(order, "--eab-kid", key.ID, "--eab-hmac-key", key.Secret)...); err == nil {
		t.Errorf("one key let two accounts in:\n%s", out)
	}
	p.stop()
	s.doctor()
}
