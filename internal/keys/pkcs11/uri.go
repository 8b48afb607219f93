package pkcs11

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"chancery/internal/fault"
)

// Bounds of a URI, in octets.
const (
	maxURI   = 2048
	maxValue = 255 // of a decoded attribute
)

const scheme = "pkcs11:"

// URI is what Chancery uses of a PKCS #11 URI (RFC 7512): which token, and
// which object in it. An empty attribute fits everything.
type URI struct {
	Token, Manufacturer, Serial, Model string // of the token
	Slot                               *uint  // slot-id

	Object string // label (CKA_LABEL)
	ID     []byte // CKA_ID
	Type   string // "private", "public", "cert", "secret-key", "data"
}

// objectTypes are the values of the attribute type (RFC 7512 section 2.3).
const objectTypes = " private public cert secret-key data "

// ParseURI reads a URI strictly: an attribute that is unknown, repeated or
// badly encoded is refused, and so is every query. Above all a PIN has no place
// in a URI, which is stored and logged; the error never repeats one.
func ParseURI(s string) (*URI, error) {
	path, ok := strings.CutPrefix(s, scheme)
	switch {
	case len(s) > maxURI:
		return nil, fault.New(fault.Invalid, "a PKCS #11 URI has at most %d bytes", maxURI)
	case !ok:
		return nil, fault.New(fault.Invalid, "a PKCS #11 URI begins with %q (RFC 7512)", scheme)
	case strings.Contains(path, "pin-value") || strings.Contains(path, "pin-source"):
		return nil, fault.New(fault.Invalid, "a PKCS #11 URI must not hold a PIN; name it by keys.pkcs11.pin_file or pin_env, and change it: it may have been logged")
	case strings.ContainsAny(path, "?#"):
		return nil, fault.New(fault.Invalid, "a PKCS #11 URI must have no query here; the module is named by keys.pkcs11.module")
	}
	u := new(URI)
	if path == "" {
		return u, nil
	}
	seen := map[string]bool{}
	for part := range strings.SplitSeq(path, ";") {
		name, text, ok := strings.Cut(part, "=")
		if !ok || seen[name] {
			return nil, fault.New(fault.Invalid, "%.40q in a PKCS #11 URI is not an attribute, or there twice", part)
		}
		seen[name] = true
		value, err := unescape(text)
		if err == nil {
			err = u.set(name, value)
		}
		if err != nil {
			return nil, fault.Wrap(err, fault.Invalid, "the attribute %.40q of a PKCS #11 URI is not right: %v", name, err)
		}
	}
	return u, nil
}

// set stores one attribute.
func (u *URI) set(name, value string) error {
	fields := map[string]*string{"token": &u.Token, "manufacturer": &u.Manufacturer, "serial": &u.Serial, "model": &u.Model,
		"object": &u.Object, "type": &u.Type}
	if name == "id" {
		u.ID = []byte(value)
		return nil
	}
	if !utf8.ValidString(value) {
		return fmt.Errorf("it is not UTF-8")
	}
	if name == "slot-id" {
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return fmt.Errorf("it is not a number")
		}
		slot := uint(n)
		u.Slot = &slot
		return nil
	}
	field := fields[name]
	if field == nil {
		return fmt.Errorf("it is none of token, manufacturer, serial, model, slot-id, object, id and type")
	}
	if name == "type" && !strings.Contains(objectTypes, " "+value+" ") {
		return fmt.Errorf("it is none of%s", strings.TrimSuffix(objectTypes, " "))
	}
	*field = value
	return nil
}

// plain reports whether an octet stands for itself in a value: unreserved, or
// one of pk11-res-avail and "&" (RFC 7512 section 2.3). The separators of
// attributes are none.
func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~:[]@!$'()*+,=&", c) >= 0
}

// unescape decodes a value, which must not be empty.
func unescape(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case plain(c):
			b.WriteByte(c)
		case c == '%' && i+2 < len(s):
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return "", fmt.Errorf("%%%s is no octet in hexadecimal", s[i+1:i+3])
			}
			b.WriteByte(byte(n))
			i += 2
		default:
			return "", fmt.Errorf("%q must be written as %%%02X", c, c)
		}
	}
	if b.Len() == 0 || b.Len() > maxValue {
		return "", fmt.Errorf("a value has 1 to %d octets", maxValue)
	}
	return b.String(), nil
}

// String writes the URI so that ParseURI reads the same, always in the same
// way: the text is a key reference in the database.
func (u *URI) String() string {
	var parts []string
	add := func(name, value string, all bool) {
		if value != "" {
			parts = append(parts, name+"="+escape(value, all))
		}
	}
	add("token", u.Token, false)
	add("manufacturer", u.Manufacturer, false)
	add("serial", u.Serial, false)
	add("model", u.Model, false)
	if u.Slot != nil {
		parts = append(parts, "slot-id="+strconv.FormatUint(uint64(*u.Slot), 10))
	}
	add("object", u.Object, false)
	add("id", string(u.ID), true) // RFC 7512 section 2.3: the whole id should be escaped
	add("type", u.Type, false)
	return scheme + strings.Join(parts, ";")
}

// escape encodes a value; what is unreserved in RFC 3986 stands for itself,
// unless all is to be encoded.
func escape(s string, all bool) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; !all && plain(c) && strings.IndexByte(":[]@!$'()*+,=&", c) < 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// parseToken reads Config.Token: a label, or a URI that names no object.
func parseToken(s string) (*URI, error) {
	if !strings.HasPrefix(s, scheme) {
		if s == "" {
			return nil, fault.New(fault.Invalid, "keys.pkcs11.token is empty; write the label of the token or its PKCS #11 URI")
		}
		return &URI{Token: s}, nil
	}
	u, err := ParseURI(s)
	if err != nil {
		return nil, err
	}
	if u.Object != "" || u.ID != nil || u.Type != "" {
		return nil, fault.New(fault.Invalid, "keys.pkcs11.token names an object; it must name a token only")
	}
	return u, nil
}
