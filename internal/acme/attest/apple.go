package attest

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"

	"chancery/internal/pki"
)

// Extensions of the leaf that Apple's attestation servers issue.
var (
	oidAppleSerial = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 8, 9, 1}
	oidAppleUDID   = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 8, 9, 2}
	oidAppleNonce  = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 8, 11, 1}
)

// apple verifies Managed Device Attestation. Apple's servers attest before the
// account's key is known to them: the nonce is the hash of the token alone
// (draft section 5 lets such formats be). Devices that can do better send the
// hash of the key authorization, which counts, too.
func (r *Result) apple(chain []*x509.Certificate, c Challenge) error {
	leaf := chain[0]
	nonce := contents(extension(leaf, oidAppleNonce))
	byToken, byKey := sha256.Sum256([]byte(c.Token)), sha256.Sum256([]byte(c.KeyAuthorization))
	if !same(nonce, byToken[:]) && !same(nonce, byKey[:]) {
		return bad("its nonce is not the SHA-256 of the challenge's token")
	}
	r.Key = pki.SPKIHash(leaf.RawSubjectPublicKeyInfo)
	for _, oid := range []asn1.ObjectIdentifier{oidAppleSerial, oidAppleUDID} {
		r.permanent(string(contents(extension(leaf, oid))))
	}
	return nil
}

// contents returns an extension's value, without the header of a string type
// if it is one whole: Apple writes some values bare.
func contents(value []byte) []byte {
	var raw asn1.RawValue
	rest, err := asn1.Unmarshal(value, &raw)
	if err == nil && len(rest) == 0 && raw.Class == asn1.ClassUniversal && !raw.IsCompound &&
		(raw.Tag == asn1.TagOctetString || raw.Tag == asn1.TagUTF8String || raw.Tag == asn1.TagPrintableString || raw.Tag == asn1.TagIA5String) {
		return raw.Bytes
	}
	return value
}
