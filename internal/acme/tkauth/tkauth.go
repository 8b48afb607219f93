// Package tkauth verifies authority tokens (RFC 9447): JSON Web Tokens in which
// an authority of a namespace, such as that of telephone numbers (RFC 9448),
// says that the holder of an ACME account may have a certificate for an
// identifier.
//
// Tokens come from whoever asks for a certificate. They are bounded and read
// strictly, an authority whose root the operator did not name counts for
// nothing, and certificates are fetched only from origins that the operator
// named.
package tkauth

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json/v2"
	"math/big"
	"slices"
	"strings"
	"time"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Type is the only kind of token there is (RFC 9447 section 4).
const Type = "atc"

// Policy says whose tokens count.
type Policy struct {
	// Roots are the trust anchors of the authorities. At least one.
	Roots []*x509.Certificate

	// Fetcher gets certificates that tokens name by URL; nil: such tokens are
	// refused, and only those that bring their certificates (x5c) count.
	Fetcher *Fetcher
}

// Trusts reports whether p has a root with this SHA-256. Nil trusts nothing.
func (p *Policy) Trusts(root []byte) bool {
	return p != nil && slices.ContainsFunc(p.Roots, func(c *x509.Certificate) bool {
		sum := sha256.Sum256(c.Raw)
		return string(sum[:]) == string(root)
	})
}

// Want is what a token must be about.
type Want struct {
	Identifier pki.Identifier
	Thumbprint string // of the account's key, base64url (RFC 7638)
}

// Token is a token that verified.
type Token struct {
	ID        string // jti
	ExpiresAt time.Time
	Root      [32]byte // SHA-256 of the trust anchor of its authority
}

// Bounds of a token.
const (
	MaxToken   = 24 << 10 // octets, as text
	maxCerts   = 6
	maxID      = 256
	maxBetween = time.Minute // that the clocks of authority and server may differ
)

// header is the protected header.
type header struct {
	Alg  string    `json:"alg"`
	Typ  string    `json:"typ"`
	X5U  string    `json:"x5u"`
	X5C  []string  `json:"x5c"` // DER in base64, the signer's first
	Crit *[]string `json:"crit"`
}

// claims is the payload. iss is for people: the certificate says who signed.
type claims struct {
	ID        string   `json:"jti"`
	ExpiresAt *float64 `json:"exp"`
	NotBefore *float64 `json:"nbf"`
	ATC       *atc     `json:"atc"`
}

// atc is the claim of RFC 9447 section 4 and RFC 9448 section 5.4.
type atc struct {
	Type        string `json:"tktype"`
	Value       string `json:"tkvalue"`
	CA          bool   `json:"ca"`
	Fingerprint string `json:"fingerprint"`
}

func bad(format string, args ...any) error {
	return fault.New(fault.IncorrectResponse, "the authority token is not acceptable: "+format, args...)
}

// Verify takes the steps of RFC 9448 section 6 for a token of type atc at now.
// Errors are *fault.Error: incorrectResponse, or connection when the
// certificate of the authority could not be fetched.
func Verify(ctx context.Context, text string, want Want, p *Policy, now time.Time) (*Token, error) {
	if p == nil || len(p.Roots) == 0 {
		return nil, bad("no authority is trusted here")
	}
	if len(text) > MaxToken {
		return nil, bad("it has more than %d octets", MaxToken)
	}
	var h header
	var c claims
	parts := strings.Split(text, ".")
	if len(parts) != 3 || !decode(parts[0], &h) || !decode(parts[1], &c) {
		return nil, bad("it is no JSON Web Token in the compact form")
	}
	if h.Alg != "ES256" || h.Crit != nil || h.Typ != "" && !strings.EqualFold(h.Typ, "JWT") {
		return nil, bad("its header must have alg ES256, typ JWT or none, and no crit")
	}
	// Everything that costs nothing comes before the certificate is fetched.
	token, err := c.check(want, now)
	if err != nil {
		return nil, err
	}
	chain, root, err := h.signer(ctx, p, now)
	if err != nil {
		return nil, err
	}
	if !verifyES256(chain, parts[0]+"."+parts[1], parts[2]) {
		return nil, bad("its signature is not one of its certificate's key")
	}
	token.Root = root
	return token, nil
}

// decode reads one part: strict base64url of a JSON object.
func decode(part string, into any) bool {
	text, err := base64.RawURLEncoding.Strict().DecodeString(part)
	return err == nil && len(text) > 1 && text[0] == '{' && json.Unmarshal(text, into) == nil
}

// check holds the claims against what is wanted.
func (c *claims) check(want Want, now time.Time) (*Token, error) {
	switch {
	case c.ATC == nil || c.ATC.Type == "" || c.ATC.Value == "" || c.ATC.Fingerprint == "":
		return nil, bad(`its "atc" claim needs tktype, tkvalue and fingerprint`)
	case c.ID == "" || len(c.ID) > maxID || c.ExpiresAt == nil:
		return nil, bad("it needs jti, of at most %d octets, and exp", maxID)
	case c.ATC.Type != string(want.Identifier.Type):
		return nil, bad("its tktype is not %s", want.Identifier.Type)
	case !sameValue(want.Identifier, c.ATC.Value):
		return nil, bad("its tkvalue is not the identifier of the challenge")
	case c.ATC.Fingerprint != Fingerprint(want.Thumbprint):
		return nil, bad("its fingerprint is not that of the account's key")
	case c.ATC.CA:
		return nil, bad("it is for a CA certificate, and this server issues none by ACME")
	}
	end := instant(*c.ExpiresAt)
	if !now.Before(end) {
		return nil, bad("it has expired")
	}
	if c.NotBefore != nil && now.Add(maxBetween).Before(instant(*c.NotBefore)) {
		return nil, bad("it is not valid yet")
	}
	return &Token{ID: c.ID, ExpiresAt: end}, nil
}

// farthest bounds instants in tokens, far below overflow.
const farthest = 1 << 36

// instant returns the time of a NumericDate (RFC 7519 section 2).
func instant(seconds float64) time.Time {
	return time.Unix(int64(min(max(seconds, 0), farthest)), 0).UTC()
}

// sameValue compares a tkvalue with an identifier. Authorities that follow the
// drafts before RFC 9448 write plain base64.
func sameValue(id pki.Identifier, value string) bool {
	return value == id.Value || strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(value, "=")) == id.Value
}

// Fingerprint is the form of RFC 9448 section 5.4 of a key's thumbprint.
func Fingerprint(thumbprint string) string {
	sum, err := base64.RawURLEncoding.Strict().DecodeString(thumbprint)
	if err != nil {
		return "" // equal to no claim, for an empty one is refused
	}
	digits := strings.ToUpper(hex.EncodeToString(sum))
	var b strings.Builder
	b.WriteString("SHA256 ")
	for i := 0; i < len(digits); i += 2 {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(digits[i : i+2])
	}
	return b.String()
}

// signer returns the certificate that must have signed, and the hash of its
// trust anchor. If there are both x5u and x5c, they must name the same one.
func (h *header) signer(ctx context.Context, p *Policy, now time.Time) (*x509.Certificate, [32]byte, error) {
	var leaf *x509.Certificate
	var root [32]byte
	if h.X5U == "" && len(h.X5C) == 0 {
		return nil, root, bad("its header has neither x5u nor x5c")
	}
	if len(h.X5C) > 0 {
		certs, err := inHeader(h.X5C)
		if err != nil {
			return nil, root, err
		}
		if root, err = anchored(certs, p, now); err != nil {
			return nil, root, err
		}
		leaf = certs[0]
	}
	if h.X5U == "" {
		return leaf, root, nil
	}
	if p.Fetcher == nil {
		return nil, root, bad("this server fetches no certificates; put them into x5c")
	}
	certs, err := p.Fetcher.fetch(ctx, h.X5U)
	if err != nil {
		return nil, root, err
	}
	if root, err = anchored(certs, p, now); err != nil {
		return nil, root, err
	}
	if leaf != nil && !leaf.Equal(certs[0]) {
		return nil, root, bad("x5u and x5c are different certificates")
	}
	return certs[0], root, nil
}

// inHeader reads x5c (RFC 7515 section 4.1.6).
func inHeader(list []string) (certs []*x509.Certificate, err error) {
	if len(list) > maxCerts {
		return nil, bad("x5c has more than %d certificates", maxCerts)
	}
	for _, text := range list {
		der, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil {
			return nil, bad("x5c is not base64")
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, bad("x5c holds something else than certificates")
		}
		certs = append(certs, cert)
	}
	return certs, nil
}

// anchored verifies that the first certificate chains to a root of the policy.
func anchored(certs []*x509.Certificate, p *Policy, now time.Time) (root [32]byte, err error) {
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, r := range p.Roots {
		o.Roots.AddCert(r)
	}
	for _, c := range certs[1:] {
		o.Intermediates.AddCert(c)
	}
	chains, err := certs[0].Verify(o)
	if err != nil {
		return root, fault.Wrap(err, fault.IncorrectResponse, "the authority token is not acceptable: its certificate does not chain to an authority that is trusted here")
	}
	return sha256.Sum256(chains[0][len(chains[0])-1].Raw), nil
}

// verifyES256 checks the signature of RFC 7518 section 3.4.
func verifyES256(cert *x509.Certificate, signed, signature string) bool {
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	sig, err := base64.RawURLEncoding.Strict().DecodeString(signature)
	if !ok || key.Curve != elliptic.P256() || err != nil || len(sig) != 64 {
		return false
	}
	sum := sha256.Sum256([]byte(signed))
	return ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
}
