package pki

// KeyType names a kind of key pair as users write it in flags and config.
type KeyType string

// Key types for authorities and subjects.
const (
	P256    KeyType = "p256"
	P384    KeyType = "p384"
	RSA2048 KeyType = "rsa2048"
	RSA3072 KeyType = "rsa3072"
	RSA4096 KeyType = "rsa4096"
	Ed25519 KeyType = "ed25519"
	MLDSA44 KeyType = "ml-dsa-44"
	MLDSA65 KeyType = "ml-dsa-65"
	MLDSA87 KeyType = "ml-dsa-87"
)

// KeyTypes lists every key type, in the order shown to users.
var KeyTypes = []KeyType{P256, P384, RSA2048, RSA3072, RSA4096, Ed25519, MLDSA44, MLDSA65, MLDSA87}

// Valid reports whether t is a known key type.
func (t KeyType) Valid() bool {
	for _, k := range KeyTypes {
		if k == t {
			return true
		}
	}
	return false
}
