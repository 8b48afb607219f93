package attest

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"slices"

	"chancery/internal/pki"
)

// oidAndroid is the key description that Android's key store writes.
var oidAndroid = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 1, 17}

// keyDescription is the extension (Android key attestation, schema of all
// versions).
type keyDescription struct {
	Version             int
	SecurityLevel       asn1.Enumerated
	KeyMintVersion      int
	KeyMintLevel        asn1.Enumerated
	Challenge, UniqueID []byte
	Software, Hardware  asn1.RawValue
}

// Tags of authorization lists.
const (
	tagPurpose         = 1
	tagAllApplications = 600
	tagOrigin          = 702
	tagSerial          = 713
	tagIMEI            = 714
	tagMEID            = 715
)

// Values in them.
const (
	purposeSign     = 2
	originGenerated = 0
)

// android verifies the format of WebAuthn section 8.4, with the key
// authorization in place of what a browser signs. Everything that counts must
// be enforced by hardware (a TEE or StrongBox), not by the system's software.
func (r *Result) android(s *statement, chain []*x509.Certificate, c Challenge) error {
	leaf := chain[0]
	alg, ok := algorithms[s.Alg]
	if !ok {
		return bad("the algorithm %d is not accepted", s.Alg)
	}
	if err := verify(leaf.PublicKey, []byte(c.KeyAuthorization), s.Sig, &alg); err != nil {
		return err
	}
	// A key that was attested could certify another one, with a description of
	// its own invention: nothing above the leaf may have one.
	for _, cert := range chain[1:] {
		if extension(cert, oidAndroid) != nil {
			return bad("a certificate above its leaf has a key description")
		}
	}
	var d keyDescription
	if rest, err := asn1.Unmarshal(extension(leaf, oidAndroid), &d); err != nil || len(rest) > 0 {
		return bad("its certificate has no key description that can be read")
	}
	sum := sha256.Sum256([]byte(c.KeyAuthorization))
	if !same(d.Challenge, sum[:]) && !same(d.Challenge, []byte(c.KeyAuthorization)) {
		return bad("its challenge is not the SHA-256 of the key authorization")
	}
	if d.SecurityLevel < 1 || d.KeyMintLevel < 1 {
		return bad("it was made by software; a trusted execution environment or StrongBox must")
	}
	software, err := authorizations(d.Software)
	if err != nil {
		return err
	}
	hardware, err := authorizations(d.Hardware)
	if err != nil {
		return err
	}
	if _, all := software[tagAllApplications]; all || hardware[tagAllApplications] != nil {
		return bad("its key is open to all applications")
	}
	if err := generatedToSign(hardware); err != nil {
		return err
	}
	r.Key = pki.SPKIHash(leaf.RawSubjectPublicKeyInfo)
	for _, tag := range []int{tagSerial, tagIMEI, tagMEID} {
		var id []byte
		if rest, err := asn1.Unmarshal(hardware[tag], &id); err == nil && len(rest) == 0 {
			r.permanent(string(id))
		}
	}
	return nil
}

// authorizations returns the elements of an AuthorizationList by tag, each
// without its explicit tag.
func authorizations(list asn1.RawValue) (map[int][]byte, error) {
	out := map[int][]byte{}
	if list.Class != asn1.ClassUniversal || list.Tag != asn1.TagSequence || !list.IsCompound {
		return nil, bad("an authorization list is not a SEQUENCE")
	}
	for rest := list.Bytes; len(rest) > 0; {
		var e asn1.RawValue
		var err error
		rest, err = asn1.Unmarshal(rest, &e)
		if _, twice := out[e.Tag]; err != nil || e.Class != asn1.ClassContextSpecific || !e.IsCompound || twice {
			return nil, bad("an authorization list cannot be read")
		}
		out[e.Tag] = e.Bytes
	}
	return out, nil
}

// generatedToSign checks that the hardware made the key, and for signing.
func generatedToSign(hardware map[int][]byte) error {
	var origin int
	if rest, err := asn1.Unmarshal(hardware[tagOrigin], &origin); err != nil || len(rest) > 0 || origin != originGenerated {
		return bad("its key was not made by the hardware")
	}
	var purposes []int
	if rest, err := asn1.UnmarshalWithParams(hardware[tagPurpose], &purposes, "set"); err != nil || len(rest) > 0 || !slices.Contains(purposes, purposeSign) {
		return bad("its key is not one to sign with")
	}
	return nil
}
