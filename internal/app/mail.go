package app

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"chancery/internal/acme/mailreply"
	"chancery/internal/acme/server"
	"chancery/internal/config"
	"chancery/internal/dns"
	"chancery/internal/fault"
	"chancery/internal/mailer"
)

// openMail prepares the sending of challenges by mail; nil without a server.
func openMail(c config.Mail) (*server.Mail, error) {
	if c.Server == "" {
		return nil, nil
	}
	out := &mailer.Server{Address: c.Server, TLS: string(c.TLS), CAFile: c.CAFile, User: c.User}
	if c.PasswordFile != "" {
		out.Password = func() (string, error) { return firstLine(c.PasswordFile) }
	}
	if err := out.Check(); err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "[mail] is not usable: %v", err)
	}
	sign := func(text []byte) ([]byte, error) { return text, nil }
	if c.DKIMSelector != "" {
		key, err := dkimKey(c.DKIMKeyFile)
		if err != nil {
			return nil, err
		}
		s := &mailreply.Signer{Domain: c.Address[strings.LastIndexByte(c.Address, '@')+1:], Selector: c.DKIMSelector, Key: key}
		sign = s.Sign
	}
	return &server.Mail{Address: c.Address,
		Send: func(ctx context.Context, to string, text []byte) error {
			text, err := sign(text)
			if err != nil {
				return err
			}
			return out.Send(ctx, c.Address, []string{to}, text)
		},
		Final: func(err error) bool {
			_, refused := errors.AsType[*mailer.Refused](err)
			return refused
		}}, nil
}

// dkimKey reads a private key.
func dkimKey(path string) (crypto.Signer, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "mail.dkim_key_file cannot be read: %v", err)
	}
	bad := fault.New(fault.Invalid, "mail.dkim_key_file: %s is no private key in PKCS #8 and PEM", path)
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, bad
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, bad
	}
	return signer, nil
}

// serveMail takes the replies to challenges.
func (a *App) serveMail(ctx context.Context, g *errgroup.Group) error {
	c := a.cfg.Mail
	if c.Server == "" {
		return nil
	}
	ln, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fault.Wrap(err, fault.Conflict, "cannot listen on %s for mail.listen; stop what uses it, or choose another address", c.Listen)
	}
	in := &mailreply.Intake{Address: c.Address, LMTP: c.Protocol == "lmtp", Handle: a.acme.MailReply, Lookup: a.lookupTXT, Log: a.log}
	g.Go(func() error { return in.Serve(ctx, ln) })
	return nil
}

// lookupTXT returns TXT records for DKIM. What may work later is marked so.
func (a *App) lookupTXT(name string) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	found, err := a.resolver.TXT(ctx, name)
	if e, ok := errors.AsType[*dns.Error](err); ok && (e.Class == dns.NXDomain || e.Class == dns.NoData) {
		return nil, err
	}
	if err != nil {
		return nil, &net.DNSError{Err: err.Error(), Name: name, IsTemporary: true}
	}
	return found.Records, nil
}
