package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/internal/api"
)

// fileServer is a TLS server that reads its certificate from files again on
// every handshake, as one that reloads does.
func fileServer(t *testing.T, dir string) string {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		c, err := tls.LoadX509KeyPair(filepath.Join(dir, "fullchain.pem"), filepath.Join(dir, "privkey.pem"))
		return &c, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().String()
}

// host is a machine with an agent: its configuration and state.
type host struct {
	t           *testing.T
	s           *shell
	dir, served string
	addr        string
}

func newHost(t *testing.T, s *shell, name string) *host {
	t.Helper()
	h := &host{t: t, s: s, dir: s.path(name)}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	h.served = filepath.Join(h.dir, "live", "www.test")
	h.addr = fileServer(t, h.served)
	h.configure(fmt.Sprintf("probe = [%q]\n", h.addr))
	return h
}

// configure writes the target of the host.
func (h *host) configure(more string) {
	h.t.Helper()
	text := fmt.Sprintf("[target.web]\nkind = \"files\"\ndir = %q\nsettle = \"1s\"\n%s", filepath.Join(h.dir, "live"), more)
	if err := os.WriteFile(h.conf(), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) conf() string  { return filepath.Join(h.dir, "agent.toml") }
func (h *host) state() string { return filepath.Join(h.dir, "state") }

// agent runs `chancery agent` to its end.
func (h *host) agent(args ...string) (code int, out, errs string) {
	h.t.Helper()
	o, e := &lockedBuffer{}, &lockedBuffer{}
	code = run(h.t.Context(), append([]string{"agent", "--config", h.conf()}, args...), env{stdin: strings.NewReader(""), stdout: o, stderr: e})
	return code, o.String(), e.String()
}

// start runs the agent until stop is called, or the test ends.
func (h *host) start(state string, args ...string) (log *lockedBuffer, done chan int, stop func()) {
	h.t.Helper()
	log, done = &lockedBuffer{}, make(chan int, 1)
	ctx, cancel := context.WithCancel(context.Background())
	args = append([]string{"agent", "--config", h.conf(), "--state", state, "--log-format", "text"}, args...)
	go func() {
		done <- run(ctx, args, env{stdin: strings.NewReader(""), stdout: log, stderr: log})
	}()
	stop = func() {
		cancel()
		code := <-done
		done <- code
	}
	h.t.Cleanup(stop)
	return log, done, stop
}

// url is where the server of s listens.
func (s *shell) url() string {
	s.t.Helper()
	text, err := os.ReadFile(s.path("ready.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	var r struct {
		API string `json:"api"`
	}
	if err := json.Unmarshal(text, &r); err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSuffix(r.API, api.Prefix)
}

func (s *shell) agentToken(args ...string) string {
	s.t.Helper()
	var made api.NewAgentToken
	decode(s.t, s.ok(append([]string{"agents", "token", "create", "--json"}, args...)...), &made)
	return made.Secret
}

func (s *shell) agent(name string) shownAgent {
	s.t.Helper()
	var a shownAgent
	decode(s.t, s.ok("agents", "show", name, "--json"), &a)
	return a
}

// until polls a condition that a user would wait for.
func until(t *testing.T, within time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > within {
			t.Fatalf("%s: not within %s", what, within)
		}
		tick := time.NewTimer(20 * time.Millisecond)
		<-tick.C
	}
	return time.Since(start)
}

// shown returns the certificate that a server shows.
func shown(addr string) *x509.Certificate {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Second}, "tcp", addr, &tls.Config{InsecureSkipVerify: true, ServerName: "www.test"})
	if err != nil {
		return nil
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0]
}

// TestAgentKeepsACertificateInService: enrol, wait, and a certificate that an
// operator assigns is issued, deployed and probed within two seconds; so is the
// next one.
func TestAgentKeepsACertificateInService(t *testing.T) {
	s, serverLog := startDev(t)
	h := newHost(t, s, "web1")
	token := s.agentToken("--name-pattern", "web*", "--owner", "shop", "--cidr", "127.0.0.0/8")
	log, _, _ := h.start(h.state(), "--server", s.url(), "--token", token, "--name", "web1")
	until(t, 20*time.Second, "the agent waits", func() bool {
		var list []api.Agent
		decode(t, s.ok("agents", "list", "--json"), &list)
		return len(list) == 1 && list[0].Parked
	})
	if a := s.agent("web1"); a.Owner != "shop" || a.State != "active" || len(a.Targets) != 1 || a.Targets[0] != "web" {
		t.Errorf("%+v", a)
	}

	var made api.Assignment
	decode(t, s.ok("agents", "assign", "web1", "www.test", "--target", "web", "--json"), &made)
	took := until(t, 10*time.Second, "the certificate is live", func() bool {
		a := s.agent("web1").Assignments
		return len(a) == 1 && a[0].State == "live"
	})
	t.Logf("assigned, issued, deployed, probed and reported in %s", took)
	if took > 2*time.Second {
		t.Errorf("it took %s, more than 2 s", took)
	}
	first := shown(h.addr)
	sum := sha256.Sum256(first.Raw)
	if a := s.agent("web1").Assignments[0]; a.SHA256 != fmt.Sprintf("%x", sum) || a.TookMS <= 0 || a.IssueAt.Before(first.NotBefore.Add(first.NotAfter.Sub(first.NotBefore)*6/10)) {
		t.Errorf("%+v serves %x", a, sum)
	}

	// The next certificate: the agent's request for it is there already.
	took = until(t, 10*time.Second, "the next one is served", func() bool {
		if took == 0 || first.Equal(shown(h.addr)) {
			s.renewOnce(made.ID)
			return false
		}
		return true
	})
	t.Logf("renewed in %s", took)
	second := shown(h.addr)
	if string(second.RawSubjectPublicKeyInfo) == string(first.RawSubjectPublicKeyInfo) {
		t.Error("the renewal kept the key")
	}

	// Keys stay on the host: the server and its log never saw one.
	keyPEM, err := os.ReadFile(filepath.Join(h.served, "privkey.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(keyPEM)
	secret := strings.Fields(string(keyPEM))[3]
	if block == nil || strings.Contains(serverLog.String(), secret) || strings.Contains(log.String(), secret) {
		t.Error("a private key left the host")
	}
	tokenSecret := strings.Split(token, ".")[1]
	if strings.Contains(serverLog.String()+log.String(), tokenSecret) {
		t.Error("a log holds the token")
	}
	for _, kind := range []string{"agent.enroll", "agent.assign", "agent.deploy"} {
		until(t, 5*time.Second, "the journal has "+kind, func() bool { return strings.Contains(s.ok("audit", "list", "--limit", "0"), kind) })
	}
	s.ok("doctor", "issuance")
}

// renewed remembers which assignments renewOnce has asked for.
func (s *shell) renewOnce(id string) {
	flag := s.path("renewed-" + id)
	if _, err := os.Stat(flag); err == nil {
		return
	}
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.ok("agents", "renew", id)
}

// TestAgentIsRefused: every way in that is not the right one.
func TestAgentIsRefused(t *testing.T) {
	s, _ := startDev(t)
	h := newHost(t, s, "h")
	enrol := func(name, token string) (int, string) {
		code, out, errs := h.agent("--server", s.url(), "--token", token, "--state", s.path("state-"+name), "--name", name, "--once")
		return code, out + errs
	}
	refused := func(name, token, want string) {
		t.Helper()
		if code, text := enrol(name, token); code == exitOK || !strings.Contains(text, want) {
			t.Errorf("%s: exit %d, %s; want %q", name, code, text, want)
		}
	}
	good := s.agentToken()
	parts := strings.Split(good, ".")
	refused("stolen", parts[0]+"."+strings.Repeat("A", 43)+"."+parts[2], "unknown, used or expired")
	refused("elsewhere", parts[0]+"."+parts[1]+"."+strings.Repeat("A", 43), "not the one that the token names")
	refused("short", "nonsense", "ID.SECRET.PIN")
	refused("Not-A-Name!", good, "cannot name an agent")
	refused("far", s.agentToken("--cidr", "10.0.0.0/8"), "may not be used from 127.0.0.1")
	refused("db1", s.agentToken("--name-pattern", "web*"), "agents named web*")
	ended := s.agentToken()
	s.ok("agents", "token", "revoke", strings.Split(ended, ".")[0])
	refused("late", ended, "unknown, used or expired")
	if code, text := enrol("one", good); code != exitOK || !strings.Contains(text, "0 certificates put into service, 0 failed") {
		t.Fatalf("the good token: exit %d, %s", code, text)
	}
	refused("two", good, "unknown, used or expired")
	refused("new", "", "no identity yet")
	if _, errs := s.out(exitFailed, "agents", "assign", "one", "www.example.com", "--target", "web"); !strings.Contains(errs, "allow_names") {
		t.Error("a name that is not allowed:", errs)
	}
	if _, errs := s.out(exitFailed, "agents", "assign", "one", "www.test", "--target", "../etc"); !strings.Contains(errs, "no target") {
		t.Error("a target that the agent does not have:", errs)
	}

	// Without an identity, and by somebody else's certificate, nothing is told.
	for _, path := range []string{"wait", "report", "renew"} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		resp, err := client.Post(s.url()+"/agent/v1/"+path, "application/json", strings.NewReader(`{"generation":1,"instance":"x"}`))
		if err != nil || resp.StatusCode != 401 {
			t.Errorf("%s: %v %v", path, resp, err)
			continue
		}
		resp.Body.Close()
	}
	s.ok("agents", "revoke", "one")
	refused("one", "", "was revoked")
	// Enrolled again, into an empty directory, it is the same agent.
	id := s.agent("one").ID
	if code, _, text := h.agent("--server", s.url(), "--token", s.agentToken(), "--state", s.path("state-again"), "--name", "one", "--once"); code != exitOK {
		t.Fatal(text)
	}
	if a := s.agent("one"); a.ID != id || a.State != "active" {
		t.Errorf("%+v", a)
	}
}

// TestCloneIsNoticed: of two programs with one identity neither may go on.
func TestCloneIsNoticed(t *testing.T) {
	s, _ := startDev(t)
	h := newHost(t, s, "h")
	_, done, _ := h.start(h.state(), "--server", s.url(), "--token", s.agentToken(), "--name", "one")
	parked := func() bool {
		var list []api.Agent
		decode(t, s.ok("agents", "list", "--json"), &list)
		return len(list) == 1 && list[0].Parked
	}
	until(t, 20*time.Second, "the agent waits", parked)
	copied := s.path("copy")
	if err := os.CopyFS(copied, os.DirFS(h.state())); err != nil {
		t.Fatal(err)
	}
	_, copyDone, _ := h.start(copied)
	for name, ch := range map[string]chan int{"the original": done, "the copy": copyDone} {
		select {
		case code := <-ch:
			if ch <- code; code != exitFailed {
				t.Errorf("%s ended with %d", name, code)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s goes on", name)
		}
	}
	if a := s.agent("one"); a.State != "cloned" {
		t.Errorf("%+v", a)
	}
	until(t, 5*time.Second, "the journal says so", func() bool { return strings.Contains(s.ok("audit", "list", "--limit", "0"), "agent.clone") })
	// A directory that was restored from before is one, too; a restart is not.
	token := s.agentToken()
	fresh := s.path("fresh")
	once := func(state string, more ...string) (int, string) {
		code, _, errs := h.agent(append([]string{"--state", state, "--once"}, more...)...)
		return code, errs
	}
	if code, errs := once(fresh, "--server", s.url(), "--token", token, "--name", "two"); code != exitOK {
		t.Fatal(errs)
	}
	if err := os.CopyFS(s.path("backup"), os.DirFS(fresh)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if code, errs := once(fresh); code != exitOK {
			t.Fatal(errs)
		}
	}
	if code, errs := once(s.path("backup")); code == exitOK || !strings.Contains(errs, "two programs used the identity") {
		t.Error(code, errs)
	}
}

// TestAgentReportsFailuresAndOnceIsEnough: what the host says reaches the
// operator, and a cron job does without a running agent.
func TestAgentReportsFailuresAndOnceIsEnough(t *testing.T) {
	s, _ := startDev(t)
	h := newHost(t, s, "h")
	h.configure("probe = [\"none\"]\nreload = [\"/bin/sh\", \"-c\", \"echo disk on fire >&2; exit 3\"]\n")
	once := func(args ...string) (int, string) {
		code, out, errs := h.agent(append([]string{"--state", h.state(), "--once"}, args...)...)
		return code, out + errs
	}
	if code, text := once("--server", s.url(), "--token", s.agentToken(), "--name", "one"); code != exitOK {
		t.Fatal(text)
	}
	s.ok("agents", "assign", "one", "www.test", "--target", "web")
	if code, text := once(); code != exitFailed || !strings.Contains(text, "1 failed") {
		t.Fatal(code, text)
	}
	a := s.agent("one").Assignments[0]
	if a.State != "failed" || !strings.Contains(a.Stderr, "disk on fire") || a.Attempt != 1 || a.Error == "" {
		t.Errorf("%+v", a)
	}
	if out := s.ok("agents", "assignments", "--state", "failed", "-o", "wide"); !strings.Contains(out, "one") || !strings.Contains(out, "www.test") || !strings.Contains(out, "disk on fire") {
		t.Error(out)
	}
	var f api.Fleet
	if decode(t, s.ok("agents", "fleet", "--json"), &f); len(f.Versions) != 1 || f.Versions[0].Count != 1 || f.Assignments["failed"] != 1 {
		t.Errorf("%+v", f)
	}
	h.configure(fmt.Sprintf("probe = [%q]\n", h.addr))
	if code, text := once(); code != exitOK || !strings.Contains(text, "1 certificates put into service, 0 failed") {
		t.Fatal(code, text)
	}
	if a := s.agent("one").Assignments[0]; a.State != "live" || a.Error != "" || a.Attempt != 0 {
		t.Errorf("%+v", a)
	}
	if code, text := once(); code != exitOK || !strings.Contains(text, "0 certificates put into service") {
		t.Fatal(code, text)
	}
	if out := s.ok("agents", "unassign", a.ID); out != "unassigned "+a.ID+"\n" {
		t.Errorf("%q", out)
	}
	if n := len(s.agent("one").Assignments); n != 0 {
		t.Errorf("%d assignments", n)
	}
}
