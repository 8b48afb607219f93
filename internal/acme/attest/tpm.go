package attest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"chancery/internal/pki"
)

// Constants of the TPM 2.0 library specification, part 2.
const (
	tpmGenerated     = 0xff544347 // TPM_GENERATED_VALUE
	tpmAttestCertify = 0x8017     // TPM_ST_ATTEST_CERTIFY
	tpmAlgRSA        = 0x0001
	tpmAlgNull       = 0x0010
	tpmAlgRSASSA     = 0x0014
	tpmAlgRSAES      = 0x0015
	tpmAlgRSAPSS     = 0x0016
	tpmAlgOAEP       = 0x0017
	tpmAlgECDSA      = 0x0018
	tpmAlgECDAA      = 0x001a
	tpmAlgECC        = 0x0023
)

// tpmHashes are the hashes that may name a key or be signed.
var tpmHashes = map[uint16]crypto.Hash{0x000b: crypto.SHA256, 0x000c: crypto.SHA384, 0x000d: crypto.SHA512}

// Attributes of a key (TPMA_OBJECT).
const (
	attrFixedTPM    = 1 << 1  // it cannot leave its TPM
	attrFixedParent = 1 << 4  // nor be copied below another key
	attrOwnOrigin   = 1 << 5  // the TPM made it
	attrRestricted  = 1 << 16 // signs only what the TPM made
	attrSign        = 1 << 18
)

// tpm verifies the format of WebAuthn section 8.3, with the key authorization
// in place of what a browser signs: the attestation key, which the chain
// vouches for, certifies that the key of pubArea lives in its TPM.
func (r *Result) tpm(s *statement, chain []*x509.Certificate, c Challenge) error {
	alg, ok := algorithms[s.Alg]
	switch {
	case s.Version != "2.0":
		return bad("ver is not \"2.0\"")
	case !ok:
		return bad("the algorithm %d is not accepted", s.Alg)
	}
	if err := attestationKey(chain[0]); err != nil {
		return err
	}
	info, ok := parseCertInfo(s.CertInfo)
	if !ok {
		return bad("certInfo is not a TPMS_ATTEST of a certified key")
	}
	h := alg.hash.New()
	h.Write([]byte(c.KeyAuthorization))
	if !same(info.extraData, h.Sum(nil)) {
		return bad("extraData of certInfo is not the hash of the key authorization")
	}
	sig, err := tpmSignature(s.Sig, alg)
	if err != nil {
		return err
	}
	if err := verify(chain[0].PublicKey, s.CertInfo, sig, &alg); err != nil {
		return bad("sig is not a signature of the attestation key over certInfo")
	}
	pub, ok := parsePubArea(s.PubArea)
	if !ok {
		return bad("pubArea is not a TPMT_PUBLIC of an RSA, P-256, P-384 or P-521 key")
	}
	if !same(info.name, pub.name(s.PubArea)) {
		return bad("certInfo certifies another key than pubArea")
	}
	const must = attrFixedTPM | attrFixedParent | attrOwnOrigin | attrSign
	if pub.attributes&must != must || pub.attributes&attrRestricted != 0 {
		return bad("the key of pubArea was not made in the TPM, or can leave it, or is not for signing requests")
	}
	spki, err := x509.MarshalPKIXPublicKey(pub.key)
	if err != nil {
		return bad("pubArea has a key that cannot be certified")
	}
	r.Key = pki.SPKIHash(spki)
	if r.Names, err = pki.DeviceNames(extension(chain[0], oidSAN)); err != nil {
		return bad("the subjectAltName of the attestation key cannot be read")
	}
	return nil
}

// oidAIK is tcg-kp-AIKCertificate.
var oidAIK = asn1.ObjectIdentifier{2, 23, 133, 8, 3}

// attestationKey checks the requirements of WebAuthn section 8.3.1.
func attestationKey(c *x509.Certificate) error {
	purpose := false
	for _, oid := range c.UnknownExtKeyUsage {
		purpose = purpose || oid.Equal(oidAIK)
	}
	switch {
	case c.Version != 3:
		return bad("the attestation key's certificate is not of version 3")
	case len(c.Subject.Names) > 0:
		return bad("the subject of the attestation key's certificate is not empty")
	case !purpose:
		return bad("the attestation key's certificate lacks the purpose tcg-kp-AIKCertificate (2.23.133.8.3)")
	case !c.BasicConstraintsValid || c.IsCA:
		return bad("the attestation key's certificate must say that it is no CA")
	case !namesTPM(extension(c, oidSAN)):
		return bad("the attestation key's certificate does not name manufacturer, model and version of the TPM")
	}
	return nil
}

// Contents of the attribute types tpmManufacturer, tpmModel and tpmVersion.
var tpmAttributes = []string{"\x67\x81\x05\x02\x01", "\x67\x81\x05\x02\x02", "\x67\x81\x05\x02\x03"}

// namesTPM reports whether a subjectAltName has a directoryName with the three
// attributes of a TPM (TPM EK profile section 3.2.9).
func namesTPM(san []byte) bool {
	s := cryptobyte.String(san)
	var names cryptobyte.String
	if !s.ReadASN1(&names, cbasn1.SEQUENCE) {
		return false
	}
	found := map[string]bool{}
	for !names.Empty() {
		var name, rdns cryptobyte.String
		var tag cbasn1.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			return false
		}
		if tag != cbasn1.Tag(4).Constructed().ContextSpecific() {
			continue
		}
		if !name.ReadASN1(&rdns, cbasn1.SEQUENCE) || !attributesOf(rdns, found) {
			return false
		}
	}
	for _, oid := range tpmAttributes {
		if !found[oid] {
			return false
		}
	}
	return true
}

// attributesOf notes the types of the attributes in an RDNSequence that have a
// value.
func attributesOf(rdns cryptobyte.String, found map[string]bool) bool {
	for !rdns.Empty() {
		var set cryptobyte.String
		if !rdns.ReadASN1(&set, cbasn1.SET) {
			return false
		}
		for !set.Empty() {
			var pair, oid, value cryptobyte.String
			var tag cbasn1.Tag
			if !set.ReadASN1(&pair, cbasn1.SEQUENCE) || !pair.ReadASN1(&oid, cbasn1.OBJECT_IDENTIFIER) || !pair.ReadAnyASN1(&value, &tag) {
				return false
			}
			found[string(oid)] = len(value) > 0
		}
	}
	return true
}

// certInfo is what matters of a TPMS_ATTEST.
type certInfo struct{ extraData, name []byte }

// read2B reads a TPM2B: a length of 16 bits, and as many octets.
func read2B(s *cryptobyte.String, out *[]byte) bool {
	return s.ReadUint16LengthPrefixed((*cryptobyte.String)(out))
}

// parseCertInfo reads a TPMS_ATTEST of type TPM_ST_ATTEST_CERTIFY, whole.
func parseCertInfo(b []byte) (info certInfo, ok bool) {
	s := cryptobyte.String(b)
	var magic uint32
	var typ uint16
	var signer, qualified []byte
	const clocks = 8 + 4 + 4 + 1 + 8 // clockInfo and firmwareVersion
	ok = s.ReadUint32(&magic) && magic == tpmGenerated && s.ReadUint16(&typ) && typ == tpmAttestCertify &&
		read2B(&s, &signer) && read2B(&s, &info.extraData) && s.Skip(clocks) &&
		read2B(&s, &info.name) && read2B(&s, &qualified) && s.Empty()
	return info, ok
}

// pubArea is what matters of a TPMT_PUBLIC.
type pubArea struct {
	nameAlg    uint16
	attributes uint32
	key        crypto.PublicKey
}

// name returns the Name of the key: its hash algorithm and its hash.
func (p *pubArea) name(area []byte) []byte {
	h := tpmHashes[p.nameAlg].New()
	h.Write(area)
	return h.Sum([]byte{byte(p.nameAlg >> 8), byte(p.nameAlg)})
}

// parsePubArea reads a TPMT_PUBLIC of a key that can be certified, whole.
func parsePubArea(b []byte) (p pubArea, ok bool) {
	s := cryptobyte.String(b)
	var typ uint16
	var policy []byte
	if !s.ReadUint16(&typ) || !s.ReadUint16(&p.nameAlg) || !s.ReadUint32(&p.attributes) || !read2B(&s, &policy) || tpmHashes[p.nameAlg] == 0 {
		return p, false
	}
	if !skipSymmetric(&s) || !skipScheme(&s) {
		return p, false
	}
	switch typ {
	case tpmAlgRSA:
		p.key, ok = readRSA(&s)
	case tpmAlgECC:
		p.key, ok = readECC(&s)
	}
	return p, ok && s.Empty()
}

// skipSymmetric skips a TPMT_SYM_DEF_OBJECT.
func skipSymmetric(s *cryptobyte.String) bool {
	var alg uint16
	return s.ReadUint16(&alg) && (alg == tpmAlgNull || s.Skip(4))
}

// skipScheme skips a TPMT_RSA_SCHEME, TPMT_ECC_SCHEME or TPMT_KDF_SCHEME.
func skipScheme(s *cryptobyte.String) bool {
	var alg uint16
	if !s.ReadUint16(&alg) {
		return false
	}
	switch alg {
	case tpmAlgNull, tpmAlgRSAES:
		return true
	case tpmAlgECDAA:
		return s.Skip(4)
	}
	return s.Skip(2)
}

func readRSA(s *cryptobyte.String) (crypto.PublicKey, bool) {
	var bits uint16
	var exponent uint32
	var n []byte
	if !s.ReadUint16(&bits) || !s.ReadUint32(&exponent) || !read2B(s, &n) {
		return nil, false
	}
	if exponent == 0 {
		exponent = 65537 // what 0 stands for
	}
	k := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent)}
	return k, k.N.BitLen() == int(bits) && bits >= minRSA && exponent <= 1<<31-1
}

// tpmCurves are the curves of keys that can be certified.
var tpmCurves = map[uint16]elliptic.Curve{0x0003: elliptic.P256(), 0x0004: elliptic.P384(), 0x0005: elliptic.P521()}

func readECC(s *cryptobyte.String) (crypto.PublicKey, bool) {
	var id uint16
	var x, y []byte
	if !s.ReadUint16(&id) || !skipScheme(s) || !read2B(s, &x) || !read2B(s, &y) || tpmCurves[id] == nil {
		return nil, false
	}
	curve := tpmCurves[id]
	size := (curve.Params().BitSize + 7) / 8
	if len(x) > size || len(y) > size {
		return nil, false
	}
	point := make([]byte, 1+2*size)
	point[0] = 4
	copy(point[1+size-len(x):], x)
	copy(point[1+2*size-len(y):], y)
	k, err := ecdsa.ParseUncompressedPublicKey(curve, point) // it must be on the curve
	return k, err == nil
}

// tpmSignature reads a TPMT_SIGNATURE that agrees with alg, and returns the
// signature as package crypto takes it.
func tpmSignature(b []byte, alg algorithm) ([]byte, error) {
	s := cryptobyte.String(b)
	var kind, hash uint16
	if !s.ReadUint16(&kind) || !s.ReadUint16(&hash) || tpmHashes[hash] != alg.hash {
		return nil, bad("sig is not a TPMT_SIGNATURE of the algorithm that alg names")
	}
	var first, second []byte
	switch {
	case alg.rsa && !alg.pss && kind == tpmAlgRSASSA, alg.rsa && alg.pss && kind == tpmAlgRSAPSS:
		if read2B(&s, &first) && s.Empty() {
			return first, nil
		}
	case !alg.rsa && kind == tpmAlgECDSA:
		if read2B(&s, &first) && read2B(&s, &second) && s.Empty() {
			der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(first), new(big.Int).SetBytes(second)})
			if err == nil {
				return der, nil
			}
		}
	}
	return nil, bad("sig is not a TPMT_SIGNATURE of the algorithm that alg names")
}
