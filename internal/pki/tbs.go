package pki

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// IssuerInfo is what a certificate or CRL says about the authority that
// signs it.
type IssuerInfo struct {
	Name    []byte  // DER Name: the issuer's subject, byte for byte
	KeyID   []byte  // the issuer's subject key identifier; empty leaves it out (roots)
	KeyType KeyType // of the key that will sign; fixes the signature algorithm
}

// CNRule says which common name, if any, goes into a subject.
type CNRule string

// Common name rules. The Baseline Requirements section 7.1.4.3 advise against
// a common name, and allow only one of the certificate's own names.
const (
	CNNone      CNRule = "none"      // empty subject, critical subjectAltName
	CNRequested CNRule = "requested" // Leaf.CommonName when there is one
	CNFirst     CNRule = "first"     // Leaf.CommonName, or else the first name of at most 64 octets
)

// Valid reports whether r is a known rule.
func (r CNRule) Valid() bool { return r == CNNone || r == CNRequested || r == CNFirst }

// CertSpec is the part of a certificate that a profile fixes.
type CertSpec struct {
	// KeyUsage is the keyUsage extension; 0 leaves it out. The two
	// encipherment bits are dropped for subjects whose key is not RSA.
	KeyUsage    x509.KeyUsage
	ExtKeyUsage []asn1.ObjectIdentifier // extKeyUsage; empty leaves it out
	Policies    []asn1.ObjectIdentifier // certificatePolicies; empty leaves it out

	CA               bool // basicConstraints cA
	PathLen          int  // pathLenConstraint of a CA; negative leaves it out
	BasicConstraints bool // write basicConstraints also when CA is false
	SubjectKeyID     bool // write subjectKeyIdentifier (always written for a CA)

	OCSPURLs   []string // authorityInfoAccess id-ad-ocsp
	IssuerURLs []string // authorityInfoAccess id-ad-caIssuers
	CRLURLs    []string // cRLDistributionPoints, unless Leaf.CRLShardURL is set

	CommonName CNRule // "" means CNNone
	MustStaple bool   // Leaf.MustStaple is allowed (TLS feature, RFC 7633)
	NoCheck    bool   // id-pkix-ocsp-nocheck (RFC 6960 section 4.2.2.2.1)
}

// Leaf is the part of a certificate that differs from one to the next under
// the same issuer and profile.
type Leaf struct {
	Serial      Serial
	NotBefore   time.Time // whole seconds are written, in UTC
	NotAfter    time.Time // inclusive
	SPKI        []byte    // DER SubjectPublicKeyInfo
	Identifiers []Identifier
	CommonName  string // see CNRule; at most 64 octets
	Subject     []byte // DER Name; when set it is used as it is and CommonName is ignored

	CRLShardURL string // the one cRLDistributionPoints URL, instead of CertSpec.CRLURLs
	MustStaple  bool

	// ExtraExtensions come last, in order: the SCT list, the CT poison.
	ExtraExtensions []pkix.Extension
}

// Encoder writes TBSCertificates for one issuer under one profile. What does
// not change is encoded once. It is safe for concurrent use.
type Encoder struct {
	spec   CertSpec
	issuer []byte // signature AlgorithmIdentifier and issuer Name

	// Extensions in the order of crypto/x509, so that it can be the oracle.
	usage      []byte // keyUsage for keys that are not RSA
	usageRSA   []byte // keyUsage for RSA keys
	purposes   []byte // extKeyUsage and basicConstraints
	authority  []byte // authorityKeyIdentifier and authorityInfoAccess
	policies   []byte // certificatePolicies
	crl        []byte // cRLDistributionPoints
	mustStaple []byte
	noCheck    []byte
}

// NewEncoder checks issuer and spec and encodes their constant parts.
func NewEncoder(issuer IssuerInfo, spec CertSpec) (*Encoder, error) {
	algorithm := issuer.KeyType.SignatureAlgorithm()
	if algorithm == "" {
		return nil, fmt.Errorf("build certificate encoder: unknown issuer key type %q", issuer.KeyType)
	}
	if !isSequence(issuer.Name) {
		return nil, errors.New("build certificate encoder: issuer name is not a DER Name")
	}
	if err := checkSpec(&spec); err != nil {
		return nil, fmt.Errorf("build certificate encoder: %w", err)
	}
	purposes, err := oidListExtension(oidExtKeyUsage, spec.ExtKeyUsage, appendOID)
	if err != nil {
		return nil, fmt.Errorf("build certificate encoder: extended key usage: %w", err)
	}
	policies, err := oidListExtension(oidPolicies, spec.Policies, appendPolicy)
	if err != nil {
		return nil, fmt.Errorf("build certificate encoder: policy: %w", err)
	}
	e := &Encoder{
		spec:     spec,
		issuer:   slices.Concat([]byte(algorithm), issuer.Name),
		usage:    keyUsageExtension(spec.KeyUsage &^ encipherment),
		usageRSA: keyUsageExtension(spec.KeyUsage),
		purposes: append(purposes, basicConstraintsExtension(&spec)...),
		policies: policies,
		crl:      appendCRLPoints(nil, spec.CRLURLs...),
	}
	e.authority = append(authorityKeyExtension(issuer.KeyID), accessExtension(spec.OCSPURLs, spec.IssuerURLs)...)
	e.mustStaple = appendExtension(nil, oidTLSFeature, false, []byte(tlsFeatureStatusRequest))
	if spec.NoCheck {
		e.noCheck = appendExtension(nil, oidOCSPNoCheck, false, []byte{tagNull, 0})
	}
	return e, nil
}

// encipherment are the key usages that only RSA keys can have (RFC 8410
// section 5, RFC 9881 section 4, Baseline Requirements section 7.1.2.7.11).
const encipherment = x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment

func checkSpec(spec *CertSpec) error {
	for _, urls := range [][]string{spec.OCSPURLs, spec.IssuerURLs, spec.CRLURLs} {
		for _, u := range urls {
			if !isIA5(u) || u == "" {
				return fmt.Errorf("URL %q is empty or not ASCII", u)
			}
		}
	}
	switch {
	case spec.CommonName != "" && !spec.CommonName.Valid():
		return fmt.Errorf("unknown common name rule %q", spec.CommonName)
	case spec.KeyUsage < 0 || spec.KeyUsage >= x509.KeyUsageDecipherOnly<<1:
		return fmt.Errorf("key usage %#x has unknown bits", int(spec.KeyUsage))
	case !spec.CA && spec.KeyUsage&x509.KeyUsageCertSign != 0:
		return errors.New("key usage certSign without being a CA")
	}
	return nil
}

// version is "[0] EXPLICIT INTEGER 2": X.509 version 3.
const version3 = "\xa0\x03\x02\x01\x02"

// TBS returns the DER TBSCertificate for leaf. Equal arguments give equal
// bytes.
func (e *Encoder) TBS(leaf Leaf) ([]byte, error) {
	if err := e.check(&leaf); err != nil {
		return nil, fmt.Errorf("encode certificate: %w", err)
	}
	subject, err := e.subject(&leaf)
	if err != nil {
		return nil, fmt.Errorf("encode certificate: %w", err)
	}
	b := make([]byte, 0, tbsRoom+len(e.issuer)+len(leaf.SPKI)+32*len(leaf.Identifiers))
	b = append(b, version3...)
	b = appendHeader(b, tagInteger, len(leaf.Serial))
	b = append(append(b, leaf.Serial...), e.issuer...)
	period := len(b)
	b = enclose(appendTime(appendTime(b, leaf.NotBefore), leaf.NotAfter), period, tagSequence)
	b = append(append(b, subject...), leaf.SPKI...)
	if b, err = e.appendExtensions(b, &leaf, len(subject) == len(emptyName)); err != nil {
		return nil, fmt.Errorf("encode certificate: %w", err)
	}
	return enclose(b, 0, tagSequence), nil
}

// tbsRoom is what a TBSCertificate usually takes, in octets, beside the name of
// its issuer, its key and its names.
const tbsRoom = 640

func (e *Encoder) check(leaf *Leaf) error {
	switch {
	case !leaf.Serial.Valid():
		return fmt.Errorf("serial %s is not positive or longer than 20 octets", leaf.Serial)
	case leaf.NotAfter.Before(leaf.NotBefore):
		return errors.New("notAfter is before notBefore")
	case leaf.NotBefore.UTC().Year() < 1950 || leaf.NotAfter.UTC().Year() > 9999:
		return errors.New("validity is outside the years 1950 to 9999")
	case !isSequence(leaf.SPKI):
		return errors.New("public key is not a DER SubjectPublicKeyInfo")
	case leaf.MustStaple && !e.spec.MustStaple:
		return errors.New("the profile does not allow must-staple")
	case !isIA5(leaf.CRLShardURL):
		return errors.New("CRL URL is not ASCII")
	}
	return nil
}

// appendExtensions appends "[3] EXPLICIT Extensions", or nothing if there are
// none.
func (e *Encoder) appendExtensions(b []byte, leaf *Leaf, subjectEmpty bool) ([]byte, error) {
	rsa, err := isRSA(leaf.SPKI)
	if err != nil {
		return nil, err
	}
	from := len(b)
	if rsa {
		b = append(b, e.usageRSA...)
	} else {
		b = append(b, e.usage...)
	}
	b = append(b, e.purposes...)
	if e.spec.SubjectKeyID || e.spec.CA {
		id, err := KeyID(leaf.SPKI)
		if err != nil {
			return nil, err
		}
		start := len(b)
		var value int
		b, value = openExtension(b, oidSubjectKeyID, false)
		b = closeExtension(append(appendHeader(b, tagOctetString, len(id)), id...), start, value)
	}
	b = append(b, e.authority...)
	if b, err = appendSAN(b, leaf.Identifiers, subjectEmpty); err != nil {
		return nil, err
	}
	if b, err = appendTNAuthList(b, leaf.Identifiers); err != nil {
		return nil, err
	}
	b = append(b, e.policies...)
	if leaf.CRLShardURL != "" {
		b = appendCRLPoints(b, leaf.CRLShardURL)
	} else {
		b = append(b, e.crl...)
	}
	if leaf.MustStaple {
		b = append(b, e.mustStaple...)
	}
	b = append(b, e.noCheck...)
	if b, err = appendExtra(b, leaf.ExtraExtensions); err != nil || len(b) == from {
		return b, err
	}
	return enclose(enclose(b, from, tagSequence), from, contextConstructed(3)), nil
}

// subject returns the DER Name of the subject.
func (e *Encoder) subject(leaf *Leaf) ([]byte, error) {
	if len(leaf.Subject) > 0 {
		if !isSequence(leaf.Subject) {
			return nil, errors.New("subject is not a DER Name")
		}
		return leaf.Subject, nil
	}
	cn := ""
	if e.spec.CommonName == CNRequested || e.spec.CommonName == CNFirst {
		cn = leaf.CommonName
	}
	if len(cn) > maxCommonName {
		return nil, fmt.Errorf("common name %q is longer than %d octets", cn, maxCommonName)
	}
	if cn == "" && e.spec.CommonName == CNFirst {
		cn = firstCommonName(leaf.Identifiers)
	}
	if phones := TelephonySubject(leaf.Identifiers); phones != "" {
		cn = phones
	}
	return commonNameSubject(cn), nil
}

// maxCommonName is ub-common-name of RFC 5280 appendix A.1.
const maxCommonName = 64

func firstCommonName(ids []Identifier) string {
	for _, id := range ids {
		if len(id.Value) <= maxCommonName {
			return id.Value
		}
	}
	return ""
}

// Validity returns the last second of a certificate that is valid for period
// from notBefore on: notAfter is inclusive (RFC 5280 section 4.1.2.5), so a
// period of 90 days ends one second before the 90 days are over. The result
// is never after issuerNotAfter. Both times come back in whole seconds, UTC.
func Validity(notBefore time.Time, period time.Duration, issuerNotAfter time.Time) (from, to time.Time) {
	from = notBefore.UTC().Truncate(time.Second)
	to = from.Add(period - time.Second).Truncate(time.Second)
	if limit := issuerNotAfter.UTC().Truncate(time.Second); to.After(limit) {
		to = limit
	}
	return from, to
}

// AssembleCertificate returns the DER certificate made of a TBSCertificate,
// the signature algorithm of kt and the signature.
func AssembleCertificate(tbs []byte, kt KeyType, sig []byte) []byte {
	return assemble(tbs, kt, sig)
}

// assemble wraps to-be-signed bytes, algorithm and signature: the shape that
// certificates, CRLs and (with more to follow) OCSP answers share.
func assemble(tbs []byte, kt KeyType, sig []byte) []byte {
	return AppendAssembled(make([]byte, 0, tlvLen(len(tbs)+len(kt.SignatureAlgorithm())+tlvLen(len(sig)+1))), tbs, kt, sig)
}

// AppendAssembled appends what AssembleCertificate returns.
func AppendAssembled(b, tbs []byte, kt KeyType, sig []byte) []byte {
	algorithm := kt.SignatureAlgorithm()
	b = appendHeader(b, tagSequence, len(tbs)+len(algorithm)+tlvLen(len(sig)+1))
	b = append(b, tbs...)
	b = append(b, algorithm...)
	b = append(appendHeader(b, tagBitString, len(sig)+1), 0)
	return append(b, sig...)
}

// TBSOf returns the DER TBSCertificate inside a DER certificate, without a
// copy.
func TBSOf(certificate []byte) ([]byte, error) {
	var cert, tbs cryptobyte.String
	in := cryptobyte.String(certificate)
	if !in.ReadASN1(&cert, cbasn1.SEQUENCE) || !in.Empty() || !cert.ReadASN1Element(&tbs, cbasn1.SEQUENCE) {
		return nil, errors.New("read certificate: not a DER certificate")
	}
	return tbs, nil
}

// IsTBSCertificate reports whether der begins like the TBSCertificate of a v2
// or v3 certificate: a SEQUENCE that opens with "[0] EXPLICIT Version". CRLs
// and OCSP answers of ours never do (they open with an INTEGER or "[2]").
func IsTBSCertificate(der []byte) bool {
	var tbs cryptobyte.String
	in := cryptobyte.String(der)
	return in.ReadASN1(&tbs, cbasn1.SEQUENCE) && tbs.PeekASN1Tag(contextTag(0))
}
