package app

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/emersion/go-msgauth/dkim"
	"github.com/emersion/go-smtp"

	"chancery/internal/config"
	"chancery/internal/fault"
)

// inbox is a mail server that keeps one message.
type inbox struct{ got chan string }

func (*inbox) Reset()                               {}
func (*inbox) Logout() error                        { return nil }
func (*inbox) Mail(string, *smtp.MailOptions) error { return nil }
func (b *inbox) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	b.got <- string(text)
	return err
}
func (*inbox) Rcpt(to string, _ *smtp.RcptOptions) error {
	if to != "a@user.test" {
		return &smtp.SMTPError{Code: 550, Message: "no such mailbox"}
	}
	return nil
}

// What [mail] says is what happens: the message goes to that server, signed by
// that key.
func TestMailFollowsTheConfiguration(t *testing.T) {
	box := &inbox{make(chan string, 1)}
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return box, nil }))
	s.Domain = "mx.test"
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	defer func() { s.Close(); <-done }()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "dkim.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	c := config.Default().Mail
	if m, err := openMail(c); m != nil || err != nil {
		t.Errorf("without server: %+v, %v", m, err)
	}
	c.Server, c.TLS, c.Address, c.DKIMSelector, c.DKIMKeyFile = ln.Addr().String(), "none", "acme@ca.test", "sel", path
	m, err := openMail(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Send(t.Context(), "a@user.test", []byte("From: <acme@ca.test>\r\nSubject: x\r\n\r\ny\r\n")); err != nil {
		t.Fatal(err)
	}
	record := func(name string) ([]string, error) {
		if name != "sel._domainkey.ca.test" {
			t.Errorf("key asked for at %s", name)
		}
		return []string{"v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(pub)}, nil
	}
	if list, err := dkim.VerifyWithOptions(strings.NewReader(<-box.got), &dkim.VerifyOptions{LookupTXT: record}); err != nil || len(list) != 1 || list[0].Err != nil {
		t.Errorf("%+v, %v", list, err)
	}
	if err := m.Send(t.Context(), "b@user.test", []byte("From: <acme@ca.test>\r\n\r\ny\r\n")); err == nil || !m.Final(err) {
		t.Errorf("a permanent refusal: %v", err)
	}
	for what, change := range map[string]func(*config.Mail){
		"no such key":         func(c *config.Mail) { c.DKIMKeyFile = "/nowhere" },
		"no key in it":        func(c *config.Mail) { c.DKIMKeyFile = os.Args[0] },
		"a user without TLS":  func(c *config.Mail) { c.User, c.PasswordFile = "x", path },
		"no address of it":    func(c *config.Mail) { c.Server = "mx.test" },
		"an unknown protocol": func(c *config.Mail) { c.TLS = "ssl" },
	} {
		bad := c
		change(&bad)
		if _, err := openMail(bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	s.Close()
	if err := m.Send(t.Context(), "a@user.test", []byte("From: <acme@ca.test>\r\n\r\ny\r\n")); err == nil || m.Final(err) {
		t.Errorf("a server that is away: %v", err)
	}
}
