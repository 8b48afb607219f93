package acme

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/mldsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json/jsontext"
	json "encoding/json/v2"
	"errors"
	"strings"

	"chancery/internal/fault"
)

// Bounds of a signed message, in bytes.
const (
	// MaxBody bounds a whole request body.
	MaxBody = 64 << 10

	maxProtected = 8 << 10 // encoded; the JWK of an ML-DSA-87 key takes 4.7 KB
	maxSignature = 8 << 10 // encoded; one of ML-DSA-87 takes 6.2 KB
	maxNonce     = 256
	maxURL       = 2 << 10
)

// JWS is a parsed, not yet verified, signed message (RFC 7515 flattened JSON,
// as RFC 8555 section 6.2 narrows it). Nothing in it is to be believed before
// Verify returned nil.
type JWS struct {
	Header  Header
	Payload []byte // decoded; empty for POST-as-GET (RFC 8555 section 6.3)

	signature []byte
	signed    []byte // BASE64URL(protected) "." BASE64URL(payload)
	room      []byte // for what a verification needs, which it would allocate
}

// Header is the protected header. Exactly one of KID and JWK is set.
type Header struct {
	Alg   Algorithm
	Nonce string // RFC 8555 section 6.5; base64url alphabet
	URL   string // RFC 8555 section 6.4; compare with the URL of the request
	KID   string // account URL
	JWK   JWK    // new-account, revoke-cert by certificate key, inner key-change
}

// PostAsGet reports whether the message is a signed GET: the payload is empty,
// which is not the same as an empty object (RFC 8555 section 6.3).
func (j *JWS) PostAsGet() bool { return len(j.Payload) == 0 }

// shape says what one place of the protocol demands of a protected header.
type shape struct {
	nonceRequired bool // else: absent, or ignored when nonceAllowed
	nonceAllowed  bool
	kid, jwk      bool // which key references may stand
	mac           bool // HS256... instead of signature algorithms
}

// ParseJWS parses the body of an ACME request. The text must be one JSON
// object with exactly the string members protected, payload and signature;
// the protected header must hold alg, nonce, url and one of jwk and kid, and
// neither crit nor b64. Duplicate members, padded or non-canonical base64url
// and over-long parts are refused.
//
// Errors: fault.BadSignatureAlgorithm (with the accepted list) when alg is
// not accepted, fault.BadNonce when there is no nonce, else fault.Malformed.
func ParseJWS(body []byte) (*JWS, error) { return parseJWS(body, requestShape) }

// Parse is ParseJWS into j, and into the memory of mem as far as it has enough.
// It keeps nothing of body.
func (j *JWS) Parse(body, mem []byte) error { return j.parse(body, mem, requestShape) }

// requestShape is that of an ACME request.
var requestShape = shape{nonceRequired: true, nonceAllowed: true, kid: true, jwk: true}

// flattened is the outer object. Any other member is refused, so an
// unprotected "header" and a "signatures" array cannot stand.
type flattened struct {
	Protected string  `json:"protected"`
	Payload   *string `json:"payload"` // "" has a meaning, so presence shows
	Signature string  `json:"signature"`
}

// protected is the JSON of the protected header. Unknown members are ignored
// as RFC 7515 section 4 demands.
type protected struct {
	Alg   Algorithm      `json:"alg"`
	Nonce *string        `json:"nonce"`
	URL   string         `json:"url"`
	KID   *string        `json:"kid"`
	JWK   jsontext.Value `json:"jwk"`
	Crit  jsontext.Value `json:"crit"`
	B64   jsontext.Value `json:"b64"`
}

func parseJWS(body []byte, want shape) (*JWS, error) {
	j := new(JWS)
	if err := j.parse(body, nil, want); err != nil {
		return nil, err
	}
	return j, nil
}

func (j *JWS) parse(body, mem []byte, want shape) error {
	if j.parsePlain(body, mem, want) {
		return nil
	}
	general, err := parseAny(body, want)
	if err != nil {
		*j = JWS{}
		return err
	}
	*j = *general
	return nil
}

// parseAny parses a message of any form.
func parseAny(body []byte, want shape) (*JWS, error) {
	if len(body) > MaxBody {
		return nil, fault.New(fault.Malformed, "message is longer than %d bytes", MaxBody)
	}
	var f flattened
	if err := json.Unmarshal(body, &f, json.RejectUnknownMembers(true)); err != nil {
		return nil, malformedJSON(err, "JWS")
	}
	if f.Protected == "" || f.Payload == nil || f.Signature == "" {
		return nil, fault.New(fault.Malformed, `JWS must be an object with the string members "protected", "payload" and "signature"`)
	}
	if len(f.Protected) > maxProtected || len(f.Signature) > maxSignature {
		return nil, fault.New(fault.Malformed, "JWS protected header or signature is too long")
	}
	j := &JWS{signed: joinDot(f.Protected, *f.Payload)}
	var err error
	if j.Payload, err = decodeBase64(*f.Payload); err != nil {
		return nil, fault.Wrap(err, fault.Malformed, "JWS payload is not base64url without padding")
	}
	if j.signature, err = decodeBase64(f.Signature); err != nil {
		return nil, fault.Wrap(err, fault.Malformed, "JWS signature is not base64url without padding")
	}
	j.Header, err = parseHeader(f.Protected, want)
	if err != nil {
		return nil, err
	}
	return j, nil
}

func joinDot(protected, payload string) []byte {
	b := make([]byte, 0, len(protected)+1+len(payload))
	b = append(b, protected...)
	b = append(b, '.')
	return append(b, payload...)
}

func parseHeader(encoded string, want shape) (Header, error) {
	raw, err := decodeBase64(encoded)
	if err != nil {
		return Header{}, fault.Wrap(err, fault.Malformed, "JWS protected header is not base64url without padding")
	}
	if raw[0] != '{' {
		return Header{}, fault.New(fault.Malformed, "JWS protected header is not a JSON object")
	}
	var p protected
	if err := json.Unmarshal(raw, &p); err != nil {
		return Header{}, malformedJSON(err, "JWS protected header")
	}
	if p.Crit != nil || p.B64 != nil {
		return Header{}, fault.New(fault.Malformed, `JWS protected header must hold neither "crit" nor "b64"`)
	}
	h := Header{Alg: p.Alg, URL: p.URL, JWK: JWK(p.JWK)}
	if err := checkAlg(h.Alg, want); err != nil {
		return Header{}, err
	}
	if h.KID, err = checkKeyReference(&p, want); err != nil {
		return Header{}, err
	}
	if h.URL == "" || len(h.URL) > maxURL {
		return Header{}, fault.New(fault.Malformed, `JWS protected header needs a "url" of at most %d bytes`, maxURL)
	}
	if h.Nonce, err = checkNonce(p.Nonce, want); err != nil {
		return Header{}, err
	}
	return h, nil
}

func checkAlg(a Algorithm, want shape) error {
	if want.mac {
		if _, ok := a.mac(); ok {
			return nil
		}
		return badAlg(a, []Algorithm{HS256, HS384, HS512})
	}
	if a.Valid() {
		return nil
	}
	return badAlg(a, Algorithms())
}

func badAlg(a Algorithm, accepted []Algorithm) error {
	names := algorithmNames(accepted)
	e := fault.New(fault.BadSignatureAlgorithm, `JWS "alg" %q is not accepted here; use one of %s`, clip(string(a)), strings.Join(names, ", "))
	e.Algorithms = names
	return e
}

func checkKeyReference(p *protected, want shape) (kid string, err error) {
	hasKID, hasJWK := p.KID != nil, p.JWK != nil
	switch {
	case hasKID && hasJWK, !hasKID && !hasJWK:
		return "", fault.New(fault.Malformed, `JWS protected header must hold exactly one of "jwk" and "kid"`)
	case hasKID && !want.kid:
		return "", fault.New(fault.Malformed, `JWS must be signed with a "jwk" here, not a "kid"`)
	case hasJWK && !want.jwk:
		return "", fault.New(fault.Malformed, `JWS must be signed with a "kid" here, not a "jwk"`)
	case hasJWK && p.JWK.Kind() != '{':
		return "", fault.New(fault.Malformed, `JWS "jwk" is not a JSON object`)
	case hasJWK:
		return "", nil
	case *p.KID == "" || len(*p.KID) > maxURL:
		return "", fault.New(fault.Malformed, `JWS "kid" must have 1 to %d bytes`, maxURL)
	}
	return *p.KID, nil
}

func checkNonce(nonce *string, want shape) (string, error) {
	switch {
	case nonce == nil && want.nonceRequired:
		return "", fault.New(fault.BadNonce, `JWS protected header has no "nonce"`)
	case nonce == nil || !want.nonceRequired && want.nonceAllowed:
		return "", nil
	case !want.nonceAllowed:
		return "", fault.New(fault.Malformed, `JWS must not hold a "nonce" here`)
	case *nonce == "" || len(*nonce) > maxNonce || !base64Alphabet(*nonce):
		return "", fault.New(fault.Malformed, `JWS "nonce" must have 1 to %d characters of the base64url alphabet`, maxNonce)
	}
	return *nonce, nil
}

// Verify checks the signature with key, and that the algorithm is one that
// fits the key. It is not for two goroutines at once. Errors:
// fault.BadSignatureAlgorithm, fault.Malformed.
func (j *JWS) Verify(key *PublicKey) error {
	if !key.Fits(j.Header.Alg) {
		return badAlg(j.Header.Alg, key.Algs)
	}
	if !j.verify(key.Key) {
		return fault.New(fault.Malformed, "JWS signature does not verify with this key; is it the key of the account, and was the message changed on its way?")
	}
	return nil
}

func (j *JWS) verify(key crypto.PublicKey) bool {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		return j.verifyECDSA(key)
	case *rsa.PublicKey:
		sum := sha256.Sum256(j.signed)
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], j.signature) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(key, j.signed, j.signature)
	case *mldsa.PublicKey:
		return mldsa.Verify(key, j.signed, j.signature, nil) == nil
	}
	return false
}

func (j *JWS) verifyECDSA(key *ecdsa.PublicKey) bool {
	size := (key.Curve.Params().BitSize + 7) / 8
	if len(j.signature) != 2*size { // RFC 7518 section 3.4: both halves in full
		return false
	}
	der := appendECDSA(j.room[:0], j.signature[:size], j.signature[size:])
	all := der
	if size == 32 {
		sum := sha256.Sum256(j.signed)
		all = append(all, sum[:]...)
	} else {
		sum := sha512.Sum384(j.signed)
		all = append(all, sum[:]...)
	}
	return ecdsa.VerifyASN1(key, all[len(der):], all[:len(der)])
}

// verifyRoom is what verifyECDSA needs for P-384, in octets: a SEQUENCE of two
// INTEGERs, and a hash.
const verifyRoom = 2 + 2*(2+1+48) + sha512.Size384

// appendECDSA appends the DER SEQUENCE of two integers of at most 48 bytes, so
// that every length fits one byte. It is what spares the two big.Ints of
// ecdsa.Verify.
func appendECDSA(dst, r, s []byte) []byte {
	dst = append(dst, 0x30, 0)
	start := len(dst)
	dst = appendInteger(dst, r)
	dst = appendInteger(dst, s)
	dst[start-1] = byte(len(dst) - start)
	return dst
}

func appendInteger(dst, v []byte) []byte {
	for len(v) > 1 && v[0] == 0 {
		v = v[1:]
	}
	if v[0] >= 0x80 {
		dst = append(dst, 2, byte(len(v)+1), 0)
	} else {
		dst = append(dst, 2, byte(len(v)))
	}
	return append(dst, v...)
}

var errLineBreak = errors.New("line break inside base64url")

// decodeBase64 decodes canonical base64url without padding. The standard
// decoder skips line breaks even in strict mode, which would give one message
// two spellings.
func decodeBase64(s string) ([]byte, error) {
	if strings.IndexByte(s, '\n') >= 0 || strings.IndexByte(s, '\r') >= 0 {
		return nil, errLineBreak
	}
	return strict.DecodeString(s)
}

// base64Alphabet reports whether s has only characters of RFC 4648 section 5.
func base64Alphabet(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}
