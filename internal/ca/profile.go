package ca

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Profile is what certificates of one kind have in common. It is data: it comes
// from the configuration, is hashed, and an order keeps the hash, so that a
// change of configuration never changes an order that was accepted before.
type Profile struct {
	Name        string        `json:"name"`
	Description string        `json:"description,omitempty"`
	Period      time.Duration `json:"period_ns"`   // notAfter = notBefore + Period - 1 s
	Backdate    time.Duration `json:"backdate_ns"` // notBefore = now - Backdate

	KeyTypes    []pki.KeyType           `json:"key_types"` // allowed subject keys
	KeyUsage    x509.KeyUsage           `json:"key_usage"`
	ExtKeyUsage []asn1.ObjectIdentifier `json:"ext_key_usage"`
	Policies    []asn1.ObjectIdentifier `json:"policies,omitempty"`
	CommonName  pki.CNRule              `json:"common_name"`
	Identifiers []pki.IdentifierType    `json:"identifiers"`        // allowed identifier types
	Wildcard    bool                    `json:"wildcard,omitempty"` // "*." names are allowed
	Permitted   []string                `json:"permitted"`          // DNS suffixes; nil: any name, empty: none
	Excluded    []string                `json:"excluded,omitempty"` // DNS suffixes; win over Permitted
	MustStaple  bool                    `json:"must_staple,omitempty"`
	Lint        LintSet                 `json:"lint"`
	CT          *CT                     `json:"ct,omitempty"` // nil: certificates are not logged

	// The rest is for certificates that Chancery makes for itself.
	Authority bool `json:"authority,omitempty"` // basicConstraints cA
	PathLen   int  `json:"path_len,omitempty"`  // with Authority
	NoCheck   bool `json:"no_check,omitempty"`  // id-pkix-ocsp-nocheck
	NoOCSP    bool `json:"no_ocsp,omitempty"`   // no OCSP pointer
	NoCRL     bool `json:"no_crl,omitempty"`    // no CRL pointer

	hash string // memo of Hash, set once the profile is registered and immutable
}

// DefaultProfiles are the profiles of a fresh installation: "tls" for servers,
// and "short" for those who renew so often that they need no revocation.
func DefaultProfiles() []Profile {
	tls := Profile{
		Name: "tls", Description: "TLS servers, 90 days",
		Period: 90 * 24 * time.Hour, Backdate: 5 * time.Minute,
		KeyTypes:    slices.Clone(pki.KeyTypes),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []asn1.ObjectIdentifier{pki.EKUServerAuth},
		CommonName:  pki.CNRequested,
		Identifiers: []pki.IdentifierType{pki.DNS, pki.IP},
		Wildcard:    true,
		MustStaple:  true,
		Lint:        LintPrivate,
	}
	short := tls
	short.Name, short.Description, short.Period = "short", "TLS servers, 6 days", 6*24*time.Hour
	return []Profile{tls, short}
}

// own returns a profile for certificates that Chancery makes for itself.
func own(name string, period time.Duration, usage x509.KeyUsage) Profile {
	return Profile{Name: name, Period: period, Backdate: 5 * time.Minute, KeyTypes: pki.KeyTypes,
		KeyUsage: usage, CommonName: pki.CNNone, Lint: LintRFC}
}

// Hash returns the hex SHA-256 of the profile's content.
func (p *Profile) Hash() string {
	if p.hash != "" {
		return p.hash
	}
	sum := sha256.Sum256(p.encode())
	return hex.EncodeToString(sum[:])
}

func (p *Profile) encode() []byte {
	b, err := json.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("ca: encode profile %s: %v", p.Name, err)) // plain data always encodes
	}
	return b
}

var (
	qInsertProfile = db.SQL("ca.insert_profile", `INSERT INTO profile (hash, name, data, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`)
	qProfile       = db.SQL("ca.get_profile", `SELECT data FROM profile WHERE hash = $1`)
)

// Register checks profiles and stores their content, so that whatever pins one
// by its hash finds it again after the configuration changed. It returns the
// registered copies by name; they must not be changed.
func (s *Service) Register(ctx context.Context, profiles []Profile) (map[string]*Profile, error) {
	byName := make(map[string]*Profile, len(profiles))
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		for _, p := range profiles {
			if err := p.Check(); err != nil {
				return err
			}
			p.hash = p.Hash()
			byName[p.Name] = &p
			s.profiles.Store(p.hash, &p)
			tx.Queue(qInsertProfile, nil, p.hash, p.Name, string(p.encode()), time.Now())
		}
		return nil
	})
	return byName, err
}

// Profile returns the registered profile with this hash.
func (s *Service) Profile(ctx context.Context, hash string) (*Profile, error) {
	if p, ok := s.profiles.Load(hash); ok {
		return p.(*Profile), nil
	}
	text, err := db.Get(ctx, s.db.Read(), qProfile, (*db.Row).Text, hash)
	if errors.Is(err, db.ErrNotFound) {
		return nil, fmt.Errorf("profile %s is not registered", hash)
	}
	if err != nil {
		return nil, err
	}
	p := &Profile{hash: hash}
	if err := json.Unmarshal([]byte(text), p); err != nil {
		return nil, fmt.Errorf("decode profile %s: %w", hash, err)
	}
	s.profiles.Store(hash, p)
	return p, nil
}

// Check reports what makes p unusable.
func (p *Profile) Check() error {
	switch {
	case p.Name == "":
		return fault.New(fault.Invalid, "a profile needs a name")
	case p.Period < time.Hour:
		return fault.New(fault.Invalid, "profile %s: period must be at least 1h", p.Name)
	case p.Backdate < 0 || p.Backdate > p.Period/2:
		return fault.New(fault.Invalid, "profile %s: backdate must be between 0 and half of period", p.Name)
	case len(p.KeyTypes) == 0:
		return fault.New(fault.Invalid, "profile %s: key_types allows no key; name at least one", p.Name)
	case !p.CommonName.Valid():
		return fault.New(fault.Invalid, "profile %s: common_name %q is not a rule", p.Name, p.CommonName)
	case !p.Lint.Valid():
		return fault.New(fault.Invalid, "profile %s: lint set %q is unknown", p.Name, p.Lint)
	}
	if err := p.CT.check(p.Name); err != nil {
		return err
	}
	for _, k := range p.KeyTypes {
		if !k.Valid() {
			return fault.New(fault.Invalid, "profile %s: key type %q is unknown", p.Name, k)
		}
	}
	return nil
}

// Permits returns a rejectedIdentifier fault for a name that p does not certify.
func (p *Profile) Permits(id pki.Identifier) error {
	switch {
	case !slices.Contains(p.Identifiers, id.Type):
		return fault.New(fault.RejectedIdentifier, "profile %s does not certify %s identifiers", p.Name, id.Type)
	case id.Wildcard() && !p.Wildcard:
		return fault.New(fault.RejectedIdentifier, "profile %s does not certify wildcards; order each name", p.Name)
	case id.Type != pki.DNS:
		return nil
	}
	name := id.Base().Value
	under := func(suffix string) bool {
		suffix = strings.ToLower(strings.Trim(suffix, "."))
		return name == suffix || strings.HasSuffix(name, "."+suffix)
	}
	if slices.ContainsFunc(p.Excluded, under) || p.Permitted != nil && !slices.ContainsFunc(p.Permitted, under) {
		return fault.New(fault.RejectedIdentifier, "profile %s does not certify %s; ask the operator which domains it covers", p.Name, id.Value)
	}
	return nil
}

// validity returns the life of a certificate under p and the terms of who
// trusts its issuer, within the issuer's life. A
// requested start or end must lie inside what p would give (RFC 8555 section
// 7.4 lets a server refuse others).
func (p *Profile) validity(now time.Time, terms Terms, notBefore, notAfter, issuerEnd time.Time) (from, to time.Time, err error) {
	start := now.Add(-p.Backdate)
	from, to = pki.Validity(start, terms.Period(p.Period), issuerEnd)
	if !notBefore.IsZero() {
		if notBefore.Before(from) || !notBefore.Before(to) {
			return from, to, fault.New(fault.Malformed, "notBefore must be between %s and the end of the certificate", from.Format(time.RFC3339))
		}
		from = notBefore.UTC().Truncate(time.Second)
	}
	if !notAfter.IsZero() {
		if notAfter.After(to) || !notAfter.After(from) {
			return from, to, fault.New(fault.Malformed, "notAfter must be after notBefore and not after %s, the longest that profile %s allows", to.Format(time.RFC3339), p.Name)
		}
		to = notAfter.UTC().Truncate(time.Second)
	}
	if !to.After(now) {
		return from, to, fault.New(fault.Unavailable, "the issuing authority's certificate has expired or is about to; the operator must renew it").Retry(time.Hour)
	}
	return from, to, nil
}
