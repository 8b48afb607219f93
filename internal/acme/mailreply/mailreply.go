// Package mailreply is the mail of email-reply-00 (RFC 8823): the challenge
// that goes out, with the first part of its token in the subject, and the reply
// that comes in.
//
// Replies come from anybody. They are bounded, read strictly, and count only
// with a DKIM signature (RFC 6376) of the domain that they say they are from.
package mailreply

import (
	"bytes"
	"crypto"
	"fmt"
	"strings"
	"time"

	"github.com/emersion/go-msgauth/dkim"
)

// Challenge is a challenge message (RFC 8823 section 3.1).
type Challenge struct {
	From      string // bare address, which replies go to
	To        string // bare address: the identifier
	Part1     string // first part of the token, base64url
	MessageID string // with its angle brackets
	At        time.Time
}

// subjectPrefix begins the subject of a challenge.
const subjectPrefix = "ACME: "

// Compose writes the message (RFC 5322). None of the values needs an encoding.
func (c *Challenge) Compose() []byte {
	var b strings.Builder
	for _, h := range [][2]string{{"From", "<" + c.From + ">"}, {"To", "<" + c.To + ">"}, {"Subject", subjectPrefix + c.Part1},
		{"Date", c.At.UTC().Format(time.RFC1123Z)}, {"Message-ID", c.MessageID}, {"Auto-Submitted", "auto-generated; type=acme"},
		{"MIME-Version", "1.0"}, {"Content-Type", "text/plain; charset=us-ascii"}, {"Content-Transfer-Encoding", "7bit"}} {
		b.WriteString(h[0] + ": " + h[1] + "\r\n")
	}
	b.WriteString("\r\nSomebody asks a certification authority for a certificate for this address.\r\n" +
		"If that is you, your mail program, or whoever set it up, answers this message.\r\n" +
		"If it is not, do nothing: without an answer there will be no certificate.\r\n")
	return []byte(b.String())
}

// Signer signs outgoing messages (RFC 6376), as RFC 8823 section 3.1 wants.
type Signer struct {
	Domain   string // of the From address
	Selector string
	Key      crypto.Signer // RSA or Ed25519
}

// signedFields are the header fields that RFC 8823 section 3.1 wants signed.
var signedFields = []string{"From", "Sender", "Reply-To", "To", "CC", "Subject", "Date", "In-Reply-To", "References", "Message-ID",
	"Auto-Submitted", "Content-Type", "Content-Transfer-Encoding"}

// Sign returns the message with its DKIM-Signature before it.
func (s *Signer) Sign(message []byte) ([]byte, error) {
	var out bytes.Buffer
	err := dkim.Sign(&out, bytes.NewReader(message), &dkim.SignOptions{Domain: s.Domain, Selector: s.Selector, Signer: s.Key, Hash: crypto.SHA256,
		HeaderCanonicalization: dkim.CanonicalizationRelaxed, BodyCanonicalization: dkim.CanonicalizationRelaxed, HeaderKeys: signedFields})
	if err != nil {
		return nil, fmt.Errorf("sign message: %w", err)
	}
	return out.Bytes(), nil
}
