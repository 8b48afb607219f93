package acme

import "encoding/base64"

// Most messages look the same: three members, four header fields, no escapes.
// What has exactly that form is parsed here, in a fraction of the time and
// memory; everything else, and everything that is wrong, goes the general way,
// which also knows what to say about it. Whatever is accepted here is accepted
// there with the same result (a test compares the two).

// strict is canonical base64url without padding.
var strict = base64.RawURLEncoding.Strict()

// scanner walks over JSON text.
type scanner struct {
	text []byte
	at   int
}

// skip passes over white space (RFC 8259 section 2).
func (s *scanner) skip() {
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return
		}
	}
}

// next passes over white space and one octet, if it is c.
func (s *scanner) next(c byte) bool {
	s.skip()
	if s.at < len(s.text) && s.text[s.at] == c {
		s.at++
		return true
	}
	return false
}

// plain reads a string of printable ASCII without escapes.
func (s *scanner) plain() (from, to int, ok bool) {
	if !s.next('"') {
		return 0, 0, false
	}
	for from = s.at; s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; {
		case c == '"':
			s.at++
			return from, s.at - 1, true
		case c < ' ' || c > '~' || c == '\\':
			return 0, 0, false
		}
	}
	return 0, 0, false
}

// span is a part of a scanner's text.
type span struct{ from, to int }

// members calls f with each member of an object of plain strings; it is false
// for anything else, and when f is.
//
// The name goes as its place, not as octets, for what goes to an unknown function
// is put on the heap.
func (s *scanner) members(f func(name span, from, to int) bool) bool {
	if !s.next('{') {
		return false
	}
	for {
		a, b, ok := s.plain()
		if !ok || !s.next(':') {
			return false
		}
		from, to, ok := s.plain()
		if !ok || !f(span{a, b}, from, to) {
			return false
		}
		if s.next(',') {
			continue
		}
		if !s.next('}') {
			return false
		}
		s.skip()
		return s.at == len(s.text)
	}
}

// parsePlain parses a message signed with "kid" that has the usual form.
func (j *JWS) parsePlain(body, mem []byte, want shape) bool {
	if len(body) > MaxBody || want.mac || !want.kid || !want.nonceRequired {
		return false
	}
	var protected, payload, signature []byte
	s := scanner{text: body}
	if !s.members(func(name span, from, to int) bool {
		var into *[]byte
		switch string(body[name.from:name.to]) {
		case "protected":
			into = &protected
		case "payload":
			into = &payload
		case "signature":
			into = &signature
		}
		if into == nil || *into != nil {
			return false
		}
		*into = body[from:to]
		return true
	}) || payload == nil || len(protected) == 0 || len(signature) == 0 || len(protected) > maxProtected || len(signature) > maxSignature {
		return false
	}
	return j.assemble(protected, payload, signature, mem)
}

// assemble decodes payload and signature, and keeps what was signed, in one
// piece of memory: mem, if it is large enough.
func (j *JWS) assemble(protected, payload, signature, mem []byte) bool {
	signed := len(protected) + 1 + len(payload)
	n, m := strict.DecodedLen(len(payload)), strict.DecodedLen(len(signature))
	head := strict.DecodedLen(len(protected))
	if cap(mem) < signed+n+m+verifyRoom {
		mem = make([]byte, signed+n+m+verifyRoom)
	}
	mem = mem[:signed+n+m+verifyRoom]
	*j = JWS{signed: mem[:signed:signed], Payload: mem[signed : signed+n : signed+n], signature: mem[signed+n : signed+n+m : signed+n+m],
		room: mem[signed+n+m : signed+n+m]}
	copy(mem, protected)
	mem[len(protected)] = '.'
	copy(mem[len(protected)+1:], payload)
	if k, err := strict.Decode(j.Payload, payload); err != nil || k != n {
		return false
	}
	if k, err := strict.Decode(j.signature, signature); err != nil || k != m {
		return false
	}
	var small [512]byte // of a header with the usual URLs
	raw := small[:]
	if head > len(raw) {
		raw = make([]byte, head)
	}
	raw = raw[:head]
	k, err := strict.Decode(raw, protected)
	return err == nil && k == head && j.Header.plain(raw)
}

// plain reads a header with exactly alg, nonce, url and kid.
func (h *Header) plain(raw []byte) bool {
	if len(raw) == 0 || raw[0] != '{' {
		return false
	}
	s, text, seen := scanner{text: raw}, string(raw), 0
	ok := s.members(func(name span, from, to int) bool {
		seen++
		value, first := text[from:to], false
		switch text[name.from:name.to] {
		case "alg":
			first, h.Alg = h.Alg == "", Algorithm(value)
		case "nonce":
			first, h.Nonce = h.Nonce == "", value
		case "url":
			first, h.URL = h.URL == "", value
		case "kid":
			first, h.KID = h.KID == "", value
		}
		return first && value != ""
	})
	return ok && seen == 4 && h.Alg.Valid() && len(h.URL) <= maxURL && len(h.KID) <= maxURL && len(h.Nonce) <= maxNonce && base64Alphabet(h.Nonce)
}
