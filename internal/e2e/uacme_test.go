package e2e

import (
	"path/filepath"
	"testing"

	"chancery/internal/testenv"
)

// TestUacme runs a client of two hundred kilobytes of C, which gives up when
// the first challenge it sees has no token.
func TestUacme(t *testing.T) {
	t.Parallel()
	testenv.NeedBinary(t, "uacme")
	hook := testenv.NeedBinary(t, "uacme.sh", "/usr/share/uacme/uacme.sh")
	s, p := startSite(t, "uacme.test", "www.uacme.test")
	dir := t.TempDir()
	webroot := s.webroot()
	// Its TLS library trusts /etc/ssl/certs and nothing else: give it a view
	// of the file system in which that directory holds our root.
	trust := t.TempDir()
	for _, name := range []string{"ca-certificates.crt", "root.pem"} {
		writeFile(t, filepath.Join(trust, name), readFile(t, s.root()), 0o644)
	}
	if out, err := (tool{name: "unshare", args: []string{"--mount", "true"}}).call(t); err != nil {
		t.Skipf("SKIPPED: mount namespaces are not permitted: %s", out)
	}
	call := func(args ...string) {
		t.Helper()
		script := `mount --bind "$TRUST" /etc/ssl/certs && exec uacme "$@"`
		run(t, tool{name: "unshare", args: append([]string{"--mount", "sh", "-c", script, "uacme", "--yes", "--acme-url", p.ready.Directory,
			"--confdir", dir, "--hook", hook}, args...), env: []string{"TRUST=" + trust, "UACME_CHALLENGE_PATH=" + webroot}})
	}
	chain := filepath.Join(dir, "uacme.test", "cert.pem")
	names := []string{"uacme.test", "www.uacme.test"}

	call("new", "ops@uacme.test")
	call(append([]string{"--type", "EC", "issue"}, names...)...)
	first := s.judge(t, readFile(t, chain), names...)
	first.agree(t, good)
	call(append([]string{"--type", "EC", "--force", "issue"}, names...)...)
	second := s.judge(t, readFile(t, chain), names...)
	if first.cert.SerialNumber.Cmp(second.cert.SerialNumber) == 0 {
		t.Error("the renewed certificate has the serial of the first")
	}
	call("--reason", "4", "revoke", first.copy(t))
	first.agree(t, revoked)
	second.agree(t, good)
	p.stop()
	s.doctor()
}
