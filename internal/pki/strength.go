package pki

import (
	"strconv"
	"strings"
)

// Strength is how hard a kind of key is to break.
type Strength struct {
	// Known is false for kinds of keys that nothing is known of; the other
	// fields are then zero.
	Known bool
	// Classical is the strength against today's computers in bits (NIST SP
	// 800-57 part 1, table 2; FIPS 204 for ML-DSA).
	Classical int
	// Quantum is the category that NIST gave it in its process for
	// post-quantum algorithms, 1 to 5; 0 = a quantum computer breaks it.
	Quantum int
}

// weakBelow is the strength, in bits, below which NIST disallows a key (SP
// 800-131A).
const weakBelow = 112

// Weak reports whether a key of this strength must not be used any more.
func (s Strength) Weak() bool { return s.Known && s.Classical < weakBelow }

// StrengthOf returns the strength of a key by its KeyDescription.
func StrengthOf(key string) Strength {
	switch KeyType(key) {
	case MLDSA44:
		return Strength{true, 128, 2}
	case MLDSA65:
		return Strength{true, 192, 3}
	case MLDSA87:
		return Strength{true, 256, 5}
	case Ed25519:
		return Strength{true, 128, 0}
	}
	if bits, ok := keyBitsOf(key, "rsa"); ok {
		return Strength{true, rsaStrength(bits), 0}
	}
	if bits, ok := keyBitsOf(key, "p"); ok { // a curve takes the square root of its order
		return Strength{true, min(bits/2, 256), 0}
	}
	return Strength{}
}

// keyBitsOf reads the number behind a prefix.
func keyBitsOf(key, prefix string) (int, bool) {
	text, ok := strings.CutPrefix(key, prefix)
	bits, err := strconv.Atoi(text)
	return bits, ok && err == nil && bits > 0
}

// rsaStrength is the row of the table that a modulus reaches.
func rsaStrength(bits int) int {
	for _, row := range [][2]int{{15360, 256}, {7680, 192}, {3072, 128}, {2048, 112}, {1024, 80}} {
		if bits >= row[0] {
			return row[1]
		}
	}
	return 0
}
