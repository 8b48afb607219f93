package config

import (
	"net/mail"
	"slices"
	"strings"
)

// Mail is the [mail] section: how mailboxes are validated (email-reply-00, RFC
// 8823). Without server nothing of it is used.
type Mail struct {
	// SMTP server that messages go out by, host:port; 587 for submission, 465
	// with tls = "implicit".
	Server string `toml:"server" format:"addr"`

	// "starttls": TLS is demanded before anything else is said. "implicit": TLS
	// from the first byte. "none": no TLS, and then no user either.
	TLS MailTLS `toml:"tls"`

	// PEM file with the CA certificates that the server is trusted by, instead
	// of the system's.
	CAFile string `toml:"ca_file"`

	// User to sign in as (PLAIN). Empty: no sign-in.
	User string `toml:"user"`

	// File with the user's password.
	PasswordFile string `toml:"password_file"`

	// Mailbox that challenges are from and replies go to, an address.
	Address string `toml:"address"`

	// Address that replies are taken at, host:port. Let a mail server of yours,
	// which filters, deliver that mailbox here.
	Listen string `toml:"listen" format:"addr"`

	// Protocol of listen.
	Protocol MailProtocol `toml:"protocol"`

	// Selector of the DKIM key, whose record is SELECTOR._domainkey.DOMAIN.
	// Empty: the server signs, for challenges must be signed (RFC 8823 section 3.1).
	DKIMSelector string `toml:"dkim_selector"`

	// File with the DKIM key (PKCS #8 in PEM, RSA or Ed25519).
	DKIMKeyFile string `toml:"dkim_key_file"`
}

// MailTLS is how TLS is spoken with a mail server.
type MailTLS string

// Choices returns the values that it may have.
func (MailTLS) Choices() []string { return []string{"starttls", "implicit", "none"} }

// MailProtocol is how replies come in.
type MailProtocol string

// Choices returns the values that it may have.
func (MailProtocol) Choices() []string { return []string{"lmtp", "smtp"} }

// mail checks [mail].
func (k *checker) mail() {
	m := &k.c.Mail
	for name, p := range k.c.Profile {
		k.must(m.Server != "" || !slices.Contains(p.Challenges, "email-reply-00"), "profile."+name+".challenges", "offers email-reply-00; set mail.server, mail.address and mail.listen")
	}
	if m.Server == "" {
		return
	}
	a, err := mail.ParseAddress(m.Address)
	k.must(err == nil && a.Address == m.Address && strings.Contains(m.Address, "@"), "mail.address", "must be a bare address, such as acme@example.com")
	k.must(m.Listen != "", "mail.listen", "must be set; replies would go nowhere")
	k.must((m.User == "") == (m.PasswordFile == ""), "mail.password_file", "belongs together with user")
	k.must(m.TLS != "none" || m.User == "", "mail.tls", "a password is not sent without TLS")
	k.must((m.DKIMSelector == "") == (m.DKIMKeyFile == ""), "mail.dkim_key_file", "belongs together with dkim_selector")
}
