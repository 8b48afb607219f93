package pki

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Extended key usages (RFC 5280 section 4.2.1.12).
var (
	EKUServerAuth      = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}
	EKUClientAuth      = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
	EKUCodeSigning     = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 3}
	EKUEmailProtection = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 4}
	EKUTimeStamping    = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 8}
	EKUOCSPSigning     = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 9}
)

// PolicyDomainValidated is the CA/Browser Forum's policy for certificates
// whose only claim is control of the names.
var PolicyDomainValidated = asn1.ObjectIdentifier{2, 23, 140, 1, 2, 1}

// Contents of the OBJECT IDENTIFIERs that the encoders write and parsers meet.
const (
	oidSubjectKeyID   = "\x55\x1d\x0e"
	oidKeyUsage       = "\x55\x1d\x0f"
	oidSAN            = "\x55\x1d\x11"
	oidBasic          = "\x55\x1d\x13"
	oidCRLNumber      = "\x55\x1d\x14"
	oidReason         = "\x55\x1d\x15"
	oidIDP            = "\x55\x1d\x1c"
	oidCRLPoints      = "\x55\x1d\x1f"
	oidPolicies       = "\x55\x1d\x20"
	oidAuthorityKeyID = "\x55\x1d\x23"
	oidExtKeyUsage    = "\x55\x1d\x25"
	oidCommonName     = "\x55\x04\x03"
	oidAccess         = "\x2b\x06\x01\x05\x05\x07\x01\x01"
	oidTLSFeature     = "\x2b\x06\x01\x05\x05\x07\x01\x18"
	oidAccessOCSP     = "\x2b\x06\x01\x05\x05\x07\x30\x01"
	oidAccessIssuers  = "\x2b\x06\x01\x05\x05\x07\x30\x02"
	oidOCSPBasic      = "\x2b\x06\x01\x05\x05\x07\x30\x01\x01"
	oidOCSPNonce      = "\x2b\x06\x01\x05\x05\x07\x30\x01\x02"
	oidOCSPNoCheck    = "\x2b\x06\x01\x05\x05\x07\x30\x01\x05"
	oidRSA            = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"
	oidExtRequest     = "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0e"
)

// tlsFeatureStatusRequest is SEQUENCE { INTEGER 5 }: "must staple" (RFC 7633).
const tlsFeatureStatusRequest = "\x30\x03\x02\x01\x05"

// emptyName is a Name without any attribute.
const emptyName = "\x30\x00"

// Tags of GeneralName alternatives (RFC 5280 section 4.2.1.6).
const (
	nameEmail = 1
	nameDNS   = 2
	nameURI   = 6
	nameIP    = 7
)

// MarshalName returns the DER of a name for IssuerInfo.Name or Leaf.Subject.
func MarshalName(name pkix.Name) ([]byte, error) {
	der, err := asn1.Marshal(name.ToRDNSequence())
	if err != nil {
		return nil, fmt.Errorf("encode name: %w", err)
	}
	return der, nil
}

// commonNameSubject returns a Name with one common name, or an empty Name.
func commonNameSubject(cn string) []byte {
	if cn == "" {
		return []byte(emptyName)
	}
	tag := byte(tagPrintableString)
	if !isPrintable(cn) {
		tag = tagUTF8String
	}
	attribute := make([]byte, 0, 80)
	attribute = appendString(attribute, tagOID, oidCommonName)
	attribute = appendString(attribute, tag, cn)
	return tlv(tagSequence, tlv(tagSet, tlv(tagSequence, attribute)))
}

// isPrintable reports whether s fits in an ASN.1 PrintableString.
func isPrintable(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case bytes.IndexByte([]byte(" '()+,-./:=?"), c) >= 0:
		default:
			return false
		}
	}
	return true
}

// isIA5 reports whether s is ASCII without control characters.
func isIA5(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// isSequence reports whether der is exactly one DER SEQUENCE.
func isSequence(der []byte) bool {
	in := cryptobyte.String(der)
	return in.SkipASN1(cbasn1.SEQUENCE) && in.Empty()
}

// isRSA reports whether a SubjectPublicKeyInfo holds an RSA key.
func isRSA(spki []byte) (bool, error) {
	var info, algorithm, oid cryptobyte.String
	in := cryptobyte.String(spki)
	if !in.ReadASN1(&info, cbasn1.SEQUENCE) || !info.ReadASN1(&algorithm, cbasn1.SEQUENCE) ||
		!algorithm.ReadASN1(&oid, cbasn1.OBJECT_IDENTIFIER) {
		return false, errors.New("public key is not a DER SubjectPublicKeyInfo")
	}
	return string(oid) == oidRSA, nil
}

// appendExtension appends one Extension with the DER value inside its OCTET
// STRING.
func appendExtension(dst []byte, oid string, critical bool, value []byte) []byte {
	n := tlvLen(len(oid)) + tlvLen(len(value))
	if critical {
		n += 3
	}
	dst = appendHeader(dst, tagSequence, n)
	dst = appendString(dst, tagOID, oid)
	if critical {
		dst = append(dst, tagBoolean, 1, 0xff)
	}
	return appendTLV(dst, tagOctetString, value)
}

// openExtension appends what comes before the value of an Extension, which
// closeExtension completes.
func openExtension(dst []byte, oid string, critical bool) (b []byte, value int) {
	dst = appendString(dst, tagOID, oid)
	if critical {
		dst = append(dst, tagBoolean, 1, 0xff)
	}
	return dst, len(dst)
}

// closeExtension makes an Extension of what was opened at from and of the value
// that follows.
func closeExtension(b []byte, from, value int) []byte {
	return enclose(enclose(b, value, tagOctetString), from, tagSequence)
}

// appendExtra appends extensions that the caller encoded.
func appendExtra(dst []byte, extra []pkix.Extension) ([]byte, error) {
	for _, e := range extra {
		oid, err := oidContent(e.Id)
		if err != nil {
			return nil, fmt.Errorf("extension %s: %w", e.Id, err)
		}
		dst = appendExtension(dst, oid, e.Critical, e.Value)
	}
	return dst, nil
}

// oidContent returns the content octets of an OBJECT IDENTIFIER.
func oidContent(oid asn1.ObjectIdentifier) (string, error) {
	der, err := asn1.Marshal(oid)
	if err != nil {
		return "", fmt.Errorf("encode object identifier: %w", err)
	}
	var content cryptobyte.String
	in := cryptobyte.String(der)
	if !in.ReadASN1(&content, cbasn1.OBJECT_IDENTIFIER) {
		return "", fmt.Errorf("encode object identifier: %s is not one", oid)
	}
	return string(content), nil
}

// keyUsageExtension encodes the named bits in the shortest form. The bits of
// x509.KeyUsage are numbered from the right, those of DER from the left.
func keyUsageExtension(usage x509.KeyUsage) []byte {
	if usage == 0 {
		return nil
	}
	named := []byte{bits.Reverse8(byte(usage)), bits.Reverse8(byte(usage >> 8))}
	if named[1] == 0 {
		named = named[:1]
	}
	unused := byte(bits.TrailingZeros8(named[len(named)-1]))
	return appendExtension(nil, oidKeyUsage, true, tlv(tagBitString, []byte{unused}, named))
}

func basicConstraintsExtension(spec *CertSpec) []byte {
	if !spec.CA && !spec.BasicConstraints {
		return nil
	}
	var value []byte
	if spec.CA {
		value = append(value, tagBoolean, 1, 0xff)
		if spec.PathLen >= 0 {
			value = appendUint(value, uint64(spec.PathLen))
		}
	}
	return appendExtension(nil, oidBasic, true, tlv(tagSequence, value))
}

// oidListExtension encodes SEQUENCE OF something that holds one OID each.
func oidListExtension(id string, oids []asn1.ObjectIdentifier, add func([]byte, string) []byte) ([]byte, error) {
	if len(oids) == 0 {
		return nil, nil
	}
	var list []byte
	for _, oid := range oids {
		content, err := oidContent(oid)
		if err != nil {
			return nil, err
		}
		list = add(list, content)
	}
	return appendExtension(nil, id, false, tlv(tagSequence, list)), nil
}

func appendOID(dst []byte, oid string) []byte { return appendString(dst, tagOID, oid) }

// appendPolicy appends a PolicyInformation without qualifiers.
func appendPolicy(dst []byte, oid string) []byte {
	return appendOID(appendHeader(dst, tagSequence, tlvLen(len(oid))), oid)
}

func authorityKeyExtension(keyID []byte) []byte {
	if len(keyID) == 0 {
		return nil
	}
	return appendExtension(nil, oidAuthorityKeyID, false, tlv(tagSequence, tlv(context(0), keyID)))
}

func accessExtension(ocsp, issuers []string) []byte {
	var list []byte
	for _, u := range ocsp {
		list = appendAccess(list, oidAccessOCSP, u)
	}
	for _, u := range issuers {
		list = appendAccess(list, oidAccessIssuers, u)
	}
	if list == nil {
		return nil
	}
	return appendExtension(nil, oidAccess, false, tlv(tagSequence, list))
}

// appendAccess appends one AccessDescription (RFC 5280 section 4.2.2.1).
func appendAccess(dst []byte, method, url string) []byte {
	dst = appendHeader(dst, tagSequence, tlvLen(len(method))+tlvLen(len(url)))
	return appendString(appendOID(dst, method), context(nameURI), url)
}

// appendCRLPoints appends cRLDistributionPoints with one DistributionPoint per
// URL, or nothing without any.
func appendCRLPoints(dst []byte, urls ...string) []byte {
	if len(urls) == 0 {
		return dst
	}
	from := len(dst)
	dst, value := openExtension(dst, oidCRLPoints, false)
	for _, u := range urls {
		point := len(dst)
		dst = enclose(appendPointName(dst, u), point, tagSequence)
	}
	return closeExtension(enclose(dst, value, tagSequence), from, value)
}

// appendPointName appends "distributionPoint [0]" with a fullName of one URL. A
// certificate and the CRL for it must hold the same bytes here.
func appendPointName(dst []byte, url string) []byte {
	from := len(dst)
	dst = appendString(dst, context(nameURI), url)
	return enclose(enclose(dst, from, contextConstructed(0)), from, contextConstructed(0))
}

// appendSAN appends the subjectAltName extension, in the order of ids. It is
// critical when the subject is empty (RFC 5280 section 4.2.1.6).
func appendSAN(dst []byte, ids []Identifier, critical bool) ([]byte, error) {
	from := len(dst)
	list, value := openExtension(dst, oidSAN, critical)
	for _, id := range ids {
		switch id.Type {
		case TNAuthList: // has an extension of its own
		case DNS:
			if id.Value == "" || !isIA5(id.Value) {
				return nil, fmt.Errorf("identifier %s is not in canonical form", id)
			}
			list = appendString(list, context(nameDNS), id.Value)
		case IP:
			addr := id.Addr()
			if !addr.IsValid() {
				return nil, fmt.Errorf("identifier %s is not in canonical form", id)
			}
			list = appendTLV(list, context(nameIP), addr.AsSlice())
		case Email:
			if id.Domain() == "" || !isIA5(id.Value) {
				return nil, fmt.Errorf("identifier %s is not in canonical form", id)
			}
			list = appendString(list, context(nameEmail), id.Value)
		case PermanentIdentifier, HardwareModule:
			name, err := id.deviceName()
			if err != nil {
				return nil, err
			}
			list = append(list, name...)
		default:
			return nil, fmt.Errorf("identifier %s is of an unknown type", id)
		}
	}
	if len(list) == value {
		return dst, nil
	}
	return closeExtension(enclose(list, value, tagSequence), from, value), nil
}
