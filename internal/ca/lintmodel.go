package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"maps"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zmap/zcrypto/encoding/asn1"
	"github.com/zmap/zcrypto/x509"
	"github.com/zmap/zcrypto/x509/pkix"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"chancery/internal/pki"
)

// model is a certificate that passed every lint of a set. Of another one of
// the same shape most bytes are the same, so it need not be taken apart and
// judged from scratch: like walks its DER strictly, compares every part with
// the model's, and looks only into those that may differ. What it returns is
// what zcrypto's parser would have returned, but for the fingerprints, which
// no lint reads.
//
// A certificate that like accepts has, beside all that is equal:
//
//   - the same extensions in the same order, equally critical; only
//     subjectAltName, cRLDistributionPoints and subjectKeyIdentifier may have
//     another value;
//   - a subjectAltName of one or more dNSName (not empty, visible ASCII) and
//     iPAddress (4 or 16 octets), nothing else;
//   - one distribution point with one http URL and nothing else, if any;
//   - both instants as UTCTime in the one form that DER allows;
//   - a public key under the same AlgorithmIdentifier;
//   - an empty subject if the model's is empty.
//
// The lints in settled ask for no more than that, and need not run again. Nor
// need those in settledIfUsual if the certificate is usual as well: its subject
// is the model's, octet for octet, and its names are plain (see plainName).
type model struct {
	cert       *x509.Certificate // never linted: parsed certificates keep caches
	parts      pki.Parts
	extensions []pki.RawExtension
	ids        []string  // of the extensions, dotted
	copies     sync.Pool // of *x509.Certificate that like has filled
	// No lint of the set takes effect or ends between the two.
	from, until time.Time
}

// settled are the lints that pass for whatever model.like accepts.
var settled = []string{
	"e_ext_duplicate_extension", "e_cert_ext_invalid_der", "e_ext_cannot_be_empty_sequence", "e_distribution_point_incomplete",
	"e_subject_info_access_marked_critical", "e_ext_san_dns_not_ia5_string", "e_ext_san_empty_name", "e_ext_san_no_entries",
	"e_basic_constr_invalid_der", "e_tbs_signature_rsa_encryption_parameter_not_null", "e_sub_cert_crl_distribution_points_marked_critical",
	"e_ext_san_not_critical_without_subject", "e_issuer_dn_country_not_printable_string", "e_crlissuer_must_not_be_present_in_cdp",
	"e_ecdsa_allowed_ku", "e_cabf_ecc_allowed_key_usages", "e_ext_san_rfc822_format_invalid", "e_ext_san_rfc822_name_present",
	"e_ext_san_uri_relative", "e_ext_san_uri_not_ia5", "e_ext_san_uri_host_not_fqdn_or_ip", "e_ext_san_uri_format_invalid",
	"e_ext_san_uniform_resource_identifier_present", "e_ext_san_other_name_present", "e_ext_san_edi_party_name_present",
	"e_ext_san_directory_name_present", "e_ext_san_registered_id_present", "e_ext_san_missing", "e_ext_san_space_dns_name",
	"e_subject_empty_without_san", "e_sub_cert_crl_distribution_points_does_not_contain_url", "e_invalid_cps_uri", "e_ext_cert_policy_duplicate",
	"e_utc_time_not_in_zulu", "e_utc_time_does_not_include_seconds", "e_wrong_time_format_pre2050", "e_generalized_time_includes_fraction_seconds",
	"e_generalized_time_not_in_zulu", "e_generalized_time_does_not_include_seconds", "e_ext_ian_rfc822_format_invalid",
	"e_ext_ian_uri_format_invalid", "e_ext_subject_directory_attr_critical", "e_ext_subject_key_identifier_critical",
	"e_invalid_certificate_version", "e_cert_contains_unique_identifier", "e_cert_unique_identifier_version_not_2_or_3", // split
	"e_serial_number_longer_than_20_octets",           // serial
	"e_br_prohibit_dsa_usage", "e_ec_improper_curves", // the same AlgorithmIdentifier
}

// settledIfUsual are the lints that pass for whatever is usual, too: those about
// the subject, and those about the form of names.
var settledIfUsual = []string{
	"e_cab_dv_subject_invalid_values", "e_subject_contains_noninformational_value", "e_subject_country_not_iso", "e_subject_not_dn",
	"e_duplicate_subject_attribs", "e_invalid_subject_rdn_order", "e_subject_dn_not_printable_characters", "e_subject_printable_string_badalpha",
	"e_subject_rdns_correct_encoding",
	"e_san_dns_name_onion_invalid", "e_ext_tor_service_descriptor_hash_invalid", "e_arpa_domain_not_allowed", "e_dnsname_bad_character_in_label",
	"e_dnsname_hyphen_in_sld", "e_dnsname_underscore_in_sld", "e_rfc_dnsname_hyphen_in_sld", "e_rfc_dnsname_underscore_in_sld",
	"e_underscore_not_permissible_in_dnsname", "e_dnsname_contains_prohibited_reserved_label", "e_dnsname_empty_label", "e_rfc_dnsname_empty_label",
	"e_dnsname_label_too_long", "e_rfc_dnsname_label_too_long", "e_dnsname_left_label_wildcard_correct", "e_dnsname_wildcard_only_in_left_label",
	"e_ext_san_dns_name_too_long", "e_international_dns_name_not_nfc", "e_international_dns_name_not_unicode",
}

// newModel makes a model of a certificate that passed, or nil if it has a form
// that no model covers.
func newModel(der []byte, from, until time.Time) *model {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil
	}
	m := &model{cert: cert, from: from, until: until, copies: sync.Pool{New: func() any { return new(x509.Certificate) }}}
	var ok bool
	if m.parts, ok = pki.Split(der); !ok {
		return nil
	}
	for rest := m.parts.Extensions; !rest.Empty(); {
		x, ok := pki.NextExtension(&rest)
		if !ok {
			return nil
		}
		m.extensions = append(m.extensions, x)
	}
	if len(m.extensions) != len(cert.Extensions) {
		return nil
	}
	for _, e := range cert.Extensions {
		m.ids = append(m.ids, e.Id.String())
	}
	if like, _ := m.like(new(x509.Certificate), der); !like {
		return nil
	}
	return m
}

// like parses der into c, which is new or one that this model filled before, and
// reports whether it differs from the model only where it may, and whether it is
// usual. Otherwise c holds nothing of use.
func (m *model) like(c *x509.Certificate, der []byte) (like, usual bool) {
	p, ok := pki.Split(der)
	w := &m.parts
	if !ok || !bytes.Equal(p.Version, w.Version) || !bytes.Equal(p.Algorithm, w.Algorithm) || !bytes.Equal(p.Outer, w.Outer) ||
		!bytes.Equal(p.Issuer, w.Issuer) || !bytes.Equal(p.KeyAlgorithm, w.KeyAlgorithm) || bytes.Equal(p.Subject, p.Issuer) {
		return false, false
	}
	extensions, ids := c.Extensions, c.ExtensionsMap
	*c = *m.cert
	c.Extensions, c.ExtensionsMap = append(extensions[:0], m.cert.Extensions...), ids
	if ids == nil {
		c.ExtensionsMap = maps.Clone(m.cert.ExtensionsMap)
	}
	c.Raw, c.RawTBSCertificate, c.RawSubjectPublicKeyInfo, c.RawSubject, c.RawIssuer = der, p.TBS, p.Key, p.Subject, p.Issuer
	c.Signature = p.Signature
	if !m.period(c, &p) || !serial(c, p.Serial) || !m.subject(c, p.Subject) || !m.extend(c, p.Extensions) || !m.key(c, p.Key) {
		return false, false
	}
	return true, bytes.Equal(p.Subject, w.Subject) && !slices.ContainsFunc(c.DNSNames, notPlainName)
}

// notPlainName reports whether a name needs a closer look: it is not one of
// labels of letters in lower case, digits and hyphens, with hyphens neither at the
// ends nor in the third and fourth place (RFC 5890 section 2.3.1), or ends in a
// domain that has rules of its own.
func notPlainName(name string) bool {
	if len(name) > 253 {
		return true
	}
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || len(label) > 3 && label[2:4] == "--" {
			return true
		}
		for i := range len(label) {
			if c := label[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return true
			}
		}
		last = label
	}
	return last == "arpa" || last == "onion"
}

// key reads a public key under the same AlgorithmIdentifier as the model's.
func (m *model) key(c *x509.Certificate, der []byte) bool {
	if bytes.Equal(der, m.parts.Key) || c.PublicKey == nil {
		return true
	}
	if was, ok := c.PublicKey.(*x509.AugmentedECDSA); ok {
		return point(c, was.Pub.Curve, der)
	}
	var err error
	c.PublicKey, err = x509.ParsePKIXPublicKey(der)
	return err == nil
}

// point reads the SubjectPublicKeyInfo of a point on a curve.
func point(c *x509.Certificate, curve elliptic.Curve, der []byte) bool {
	var info, bits cryptobyte.String
	in := cryptobyte.String(der)
	if !in.ReadASN1(&info, cbasn1.SEQUENCE) || !info.SkipASN1(cbasn1.SEQUENCE) || !info.ReadASN1(&bits, cbasn1.BIT_STRING) || !info.Empty() ||
		len(bits) == 0 || bits[0] != 0 {
		return false
	}
	x, y := elliptic.Unmarshal(curve, bits[1:]) // as zcrypto does, whose types these are
	c.PublicKey = &x509.AugmentedECDSA{Pub: &ecdsa.PublicKey{Curve: curve, X: x, Y: y}, Raw: asn1.BitString{Bytes: bits[1:], BitLength: 8 * len(bits[1:])}}
	return x != nil
}

// period reads the instants, which must lie where the same rules are in force.
func (m *model) period(c *x509.Certificate, p *pki.Parts) bool {
	var ok [2]bool
	c.NotBefore, ok[0] = pki.ReadUTCTime(p.NotBefore)
	c.NotAfter, ok[1] = pki.ReadUTCTime(p.NotAfter)
	c.ValidityPeriod = int(c.NotAfter.Sub(c.NotBefore).Seconds())
	return ok[0] && ok[1] && !c.NotBefore.Before(m.from) && c.NotBefore.Before(m.until)
}

// serial reads a positive INTEGER.
func serial(c *x509.Certificate, der []byte) bool {
	b := der[2:]
	if len(b) == 0 || len(b) > 20 || b[0]&0x80 != 0 || len(b) > 1 && b[0] == 0 && b[1]&0x80 == 0 {
		return false
	}
	c.SerialNumber = new(big.Int).SetBytes(b)
	return true
}

// subject reads a subject that is not the model's.
func (m *model) subject(c *x509.Certificate, der []byte) bool {
	if bytes.Equal(der, m.parts.Subject) {
		return true
	}
	if len(der) <= 2 || len(m.parts.Subject) <= 2 {
		return false
	}
	var rdns pkix.RDNSequence
	if rest, err := asn1.Unmarshal(der, &rdns); err != nil || len(rest) > 0 {
		return false
	}
	c.Subject = pkix.Name{}
	c.Subject.FillFromRDNSequence(&rdns)
	return true
}

// extend reads the extensions, which are those of the model, in its order, and
// whose values differ where they may: all entries of ExtensionsMap are set.
func (m *model) extend(c *x509.Certificate, rest cryptobyte.String) bool {
	for i := range m.extensions {
		x, ok := pki.NextExtension(&rest)
		if !ok || !bytes.Equal(x.Head, m.extensions[i].Head) {
			return false
		}
		e := &c.Extensions[i]
		e.Value = x.Value
		c.ExtensionsMap[m.ids[i]] = *e
		switch m.ids[i] {
		case "2.5.29.17":
			c.DNSNames, c.IPAddresses, ok = pki.HostNames(x.Value)
		case "2.5.29.31":
			ok = crlPoint(c, x.Value)
		case "2.5.29.14":
			var id cryptobyte.String
			v := cryptobyte.String(x.Value)
			ok = v.ReadASN1(&id, cbasn1.OCTET_STRING) && v.Empty()
			c.SubjectKeyId = id
		default:
			ok = bytes.Equal(x.Value, m.extensions[i].Value)
		}
		if !ok {
			return false
		}
	}
	return rest.Empty()
}

// visible reports whether b is not empty and visible ASCII.
func visible(b []byte) bool {
	for _, ch := range b {
		if ch <= ' ' || ch > '~' {
			return false
		}
	}
	return len(b) > 0
}

// crlPoint reads cRLDistributionPoints with one URL and nothing else.
func crlPoint(c *x509.Certificate, value []byte) bool {
	const inner = cbasn1.Tag(0 | 0x80 | 0x20)
	v := cryptobyte.String(value)
	var list, dp, name, full, url cryptobyte.String
	if !v.ReadASN1(&list, cbasn1.SEQUENCE) || !v.Empty() || !list.ReadASN1(&dp, cbasn1.SEQUENCE) || !list.Empty() ||
		!dp.ReadASN1(&name, inner) || !dp.Empty() || !name.ReadASN1(&full, inner) || !name.Empty() ||
		!full.ReadASN1(&url, cbasn1.Tag(6|0x80)) || !full.Empty() || !visible(url) || !strings.HasPrefix(string(url), "http://") {
		return false
	}
	c.CRLDistributionPoints = []string{string(url)}
	return true
}

// modelKey tells for which certificates a model is looked up. It need not be
// exact, for the model compares.
type modelKey struct {
	encoder    *pki.Encoder
	key        pki.KeyType
	commonName bool
	mustStaple bool
	extras     int
}
