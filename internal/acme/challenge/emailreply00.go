package challenge

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// MailReply is what email-reply-00 needs besides token and key authorization:
// the digest in the reply, whose origin was verified when it came in.
type MailReply struct {
	Digest string // base64url
}

// EmailReply00Validator is the email-reply-00 method (RFC 8823): whoever reads
// the mailbox, and may send for its domain, answers a message. Nothing is
// contacted.
type EmailReply00Validator struct{ prover }

// NewEmailReply00 returns the email-reply-00 validator.
func NewEmailReply00(c Config) *EmailReply00Validator { return &EmailReply00Validator{newProver(c)} }

// Type returns "email-reply-00".
func (v *EmailReply00Validator) Type() Type { return EmailReply00 }

// Supports reports whether id is a mailbox.
func (v *EmailReply00Validator) Supports(id pki.Identifier) bool { return id.Type == pki.Email }

// Validate compares the reply with the key authorization of the whole token.
func (v *EmailReply00Validator) Validate(_ context.Context, req Request) (Proof, error) {
	if err := check(v, req); err != nil {
		return Proof{}, err
	}
	if req.Reply == nil {
		return Proof{}, fault.New(fault.Malformed, "%s needs a reply", EmailReply00)
	}
	sum := sha256.Sum256([]byte(req.KeyAuthorization))
	if subtle.ConstantTimeCompare([]byte(req.Reply.Digest), []byte(base64.RawURLEncoding.EncodeToString(sum[:]))) != 1 {
		return Proof{}, fault.New(fault.IncorrectResponse, "the reply from %s does not have the SHA-256 of the key authorization", quote(req.Identifier.Value))
	}
	return v.prove(EmailReply00, req, nil), nil
}
