// Package mailer hands messages to an SMTP server (RFC 5321), by STARTTLS
// unless the operator says otherwise.
package mailer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/smtp"
	"net/textproto"
	"os"
	"time"
)

// Server is an SMTP server and how it is spoken to.
type Server struct {
	Address string // host:port
	TLS     string // "starttls": demanded before anything else is said; "implicit"; "none"
	CAFile  string // PEM; "": the system's
	User    string // "": no sign-in

	Password func() (string, error) // read at each sign-in; nil without User

	host string
}

// Check reports what makes s unusable.
func (s *Server) Check() (err error) {
	if s.host, _, err = net.SplitHostPort(s.Address); err != nil {
		return errors.New("server: must be host:port")
	}
	switch {
	case s.TLS != "starttls" && s.TLS != "implicit" && s.TLS != "none":
		return errors.New("tls: must be starttls, implicit or none")
	case (s.User == "") != (s.Password == nil):
		return errors.New("password_file: belongs together with user")
	case s.TLS == "none" && s.User != "":
		return errors.New("tls: a password is not sent without TLS")
	}
	return nil
}

// Refused is a refusal of a message that RFC 5321 section 4.2.1 calls
// permanent: trying again is of no use.
type Refused struct{ err error }

// Error returns what the server said.
func (r *Refused) Error() string { return r.err.Error() }

// Unwrap returns the server's reply.
func (r *Refused) Unwrap() error { return r.err }

// Send hands one message to the server, which must have been checked. The
// deadline of ctx holds for the whole conversation.
func (s *Server) Send(ctx context.Context, from string, to []string, text []byte) error {
	c, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := s.auth(c); err != nil {
		return err
	}
	if err := transfer(c, from, to, text); err != nil {
		if reply, ok := errors.AsType[*textproto.Error](err); ok && reply.Code >= 500 {
			return &Refused{err}
		}
		return err
	}
	_ = c.Quit() // the message was taken; how the server says good-bye does not matter
	return nil
}

// transfer is one mail transaction.
func transfer(c *smtp.Client, from string, to []string, text []byte) error {
	if err := c.Mail(from); err != nil {
		return fmt.Errorf("MAIL: %w", err)
	}
	for _, a := range to {
		if err := c.Rcpt(a); err != nil {
			return fmt.Errorf("RCPT %s: %w", a, err)
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

// trust returns how the server is trusted.
func (s *Server) trust() (*tls.Config, error) {
	c := &tls.Config{ServerName: s.host, MinVersion: tls.VersionTLS12}
	if s.CAFile == "" {
		return c, nil
	}
	text, err := os.ReadFile(s.CAFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("ca_file: %s holds no certificate in PEM", s.CAFile)
	}
	return c, nil
}

// dial connects and begins TLS.
func (s *Server) dial(ctx context.Context) (*smtp.Client, error) {
	trust, err := s.trust()
	if err != nil {
		return nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.Address)
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
	if s.TLS == "implicit" {
		conn = tls.Client(conn, trust)
	}
	c, err := smtp.NewClient(conn, s.host)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("greeting: %w", err), conn.Close())
	}
	if s.TLS == "starttls" {
		if ok, _ := c.Extension("STARTTLS"); !ok {
			return nil, errors.Join(errors.New("the server offers no STARTTLS, and nothing is sent without; see tls"), c.Close())
		}
		if err := c.StartTLS(trust); err != nil {
			return nil, errors.Join(fmt.Errorf("STARTTLS: %w", err), c.Close())
		}
	}
	return c, nil
}

// auth signs in, if there is a user.
func (s *Server) auth(c *smtp.Client) error {
	if s.User == "" {
		return nil
	}
	password, err := s.Password()
	if err != nil {
		return err
	}
	if err := c.Auth(smtp.PlainAuth("", s.User, password, s.host)); err != nil {
		return fmt.Errorf("AUTH: %w", err)
	}
	return nil
}
