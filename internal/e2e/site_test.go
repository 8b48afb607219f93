package e2e

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"chancery/internal/db"
	"chancery/internal/dns/dnstest"
	"chancery/internal/testenv"
)

// ready is what --ready-file holds; scripts rely on these names.
type ready struct {
	Directory, API, UI, OCSP, CRL, Root, Token, Metrics string
	PID                                                 int
}

// site is one installation: a directory, a database and ports, on which
// processes run one after the other.
type site struct {
	t     testing.TB
	bin   string
	data  string // data directory
	db    string // its URL; "" is SQLite in the data directory
	dns   *dnstest.Server
	flags []string // more flags of `chancery dev`

	config string // file of `chancery serve`; "" is `chancery dev`

	listen, plain, debug string // host:port
	http01, alpn         string // ports that validation connects to
}

// newSite prepares an installation; nothing runs yet.
func newSite(t testing.TB) *site {
	t.Helper()
	return &site{t: t, bin: binary(t), data: filepath.Join(t.TempDir(), "data"), dns: dnstest.Start(t),
		listen: testenv.FreeAddr(t), plain: testenv.FreeAddr(t), debug: testenv.FreeAddr(t), http01: portOf(testenv.FreeAddr(t)), alpn: portOf(testenv.FreeAddr(t))}
}

// startSite runs a fresh installation on SQLite with the given names pointing
// at loopback.
func startSite(t testing.TB, names ...string) (*site, *process) {
	t.Helper()
	s := newSite(t)
	s.resolve(names...)
	return s, s.start()
}

// resolve makes names loopback in the DNS that the server asks.
func (s *site) resolve(names ...string) {
	for _, n := range names {
		s.dns.Add(n + ". 60 IN A 127.0.0.1")
	}
}

// args is the command line.
func (s *site) args(readyFile string) []string {
	if s.config != "" {
		return []string{"serve", "--config", s.config, "--ready-file", readyFile}
	}
	args := []string{"dev", "--data", s.data, "--listen", s.listen, "--http-listen", s.plain, "--debug-listen", s.debug,
		"--http01-port", s.http01, "--tlsalpn01-port", s.alpn, "--resolver", s.dns.Addr(), "--ready-file", readyFile}
	if s.db != "" {
		args = append(args, "--db", s.db)
	}
	return append(args, s.flags...)
}

// process is one run of the program.
type process struct {
	site   *site
	cmd    *exec.Cmd
	file   string // its ready file
	out    output // standard output
	log    output // standard error
	ended  chan struct{}
	state  *os.ProcessState // valid when ended is closed
	ready  ready            // valid after waitReady
	began  time.Time
	silent bool // an unclean end is what the test wants
}

// output collects what a process writes, to be read while it runs.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// last returns the end of the output, which is where the trouble is.
func (o *output) last() string {
	s := o.String()
	if n := len(s) - 8<<10; n > 0 {
		s = "...\n" + s[n:]
	}
	return s
}

// prepare makes a process that does not run yet, with additional environment.
func (s *site) prepare(env ...string) *process {
	s.t.Helper()
	p := &process{site: s, file: filepath.Join(s.t.TempDir(), "ready.json"), ended: make(chan struct{})}
	p.cmd = exec.Command(s.bin, s.args(p.file)...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.log
	return p
}

// begin starts the process; it ends with the test at the latest.
func (p *process) begin() error {
	p.began = time.Now()
	if err := spawn(p.cmd); err != nil {
		return err
	}
	go func() {
		_ = p.cmd.Wait() // state says how it ended
		p.state = p.cmd.ProcessState
		close(p.ended)
	}()
	p.site.t.Cleanup(p.cleanup)
	return nil
}

// launch starts a process and does not wait until it serves.
func (s *site) launch(env ...string) *process {
	s.t.Helper()
	p := s.prepare(env...)
	if err := p.begin(); err != nil {
		s.t.Fatal(err)
	}
	return p
}

// cleanup ends a process that the test left running, and shows its log if the
// test failed.
func (p *process) cleanup() {
	if p.running() {
		p.kill()
	}
	if p.site.t.Failed() && !p.silent {
		p.site.t.Logf("standard error of process %d:\n%s", p.cmd.Process.Pid, p.log.last())
	}
}

// start runs a process and waits until it serves.
func (s *site) start(env ...string) *process {
	s.t.Helper()
	p := s.launch(env...)
	if err := p.waitReady(); err != nil {
		s.t.Fatalf("%v\n%s", err, p.log.last())
	}
	return p
}

var errEnded = errors.New("the process ended before it was ready")

// waitReady waits for the ready file, or for the end of the process.
func (p *process) waitReady() error {
	err := poll(time.Minute, p.ended, p.loadReady)
	if err != nil && !p.running() {
		return errEnded
	}
	return err
}

// loadReady reads the ready file.
func (p *process) loadReady() error {
	text, err := os.ReadFile(p.file)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, &p.ready)
}

// running reports whether the process lives.
func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// signal sends a signal to the process, and to no other.
func (p *process) signal(sig syscall.Signal) {
	if pid := p.cmd.Process.Pid; pid <= 1 {
		p.site.t.Fatalf("process has pid %d", pid)
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.site.t.Fatal(err)
	}
}

// wait waits for the end of the process.
func (p *process) wait(limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.ended:
		return true
	case <-timer.C:
		return false
	}
}

// kill ends the process as a power cut would.
func (p *process) kill() {
	p.site.t.Helper()
	p.silent = true
	p.signal(syscall.SIGKILL)
	if !p.wait(10 * time.Second) {
		p.site.t.Fatal("a killed process did not end")
	}
}

// killed reports whether SIGKILL ended the process.
func (p *process) killed() bool {
	w, ok := p.state.Sys().(syscall.WaitStatus)
	return ok && w.Signaled() && w.Signal() == syscall.SIGKILL
}

// stop ends the process as Ctrl-C does and checks that it left in good order.
func (p *process) stop() {
	t := p.site.t
	t.Helper()
	p.signal(syscall.SIGINT)
	if !p.wait(30 * time.Second) {
		t.Fatal("the process did not end within 30 s of SIGINT")
	}
	if code := p.state.ExitCode(); code != 0 {
		t.Errorf("exit code %d after SIGINT, want 0:\n%s", code, p.log.last())
	}
	if _, err := os.Stat(p.file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the ready file is still there after a clean end (%v)", err)
	}
	p.checkLog()
}

// checkLog fails the test for what must never be in a log.
func (p *process) checkLog() {
	for _, word := range []string{"panic", "goroutine ", "DATA RACE"} {
		if strings.Contains(p.log.String(), word) {
			p.site.t.Errorf("the log of process %d has %q:\n%s", p.cmd.Process.Pid, word, p.log.last())
		}
	}
}

// root is the trust anchor's file.
func (s *site) root() string { return filepath.Join(s.data, "root.pem") }

// roots is the trust anchor as a pool.
func (s *site) roots() *x509.CertPool {
	s.t.Helper()
	text, err := os.ReadFile(s.root())
	if err != nil {
		s.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		s.t.Fatalf("%s holds no certificate", s.root())
	}
	return pool
}

// web returns an HTTP client that trusts this installation and nothing else.
func (s *site) web() *http.Client {
	s.t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots()}, MaxIdleConnsPerHost: 32, IdleConnTimeout: 5 * time.Second}
	s.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

// callAPI makes one request to the control plane as its administrator.
func (s *site) callAPI(p *process, method, path, body string, into any) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, p.ready.API+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(readFile(s.t, p.ready.Token)))
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.web().Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		s.t.Fatalf("%s %s: %s (%v)\n%s", method, path, resp.Status, err, text)
	}
	if err := json.Unmarshal(text, into); err != nil {
		s.t.Fatalf("%s %s: %v\n%s", method, path, err, text)
	}
}

// doctor checks invariants I1 to I6 and the journal by `chancery doctor`.
func (s *site) doctor() {
	s.t.Helper()
	args := []string{"doctor", "issuance", "--data", s.data}
	if s.db != "" {
		args = append(args, "--db", s.db)
	}
	out := run(s.t, tool{name: s.bin, args: args})
	if !strings.Contains(out, "all hold") {
		s.t.Errorf("doctor exits 0 and says:\n%s", out)
	}
}

// What only the database knows.
var (
	qProcessing = db.SQL("e2e.count_processing", `SELECT count(*) FROM acme_order WHERE state = 'processing'`, db.Scan("test only"))
	qSerials    = db.SQL("e2e.count_serials", `SELECT count(*) FROM certificate WHERE order_id = $1`, db.Scan("test only"))
	qResponders = db.SQL("e2e.count_responders", `SELECT count(*) FROM authority WHERE role = 'ocsp'`, db.Scan("test only"))
)

// count asks the database for one number.
func (s *site) count(stmt *db.Stmt, args ...any) int {
	s.t.Helper()
	d, err := db.Open(s.t.Context(), db.Config{URL: cmp.Or(s.db, filepath.Join(s.data, "chancery.db"))})
	if err != nil {
		s.t.Fatal(err)
	}
	defer d.Close()
	n, err := db.Get(s.t.Context(), d.Read(), stmt, (*db.Row).Int, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// settle waits until the program has signed what it needs for itself, so that
// every later signature is for a client.
func (s *site) settle() {
	s.t.Helper()
	eventually(s.t, 30*time.Second, func() error {
		if s.count(qResponders) == 0 {
			return errors.New("there is no OCSP responder yet")
		}
		return nil
	})
}

// signatures returns how much the authority has signed so far.
func (s *site) signatures() int {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.data, "signer.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	return bytes.Count(text, []byte("\n"))
}
