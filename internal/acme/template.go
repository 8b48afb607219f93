package acme

import (
	"crypto/x509"
	"encoding/asn1"
	json "encoding/json/v2"
	"slices"
	"strconv"
	"strings"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Bounds of a CSR template; real ones have less than 1 KB.
const (
	maxTemplate      = 16 << 10 // octets of JSON
	maxTemplateKeys  = 16
	maxTemplateNames = 100
	maxTemplateUses  = 20
	maxTemplateText  = 200 // octets of one subject attribute
)

// What a template writes in place of a value (RFC 9115 section 4.1).
const (
	anyValue     = "**" // the client must give one
	anyValueOrNo = "*"  // the client may give one
)

// Template is a CSR template (RFC 9115 section 4): what a certificate request
// under a delegation must look like. Fields that it does not have may not be
// in the request.
type Template struct {
	KeyTypes   []TemplateKey      `json:"keyTypes"`
	Subject    map[string]string  `json:"subject,omitempty"` // by the names of subjectFields
	Extensions TemplateExtensions `json:"extensions"`

	usage    x509.KeyUsage
	purposes []asn1.ObjectIdentifier
}

// TemplateKey is one kind of key that a template allows.
type TemplateKey struct {
	PublicKeyType   string `json:"PublicKeyType"` // rsaEncryption or id-ecPublicKey
	PublicKeyLength int    `json:"PublicKeyLength,omitzero"`
	NamedCurve      string `json:"namedCurve,omitempty"`
	SignatureType   string `json:"SignatureType"` // of the request
}

// TemplateExtensions are the extensions of a template.
type TemplateExtensions struct {
	KeyUsage         []string     `json:"keyUsage,omitempty"`
	ExtendedKeyUsage []string     `json:"extendedKeyUsage,omitempty"` // names or dotted OBJECT IDENTIFIERs
	SubjectAltName   TemplateName `json:"subjectAltName"`
}

// TemplateName is the subjectAltName of a template. The RFC's Email and URI are
// not taken: nobody could prove them here.
type TemplateName struct {
	DNS []string `json:"DNS"` // names in lower case, "*" and "**"
}

// subjectFields are the attributes that a template's subject may have.
var subjectFields = map[string]asn1.ObjectIdentifier{
	"country": {2, 5, 4, 6}, "stateOrProvince": {2, 5, 4, 8}, "locality": {2, 5, 4, 7}, "organization": {2, 5, 4, 10},
	"organizationalUnit": {2, 5, 4, 11}, "emailAddress": {1, 2, 840, 113549, 1, 9, 1}, "commonName": {2, 5, 4, 3},
}

// keyUsageNames are the bits of a keyUsage by their names in RFC 5280.
var keyUsageNames = map[string]x509.KeyUsage{
	"digitalSignature": x509.KeyUsageDigitalSignature, "nonRepudiation": x509.KeyUsageContentCommitment,
	"keyEncipherment": x509.KeyUsageKeyEncipherment, "dataEncipherment": x509.KeyUsageDataEncipherment,
	"keyAgreement": x509.KeyUsageKeyAgreement, "keyCertSign": x509.KeyUsageCertSign, "cRLSign": x509.KeyUsageCRLSign,
	"encipherOnly": x509.KeyUsageEncipherOnly, "decipherOnly": x509.KeyUsageDecipherOnly,
}

// purposeNames are the extended key usages that have a name in a template.
var purposeNames = map[string]asn1.ObjectIdentifier{
	"serverAuth": pki.EKUServerAuth, "clientAuth": pki.EKUClientAuth, "codeSigning": pki.EKUCodeSigning,
	"emailProtection": pki.EKUEmailProtection, "timeStamping": pki.EKUTimeStamping, "OCSPSigning": pki.EKUOCSPSigning,
}

// templateSignatures are the request signatures that are taken, by kind of key.
// RSASSA-PSS and P-521 stand in the RFC, too, but no request with them is.
var templateSignatures = map[string]map[string]x509.SignatureAlgorithm{
	"rsaEncryption": {"sha256WithRSAEncryption": x509.SHA256WithRSA, "sha384WithRSAEncryption": x509.SHA384WithRSA,
		"sha512WithRSAEncryption": x509.SHA512WithRSA},
	"secp256r1": {"ecdsa-with-SHA256": x509.ECDSAWithSHA256},
	"secp384r1": {"ecdsa-with-SHA384": x509.ECDSAWithSHA384},
}

func badTemplate(format string, args ...any) error {
	return fault.New(fault.Invalid, "the CSR template is not acceptable: "+format, args...)
}

// ParseTemplate reads a CSR template. Unlike a client's request, a template is
// written by the operator: what is not known, or given twice, is a mistake and
// refused. Errors are fault.Invalid.
func ParseTemplate(text []byte) (*Template, error) {
	if len(text) > maxTemplate {
		return nil, badTemplate("it has %d octets, more than the %d allowed", len(text), maxTemplate)
	}
	if err := checkObject(text); err != nil {
		return nil, badTemplate("%s", fault.As(err).Detail)
	}
	t := &Template{}
	if err := json.Unmarshal(text, t, json.RejectUnknownMembers(true)); err != nil {
		return nil, badTemplate("%s", fault.As(malformedJSON(err, "it")).Detail)
	}
	for _, check := range []func() error{t.checkKeys, t.checkSubject, t.readUsages, t.readNames} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (t *Template) checkKeys() error {
	if n := len(t.KeyTypes); n == 0 || n > maxTemplateKeys {
		return badTemplate("keyTypes needs 1 to %d members", maxTemplateKeys)
	}
	for _, k := range t.KeyTypes {
		kind := k.NamedCurve
		switch {
		case k.PublicKeyType == "rsaEncryption" && k.NamedCurve == "" && k.PublicKeyLength >= 2048:
			kind = k.PublicKeyType
		case k.PublicKeyType == "id-ecPublicKey" && k.PublicKeyLength == 0:
		default:
			return badTemplate(`a member of keyTypes is neither "rsaEncryption" with a PublicKeyLength of 2048 or more, nor "id-ecPublicKey" with a namedCurve`)
		}
		if _, ok := templateSignatures[kind]; !ok {
			return badTemplate("namedCurve %.40q is not certified; use secp256r1 or secp384r1", kind)
		}
		if _, ok := templateSignatures[kind][k.SignatureType]; !ok {
			return badTemplate("SignatureType %.40q does not go with %s", k.SignatureType, kind)
		}
	}
	return nil
}

func (t *Template) checkSubject() error {
	if t.Subject != nil && len(t.Subject) == 0 {
		return badTemplate("subject is empty; leave it out")
	}
	for name, value := range t.Subject {
		if subjectFields[name] == nil {
			return badTemplate("subject has no field %.40q", name)
		}
		if value == "" || len(value) > maxTemplateText {
			return badTemplate("%s of the subject needs 1 to %d octets", name, maxTemplateText)
		}
	}
	return nil
}

// readUsages translates the key usages.
func (t *Template) readUsages() error {
	x := &t.Extensions
	if x.KeyUsage != nil && len(x.KeyUsage) == 0 || x.ExtendedKeyUsage != nil && len(x.ExtendedKeyUsage) == 0 || len(x.ExtendedKeyUsage) > maxTemplateUses {
		return badTemplate("keyUsage and extendedKeyUsage need 1 to %d members where they stand", maxTemplateUses)
	}
	for _, name := range x.KeyUsage {
		bit, ok := keyUsageNames[name]
		if !ok || t.usage&bit != 0 {
			return badTemplate("keyUsage %.40q is unknown, or given twice", name)
		}
		t.usage |= bit
	}
	for _, name := range x.ExtendedKeyUsage {
		oid, ok := purposeNames[name]
		if !ok {
			var err error
			if oid, err = dottedOID(name); err != nil {
				return badTemplate("extendedKeyUsage %.40q is neither a name of RFC 9115 nor an object identifier", name)
			}
		}
		if slices.ContainsFunc(t.purposes, oid.Equal) {
			return badTemplate("extendedKeyUsage %.40q is given twice", name)
		}
		t.purposes = append(t.purposes, oid)
	}
	return nil
}

// dottedOID reads an OBJECT IDENTIFIER of at most 32 arcs, without leading zeros.
func dottedOID(s string) (asn1.ObjectIdentifier, error) {
	var oid asn1.ObjectIdentifier
	for arc := range strings.SplitSeq(s, ".") {
		n, err := strconv.ParseUint(arc, 10, 31)
		if err != nil || len(oid) == 32 || strconv.FormatUint(n, 10) != arc {
			return nil, strconv.ErrSyntax
		}
		oid = append(oid, int(n))
	}
	if len(oid) < 2 || oid[0] > 2 || oid[0] < 2 && oid[1] > 39 {
		return nil, strconv.ErrSyntax
	}
	return oid, nil
}

// readNames checks the names and brings them into canonical form.
func (t *Template) readNames() error {
	dns := t.Extensions.SubjectAltName.DNS
	if n := len(dns); n == 0 || n > maxTemplateNames {
		return badTemplate("subjectAltName needs 1 to %d DNS names", maxTemplateNames)
	}
	for i, name := range dns {
		if name == anyValue || name == anyValueOrNo {
			continue
		}
		id, err := pki.ParseIdentifier(pki.DNS, name)
		if err != nil {
			return badTemplate("%s", fault.As(err).Detail)
		}
		if slices.Contains(dns[:i], id.Value) {
			return badTemplate("the name %s is given twice", id.Value)
		}
		dns[i] = id.Value
	}
	return nil
}

// Names returns the names that the template spells out.
func (t *Template) Names() []string {
	return slices.DeleteFunc(slices.Clone(t.Extensions.SubjectAltName.DNS), func(n string) bool { return n == anyValue || n == anyValueOrNo })
}

// CheckCNAMEs checks the cname-map of a delegation with this template (RFC 9115
// section 2.3.1.3): pairs of names with a dot at the end, the first one
// delegated. Errors are fault.Invalid.
func (t *Template) CheckCNAMEs(m map[string]string) error {
	if len(m) > maxTemplateNames {
		return fault.New(fault.Invalid, "the CNAME map has more than %d names", maxTemplateNames)
	}
	var names []pki.Identifier
	for from, to := range m {
		id, err := absolute(from)
		if err != nil {
			return err
		}
		if _, err := absolute(to); err != nil {
			return err
		}
		names = append(names, id)
	}
	literal := t.Names()
	if len(literal) < len(t.Extensions.SubjectAltName.DNS) {
		return nil // the client names some itself
	}
	for _, id := range names {
		if !slices.Contains(literal, id.Value) {
			return fault.New(fault.Invalid, "the CNAME map names %s, which the CSR template does not delegate", id.Value)
		}
	}
	return nil
}

// absolute reads a DNS name that must end in a dot.
func absolute(name string) (pki.Identifier, error) {
	bare, ok := strings.CutSuffix(name, ".")
	if !ok {
		return pki.Identifier{}, fault.New(fault.Invalid, "%.80q in the CNAME map does not end in a dot (RFC 9115 section 2.3.1.3)", name)
	}
	id, err := pki.ParseIdentifier(pki.DNS, bare)
	if err != nil {
		return id, fault.New(fault.Invalid, "the CNAME map is not acceptable: %s", fault.As(err).Detail)
	}
	return id, nil
}

// Permits reports whether certificates with these usages are within the
// template, as a fault.Invalid that names what is not. A template without
// keyUsage or extendedKeyUsage leaves it to the CA.
func (t *Template) Permits(usage x509.KeyUsage, purposes []asn1.ObjectIdentifier) error {
	if !slices.ContainsFunc(t.KeyTypes, func(k TemplateKey) bool { return k.PublicKeyType == "rsaEncryption" }) {
		usage &^= x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment // written for RSA keys alone
	}
	if over := usage &^ t.usage; t.usage != 0 && over != 0 {
		for name, bit := range keyUsageNames {
			if over&bit == over&-over {
				return fault.New(fault.Invalid, "the profile's certificates have the key usage %s, which the CSR template does not list", name)
			}
		}
	}
	for _, oid := range purposes {
		if t.purposes != nil && !slices.ContainsFunc(t.purposes, oid.Equal) {
			return fault.New(fault.Invalid, "the profile's certificates have the extended key usage %s, which the CSR template does not list", oid)
		}
	}
	return nil
}
