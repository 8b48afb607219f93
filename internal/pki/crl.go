package pki

import (
	"errors"
	"fmt"
	"iter"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Reason is a revocation reason code (RFC 5280 section 5.3.1).
type Reason int

// Revocation reasons. 7 is not used by the RFC.
const (
	Unspecified          Reason = 0
	KeyCompromise        Reason = 1
	CACompromise         Reason = 2
	AffiliationChanged   Reason = 3
	Superseded           Reason = 4
	CessationOfOperation Reason = 5
	CertificateHold      Reason = 6
	RemoveFromCRL        Reason = 8
	PrivilegeWithdrawn   Reason = 9
	AACompromise         Reason = 10
)

// Valid reports whether r is a reason that RFC 5280 defines.
func (r Reason) Valid() bool { return r >= Unspecified && r <= AACompromise && r != 7 }

var reasonNames = [...]string{"unspecified", "keyCompromise", "cACompromise", "affiliationChanged", "superseded",
	"cessationOfOperation", "certificateHold", "", "removeFromCRL", "privilegeWithdrawn", "aACompromise"}

// String returns the name that RFC 5280 gives to r.
func (r Reason) String() string {
	if !r.Valid() {
		return fmt.Sprintf("reason %d", int(r))
	}
	return reasonNames[r]
}

// CRLEntry returns one DER entry of revokedCertificates. Entries are kept in
// this form, so that a CRL is a concatenation. Reason 0 is left out, as
// RFC 5280 section 5.3.1 asks.
func CRLEntry(serial Serial, revokedAt time.Time, reason Reason) []byte {
	return AppendCRLEntry(nil, serial, revokedAt, reason)
}

// reasonExtensionLen is the size of the crlEntryExtensions with a reasonCode.
const reasonExtensionLen = 14

// AppendCRLEntry appends what CRLEntry returns.
func AppendCRLEntry(dst []byte, serial Serial, revokedAt time.Time, reason Reason) []byte {
	year := revokedAt.UTC().Year()
	n := tlvLen(len(serial)) + utcTimeLen
	if year >= 2050 || year < 1950 {
		n += generalizedTimeLen - utcTimeLen
	}
	if reason != Unspecified {
		n += reasonExtensionLen
	}
	dst = appendHeader(dst, tagSequence, n)
	dst = appendString(dst, tagInteger, string(serial))
	dst = appendTime(dst, revokedAt)
	if reason == Unspecified {
		return dst
	}
	dst = append(dst, tagSequence, 12, tagSequence, 10, tagOID, 3)
	dst = append(dst, oidReason...)
	return append(dst, tagOctetString, 3, tagEnumerated, 1, byte(reason))
}

// CRL is everything in a certificate revocation list but its signature.
type CRL struct {
	Number     uint64 // strictly increasing per issuer and distribution point
	ThisUpdate time.Time
	NextUpdate time.Time

	// IDPURL, when set, adds a critical issuingDistributionPoint with this
	// URL: the list is complete only for certificates that carry the same URL
	// in their cRLDistributionPoints (RFC 5280 section 5.2.5).
	IDPURL string

	// OnlyUserCerts says in the issuingDistributionPoint that the list speaks
	// for certificates of subscribers only, OnlyCACerts for those of CAs only.
	OnlyUserCerts bool
	OnlyCACerts   bool

	Entries []byte // concatenated entries of AppendCRLEntry
}

// SignCRL returns the DER CRL. sign is given the TBSCertList, which it must not
// keep or change, and returns the signature over it by the key of the issuer.
// The entries, which are trusted to be what AppendCRLEntry makes, are copied
// once, before sign is called: a list of a million is as large as all else that
// is known of them.
func SignCRL(issuer IssuerInfo, crl CRL, sign func(tbs []byte) (sig []byte, err error)) ([]byte, error) {
	parts, err := crlParts(issuer, &crl)
	if err != nil {
		return nil, err
	}
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	// The header of the whole depends on the length of the signature, so it is
	// written last, right before the TBSCertList.
	const head, tail = 6, 8 << 10
	b := appendTLV(make([]byte, head, head+tlvLen(n)+tail), tagSequence, parts...)
	sig, err := sign(b[head:len(b):len(b)])
	if err != nil {
		return nil, err
	}
	b = append(b, issuer.KeyType.SignatureAlgorithm()...)
	b = append(appendHeader(b, tagBitString, len(sig)+1), 0)
	b = append(b, sig...)
	n = len(b) - head
	start := head - headerLen(n)
	appendHeader(b[:start], tagSequence, n)
	return b[start:], nil
}

// crlParts returns the content of the TBSCertList, in order.
func crlParts(issuer IssuerInfo, crl *CRL) ([][]byte, error) {
	algorithm := issuer.KeyType.SignatureAlgorithm()
	switch {
	case algorithm == "":
		return nil, fmt.Errorf("encode CRL: unknown issuer key type %q", issuer.KeyType)
	case !isSequence(issuer.Name):
		return nil, errors.New("encode CRL: issuer name is not a DER Name")
	case !crl.NextUpdate.After(crl.ThisUpdate):
		return nil, errors.New("encode CRL: nextUpdate is not after thisUpdate")
	case crl.OnlyUserCerts && crl.OnlyCACerts:
		return nil, errors.New("encode CRL: a list cannot be for user certificates only and for CA certificates only")
	case !isIA5(crl.IDPURL):
		return nil, errors.New("encode CRL: distribution point URL is not ASCII")
	}
	var times [2 * generalizedTimeLen]byte
	updates := appendTime(appendTime(times[:0], crl.ThisUpdate), crl.NextUpdate)
	var list []byte // header of revokedCertificates, absent when there are none
	if len(crl.Entries) > 0 {
		list = appendHeader(nil, tagSequence, len(crl.Entries))
	}
	version := []byte{tagInteger, 1, 1} // v2
	return [][]byte{version, []byte(algorithm), issuer.Name, updates, list, crl.Entries, crlExtensions(issuer, crl)}, nil
}

// crlExtensions returns "[0] EXPLICIT Extensions".
func crlExtensions(issuer IssuerInfo, crl *CRL) []byte {
	b := authorityKeyExtension(issuer.KeyID)
	b = appendExtension(b, oidCRLNumber, false, appendUint(nil, crl.Number))
	var idp []byte
	if crl.IDPURL != "" {
		idp = appendPointName(nil, crl.IDPURL)
	}
	if crl.OnlyUserCerts {
		idp = append(idp, context(1), 1, 0xff)
	}
	if crl.OnlyCACerts {
		idp = append(idp, context(2), 1, 0xff)
	}
	if idp != nil {
		b = appendExtension(b, oidIDP, true, tlv(tagSequence, idp))
	}
	return tlv(contextConstructed(0), tlv(tagSequence, b))
}

// RevokedEntry is one entry of a CRL.
type RevokedEntry struct {
	Serial    Serial
	RevokedAt time.Time
	Reason    Reason
	DER       []byte // the whole entry, a part of the CRL's bytes
}

// CRLEntries walks the entries of a DER CRL (or of a bare TBSCertList) without
// parsing the rest. A list that cannot be walked to its end yields a last,
// non-nil error. The signature is not checked.
func CRLEntries(der []byte) iter.Seq2[RevokedEntry, error] {
	return func(yield func(RevokedEntry, error) bool) {
		list, ok := revokedList(der)
		for ok && !list.Empty() {
			var e RevokedEntry
			if ok = readRevoked(&list, &e); ok && !yield(e, nil) {
				return
			}
		}
		if !ok {
			yield(RevokedEntry{}, errors.New("read CRL: not a DER certificate list"))
		}
	}
}

// CRLEntryBytes returns the concatenated entries of a DER CRL or TBSCertList,
// as AppendCRLEntry makes them, without a copy; nil when it has none. The
// entries themselves are not looked at.
func CRLEntryBytes(der []byte) ([]byte, error) {
	list, ok := revokedList(der)
	if !ok {
		return nil, errors.New("read CRL: not a DER certificate list")
	}
	return list, nil
}

// revokedList returns the content of revokedCertificates.
func revokedList(der []byte) (list cryptobyte.String, ok bool) {
	var tbs cryptobyte.String
	in := cryptobyte.String(der)
	if !in.ReadASN1(&tbs, cbasn1.SEQUENCE) {
		return nil, false
	}
	if tbs.PeekASN1Tag(cbasn1.SEQUENCE) { // der is signed: go one level down
		signed := tbs
		if !signed.ReadASN1(&tbs, cbasn1.SEQUENCE) {
			return nil, false
		}
	}
	if !tbs.SkipOptionalASN1(cbasn1.INTEGER) || !tbs.SkipASN1(cbasn1.SEQUENCE) || !tbs.SkipASN1(cbasn1.SEQUENCE) ||
		!skipTime(&tbs) || isTime(tbs) && !skipTime(&tbs) {
		return nil, false
	}
	return list, tbs.ReadOptionalASN1(&list, nil, cbasn1.SEQUENCE)
}

func isTime(s cryptobyte.String) bool {
	return s.PeekASN1Tag(cbasn1.UTCTime) || s.PeekASN1Tag(cbasn1.GeneralizedTime)
}

func skipTime(s *cryptobyte.String) bool {
	if s.PeekASN1Tag(cbasn1.UTCTime) {
		return s.SkipASN1(cbasn1.UTCTime)
	}
	return s.SkipASN1(cbasn1.GeneralizedTime)
}

// readRevoked reads one entry of revokedCertificates.
func readRevoked(list *cryptobyte.String, e *RevokedEntry) bool {
	var element, entry, serial, extensions cryptobyte.String
	if !list.ReadASN1Element(&element, cbasn1.SEQUENCE) {
		return false
	}
	e.DER = element
	if !element.ReadASN1(&entry, cbasn1.SEQUENCE) || !readInteger(&entry, &serial) || !readTime(&entry, &e.RevokedAt) ||
		!entry.ReadOptionalASN1(&extensions, nil, cbasn1.SEQUENCE) || !entry.Empty() {
		return false
	}
	e.Serial = Serial(serial)
	for !extensions.Empty() {
		var x rawExtension
		if !readExtension(&extensions, &x) {
			return false
		}
		if string(x.oid) == oidReason && !readReason(x.value, &e.Reason) {
			return false
		}
	}
	return true
}

func readReason(value cryptobyte.String, reason *Reason) bool {
	var n int
	if !value.ReadASN1Enum(&n) || !value.Empty() {
		return false
	}
	*reason = Reason(n)
	return reason.Valid()
}
