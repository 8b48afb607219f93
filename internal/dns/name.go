package dns

import (
	"net/netip"
	"strings"
)

// maxName is the longest name in text form without the final dot (RFC 1035
// section 2.3.4: 255 octets on the wire).
const maxName = 253

// normalize returns name in lower case without the final dot, or "" if it is
// not a host name: labels of 1 to 63 letters, digits, hyphens and underscores
// (service labels such as _acme-challenge), 253 octets, not an address.
func normalize(name string) string {
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > maxName {
		return ""
	}
	upper := false
	label := 0
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c == '.':
			if label == 0 {
				return ""
			}
			label = 0
			continue
		case c >= 'A' && c <= 'Z':
			upper = true
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return ""
		}
		if label++; label > 63 {
			return ""
		}
	}
	if label == 0 {
		return ""
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return ""
	}
	if upper {
		name = strings.ToLower(name)
	}
	return name
}

// parent returns name without its first label, or "" for a top-level domain.
func parent(name string) string {
	_, rest, _ := strings.Cut(name, ".")
	return rest
}

// plain turns a name of miekg/dns (final dot, escapes) into our form. Names
// with bytes that need an escape stay escaped and never equal a host name.
func plain(fqdn string) string {
	return strings.ToLower(strings.TrimSuffix(fqdn, "."))
}

// unescape returns the octets of a character string that miekg/dns renders
// with \DDD and \X escapes. A broken escape is kept as it is.
func unescape(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			out = append(out, s[i])
			continue
		}
		if n, ok := decimal(s[i+1:]); ok {
			out = append(out, n)
			i += 3
			continue
		}
		i++
		out = append(out, s[i])
	}
	return string(out)
}

// decimal reads the three digits of a \DDD escape.
func decimal(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	n := 0
	for _, c := range []byte(s[:3]) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return byte(n), n <= 255
}
