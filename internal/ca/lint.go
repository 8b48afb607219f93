package ca

import (
	"fmt"
	"strings"
	"sync"

	"github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"

	"chancery/internal/fault"
)

// LintSet names a set of certificate checks.
type LintSet string

// Lint sets. There is no empty set: every certificate is linted.
const (
	// LintRFC is RFC 5280 and its updates alone: for authorities and OCSP
	// responders of private hierarchies.
	LintRFC LintSet = "rfc5280"
	// LintPrivate is RFC 5280 and its updates, plus the Baseline Requirements
	// that make sense for names which the public cannot reach.
	LintPrivate LintSet = "private"
	// LintWebPKI is all of RFC 5280 and the CA/Browser Forum's rules for TLS.
	LintWebPKI LintSet = "webpki"
)

// Valid reports whether s is a known set.
func (s LintSet) Valid() bool { return lintSources[s] != nil }

// sources of each set; others (vendor programs, S/MIME, code signing) do not
// apply to what Chancery issues.
var lintSources = map[LintSet]lint.SourceList{
	LintRFC:     {lint.RFC3279, lint.RFC5280, lint.RFC5480, lint.RFC5891, lint.RFC6962, lint.RFC8813},
	LintPrivate: {lint.RFC3279, lint.RFC5280, lint.RFC5480, lint.RFC5891, lint.RFC6962, lint.RFC8813, lint.CABFBaselineRequirements},
	LintWebPKI:  {lint.RFC3279, lint.RFC5280, lint.RFC5480, lint.RFC5891, lint.RFC6962, lint.RFC8813, lint.CABFBaselineRequirements, lint.Community},
}

// notPrivate are Baseline Requirements about public trust: names below public
// suffixes, reserved addresses, policy identifiers, lifetimes, and the key
// types that browsers' root programs admit.
var notPrivate = []string{
	"e_dnsname_not_valid_tld", "e_ext_san_contains_reserved_ip", "e_subject_contains_reserved_ip", "e_subject_contains_reserved_arpa_ip",
	"e_sub_cert_cert_policy_empty", "e_sub_cert_certificate_policies_missing",
	"e_public_key_type_not_allowed", "e_signature_algorithm_not_supported", "e_algorithm_identifier_improper_encoding",
	"e_sub_cert_valid_time_longer_than_39_months", "e_sub_cert_valid_time_longer_than_825_days", "e_server_cert_valid_time_longer_than_200_days",
	"e_server_cert_valid_time_longer_than_100_days", "e_server_cert_valid_time_longer_than_47_days",
}

// slow are lints whose cost is out of proportion to what they can find in a
// certificate of our own making: this one compares against a list of
// compromised issuers of 2008 and alone takes milliseconds.
var slow = []string{"e_cert_issued_by_compromised_emudhra_ca"}

// registries are built once per process; filtering zlint's costs milliseconds.
var registries = map[LintSet]func() (lint.Registry, error){
	LintRFC:     sync.OnceValues(func() (lint.Registry, error) { return buildRegistry(LintRFC, nil) }),
	LintPrivate: sync.OnceValues(func() (lint.Registry, error) { return buildRegistry(LintPrivate, notPrivate) }),
	LintWebPKI:  sync.OnceValues(func() (lint.Registry, error) { return buildRegistry(LintWebPKI, nil) }),
}

func buildRegistry(s LintSet, exclude []string) (lint.Registry, error) {
	return lint.GlobalRegistry().Filter(lint.FilterOptions{
		IncludeSources: lintSources[s], ExcludeNames: append(exclude, slow...)})
}

// check lints a certificate that was signed by a throw-away key.
func (s LintSet) check(der []byte) error {
	build := registries[s]
	if build == nil {
		return fmt.Errorf("lint set %q is unknown", s)
	}
	reg, err := build()
	if err != nil {
		return fmt.Errorf("build lint set %s: %w", s, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("lint: the certificate to be signed does not parse: %w", err)
	}
	res := zlint.LintCertificateEx(cert, reg)
	if !res.ErrorsPresent && !res.FatalsPresent {
		return nil
	}
	var failed []string
	for name, r := range res.Results {
		if r.Status >= lint.Error {
			failed = append(failed, strings.TrimSpace(name+" "+r.Details))
		}
	}
	return fault.New(fault.BadCSR, "the certificate would break a rule and was not signed: %s", strings.Join(failed, "; "))
}
