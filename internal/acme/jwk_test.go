package acme

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/acme"

	"chancery/internal/fault"
)

const (
	// The key of RFC 7638 section 3.1.
	rfc7638N = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
	// The key of RFC 8037 appendix A.2.
	rfc8037X = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
)

func TestThumbprintOfPublishedKeys(t *testing.T) {
	for _, tt := range []struct{ name, jwk, want string }{
		{"RFC 7638 section 3.1", `{"kty":"RSA","n":"` + rfc7638N + `","e":"AQAB","alg":"RS256","kid":"2011-04-29"}`, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"},
		{"RFC 8037 appendix A.3", `{"kty":"OKP","crv":"Ed25519","x":"` + rfc8037X + `"}`, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"},
	} {
		key, err := ParseJWK([]byte(tt.jwk))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if key.Thumbprint != tt.want {
			t.Errorf("%s: thumbprint %s, want %s", tt.name, key.Thumbprint, tt.want)
		}
	}
}

func TestThumbprintAgainstAnotherImplementation(t *testing.T) {
	for _, a := range []Algorithm{ES256, ES384, RS256} {
		key := newKey(t, a).Public()
		want, err := acme.JWKThumbprint(key)
		if err != nil {
			t.Fatal(err)
		}
		got, err := NewPublicKey(key)
		if err != nil || got.Thumbprint != want {
			t.Errorf("%s: thumbprint %v, %v; want %s", a, got, err, want)
		}
	}
}

func TestKeyAuthorization(t *testing.T) { // RFC 8555 section 8.1
	if got := KeyAuthorization("token", "thumb"); got != "token.thumb" {
		t.Errorf("got %q", got)
	}
}

func TestJWKRoundTrip(t *testing.T) {
	for _, a := range Algorithms() {
		private := newKey(t, a)
		key, err := NewPublicKey(private.Public())
		if err != nil {
			t.Fatalf("%s: %v", a, err)
		}
		again, err := ParseJWK(key.JWK())
		if err != nil {
			t.Fatalf("%s: %v", a, err)
		}
		if !again.Key.(interface{ Equal(crypto.PublicKey) bool }).Equal(private.Public()) || !again.Equal(key) || !again.Fits(a) {
			t.Errorf("%s: %s came back as another key", a, key.JWK())
		}
		// RFC 7638 section 3: members sorted, no white space. A map sorts them.
		var m map[string]string
		if err := json.Unmarshal(key.JWK(), &m); err != nil {
			t.Fatal(err)
		}
		if sorted, _ := json.Marshal(m); string(sorted) != string(key.JWK()) {
			t.Errorf("%s: JWK %s is not canonical", a, key.JWK())
		}
	}
}

// parts returns the members of a valid JWK of algorithm a.
func parts(t *testing.T, a Algorithm) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(newSigner(t, a).PublicKey().JWK(), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestParseJWKRefuses(t *testing.T) {
	b64 := func(hexText string) string {
		raw, err := hex.DecodeString(hexText)
		if err != nil {
			t.Fatal(err)
		}
		return encodeBase64(raw)
	}
	odd := func(bits int) string {
		n := make([]byte, bits/8)
		rand.Read(n)
		n[0] |= 0x80
		n[len(n)-1] |= 1
		return encodeBase64(n)
	}
	for _, tt := range []struct {
		name   string
		alg    Algorithm
		member string
		value  any
	}{
		{"RFC 7517 9.2 private EC", ES256, "d", "AAAA"},
		{"RFC 7517 9.2 private even when null", ES256, "d", nil},
		{"RFC 7517 9.2 private RSA", RS256, "p", "AAAA"},
		{"RFC 7517 9.2 other primes", RS256, "oth", []any{}},
		{"RFC 7517 9.2 symmetric", ES256, "k", "AAAA"},
		{"RFC 9964 private AKP", MLDSA44, "priv", "AAAA"},
		{"RFC 7517 4.2 use", ES256, "use", "enc"},
		{"RFC 7517 4.3 key_ops", ES256, "key_ops", []string{"encrypt"}},
		{"RFC 7517 4.4 alg of another curve", ES256, "alg", "ES384"},
		{"RFC 7517 4.4 alg of another type", ES256, "alg", "RS256"},
		{"kty unknown", ES256, "kty", "XY"},
		{"kty of another key", ES256, "kty", "RSA"},
		{"kty case", ES256, "kty", "ec"},
		{"symmetric kty", ES256, "kty", "oct"},
		{"RFC 7518 6.2.1.1 crv P-521", ES256, "crv", "P-521"},
		{"RFC 8812 crv secp256k1", ES256, "crv", "secp256k1"},
		{"RFC 7518 6.2.1.1 crv of another curve", ES256, "crv", "P-384"},
		{"RFC 7518 6.2.1.2 short x", ES256, "x", b64(strings.Repeat("01", 31))},
		{"RFC 7518 6.2.1.2 long x", ES256, "x", b64("00" + strings.Repeat("01", 32))},
		{"RFC 7518 6.2.1.2 empty x", ES256, "x", ""},
		{"not on the curve", ES256, "x", b64(strings.Repeat("01", 32))},
		{"x not below p", ES256, "x", b64(strings.Repeat("ff", 32))},
		{"padded x", ES256, "x", b64(strings.Repeat("01", 32)) + "="},
		{"RSA of 1024 bits", RS256, "n", odd(1024)},
		{"RSA of 2040 bits", RS256, "n", odd(2040)},
		{"RSA of 4104 bits", RS256, "n", odd(4104)},
		{"RFC 7518 2 leading zero of n", RS256, "n", "AA" + odd(2048)},
		{"RSA even n", RS256, "n", encodeBase64(new(big.Int).Lsh(big.NewInt(1), 2047).Bytes())},
		{"RSA e 1", RS256, "e", "AQ"},
		{"RSA e 3", RS256, "e", "Aw"},
		{"RSA e even", RS256, "e", "AQAA"},
		{"RSA e of 5 bytes", RS256, "e", "AQAAAAE"},
		{"RSA e above 2^31-1", RS256, "e", "gAAAAQ"},
		{"RFC 7518 2 leading zero of e", RS256, "e", "AAEAAQ"},
		{"RSA empty e", RS256, "e", ""},
		{"RFC 8037 X25519", EdDSA, "crv", "X25519"},
		{"RFC 8037 Ed448", EdDSA, "crv", "Ed448"},
		{"RFC 8037 short x", EdDSA, "x", b64(strings.Repeat("01", 31))},
		{"RFC 9964 alg of another size", MLDSA44, "alg", "ML-DSA-65"},
		{"RFC 9964 alg missing", MLDSA44, "alg", ""},
		{"RFC 9964 alg not ML-DSA", MLDSA44, "alg", "ES256"},
		{"RFC 9964 short pub", MLDSA44, "pub", b64(strings.Repeat("01", 1311))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := parts(t, tt.alg)
			m[tt.member] = tt.value
			raw, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			_, err = ParseJWK(raw)
			wantCode(t, err, fault.BadPublicKey)
		})
	}
}

func TestParseJWKRefusesBadJSON(t *testing.T) {
	for _, raw := range []string{"", "null", "[]", `"x"`, `{`, `{}{}`, `{"kty":1}`, `{"kty":"EC","kty":"EC"}`, `{"kty":"` + strings.Repeat("x", maxJWK) + `"}`} {
		_, err := ParseJWK([]byte(raw))
		wantCode(t, err, fault.Malformed)
	}
}

func TestParseJWKAcceptsExtras(t *testing.T) { // RFC 7517 section 4: unknown members are ignored
	m := parts(t, ES256)
	m["kid"], m["use"], m["alg"], m["key_ops"], m["x5c"], m["ext"] = "1", "sig", "ES256", []string{"verify"}, []string{"AA"}, true
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParseJWK(raw)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(key.JWK()), "kid") {
		t.Errorf("canonical JWK %s holds more than the required members", key.JWK())
	}
}

func TestNewPublicKeyRefuses(t *testing.T) {
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 1023, 1), E: 65537}
	for _, key := range []crypto.PublicKey{nil, "key", p224.Public(), small, ed25519.PublicKey(nil), ed25519.PublicKey(make([]byte, 31))} {
		_, err := NewPublicKey(key)
		wantCode(t, err, fault.BadPublicKey)
	}
}

// The encodings that RFC 8032 section 5.1.3 and RFC 7748 section 6.1 make
// suspect: all points whose order divides 8, and encodings of y >= p.
func TestEd25519RefusesWeakPoints(t *testing.T) {
	small := []string{
		"0100000000000000000000000000000000000000000000000000000000000000",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"0000000000000000000000000000000000000000000000000000000000000000",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	}
	other := []string{
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // p, which is 0
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // p+1
		"ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"0200000000000000000000000000000000000000000000000000000000000000", // no point has this y
	}
	for _, text := range append(small, other...) {
		key, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, sign := range []byte{0, 0x80} {
			point := slices.Clone(key)
			point[31] |= sign
			if canonicalEd25519(point) {
				t.Errorf("%x is taken for a good key", point)
			}
		}
	}
	for range 200 {
		pub, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if !canonicalEd25519(pub) {
			t.Errorf("%x is a good key", pub)
		}
	}
}

func FuzzParseJWK(f *testing.F) {
	for _, a := range []Algorithm{ES256, ES384, EdDSA, MLDSA44} {
		f.Add(newSigner(f, a).PublicKey().JWK())
	}
	f.Add([]byte(`{"kty":"RSA","n":"` + rfc7638N + `","e":"AQAB"}`))
	f.Add([]byte(`{"kty":"EC","d":"AA"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		key, err := ParseJWK(raw)
		if err != nil {
			if fault.As(err).Code == fault.ServerInternal {
				t.Errorf("foreign bytes gave an internal error: %v", err)
			}
			return
		}
		again, err := ParseJWK(key.JWK())
		if err != nil || !again.Equal(key) || len(key.Algs) == 0 {
			t.Errorf("%s does not come back: %v", key.JWK(), err)
		}
	})
}

func BenchmarkParseJWK(b *testing.B) {
	for _, a := range []Algorithm{ES256, RS256, EdDSA, MLDSA65} {
		b.Run(string(a), func(b *testing.B) {
			raw := newSigner(b, a).PublicKey().JWK()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseJWK(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
