package pki

import (
	"bytes"
	"crypto"
	"crypto/sha1" // RFC 5019 clients name issuers by SHA-1; nothing is signed with it
	"crypto/sha256"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Bounds of an OCSP request. A longer one is refused as malformed.
const (
	MaxOCSPRequest = 10 << 10 // octets of DER
	MaxOCSPCerts   = 32       // certificates asked about in one message
	maxOCSPNonce   = 128      // octets, RFC 9654 section 2.1
)

// ErrOCSPRequest means that a request is not a well-formed OCSPRequest within
// the bounds; the answer to it is OCSPMalformed.
var ErrOCSPRequest = errors.New("malformed OCSP request")

// OCSPCertID names one certificate in a request. Slices point into the bytes
// of the request.
type OCSPCertID struct {
	Hash     crypto.Hash // SHA1 or SHA256; 0 for any other, which no issuer of ours matches
	NameHash []byte
	KeyHash  []byte
	Serial   Serial
	DER      []byte // the whole CertID, to be echoed in the answer
}

// OCSPRequest is a parsed request.
type OCSPRequest struct {
	Certs []OCSPCertID // 1 to MaxOCSPCerts
	Nonce []byte       // content of the nonce extension (1 to 128 octets), or nil
}

// ParseOCSPRequest reads a DER OCSPRequest (RFC 6960 section 4.1) into req,
// reusing its slices. The requestor's name and signature are read past:
// answers do not depend on who asks. Every error is ErrOCSPRequest.
func ParseOCSPRequest(der []byte, req *OCSPRequest) error {
	req.Certs, req.Nonce = req.Certs[:0], nil
	if len(der) > MaxOCSPRequest {
		return ErrOCSPRequest
	}
	var outer, tbs, list, extensions cryptobyte.String
	var hasExtensions bool
	in := cryptobyte.String(der)
	if !in.ReadASN1(&outer, cbasn1.SEQUENCE) || !in.Empty() ||
		!outer.ReadASN1(&tbs, cbasn1.SEQUENCE) || !outer.SkipOptionalASN1(contextTag(0)) || !outer.Empty() ||
		!readVersion1(&tbs) || !tbs.SkipOptionalASN1(contextTag(1)) || !tbs.ReadASN1(&list, cbasn1.SEQUENCE) ||
		!tbs.ReadOptionalASN1(&extensions, &hasExtensions, contextTag(2)) || !tbs.Empty() {
		return ErrOCSPRequest
	}
	for !list.Empty() {
		if len(req.Certs) == MaxOCSPCerts || !readRequest(&list, req) {
			return ErrOCSPRequest
		}
	}
	if len(req.Certs) == 0 || hasExtensions && !readRequestExtensions(extensions, req) {
		return ErrOCSPRequest
	}
	return nil
}

// contextTag is a constructed context-specific tag for cryptobyte.
func contextTag(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific().Constructed() }

// readVersion1 reads "[0] EXPLICIT Version DEFAULT v1", where only v1 exists.
func readVersion1(tbs *cryptobyte.String) bool {
	var version int
	return tbs.ReadOptionalASN1Integer(&version, contextTag(0), 0) && version == 0
}

// readRequest reads one Request and adds its CertID to req.
func readRequest(list *cryptobyte.String, req *OCSPRequest) bool {
	var single, element, extensions cryptobyte.String
	var hasExtensions bool
	if !list.ReadASN1(&single, cbasn1.SEQUENCE) || !single.ReadASN1Element(&element, cbasn1.SEQUENCE) ||
		!single.ReadOptionalASN1(&extensions, &hasExtensions, contextTag(0)) || !single.Empty() {
		return false
	}
	// No extension of a single request is of use to us; a critical one says
	// that it must not be ignored.
	if hasExtensions && !eachExtension(extensions, func(x *rawExtension) bool { return !x.critical }) {
		return false
	}
	req.Certs = append(req.Certs, OCSPCertID{DER: element})
	return readCertID(element, &req.Certs[len(req.Certs)-1])
}

// readCertID reads a CertID.
func readCertID(element cryptobyte.String, id *OCSPCertID) bool {
	var body, algorithm, name, key, serial cryptobyte.String
	if !element.ReadASN1(&body, cbasn1.SEQUENCE) || !body.ReadASN1(&algorithm, cbasn1.SEQUENCE) ||
		!body.ReadASN1(&name, cbasn1.OCTET_STRING) || !body.ReadASN1(&key, cbasn1.OCTET_STRING) ||
		!readInteger(&body, &serial) || !body.Empty() || !readHash(algorithm, &id.Hash) {
		return false
	}
	if n := len(name); n != len(key) || n > 64 || id.Hash != 0 && n != id.Hash.Size() {
		return false
	}
	id.NameHash, id.KeyHash, id.Serial = name, key, Serial(serial)
	return true
}

// Contents of the OBJECT IDENTIFIERs of hashes.
const (
	oidSHA1   = "\x2b\x0e\x03\x02\x1a"
	oidSHA256 = "\x60\x86\x48\x01\x65\x03\x04\x02\x01"
)

// readHash reads the content of an AlgorithmIdentifier of a hash.
func readHash(algorithm cryptobyte.String, hash *crypto.Hash) bool {
	var oid, null cryptobyte.String
	if !algorithm.ReadASN1(&oid, cbasn1.OBJECT_IDENTIFIER) {
		return false
	}
	switch string(oid) {
	case oidSHA1:
		*hash = crypto.SHA1
	case oidSHA256:
		*hash = crypto.SHA256
	default:
		*hash = 0
		return true // its parameters are unknown too
	}
	return algorithm.Empty() || algorithm.ReadASN1(&null, cbasn1.NULL) && null.Empty() && algorithm.Empty()
}

// eachExtension calls f for every Extension of "EXPLICIT Extensions" until it
// says false.
func eachExtension(explicit cryptobyte.String, f func(*rawExtension) bool) bool {
	var list cryptobyte.String
	if !explicit.ReadASN1(&list, cbasn1.SEQUENCE) || !explicit.Empty() || list.Empty() {
		return false
	}
	for !list.Empty() {
		var x rawExtension
		if !readExtension(&list, &x) || !f(&x) {
			return false
		}
	}
	return true
}

// readRequestExtensions takes the nonce and refuses what is critical and
// unknown.
func readRequestExtensions(extensions cryptobyte.String, req *OCSPRequest) bool {
	return eachExtension(extensions, func(x *rawExtension) bool {
		if string(x.oid) != oidOCSPNonce {
			return !x.critical
		}
		var nonce cryptobyte.String
		if req.Nonce != nil || !x.value.ReadASN1(&nonce, cbasn1.OCTET_STRING) || !x.value.Empty() ||
			len(nonce) == 0 || len(nonce) > maxOCSPNonce {
			return false
		}
		req.Nonce = nonce
		return true
	})
}

// CertIDHashes are the hashes by which OCSP requests name an issuer.
type CertIDHashes struct {
	NameSHA1, KeySHA1     [sha1.Size]byte
	NameSHA256, KeySHA256 [sha256.Size]byte
}

// NewCertIDHashes computes the hashes of an issuer's DER subject Name and of
// the key bits in its DER SubjectPublicKeyInfo (the content of the BIT STRING
// without the octet that counts unused bits, RFC 6960 section 4.1.1).
func NewCertIDHashes(name, spki []byte) (CertIDHashes, error) {
	key, err := keyBits(spki)
	if err != nil {
		return CertIDHashes{}, fmt.Errorf("hash issuer: %w", err)
	}
	return CertIDHashes{
		NameSHA1: sha1.Sum(name), KeySHA1: sha1.Sum(key),
		NameSHA256: sha256.Sum256(name), KeySHA256: sha256.Sum256(key),
	}, nil
}

// Match reports whether id names a certificate of this issuer: the name hash
// and the key hash must both agree.
func (h *CertIDHashes) Match(id *OCSPCertID) bool {
	switch id.Hash {
	case crypto.SHA1:
		return bytes.Equal(id.NameHash, h.NameSHA1[:]) && bytes.Equal(id.KeyHash, h.KeySHA1[:])
	case crypto.SHA256:
		return bytes.Equal(id.NameHash, h.NameSHA256[:]) && bytes.Equal(id.KeyHash, h.KeySHA256[:])
	}
	return false
}

// AppendCertID appends the DER CertID of a serial under this issuer, as an
// answer holds it, with hash SHA1 or SHA256.
func (h *CertIDHashes) AppendCertID(dst []byte, hash crypto.Hash, serial Serial) []byte {
	oid, name, key := oidSHA1, h.NameSHA1[:], h.KeySHA1[:]
	if hash == crypto.SHA256 {
		oid, name, key = oidSHA256, h.NameSHA256[:], h.KeySHA256[:]
	}
	algorithm := tlvLen(len(oid)) + 2 // NULL parameters, as every client writes them
	dst = appendHeader(dst, tagSequence, tlvLen(algorithm)+2*tlvLen(len(name))+tlvLen(len(serial)))
	dst = appendHeader(dst, tagSequence, algorithm)
	dst = append(appendString(dst, tagOID, oid), tagNull, 0)
	dst = appendTLV(dst, tagOctetString, name)
	dst = appendTLV(dst, tagOctetString, key)
	return appendString(dst, tagInteger, string(serial))
}

// EncodeOCSPRequest returns a DER OCSPRequest for serials of one issuer, with
// a nonce unless it is empty. Scanners, monitors and tests ask with it.
func EncodeOCSPRequest(issuer *CertIDHashes, hash crypto.Hash, nonce []byte, serials ...Serial) []byte {
	var list []byte
	for _, serial := range serials {
		list = append(list, tlv(tagSequence, issuer.AppendCertID(nil, hash, serial))...)
	}
	body := tlv(tagSequence, list)
	if len(nonce) > 0 {
		body = append(body, tlv(contextConstructed(2), tlv(tagSequence, nonceExtension(nonce)))...)
	}
	return tlv(tagSequence, tlv(tagSequence, body))
}

// nonceExtension returns a DER nonce Extension (RFC 9654 section 2.1).
func nonceExtension(nonce []byte) []byte {
	return appendExtension(nil, oidOCSPNonce, false, tlv(tagOctetString, nonce))
}
