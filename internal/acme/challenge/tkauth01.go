package challenge

import (
	"context"
	"strings"

	"chancery/internal/acme/tkauth"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// AuthorityToken is what tkauth-01 needs besides token and key authorization.
type AuthorityToken struct {
	Text   string         // the client's response
	Policy *tkauth.Policy // whose tokens count
}

// Vouched is the part of a Proof that an authority token adds.
type Vouched struct {
	ID   string `json:"jti"`         // of the token, which counts once
	Root []byte `json:"root_sha256"` // of the certificate that is the trust anchor
}

// Vouched returns what tkauth-01 found out about the token, nil for proofs of
// other methods.
func (p Proof) Vouched() *Vouched {
	if p.p == nil {
		return nil
	}
	return p.p.Token
}

// TKAuth01Validator is the tkauth-01 method (RFC 9447) for TNAuthList
// identifiers (RFC 9448): an authority says that the account may have a
// certificate. At most the authority's certificate is fetched.
type TKAuth01Validator struct{ prover }

// NewTKAuth01 returns the tkauth-01 validator.
func NewTKAuth01(c Config) *TKAuth01Validator { return &TKAuth01Validator{newProver(c)} }

// Type returns "tkauth-01".
func (v *TKAuth01Validator) Type() Type { return TKAuth01 }

// Supports reports whether id is a list of telephone numbers.
func (v *TKAuth01Validator) Supports(id pki.Identifier) bool { return id.Type == pki.TNAuthList }

// Validate verifies the authority token, and that it is about exactly this
// identifier and this account. The proof counts as long as the token.
func (v *TKAuth01Validator) Validate(ctx context.Context, req Request) (Proof, error) {
	if err := check(v, req); err != nil {
		return Proof{}, err
	}
	if req.Authority == nil {
		return Proof{}, fault.New(fault.Malformed, "%s needs an authority token", TKAuth01)
	}
	_, thumbprint, _ := strings.Cut(req.KeyAuthorization, ".")
	ctx, cancel := context.WithTimeout(ctx, v.cfg.Timeout)
	defer cancel()
	t, err := tkauth.Verify(ctx, req.Authority.Text, tkauth.Want{Identifier: req.Identifier, Thumbprint: thumbprint}, req.Authority.Policy, v.cfg.Now())
	if err != nil {
		return Proof{}, err
	}
	p := v.prove(TKAuth01, req, nil)
	p.p.Token, p.p.Until = &Vouched{ID: t.ID, Root: t.Root[:]}, t.ExpiresAt
	return p, nil
}
