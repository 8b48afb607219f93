package inventory

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"

	"chancery/internal/fault"
)

// A cursor is the keyset of the last row of a page, with a sum over it and the
// question it answers: it fits no other question, and no damaged or invented
// one is accepted by accident. It holds nothing secret and grants nothing.

const (
	cursorVersion = 1
	cursorSum     = 8
	maxCursor     = 2048 // characters
)

// encodeCursor makes a cursor of string and int64 parts.
func encodeCursor(shape string, parts ...any) string {
	b := []byte{cursorVersion}
	for _, p := range parts {
		switch p := p.(type) {
		case int64:
			b = binary.AppendVarint(b, p)
		case string:
			b = binary.AppendUvarint(b, uint64(len(p)))
			b = append(b, p...)
		}
	}
	return base64.RawURLEncoding.EncodeToString(append(b, sumOf(shape, b)...))
}

func sumOf(shape string, body []byte) []byte {
	h := sha256.New()
	h.Write([]byte("chancery cursor\n" + shape + "\n"))
	h.Write(body)
	return h.Sum(nil)[:cursorSum]
}

// decodeCursor returns the parts of a cursor for shape; kinds has an "n" per
// int64 and a "t" per string. The error is a *fault.Error (invalid).
func decodeCursor(cursor, shape, kinds string) ([]any, error) {
	bad := fault.New(fault.Invalid, "the cursor is damaged or belongs to another query; begin again without one")
	if len(cursor) > maxCursor {
		return nil, bad
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(raw) < 1+cursorSum || raw[0] != cursorVersion {
		return nil, bad
	}
	body, sum := raw[:len(raw)-cursorSum], raw[len(raw)-cursorSum:]
	if string(sumOf(shape, body)) != string(sum) {
		return nil, bad
	}
	parts, rest := []any{}, body[1:]
	for _, kind := range kinds {
		var part any
		if part, rest = cut(rest, kind); part == nil {
			return nil, bad
		}
		parts = append(parts, part)
	}
	if len(rest) != 0 {
		return nil, bad
	}
	return parts, nil
}

// cut reads one part from b; nil when there is none.
func cut(b []byte, kind rune) (any, []byte) {
	if kind == 'n' {
		n, used := binary.Varint(b)
		if used <= 0 {
			return nil, nil
		}
		return n, b[used:]
	}
	n, used := binary.Uvarint(b)
	if used <= 0 || n > uint64(len(b)-used) {
		return nil, nil
	}
	end := used + int(n)
	return string(b[used:end]), b[end:]
}
