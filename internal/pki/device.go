package pki

import (
	"encoding/asn1"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"chancery/internal/fault"
)

// Identifier types of devices (draft-ietf-acme-device-attest-10).
const (
	// PermanentIdentifier names a device: "ID" or "ID/ASSIGNER", where ASSIGNER
	// is the dotted OBJECT IDENTIFIER of who gave it (RFC 4043).
	PermanentIdentifier IdentifierType = "permanent-identifier"

	// HardwareModule names the module that holds a key: "SERIAL/TYPE", where
	// TYPE is a dotted OBJECT IDENTIFIER (RFC 4108 section 5).
	HardwareModule IdentifierType = "hardware-module"
)

// Device reports whether id names a device or a module and no host.
func (id Identifier) Device() bool {
	return id.Type == PermanentIdentifier || id.Type == HardwareModule
}

// Contents of the type-id of the two otherName forms.
const (
	oidPermanentIdentifier = "\x2b\x06\x01\x05\x05\x07\x08\x03" // 1.3.6.1.5.5.7.8.3
	oidHardwareModuleName  = "\x2b\x06\x01\x05\x05\x07\x08\x04" // 1.3.6.1.5.5.7.8.4
)

// maxDeviceID is the most octets of a device's identifier.
const maxDeviceID = 255

// parseDevice checks a value against the production rules of sections 3.1 and
// 4.1. Nothing is normalized: serial numbers match octet for octet.
func parseDevice(typ IdentifierType, value string) (Identifier, error) {
	serial, oid, cut := strings.Cut(value, "/")
	switch {
	case serial == "" || !utf8.ValidString(value):
		return Identifier{}, malformed(value, "it is empty, or not UTF-8")
	case cut && !isDottedOID(oid):
		return Identifier{}, malformed(value, "what follows the slash is not an object identifier such as 1.2.3.4")
	case !cut && typ == HardwareModule:
		return Identifier{}, malformed(value, "a hardware module is written SERIAL/TYPE, where TYPE is an object identifier")
	case len(value) > maxDeviceID:
		return Identifier{}, fault.New(fault.RejectedIdentifier, "the identifier is longer than %d octets", maxDeviceID)
	case strings.ContainsFunc(serial, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }):
		return Identifier{}, fault.New(fault.RejectedIdentifier, "identifiers with control characters are not certified")
	}
	return Identifier{typ, value}, nil
}

// isDottedOID reports whether s is an OBJECT IDENTIFIER in the one dotted form
// that the draft allows: no leading zeros, and arcs that DER can hold here.
func isDottedOID(s string) bool {
	_, err := parseOID(s)
	return err == nil
}

func parseOID(s string) (asn1.ObjectIdentifier, error) {
	var oid asn1.ObjectIdentifier
	for arc := range strings.SplitSeq(s, ".") {
		n, err := strconv.ParseUint(arc, 10, 31)
		if err != nil || len(oid) >= 32 || strconv.FormatUint(n, 10) != arc {
			return nil, fmt.Errorf("%q is not an object identifier", s)
		}
		oid = append(oid, int(n))
	}
	if len(oid) < 2 || oid[0] > 2 || oid[0] < 2 && oid[1] > 39 {
		return nil, fmt.Errorf("%q is not an object identifier", s)
	}
	return oid, nil
}

// deviceName encodes the GeneralName of a device identifier: an otherName.
func (id Identifier) deviceName() ([]byte, error) {
	serial, dotted, cut := strings.Cut(id.Value, "/")
	form, body := oidPermanentIdentifier, tlv(tagUTF8String, []byte(serial))
	if id.Type == HardwareModule {
		form, body = oidHardwareModuleName, tlv(tagOctetString, []byte(serial))
	}
	if cut {
		oid, err := parseOID(dotted)
		if err != nil {
			return nil, err
		}
		content, err := oidContent(oid)
		if err != nil {
			return nil, err
		}
		if id.Type == HardwareModule {
			body = append(tlv(tagOID, []byte(content)), body...)
		} else {
			body = append(body, tlv(tagOID, []byte(content))...)
		}
	} else if id.Type == HardwareModule {
		return nil, fmt.Errorf("identifier %s has no type", id)
	}
	return tlv(contextConstructed(0), tlv(tagOID, []byte(form)), tlv(contextConstructed(0), tlv(tagSequence, body))), nil
}

// DeviceName reads the content of an otherName (a GeneralName of tag [0]): the
// identifier of a device, or an identifier without a type if it is another
// kind of name.
func DeviceName(other []byte) (id Identifier, err error) {
	s := cryptobyte.String(other)
	var form, value, seq cryptobyte.String
	bad := fault.New(fault.Malformed, "an otherName is not DER")
	if !s.ReadASN1(&form, cbasn1.OBJECT_IDENTIFIER) || !s.ReadASN1(&value, cbasn1.Tag(0).Constructed().ContextSpecific()) || !s.Empty() {
		return Identifier{}, bad
	}
	if string(form) != oidPermanentIdentifier && string(form) != oidHardwareModuleName {
		return Identifier{}, nil
	}
	var serial cryptobyte.String
	var oid asn1.ObjectIdentifier
	if !value.ReadASN1(&seq, cbasn1.SEQUENCE) || !value.Empty() {
		return Identifier{}, bad
	}
	typ := PermanentIdentifier
	if string(form) == oidHardwareModuleName {
		typ = HardwareModule
		if !seq.ReadASN1ObjectIdentifier(&oid) || !seq.ReadASN1(&serial, cbasn1.OCTET_STRING) {
			return Identifier{}, bad
		}
	} else {
		if !seq.ReadASN1(&serial, cbasn1.UTF8String) {
			return Identifier{}, bad // RFC 4043 lets it be absent; the draft does not
		}
		if !seq.Empty() && !seq.ReadASN1ObjectIdentifier(&oid) {
			return Identifier{}, bad
		}
	}
	if !seq.Empty() || strings.Contains(string(serial), "/") {
		return Identifier{}, bad
	}
	text := string(serial)
	if oid != nil {
		text += "/" + oid.String()
	}
	return ParseIdentifier(typ, text)
}

// DeviceNames returns the device identifiers of a subjectAltName's value.
func DeviceNames(san []byte) (list []Identifier, err error) {
	s := cryptobyte.String(san)
	var names cryptobyte.String
	if !s.ReadASN1(&names, cbasn1.SEQUENCE) || !s.Empty() {
		return nil, fault.New(fault.Malformed, "a subjectAltName is not DER")
	}
	for !names.Empty() {
		var name cryptobyte.String
		var tag cbasn1.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			return nil, fault.New(fault.Malformed, "a subjectAltName is not DER")
		}
		if tag != cbasn1.Tag(0).Constructed().ContextSpecific() {
			continue
		}
		id, err := DeviceName(name)
		if err != nil {
			return nil, err
		}
		if id.Type != "" {
			list = append(list, id)
		}
	}
	return list, nil
}

// Speaks reports whether a certificate for what the request names may be one
// for names: the same hosts, and of the devices in names those that the
// request names, if any. A client may leave devices out of its request (draft
// section 3.2), or repeat one in the common name, as some do.
func (c *CSR) Speaks(names []Identifier) bool {
	if slices.Equal(c.Identifiers, names) {
		return true // sorted on both sides, as a rule
	}
	left := map[Identifier]bool{}
	for _, id := range names {
		left[id] = true
	}
	for _, id := range c.Identifiers {
		if !left[id] && !c.repeats(id, names) {
			return false
		}
		delete(left, id)
	}
	for id := range left {
		if !id.Device() {
			return false
		}
	}
	return true
}

// repeats reports whether id is in the request only because its common name is
// the identity of a device in names.
func (c *CSR) repeats(id Identifier, names []Identifier) bool {
	if id.Value != c.CommonName || c.cnInSAN {
		return false
	}
	for _, n := range names {
		if serial, _, _ := strings.Cut(n.Value, "/"); n.Device() && strings.EqualFold(serial, id.Value) {
			return true
		}
	}
	return false
}

// NameFor returns the common name that a certificate for names may have: the
// request's own if it is one of them, else "".
func (c *CSR) NameFor(names []Identifier) string {
	for _, id := range names {
		if id.Value == c.CommonName && !id.Device() {
			return c.CommonName
		}
	}
	return ""
}
