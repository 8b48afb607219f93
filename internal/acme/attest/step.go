package attest

import (
	"crypto/x509"
	"encoding/asn1"
	"strconv"

	"chancery/internal/pki"
)

// Extensions by which the leaf of the step format names its device.
var (
	oidYubicoSerial = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3, 7}
	oidStepDevice   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 37476, 9000, 64, 4}
)

// step verifies the format of step-ca's clients: a certificate that the
// hardware made for the key, and a signature by this key over the key
// authorization. The signature is CBOR inside of CBOR.
func (r *Result) step(s *statement, chain []*x509.Certificate, c Challenge) error {
	leaf := chain[0]
	var sig []byte
	if err := decoding.Unmarshal(s.Sig, &sig); err != nil {
		return bad("sig is not a CBOR byte string in a byte string")
	}
	if err := verify(leaf.PublicKey, []byte(c.KeyAuthorization), sig, nil); err != nil {
		return err
	}
	r.Key = pki.SPKIHash(leaf.RawSubjectPublicKeyInfo)
	if der := extension(leaf, oidYubicoSerial); der != nil {
		var n int64
		if rest, err := asn1.Unmarshal(der, &n); err != nil || len(rest) > 0 || n < 0 {
			return bad("the serial number of its YubiKey is not an INTEGER")
		}
		r.permanent(strconv.FormatInt(n, 10))
	}
	if der := extension(leaf, oidStepDevice); der != nil {
		var d struct{ ID string }
		if rest, err := asn1.Unmarshal(der, &d); err != nil || len(rest) > 0 {
			return bad("its device extension cannot be read")
		}
		r.permanent(d.ID)
	}
	return nil
}
