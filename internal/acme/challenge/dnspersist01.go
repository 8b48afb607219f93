package challenge

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"chancery/internal/dns"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// persistPrefix is the label under which dns-persist-01 records live.
const persistPrefix = "_validation-persist."

// MaxIssuers is how many issuer domain names a dns-persist-01 challenge may
// name (section 3.1).
const MaxIssuers = 10

// Persist is what a dns-persist-01 record must say to count for an account. It
// takes the place of token and key authorization, which the method has not.
type Persist struct {
	// Issuers are the issuer domain names of the challenge: lower case, no
	// trailing dot.
	Issuers []string

	// HashPrefix is the accountHashPrefix of the directory.
	HashPrefix string

	// Thumbprints are those of every key that the account has had (RFC 7638,
	// base64url): the present one first, then back in time.
	Thumbprints []string

	// PlainURL takes records whose accounturi is the account's URL as it is,
	// the form of the drafts before 02.
	PlainURL bool

	// Ancestors takes records of parent domains that say policy=wildcard, up
	// to the registered domain (section 6).
	Ancestors bool
}

// DNSPersist01Validator is the dns-persist-01 method
// (draft-ietf-acme-dns-persist-02): a TXT record that stays, and that names
// this CA and the applicant's account.
type DNSPersist01Validator struct{ prover }

// NewDNSPersist01 returns the dns-persist-01 validator.
func NewDNSPersist01(c Config) *DNSPersist01Validator { return &DNSPersist01Validator{newProver(c)} }

// Type returns "dns-persist-01".
func (v *DNSPersist01Validator) Type() Type { return DNSPersist01 }

// Supports reports whether id is a DNS name under which the label fits;
// wildcards are. The draft defines the method for no other identifier type.
func (v *DNSPersist01Validator) Supports(id pki.Identifier) bool {
	base, _ := split(id)
	return id.Type == pki.DNS && id.Value != "" && len(base.Value)+len(persistPrefix) <= maxName
}

// Validate looks for a record that authorizes the account (section 4.2): at
// the name itself and, if the terms say so, at its parents.
func (v *DNSPersist01Validator) Validate(ctx context.Context, req Request) (Proof, error) {
	if err := v.check(req); err != nil {
		return Proof{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, v.cfg.Timeout)
	defer cancel()
	session := v.cfg.Resolver.Session(dns.Limits{MaxAge: dns.NoCache, Queries: v.cfg.MaxQueries})
	base, wild := split(req.Identifier)
	var steps []Step
	var first error
	for i, domain := range v.domains(base.Value, req.Persist.Ancestors) {
		until, step, err := v.recordAt(ctx, session, req, domain, wild || req.Subdomains || i > 0)
		steps = append(steps, step)
		if err == nil {
			p := v.prove(DNSPersist01, req, steps)
			p.p.Until = until
			return p, nil
		}
		if first == nil {
			first = err
		}
		if class := dns.ClassOf(err); class != "" && !class.Authoritative() {
			break // a parent must not decide while the name itself cannot be read
		}
	}
	return Proof{}, &failure{first, steps}
}

// check is check for a method without a token.
func (v *DNSPersist01Validator) check(req Request) error {
	if !v.Supports(req.Identifier) {
		return fault.New(fault.Malformed, "%s cannot validate the identifier %s", DNSPersist01, quote(req.Identifier.Value))
	}
	base, wild := split(req.Identifier)
	if wild && req.Subdomains {
		return fault.New(fault.Malformed, "%s cannot prove what is below %s", DNSPersist01, quote(req.Identifier.Value))
	}
	if !isHostName(base.Value) {
		return fault.New(fault.Malformed, "the identifier %s is not a DNS name in lower case", quote(base.Value))
	}
	if p := req.Persist; req.AccountURL == "" || p == nil || len(p.Issuers) == 0 || p.HashPrefix == "" || len(p.Thumbprints) == 0 {
		return fault.New(fault.Malformed, "a validation by %s needs the account it is for, its keys and this CA's names", DNSPersist01)
	}
	return nil
}

// maxParents bounds how far up a record is looked for.
const maxParents = 8

// domains returns name and, if parents count, those above it that are not
// public suffixes.
func (v *DNSPersist01Validator) domains(name string, parents bool) []string {
	list := []string{name}
	top, err := publicsuffix.EffectiveTLDPlusOne(name)
	if err != nil || !parents {
		return list
	}
	for name != top && len(list) <= maxParents {
		_, name, _ = strings.Cut(name, ".")
		list = append(list, name)
	}
	return list
}

// recordAt judges the records of one domain. Any one that satisfies everything
// is enough (section 4.3.2); else the error is about the first that names this
// CA. wide demands policy=wildcard.
func (v *DNSPersist01Validator) recordAt(ctx context.Context, s *dns.Session, req Request, domain string, wide bool) (until time.Time, step Step, err error) {
	step.Query = persistPrefix + domain
	found, err := s.TXT(ctx, step.Query)
	if err != nil {
		return until, step, dnsFault(err, "TXT")
	}
	step.Chain = found.Chain
	accounts := req.Persist.accountURIs(domain, req.AccountURL)
	for _, text := range found.Records {
		r, ok := parseIssue(text)
		if !ok || !slices.Contains(req.Persist.Issuers, r.domain) {
			continue
		}
		until, bad := r.persists(req.Persist, accounts, wide, v.cfg.Now())
		if bad == nil {
			return until, step, nil
		}
		if err == nil {
			err = fault.Wrap(bad, bad.Code, "the record %s at %s: %s", quote(text), step.Query, bad.Detail)
		}
	}
	if err == nil {
		err = fault.New(fault.Unauthorized, "none of the %d TXT records at %s names this CA (%s) as its issuer; the first is %s",
			len(found.Records), step.Query, strings.Join(req.Persist.Issuers, " or "), quote(found.Records[0]))
	}
	return until, step, err
}

// persists judges a record that names this CA as its issuer and returns until
// when it holds, zero if for ever. Unknown parameters are without meaning
// (section 4.1).
func (r issueValue) persists(terms *Persist, accounts []string, wide bool, now time.Time) (until time.Time, err *fault.Error) {
	seen := map[string]string{}
	for _, p := range r.params {
		switch p.tag {
		case "accounturi", "policy", "persistuntil":
			if _, twice := seen[p.tag]; twice {
				return until, fault.New(fault.Malformed, "%s is there twice", p.tag)
			}
			seen[p.tag] = p.value
		}
	}
	account, ok := seen["accounturi"]
	if !ok {
		return until, fault.New(fault.Malformed, "it has no accounturi")
	}
	if text, ok := seen["persistuntil"]; ok {
		if until, ok = parseUntil(text); !ok {
			return time.Time{}, fault.New(fault.Malformed, "persistUntil is not a number of seconds since 1970")
		}
	}
	switch {
	case !slices.Contains(accounts, account) && !terms.wellFormed(account):
		return time.Time{}, fault.New(fault.Malformed, "accounturi is not %ssha-256/ and a digest in base64url", terms.HashPrefix)
	case !slices.Contains(accounts, account):
		return time.Time{}, fault.New(fault.Unauthorized, "accounturi is about another account, key or domain")
	case !until.IsZero() && now.After(until):
		return time.Time{}, fault.New(fault.Unauthorized, "persistUntil was %s", until.Format(time.RFC3339))
	case wide && !strings.EqualFold(seen["policy"], "wildcard"):
		return time.Time{}, fault.New(fault.Unauthorized, "it does not say policy=wildcard, which wildcards and names below it need")
	}
	return until, nil
}

// lastUntil is the last second that RFC 3339 can write.
const lastUntil = 253402300799

// parseUntil reads a base-10 integer of Unix seconds. What lies beyond the
// year 9999 is as good as the end of it.
func parseUntil(s string) (time.Time, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return time.Time{}, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > lastUntil {
		n = lastUntil // only too many digits can be wrong with digits
	}
	return time.Unix(n, 0).UTC(), true
}

// accountURIs returns every accounturi that a record of domain may have: for
// each key with the domain and without, and the account's URL if that counts.
func (p *Persist) accountURIs(domain, accountURL string) []string {
	list := make([]string, 0, 2*len(p.Thumbprints)+1)
	for _, key := range p.Thumbprints {
		list = append(list, AccountHashURI(p.HashPrefix, domain, key, accountURL), AccountHashURI(p.HashPrefix, "*", key, accountURL))
	}
	if p.PlainURL {
		list = append(list, accountURL)
	}
	return list
}

// wellFormed reports whether uri is a hashed URI of this CA, whatever account
// it means.
func (p *Persist) wellFormed(uri string) bool {
	digest, ok := strings.CutPrefix(uri, p.HashPrefix+"sha-256/")
	raw, err := base64.RawURLEncoding.Strict().DecodeString(digest)
	return ok && err == nil && len(raw) == sha256.Size
}

// AccountHashURI returns the accounturi of a record (section 4.1): prefix is
// the directory's accountHashPrefix, domain the name that the record stands
// at, or "*" for a record that serves many domains, and thumbprint that of the
// account's key in base64url.
func AccountHashURI(prefix, domain, thumbprint, accountURL string) string {
	b := make([]byte, 0, 1+len(domain)+len(thumbprint)+len(accountURL))
	b = append(b, byte(len(domain)))
	b = append(append(append(b, domain...), thumbprint...), accountURL...)
	sum := sha256.Sum256(b)
	return prefix + "sha-256/" + base64.RawURLEncoding.EncodeToString(sum[:])
}
