package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"math/big"
	"os/exec"
	"strings"
	"testing"

	"chancery/internal/fault"
)

func TestCheckKeyAccepts(t *testing.T) {
	for _, kt := range KeyTypes {
		if err := CheckKey(testKey(t, kt).Public()); err != nil {
			t.Errorf("%s: %v", kt, err)
		}
	}
}

// prime returns a random prime of the given size whose two top bits are set,
// so that a product of two has full size.
func prime(t *testing.T, bits int) *big.Int {
	t.Helper()
	p, err := rand.Prime(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// nextPrime returns the first prime from n on.
func nextPrime(n *big.Int) *big.Int {
	p := new(big.Int).SetBit(n, 0, 1)
	for !p.ProbablyPrime(20) {
		p.Add(p, big.NewInt(2))
	}
	return p
}

func product(p, q *big.Int) *rsa.PublicKey {
	return &rsa.PublicKey{N: new(big.Int).Mul(p, q), E: 65537}
}

// rocaPrimeOf makes a prime of 1024 bits the way the weak library did:
// k*M + (65537^a mod M), with M the product of the first 126 primes.
func makeROCAPrime(t *testing.T) *big.Int {
	t.Helper()
	m := big.NewInt(1)
	for p, count := int64(2), 0; count < 126; p++ {
		if big.NewInt(p).ProbablyPrime(0) {
			m.Mul(m, big.NewInt(p))
			count++
		}
	}
	base := new(big.Int).Lsh(big.NewInt(3), 1022)
	for {
		a, err := rand.Int(rand.Reader, m)
		if err != nil {
			t.Fatal(err)
		}
		p := new(big.Int).Exp(big.NewInt(65537), a, m)
		k, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 1021-uint(m.BitLen())))
		if err != nil {
			t.Fatal(err)
		}
		k.Add(k, new(big.Int).Div(base, m))
		k.Add(k, big.NewInt(1))
		p.Add(p, k.Mul(k, m))
		if p.BitLen() == 1024 && p.ProbablyPrime(10) {
			return p
		}
	}
}

func TestCheckKeyRefuses(t *testing.T) {
	good := testKey(t, RSA2048).Public().(*rsa.PublicKey)
	withE := func(e int) *rsa.PublicKey { return &rsa.PublicKey{N: good.N, E: e} }
	p := prime(t, 1024)
	near := nextPrime(new(big.Int).Add(p, new(big.Int).Lsh(big.NewInt(1), 500)))
	p256 := testKey(t, P256).Public().(*ecdsa.PublicKey)
	small := new(big.Int).Div(new(big.Int).Lsh(big.NewInt(3), 2046), big.NewInt(751))
	for _, c := range []struct {
		name string
		key  crypto.PublicKey
		text string
	}{
		{"exponent 3", withE(3), "exponent"},
		{"exponent 65536", withE(65536), "exponent"},
		{"exponent 2^32+1", withE(1<<32 + 1), "exponent"},
		{"1024 bits", product(prime(t, 512), prime(t, 512)), "not accepted"},
		{"2056 bits", product(prime(t, 1028), prime(t, 1028)), "not accepted"},
		{"even modulus", &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 2047), E: 65537}, "small prime"},
		{"factor 751", product(nextPrime(small), big.NewInt(751)), "small prime"},
		{"close primes", product(p, near), "too close"},
		{"square", product(p, p), "too close"},
		{"ROCA", product(makeROCAPrime(t), makeROCAPrime(t)), "ROCA"},
		{"off the curve", &ecdsa.PublicKey{Curve: elliptic.P256(), X: p256.X, Y: new(big.Int).Add(p256.Y, big.NewInt(1))}, "not a point"},
		{"P-224", &ecdsa.PublicKey{Curve: elliptic.P224(), X: big.NewInt(1), Y: big.NewInt(1)}, "p224"},
		{"a string", "key", "unknown"},
		{"nothing", nil, "unknown"},
	} {
		err := CheckKey(c.key)
		if !fault.Is(err, fault.BadPublicKey) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: got %v, want badPublicKey with %q", c.name, err, c.text)
		}
	}
}

func TestFermatRounds(t *testing.T) {
	// 5959 = 59 * 101: a = 78, 79, 80 and 80^2 - 5959 = 441 = 21^2.
	n := big.NewInt(5959)
	if hasCloseFactors(n, 2) || !hasCloseFactors(n, 3) {
		t.Error("5959 must fall in the third round")
	}
}

func TestIsSquare(t *testing.T) {
	squares := make(map[int64]bool)
	for i := range int64(100) {
		squares[i*i] = true
	}
	for n := range int64(9801) {
		if isSquare(big.NewInt(n)) != squares[n] {
			t.Errorf("%d: square is %v", n, !squares[n])
		}
	}
}

func TestWeakKeys(t *testing.T) {
	weak := testKey(t, RSA2048).Public().(*rsa.PublicKey)
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("SKIPPED: the openssl binary is not installed; apt-get install openssl")
	}
	// The file format is defined by this pipeline (openssl-vulnkey).
	key := writeFile(t, "key.der", testSPKI(t, weak))
	out, err := exec.Command("sh", "-c", path+" rsa -pubin -inform DER -in "+key+" -noout -modulus | sha1sum | cut -c21-40").Output()
	if err != nil {
		t.Fatal(err)
	}
	set, err := ParseWeakKeys(strings.NewReader("# comment\n\n" + string(out)))
	if err != nil {
		t.Fatal(err)
	}
	if !set.Contains(weak) {
		t.Errorf("the key of %q is not found", out)
	}
	if set.Contains(testKey(t, RSA3072).Public()) || set.Contains(testKey(t, P256).Public()) || WeakKeys(nil).Contains(weak) {
		t.Error("another key is found")
	}
	for _, text := range []string{"xyz", strings.Repeat("g", 20), strings.Repeat("1", 1<<17)} {
		if set, err := ParseWeakKeys(strings.NewReader(text)); err == nil {
			t.Errorf("%.30q gave %d keys", text, len(set))
		}
	}
}

func BenchmarkCheckKey(b *testing.B) {
	for _, kt := range []KeyType{P256, RSA2048, RSA4096} {
		pub := testKey(b, kt).Public()
		b.Run(string(kt), func(b *testing.B) {
			for b.Loop() {
				if err := CheckKey(pub); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func FuzzParseWeakKeys(f *testing.F) {
	f.Add("# c\n0123456789abcdef0123\n")
	f.Fuzz(func(t *testing.T, text string) {
		set, err := ParseWeakKeys(strings.NewReader(text))
		if err != nil {
			return
		}
		var b strings.Builder
		for key := range set {
			fmt.Fprintf(&b, "%x\n", key)
		}
		if again, err := ParseWeakKeys(strings.NewReader(b.String())); err != nil || len(again) != len(set) {
			t.Fatalf("%d keys became %d, %v", len(set), len(again), err)
		}
	})
}
