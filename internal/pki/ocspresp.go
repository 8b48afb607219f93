package pki

import (
	"crypto/sha1" // RFC 6960 section 4.2.1 defines the responder's KeyHash with SHA-1
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// OCSPStatus is what an answer says about one certificate.
type OCSPStatus byte

// Certificate statuses (RFC 6960 section 2.2).
const (
	OCSPGood    OCSPStatus = 0
	OCSPRevoked OCSPStatus = 1
	OCSPUnknown OCSPStatus = 2
)

// String returns "good", "revoked" or "unknown".
func (s OCSPStatus) String() string {
	switch s {
	case OCSPGood:
		return "good"
	case OCSPRevoked:
		return "revoked"
	}
	return "unknown"
}

// Answers that carry no signature: whole DER OCSPResponse messages with an
// error status (RFC 6960 section 4.2.1). They are the same for everyone.
const (
	OCSPMalformed    = "\x30\x03\x0a\x01\x01"
	OCSPInternal     = "\x30\x03\x0a\x01\x02"
	OCSPTryLater     = "\x30\x03\x0a\x01\x03"
	OCSPUnauthorized = "\x30\x03\x0a\x01\x06" // also "not a certificate I answer for" (RFC 5019)
)

// OCSPSingle is the answer about one certificate.
type OCSPSingle struct {
	CertID     []byte // DER CertID: AppendCertID, or OCSPCertID.DER
	Status     OCSPStatus
	RevokedAt  time.Time // with OCSPRevoked
	Reason     Reason    // with OCSPRevoked; Unspecified is left out
	ThisUpdate time.Time
	NextUpdate time.Time
}

// OCSPEncoder writes answers of one responder key. It is safe for concurrent
// use.
type OCSPEncoder struct {
	keyType     KeyType
	responderID []byte // DER ResponderID, byKey
	certs       []byte // DER "[0] EXPLICIT SEQUENCE OF Certificate", or empty
}

// NewOCSPEncoder returns an encoder for answers signed with the key of
// responder. delegated says that responder is not the issuer itself but holds
// id-kp-OCSPSigning from it; such a certificate is sent along in every answer.
func NewOCSPEncoder(responder *x509.Certificate, delegated bool) (*OCSPEncoder, error) {
	kt, err := KeyTypeOf(responder.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("build OCSP encoder: %w", err)
	}
	key, err := keyBits(responder.RawSubjectPublicKeyInfo)
	if err != nil {
		return nil, fmt.Errorf("build OCSP encoder: %w", err)
	}
	sum := sha1.Sum(key)
	e := &OCSPEncoder{keyType: kt, responderID: tlv(contextConstructed(2), tlv(tagOctetString, sum[:]))}
	if delegated {
		e.certs = tlv(contextConstructed(0), tlv(tagSequence, responder.Raw))
	}
	return e, nil
}

// KeyType returns the type of the key that must sign.
func (e *OCSPEncoder) KeyType() KeyType { return e.keyType }

// TBS returns the DER ResponseData to be signed. Equal arguments give equal
// bytes, so an answer can be rebuilt later from a kept signature. An empty
// nonce is left out.
func (e *OCSPEncoder) TBS(producedAt time.Time, nonce []byte, singles ...OCSPSingle) ([]byte, error) {
	return e.AppendTBS(nil, producedAt, nonce, singles...)
}

// AppendTBS appends what TBS returns.
func (e *OCSPEncoder) AppendTBS(dst []byte, producedAt time.Time, nonce []byte, singles ...OCSPSingle) ([]byte, error) {
	if len(singles) == 0 {
		return nil, errors.New("encode OCSP answer: it has no certificate")
	}
	list := 0
	for i := range singles {
		if err := singles[i].check(); err != nil {
			return nil, fmt.Errorf("encode OCSP answer: %w", err)
		}
		list += tlvLen(singles[i].size())
	}
	var extensions []byte
	if len(nonce) > 0 {
		extensions = tlv(contextConstructed(1), tlv(tagSequence, nonceExtension(nonce)))
	}
	n := len(e.responderID) + generalizedTimeLen + tlvLen(list) + len(extensions)
	dst = appendHeader(dst, tagSequence, n)
	dst = append(dst, e.responderID...)
	dst = appendGeneralizedTime(dst, producedAt)
	dst = appendHeader(dst, tagSequence, list)
	for i := range singles {
		dst = singles[i].append(dst)
	}
	return append(dst, extensions...), nil
}

func (s *OCSPSingle) check() error {
	switch {
	case !isSequence(s.CertID):
		return errors.New("CertID is not DER")
	case s.Status > OCSPUnknown:
		return fmt.Errorf("unknown certificate status %d", s.Status)
	case !s.Reason.Valid():
		return fmt.Errorf("unknown revocation reason %d", int(s.Reason))
	case !s.NextUpdate.After(s.ThisUpdate):
		return errors.New("nextUpdate is not after thisUpdate")
	}
	return nil
}

// size is the number of content octets of the SingleResponse.
func (s *OCSPSingle) size() int {
	return len(s.CertID) + tlvLen(s.statusSize()) + generalizedTimeLen + tlvLen(generalizedTimeLen)
}

// statusSize is the number of content octets of the CertStatus.
func (s *OCSPSingle) statusSize() int {
	switch {
	case s.Status != OCSPRevoked:
		return 0
	case s.Reason == Unspecified:
		return generalizedTimeLen
	}
	return generalizedTimeLen + 5
}

// append appends the SingleResponse.
func (s *OCSPSingle) append(dst []byte) []byte {
	dst = appendHeader(dst, tagSequence, s.size())
	dst = append(dst, s.CertID...)
	if s.Status == OCSPRevoked {
		dst = appendHeader(dst, contextConstructed(1), s.statusSize())
		dst = appendGeneralizedTime(dst, s.RevokedAt)
		if s.Reason != Unspecified {
			dst = append(dst, contextConstructed(0), 3, tagEnumerated, 1, byte(s.Reason))
		}
	} else {
		dst = append(dst, context(byte(s.Status)), 0)
	}
	dst = appendGeneralizedTime(dst, s.ThisUpdate)
	dst = appendHeader(dst, contextConstructed(0), generalizedTimeLen)
	return appendGeneralizedTime(dst, s.NextUpdate)
}

// Assemble returns the whole DER OCSPResponse with status successful, made of
// a ResponseData and the signature over it.
func (e *OCSPEncoder) Assemble(tbs, sig []byte) []byte { return e.AppendAssemble(nil, tbs, sig) }

// AppendAssemble appends what Assemble returns.
func (e *OCSPEncoder) AppendAssemble(dst, tbs, sig []byte) []byte {
	const successful = "\x0a\x01\x00"
	algorithm := e.keyType.SignatureAlgorithm()
	basic := len(tbs) + len(algorithm) + tlvLen(len(sig)+1) + len(e.certs)
	typed := tlvLen(len(oidOCSPBasic)) + tlvLen(tlvLen(basic)) // ResponseBytes
	n := len(successful) + tlvLen(tlvLen(typed))
	if dst == nil {
		dst = make([]byte, 0, tlvLen(n))
	}
	dst = append(appendHeader(dst, tagSequence, n), successful...)
	dst = appendHeader(dst, contextConstructed(0), tlvLen(typed))
	dst = appendHeader(dst, tagSequence, typed)
	dst = appendString(dst, tagOID, oidOCSPBasic)
	dst = appendHeader(dst, tagOctetString, tlvLen(basic))
	dst = appendHeader(dst, tagSequence, basic)
	dst = append(append(dst, tbs...), algorithm...)
	dst = append(appendHeader(dst, tagBitString, len(sig)+1), 0)
	return append(append(dst, sig...), e.certs...)
}
