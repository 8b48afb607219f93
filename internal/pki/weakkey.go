package pki

import (
	"bufio"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha1" // the published lists of Debian's weak keys are SHA-1 fingerprints
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"strings"
	"sync"

	"chancery/internal/fault"
)

// CheckKey refuses public keys that no one should certify or accept as an
// account key: kinds and sizes outside KeyTypes, points off their curve, RSA
// exponents other than odd numbers from 65537 to 2^32-1, and RSA moduli that
// are known to factor easily: with a small prime factor, with two factors
// close to each other (Fermat), or made by the Infineon library of
// CVE-2017-15361 (ROCA). Keys that leaked are a matter of block lists (see
// WeakKeys and SPKIHash). The error is a *fault.Error (badPublicKey).
func CheckKey(pub crypto.PublicKey) error {
	if _, err := KeyTypeOf(pub); err != nil {
		return err
	}
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		if _, err := pub.ECDH(); err != nil { // checks that the point is on the curve, and not at infinity
			return fault.Wrap(err, fault.BadPublicKey, "the ECDSA public key is not a point on its curve")
		}
	case *rsa.PublicKey:
		return checkRSA(pub)
	}
	return nil
}

// Bounds of the public exponent (Baseline Requirements section 6.1.6, and
// what other software can handle).
const (
	minExponent = 1<<16 + 1
	maxExponent = 1<<32 - 1
)

func checkRSA(pub *rsa.PublicKey) error {
	switch {
	case pub.E < minExponent || pub.E > maxExponent || pub.E%2 == 0:
		return fault.New(fault.BadPublicKey, "the RSA public exponent must be odd and from 65537 to 2^32-1")
	case hasSmallFactor(pub.N):
		return fault.New(fault.BadPublicKey, "the RSA modulus has a small prime factor; make a new key")
	case isROCA(pub.N):
		return fault.New(fault.BadPublicKey, "the RSA key was made by a device with the ROCA weakness (CVE-2017-15361); make a new key elsewhere")
	case hasCloseFactors(pub.N, fermatRounds):
		return fault.New(fault.BadPublicKey, "the RSA modulus can be factored (its primes are too close, CVE-2022-26320); make a new key")
	}
	return nil
}

// fermatRounds is how many steps of Fermat's method are tried; 100 suffice
// for every weak generator known, the Baseline Requirements ask for 100.
const fermatRounds = 110

// smallPrimeLimit bounds trial division (Baseline Requirements section 6.1.6
// asks for no factors smaller than 752).
const smallPrimeLimit = 752

// smallPrimes is the product of all primes below smallPrimeLimit.
var smallPrimes = sync.OnceValue(func() *big.Int {
	product := big.NewInt(1)
	for p := int64(2); p < smallPrimeLimit; p++ {
		if big.NewInt(p).ProbablyPrime(0) {
			product.Mul(product, big.NewInt(p))
		}
	}
	return product
})

func hasSmallFactor(n *big.Int) bool {
	return new(big.Int).GCD(nil, nil, n, smallPrimes()).Cmp(big.NewInt(1)) != 0
}

// hasCloseFactors runs Fermat's factorisation: n = a^2 - b^2 = (a-b)(a+b) for
// a from the square root of n upwards.
func hasCloseFactors(n *big.Int, rounds int) bool {
	one := big.NewInt(1)
	a := new(big.Int).Sqrt(n)
	b2 := new(big.Int).Mul(a, a)
	if b2.Cmp(n) < 0 {
		a.Add(a, one)
		b2.Mul(a, a)
	}
	b2.Sub(b2, n)
	step := new(big.Int).Lsh(a, 1) // (a+1)^2 = a^2 + 2a + 1
	step.Add(step, one)
	two := big.NewInt(2)
	for range rounds {
		if isSquare(b2) {
			return true
		}
		b2.Add(b2, step)
		step.Add(step, two)
	}
	return false
}

// isSquare reports whether n >= 0 is a perfect square. The last bits rule out
// most numbers: a square is 4^k times an odd number that is 1 modulo 8.
func isSquare(n *big.Int) bool {
	zeros := n.TrailingZeroBits()
	if n.Sign() == 0 {
		return true
	}
	if zeros%2 == 1 || n.Bit(int(zeros)+1) != 0 || n.Bit(int(zeros)+2) != 0 {
		return false
	}
	root := new(big.Int).Sqrt(n)
	return root.Mul(root, root).Cmp(n) == 0
}

// rocaPrime is one small prime and which residues the weak moduli have.
type rocaPrime struct {
	p       uint64
	residue []bool
}

// rocaTable: the primes of the weak library are k*M + (65537^a mod M) with M
// the product of the first primes. So modulo each of those primes the modulus
// is a power of 65537, which a random number is for all of them with a
// probability of about 2^-27 (Nemec et al., CCS 2017, section 3.3).
var rocaTable = sync.OnceValue(func() []rocaPrime {
	var table []rocaPrime
	for p := uint64(3); p <= 167; p++ {
		if !new(big.Int).SetUint64(p).ProbablyPrime(0) {
			continue
		}
		residue := make([]bool, p)
		for x := uint64(1); !residue[x]; x = x * 65537 % p {
			residue[x] = true
		}
		table = append(table, rocaPrime{p, residue})
	}
	return table
})

func isROCA(n *big.Int) bool {
	var p, r big.Int
	for _, prime := range rocaTable() {
		r.Mod(n, p.SetUint64(prime.p))
		if !prime.residue[r.Uint64()] {
			return false
		}
	}
	return true
}

// WeakKeys is a set of RSA keys known to be weak, in the form of Debian's
// openssl-blacklist package (CVE-2008-0166): the last 10 octets of the SHA-1
// of "Modulus=" + upper-case hexadecimal + "\n".
type WeakKeys map[[10]byte]struct{}

// ParseWeakKeys reads a file of that package: one key of 20 hexadecimal digits
// a line; empty lines and lines that begin with "#" are skipped.
func ParseWeakKeys(r io.Reader) (WeakKeys, error) {
	keys := make(WeakKeys)
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		var key [10]byte
		if len(line) != hex.EncodedLen(len(key)) {
			return nil, fmt.Errorf("read weak keys: line %d has %d characters, want %d", n, len(line), hex.EncodedLen(len(key)))
		}
		if _, err := hex.Decode(key[:], []byte(line)); err != nil {
			return nil, fmt.Errorf("read weak keys: line %d: %w", n, err)
		}
		keys[key] = struct{}{}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read weak keys: %w", err)
	}
	return keys, nil
}

// Contains reports whether pub is in the set. Keys other than RSA never are.
func (w WeakKeys) Contains(pub crypto.PublicKey) bool {
	key, ok := pub.(*rsa.PublicKey)
	if !ok || len(w) == 0 {
		return false
	}
	sum := sha1.Sum(fmt.Appendf(nil, "Modulus=%X\n", key.N))
	_, found := w[[10]byte(sum[10:])]
	return found
}
