package db

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"sync/atomic"
	"time"
)

var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// clock is the last instant that NewID used: milliseconds in the upper 48
// bits, a counter within the millisecond in the lower 16.
var clock atomic.Uint64

// NewID returns a 26-character identifier that sorts by creation time: 48 bits
// of Unix milliseconds, a 16-bit counter and 64 random bits, in lower-case
// Crockford base 32. Within a process each result is greater than the one
// before, so events of one millisecond keep their order.
func NewID(now time.Time) string {
	want := uint64(now.UnixMilli()) << 16
	for {
		last := clock.Load()
		next := max(want, last+1)
		if last>>16 > want>>16+1000 { // now is not the wall clock (tests, backfill): follow it
			next = want | last&0xffff
		}
		if clock.CompareAndSwap(last, next) {
			want = next
			break
		}
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], want)
	rand.Read(b[8:])
	var text [idLength]byte
	idEncoding.Encode(text[:], b[:])
	return string(text[:])
}

// idLength is how many characters an identifier has.
const idLength = 26

// ValidID reports whether s has the form that NewID makes.
func ValidID(s string) bool {
	if len(s) != idLength {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'z' || c == 'i' || c == 'l' || c == 'o' || c == 'u') {
			return false
		}
	}
	return true
}

// IDBefore returns an id that sorts before every one that NewID makes at t or
// later.
func IDBefore(t time.Time) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(max(t.UnixMilli(), 0))<<16)
	return idEncoding.EncodeToString(b[:])
}

// IDTime returns the instant at which NewID made id, or the zero Time.
func IDTime(id string) time.Time {
	b, err := idEncoding.DecodeString(id)
	if err != nil || len(b) != 16 {
		return time.Time{}
	}
	var ms int64
	for i := range 6 {
		ms = ms<<8 | int64(b[i])
	}
	return time.UnixMilli(ms).UTC()
}
