package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"chancery/internal/api"
	"chancery/internal/testenv"
)

// A parrot is a service outside that answers every request by refusing it, and
// repeats in its refusal whatever it was sent: the worst that a provider can do
// with what was entrusted to it.
type parrot struct {
	*httptest.Server
	asked chan string // the paths that it refused
}

func newParrot(t *testing.T) *parrot {
	t.Helper()
	p := &parrot{asked: make(chan string, 1000)}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/.well-known/openid-configuration" {
			fmt.Fprintf(w, `{"issuer":%[1]q,"authorization_endpoint":"%[2]s/authorize","token_endpoint":"%[2]s/token","jwks_uri":"%[2]s/keys","id_token_signing_alg_values_supported":["ES256"]}`, p.URL, p.URL)
			return
		}
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
		if err != nil {
			t.Error(err)
		}
		text := fmt.Sprintf("%s %s %v %s", r.Method, r.RequestURI, r.Header, body)
		if user, password, ok := r.BasicAuth(); ok {
			text += " " + user + " " + password
		}
		select {
		case p.asked <- r.URL.Path:
		default:
		}
		w.WriteHeader(http.StatusBadRequest)
		quoted, err := json.Marshal(text)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, `{"error":"invalid_client","error_description":%[1]s,"errors":[%[1]s],"detail":%[1]s}`, quoted)
	}))
	t.Cleanup(p.Close)
	return p
}

// saw waits until the parrot has refused a request of a path.
func (p *parrot) saw(t *testing.T, part string) {
	t.Helper()
	for deadline := time.After(20 * time.Second); ; {
		select {
		case path := <-p.asked:
			if strings.Contains(path, part) {
				return
			}
		case <-deadline:
			t.Fatalf("nobody asked for %s", part)
		}
	}
}

// plant is a secret and where it may be read all the same.
type plant struct{ name, text string }

// vault is everything that must not be seen, and everything that is looked at.
type vault struct {
	t      *testing.T
	plants []plant
	seen   map[string]string // by what it is: log, journal, ...
}

// secret plants a secret that is written to a file.
func (v *vault) file(dir, name, text string) string {
	v.t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		v.t.Fatal(err)
	}
	v.add(name, text)
	return path
}

// add plants a secret, as it is and in the encodings that it travels in.
func (v *vault) add(name, text string) {
	v.t.Helper()
	if len(text) < 12 {
		v.t.Fatalf("%s: %q is too short to be told from other text", name, text)
	}
	v.plants = append(v.plants, plant{name, text}, plant{name + " in base64", strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(text)), "=")[:len(text)-2]},
		plant{name + " in hexadecimal", fmt.Sprintf("%x", text)})
}

// search looks for every plant in everything that was seen.
func (v *vault) search() {
	v.t.Helper()
	for where, text := range v.seen {
		for _, p := range v.plants {
			if i := strings.Index(text, p.text); i >= 0 {
				v.t.Errorf("%s is in the %s: ...%q", p.name, where, text[max(0, i-150):min(len(text), i+len(p.text)+20)])
			}
		}
		if i := strings.Index(text, "PRIVATE KEY-----"); i >= 0 && where != "backup" {
			v.t.Errorf("a private key is in the %s: ...%q", where, text[max(0, i-100):min(len(text), i+40)])
		}
	}
}

// TestSecretsAreNowhere runs the program at debug level through whatever handles
// a secret, with partners that repeat what they are sent, and then looks for
// every one of the secrets in all that it wrote: the log, the journal, every
// answer of the API, errors on the command line, the printed configuration, the
// doctor's findings, the database, and a backup.
func TestSecretsAreNowhere(t *testing.T) {
	p := newParrot(t)
	s := &shell{t, t.TempDir()}
	v := &vault{t: t, seen: map[string]string{}}
	roots := s.path("roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	listen, plain := testenv.FreeAddr(t), testenv.FreeAddr(t)
	config := fmt.Sprintf(`
[server]
data = %q
listen = %q
http_listen = %q
url = "https://localhost:%s"
http_url = "http://localhost:%s"
debug_listen = ""
[log]
level = "debug"
[keys]
passphrase_file = %q
[sign_in]
[oidc.corp]
issuer = %q
client_id = "chancery"
client_secret_file = %q
roots_file = %q
grants = ["*: viewer"]
[issuer.vault]
kind = "vault"
url = %q
role = "web"
token_file = %q
roots_file = %q
[dns.cf]
kind = "cloudflare"
token_file = %q
url = %q
[alert]
group_wait = "0s"
[alert_channel.hook]
kind = "webhook"
url = %q
secret_file = %q
[alert_channel.chat]
kind = "slack"
url_file = %q
`, s.path("data"), listen, plain, port(listen), port(plain), v.file(s.dir, "key passphrase", "passphrase-correct-horse-battery"), p.URL, v.file(s.dir, "client secret of OIDC", "oidc-client-secret-7391"), roots,
		p.URL, v.file(s.dir, "token of Vault", "hvs.vault-token-5521-abcdef"), roots, v.file(s.dir, "token of the DNS provider", "cloudflare-token-88213-xyz"), p.URL,
		strings.Replace(p.URL, "127.0.0.1", "localhost", 1)+"/hook", v.file(s.dir, "secret of the webhook", "webhook-secret-0123456789abcdef"),
		v.file(s.dir, "URL of Slack", "https://hooks.slack.invalid/services/T000/B000/slack-url-secret-4711"))
	file := s.path("chancery.toml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log := s.serve(file)
	v.drive(s, p, file, "https://"+listen)

	// What can be read afterwards.
	v.answers(s)
	out, errs := s.any("audit", "export")
	v.seen["journal"] = out + errs
	for name, args := range map[string][]string{"doctor": {"doctor", "issuance"}, "keys as the doctor sees them": {"doctor", "keys"}, "printed configuration": {"config", "print"}} {
		out, errs := plainRun(t, append(args, "--config", file)...)
		v.seen[name] = out + errs
	}
	archive := s.path("backup.tar.gz")
	out, errs = s.any("backup", archive)
	v.seen["output of the backup"] = out + errs
	v.seen["backup"] = unpack(t, archive)
	v.seen["log"] = log.String()
	for _, need := range []string{"journal", "doctor", "printed configuration", "backup", "log", "answers"} {
		if len(v.seen[need]) < 60 {
			t.Errorf("%s says only %q: nothing was looked at", need, v.seen[need])
		}
	}
	v.search()
}

func port(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }

// plainRun runs a command that needs no data directory.
func plainRun(t *testing.T, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	run(t.Context(), args, env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs})
	return out.String(), errs.String()
}

// any runs a command, whatever becomes of it.
func (s *shell) any(args ...string) (stdout, stderr string) {
	s.t.Helper()
	return plainRun(s.t, append(args, "--data", s.path("data"))...)
}

// serve makes the authorities and runs `chancery serve` until the test ends.
func (s *shell) serve(config string) *lockedBuffer {
	s.t.Helper()
	if out, errs := plainRun(s.t, "ca", "init", "--offline", "--config", config, "--ca", "default"); errs != "" && !strings.Contains(out+errs, "default") {
		s.t.Fatal(out, errs)
	}
	log := &lockedBuffer{}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan int, 1)
	ready := s.path("ready.json")
	go func() {
		done <- run(ctx, []string{"serve", "--config", config, "--ready-file", ready}, env{stdout: log, stderr: log})
	}()
	s.t.Cleanup(func() {
		stop()
		if code := <-done; code != exitOK {
			s.t.Errorf("serve ended with %d: %s", code, log)
		}
	})
	until(s.t, time.Minute, "the server is ready", func() bool {
		select {
		case code := <-done:
			done <- code
			s.t.Fatalf("serve ended with %d: %s", code, log)
		default:
		}
		_, err := os.Stat(ready)
		return err == nil
	})
	return log
}

// drive uses every secret there is.
func (v *vault) drive(s *shell, p *parrot, config, url string) {
	t := v.t
	t.Helper()
	errs := &strings.Builder{}
	noted := func(args ...string) string {
		out, problem := s.any(args...)
		if errs.WriteString(problem); problem != "" {
			t.Logf("%v: %.300s", args, problem)
		}
		return out
	}
	admin, err := os.ReadFile(s.path("data/admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(string(admin))
	v.add("the administrator's token", token[30:])

	// Tokens: made, used, tried after their end, and sent where they do not belong.
	var made api.NewToken
	decode(t, noted("config", "token", "create", "deploy", "--role", "admin", "--json"), &made)
	v.add("a token", made.Secret[30:])
	client := s.client(url)
	get := func(path string, header ...string) *http.Response {
		t.Helper()
		r, err := http.NewRequest(http.MethodGet, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+1 < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		v.seen["answers"] += string(body)
		return resp
	}
	get("/api/v1/summary", "Authorization", "Bearer "+made.Secret)
	noted("config", "token", "revoke", made.ID)
	get("/api/v1/summary", "Authorization", "Bearer "+made.Secret)
	get("/api/v1/summary?access_token=" + made.Secret)
	get("/api/v1/certs", "Authorization", "Basic "+made.Secret)
	_, bad := plainRun(t, "certs", "list", "--server", url, "--token", made.Secret, "--ca-file", s.path("data/root.pem"))
	errs.WriteString(bad)

	// A browser: the cookie of a sign-in with a token.
	resp, err := client.Post(url+"/api/v1/session", "application/json", strings.NewReader(`{"token":"`+token+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for _, c := range resp.Cookies() {
		if len(c.Value) > 20 {
			v.add("cookie "+c.Name, c.Value)
			get("/api/v1/session", "Cookie", c.Name+"="+c.Value)
		}
	}
	if resp.StatusCode != http.StatusCreated {
		t.Fatal(resp.Status)
	}

	// A provider that repeats the client's secret when it refuses a code.
	login := get("/auth/login/corp")
	where, err := login.Location()
	if err != nil {
		t.Fatal(login.Status, err)
	}
	code := "authorization-code-of-somebody-99"
	v.add("authorization code", code)
	for _, c := range login.Cookies() {
		get("/auth/callback/corp?code="+code+"&state="+where.Query().Get("state"), "Cookie", c.Name+"="+c.Value)
	}
	p.saw(t, "/token")

	// Keys of ACME accounts that are bound from outside, and of agents.
	var eab api.NewEABKey
	decode(t, noted("acme", "eab", "create", "--label", "team", "--json"), &eab)
	v.add("key of an external account binding", eab.Secret)
	var enrol api.NewAgentToken
	decode(t, noted("agents", "token", "create", "--json"), &enrol)
	v.add("enrolment token", strings.Split(enrol.Secret, ".")[1])
	for range 2 { // the second time it is used already
		os.RemoveAll(s.path("agent"))
		_, bad := plainRun(t, "agent", "--once", "--server", url, "--token", enrol.Secret, "--state", s.path("agent"), "--name", "host-1", "--log-format", "text")
		errs.WriteString(bad)
	}

	// A CA and alert channels that repeat what they are sent.
	noted("order", "web.example.test", "--issuer", "vault", "--name", "web", "--wait", "0")
	p.saw(t, "/sign/web")
	noted("alerts", "test", "hook")
	noted("alerts", "test", "chat")
	noted("certs", "explain", "web")
	noted("renew", "list", "--trouble")

	// A private key in a file that is imported.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(4711), DNSNames: []string{"imported.test"}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})...)
	pair := s.path("pair.pem")
	if err := os.WriteFile(pair, text, 0o600); err != nil {
		t.Fatal(err)
	}
	v.plants = append(v.plants, plant{"an imported private key", base64.StdEncoding.EncodeToString(der)[60:100]}, plant{"an imported private key, as bytes", string(der[40:60])})
	noted("certs", "import", pair)

	// A database that refuses, and whose URL holds a password.
	database := "database-password-3307"
	v.add("password of the database", database)
	for _, dsn := range []string{"postgres://chancery:" + database + "@127.0.0.1:1/chancery?connect_timeout=1", "postgres://chancery:" + database + "@[bad/", "postgres://127.0.0.1:1/x?password=" + database + "&sslmode=nonsense"} {
		_, bad := plainRun(t, "dev", "--data", s.path("other"), "--db", dsn, "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--debug-listen", "")
		errs.WriteString(bad)
		conf := s.path("db.toml")
		if err := os.WriteFile(conf, fmt.Appendf(nil, "[server]\ndata = %q\n[database]\nurl = %q\n", s.path("other"), dsn), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"config", "print", "--config", conf}, {"config", "check", "--config", conf}, {"migrate", "--config", conf}, {"serve", "--config", conf}, {"doctor", "issuance", "--config", conf}} {
			out, bad := plainRun(t, args...)
			errs.WriteString(out + bad)
		}
	}
	v.seen["errors of commands"] = errs.String()
}

// client trusts the server's own root, and follows no redirect.
func (s *shell) client(url string) *http.Client {
	s.t.Helper()
	text, err := os.ReadFile(s.path("data/root.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "localhost"}}
	s.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// answers asks the API for everything that it answers, with the ids that its
// lists have.
func (v *vault) answers(s *shell) {
	v.t.Helper()
	var doc struct {
		Paths map[string]map[string]any `yaml:"paths"`
	}
	text, err := os.ReadFile("../../docs/openapi.yaml")
	if err != nil {
		v.t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &doc); err != nil {
		v.t.Fatal(err)
	}
	admin, err := os.ReadFile(s.path("data/admin.token"))
	if err != nil {
		v.t.Fatal(err)
	}
	client, base := s.client(""), s.url()
	ask := func(path string) []byte {
		r, err := http.NewRequest(http.MethodGet, base+path, nil)
		if err != nil {
			v.t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(admin)))
		resp, err := client.Do(r)
		if err != nil {
			v.t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			v.t.Fatal(err)
		}
		v.seen["answers"] += fmt.Sprint(resp.Header) + string(body)
		return body
	}
	answered := 0
	for path, methods := range doc.Paths {
		if methods["get"] == nil {
			continue
		}
		before, after, one := strings.Cut(path, "/{id}")
		if !one {
			ask(strings.NewReplacer("{seq}", "1").Replace(path))
			answered++
			continue
		}
		var page struct {
			Items []struct{ ID string }
		}
		if json.Unmarshal(ask(before), &page) != nil {
			continue
		}
		for _, item := range page.Items[:min(len(page.Items), 5)] {
			ask(before + "/" + item.ID + after)
			answered++
		}
	}
	if answered < 40 {
		v.t.Errorf("only %d answers were read", answered)
	}
}

// unpack returns the names and contents of an archive as one text.
func unpack(t *testing.T, path string) string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	z, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return b.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString("\n" + h.Name + "\n")
		if _, err := io.Copy(&b, r); err != nil {
			t.Fatal(err)
		}
	}
}
