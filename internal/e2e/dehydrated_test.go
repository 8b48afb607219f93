package e2e

import (
	"path/filepath"
	"testing"

	"chancery/internal/testenv"
)

// TestDehydrated runs a client that does not retry after badNonce: a nonce
// that is refused wrongly fails it.
func TestDehydrated(t *testing.T) {
	t.Parallel()
	testenv.NeedBinary(t, "dehydrated")
	s, p := startSite(t, "a.dehydrated.test", "b.dehydrated.test")
	dir := t.TempDir()
	config := writeFile(t, filepath.Join(dir, "config"), "CA="+p.ready.Directory+"\nBASEDIR="+dir+"\nWELLKNOWN="+s.webroot()+
		"\nCONTACT_EMAIL=ops@dehydrated.test\nKEY_ALGO=prime256v1\n", 0o644)
	call := func(args ...string) {
		t.Helper()
		run(t, tool{name: "dehydrated", args: append(args, "--config", config), env: []string{"CURL_CA_BUNDLE=" + s.root()}})
	}
	names := []string{"a.dehydrated.test", "b.dehydrated.test"}
	cron := []string{"--cron", "--domain", "a.dehydrated.test b.dehydrated.test"}
	chain := filepath.Join(dir, "certs", names[0], "fullchain.pem")

	call("--register", "--accept-terms")
	call(cron...)
	first := s.judge(t, readFile(t, chain), names...)
	first.agree(t, good)
	call(append(cron, "--force")...)
	second := s.judge(t, readFile(t, chain), names...)
	if first.cert.SerialNumber.Cmp(second.cert.SerialNumber) == 0 {
		t.Error("the renewed certificate has the serial of the first")
	}
	call("--revoke", first.copy(t))
	first.agree(t, revoked)
	second.agree(t, good)
	p.stop()
	s.doctor()
}
