package attest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	_ "crypto/sha256" // registers the hashes that signatures may use
	_ "crypto/sha512"
)

// algorithm is a COSE signature algorithm (RFC 9053).
type algorithm struct {
	hash crypto.Hash
	rsa  bool
	pss  bool
}

// algorithms are those that may be used. RS1, which some TPMs still offer, is
// not among them: nobody may rely on SHA-1.
var algorithms = map[int64]algorithm{
	-7: {hash: crypto.SHA256}, -35: {hash: crypto.SHA384}, -36: {hash: crypto.SHA512},
	-257: {hash: crypto.SHA256, rsa: true}, -258: {hash: crypto.SHA384, rsa: true}, -259: {hash: crypto.SHA512, rsa: true},
	-37: {hash: crypto.SHA256, rsa: true, pss: true}, -38: {hash: crypto.SHA384, rsa: true, pss: true}, -39: {hash: crypto.SHA512, rsa: true, pss: true},
}

// minRSA is the shortest RSA key that may attest, in bits.
const minRSA = 2048

// verify checks a signature over text. alg nil stands for the one that goes
// with the key: SHA-256, and PKCS #1 v1.5 for RSA.
func verify(key crypto.PublicKey, text, sig []byte, alg *algorithm) error {
	if alg == nil {
		_, isRSA := key.(*rsa.PublicKey)
		alg = &algorithm{hash: crypto.SHA256, rsa: isRSA}
	}
	h := alg.hash.New()
	h.Write(text)
	sum, ok := h.Sum(nil), false
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		ok = !alg.rsa && ecdsa.VerifyASN1(k, sum, sig)
	case *rsa.PublicKey:
		switch {
		case !alg.rsa || k.N.BitLen() < minRSA:
		case alg.pss:
			ok = rsa.VerifyPSS(k, alg.hash, sum, sig, nil) == nil
		default:
			ok = rsa.VerifyPKCS1v15(k, alg.hash, sum, sig) == nil
		}
	case ed25519.PublicKey:
		ok = !alg.rsa && len(k) == ed25519.PublicKeySize && ed25519.Verify(k, text, sig)
	}
	if !ok {
		return bad("its signature is not one of its certificate's key over the key authorization")
	}
	return nil
}
