package acme

import (
	"encoding/json/jsontext"
	json "encoding/json/v2"
	"errors"
	"strings"

	"chancery/internal/fault"
)

// maxDepth bounds the nesting of any JSON text read here. The deepest object
// of the protocol, an order with sub-problems, has five levels.
const maxDepth = 12

// Decode reads one JSON object of the protocol, for instance
// Decode[NewOrder](jws.Payload). Unknown members are ignored (RFC 8555
// section 7.1); duplicate ones, bad UTF-8, trailing text, wrong types, more
// than MaxBody bytes or maxDepth levels are fault.Malformed, in words for the
// author of the client.
func Decode[T any](payload []byte) (T, error) {
	var v, zero T
	if len(payload) > MaxBody {
		return zero, fault.New(fault.Malformed, "JSON text is longer than %d bytes", MaxBody)
	}
	if err := checkObject(payload); err != nil {
		return zero, err
	}
	if err := json.Unmarshal(payload, &v); err != nil {
		return zero, malformedJSON(err, "payload")
	}
	return v, nil
}

// checkObject refuses what the JSON package would accept: a top level that is
// not an object (null would decode as a zero value), and deep nesting.
func checkObject(text []byte) error {
	trimmed := strings.TrimLeft(string(text[:min(len(text), 64)]), " \t\r\n")
	if trimmed == "" || trimmed[0] != '{' {
		return fault.New(fault.Malformed, "payload is not a JSON object")
	}
	depth, inString := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return fault.New(fault.Malformed, "JSON text nests deeper than %d levels", maxDepth)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}

// malformedJSON turns an error of the JSON package into a public one. The
// package's own text names Go types, so only the place is passed on.
func malformedJSON(err error, what string) error {
	var syn *jsontext.SyntacticError
	if errors.As(err, &syn) {
		reason := "is not valid JSON"
		if errors.Is(err, jsontext.ErrDuplicateName) {
			reason = "has a duplicate member"
		}
		return fault.Wrap(err, fault.Malformed, "%s %s%s at byte %d", what, reason, place(syn.JSONPointer), syn.ByteOffset)
	}
	var sem *json.SemanticError
	if errors.As(err, &sem) {
		if errors.Is(err, json.ErrUnknownName) {
			return fault.Wrap(err, fault.Malformed, "%s has an unexpected member%s", what, place(sem.JSONPointer))
		}
		return fault.Wrap(err, fault.Malformed, "%s has a value of the wrong type or form%s", what, place(sem.JSONPointer))
	}
	return fault.Wrap(err, fault.Malformed, "%s is not valid JSON", what)
}

func place(p jsontext.Pointer) string {
	if p == "" {
		return ""
	}
	return " (" + clip(string(p)) + ")"
}

// clip makes foreign text fit to be quoted in an error: short and printable.
func clip(s string) string {
	const limit = 80
	s = printable(s)
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "..."
	}
	return s
}
