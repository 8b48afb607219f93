package status

import (
	"encoding/base64"
	"strings"

	"chancery/internal/pki"
)

// splitTarget takes a raw request target apart: "/ocsp/AUTHORITY[/REQUEST]".
// Slashes may be doubled anywhere before the request: bases of responder URLs
// end with one or not, and clients add another. A query is not ours.
func splitTarget(target string) (authority, request string) {
	target, _, _ = strings.Cut(target, "?")
	rest := strings.TrimPrefix(strings.TrimLeft(target, "/"), "ocsp")
	authority, request, _ = strings.Cut(strings.TrimLeft(rest, "/"), "/")
	return authority, strings.TrimLeft(request, "/") // DER in base64 begins with "M"
}

// maxGET bounds the text of a GET request: every octet percent-encoded.
const maxGET = 3 * (pki.MaxOCSPRequest/3 + 1) * 4

// decodeGET reads into sc.raw the DER request that the last part of a GET
// target holds (RFC 6960 appendix A.1): base64, wholly or partly or not at all
// percent-encoded, with its padding or without.
func (sc *scratch) decodeGET(text string) (err error) {
	sc.raw = sc.raw[:0]
	if text == "" || len(text) > maxGET {
		return pki.ErrOCSPRequest
	}
	var ok bool
	if sc.text, ok = appendUnescaped(sc.text[:0], text); !ok {
		return pki.ErrOCSPRequest
	}
	raw := sc.text
	for range 2 {
		if n := len(raw); n > 0 && raw[n-1] == '=' {
			raw = raw[:n-1]
		}
	}
	if sc.raw, err = base64.RawStdEncoding.AppendDecode(sc.raw, raw); err != nil {
		return pki.ErrOCSPRequest
	}
	return nil
}

// appendUnescaped decodes percent-encoding. A "+" stays what it is.
func appendUnescaped(dst []byte, text string) (_ []byte, ok bool) {
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '%' {
			if i+2 >= len(text) {
				return dst, false
			}
			hi, lo := unhex(text[i+1]), unhex(text[i+2])
			if hi > 15 || lo > 15 {
				return dst, false
			}
			c, i = hi<<4|lo, i+2
		}
		dst = append(dst, c)
	}
	return dst, true
}

// unhex returns the value of a hexadecimal digit, or more than 15.
func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
}
