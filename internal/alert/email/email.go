// Package email is the channel for mail, by an SMTP server (RFC 5321).
//
// The Message-ID is made of the delivery's id, so that a message that was taken
// just when the program died, and comes twice, is one to mail programs that
// look at it.
package email

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"time"

	"chancery/internal/alert"
	"chancery/internal/mailer"
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
	server mailer.Server
	from   *mail.Address
	to     []*mail.Address
}

func open(_ alert.Env, config any) (alert.Send, error) {
	c := config.(*Config)
	s := &sender{server: mailer.Server{Address: c.Server, TLS: c.TLS, CAFile: c.CAFile, User: c.User}}
	if c.PasswordFile != "" {
		s.server.Password = func() (string, error) { return alert.Secret("password_file", c.PasswordFile) }
	}
	if err := s.server.Check(); err != nil {
		return nil, err
	}
	var err error
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
	if len(s.to) == 0 || len(s.to) > maxRecipients {
		return nil, fmt.Errorf("to: must hold 1 to %d addresses", maxRecipients)
	}
	return s.send, nil
}

// send hands one message to the server.
func (s *sender) send(ctx context.Context, m *alert.Message) error {
	text, err := s.compose(m)
	if err != nil {
		return alert.Permanent(err)
	}
	to := make([]string, len(s.to))
	for i, a := range s.to {
		to[i] = a.Address
	}
	err = s.server.Send(ctx, s.from.Address, to, text)
	if _, refused := errors.AsType[*mailer.Refused](err); refused {
		return alert.Permanent(err)
	}
	return err
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
