package ca

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zmap/zcrypto/x509"
	_ "github.com/zmap/zlint/v3" // registers the lints
	"github.com/zmap/zlint/v3/lint"
	"github.com/zmap/zlint/v3/util"

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
// suffixes, reserved addresses, policy identifiers, lifetimes, devices, and the key
// types that browsers' root programs admit.
var notPrivate = []string{
	"e_dnsname_not_valid_tld", "e_ext_san_contains_reserved_ip", "e_subject_contains_reserved_ip", "e_subject_contains_reserved_arpa_ip",
	"e_sub_cert_cert_policy_empty", "e_sub_cert_certificate_policies_missing",
	"e_ext_san_other_name_present", // devices
	"e_public_key_type_not_allowed", "e_signature_algorithm_not_supported", "e_algorithm_identifier_improper_encoding",
	"e_sub_cert_valid_time_longer_than_39_months", "e_sub_cert_valid_time_longer_than_825_days", "e_server_cert_valid_time_longer_than_200_days",
	"e_server_cert_valid_time_longer_than_100_days", "e_server_cert_valid_time_longer_than_47_days",
}

// slow are lints whose cost is out of proportion to what they can find in a
// certificate of our own making: this one compares against a list of
// compromised issuers of 2008 and alone takes milliseconds.
var slow = []string{"e_cert_issued_by_compromised_emudhra_ca"}

// varying matches the lints that look at what differs between certificates of
// one model: serial, validity, subject, key, names, the URL of the CRL shard,
// and the DER as a whole. All others look only at bytes that are the same in
// every certificate of a model.
var varying = regexp.MustCompile(`dnsname|algorithm_identifier|_san_|_san$|serial|valid|backdated|_time_|rsa_|_ec_|ecc_|ecdsa|public_key|spki|dsa_|fermat|` +
	`subject|subj_|common_name|international|underscore|arpa|tor_service|crl_distrib|cdp|distribution_point|` +
	`duplicate|invalid_der|empty_sequence|utf8|onion|unique_identifier|printable`)

// linter runs one lint set. Only lints that can refuse are in it: warnings and
// notices change nothing.
type linter struct {
	all    *sync.Pool // of []bound
	some   *sync.Pool // of []bound: those that a model does not settle
	few    *sync.Pool // of []bound: those that it does not settle for what is usual
	models sync.Map   // *model by modelKey: what passed all
	dates  dates      // of all
}

// bound is a lint with an instance of its code. Instances may keep state, so
// one goroutine uses them at a time.
type bound struct {
	meta *lint.CertificateLint
	impl lint.CertificateLintInterface
}

// linters are built once per process; filtering zlint's registry costs
// milliseconds.
var linters = map[LintSet]func() (*linter, error){
	LintRFC:     sync.OnceValues(func() (*linter, error) { return newLinter(LintRFC, nil) }),
	LintPrivate: sync.OnceValues(func() (*linter, error) { return newLinter(LintPrivate, notPrivate) }),
	LintWebPKI:  sync.OnceValues(func() (*linter, error) { return newLinter(LintWebPKI, nil) }),
}

func newLinter(s LintSet, exclude []string) (*linter, error) {
	reg, err := lint.GlobalRegistry().Filter(lint.FilterOptions{
		IncludeSources: lintSources[s], ExcludeNames: append(exclude, slow...)})
	if err != nil {
		return nil, fmt.Errorf("build lint set %s: %w", s, err)
	}
	var all, some, few []*lint.CertificateLint
	var when dates
	for _, l := range reg.CertificateLints().Lints() {
		if !strings.HasPrefix(l.Name, "e_") {
			continue
		}
		all = append(all, l)
		when = append(when, l.EffectiveDate, l.IneffectiveDate)
		if varying.MatchString(l.Name) && !slices.Contains(settled, l.Name) {
			some = append(some, l)
			if !slices.Contains(settledIfUsual, l.Name) {
				few = append(few, l)
			}
		}
	}
	slices.SortFunc(when, time.Time.Compare)
	return &linter{all: bind(all), some: bind(some), few: bind(few), dates: when}, nil
}

// bind returns a pool of instances: making one can cost more than running it.
func bind(lints []*lint.CertificateLint) *sync.Pool {
	return &sync.Pool{New: func() any {
		out := make([]bound, len(lints))
		for i, l := range lints {
			out[i] = bound{l, l.Lint()}
		}
		return &out
	}}
}

// lintBuffers are for certificates that are signed only to be linted.
var lintBuffers = sync.Pool{New: func() any { return new([]byte) }}

// check lints a certificate that was signed by a throw-away key: with every
// lint of the set if it is the first of its kind, and with those that look at
// what differs otherwise (see model). It keeps nothing of der.
func (s LintSet) check(der []byte, of modelKey) error {
	build := linters[s]
	if build == nil {
		return fmt.Errorf("lint set %q is unknown", s)
	}
	l, err := build()
	if err != nil {
		return err
	}
	if known, ok := l.models.Load(of); ok {
		m := known.(*model)
		cert := m.copies.Get().(*x509.Certificate)
		defer m.copies.Put(cert)
		if like, usual := m.like(cert, der); like && usual {
			return refusal(run(l.few, cert))
		} else if like {
			return refusal(run(l.some, cert))
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("lint: the certificate to be signed does not parse: %w", err)
	}
	failed := run(l.all, cert)
	if len(failed) == 0 {
		from, until := l.dates.around(cert.NotBefore)
		if m := newModel(slices.Clone(der), from, until); m != nil {
			l.models.Store(of, m)
		}
	}
	return refusal(failed)
}

// dates are the instants at which rules begin or end, in order.
type dates []time.Time

// around returns the last of them that is not after t, and the next one.
func (d dates) around(t time.Time) (from, until time.Time) {
	i, _ := slices.BinarySearchFunc(d, t, func(a, b time.Time) int {
		if a.After(b) {
			return 1
		}
		return -1
	})
	until = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	if i > 0 {
		from = d[i-1]
	}
	if i < len(d) {
		until = d[i]
	}
	return from, until
}

func refusal(failed []string) error {
	if len(failed) == 0 {
		return nil
	}
	return fault.New(fault.BadCSR, "the certificate would break a rule and was not signed: %s", strings.Join(failed, "; "))
}

// run returns the names of the lints that cert fails, with their details.
func run(pool *sync.Pool, cert *x509.Certificate) (failed []string) {
	lints := pool.Get().(*[]bound)
	defer pool.Put(lints)
	server := util.IsServerAuthCert(cert)
	for i := range *lints {
		if text := (*lints)[i].run(cert, server); text != "" {
			failed = append(failed, text)
		}
	}
	return failed
}

// run follows the order of zlint's own framework. A lint that panics has failed.
func (b *bound) run(cert *x509.Certificate, server bool) (failed string) {
	defer func() {
		if p := recover(); p != nil {
			failed = fmt.Sprintf("%s panicked: %v", b.meta.Name, p)
		}
	}()
	if b.meta.Source == lint.CABFBaselineRequirements && !server && !b.meta.OverrideFrameworkFilter {
		return ""
	}
	if !b.impl.CheckApplies(cert) || !b.meta.CheckEffective(cert) {
		return ""
	}
	if r := b.impl.Execute(cert); r.Status >= lint.Error {
		return strings.TrimSpace(b.meta.Name + " " + r.Details)
	}
	return ""
}
