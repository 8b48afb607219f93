package acme

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"testing"

	"chancery/internal/fault"
)

// newKey makes a private key whose signatures are of algorithm a.
func newKey(t testing.TB, a Algorithm) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch a {
	case ES256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ES384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case RS256:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case EdDSA, Ed25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		params, ok := mldsaParams(a)
		if !ok {
			t.Fatalf("no key for %q", a)
		}
		key, err = mldsa.GenerateKey(params)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newSigner(t testing.TB, a Algorithm) *Signer {
	t.Helper()
	s, err := NewSigner(newKey(t, a))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sign(t testing.TB, s *Signer, h Header, payload string) []byte {
	t.Helper()
	body, err := s.Sign(h, []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return body
}

const (
	testURL   = "https://ca.test/acme/main/new-order"
	testKID   = "https://ca.test/acme/main/account/7"
	testNonce = "oFvnlFP1wIhRlYS2jTaXbA"
)

// rawJWS puts a header and payload, given as text, into a message with some
// signature.
func rawJWS(header, payload string) string {
	return fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":"AAAA"}`, encodeBase64([]byte(header)), encodeBase64([]byte(payload)))
}

func wantCode(t *testing.T, err error, code fault.Code) {
	t.Helper()
	if !fault.Is(err, code) {
		t.Errorf("error %v, want code %s", err, code)
	}
}

func TestSignParseVerify(t *testing.T) { // RFC 8555 section 6.2, every algorithm
	for _, a := range Algorithms() {
		t.Run(string(a), func(t *testing.T) {
			s := newSigner(t, a)
			want := Header{Alg: s.PublicKey().Algs[0], Nonce: testNonce, URL: testURL, KID: testKID}
			j, err := ParseJWS(sign(t, s, want, `{"a":1}`))
			if err != nil {
				t.Fatal(err)
			}
			if j.Header.KID != testKID || j.Header.URL != testURL || j.Header.Nonce != testNonce || j.Header.Alg != want.Alg || j.Header.JWK != nil {
				t.Errorf("header %+v, want %+v", j.Header, want)
			}
			if string(j.Payload) != `{"a":1}` || j.PostAsGet() {
				t.Errorf("payload %q", j.Payload)
			}
			if err := j.Verify(s.PublicKey()); err != nil {
				t.Error(err)
			}
			wantCode(t, j.Verify(newSigner(t, a).PublicKey()), fault.Malformed)
			j.signed[len(j.signed)-1] ^= 1
			wantCode(t, j.Verify(s.PublicKey()), fault.Malformed)
		})
	}
}

func TestSignEmbedsKeyWithoutKID(t *testing.T) { // RFC 8555 section 6.2: new-account and revoke-cert
	for _, a := range Algorithms() {
		s := newSigner(t, a)
		j, err := ParseJWS(sign(t, s, Header{Nonce: testNonce, URL: testURL}, ""))
		if err != nil {
			t.Fatalf("%s: %v", a, err)
		}
		key, err := j.Header.JWK.PublicKey()
		if err != nil {
			t.Fatalf("%s: %v", a, err)
		}
		if !key.Equal(s.PublicKey()) || j.Header.KID != "" {
			t.Errorf("%s: header %+v does not name the signer's key", a, j.Header)
		}
		if !j.PostAsGet() { // RFC 8555 section 6.3
			t.Errorf("%s: payload %q, want POST-as-GET", a, j.Payload)
		}
		if err := j.Verify(key); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
}

func TestVerifyAlgorithmMustFitKey(t *testing.T) { // RFC 7518 section 3.1
	s := newSigner(t, ES256)
	j, err := ParseJWS(sign(t, s, Header{Nonce: testNonce, URL: testURL, KID: testKID}, "{}"))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range Algorithms() {
		if a == ES256 {
			continue
		}
		err := j.Verify(newSigner(t, a).PublicKey())
		wantCode(t, err, fault.BadSignatureAlgorithm)
		if e := fault.As(err); len(e.Algorithms) == 0 || e.Algorithms[0] == "ES256" {
			t.Errorf("%s: algorithms %v", a, e.Algorithms)
		}
	}
}

func TestParseJWSRefuses(t *testing.T) {
	const (
		alg   = `"alg":"ES256"`
		nonce = `"nonce":"AAAA"`
		url   = `"url":"https://ca.test/x"`
		kid   = `"kid":"https://ca.test/acct/1"`
		jwk   = `"jwk":{"kty":"EC"}`
	)
	header := func(parts ...string) string { return rawJWS("{"+strings.Join(parts, ",")+"}", "{}") }
	good := header(alg, nonce, url, kid)
	if _, err := ParseJWS([]byte(good)); err != nil {
		t.Fatalf("the good message: %v", err)
	}
	replace := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in %q", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	for _, tt := range []struct {
		name, body string
		code       fault.Code
	}{
		{"RFC 8555 6.2 unprotected header", replace(`{`, `{"header":{"kid":"x"},`), fault.Malformed},
		{"RFC 8555 6.2 multiple signatures", replace(`{`, `{"signatures":[],`), fault.Malformed},
		{"RFC 8555 6.2 compact form", "e30.e30.AAAA", fault.Malformed},
		{"unknown outer member", replace(`{`, `{"x":1,`), fault.Malformed},
		{"member in another case", replace(`"payload"`, `"Payload"`), fault.Malformed},
		{"duplicate payload", replace(`"payload"`, `"payload":"","payload"`), fault.Malformed},
		{"null payload", replace(`"payload":"e30"`, `"payload":null`), fault.Malformed},
		{"no payload", replace(`"payload":"e30",`, ``), fault.Malformed},
		{"payload is an object", replace(`"payload":"e30"`, `"payload":{}`), fault.Malformed},
		{"no signature", replace(`,"signature":"AAAA"`, ``), fault.Malformed},
		{"empty signature", replace(`"AAAA"`, `""`), fault.Malformed},
		{"RFC 7515 2 padding", replace(`"e30"`, `"e30="`), fault.Malformed},
		{"RFC 7515 2 standard alphabet", replace(`"e30"`, `"e3+/"`), fault.Malformed},
		{"RFC 7515 2 line break", replace(`"e30"`, `"e3\n0"`), fault.Malformed},
		{"RFC 4648 3.5 spare bits", replace(`"e30"`, `"e31"`), fault.Malformed},
		{"trailing text", good + "{}", fault.Malformed},
		{"empty", "", fault.Malformed},
		{"null", "null", fault.Malformed},
		{"array", "[]", fault.Malformed},
		{"too long", replace(`"e30"`, `"`+strings.Repeat("A", MaxBody)+`"`), fault.Malformed},
		{"long signature", replace(`"AAAA"`, `"`+strings.Repeat("A", maxSignature+4)+`"`), fault.Malformed},
		{"long header", header(alg, nonce, url, kid, `"x":"`+strings.Repeat("A", maxProtected)+`"`), fault.Malformed},
		{"header is an array", rawJWS("[]", ""), fault.Malformed},
		{"header is null", rawJWS("null", ""), fault.Malformed},
		{"header has bad UTF-8", header(alg, nonce, url, "\"kid\":\"\xff\""), fault.Malformed},

		{"RFC 7515 4.1.11 crit", header(alg, nonce, url, kid, `"crit":["exp"]`), fault.Malformed},
		{"RFC 7797 b64", header(alg, nonce, url, kid, `"b64":false`), fault.Malformed},
		{"duplicate alg", header(alg, alg, nonce, url, kid), fault.Malformed},
		{"duplicate unknown member", header(alg, nonce, url, kid, `"x":1`, `"x":1`), fault.Malformed},
		{"duplicate inside jwk", header(alg, nonce, url, `"jwk":{"kty":"EC","kty":"EC"}`), fault.Malformed},

		{"RFC 8555 6.2 none", header(`"alg":"none"`, nonce, url, kid), fault.BadSignatureAlgorithm},
		{"RFC 8555 6.2 MAC", header(`"alg":"HS256"`, nonce, url, kid), fault.BadSignatureAlgorithm},
		{"RFC 8555 6.2 unknown", header(`"alg":"PS256"`, nonce, url, kid), fault.BadSignatureAlgorithm},
		{"no alg", header(nonce, url, kid), fault.BadSignatureAlgorithm},

		{"RFC 8555 6.2 jwk and kid", header(alg, nonce, url, kid, jwk), fault.Malformed},
		{"RFC 8555 6.2 jwk and empty kid", header(alg, nonce, url, `"kid":""`, jwk), fault.Malformed},
		{"RFC 8555 6.2 neither", header(alg, nonce, url), fault.Malformed},
		{"empty kid", header(alg, nonce, url, `"kid":""`), fault.Malformed},
		{"null kid", header(alg, nonce, url, `"kid":null`), fault.Malformed},
		{"long kid", header(alg, nonce, url, `"kid":"`+strings.Repeat("x", maxURL+1)+`"`), fault.Malformed},
		{"jwk is a string", header(alg, nonce, url, `"jwk":"x"`), fault.Malformed},
		{"jwk is null", header(alg, nonce, url, `"jwk":null`), fault.Malformed},

		{"RFC 8555 6.4 no url", header(alg, nonce, kid), fault.Malformed},
		{"long url", header(alg, nonce, kid, `"url":"`+strings.Repeat("x", maxURL+1)+`"`), fault.Malformed},

		{"RFC 8555 6.5 no nonce", header(alg, url, kid), fault.BadNonce},
		{"RFC 8555 6.5.2 nonce alphabet", header(alg, `"nonce":"AA+A"`, url, kid), fault.Malformed},
		{"RFC 8555 6.5.2 nonce padding", header(alg, `"nonce":"AAA="`, url, kid), fault.Malformed},
		{"empty nonce", header(alg, `"nonce":""`, url, kid), fault.Malformed},
		{"long nonce", header(alg, `"nonce":"`+strings.Repeat("A", maxNonce+1)+`"`, url, kid), fault.Malformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseJWS([]byte(tt.body))
			wantCode(t, err, tt.code)
		})
	}
}

func TestParseJWSAccepts(t *testing.T) {
	for _, tt := range []struct{ name, header, url string }{
		{"unknown header member (RFC 7515 section 4)", `{"alg":"ES256","nonce":"AAAA","url":"u","kid":"k","typ":"JWS","x":{"y":[1]}}`, "u"},
		{"escaped slashes, as PHP writes them", `{"alg":"ES256","nonce":"AAAA","url":"https:\/\/ca.test\/x","kid":"k"}`, "https://ca.test/x"},
		{"white space", " {\n\"alg\" : \"ES256\", \"nonce\":\"AAAA\",\"url\":\"u\",\"kid\":\"k\"\t}\n", "u"},
	} {
		header := strings.TrimLeft(tt.header, " ")
		j, err := ParseJWS([]byte(" " + rawJWS(header, "") + "\n"))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if j.Header.URL != tt.url {
			t.Errorf("%s: url %q, want %q", tt.name, j.Header.URL, tt.url)
		}
	}
}

func TestBadAlgorithmListsAccepted(t *testing.T) { // RFC 8555 section 6.2
	_, err := ParseJWS([]byte(rawJWS(`{"alg":"RS1","nonce":"AAAA","url":"u","kid":"k"}`, "")))
	if e := fault.As(err); len(e.Algorithms) != len(Algorithms()) || e.Algorithms[0] != "ES256" {
		t.Errorf("algorithms %v", e.Algorithms)
	}
}

func TestVerifyECDSASignatureLength(t *testing.T) { // RFC 7518 section 3.4
	s := newSigner(t, ES256)
	j, err := ParseJWS(sign(t, s, Header{Nonce: testNonce, URL: testURL, KID: testKID}, ""))
	if err != nil {
		t.Fatal(err)
	}
	good := j.signature
	for _, sig := range [][]byte{nil, good[:63], append(bytes.Clone(good), 0), append([]byte{0}, good...), make([]byte, 64), make([]byte, 96)} {
		j.signature = sig
		wantCode(t, j.Verify(s.PublicKey()), fault.Malformed)
	}
}

// The DER that verifyECDSA builds by hand is what ecdsa.Verify would build.
func TestECDSAEncodingAgainstBigInt(t *testing.T) {
	key := newKey(t, ES256).(*ecdsa.PrivateKey)
	hash := make([]byte, 32)
	for range 2000 { // one in 128 has a leading zero in r or s
		rand.Read(hash)
		sig, err := ecdsa.SignASN1(rand.Reader, key, hash)
		if err != nil {
			t.Fatal(err)
		}
		// Parse by length bytes alone: SEQUENCE { INTEGER r, INTEGER s }.
		r := new(big.Int).SetBytes(sig[4 : 4+int(sig[3])])
		s := new(big.Int).SetBytes(sig[4+int(sig[3])+2:])
		var a, b [32]byte
		if got := appendECDSA(nil, r.FillBytes(a[:]), s.FillBytes(b[:])); !bytes.Equal(got, sig) {
			t.Fatalf("DER %x, want %x", got, sig)
		}
	}
}

// samePlain parses a message in both ways. It reports whether the short one
// took it.
func samePlain(t *testing.T, body []byte) bool {
	t.Helper()
	short := new(JWS)
	if !short.parsePlain(body, nil, requestShape) {
		return false
	}
	long, err := parseAny(body, requestShape)
	if err != nil {
		t.Fatalf("the short way accepts %q, the other says %v", body, err)
	}
	if !reflect.DeepEqual(short.Header, long.Header) || !bytes.Equal(short.Payload, long.Payload) ||
		!bytes.Equal(short.signature, long.signature) || !bytes.Equal(short.signed, long.signed) {
		t.Fatalf("%q parses as %+v and as %+v", body, short, long)
	}
	return true
}

func TestParsePlainIsParseJWS(t *testing.T) {
	header := `{"alg":"ES256","nonce":"` + testNonce + `","url":"` + testURL + `","kid":"` + testKID + `"}`
	s := newSigner(t, ES256)
	for _, body := range []string{rawJWS(header, ""), rawJWS(header, `{"csr":"AA"}`), " " + rawJWS(header, "{}") + "\n",
		`{"signature":"AAAA","payload":"","protected":"` + encodeBase64([]byte(header)) + `"}`,
		string(sign(t, s, Header{Nonce: testNonce, URL: testURL, KID: testKID}, `{}`))} {
		if !samePlain(t, []byte(body)) {
			t.Errorf("%s does not go the short way", body)
		}
	}
	plain := rawJWS(header, "{}")
	for i := range plain { // any octet wrong: refused here, or the same
		for _, c := range []byte{'"', '\\', '=', ' ', '\n', '}', ',', 'A', 0, 0x80, '-'} {
			samePlain(t, []byte(plain[:i]+string([]byte{c})+plain[i+1:]))
		}
	}
	for i := range header {
		for _, c := range []byte{'"', '\\', ' ', '}', ',', 'a', 0x80, '{'} {
			samePlain(t, []byte(rawJWS(header[:i]+string([]byte{c})+header[i+1:], "{}")))
		}
	}
	for _, h := range []string{" " + header, header + " ", strings.Replace(header, `"alg"`, `"crit":"x","alg"`, 1),
		strings.Replace(header, `"kid"`, `"url":"x","kid"`, 1), strings.Replace(header, `"ES256"`, `"none"`, 1)} {
		samePlain(t, []byte(rawJWS(h, "{}")))
	}
	body, mem := []byte(plain), make([]byte, 0, 2*len(plain))
	if n := testing.AllocsPerRun(100, func() {
		var j JWS
		if err := j.Parse(body, mem); err != nil {
			t.Fatal(err)
		}
	}); n > 1 { // the text of the header
		t.Errorf("%v allocations", n)
	}
}

func FuzzParseJWS(f *testing.F) {
	s := newSigner(f, ES256)
	f.Add(sign(f, s, Header{Nonce: testNonce, URL: testURL, KID: testKID}, `{"identifiers":[]}`))
	f.Add(sign(f, s, Header{Nonce: testNonce, URL: testURL}, ""))
	f.Add([]byte(rawJWS(`{"alg":"none"}`, "{}")))
	f.Add([]byte(`{"protected":"e30","payload":"","signature":"A"}`))
	f.Add([]byte(rawJWS(`{"alg":"ES256","nonce":"AA","url":"u","kid":"k"}`, "{}")))
	f.Fuzz(func(t *testing.T, body []byte) {
		samePlain(t, body)
		j, err := ParseJWS(body)
		if err != nil {
			if fault.As(err).Code == fault.ServerInternal {
				t.Errorf("foreign bytes gave an internal error: %v", err)
			}
			return
		}
		if (j.Header.KID == "") == (j.Header.JWK == nil) || !j.Header.Alg.Valid() || j.Header.URL == "" || !base64Alphabet(j.Header.Nonce) || j.Header.Nonce == "" {
			t.Errorf("header %+v breaks a rule", j.Header)
		}
		_ = j.Verify(s.PublicKey())
	})
}

func BenchmarkParseVerify(b *testing.B) {
	for _, a := range []Algorithm{ES256, ES384, RS256, EdDSA, MLDSA44, MLDSA65, MLDSA87} {
		b.Run(string(a), func(b *testing.B) {
			s := newSigner(b, a)
			body := sign(b, s, Header{Nonce: testNonce, URL: testURL, KID: testKID}, `{"identifiers":[{"type":"dns","value":"www.example.com"}]}`)
			b.ReportAllocs()
			for b.Loop() {
				j, err := ParseJWS(body)
				if err == nil {
					err = j.Verify(s.PublicKey())
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkParseJWS(b *testing.B) {
	body := sign(b, newSigner(b, ES256), Header{Nonce: testNonce, URL: testURL, KID: testKID}, `{"identifiers":[{"type":"dns","value":"www.example.com"}]}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseJWS(body); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBareVerify is the floor under BenchmarkParseVerify/ES256.
func BenchmarkBareVerify(b *testing.B) {
	key := newKey(b, ES256).(*ecdsa.PrivateKey)
	hash := make([]byte, 32)
	sig, err := ecdsa.SignASN1(rand.Reader, key, hash)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if !ecdsa.VerifyASN1(&key.PublicKey, hash, sig) {
			b.Fatal("does not verify")
		}
	}
}
