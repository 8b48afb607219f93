package obs

import (
	"encoding/hex"
	"math/rand/v2"
)

// TraceparentHeader is the header of W3C Trace Context level 1, section 3.2.
const TraceparentHeader = "Traceparent"

// Trace is a position in a distributed trace (W3C Trace Context). The zero
// value means "not traced".
type Trace struct {
	trace [16]byte
	span  [8]byte
	flags byte // bit 0: sampled
}

// Valid reports whether t names a trace: neither id is all zero.
func (t Trace) Valid() bool { return t.trace != [16]byte{} && t.span != [8]byte{} }

// TraceID returns the trace id as 32 lower-case hex digits.
func (t Trace) TraceID() string { return hex.EncodeToString(t.trace[:]) }

// SpanID returns the span id as 16 lower-case hex digits.
func (t Trace) SpanID() string { return hex.EncodeToString(t.span[:]) }

// Sampled reports whether the caller asked for the trace to be recorded.
func (t Trace) Sampled() bool { return t.flags&1 == 1 }

// String returns the traceparent header value, or "" for the zero value.
func (t Trace) String() string {
	if !t.Valid() {
		return ""
	}
	var b [55]byte
	copy(b[:], "00-")
	hex.Encode(b[3:35], t.trace[:])
	b[35] = '-'
	hex.Encode(b[36:52], t.span[:])
	b[52] = '-'
	hex.Encode(b[53:55], []byte{t.flags})
	return string(b[:])
}

// Child returns a new span of the same trace. Ids need to be unique, not
// secret, so the fast random source will do.
func (t Trace) Child() Trace {
	if !t.Valid() {
		return Trace{}
	}
	t.span = newSpan()
	return t
}

// newSpan returns eight random bytes that are not all zero.
func newSpan() [8]byte {
	n := rand.Uint64() | 1 // the standard forbids all zeros
	var b [8]byte
	for i := range b {
		b[i] = byte(n >> (8 * i))
	}
	return b
}

// ParseTrace reads a traceparent header value. It returns the zero Trace for
// anything that the standard calls invalid: a broken header restarts the
// trace and is never an error for the user (Trace Context section 4.3).
func ParseTrace(s string) Trace {
	// version "-" trace-id "-" parent-id "-" flags; later versions may append.
	if len(s) < 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return Trace{}
	}
	version, ok := hexByte(s[0:2])
	if !ok || version == 0xff || (version == 0 && len(s) != 55) || (len(s) > 55 && s[55] != '-') {
		return Trace{}
	}
	var t Trace
	if !lowerHex(t.trace[:], s[3:35]) || !lowerHex(t.span[:], s[36:52]) {
		return Trace{}
	}
	if t.flags, ok = hexByte(s[53:55]); !ok || !t.Valid() {
		return Trace{}
	}
	return t
}

// hexByte decodes two lower-case hex digits.
func hexByte(s string) (byte, bool) {
	var b [1]byte
	ok := lowerHex(b[:], s)
	return b[0], ok
}

// lowerHex decodes s into dst; upper-case digits are invalid in the standard.
func lowerHex(dst []byte, s string) bool {
	for i := range dst {
		hi, lo := digit(s[2*i]), digit(s[2*i+1])
		if hi > 15 || lo > 15 {
			return false
		}
		dst[i] = hi<<4 | lo
	}
	return true
}

// digit returns the value of a lower-case hex digit, or 16.
func digit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 16
}
