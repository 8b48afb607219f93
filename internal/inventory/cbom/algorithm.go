package cbom

import (
	"strconv"
	"strings"

	"chancery/internal/pki"
)

// algorithmOf is an algorithm as a component shows it.
type algorithmOf struct {
	name      string // "" = unknown
	oid       string
	parameter string
	curve     string
	strength  pki.Strength
}

// curves by the size in the name of the key, with the names that CycloneDX
// knows them by.
var curves = map[string][2]string{
	"p224": {"secp224r1", "1.3.132.0.33"}, "p256": {"secp256r1", "1.2.840.10045.3.1.7"}, "p384": {"secp384r1", "1.3.132.0.34"}, "p521": {"secp521r1", "1.3.132.0.35"},
}

// mldsa are the object identifiers of FIPS 204 (RFC 9881 section 2).
var mldsa = map[string]string{"ml-dsa-44": "2.16.840.1.101.3.4.3.17", "ml-dsa-65": "2.16.840.1.101.3.4.3.18", "ml-dsa-87": "2.16.840.1.101.3.4.3.19"}

// keyAlgorithm describes a kind of key (pki.KeyDescription).
func keyAlgorithm(key string) algorithmOf {
	a := algorithmOf{name: key, strength: pki.StrengthOf(key)}
	switch {
	case strings.HasPrefix(key, "rsa"):
		a.name, a.oid, a.parameter = "RSA-"+key[3:], "1.2.840.113549.1.1.1", key[3:]
	case curves[key][0] != "":
		a.name, a.curve, a.oid, a.parameter = "EC-P"+key[1:], curves[key][0], curves[key][1], key[1:]
	case key == string(pki.Ed25519):
		a.name, a.curve, a.oid = "Ed25519", "Ed25519", "1.3.101.112"
	case mldsa[key] != "":
		a.name, a.oid, a.parameter = strings.ToUpper(key), mldsa[key], key[len("ml-dsa-"):]
	case key == "":
		a.name = "unknown"
	}
	return a
}

// signatures are the object identifiers of crypto/x509's names.
var signatures = map[string]string{
	"MD5-RSA": "1.2.840.113549.1.1.4", "SHA1-RSA": "1.2.840.113549.1.1.5", "SHA256-RSA": "1.2.840.113549.1.1.11", "SHA384-RSA": "1.2.840.113549.1.1.12", "SHA512-RSA": "1.2.840.113549.1.1.13",
	"SHA256-RSAPSS": "1.2.840.113549.1.1.10", "SHA384-RSAPSS": "1.2.840.113549.1.1.10", "SHA512-RSAPSS": "1.2.840.113549.1.1.10",
	"ECDSA-SHA1": "1.2.840.10045.4.1", "ECDSA-SHA256": "1.2.840.10045.4.3.2", "ECDSA-SHA384": "1.2.840.10045.4.3.3", "ECDSA-SHA512": "1.2.840.10045.4.3.4",
	"Ed25519": "1.3.101.112", "ML-DSA-44": mldsa["ml-dsa-44"], "ML-DSA-65": mldsa["ml-dsa-65"], "ML-DSA-87": mldsa["ml-dsa-87"],
}

// signatureOf describes how a certificate is signed. The strength is that of
// the issuer's key, which a name such as SHA256-RSA does not say, unless the
// name is that of a kind of key.
func signatureOf(name string) algorithmOf {
	if key := strings.ToLower(name); pki.KeyType(key).Valid() {
		return keyAlgorithm(key)
	}
	return algorithmOf{name: name, oid: signatures[name]}
}

// sizeOf is the size of a key in bits, 0 when its name does not say.
func sizeOf(key string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(strings.TrimPrefix(key, "rsa"), "p"))
	if err != nil {
		return 0
	}
	return n
}

func (a algorithmOf) component(ref string) component {
	v := &algorithm{Primitive: "signature", Parameter: a.parameter, Curve: a.curve, Functions: []string{"sign", "verify"}}
	if a.strength.Known {
		v.Classical, v.Quantum = a.strength.Classical, new(a.strength.Quantum)
	} else if a.name == "unknown" {
		v.Primitive, v.Functions = "unknown", nil
	} else {
		v.Quantum = new(0) // every signature that is listed by its hash is classical
	}
	return component{Ref: ref, Name: a.name, Crypto: properties{Kind: "algorithm", Algorithm: v, OID: a.oid}}
}
