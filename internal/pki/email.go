package pki

import (
	"strings"

	"chancery/internal/fault"
)

// Email names a mailbox (RFC 8823 section 3): the value is an addr-spec of
// RFC 5322 whose local part is a dot-atom; the domain is in lower case.
const Email IdentifierType = "email"

// Limits of addresses (RFC 5321 section 4.5.3.1), in octets.
const (
	maxLocal   = 64
	maxAddress = 254
)

// atext are the characters of an atom but letters and digits.
const atext = "!#$%&'*+/=?^_`{|}~-"

// parseEmail checks an address. The local part means what its host says, so
// nothing of it is changed; quoted ones and those outside ASCII, which an
// rfc822Name cannot hold, are refused.
func parseEmail(value string) (Identifier, error) {
	i := strings.LastIndexByte(value, '@')
	if i < 0 || len(value) > maxAddress {
		return Identifier{}, malformed(value, "it is not an e-mail address")
	}
	local := value[:i]
	if local == "" || len(local) > maxLocal {
		return Identifier{}, malformed(value, "what stands before the @ must have 1 to 64 octets")
	}
	for atom := range strings.SplitSeq(local, ".") {
		if atom == "" || strings.ContainsFunc(atom, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r < 0x80 && strings.ContainsRune(atext, r))
		}) {
			return Identifier{}, fault.New(fault.RejectedIdentifier, "addresses with quotes, empty parts or characters outside ASCII before the @ are not certified")
		}
	}
	domain, err := parseDNS(value[i+1:])
	if err != nil || strings.HasPrefix(domain, "*") {
		return Identifier{}, malformed(value, "what follows the @ is not a domain name")
	}
	return Identifier{Email, local + "@" + domain}, nil
}

// Domain returns the domain of an e-mail address, and "" for others.
func (id Identifier) Domain() string {
	if id.Type != Email {
		return ""
	}
	return id.Value[strings.LastIndexByte(id.Value, '@')+1:]
}
