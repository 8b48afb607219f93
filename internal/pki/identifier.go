// Package pki holds the pure vocabulary of certificates: identifiers, serial
// numbers, key types, CSR checks, and the DER encoders of certificates, CRLs
// and OCSP answers. Nothing here does I/O or asks for the time.
package pki

import (
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/idna"

	"chancery/internal/fault"
)

// IdentifierType is an ACME identifier type (RFC 8555 section 9.7.7).
type IdentifierType string

// Identifier types that Chancery issues for.
const (
	DNS IdentifierType = "dns" // RFC 8555; value is a lower-case A-label name, "*." allowed at the left
	IP  IdentifierType = "ip"  // RFC 8738; value is the canonical text form (RFC 5952 for IPv6)
)

// Valid reports whether t is a known identifier type.
func (t IdentifierType) Valid() bool {
	return t == DNS || t == IP || t == PermanentIdentifier || t == HardwareModule || t == TNAuthList || t == Email
}

// Identifier is one subject that a certificate speaks for. Two identifiers
// that came from ParseIdentifier mean the same subject exactly when they are
// equal with ==.
type Identifier struct {
	Type  IdentifierType `json:"type"`
	Value string         `json:"value"`
}

// String returns "type:value".
func (id Identifier) String() string { return string(id.Type) + ":" + id.Value }

// Wildcard reports whether id is a DNS name whose left-most label is "*".
func (id Identifier) Wildcard() bool {
	return id.Type == DNS && strings.HasPrefix(id.Value, "*.")
}

// Base returns id without a left-most "*." label: the identifier that is
// validated on behalf of a wildcard (RFC 8555 section 7.1.3).
func (id Identifier) Base() Identifier {
	if id.Wildcard() {
		id.Value = id.Value[2:]
	}
	return id
}

// Limits of DNS names (RFC 1035 section 2.3.4), in octets of presentation form.
const (
	maxName  = 253
	maxLabel = 63
)

// ParseIdentifier checks value strictly against the rules of typ and returns
// it in canonical form. Names are lower-cased; anything else that is not
// canonical DNS is refused rather than repaired, except that IPv6 addresses
// are rewritten as RFC 5952 says. Whether a valid name may have a certificate
// (public suffixes, single labels, reserved addresses) is policy, decided
// elsewhere.
//
// Errors are *fault.Error: unsupportedIdentifier for an unknown type,
// rejectedIdentifier for a value that belongs to another type or that no CA
// may sign, malformed for everything else.
func ParseIdentifier(typ IdentifierType, value string) (Identifier, error) {
	switch typ {
	case DNS:
		name, err := parseDNS(value)
		if err != nil {
			return Identifier{}, err
		}
		return Identifier{DNS, name}, nil
	case IP:
		addr, err := parseIP(value)
		if err != nil {
			return Identifier{}, err
		}
		return Identifier{IP, addr.String()}, nil
	case PermanentIdentifier, HardwareModule:
		return parseDevice(typ, value)
	case TNAuthList:
		return parseTNAuthList(value)
	case Email:
		return parseEmail(value)
	}
	return Identifier{}, fault.New(fault.UnsupportedIdentifier, "identifier type %.32q is not supported; use \"dns\" or \"ip\"", string(typ))
}

// ParseNames reads DNS names and addresses and returns them in canonical form,
// sorted, each once.
func ParseNames(values []string) ([]Identifier, error) {
	ids := make([]Identifier, 0, len(values))
	for _, v := range values {
		id, err := ParseIdentifier(IP, v)
		if err != nil {
			if id, err = ParseIdentifier(DNS, v); err != nil {
				return nil, err
			}
		}
		ids = append(ids, id)
	}
	return SortIdentifiers(ids), nil
}

// Addr returns the address of an IP identifier, and the zero Addr for others.
func (id Identifier) Addr() netip.Addr {
	if id.Type != IP {
		return netip.Addr{}
	}
	addr, _ := netip.ParseAddr(id.Value) // canonical since ParseIdentifier
	return addr
}

func parseIP(value string) (netip.Addr, error) {
	if len(value) > len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255") {
		return netip.Addr{}, malformed(value, "it is longer than any IP address")
	}
	addr, err := netip.ParseAddr(value)
	switch {
	case err != nil:
		return netip.Addr{}, malformed(value, "it is not an IP address (RFC 8738)")
	case addr.Zone() != "":
		return netip.Addr{}, malformed(value, "an IP identifier cannot have a zone")
	case addr.Is4In6():
		return netip.Addr{}, malformed(value, "write an IPv4-mapped address as plain IPv4: "+addr.Unmap().String())
	}
	return addr, nil
}

// parseDNS returns value in lower case if it is a sound DNS name.
func parseDNS(value string) (string, error) {
	switch {
	case value == "":
		return "", malformed(value, "the name is empty")
	case len(value) > maxName:
		return "", malformed(value, "the name is longer than 253 octets")
	case value[len(value)-1] == '.':
		return "", malformed(value, "leave out the dot at the end")
	}
	if _, err := netip.ParseAddr(strings.Trim(value, "[]")); err == nil {
		return "", fault.New(fault.RejectedIdentifier, "%q is an IP address; order it with identifier type \"ip\" (RFC 8738)", value)
	}
	name := lowerASCII(value)
	base := strings.TrimPrefix(name, "*.")
	last := ""
	for label := range strings.SplitSeq(base, ".") {
		if why := checkLabel(label); why != "" {
			return "", malformed(value, why)
		}
		last = label
	}
	if strings.Trim(last, "0123456789") == "" {
		return "", malformed(value, "the last label cannot be all digits")
	}
	return name, nil
}

// lowerASCII is strings.ToLower for A to Z alone: Unicode would turn some other
// characters into ASCII letters too (the Kelvin sign into "k").
func lowerASCII(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return strings.Map(func(r rune) rune {
				if 'A' <= r && r <= 'Z' {
					r += 'a' - 'A'
				}
				return r
			}, s)
		}
	}
	return s
}

// checkLabel says what is wrong with one lower-case label, or "".
func checkLabel(label string) string {
	switch {
	case label == "":
		return "a label is empty"
	case len(label) > maxLabel:
		return "a label is longer than 63 octets"
	case label == "*":
		return "\"*\" may only be the whole left-most label"
	case label[0] == '-' || label[len(label)-1] == '-':
		return "a label starts or ends with a hyphen"
	}
	for i := range len(label) {
		c := label[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-') {
			return describeByte(c)
		}
	}
	if len(label) >= 4 && label[2:4] == "--" {
		return checkReserved(label)
	}
	return ""
}

func describeByte(c byte) string {
	switch {
	case c >= 0x80:
		return "it has characters outside ASCII; write it in its A-label form (xn--...)"
	case c == '*':
		return "\"*\" may only be the whole left-most label"
	}
	return "only letters, digits, hyphens and dots are allowed"
}

// checkReserved checks a label with "--" in places 3 and 4. Only A-labels may
// look like that (RFC 5890 section 2.3.1), and an A-label must survive the
// trip to Unicode and back, or two spellings could name one host.
func checkReserved(label string) string {
	if !strings.HasPrefix(label, "xn--") {
		return "a label with \"--\" in places 3 and 4 must be an A-label (xn--...)"
	}
	u, err := idna.Lookup.ToUnicode(label)
	if err != nil || u == label {
		return "the A-label " + label + " is not valid (IDNA)"
	}
	if a, err := idna.Lookup.ToASCII(u); err != nil || a != label {
		return "the A-label " + label + " is not in its canonical form (IDNA)"
	}
	return ""
}

func malformed(value, why string) error {
	return fault.New(fault.Malformed, "identifier %.300q: %s", value, why)
}

// SortIdentifiers returns the set of ids in canonical order: by type, then
// value, without duplicates. The argument is left alone.
func SortIdentifiers(ids []Identifier) []Identifier {
	out := slices.Clone(ids)
	slices.SortFunc(out, func(a, b Identifier) int {
		if c := strings.Compare(string(a.Type), string(b.Type)); c != 0 {
			return c
		}
		return strings.Compare(a.Value, b.Value)
	})
	return slices.Compact(out)
}

// ReverseName returns the labels of a DNS name in reverse order
// ("a.example.com" -> "com.example.a"), so that names under one suffix share
// a prefix and an ordinary index finds them. It is its own inverse.
func ReverseName(name string) string {
	out := make([]byte, 0, len(name))
	for rest := name; ; {
		dot := strings.LastIndexByte(rest, '.')
		out = append(out, rest[dot+1:]...)
		if dot < 0 {
			return string(out)
		}
		out = append(out, '.')
		rest = rest[:dot]
	}
}
