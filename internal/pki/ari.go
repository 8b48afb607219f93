package pki

import (
	"crypto/x509"
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"chancery/internal/fault"
)

// maxCertID bounds the text of a certificate identifier in a URL.
const maxCertID = 256

// CertID returns the ARI identifier of a certificate (RFC 9773 section 4.1):
// base64url of its authority key identifier, a dot, base64url of the content
// octets of its serial number.
func CertID(cert *x509.Certificate) (string, error) {
	if len(cert.AuthorityKeyId) == 0 {
		return "", errors.New("build ARI identifier: certificate has no authority key identifier")
	}
	serial, err := serialOf(cert)
	if err != nil {
		return "", err
	}
	return FormatCertID(cert.AuthorityKeyId, serial), nil
}

// FormatCertID returns the ARI identifier of a serial under the issuer with
// the given key identifier.
func FormatCertID(keyID []byte, serial Serial) string {
	return base64.RawURLEncoding.EncodeToString(keyID) + "." + base64.RawURLEncoding.EncodeToString([]byte(serial))
}

// ParseCertID reads an ARI identifier. The error is a *fault.Error
// (malformed).
func ParseCertID(text string) (keyID []byte, serial Serial, err error) {
	bad := fault.New(fault.Malformed, "%.64q is not a certificate identifier (RFC 9773 section 4.1: base64url(key identifier) \".\" base64url(serial))", text)
	left, right, found := strings.Cut(text, ".")
	if !found || len(text) > maxCertID {
		return nil, "", bad
	}
	encoding := base64.RawURLEncoding.Strict()
	keyID, err = encoding.DecodeString(left)
	if err != nil || len(keyID) == 0 || strings.ContainsAny(text, "\r\n") {
		return nil, "", bad
	}
	raw, err := encoding.DecodeString(right)
	if err != nil || !Serial(raw).Valid() {
		return nil, "", bad
	}
	return keyID, Serial(raw), nil
}

// serialOf returns the serial of a certificate, octet for octet.
func serialOf(cert *x509.Certificate) (Serial, error) {
	var tbs, serial cryptobyte.String
	in := cryptobyte.String(cert.RawTBSCertificate)
	if !in.ReadASN1(&tbs, cbasn1.SEQUENCE) || !tbs.SkipOptionalASN1(contextTag(0)) || !tbs.ReadASN1(&serial, cbasn1.INTEGER) {
		return "", errors.New("read serial: not a DER certificate")
	}
	return Serial(serial), nil
}

// shortLived is the lifetime under which renewal is due at half of life
// instead of two thirds: with days left instead of weeks, an outage must be
// survivable in the same proportion.
const shortLived = 10 * 24 * time.Hour

// RenewalWindow returns when a certificate should be renewed if nothing
// happens: from two thirds of its life on (half of it under ten days), for one
// hour per day of life (a 24th), so that a fleet which was issued in one go
// spreads out, and a late client still has most of the last third left. Times
// are UTC in whole seconds, and end is always after start.
func RenewalWindow(notBefore, notAfter time.Time) (start, end time.Time) {
	life := notAfter.Sub(notBefore) + time.Second // notAfter is inclusive
	due := life / 3 * 2
	if life < shortLived {
		due = life / 2
	}
	width := max(life/24, time.Second)
	start = notBefore.UTC().Add(due).Truncate(time.Second)
	return start, start.Add(width.Truncate(time.Second))
}
