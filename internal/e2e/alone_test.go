package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	pebbledb "github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"

	"chancery/internal/db"
	"chancery/internal/deploy/deploytest"
	"chancery/internal/dns/dnstest"
	"chancery/internal/fleet/alone"
	"chancery/internal/pki"
	"chancery/internal/testenv"
)

// lonely is a host whose agent has no server.
type lonely struct {
	t      testing.TB
	bin    string
	dir    string
	config string
	env    []string
}

func newLonely(t testing.TB, bin string) *lonely {
	t.Helper()
	dir := t.TempDir()
	return &lonely{t: t, bin: bin, dir: dir, config: filepath.Join(dir, "agent.toml")}
}

func (l *lonely) state() string { return filepath.Join(l.dir, "state") }

// call runs a command of the agent.
func (l *lonely) call(env []string, args ...string) (string, error) {
	l.t.Helper()
	args = append(append([]string{"agent"}, args...), "--config", l.config, "--state", l.state())
	return tool{name: l.bin, args: args, env: append(env, l.env...)}.call(l.t)
}

// once runs the agent once, which must exit with code, and returns how each
// certificate is, by its section.
func (l *lonely) once(code int, args ...string) map[string]alone.Result {
	l.t.Helper()
	out, err := l.call(nil, append([]string{"--once", "--json", "--log-level", "error"}, args...)...)
	if got := exitOf(err); got != code {
		l.t.Fatalf("exit code %d, want %d (%v)\n%s", got, code, err, out)
	}
	var list []alone.Result
	if at := strings.Index(out, "[\n"); at < 0 || json.NewDecoder(strings.NewReader(out[at:])).Decode(&list) != nil {
		l.t.Fatalf("no list of certificates:\n%s", out)
	}
	byName := map[string]alone.Result{}
	for _, r := range list {
		byName[r.Name] = r
	}
	return byName
}

// exitOf is the exit code of a program that ended.
func exitOf(err error) int {
	if err == nil {
		return 0
	}
	if exit, ok := err.(*exec.ExitError); ok {
		return exit.ExitCode()
	}
	return -1
}

// edit replaces text of the configuration, which must be there.
func (l *lonely) edit(old, text string) {
	l.t.Helper()
	before := readFile(l.t, l.config)
	if !strings.Contains(before, old) {
		l.t.Fatalf("no %q in\n%s", old, before)
	}
	writeFile(l.t, l.config, strings.Replace(before, old, text, 1), 0o600)
}

// private fails the test if anything of the state can be read by others.
func (l *lonely) private() {
	l.t.Helper()
	err := filepath.Walk(l.state(), func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() && info.Mode().Perm() != 0o600 {
			l.t.Errorf("%s has mode %o", path, info.Mode().Perm())
		}
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

// qOf counts the certificates of a name that our CA issued.
var qOf = db.SQL("e2e.count_of_name", `SELECT count(*) FROM certificate WHERE state = 'issued' AND names = $1`, db.Scan("test only"))

// qAccounts counts ACME accounts.
var qAccounts = db.SQL("e2e.count_accounts", `SELECT count(*) FROM acme_account`, db.Scan("test only"))

// TestCertbotIsReplaced: what certbot made is imported and stays in service;
// the agent renews it with certbot's account, and nginx is reloaded once for
// both certificates.
func TestCertbotIsReplaced(t *testing.T) {
	t.Parallel()
	bin := testenv.NeedBinary(t, "nginx", "/usr/sbin/nginx")
	names := []string{"bot.test", "www.bot.test", "second.test"}
	s, p := startSite(t, names...)
	bot := newCertbot(t, s)
	bot.issue(t, p, names[:2]...)
	bot.issue(t, p, names[2])

	l := newLonely(t, s.bin)
	port := deploytest.Port(t)
	web := deploytest.Dir(t)
	live := filepath.Join(web, "live")
	conf := nginxOf(t, bin, web, port, map[string]string{"bot.test": filepath.Join(bot.dir, "live", "bot.test"), "second.test": filepath.Join(bot.dir, "live", "second.test")})
	deploytest.Start(t, port, syscall.SIGQUIT, exec.Command(bin, "-p", web, "-c", conf, "-g", "daemon off;"))

	out, err := l.call(nil, "import", "certbot", bot.dir, "--target", "nginx", "--live", live, "--probe", fmt.Sprintf("127.0.0.1:%d", port), "--roots-file", s.root())
	if err != nil || !strings.Contains(out, "imported 2 certificates and 1 accounts") {
		t.Fatalf("%v\n%s", err, out)
	}
	l.private()
	l.edit("dir = "+strconv.Quote(live)+"\n", fmt.Sprintf("dir = %q\npid_file = %q\ntest = [%q, \"-p\", %q, \"-c\", %q, \"-t\", \"-q\"]\n", live, filepath.Join(web, "nginx.pid"), bin, web, conf))
	if again, err := l.call(nil, "import", "certbot", bot.dir); err == nil || !strings.Contains(again, "nothing was written") {
		t.Errorf("a second import: %v\n%s", err, again)
	}

	// The certificates of certbot are put where the agent keeps them, and not
	// renewed: it is not time.
	for name, r := range l.once(0) {
		if r.State != alone.Served || r.Renewed || len(r.Deployed) != 1 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	// A person points nginx there.
	nginxOf(t, bin, web, port, map[string]string{"bot.test": filepath.Join(live, "bot.test"), "second.test": filepath.Join(live, "second.test")})
	run(t, tool{name: bin, args: []string{"-p", web, "-c", conf, "-s", "reload"}})
	errorLog := filepath.Join(web, "error.log")
	eventually(t, 10*time.Second, func() error {
		if n := deploytest.Count(t, errorLog, ": reconfiguring"); n != 2 {
			return fmt.Errorf("%d reloads, want 2: ours and the person's", n)
		}
		return nil
	})

	results := l.once(0, "--renew", "*")
	for name, r := range results {
		if r.State != alone.Served || !r.Renewed || len(r.Deployed) != 1 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if n := deploytest.Count(t, errorLog, ": reconfiguring"); n != 3 {
		t.Errorf("two renewals cost %d reloads, want one", n-2)
	}
	for section, name := range map[string]string{"bot-test": "bot.test", "second-test": "second.test"} {
		// A worker of before may take a connection until it has seen the reload.
		eventually(t, 10*time.Second, func() error {
			if got := shownBy(t, port, name, s.roots()); fingerprint(got) != results[section].SHA256 {
				return fmt.Errorf("%s is served with another certificate than %s", name, results[section].SHA256)
			}
			return nil
		})
	}
	if n := s.count(qAccounts); n != 1 {
		t.Errorf("the CA has %d accounts, want certbot's alone", n)
	}
	// A dry run changes nothing.
	before := readFile(t, filepath.Join(l.state(), "certificates", "bot-test.json"))
	if out, err := l.call(nil, "--dry-run"); err != nil || !strings.Contains(out, "nothing before") {
		t.Errorf("dry run: %v\n%s", err, out)
	}
	if readFile(t, filepath.Join(l.state(), "certificates", "bot-test.json")) != before {
		t.Error("a dry run changed what is known of a certificate")
	}
	p.stop()
	s.doctor()
}

// nginxOf writes the configuration of an nginx whose hosts have the files of
// directories.
func nginxOf(t *testing.T, bin, dir string, port uint16, hosts map[string]string) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "pid %[1]s/nginx.pid;\nerror_log %[1]s/error.log notice;\nworker_processes 1;\nevents { worker_connections 64; }\nhttp {\n  access_log off;\n", dir)
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&b, "  %s_temp_path %s/tmp;\n", kind, dir)
	}
	for name, at := range hosts {
		fmt.Fprintf(&b, "  server { listen 127.0.0.1:%d ssl; server_name .%s; ssl_certificate %s/fullchain.pem; ssl_certificate_key %s/privkey.pem; return 204; }\n", port, name, at, at)
	}
	return deploytest.WriteFile(t, filepath.Join(dir, "nginx.conf"), b.String()+"}\n")
}

// shownBy returns the certificate that a server shows for a name.
func shownBy(t testing.TB, port uint16, name string, roots *x509.CertPool) *x509.Certificate {
	t.Helper()
	conn, err := tls.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))), &tls.Config{ServerName: name, RootCAs: roots})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0]
}

// TestLegoIsReplaced: what lego made is imported, stays until it is time, and
// is renewed when the CA says so (RFC 9773), with lego's account.
func TestLegoIsReplaced(t *testing.T) {
	t.Parallel()
	s, p := startSite(t, "one.lego.test", "two.lego.test", "new.lego.test")
	old := newLego(t, p, "--key-type", "ec384", "--http", "--http.port", "127.0.0.1:"+s.http01, "--domains", "one.lego.test", "--domains", "two.lego.test")
	old.run(t, "run")

	l := newLonely(t, s.bin)
	if out, err := l.call(nil, "import", "lego", old.dir, "--http01-listen", "127.0.0.1:"+s.http01, "--roots-file", s.root()); err == nil || !strings.Contains(out, "--server URL") {
		t.Fatalf("a CA that lego names by its host only: %v\n%s", err, out)
	}
	out, err := l.call(nil, "import", "lego", old.dir, "--http01-listen", "127.0.0.1:"+s.http01, "--roots-file", s.root(), "--server", p.ready.Directory)
	if err != nil || !strings.Contains(out, "imported 1 certificates and 1 accounts") {
		t.Fatalf("%v\n%s", err, out)
	}
	l.private()
	if r := l.once(0)["one-lego-test"]; r.State != alone.Served || r.Renewed || len(r.Deployed) != 1 {
		t.Fatalf("%+v", r)
	}
	// The agent asks for the window at most once an hour here: it may be moved
	// between two runs.
	s.begin("--query", "one.lego.test", "--at", "36h")
	forget(t, l, "one-lego-test", "ask_at")
	r := l.once(0)["one-lego-test"]
	if !r.Renewed || r.State != alone.Served || len(r.Deployed) != 1 {
		t.Errorf("its window is over, and it is %+v", r)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(l.state(), "live", "one.lego.test", "fullchain.pem"), filepath.Join(l.state(), "live", "one.lego.test", "privkey.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if pair.Leaf.PublicKeyAlgorithm != x509.ECDSA || len(pair.Leaf.DNSNames) != 2 || fingerprint(pair.Leaf) != r.SHA256 {
		t.Errorf("served is %v", pair.Leaf.DNSNames)
	}
	// One more certificate, and one that cannot be proved: exit code 4, and the
	// good one is in service.
	l.edit("[certificate.one-lego-test]", "[certificate.new]\nnames = [\"new.lego.test\"]\ntargets = [\"host\"]\n\n[certificate.bad]\nnames = [\"nowhere.test\"]\ntargets = [\"host\"]\n\n[certificate.one-lego-test]")
	all := l.once(4)
	if all["new"].State != alone.Served || all["bad"].State != alone.Failed || all["bad"].Error == "" || all["bad"].RetryAt.IsZero() || all["one-lego-test"].State != alone.Served {
		t.Errorf("%+v", all)
	}
	// It is not asked for again before its time.
	if again := l.once(4)["bad"]; !again.RetryAt.Equal(all["bad"].RetryAt) {
		t.Errorf("tried again: %+v", again)
	}
	if n := s.count(qAccounts); n != 1 {
		t.Errorf("the CA has %d accounts, want lego's alone", n)
	}
	p.stop()
	s.doctor()
}

// forget takes a key out of what is known of a certificate.
func forget(t testing.TB, l *lonely, name, key string) {
	t.Helper()
	path := filepath.Join(l.state(), "certificates", name+".json")
	var rec map[string]any
	if err := json.Unmarshal([]byte(readFile(t, path)), &rec); err != nil {
		t.Fatal(err)
	}
	delete(rec, key)
	text, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, string(text), 0o600)
}

// write makes a configuration with one issuer.
func (l *lonely) write(directory, roots, http01, more string) {
	l.t.Helper()
	writeFile(l.t, l.config, fmt.Sprintf("[issuer.ca]\nkind = \"acme\"\ndirectory = %q\nroots_file = %q\nwait = \"10s\"\n\n[challenges]\nhttp01_listen = \"127.0.0.1:%s\"\n\n[target.host]\nkind = \"files\"\ndir = %q\n\n%s",
		directory, roots, http01, filepath.Join(l.dir, "live"), more), 0o600)
}

// TestAgentAloneSurvivesKills: wherever the agent is killed, the next run
// brings the certificate into service: one certificate, for the key that is
// beside it.
func TestAgentAloneSurvivesKills(t *testing.T) {
	t.Parallel()
	points := []string{"alone.after_begin", "alone.after_save:1", "alone.after_save:2", "alone.after_save:3", "alone.after_issue", "alone.before_store", "alone.after_store",
		"deploy.after_plan", "deploy.after_files", "deploy.after_stage", "alone.after_deploy", "alone.after_placed"}
	fast, err := faultBuild()
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t)
	for i := range points {
		s.resolve(fmt.Sprintf("p%d.kill.test", i))
	}
	p := s.start()
	for i, point := range points {
		name := fmt.Sprintf("p%d.kill.test", i)
		l := newLonely(t, fast)
		l.write(p.ready.Directory, s.root(), s.http01, fmt.Sprintf("[certificate.one]\nnames = [%q]\ntargets = [\"host\"]\n", name))
		out, err := l.call([]string{"CHANCERY_FAULT_POINT=" + point}, "--once")
		if exit, ok := err.(*exec.ExitError); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Errorf("%s: not killed: %v\n%s", point, err, out)
			continue
		}
		r := l.once(0)["one"]
		pair, err := tls.LoadX509KeyPair(filepath.Join(l.dir, "live", name, "fullchain.pem"), filepath.Join(l.dir, "live", name, "privkey.pem"))
		if err != nil || r.State != alone.Served || fingerprint(pair.Leaf) != r.SHA256 {
			t.Errorf("%s: %+v (%v)", point, r, err)
		}
		if n := s.count(qOf, `["`+name+`"]`); n != 1 {
			t.Errorf("%s: %d certificates were issued", point, n)
		}
	}
	p.stop()
	s.doctor()
}

// TestAgentAloneWithPebble: a foreign CA that rejects one nonce in five, its
// staging beside it for the dry run, and a renewal that names its predecessor.
func TestAgentAloneWithPebble(t *testing.T) {
	names := dnstest.Start(t)
	for _, n := range []string{"a.pebble.test", "b.pebble.test"} {
		names.Add(n + ". 60 IN A 127.0.0.1")
	}
	http01 := strconv.Itoa(testenv.FreePort(t))
	real, staging := startPebble(t, names.Addr(), http01), startPebble(t, names.Addr(), http01)
	l := newLonely(t, binary(t))
	l.write(real.directory, real.roots, http01, fmt.Sprintf("[issuer.trial]\nkind = \"acme\"\ndirectory = %q\nroots_file = %q\n\n[certificate.one]\nnames = [\"a.pebble.test\", \"b.pebble.test\"]\nissuer = \"ca\"\nkey_type = \"rsa2048\"\ntargets = [\"host\"]\n", staging.directory, staging.roots))
	l.edit("[issuer.ca]\n", "[issuer.ca]\nstaging = \"trial\"\n")

	out, err := l.call(nil, "--dry-run")
	if err != nil || !strings.Contains(out, "order it at ca") || !strings.Contains(out, "ok at trial") {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(l.dir, "live")); err == nil || len(readDir(t, filepath.Join(l.state(), "certificates"))) > 0 {
		t.Error("a dry run left a certificate")
	}
	first := l.once(0)["one"]
	second := l.once(0, "--renew", "one")["one"]
	if !first.Renewed || !second.Renewed || first.SHA256 == second.SHA256 || second.State != alone.Served || second.RenewAt.IsZero() {
		t.Errorf("%+v\n%+v", first, second)
	}
	if r := l.once(0)["one"]; r.Renewed || r.SHA256 != second.SHA256 {
		t.Errorf("renewed without a reason: %+v", r)
	}
	list, err := l.call(nil, "list", "-o", "tsv")
	if err != nil || !strings.Contains(list, "one\ta.pebble.test,b.pebble.test\tserved") {
		t.Errorf("%v\n%s", err, list)
	}
}

func readDir(t testing.TB, dir string) []os.DirEntry {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// pebble is Let's Encrypt's test CA, in this process.
type pebble struct{ directory, roots string }

func startPebble(t *testing.T, dns, http01 string) pebble {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_WFE_NONCEREJECT", "20")
	port, err := strconv.Atoi(http01)
	if err != nil {
		t.Fatal(err)
	}
	quiet, store := log.New(io.Discard, "", 0), pebbledb.NewMemoryStore()
	authority := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "the default", ValidityPeriod: 7776000}})
	front := wfe.New(quiet, store, va.New(quiet, port, 1, false, dns, store), authority, []string{"pebble.test"}, false, false, 1, 1)
	srv := httptest.NewTLSServer(front.Handler())
	t.Cleanup(srv.Close)
	roots := writeFile(t, filepath.Join(t.TempDir(), "roots.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})), 0o600)
	return pebble{srv.URL + wfe.DirectoryPath, roots}
}

// fingerprint is the hex SHA-256 of a certificate.
func fingerprint(c *x509.Certificate) string {
	sum := pki.Fingerprint(c.Raw)
	return hex.EncodeToString(sum[:])
}
