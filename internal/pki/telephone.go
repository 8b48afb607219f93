package pki

import (
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"chancery/internal/fault"
)

// TNAuthList names telephone numbers and service provider codes that a holder
// speaks for (RFC 9448 section 3): the value is the DER of a TNAuthorizationList
// (RFC 8226 section 9) in base64url without padding.
const TNAuthList IdentifierType = "TNAuthList"

// oidTNAuthList is id-pe-TNAuthList, 1.3.6.1.5.5.7.1.26.
const oidTNAuthList = "\x2b\x06\x01\x05\x05\x07\x01\x1a"

// Bounds of a list.
const (
	maxTNList    = 1400 // octets of DER; the text must fit in an index
	maxTNEntries = 100
	maxSPC       = 32 // octets of a service provider code
	maxTN        = 15 // of a telephone number (RFC 8226 section 9)
)

// parseTNAuthList checks a value. There is one text for each list, so values
// that are the same list are equal.
func parseTNAuthList(value string) (Identifier, error) {
	der, err := base64.RawURLEncoding.Strict().DecodeString(value)
	if err != nil || strings.ContainsAny(value, "\r\n") {
		return Identifier{}, malformed(value, "a TNAuthList is DER in base64url without padding (RFC 9448 section 3)")
	}
	if len(der) > maxTNList {
		return Identifier{}, fault.New(fault.RejectedIdentifier, "the TNAuthList has more than %d octets", maxTNList)
	}
	if _, err := readTNAuthList(der); err != nil {
		return Identifier{}, err
	}
	return Identifier{TNAuthList, value}, nil
}

// readTNAuthList reads a TNAuthorizationList and returns its entries as people
// write them. The module of RFC 8226 has explicit tags.
func readTNAuthList(der []byte) (entries []string, err error) {
	bad := func(why string) ([]string, error) {
		return nil, fault.New(fault.Malformed, "the TNAuthList is not one of RFC 8226: %s", why)
	}
	in := cryptobyte.String(der)
	var list cryptobyte.String
	if !in.ReadASN1(&list, cbasn1.SEQUENCE) || !in.Empty() || list.Empty() {
		return bad("it is no SEQUENCE of entries in DER")
	}
	for !list.Empty() {
		var entry cryptobyte.String
		var tag cbasn1.Tag
		if !list.ReadAnyASN1(&entry, &tag) || len(entries) == maxTNEntries {
			return bad("it is not DER, or has too many entries")
		}
		text, why := readTNEntry(entry, tag)
		if why != "" {
			return bad(why)
		}
		entries = append(entries, text)
	}
	return entries, nil
}

// readTNEntry reads one entry, or says what is wrong with it.
func readTNEntry(entry cryptobyte.String, tag cbasn1.Tag) (text, why string) {
	var value cryptobyte.String
	switch tag {
	case explicit(0):
		if !entry.ReadASN1(&value, cbasn1.IA5String) || !entry.Empty() || len(value) == 0 || len(value) > maxSPC || !isIA5(string(value)) {
			return "", "a service provider code is no IA5String of 1 to 32 printable characters"
		}
		return "SHAKEN " + string(value), "" // as ATIS-1000080 writes it in a common name
	case explicit(1):
		var start cryptobyte.String
		var count int64
		if !entry.ReadASN1(&value, cbasn1.SEQUENCE) || !entry.Empty() || !value.ReadASN1(&start, cbasn1.IA5String) ||
			!value.ReadASN1Integer(&count) || !value.Empty() || count < 2 || !isTN(start) {
			return "", "a range is no telephone number with a count of 2 or more"
		}
		return fmt.Sprintf("TN %s and %d more", start, count-1), ""
	case explicit(2):
		if !entry.ReadASN1(&value, cbasn1.IA5String) || !entry.Empty() || !isTN(value) {
			return "", "a telephone number is not 1 to 15 of 0-9, # and *"
		}
		return "TN " + string(value), ""
	}
	return "", "an entry is neither code nor range nor number"
}

func explicit(n uint8) cbasn1.Tag { return cbasn1.Tag(n).Constructed().ContextSpecific() }

func isTN(s []byte) bool {
	return len(s) > 0 && len(s) <= maxTN && strings.Trim(string(s), "0123456789#*") == ""
}

// tnAuthList returns the DER of a TNAuthList identifier.
func (id Identifier) tnAuthList() ([]byte, error) {
	der, err := base64.RawURLEncoding.Strict().DecodeString(id.Value)
	if err != nil {
		return nil, fmt.Errorf("identifier %.80s is not in canonical form", id)
	}
	return der, nil
}

// TelephonySubject is the common name of a certificate for a TNAuthList: its
// first entry. Such a certificate has no subjectAltName, so that it must have
// a subject (RFC 5280 section 4.1.2.6). "" for other identifiers.
func TelephonySubject(ids []Identifier) string {
	if len(ids) != 1 || ids[0].Type != TNAuthList {
		return ""
	}
	der, err := ids[0].tnAuthList()
	if err != nil {
		return ""
	}
	entries, err := readTNAuthList(der)
	if err != nil {
		return ""
	}
	return entries[0]
}

// appendTNAuthList appends the extension of RFC 8226 section 9, which is not
// critical, for those of ids that are such lists.
func appendTNAuthList(dst []byte, ids []Identifier) ([]byte, error) {
	for _, id := range ids {
		if id.Type != TNAuthList {
			continue
		}
		der, err := id.tnAuthList()
		if err != nil {
			return nil, err
		}
		dst = appendExtension(dst, oidTNAuthList, false, der)
	}
	return dst, nil
}
