// Package email is the channel for mail, by an SMTP server (RFC 5321).
//
// The Message-ID is made of the delivery's id, so that a message that was taken
// just when the program died, and comes twice, is one to mail programs that
// look at it.
package email

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/smtp"
	"net/textproto"
	"os"
	"strings"
	"time"

	"chancery/internal/alert"
)

// Config is the configuration of a channel.
type Config struct {
	// SMTP server, host:port; 587 for submission, 465 with tls = "implicit".
	Server string `toml:"server" format:"addr"`

	// "starttls": TLS is demanded before anything else is said. "implicit":
	// TLS from the first byte. "none": no TLS, and then no user either.
	TLS string `toml:"tls"`

	// PEM file with the CA certificates that the server is trusted by, instead
	// of the system's.
	CAFile string `toml:"ca_file"`

	// User to sign in as (PLAIN). Empty: no sign-in.
	User string `toml:"user"`

	// File with the user's password.
	PasswordFile string `toml:"password_file"`

	// Sender, an address, or "Name <address>".
	From string `toml:"from"`

	// Recipients, like the sender.
	To []string `toml:"to"`
}

// Kind is the plug-in.
var Kind = alert.Kind{
	Name:   "email",
	Doc:    "Mail, by an SMTP server with STARTTLS.",
	Config: func() any { return &Config{TLS: "starttls"} },
	Open:   open,
}

// maxRecipients bounds the recipients of a channel.
const maxRecipients = 50

// sender is an open channel.
type sender struct {
	cfg  *Config
	from *mail.Address
	to   []*mail.Address
	host string
}

func open(_ alert.Env, config any) (alert.Send, error) {
	c := config.(*Config)
	s := &sender{cfg: c}
	var err error
	if s.host, _, err = net.SplitHostPort(c.Server); err != nil {
		return nil, errors.New("server: must be host:port")
	}
	if s.from, err = mail.ParseAddress(c.From); err != nil {
		return nil, errors.New("from: must be an address, such as chancery@example.com")
	}
	for _, text := range c.To {
		a, err := mail.ParseAddress(text)
		if err != nil {
			return nil, fmt.Errorf("to: %q is no address", text)
		}
		s.to = append(s.to, a)
	}
	switch {
	case len(s.to) == 0 || len(s.to) > maxRecipients:
		return nil, fmt.Errorf("to: must hold 1 to %d addresses", maxRecipients)
	case c.TLS != "starttls" && c.TLS != "implicit" && c.TLS != "none":
		return nil, errors.New("tls: must be starttls, implicit or none")
	case (c.User == "") != (c.PasswordFile == ""):
		return nil, errors.New("password_file: belongs together with user")
	case c.TLS == "none" && c.User != "":
		return nil, errors.New("tls: a password is not sent without TLS")
	}
	return s.send, nil
}

// send hands one message to the server.
func (s *sender) send(ctx context.Context, m *alert.Message) error {
	text, err := s.compose(m)
	if err != nil {
		return alert.Permanent(err)
	}
	c, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := s.auth(c); err != nil {
		return err
	}
	if err := s.transfer(c, text); err != nil {
		return lasting(err)
	}
	_ = c.Quit() // the message was taken; how the server says good-bye does not matter
	return nil
}

// transfer is one mail transaction.
func (s *sender) transfer(c *smtp.Client, text []byte) error {
	if err := c.Mail(s.from.Address); err != nil {
		return fmt.Errorf("MAIL: %w", err)
	}
	for _, to := range s.to {
		if err := c.Rcpt(to.Address); err != nil {
			return fmt.Errorf("RCPT %s: %w", to.Address, err)
		}
	}
	w, err := c.Data()
	if err != nil {
		return fmt.Errorf("DATA: %w", err)
	}
	if _, err := w.Write(text); err != nil {
		return fmt.Errorf("send text: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("end of text: %w", err)
	}
	return nil
}

// lasting marks refusals that RFC 5321 section 4.2.1 calls permanent.
func lasting(err error) error {
	var reply *textproto.Error
	if errors.As(err, &reply) && reply.Code >= 500 {
		return alert.Permanent(err)
	}
	return err
}

// tls returns how the server is trusted.
func (s *sender) tls() (*tls.Config, error) {
	c := &tls.Config{ServerName: s.host, MinVersion: tls.VersionTLS12}
	if s.cfg.CAFile == "" {
		return c, nil
	}
	text, err := os.ReadFile(s.cfg.CAFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("ca_file: %s holds no certificate in PEM", s.cfg.CAFile)
	}
	return c, nil
}

// dial connects and begins TLS. The deadline of ctx holds for the whole
// conversation.
func (s *sender) dial(ctx context.Context) (*smtp.Client, error) {
	trust, err := s.tls()
	if err != nil {
		return nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.cfg.Server)
	if err != nil {
		return nil, err
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(time.Minute)
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if s.cfg.TLS == "implicit" {
		conn = tls.Client(conn, trust)
	}
	c, err := smtp.NewClient(conn, s.host)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("greeting: %w", err), conn.Close())
	}
	if s.cfg.TLS == "starttls" {
		if ok, _ := c.Extension("STARTTLS"); !ok {
			return nil, errors.Join(errors.New("the server offers no STARTTLS, and nothing is sent without; see tls"), c.Close())
		}
		if err := c.StartTLS(trust); err != nil {
			return nil, errors.Join(fmt.Errorf("STARTTLS: %w", err), c.Close())
		}
	}
	return c, nil
}

// auth signs in, if the channel has a user.
func (s *sender) auth(c *smtp.Client) error {
	if s.cfg.User == "" {
		return nil
	}
	password, err := alert.Secret("password_file", s.cfg.PasswordFile)
	if err != nil {
		return err
	}
	if err := c.Auth(smtp.PlainAuth("", s.cfg.User, password, s.host)); err != nil {
		return fmt.Errorf("AUTH: %w", err)
	}
	return nil
}

// compose writes the message (RFC 5322), its text in quoted-printable.
func (s *sender) compose(m *alert.Message) ([]byte, error) {
	var b strings.Builder
	_, domain, _ := strings.Cut(s.from.Address, "@")
	to := make([]string, len(s.to))
	for i, a := range s.to {
		to[i] = a.String()
	}
	subject := strings.Join(strings.Fields(m.Title()), " ")
	for _, h := range [][2]string{{"From", s.from.String()}, {"To", strings.Join(to, ",\r\n ")}, {"Subject", mime.QEncoding.Encode("utf-8", subject)},
		{"Date", m.At.UTC().Format(time.RFC1123Z)}, {"Message-ID", "<" + m.ID + "@" + domain + ">"}, {"Auto-Submitted", "auto-generated"},
		{"X-Chancery-Rule", m.Rule}, {"X-Chancery-Event", string(m.Event)}, {"MIME-Version", "1.0"}, {"Content-Type", "text/plain; charset=utf-8"}, {"Content-Transfer-Encoding", "quoted-printable"}} {
		b.WriteString(h[0] + ": " + h[1] + "\r\n")
	}
	b.WriteString("\r\n")
	w := quotedprintable.NewWriter(&b)
	text := m.Title() + "\r\n\r\n" + strings.Join(m.Lines(), "\r\n") + "\r\n\r\n" + m.URL + "\r\n"
	if _, err := w.Write([]byte(text)); err != nil {
		return nil, fmt.Errorf("encode text: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("encode text: %w", err)
	}
	return []byte(b.String()), nil
}
