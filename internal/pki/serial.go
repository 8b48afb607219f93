package pki

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"time"

	"chancery/internal/fault"
)

// Serial is a certificate serial number: the content octets of its DER
// INTEGER (big-endian two's complement, shortest form). It is comparable and
// can be a map key. In a database it is a column of octets, []byte(s); in JSON
// and other text it is the hexadecimal form of Hex (but encoding/json writes
// map keys raw: use Hex there). Serials of our own are those of NewSerial; those
// of other CAs can be anything that parses.
type Serial string

// Sizes of serial numbers, in octets.
const (
	serialTime   = 3
	serialRandom = 16                            // 128 random bits: twice what the Baseline Requirements ask
	SerialLen    = 1 + serialTime + serialRandom // 20: all that RFC 5280 section 4.1.2.2 allows

	// maxSerialText bounds what ParseSerial reads. RFC 5280 section 4.1.2.2
	// allows 20 octets; certificates in the wild have had a few more.
	maxSerialText = 256
)

// NewSerial returns prefix, the low 24 bits of the Unix time of at in seconds, and
// 16 octets from random, which must be a cryptographic source. The prefix
// (0x01..0x7f) keeps the number positive and its length constant, and tells apart
// CAs that share a database. The time, which comes round every 194 days, says no
// more than notBefore does; it keeps the serials of one moment together in every
// index that is ordered by serial, which with a million of them stored would have
// a page of its own to change for each.
func NewSerial(prefix byte, at time.Time, random io.Reader) (Serial, error) {
	if prefix == 0 || prefix > 0x7f {
		return "", fmt.Errorf("make serial: prefix 0x%02x is outside 0x01..0x7f", prefix)
	}
	var b [SerialLen]byte
	binary.BigEndian.PutUint32(b[:], uint32(at.Unix()))
	b[0] = prefix
	if _, err := io.ReadFull(random, b[1+serialTime:]); err != nil {
		return "", fmt.Errorf("make serial: %w", err)
	}
	return Serial(b[:]), nil
}

// SerialFromBig returns the serial with the value of n. A nil n gives "".
func SerialFromBig(n *big.Int) Serial {
	if n == nil {
		return ""
	}
	if n.Sign() >= 0 {
		return positiveSerial(n.Bytes())
	}
	// Two's complement of -m in the shortest form is the complement of m-1.
	m := new(big.Int).Not(n).Bytes()
	if len(m) == 0 || m[0]&0x80 != 0 {
		m = append([]byte{0}, m...)
	}
	for i := range m {
		m[i] = ^m[i]
	}
	return Serial(m)
}

// positiveSerial encodes a magnitude without leading zeros.
func positiveSerial(magnitude []byte) Serial {
	if len(magnitude) == 0 || magnitude[0]&0x80 != 0 {
		return "\x00" + Serial(magnitude)
	}
	return Serial(magnitude)
}

// ParseSerial reads a serial number as people write it: hexadecimal of either
// case, optionally in pairs separated by colons (as OpenSSL prints), with
// leading zeros or not. A leading "-" is understood for the rare foreign
// serial that is negative. The error is a *fault.Error (malformed).
func ParseSerial(text string) (Serial, error) {
	digits, negative := strings.CutPrefix(text, "-")
	digits, err := joinPairs(digits)
	if err != nil || digits == "" || len(text) > maxSerialText {
		return "", fault.New(fault.Malformed, "serial number %.64q is not hexadecimal", text)
	}
	if len(digits)%2 == 1 {
		digits = "0" + digits
	}
	raw, err := hex.DecodeString(digits)
	if err != nil {
		return "", fault.New(fault.Malformed, "serial number %.64q is not hexadecimal", text)
	}
	n := new(big.Int).SetBytes(raw)
	if negative {
		n.Neg(n)
	}
	return SerialFromBig(n), nil
}

// longHex is the fewest digits of LongHex: OpenSSL prints eight octets, the
// shortest serial numbers that are in use, without a leading zero.
const longHex = 15

// LongHex reports whether text is hexadecimal, without colons, and so long that
// it is a serial number or a digest rather than a name or a word.
func LongHex(text string) bool {
	return len(text) >= longHex && strings.Trim(text, "0123456789abcdefABCDEF") == ""
}

var errPairs = errors.New("not pairs of digits")

// joinPairs removes the colons of "01:ab:..", which must separate pairs.
func joinPairs(s string) (string, error) {
	if !strings.Contains(s, ":") {
		return s, nil
	}
	var b strings.Builder
	for pair := range strings.SplitSeq(s, ":") {
		if len(pair) != 2 {
			return "", errPairs
		}
		b.WriteString(pair)
	}
	return b.String(), nil
}

// Hex returns the number in lower-case hexadecimal, whole octets, without the
// sign octet that DER may need in front: the form OpenSSL prints, in lower
// case. It is the text form in URLs, logs and the API.
func (s Serial) Hex() string {
	switch {
	case s == "":
		return ""
	case s[0]&0x80 != 0:
		return "-" + SerialFromBig(new(big.Int).Neg(s.Big())).Hex()
	case len(s) > 1 && s[0] == 0:
		s = s[1:]
	}
	var small [2 * 32]byte
	return string(hex.AppendEncode(small[:0], []byte(s)))
}

// String returns the same as Hex.
func (s Serial) String() string { return s.Hex() }

// MarshalText returns the same as Hex.
func (s Serial) MarshalText() ([]byte, error) { return []byte(s.Hex()), nil }

// UnmarshalText reads what ParseSerial reads.
func (s *Serial) UnmarshalText(text []byte) error {
	parsed, err := ParseSerial(string(text))
	*s = parsed
	return err
}

// Big returns the value of s.
func (s Serial) Big() *big.Int {
	n := new(big.Int).SetBytes([]byte(s))
	if s != "" && s[0]&0x80 != 0 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(s))))
	}
	return n
}

// Valid reports whether s can stand in a certificate of ours: positive, not
// zero, shortest form, at most 20 octets (RFC 5280 section 4.1.2.2).
func (s Serial) Valid() bool {
	switch {
	case s == "" || len(s) > 20 || s[0]&0x80 != 0 || s == "\x00":
		return false
	case s[0] == 0 && s[1]&0x80 == 0:
		return false
	}
	return true
}
