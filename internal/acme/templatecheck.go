package acme

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"math/bits"
	"net/http"
	"slices"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Extensions that a template knows (RFC 9115 section 6.5).
var (
	oidKeyUsage    = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidExtKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidAltName     = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// refused is what a request outside its template gets: RFC 9115 section 2.3.2
// asks for 403.
func refused(code fault.Code, format string, args ...any) *fault.Error {
	e := fault.New(code, format, args...)
	e.HTTPStatus = http.StatusForbidden
	return e
}

func outside(format string, args ...any) error {
	return refused(fault.BadCSR, "the CSR is not what the delegation's template wants: "+format, args...)
}

// Check holds a certificate request against the template (RFC 9115 section
// 4.1): it has what the template says it must have, and nothing that the
// template does not have. Errors are fault.BadCSR or fault.RejectedIdentifier
// with status 403, the latter with a subproblem for each name.
func (t *Template) Check(csr *pki.CSR) error {
	req, err := x509.ParseCertificateRequest(csr.DER)
	if err != nil {
		return outside("it does not parse")
	}
	if err := t.checkKey(req); err != nil {
		return err
	}
	if err := t.matchSubject(req); err != nil {
		return err
	}
	if err := t.matchExtensions(req); err != nil {
		return err
	}
	if len(req.IPAddresses)+len(req.EmailAddresses)+len(req.URIs) > 0 {
		return outside("its subjectAltName has something else than DNS names")
	}
	names := make([]pki.Identifier, 0, len(req.DNSNames))
	for _, n := range req.DNSNames {
		id, err := pki.ParseIdentifier(pki.DNS, n)
		if err != nil {
			return err
		}
		names = append(names, id)
	}
	return t.CheckNames(pki.SortIdentifiers(names))
}

// CheckNames holds the identifiers of an order, sorted, against the template:
// every name that is spelled out, and as many others as have a place.
func (t *Template) CheckNames(ids []pki.Identifier) error {
	var bad []fault.Sub
	note := func(id pki.Identifier, why string) {
		bad = append(bad, fault.Sub{Code: fault.RejectedIdentifier, Detail: why, IdentifierType: string(id.Type), IdentifierValue: id.Value})
	}
	must, may := 0, 0
	for _, name := range t.Extensions.SubjectAltName.DNS {
		switch id := (pki.Identifier{Type: pki.DNS, Value: name}); {
		case name == anyValue:
			must++
		case name == anyValueOrNo:
			may++
		case !slices.Contains(ids, id):
			note(id, "the delegation's template wants this name, too")
		}
	}
	literal := t.Names()
	for _, id := range ids {
		switch {
		case id.Type == pki.DNS && slices.Contains(literal, id.Value):
		case id.Type == pki.DNS && must > 0:
			must--
		case id.Type == pki.DNS && may > 0:
			may--
		default:
			note(id, "the delegation's template has no place for this name")
		}
	}
	if len(bad) > 0 {
		e := refused(fault.RejectedIdentifier, "%s", bad[0].Detail)
		e.Sub = bad
		return e
	}
	if must > 0 {
		return refused(fault.RejectedIdentifier, "the delegation's template wants %d more names", must)
	}
	return nil
}

// checkKey wants one of the template's kinds of key.
func (t *Template) checkKey(req *x509.CertificateRequest) error {
	have := TemplateKey{}
	switch key := req.PublicKey.(type) {
	case *rsa.PublicKey:
		have.PublicKeyType, have.PublicKeyLength = "rsaEncryption", key.N.BitLen()
	case *ecdsa.PublicKey:
		have.PublicKeyType = "id-ecPublicKey"
		switch key.Curve.Params().BitSize {
		case 256:
			have.NamedCurve = "secp256r1"
		case 384:
			have.NamedCurve = "secp384r1"
		}
	}
	for _, k := range t.KeyTypes {
		kind := k.NamedCurve
		if kind == "" {
			kind = k.PublicKeyType
		}
		if k.PublicKeyType == have.PublicKeyType && k.PublicKeyLength == have.PublicKeyLength && k.NamedCurve == have.NamedCurve &&
			templateSignatures[kind][k.SignatureType] == req.SignatureAlgorithm {
			return nil
		}
	}
	return outside("its key and signature are of no kind that keyTypes lists")
}

// matchSubject wants the template's attributes and no others.
func (t *Template) matchSubject(req *x509.CertificateRequest) error {
	seen := map[string]bool{}
	for _, attribute := range req.Subject.Names {
		name := fieldOf(attribute.Type)
		want, ok := t.Subject[name]
		value, text := attribute.Value.(string)
		switch {
		case !ok:
			return outside("its subject has the attribute %s", attribute.Type)
		case seen[name]:
			return outside("its subject has more than one %s", name)
		case !text || value == "" || want != anyValue && want != anyValueOrNo && value != want:
			return outside("%s in its subject has another value", name)
		}
		seen[name] = true
	}
	for name, want := range t.Subject {
		if want != anyValueOrNo && !seen[name] {
			return outside("its subject lacks %s", name)
		}
	}
	return nil
}

// fieldOf returns the template's name of an attribute, or "".
func fieldOf(oid asn1.ObjectIdentifier) string {
	for name, o := range subjectFields {
		if o.Equal(oid) {
			return name
		}
	}
	return ""
}

// matchExtensions wants the template's extensions and no others.
func (t *Template) matchExtensions(req *x509.CertificateRequest) error {
	var usage x509.KeyUsage
	var purposes []asn1.ObjectIdentifier
	for _, x := range req.Extensions {
		var err error
		switch {
		case x.Id.Equal(oidAltName):
		case x.Id.Equal(oidKeyUsage) && t.usage != 0:
			usage, err = readKeyUsage(x.Value)
		case x.Id.Equal(oidExtKeyUsage) && t.purposes != nil:
			var rest []byte
			if rest, err = asn1.Unmarshal(x.Value, &purposes); len(rest) > 0 {
				err = asn1.SyntaxError{Msg: "trailing data"}
			}
		default:
			return outside("it asks for the extension %s", x.Id)
		}
		if err != nil {
			return outside("its extension %s is not DER", x.Id)
		}
	}
	if usage != t.usage {
		return outside("its key usage is not exactly %v", t.Extensions.KeyUsage)
	}
	if len(purposes) != len(t.purposes) {
		return outside("its extended key usage is not exactly %v", t.Extensions.ExtendedKeyUsage)
	}
	for _, oid := range t.purposes {
		if !slices.ContainsFunc(purposes, oid.Equal) {
			return outside("its extended key usage is not exactly %v", t.Extensions.ExtendedKeyUsage)
		}
	}
	return nil
}

// readKeyUsage reads the value of a keyUsage extension.
func readKeyUsage(der []byte) (x509.KeyUsage, error) {
	var field asn1.BitString
	rest, err := asn1.Unmarshal(der, &field)
	if err != nil || len(rest) > 0 || len(field.Bytes) > 2 {
		return 0, asn1.SyntaxError{Msg: "not a keyUsage"}
	}
	var usage x509.KeyUsage
	for i, b := range field.Bytes {
		usage |= x509.KeyUsage(bits.Reverse8(b)) << (8 * i)
	}
	return usage, nil
}
