package probe

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
)

// Key kinds that a hello may ask for, as bits.
const (
	wantECDSA = 1 << iota
	wantRSA
	wantAny = wantECDSA | wantRSA
)

// Post-quantum key exchange groups (draft-ietf-tls-ecdhe-mlkem).
const (
	groupX25519    = uint16(tls.X25519)
	groupX25519M   = 0x11ec // X25519MLKEM768
	groupP256M     = 0x11eb // SecP256r1MLKEM768
	groupP384M     = 0x11ed // SecP384r1MLKEM1024
	suiteAES128SHA = 0x1301 // TLS_AES_128_GCM_SHA256, which every TLS 1.3 endpoint has (RFC 8446 section 9.1)
)

// hello is what a hand-made ClientHello offers.
type hello struct {
	name     string
	versions []uint16 // offered; more than one or TLS 1.3 only with the extension
	want     int      // key kinds
	groups   []uint16
	share    []byte // X25519 public key for TLS 1.3, or nil: an empty key share list asks for a retry with a group
}

// Cipher suites of TLS 1.2 and before, by kind of key. CBC and plain RSA are
// there because the question is which certificate is served, not how well.
func (h *hello) suites() []uint16 {
	var out []uint16
	if h.has(tls.VersionTLS13) {
		out = append(out, suiteAES128SHA)
		if h.versions[0] == tls.VersionTLS13 && len(h.versions) == 1 {
			return append(out, 0x1302, 0x1303)
		}
	}
	if h.want&wantECDSA != 0 {
		out = append(out, 0xc02b, 0xc02c, 0xcca9, 0xc023, 0xc024, 0xc009, 0xc00a)
	}
	if h.want&wantRSA != 0 {
		out = append(out, 0xc02f, 0xc030, 0xcca8, 0xc027, 0xc028, 0xc013, 0xc014, 0x009c, 0x009d, 0x003c, 0x003d, 0x002f, 0x0035, 0x000a)
	}
	return out
}

// signatures are the signature algorithms, by kind of key.
func (h *hello) signatures() []uint16 {
	var out []uint16
	if h.want&wantECDSA != 0 {
		out = append(out, 0x0403, 0x0503, 0x0603, 0x0203)
	}
	if h.want&wantRSA != 0 {
		out = append(out, 0x0804, 0x0805, 0x0806, 0x0809, 0x080a, 0x080b, 0x0401, 0x0501, 0x0601, 0x0201)
	}
	if h.want == wantAny {
		out = append(out, 0x0807, 0x0904, 0x0905, 0x0906) // Ed25519, ML-DSA
	}
	return out
}

func (h *hello) has(version uint16) bool {
	for _, v := range h.versions {
		if v == version {
			return true
		}
	}
	return false
}

// marshal returns the ClientHello handshake message (RFC 5246 section 7.4.1.2,
// RFC 8446 section 4.1.2) and its session id.
func (h *hello) marshal() []byte {
	var random [64]byte
	rand.Read(random[:]) // never fails (crypto/rand)
	legacy := min(h.versions[0], tls.VersionTLS12)
	b := make([]byte, 4, 512)
	b[0] = typeClientHello
	b = binary.BigEndian.AppendUint16(b, legacy)
	b = append(b, random[:32]...)
	if h.has(tls.VersionTLS13) { // middlebox compatibility (RFC 8446 appendix D.4)
		b = append(append(b, 32), random[32:]...)
	} else {
		b = append(b, 0)
	}
	b = appendList16(b, h.suites())
	b = append(b, 1, 0) // no compression
	b = vector16(b, h.extensions)
	n := len(b) - 4
	b[1], b[2], b[3] = byte(n>>16), byte(n>>8), byte(n)
	return b
}

// extensions appends the extensions.
func (h *hello) extensions(b []byte) []byte {
	if h.name != "" { // server_name (RFC 6066 section 3)
		b = extension(b, 0, func(b []byte) []byte {
			return vector16(b, func(b []byte) []byte {
				b = binary.BigEndian.AppendUint16(append(b, 0), uint16(len(h.name)))
				return append(b, h.name...)
			})
		})
	}
	b = extension(b, 5, func(b []byte) []byte { return append(b, 1, 0, 0, 0, 0) }) // status_request: OCSP
	b = extension(b, 10, func(b []byte) []byte { return appendList16(b, h.groups) })
	b = extension(b, 11, func(b []byte) []byte { return append(b, 1, 0) }) // uncompressed points
	if h.versions[0] >= tls.VersionTLS12 {
		b = extension(b, 13, func(b []byte) []byte { return appendList16(b, h.signatures()) })
	}
	b = extension(b, 23, nil)                                               // extended_master_secret
	b = extension(b, 0xff01, func(b []byte) []byte { return append(b, 0) }) // renegotiation_info
	if !h.has(tls.VersionTLS13) {
		return b
	}
	b = extension(b, 43, func(b []byte) []byte {
		b = append(b, byte(2*len(h.versions)))
		for _, v := range h.versions {
			b = binary.BigEndian.AppendUint16(b, v)
		}
		return b
	})
	return extension(b, 51, func(b []byte) []byte {
		return vector16(b, func(b []byte) []byte {
			if h.share == nil {
				return b
			}
			b = binary.BigEndian.AppendUint16(b, groupX25519)
			b = binary.BigEndian.AppendUint16(b, uint16(len(h.share)))
			return append(b, h.share...)
		})
	})
}

// extension appends one extension.
func extension(b []byte, typ uint16, body func([]byte) []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, typ)
	if body == nil {
		return append(b, 0, 0)
	}
	return vector16(b, body)
}

// vector16 appends what body appends, after its length in two octets.
func vector16(b []byte, body func([]byte) []byte) []byte {
	at := len(b)
	b = body(append(b, 0, 0))
	binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at-2))
	return b
}

// appendList16 appends a list of numbers, after its length in octets.
func appendList16(b []byte, list []uint16) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(2*len(list)))
	for _, v := range list {
		b = binary.BigEndian.AppendUint16(b, v)
	}
	return b
}

// record wraps a handshake message in a record.
func record(msg []byte) []byte {
	b := make([]byte, 0, 5+len(msg))
	b = append(b, recordHandshake, 3, 1) // RFC 8446 section 5.1: 0x0301 in the first flight
	b = binary.BigEndian.AppendUint16(b, uint16(len(msg)))
	return append(b, msg...)
}
