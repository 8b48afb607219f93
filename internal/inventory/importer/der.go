package importer

import (
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// firstElement returns the first DER SEQUENCE of data with its header, nil if
// there is none.
func firstElement(data []byte) []byte {
	in := cryptobyte.String(data)
	var element cryptobyte.String
	if !in.ReadASN1Element(&element, cbasn1.SEQUENCE) {
		return nil
	}
	return element
}

// oidData is id-data (RFC 2315), the content type of every PKCS#12 file that
// is protected by a password.
var oidData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}

// isPKCS12 reports whether data begins like a PFX (RFC 7292 section 4):
// version 3, then a ContentInfo. BER, which some old tools write, counts too.
func isPKCS12(data []byte) bool {
	if len(data) < 10 || data[0] != 0x30 {
		return false
	}
	at := 2
	if data[1] > 0x80 {
		at += int(data[1] & 0x7f)
	}
	return at+4 < len(data) && data[at] == 0x02 && data[at+1] == 0x01 && data[at+2] == 0x03 && data[at+3] == 0x30
}

// maxIterations bounds the work to which a file can put us: the highest count
// in common use is 600,000 (OWASP), and each costs about a microsecond.
const maxIterations = 1_000_000

// maxDepth bounds how deep saneIntegers looks; sound files have 17 levels.
const maxDepth = 32

// saneIntegers reports whether no INTEGER that is visible in DER is greater
// than maxIterations: iteration counts are the only large ones in a PKCS#12
// file outside its encrypted parts.
func saneIntegers(data []byte, depth int) bool {
	if depth > maxDepth {
		return false
	}
	for in := cryptobyte.String(data); !in.Empty(); {
		var body cryptobyte.String
		var tag cbasn1.Tag
		if !in.ReadAnyASN1(&body, &tag) {
			return true // not DER from here: encrypted, or refused later
		}
		switch {
		case tag == cbasn1.INTEGER:
			if tooLarge(body) {
				return false
			}
		case tag&0x20 != 0, tag == cbasn1.OCTET_STRING && len(body) > 1 && body[0] == 0x30:
			if !saneIntegers(body, depth+1) {
				return false
			}
		}
	}
	return true
}

// tooLarge reports whether the content of an INTEGER is above maxIterations.
// What is longer than eight octets is no count: a decoder refuses it.
func tooLarge(body []byte) bool {
	if len(body) > 8 {
		return false
	}
	n := int64(0)
	for _, b := range body {
		n = n<<8 | int64(b)
	}
	return n > maxIterations
}
