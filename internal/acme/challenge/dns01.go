package challenge

import (
	"context"
	"crypto/sha256"
	"encoding/base64"

	"chancery/internal/dns"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// dnsPrefix is the label under which dns-01 records live (RFC 8555 section 8.4).
const dnsPrefix = "_acme-challenge."

// DNS01Validator is the dns-01 method (RFC 8555 section 8.4): a TXT record
// only someone who runs the zone can publish. It alone proves wildcards.
type DNS01Validator struct{ prover }

// NewDNS01 returns the dns-01 validator.
func NewDNS01(c Config) *DNS01Validator { return &DNS01Validator{newProver(c)} }

// Type returns "dns-01".
func (v *DNS01Validator) Type() Type { return DNS01 }

// Supports reports whether id is a DNS name; wildcards are.
func (v *DNS01Validator) Supports(id pki.Identifier) bool {
	return id.Type == pki.DNS && id.Value != ""
}

// Validate looks for the TXT record. Aliases are followed; one matching record
// among many is enough, for a name may have several orders under way.
func (v *DNS01Validator) Validate(ctx context.Context, req Request) (Proof, error) {
	if err := check(v, req); err != nil {
		return Proof{}, err
	}
	base, _ := split(req.Identifier)
	return v.digestAt(ctx, DNS01, req, dnsPrefix+base.Value)
}

// digestAt proves req if one of the TXT records at query is the digest of its
// key authorization.
func (p prover) digestAt(ctx context.Context, t Type, req Request, query string) (Proof, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	step := Step{Query: query}
	session := p.cfg.Resolver.Session(dns.Limits{MaxAge: dns.NoCache, Queries: p.cfg.MaxQueries})
	found, err := session.TXT(ctx, query)
	if err != nil {
		return Proof{}, &failure{dnsFault(err, "TXT"), []Step{step}}
	}
	step.Chain = found.Chain
	want := DNS01Value(req.KeyAuthorization)
	for _, txt := range found.Records {
		if txt == want {
			return p.prove(t, req, []Step{step}), nil
		}
	}
	return Proof{}, &failure{fault.New(fault.IncorrectResponse, "none of the %d TXT records at %s is \"%s\"; the first is %s",
		len(found.Records), query, want, quote(found.Records[0])), []Step{step}}
}

// DNS01Value returns the content of the TXT record for a key authorization:
// base64url of its SHA-256 digest.
func DNS01Value(keyAuthorization string) string {
	sum := sha256.Sum256([]byte(keyAuthorization))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
