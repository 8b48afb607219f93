package bus

import (
	"fmt"
	"strings"
)

// Bounds of names. The server allows more; long ones are mistakes.
const (
	maxName    = 64
	maxSubject = 512
)

const hexDigits = "0123456789ABCDEF"

// plain reports whether a byte stands for itself in a token.
func plain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// Token returns s as one token of a subject, for identifiers that may hold
// anything: letters, digits, "-" and "_" stay, every other byte becomes =XX.
// Different strings give different tokens.
func Token(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if plain(s[i]) {
			b.WriteByte(s[i])
		} else {
			b.Write([]byte{'=', hexDigits[s[i]>>4], hexDigits[s[i]&15]})
		}
	}
	return b.String()
}

// untoken is the inverse of Token; ok is false for what Token never returns.
func untoken(t string) (s string, ok bool) {
	if !strings.Contains(t, "=") {
		return t, true
	}
	out := make([]byte, 0, len(t))
	for i := 0; i < len(t); i++ {
		if t[i] != '=' {
			out = append(out, t[i])
			continue
		}
		if i+2 >= len(t) {
			return "", false
		}
		hi, lo := strings.IndexByte(hexDigits, t[i+1]), strings.IndexByte(hexDigits, t[i+2])
		if hi < 0 || lo < 0 {
			return "", false
		}
		out, i = append(out, byte(hi<<4|lo)), i+2
	}
	return string(out), true
}

// isToken reports whether t could come from Token and is not empty.
func isToken(t string) bool {
	for i := range len(t) {
		if !plain(t[i]) && t[i] != '=' {
			return false
		}
	}
	return t != ""
}

// checkName checks the name of a stream, cache or consumer.
func checkName(what, name string) error {
	if !isToken(name) || len(name) > maxName {
		return fmt.Errorf("%s %q: a name is 1 to %d letters, digits, \"-\" or \"_\" (see Token)", what, name, maxName)
	}
	return nil
}

// checkSubject checks a subject, or a pattern of subjects if wild is set.
func checkSubject(subject string, wild bool) error {
	if len(subject) > maxSubject {
		return fmt.Errorf("subject of %d bytes: more than %d", len(subject), maxSubject)
	}
	for rest, more := subject, true; more; {
		var token string
		token, rest, more = strings.Cut(rest, ".")
		if !isToken(token) && !(wild && (token == "*" || token == ">" && !more)) {
			return fmt.Errorf("subject %q: bad token %q", subject, token)
		}
	}
	return nil
}
