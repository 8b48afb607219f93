package acme

import (
	"encoding/json/jsontext"
	"errors"
	"time"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Time is an instant as ACME writes it: RFC 3339, in UTC, whole seconds.
// The zero Time is left out of objects.
type Time struct{ time.Time }

// At returns t in UTC without the fraction of its second.
func At(t time.Time) Time { return Time{t.UTC().Truncate(time.Second)} }

// MarshalJSON writes RFC 3339 in UTC with whole seconds, whatever t holds.
func (t Time) MarshalJSON() ([]byte, error) { return t.appendJSON(nil), nil }

// UnmarshalJSON reads RFC 3339 in any zone, with or without a fraction, and
// keeps UTC and whole seconds.
func (t *Time) UnmarshalJSON(text []byte) error {
	var v time.Time
	if err := v.UnmarshalJSON(text); err != nil {
		return err
	}
	if *t = At(v); t.Year() < 1 || t.Year() > 9999 { // a zone may lead out of what RFC 3339 can write
		return errYear
	}
	return nil
}

var errYear = errors.New("year is not in 1 to 9999")

// Directory is the entry object (RFC 8555 section 7.1.1).
type Directory struct {
	NewNonce    string `json:"newNonce"`
	NewAccount  string `json:"newAccount"`
	NewOrder    string `json:"newOrder"`
	NewAuthz    string `json:"newAuthz,omitempty"` // pre-authorization; "" when not offered
	RevokeCert  string `json:"revokeCert"`
	KeyChange   string `json:"keyChange"`
	RenewalInfo string `json:"renewalInfo,omitempty"` // RFC 9773
	Meta        Meta   `json:"meta,omitzero"`
}

// Meta is the "meta" of a directory.
type Meta struct {
	TermsOfService          string            `json:"termsOfService,omitempty"`
	Website                 string            `json:"website,omitempty"`
	CAAIdentities           []string          `json:"caaIdentities,omitempty"`
	ExternalAccountRequired bool              `json:"externalAccountRequired,omitzero"`
	Profiles                map[string]string `json:"profiles,omitempty"`             // profiles draft: name to description
	SubdomainAuthAllowed    bool              `json:"subdomainAuthAllowed,omitzero"`  // RFC 9444
	AutoRenewal             *AutoRenewalMeta  `json:"auto-renewal,omitempty"`         // RFC 8739
	DelegationEnabled       bool              `json:"delegation-enabled,omitzero"`    // RFC 9115
	AllowCertificateGet     bool              `json:"allow-certificate-get,omitzero"` // RFC 9115
	IssuerDomainNames       []string          `json:"issuerDomainNames,omitempty"`    // dns-persist-01: what records may name as issuer
	AccountHashPrefix       string            `json:"accountHashPrefix,omitempty"`    // dns-persist-01: how a record's accounturi begins
}

// IsZero reports whether no member is set, so that "meta" is left out.
func (m Meta) IsZero() bool {
	return m.TermsOfService == "" && m.Website == "" && len(m.CAAIdentities) == 0 && !m.ExternalAccountRequired &&
		len(m.Profiles) == 0 && !m.SubdomainAuthAllowed && m.AutoRenewal == nil && !m.DelegationEnabled && !m.AllowCertificateGet &&
		len(m.IssuerDomainNames) == 0 && m.AccountHashPrefix == ""
}

// AutoRenewalMeta says what STAR orders a server takes (RFC 8739 section 3.2).
type AutoRenewalMeta struct {
	MinLifetime         int64 `json:"min-lifetime"` // seconds
	MaxDuration         int64 `json:"max-duration"` // seconds
	AllowCertificateGet bool  `json:"allow-certificate-get,omitzero"`
}

// Account is an account object (RFC 8555 section 7.1.2).
type Account struct {
	Status                 AccountStatus  `json:"status"`
	Contact                []string       `json:"contact,omitempty"`
	TermsOfServiceAgreed   bool           `json:"termsOfServiceAgreed,omitzero"`
	ExternalAccountBinding jsontext.Value `json:"externalAccountBinding,omitempty"`
	Orders                 string         `json:"orders"`                // URL
	Delegations            string         `json:"delegations,omitempty"` // RFC 9115 section 2.3.1: URL
}

// NewAccount is the payload of new-account (RFC 8555 section 7.3).
type NewAccount struct {
	Contact                []string       `json:"contact,omitempty"`
	TermsOfServiceAgreed   bool           `json:"termsOfServiceAgreed,omitzero"`
	OnlyReturnExisting     bool           `json:"onlyReturnExisting,omitzero"`
	ExternalAccountBinding jsontext.Value `json:"externalAccountBinding,omitempty"` // VerifyEAB reads it
}

// AccountUpdate is the payload of a POST to an account URL (RFC 8555 sections
// 7.3.2 and 7.3.6). A nil Contact leaves the contacts as they are; a pointer
// to an empty list removes them.
type AccountUpdate struct {
	Contact              *[]string     `json:"contact,omitempty"`
	TermsOfServiceAgreed bool          `json:"termsOfServiceAgreed,omitzero"`
	Status               AccountStatus `json:"status,omitempty"` // "" or deactivated
}

// OrderList is one page of an account's orders (RFC 8555 section 7.1.2.1).
type OrderList struct {
	Orders []string `json:"orders"`
}

// DelegationList is one page of an account's delegations (RFC 9115 section
// 2.3.1.2).
type DelegationList struct {
	Delegations []string `json:"delegations"` // URLs
}

// Delegation is what an account may order in another's name (RFC 9115 section
// 2.3.1.3).
type Delegation struct {
	CSRTemplate jsontext.Value    `json:"csr-template"`        // see ParseTemplate
	CNAMEMap    map[string]string `json:"cname-map,omitempty"` // absolute names: what is delegated, and what it is an alias of
}

// Identifier is an identifier as a client asks for it. Replies hold
// pki.Identifier.
type Identifier struct {
	Type                 pki.IdentifierType `json:"type"`
	Value                string             `json:"value"`
	AncestorDomain       string             `json:"ancestorDomain,omitempty"`      // RFC 9444 section 4.3: new-order only
	SubdomainAuthAllowed bool               `json:"subdomainAuthAllowed,omitzero"` // RFC 9444 section 4.2: new-authz only
}

// PKI returns the identifier alone.
func (id Identifier) PKI() pki.Identifier { return pki.Identifier{Type: id.Type, Value: id.Value} }

// NewOrder is the payload of new-order (RFC 8555 section 7.4).
type NewOrder struct {
	Identifiers         []Identifier `json:"identifiers"`
	NotBefore           Time         `json:"notBefore,omitzero"`
	NotAfter            Time         `json:"notAfter,omitzero"`
	Replaces            string       `json:"replaces,omitempty"`             // RFC 9773 certificate id
	Profile             string       `json:"profile,omitempty"`              // profiles draft
	AutoRenewal         *AutoRenewal `json:"auto-renewal,omitempty"`         // RFC 8739
	Delegation          string       `json:"delegation,omitempty"`           // RFC 9115: URL
	AllowCertificateGet bool         `json:"allow-certificate-get,omitzero"` // RFC 9115
}

// AutoRenewal is the STAR part of an order (RFC 8739 section 3.1.1). Durations
// are seconds.
type AutoRenewal struct {
	StartDate           Time  `json:"start-date,omitzero"`
	EndDate             Time  `json:"end-date"`
	Lifetime            int64 `json:"lifetime"`
	LifetimeAdjust      int64 `json:"lifetime-adjust,omitzero"`
	AllowCertificateGet bool  `json:"allow-certificate-get,omitzero"`
}

// Order is an order object (RFC 8555 section 7.1.3).
type Order struct {
	Status              OrderStatus      `json:"status"`
	Expires             Time             `json:"expires,omitzero"`
	Identifiers         []pki.Identifier `json:"identifiers"`
	NotBefore           Time             `json:"notBefore,omitzero"`
	NotAfter            Time             `json:"notAfter,omitzero"`
	Profile             string           `json:"profile,omitempty"`
	Replaces            string           `json:"replaces,omitempty"`
	AutoRenewal         *AutoRenewal     `json:"auto-renewal,omitempty"`
	Delegation          string           `json:"delegation,omitempty"`
	AllowCertificateGet bool             `json:"allow-certificate-get,omitzero"`
	Error               *Problem         `json:"error,omitempty"`
	Authorizations      []string         `json:"authorizations"` // URLs
	Finalize            string           `json:"finalize"`       // URL
	Certificate         string           `json:"certificate,omitempty"`
	StarCertificate     string           `json:"star-certificate,omitempty"`
}

// Authorization is an authorization object (RFC 8555 section 7.1.4).
type Authorization struct {
	Identifier           pki.Identifier      `json:"identifier"` // without "*."
	Status               AuthorizationStatus `json:"status"`
	Expires              Time                `json:"expires,omitzero"`
	Challenges           []Challenge         `json:"challenges"`
	Wildcard             bool                `json:"wildcard,omitzero"`
	SubdomainAuthAllowed bool                `json:"subdomainAuthAllowed,omitzero"` // RFC 9444
}

// Challenge is a challenge object (RFC 8555 section 7.1.5). Which of the last
// members stand depends on the type.
type Challenge struct {
	Type              string          `json:"type"`
	URL               string          `json:"url"`
	Status            ChallengeStatus `json:"status"`
	Validated         Time            `json:"validated,omitzero"`
	Error             *Problem        `json:"error,omitempty"`
	Token             string          `json:"token,omitempty"`
	IssuerDomainNames []string        `json:"issuerDomainNames,omitempty"` // dns-persist-01
	From              string          `json:"from,omitempty"`              // email-reply-00 (RFC 8823)
	TKAuthType        string          `json:"tkauth-type,omitempty"`       // tkauth-01 (RFC 9447)
	TokenAuthority    string          `json:"token-authority,omitempty"`   // tkauth-01 (RFC 9447): URL

	// dns-persist-01 before draft 02: the same names under another, and the
	// URI that a record may name.
	IssuerDomainNamesOld []string `json:"issuer-domain-names,omitempty"`
	AccountURI           string   `json:"accounturi,omitempty"`
}

// ChallengeResponse is the payload of a POST to a challenge URL: an empty
// object for most types (RFC 8555 section 7.5.1).
type ChallengeResponse struct {
	AttObj string `json:"attObj,omitempty"` // device-attest-01: base64url CBOR
	TKAuth string `json:"tkauth,omitempty"` // tkauth-01 (RFC 9447): authority token
}

// NewAuthorization is the payload of new-authz (RFC 8555 section 7.4.1).
type NewAuthorization struct {
	Identifier Identifier `json:"identifier"`
}

// AuthorizationUpdate is the payload of a POST to an authorization URL (RFC
// 8555 section 7.5.2).
type AuthorizationUpdate struct {
	Status AuthorizationStatus `json:"status"` // deactivated
}

// OrderUpdate is the payload that cancels a STAR order (RFC 8739 section 3.1.2).
type OrderUpdate struct {
	Status OrderStatus `json:"status"` // canceled
}

// Finalize is the payload of an order's finalize URL (RFC 8555 section 7.4).
type Finalize struct {
	CSR string `json:"csr"` // base64url DER
}

// DER returns the DER of the CSR, not parsed. Errors are fault.BadCSR.
func (f Finalize) DER() ([]byte, error) {
	der, err := decodeBase64(f.CSR)
	if err != nil || len(der) == 0 {
		return nil, fault.Wrap(err, fault.BadCSR, `"csr" must be the DER of a PKCS#10 request in base64url without padding (not PEM)`)
	}
	return der, nil
}

// Revocation is the payload of revoke-cert (RFC 8555 section 7.6).
type Revocation struct {
	Certificate string `json:"certificate"`      // base64url DER
	Reason      *int   `json:"reason,omitempty"` // RFC 5280 section 5.3.1; nil is 0, unspecified
}

// DER returns the DER of the certificate, not parsed. Errors are
// fault.Malformed.
func (r Revocation) DER() ([]byte, error) {
	der, err := decodeBase64(r.Certificate)
	if err != nil || len(der) == 0 {
		return nil, fault.Wrap(err, fault.Malformed, `"certificate" must be the DER of a certificate in base64url without padding (not PEM)`)
	}
	return der, nil
}

// KeyChange is the inner payload of a key roll-over (RFC 8555 section 7.3.5).
type KeyChange struct {
	Account string         `json:"account"` // account URL
	OldKey  jsontext.Value `json:"oldKey"`  // JWK
}

// RenewalInfo says when to renew a certificate (RFC 9773 section 4.2).
type RenewalInfo struct {
	SuggestedWindow Window `json:"suggestedWindow"`
	ExplanationURL  string `json:"explanationURL,omitempty"`
}

// Window is a span of time; clients renew at a random instant in it.
type Window struct {
	Start Time `json:"start"`
	End   Time `json:"end"`
}
