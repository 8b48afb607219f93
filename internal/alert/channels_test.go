package alert_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"chancery/internal/alert"
	"chancery/internal/alert/email"
	"chancery/internal/alert/pagerduty"
	"chancery/internal/alert/slack"
	"chancery/internal/alert/teams"
	"chancery/internal/alert/webhook"
)

// message is what the channels are given: two alerts with foreign text.
func message(event alert.Event) *alert.Message {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	m := &alert.Message{ID: "06d3v5w9e8x0c1r2t3y4h5j6k7", Event: event, Rule: "certificate-ending", Severity: alert.Critical, At: at, URL: "https://ca.example/alerts", Instance: "ca.example"}
	for _, name := range []string{"<b>evil</b> & *co*.example\r\nBcc: x@example.com", "bücher.example"} {
		m.Alerts = append(m.Alerts, alert.Alert{ID: "id-" + name[:1], Rule: m.Rule, Subject: "certificate:" + name, State: alert.Firing, Severity: alert.Critical,
			Summary: "the certificate of " + name + " ends", Labels: map[string]string{"team": "web"}, Since: at, FiredAt: at})
	}
	return m
}

// file writes a secret.
func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	check(t, os.WriteFile(path, []byte(text+"\n"), 0o600))
	return path
}

func open(t *testing.T, k alert.Kind, config any) alert.Send {
	t.Helper()
	send, err := k.Open(alert.Env{Name: "x", Log: slog.New(slog.DiscardHandler)}, config)
	check(t, err)
	return send
}

// receiver is a server that answers with a status and keeps what it got.
type receiver struct {
	*httptest.Server
	mu      sync.Mutex
	status  int
	bodies  [][]byte
	headers []http.Header
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{status: 200}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.bodies, r.headers = append(r.bodies, body), append(r.headers, req.Header)
		w.WriteHeader(r.status)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) body(t *testing.T, i int, into any) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.bodies) <= i {
		t.Fatalf("only %d requests came", len(r.bodies))
	}
	check(t, json.Unmarshal(r.bodies[i], into))
}

func TestWebhookIsSigned(t *testing.T) {
	r := newReceiver(t)
	const secret = "0123456789abcdef"
	send := open(t, webhook.Kind, &webhook.Config{URL: r.URL, SecretFile: file(t, secret)})
	check(t, send(context.Background(), message(alert.Fire)))
	check(t, send(context.Background(), message(alert.Fire)))
	var body webhook.Body
	r.body(t, 1, &body)
	if body.Event != "fire" || len(body.Alerts) != 2 || body.Alerts[0].Labels["team"] != "web" || body.ID != r.headers[0].Get("Chancery-Delivery") || r.headers[0].Get("Chancery-Delivery") != r.headers[1].Get("Chancery-Delivery") {
		t.Errorf("%+v %v", body, r.headers)
	}
	stamp, sum, _ := strings.Cut(r.headers[0].Get("Chancery-Signature"), ",v1=")
	mac := hmac.New(sha256.New, []byte(secret)) // as docs/alerts.md tells a receiver to check it
	mac.Write([]byte(strings.TrimPrefix(stamp, "t=") + "." + string(r.bodies[0])))
	if hex.EncodeToString(mac.Sum(nil)) != sum {
		t.Error("the signature is not that of the body")
	}
}

// TestRefusals: what a repetition may mend is tried again, what it cannot is not,
// and no error tells a secret.
func TestRefusals(t *testing.T) {
	r := newReceiver(t)
	send := open(t, slack.Kind, &slack.Config{URLFile: file(t, r.URL+"/services/SECRET")})
	for status, permanent := range map[int]bool{400: true, 410: true, 413: true, 401: false, 404: false, 408: false, 429: false, 500: false, 503: false, 302: false} {
		r.status = status
		if err := send(context.Background(), message(alert.Fire)); err == nil || alert.IsPermanent(err) != permanent || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%d: %v, permanent %t", status, err, alert.IsPermanent(err))
		}
	}
	r.Close()
	if err := send(context.Background(), message(alert.Fire)); err == nil || alert.IsPermanent(err) || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("outage: %v", err)
	}
	if err := open(t, slack.Kind, &slack.Config{URLFile: "/nonexistent"})(context.Background(), message(alert.Fire)); err == nil || alert.IsPermanent(err) {
		t.Errorf("no file: %v", err)
	}
}

func TestSlackEscapes(t *testing.T) {
	r := newReceiver(t)
	check(t, open(t, slack.Kind, &slack.Config{URLFile: file(t, r.URL)})(context.Background(), message(alert.Fire)))
	var body struct {
		Text        string
		Attachments []struct {
			Color  string
			Blocks []struct{ Text struct{ Text string } }
		}
	}
	r.body(t, 0, &body)
	if text := body.Attachments[0].Blocks[0].Text.Text; !strings.Contains(text, "&lt;b&gt;evil&lt;/b&gt; &amp; *co*") || strings.Contains(text, "<") || !strings.Contains(body.Text, "certificate-ending: 2 alerts") {
		t.Errorf("%+v", body)
	}
}

func TestTeamsCard(t *testing.T) {
	r := newReceiver(t)
	check(t, open(t, teams.Kind, &teams.Config{URLFile: file(t, r.URL)})(context.Background(), message(alert.Resolve)))
	var body struct {
		Type        string
		Attachments []struct {
			ContentType string
			Content     struct {
				Type string
				Body []struct {
					Type    string
					Inlines []struct{ Type, Text, Color string }
				}
			}
		}
	}
	r.body(t, 0, &body)
	card := body.Attachments[0]
	if body.Type != "message" || card.ContentType != "application/vnd.microsoft.card.adaptive" || card.Content.Type != "AdaptiveCard" || card.Content.Body[0].Inlines[0].Color != "good" || !strings.Contains(card.Content.Body[2].Inlines[0].Text, "bücher") {
		t.Errorf("%+v", body)
	}
}

func TestPagerDutyIncidents(t *testing.T) {
	r := newReceiver(t)
	send := open(t, pagerduty.Kind, &pagerduty.Config{URL: r.URL, RoutingKeyFile: file(t, "KEY")})
	check(t, send(context.Background(), message(alert.Fire)))
	check(t, send(context.Background(), message(alert.Resolve)))
	type event struct {
		RoutingKey string `json:"routing_key"`
		Action     string `json:"event_action"`
		DedupKey   string `json:"dedup_key"`
		Payload    *struct{ Summary, Source, Severity string }
	}
	var got [4]event
	for i := range got {
		r.body(t, i, &got[i])
	}
	if got[0].Action != "trigger" || got[0].RoutingKey != "KEY" || got[0].Payload.Severity != "critical" || got[0].Payload.Source != "ca.example" || got[2].Action != "resolve" || got[2].Payload != nil ||
		got[0].DedupKey != got[2].DedupKey || got[0].DedupKey == got[1].DedupKey {
		t.Errorf("%+v", got)
	}
}

// mailbox is a real SMTP server's backend that wants a password over TLS.
type mailbox struct {
	mu   sync.Mutex
	got  []string
	rcpt []string
	fail error
}

func (m *mailbox) NewSession(*smtp.Conn) (smtp.Session, error) { return &visit{m: m}, nil }

type visit struct {
	m    *mailbox
	user bool
}

func (v *visit) AuthMechanisms() []string { return []string{sasl.Plain} }
func (v *visit) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if v.user = user == "chancery" && password == "hunter2"; !v.user {
			return errors.New("wrong password")
		}
		return nil
	}), nil
}
func (v *visit) Reset()        {}
func (v *visit) Logout() error { return nil }
func (v *visit) Mail(string, *smtp.MailOptions) error {
	if !v.user {
		return smtp.ErrAuthRequired
	}
	return v.m.fail
}
func (v *visit) Rcpt(to string, _ *smtp.RcptOptions) error {
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	v.m.rcpt = append(v.m.rcpt, to)
	return nil
}
func (v *visit) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	v.m.got = append(v.m.got, string(text))
	return err
}

// certificateFor makes a certificate for 127.0.0.1, and a file that trusts it.
func certificateFor(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	check(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

func startMail(t *testing.T, c tls.Certificate) (*mailbox, string) {
	t.Helper()
	box := &mailbox{}
	s := smtp.NewServer(box)
	s.Domain, s.TLSConfig = "mail.example", &tls.Config{Certificates: []tls.Certificate{c}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(func() { s.Close() })
	return box, ln.Addr().String()
}

func TestMailOverSTARTTLS(t *testing.T) {
	cert, trusted := certificateFor(t)
	box, addr := startMail(t, cert)
	config := func() *email.Config {
		return &email.Config{Server: addr, TLS: "starttls", CAFile: trusted, User: "chancery", PasswordFile: file(t, "hunter2"), From: "Chancery <chancery@ca.example>", To: []string{"ops@example.com", "Web Team <web@example.com>"}}
	}
	ctx := context.Background()
	check(t, open(t, email.Kind, config())(ctx, message(alert.Fire)))
	m, err := mail.ReadMessage(strings.NewReader(box.got[0]))
	check(t, err)
	text, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	check(t, err)
	if m.Header.Get("Message-ID") != "<06d3v5w9e8x0c1r2t3y4h5j6k7@ca.example>" || m.Header.Get("Bcc") != "" || m.Header.Get("Auto-Submitted") != "auto-generated" || len(box.rcpt) != 2 ||
		!strings.Contains(string(text), "bücher.example ends") || !strings.Contains(string(text), "https://ca.example/alerts") {
		t.Errorf("%v\n%s", m.Header, text)
	}
	single := message(alert.Fire) // its subject has what is foreign
	single.Alerts = single.Alerts[:1]
	check(t, open(t, email.Kind, config())(ctx, single))
	if m, err = mail.ReadMessage(strings.NewReader(box.got[1])); err != nil || m.Header.Get("Bcc") != "" {
		t.Errorf("a header was smuggled in: %v %v", m.Header, err)
	}

	box.fail = &smtp.SMTPError{Code: 451, Message: "later"}
	if err := open(t, email.Kind, config())(ctx, message(alert.Fire)); err == nil || alert.IsPermanent(err) {
		t.Errorf("451: %v", err)
	}
	box.fail = &smtp.SMTPError{Code: 550, Message: "never"}
	if err := open(t, email.Kind, config())(ctx, message(alert.Fire)); !alert.IsPermanent(err) {
		t.Errorf("550: %v", err)
	}
	box.fail = nil
	wrong := config()
	wrong.PasswordFile = file(t, "SECRETWRONG")
	if err := open(t, email.Kind, wrong)(ctx, message(alert.Fire)); err == nil || alert.IsPermanent(err) || strings.Contains(err.Error(), "SECRETWRONG") {
		t.Errorf("wrong password: %v", err)
	}
	stranger := config()
	stranger.CAFile = ""
	if err := open(t, email.Kind, stranger)(ctx, message(alert.Fire)); err == nil {
		t.Error("a server that nobody vouches for was given a password")
	}
	if len(box.got) != 2 {
		t.Errorf("%d messages came", len(box.got))
	}
}

// TestMailNeedsTLS: a server without STARTTLS, or somebody in between who takes
// it out, gets nothing.
func TestMailNeedsTLS(t *testing.T) {
	box := &mailbox{}
	s := smtp.NewServer(box)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(func() { s.Close() })
	err = open(t, email.Kind, &email.Config{Server: ln.Addr().String(), TLS: "starttls", From: "a@b.example", To: []string{"c@d.example"}})(context.Background(), message(alert.Fire))
	if err == nil || len(box.rcpt) > 0 {
		t.Errorf("%v, %v", err, box.rcpt)
	}
}

func TestChannelsThatAreConfiguredWrong(t *testing.T) {
	good := email.Config{Server: "mail.example:587", TLS: "starttls", From: "a@b.example", To: []string{"c@d.example"}}
	for name, f := range map[string]func(*email.Config){
		"server": func(c *email.Config) { c.Server = "mail.example" }, "from": func(c *email.Config) { c.From = "nobody" }, "to": func(c *email.Config) { c.To = nil },
		"tls": func(c *email.Config) { c.TLS = "maybe" }, "password_file": func(c *email.Config) { c.User = "x" },
		"tls:": func(c *email.Config) { c.TLS, c.User, c.PasswordFile = "none", "x", "y" },
	} {
		c := good
		f(&c)
		if _, err := email.Kind.Open(alert.Env{}, &c); err == nil || !strings.HasPrefix(err.Error(), strings.TrimSuffix(name, ":")+": ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, k := range []alert.Kind{slack.Kind, teams.Kind, pagerduty.Kind, webhook.Kind} {
		if _, err := k.Open(alert.Env{}, k.Config()); err == nil {
			t.Errorf("%s opens without its settings", k.Name)
		}
	}
}
