package challenge

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"strings"

	"chancery/internal/pki"
)

// DNSAccount01Validator is the dns-account-01 method
// (draft-ietf-acme-dns-account-label-03): dns-01 under a label that belongs to
// one account, so that several systems can each delegate their own name of one
// domain, by CNAME, to their own CA account.
type DNSAccount01Validator struct{ prover }

// NewDNSAccount01 returns the dns-account-01 validator.
func NewDNSAccount01(c Config) *DNSAccount01Validator { return &DNSAccount01Validator{newProver(c)} }

// Type returns "dns-account-01".
func (v *DNSAccount01Validator) Type() Type { return DNSAccount01 }

// Supports reports whether id is a DNS name under which the label fits;
// wildcards are.
func (v *DNSAccount01Validator) Supports(id pki.Identifier) bool {
	base, _ := split(id)
	return id.Type == pki.DNS && id.Value != "" && len(base.Value)+len(dnsPrefix)+accountLabelLen+1 <= maxName
}

// Validate looks for the TXT record of this account and no other.
func (v *DNSAccount01Validator) Validate(ctx context.Context, req Request) (Proof, error) {
	if err := check(v, req); err != nil {
		return Proof{}, err
	}
	base, _ := split(req.Identifier)
	return v.digestAt(ctx, DNSAccount01, req, AccountLabel(req.AccountURL)+"."+dnsPrefix+base.Value)
}

const (
	maxName         = 253    // characters of a DNS name in text form
	accountLabelLen = 1 + 16 // an underscore and 80 bits in base32
	accountHashLen  = 80 / 8 // octets of the digest that are used
)

// AccountLabel returns the label of an account before "_acme-challenge": an
// underscore and the first ten octets of the SHA-256 digest of the account's
// URL in lower-case base32 (RFC 4648 section 6).
func AccountLabel(accountURL string) string {
	sum := sha256.Sum256([]byte(accountURL))
	return "_" + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:accountHashLen]))
}
