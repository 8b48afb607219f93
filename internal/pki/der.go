package pki

import "time"

// DER tags used by the encoders.
const (
	tagBoolean         = 0x01
	tagInteger         = 0x02
	tagBitString       = 0x03
	tagOctetString     = 0x04
	tagNull            = 0x05
	tagOID             = 0x06
	tagEnumerated      = 0x0a
	tagUTF8String      = 0x0c
	tagPrintableString = 0x13
	tagUTCTime         = 0x17
	tagGeneralizedTime = 0x18
	tagSequence        = 0x30
	tagSet             = 0x31
)

// context returns a context-specific tag; constructed ones hold other values.
func context(n byte) byte            { return 0x80 | n }
func contextConstructed(n byte) byte { return 0xa0 | n }

// The encoders append to one slice whose size is known beforehand, because
// answers and CRLs are made by the million; cryptobyte's nested builders cost
// several allocations and copies each. Parsing is done with cryptobyte.

// headerLen is the size of a tag and length for n content octets.
func headerLen(n int) int {
	switch {
	case n < 1<<7:
		return 2
	case n < 1<<8:
		return 3
	case n < 1<<16:
		return 4
	case n < 1<<24:
		return 5
	}
	return 6
}

// tlvLen is the size of a whole element with n content octets.
func tlvLen(n int) int { return headerLen(n) + n }

// appendHeader appends tag and length for n content octets.
func appendHeader(dst []byte, tag byte, n int) []byte {
	dst = append(dst, tag)
	switch headerLen(n) {
	case 2:
		return append(dst, byte(n))
	case 3:
		return append(dst, 0x81, byte(n))
	case 4:
		return append(dst, 0x82, byte(n>>8), byte(n))
	case 5:
		return append(dst, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	return append(dst, 0x84, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// appendTLV appends an element whose content is the parts in order.
func appendTLV(dst []byte, tag byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	dst = appendHeader(dst, tag, n)
	for _, p := range parts {
		dst = append(dst, p...)
	}
	return dst
}

// enclose makes an element of what stands in b from from on.
func enclose(b []byte, from int, tag byte) []byte {
	n := len(b) - from
	var room [6]byte
	header := appendHeader(room[:0], tag, n)
	b = append(b, header...)
	copy(b[from+len(header):], b[from:from+n])
	copy(b[from:], header)
	return b
}

// tlv returns a new element whose content is the parts in order.
func tlv(tag byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	return appendTLV(make([]byte, 0, tlvLen(n)), tag, parts...)
}

// appendString appends an element whose content is s.
func appendString(dst []byte, tag byte, s string) []byte {
	return append(appendHeader(dst, tag, len(s)), s...)
}

// appendUint appends an INTEGER.
func appendUint(dst []byte, n uint64) []byte {
	size := 1
	for v := n; v > 0x7f; v >>= 8 {
		size++
	}
	dst = appendHeader(dst, tagInteger, size)
	for i := size - 1; i >= 0; i-- {
		dst = append(dst, byte(n>>(8*i))) // a shift of 64 gives the sign octet 0
	}
	return dst
}

// Lengths of whole time elements.
const (
	utcTimeLen         = 2 + len("YYMMDDHHMMSSZ")
	generalizedTimeLen = 2 + len("YYYYMMDDHHMMSSZ")
)

// appendTime appends a Time as RFC 5280 section 4.1.2.5 wants it: UTCTime
// until 2049, GeneralizedTime from 2050, in UTC, whole seconds.
func appendTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	if y := t.Year(); y >= 2050 || y < 1950 {
		return appendGeneralizedTime(dst, t)
	}
	dst = append(dst, tagUTCTime, byte(utcTimeLen-2))
	dst = appendTwo(dst, t.Year()%100)
	return appendClock(dst, t)
}

// appendGeneralizedTime appends a GeneralizedTime in UTC, whole seconds.
func appendGeneralizedTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	dst = append(dst, tagGeneralizedTime, byte(generalizedTimeLen-2))
	dst = appendTwo(dst, t.Year()/100)
	dst = appendTwo(dst, t.Year()%100)
	return appendClock(dst, t)
}

// appendClock appends MMDDHHMMSSZ of a time that is in UTC.
func appendClock(dst []byte, t time.Time) []byte {
	_, month, day := t.Date()
	hour, minute, second := t.Clock()
	for _, v := range [...]int{int(month), day, hour, minute, second} {
		dst = appendTwo(dst, v)
	}
	return append(dst, 'Z')
}

func appendTwo(dst []byte, v int) []byte {
	return append(dst, byte('0'+v/10%10), byte('0'+v%10))
}
