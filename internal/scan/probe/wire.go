package probe

import (
	"bytes"
	"crypto/tls"
	"io"

	"golang.org/x/crypto/cryptobyte"
)

// Record and handshake types (RFC 8446 sections 4 and 5.1).
const (
	recordCCS       = 20
	recordAlert     = 21
	recordHandshake = 22
	recordData      = 23

	typeClientHello   = 1
	typeServerHello   = 2
	typeEncryptedExts = 8
	typeCertificate   = 11
	typeCertRequest   = 13

	maxRecord   = 1<<14 + 2048 // RFC 5246 section 6.2.3, the largest of all versions
	maxMessage  = 1 << 18      // what crypto/tls accepts as a Certificate message
	maxCerts    = 32           // certificates taken from one message
	maxMessages = 16           // handshake messages up to the one we want
)

// helloRetry is the random of a HelloRetryRequest (RFC 8446 section 4.1.3).
var helloRetry = [32]byte{
	0xCF, 0x21, 0xAD, 0x74, 0xE5, 0x9A, 0x61, 0x11, 0xBE, 0x1D, 0x8C, 0x02, 0x1E, 0x65, 0xB8, 0x91,
	0xC2, 0xA2, 0x11, 0x16, 0x7A, 0xBB, 0x8C, 0x5E, 0x07, 0x9E, 0x09, 0xE2, 0xC8, 0xA8, 0x33, 0x9C,
}

// handshake reads handshake messages out of records.
type handshake struct {
	r    io.Reader
	open func(record []byte) ([]byte, error) // decrypts a record, header included; nil while in the clear
	msgs []byte                              // received, not yet returned
	any  bool                                // a record was received
}

// next returns the next handshake message, header included. The octets are
// valid until the following call.
func (h *handshake) next() ([]byte, *Failure) {
	for {
		if len(h.msgs) >= 4 {
			n := 4 + int(h.msgs[1])<<16 + int(h.msgs[2])<<8 + int(h.msgs[3])
			if n > maxMessage {
				return nil, fail(BadTLS, "a handshake message is too long")
			}
			if len(h.msgs) >= n {
				msg := h.msgs[:n:n]
				h.msgs = h.msgs[n:]
				return msg, nil
			}
		}
		if f := h.read(); f != nil {
			return nil, f
		}
	}
}

// read takes one record.
func (h *handshake) read() *Failure {
	var head [5]byte
	if _, err := io.ReadFull(h.r, head[:]); err != nil {
		return streamFailure(err)
	}
	typ, n := head[0], int(head[3])<<8|int(head[4])
	if typ < recordCCS || typ > recordData || head[1] != 3 {
		if h.any {
			return fail(BadTLS, "breaks the record layer")
		}
		return fail(NotTLS, "")
	}
	h.any = true
	if n > maxRecord || n == 0 {
		return fail(BadTLS, "a record has a wrong length")
	}
	body := make([]byte, 5+n)
	copy(body, head[:])
	if _, err := io.ReadFull(h.r, body[5:]); err != nil {
		return streamFailure(err)
	}
	return h.take(typ, body)
}

// take adds the content of a record.
func (h *handshake) take(typ byte, body []byte) *Failure {
	payload := body[5:]
	switch {
	case typ == recordCCS && len(payload) == 1: // compatibility mode; RFC 8446 section 5: drop
		return nil
	case typ == recordData && h.open != nil:
		inner, err := h.open(body)
		if err != nil {
			return &Failure{Class: BadTLS, Reason: "a record does not decrypt", cause: err}
		}
		inner = bytes.TrimRight(inner, "\x00")
		if len(inner) == 0 {
			return fail(BadTLS, "an empty record")
		}
		typ, payload = inner[len(inner)-1], inner[:len(inner)-1]
	}
	switch {
	case typ == recordAlert && len(payload) == 2:
		return &Failure{Class: Alert, Alert: payload[1]}
	case typ == recordHandshake && len(h.msgs)+len(payload) <= maxMessage:
		h.msgs = append(h.msgs, payload...)
		return nil
	}
	return fail(BadTLS, "sends an unexpected record")
}

// serverHello is the part of a ServerHello that matters here.
type serverHello struct {
	version uint16
	suite   uint16
	group   uint16 // of the key share, or asked for in a retry
	share   []byte
	retry   bool
}

// parseServerHello reads a ServerHello message (RFC 8446 section 4.1.3).
func parseServerHello(msg []byte) (sh serverHello, ok bool) {
	s := cryptobyte.String(msg)
	var random, session []byte
	var compression uint8
	var exts cryptobyte.String
	if len(msg) < 4 || msg[0] != typeServerHello || !s.Skip(4) || !s.ReadUint16(&sh.version) || !s.ReadBytes(&random, 32) ||
		!readVector8(&s, &session) || len(session) > 32 || !s.ReadUint16(&sh.suite) || !s.ReadUint8(&compression) || compression != 0 {
		return sh, false
	}
	sh.retry = [32]byte(random) == helloRetry
	if s.Empty() { // no extensions: TLS 1.2 and before
		return sh, sh.version <= tls.VersionTLS12
	}
	if !s.ReadUint16LengthPrefixed(&exts) || !s.Empty() {
		return sh, false
	}
	for !exts.Empty() {
		var typ uint16
		var body cryptobyte.String
		if !exts.ReadUint16(&typ) || !exts.ReadUint16LengthPrefixed(&body) || !sh.extension(typ, body) {
			return sh, false
		}
	}
	return sh, true
}

// extension takes one extension of a ServerHello.
func (sh *serverHello) extension(typ uint16, body cryptobyte.String) bool {
	switch typ {
	case 43: // supported_versions
		return body.ReadUint16(&sh.version) && body.Empty()
	case 51: // key_share
		if !body.ReadUint16(&sh.group) {
			return false
		}
		if sh.retry {
			return body.Empty()
		}
		var share cryptobyte.String
		ok := body.ReadUint16LengthPrefixed(&share) && body.Empty()
		sh.share = share
		return ok
	}
	return true
}

// readVector8 reads octets after their length in one octet.
func readVector8(s *cryptobyte.String, out *[]byte) bool {
	return s.ReadUint8LengthPrefixed((*cryptobyte.String)(out))
}

// parseCertificate returns the certificates of a Certificate message of TLS
// 1.2 (RFC 5246 section 7.4.2) or, if tls13, of TLS 1.3 (RFC 8446 section
// 4.4.2). The octets are copies.
func parseCertificate(msg []byte, tls13 bool) ([][]byte, bool) {
	s := cryptobyte.String(msg)
	var list cryptobyte.String
	if len(msg) < 4 || msg[0] != typeCertificate || !s.Skip(4) {
		return nil, false
	}
	if tls13 {
		var context []byte
		if !readVector8(&s, &context) || len(context) > 0 {
			return nil, false
		}
	}
	if !s.ReadUint24LengthPrefixed(&list) || !s.Empty() {
		return nil, false
	}
	var out [][]byte
	for !list.Empty() {
		var der, exts cryptobyte.String
		if !list.ReadUint24LengthPrefixed(&der) || len(der) == 0 || len(out) == maxCerts || tls13 && !list.ReadUint16LengthPrefixed(&exts) {
			return nil, false
		}
		out = append(out, bytes.Clone(der))
	}
	return out, len(out) > 0
}
