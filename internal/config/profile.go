package config

import (
	"time"

	"chancery/internal/pki"
)

// CA is one [ca.NAME] section.
type CA struct {
	// Organization in the subject of the authority's own certificates.
	Organization string `toml:"organization"`

	// Key type of the root and of the issuing authority, when they are made.
	// It does not change existing ones.
	KeyType pki.KeyType `toml:"key_type"`

	// Which policy holds on top of the profiles: private (the operator's own)
	// or public-webpki (the dated rules of the CA/Browser Forum: certificates
	// live and validations count for at most 200 days, from 2027-03-15 for 100,
	// from 2029-03-15 for 47 and 10; at least 4 remote perspectives confirm each
	// name, from 2026-12-15 at least 5). It is judged at each issuance.
	Trust Trust `toml:"trust"`

	// Profiles that clients of this directory may ask for.
	Profiles []string `toml:"profiles"`

	// Profile of an order that names none. Empty: the first of profiles.
	DefaultProfile string `toml:"default_profile"`

	// Patterns of what may be certified: example.com (that name), *.example.com
	// (all below it) or 10.0.0.0/8. Empty: anything.
	AllowNames []string `toml:"allow_names"`

	// Patterns of what may not be certified; they win over allow_names.
	DenyNames []string `toml:"deny_names"`

	// Only log what allow_names and deny_names would refuse, to try them.
	NamesShadow bool `toml:"names_shadow"`

	// Whether whoever controls a domain may authorize what is below it, by a
	// method that uses its zone (RFC 9444). A dns-persist-01 record with
	// policy=wildcard then counts for subdomains.
	Subdomains bool `toml:"subdomains"`

	// Shortest life of one certificate of an order that renews itself (RFC
	// 8739). 0: such orders are not taken.
	StarMinLifetime time.Duration `toml:"star_min_lifetime" zero:"ok"`

	// How far ahead such an order may end. 0: as far as a proved authorization
	// may be used, which is the most in any case.
	StarMaxDuration time.Duration `toml:"star_max_duration" zero:"ok"`

	// Whether such an order may let anybody fetch its certificate with GET.
	StarAllowGet bool `toml:"star_allow_get"`

	// Whether an order may let anybody fetch its certificate with GET (RFC 9115
	// section 2.3.5).
	AllowCertificateGet bool `toml:"allow_certificate_get"`

	// Whether accounts may order certificates under delegations (RFC 9115),
	// which "chancery acme delegations create" makes. It implies
	// allow_certificate_get, and star_allow_get.
	Delegation bool `toml:"delegation"`

	// Where clients may get authority tokens (RFC 9447), shown with challenges
	// of tkauth-01. Empty: they know.
	TokenAuthority string `toml:"token_authority"`

	// Fewest remote perspectives that must have been asked, and have made a
	// quorum, for each name. It is judged at each issuance; trust =
	// "public-webpki" may want more. 0: as many as there are.
	MinPerspectives int `toml:"min_perspectives" min:"0" max:"100"`

	// Number of CRL shards. A certificate's shard is fixed when it is issued,
	// so this may grow but not shrink.
	CRLShards int `toml:"crl_shards" min:"1" max:"4096"`
}

// Trust is the trust profile of an authority.
type Trust string

// Trust profiles.
const (
	Private      Trust = "private"
	PublicWebPKI Trust = "public-webpki"
)

// Choices returns the values a trust profile may have.
func (Trust) Choices() []string { return []string{string(Private), string(PublicWebPKI)} }

// Profile is one [profile.NAME] section. Keys that are left out have the
// values of the default profile.
type Profile struct {
	// One line that tells people when to choose this profile; shown in the
	// directory. Empty: the name only.
	Description string `toml:"description"`

	// How long a certificate is valid: notAfter is the moment of issuance
	// minus backdate, plus period, minus one second. Never beyond the issuer.
	Period time.Duration `toml:"period"`

	// How far notBefore lies in the past, for clients with slow clocks.
	Backdate time.Duration `toml:"backdate" zero:"ok"`

	// Key types a certificate may have.
	KeyTypes []pki.KeyType `toml:"key_types"`

	// Key usage bits: digital-signature, key-encipherment. The latter is set
	// for RSA keys only.
	KeyUsages []KeyUsage `toml:"key_usages"`

	// Extended key usages: server-auth, client-auth, email-protection,
	// code-signing. Never taken from a request. They may be left out where names
	// is TNAuthList alone.
	ExtKeyUsages []ExtKeyUsage `toml:"ext_key_usages"`

	// Kinds of names a certificate may hold: dns, wildcard, ip; and, with
	// device-attest-01, permanent-identifier (a device's serial number) and
	// hardware-module; and, with tkauth-01, TNAuthList (telephone numbers and
	// service provider codes, RFC 9448); and, with
	// email-reply-00, email (mailboxes, for S/MIME). The last two go with no
	// other kind of name in one order.
	Names []NameKind `toml:"names"`

	// DNS suffixes that every name must be equal to or end in, such as
	// "example.com". Empty: any.
	PermittedDomains []string `toml:"permitted_domains"`

	// DNS suffixes that no name may be equal to or end in.
	ExcludedDomains []string `toml:"excluded_domains"`

	// Patterns of what may be certified: example.com (that name), *.example.com
	// (all below it) or 10.0.0.0/8. Empty: anything.
	AllowNames []string `toml:"allow_names"`

	// Patterns of what may not be certified; they win over allow_names.
	DenyNames []string `toml:"deny_names"`

	// Only log what allow_names and deny_names would refuse, to try them.
	NamesShadow bool `toml:"names_shadow"`

	// Whether the subject's common name repeats a name: requested (the one that
	// the request puts there, if any), first (the first one that fits in 64
	// characters) or none.
	CommonName CommonName `toml:"common_name"`

	// Write the URL of the certificate's CRL shard into it.
	CRL bool `toml:"crl"`

	// Write the URL of the OCSP responder into it.
	OCSP bool `toml:"ocsp"`

	// Checks that every certificate must pass before it is really signed:
	// private (RFC 5280, and the Baseline Requirements that make sense for
	// names the public cannot reach), webpki (all of them) or rfc5280 alone.
	Lint LintSet `toml:"lint"`

	// Certificate Transparency logs, by the names of their [ct_log.NAME] tables,
	// the preferred ones first; more than are needed are reserves. A certificate
	// is then announced to logs before it is made, and holds their timestamps.
	// Empty: it is not.
	CTLogs []string `toml:"ct_logs"`

	// How many timestamps a certificate holds, with ct_logs.
	CTSCTs int `toml:"ct_scts" min:"1" max:"8"`

	// Of how many operators they are, at least.
	CTOperators int `toml:"ct_operators" min:"1" max:"8"`

	// Longest time for all logs together. If there are too few timestamps by
	// then, finalize is answered 503 and the client tries again.
	CTDeadline time.Duration `toml:"ct_deadline"`

	// Challenge types offered, in this order. dns-account-01 and
	// dns-persist-01, which not every client knows, must come last: some
	// clients give up at the first challenge that they do not understand.
	Challenges []Challenge `toml:"challenges"`

	// Certificates (PEM) that attestations of Apple's devices must chain to,
	// for device-attest-01. Empty: they are not accepted; so with the next three.
	AttestAppleRoots string `toml:"attest_apple_roots"`

	// The same for attestation keys of TPMs.
	AttestTPMRoots string `toml:"attest_tpm_roots"`

	// The same for keys of Android's key store.
	AttestAndroidRoots string `toml:"attest_android_roots"`

	// The same for the format of step-ca's clients, such as YubiKeys.
	AttestStepRoots string `toml:"attest_step_roots"`

	// Certificates (PEM) that authority tokens must chain to, for tkauth-01 (RFC
	// 9447).
	TokenRoots string `toml:"token_roots"`

	// Origins that the certificate of an authority token may be fetched from,
	// such as https://authority.example. Empty: tokens must bring it (x5c).
	TokenOrigins []string `toml:"token_origins"`

	// Certificates (PEM) that the TLS certificates of token_origins must chain
	// to. Empty: those that the system trusts.
	TokenOriginRoots string `toml:"token_origin_roots"`
}

// KeyUsage is a key usage bit (RFC 5280 section 4.2.1.3).
type KeyUsage string

// Choices returns the values a key usage may have.
func (KeyUsage) Choices() []string { return []string{"digital-signature", "key-encipherment"} }

// ExtKeyUsage is an extended key usage (RFC 5280 section 4.2.1.12).
type ExtKeyUsage string

// Choices returns the values an extended key usage may have.
func (ExtKeyUsage) Choices() []string {
	return []string{"server-auth", "client-auth", "email-protection", "code-signing"}
}

// NameKind is a kind of name that a profile allows.
type NameKind string

// Choices returns the values a name kind may have.
func (NameKind) Choices() []string {
	return []string{"dns", "wildcard", "ip", "permanent-identifier", "hardware-module", "TNAuthList", "email"}
}

// device reports whether n is about devices.
func (n NameKind) device() bool { return n == "permanent-identifier" || n == "hardware-module" }

// CommonName says what the subject's common name is.
type CommonName string

// Choices returns the values a common name rule may have.
func (CommonName) Choices() []string { return []string{"requested", "first", "none"} }

// LintSet is a set of certificate lints.
type LintSet string

// Choices returns the values a lint set may have.
func (LintSet) Choices() []string { return []string{"private", "webpki", "rfc5280"} }

// Challenge is an ACME challenge type.
type Challenge string

// Choices returns the values a challenge may have.
func (Challenge) Choices() []string {
	return []string{"http-01", "dns-01", "tls-alpn-01", "device-attest-01", "tkauth-01", "email-reply-00", "dns-account-01", "dns-persist-01"}
}

// late reports whether a challenge type must follow those that every client
// knows.
func (c Challenge) late() bool { return c == "dns-account-01" || c == "dns-persist-01" }

// JustInTime says for whom dns-persist-01 is tried when an order is made.
type JustInTime string

// Choices returns the values just-in-time validation may have.
func (JustInTime) Choices() []string { return []string{"known", "all", "off"} }

// Limits is the [limits] section.
type Limits struct {
	// Whether limits hold at all.
	Enabled bool `toml:"enabled"`

	// New accounts from one IPv4 address or one IPv6 /64.
	AccountsPerIP Rate `toml:"accounts_per_ip"`

	// New accounts from one IPv4 /24 or one IPv6 /48.
	AccountsPerNet Rate `toml:"accounts_per_net"`

	// New orders of one account. Orders that replace a certificate (RFC 9773)
	// do not count.
	OrdersPerAccount Rate `toml:"orders_per_account"`

	// Failed authorizations of one account for one identifier.
	FailuresPerName Rate `toml:"failures_per_name"`

	// Certificates for names under one registered domain, all accounts
	// together. Renewals do not count.
	CertificatesPerDomain Rate `toml:"certificates_per_domain"`

	// Certificates for exactly the same set of names.
	CertificatesPerNameSet Rate `toml:"certificates_per_name_set"`

	// Just-in-time validations of one name, all accounts together; beyond it an
	// order is made as if no record had been looked for.
	LookupsPerName Rate `toml:"lookups_per_name"`

	// Cost of signature checks for one IP address. One unit is about the work
	// of one P-256 check; a P-384 one costs eleven.
	VerificationsPerIP Rate `toml:"verifications_per_ip"`

	// Orders of one account that may be open at the same time. 0: any number.
	PendingOrders int `toml:"pending_orders" min:"0" max:"1000000"`

	// Requests of one token, or of one person, to the API of the control plane.
	API Rate `toml:"api"`
}
