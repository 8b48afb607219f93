package pki

import (
	"bytes"
	"crypto/x509"
	"net"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Parts are the elements of a certificate (RFC 5280 section 4.1) as they stand
// in its DER, with their headers.
type Parts struct {
	TBS, Version, Serial, Algorithm, Issuer, NotBefore, NotAfter, Subject, Key, KeyAlgorithm, Outer []byte

	Signature  []byte            // without the octet that counts unused bits
	Extensions cryptobyte.String // without a header: see NextExtension
}

// RawExtension is one extension: its identifier and criticality as encoded, and
// its value.
type RawExtension struct{ Head, Value []byte }

// take reads one element of a tag into out, header included.
func take(from *cryptobyte.String, out *[]byte, tag cbasn1.Tag) bool {
	var s cryptobyte.String
	if !from.ReadASN1Element(&s, tag) {
		return false
	}
	*out = s
	return true
}

// Split takes a certificate of the usual form apart: version 3, without unique
// identifiers, with extensions, and both instants as UTCTime. It checks no more
// than that, and copies nothing.
func Split(der []byte) (p Parts, ok bool) {
	var cert, tbs, validity, key, sig, wrapped cryptobyte.String
	in := cryptobyte.String(der)
	if !in.ReadASN1(&cert, cbasn1.SEQUENCE) || !in.Empty() || !take(&cert, &p.TBS, cbasn1.SEQUENCE) ||
		!take(&cert, &p.Outer, cbasn1.SEQUENCE) || !cert.ReadASN1(&sig, cbasn1.BIT_STRING) || !cert.Empty() || len(sig) < 2 || sig[0] != 0 {
		return p, false
	}
	p.Signature = sig[1:]
	body := cryptobyte.String(p.TBS)
	if !body.ReadASN1(&tbs, cbasn1.SEQUENCE) || !take(&tbs, &p.Version, contextTag(0)) ||
		!take(&tbs, &p.Serial, cbasn1.INTEGER) || !take(&tbs, &p.Algorithm, cbasn1.SEQUENCE) || !take(&tbs, &p.Issuer, cbasn1.SEQUENCE) ||
		!tbs.ReadASN1(&validity, cbasn1.SEQUENCE) || !take(&validity, &p.NotBefore, cbasn1.UTCTime) ||
		!take(&validity, &p.NotAfter, cbasn1.UTCTime) || !validity.Empty() || !take(&tbs, &p.Subject, cbasn1.SEQUENCE) ||
		!take(&tbs, &p.Key, cbasn1.SEQUENCE) || !tbs.ReadASN1(&wrapped, contextTag(3)) || !tbs.Empty() ||
		!wrapped.ReadASN1(&p.Extensions, cbasn1.SEQUENCE) || !wrapped.Empty() {
		return p, false
	}
	spki := cryptobyte.String(p.Key)
	return p, spki.ReadASN1(&key, cbasn1.SEQUENCE) && take(&key, &p.KeyAlgorithm, cbasn1.SEQUENCE)
}

// NextExtension reads one extension.
func NextExtension(from *cryptobyte.String) (x RawExtension, ok bool) {
	var ext, value cryptobyte.String
	if !from.ReadASN1(&ext, cbasn1.SEQUENCE) {
		return x, false
	}
	all := ext
	if !ext.SkipASN1(cbasn1.OBJECT_IDENTIFIER) || !ext.SkipOptionalASN1(cbasn1.BOOLEAN) {
		return x, false
	}
	x.Head = all[:len(all)-len(ext)]
	ok = ext.ReadASN1(&value, cbasn1.OCTET_STRING) && ext.Empty()
	x.Value = value
	return x, ok
}

// ReadUTCTime reads the element "YYMMDDHHMMSSZ", the only form of a UTCTime in DER
// (RFC 5280 section 4.1.2.5.1).
func ReadUTCTime(der []byte) (t time.Time, ok bool) {
	if len(der) != utcTimeLen || der[0] != tagUTCTime || int(der[1]) != utcTimeLen-2 || der[utcTimeLen-1] != 'Z' {
		return t, false
	}
	var v [6]int // year, month, day, hour, minute, second
	for i := range v {
		a, b := der[2+2*i]-'0', der[3+2*i]-'0'
		if a > 9 || b > 9 {
			return t, false
		}
		v[i] = 10*int(a) + int(b)
	}
	year := 2000 + v[0]
	if v[0] >= 50 {
		year = 1900 + v[0]
	}
	t = time.Date(year, time.Month(v[1]), v[2], v[3], v[4], v[5], 0, time.UTC)
	_, month, day := t.Date() // what is out of range has become another day
	return t, int(month) == v[1] && day == v[2] && v[3] < 24 && v[4] < 60 && v[5] < 60
}

// algorithms are AlgorithmIdentifiers that say all about a key, and how we and
// crypto/x509 name it and a signature.
var keyAlgorithms, signatureAlgorithms = map[string]string{
	"\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07": string(P256),
	"\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22":             string(P384),
	Ed25519.SignatureAlgorithm(): string(Ed25519),
	MLDSA44.SignatureAlgorithm(): string(MLDSA44),
	MLDSA65.SignatureAlgorithm(): string(MLDSA65),
	MLDSA87.SignatureAlgorithm(): string(MLDSA87),
}, map[string]string{
	P256.SignatureAlgorithm():    x509.ECDSAWithSHA256.String(),
	P384.SignatureAlgorithm():    x509.ECDSAWithSHA384.String(),
	RSA2048.SignatureAlgorithm(): x509.SHA256WithRSA.String(),
	Ed25519.SignatureAlgorithm(): x509.PureEd25519.String(),
	MLDSA44.SignatureAlgorithm(): x509.MLDSA44.String(),
	MLDSA65.SignatureAlgorithm(): x509.MLDSA65.String(),
	MLDSA87.SignatureAlgorithm(): x509.MLDSA87.String(),
}

// Identifiers of extensions, encoded.
var (
	headSAN            = []byte("\x06\x03" + oidSAN)
	headSubjectKeyID   = []byte("\x06\x03" + oidSubjectKeyID)
	headAuthorityKeyID = []byte("\x06\x03" + oidAuthorityKeyID)
	headBasic          = []byte("\x06\x03" + oidBasic)
)

// QuickMetadata is BriefMetadataOf for the DER of a certificate of our own making,
// in a fraction of what it takes to parse one; issuer is the DER of its issuer's
// name. It knows the usual kinds: not ok means that a certificate must be parsed.
// It is not for those of others, which it reads but does not check.
func QuickMetadata(der []byte) (m Metadata, issuer []byte, ok bool) {
	p, ok := Split(der)
	if !ok {
		return m, nil, false
	}
	m = Metadata{Fingerprint: Fingerprint(der), SPKIHash: SPKIHash(p.Key), SelfIssued: bytes.Equal(p.Issuer, p.Subject),
		Key: keyAlgorithms[string(p.KeyAlgorithm)], SignatureAlgo: signatureAlgorithms[string(p.Algorithm)]}
	var known [4]bool
	var serial cryptobyte.String
	element := cryptobyte.String(p.Serial)
	known[0] = element.ReadASN1(&serial, cbasn1.INTEGER)
	m.Serial = Serial(serial)
	m.NotBefore, known[1] = ReadUTCTime(p.NotBefore)
	m.NotAfter, known[2] = ReadUTCTime(p.NotAfter)
	m.CommonName, known[3] = onlyCommonName(p.Subject)
	if m.Key == "" || m.SignatureAlgo == "" || known != [4]bool{true, true, true, true} {
		return m, nil, false
	}
	for rest := p.Extensions; !rest.Empty(); {
		x, ok := NextExtension(&rest)
		if !ok || !m.extend(&x) {
			return m, nil, false
		}
	}
	if len(m.Names) == 0 {
		m.Names = append([]string{}, legacyName(m.CommonName)...)
	}
	return m, p.Issuer, true
}

// onlyCommonName reads a subject that is empty, or a common name and nothing else.
func onlyCommonName(subject []byte) (cn string, ok bool) {
	if string(subject) == emptyName {
		return "", true
	}
	var names, set, attribute, id, value cryptobyte.String
	var tag cbasn1.Tag
	in := cryptobyte.String(subject)
	if !in.ReadASN1(&names, cbasn1.SEQUENCE) || !names.ReadASN1(&set, cbasn1.SET) || !names.Empty() ||
		!set.ReadASN1(&attribute, cbasn1.SEQUENCE) || !set.Empty() ||
		!attribute.ReadASN1(&id, cbasn1.OBJECT_IDENTIFIER) || string(id) != oidCommonName ||
		!attribute.ReadAnyASN1(&value, &tag) || !attribute.Empty() {
		return "", false
	}
	return string(value), tag == cbasn1.UTF8String && utf8.Valid(value) || tag == cbasn1.PrintableString && isIA5(string(value))
}

// extend takes over what an extension says.
func (m *Metadata) extend(x *RawExtension) bool {
	v := cryptobyte.String(x.Value)
	switch {
	case bytes.HasPrefix(x.Head, headSAN):
		dns, ips, ok := HostNames(x.Value)
		if len(m.Names) > 0 { // a second one
			return false
		}
		m.Names = hostNames(dns, ips)
		return ok
	case bytes.HasPrefix(x.Head, headSubjectKeyID):
		return v.ReadASN1((*cryptobyte.String)(&m.SubjectKeyID), cbasn1.OCTET_STRING) && v.Empty()
	case bytes.HasPrefix(x.Head, headAuthorityKeyID):
		var id cryptobyte.String
		return v.ReadASN1(&id, cbasn1.SEQUENCE) && v.Empty() &&
			id.ReadASN1((*cryptobyte.String)(&m.AuthorityKeyID), cbasn1.Tag(0).ContextSpecific()) && id.Empty()
	case bytes.HasPrefix(x.Head, headBasic):
		return string(x.Value) == emptyName // no authority: an empty SEQUENCE
	}
	return true
}

// HostNames reads the value of a subjectAltName (RFC 5280 section 4.2.1.6) of one
// or more dNSName, visible ASCII and not empty, and iPAddress of 4 or 16 octets, and
// nothing else.
func HostNames(value []byte) (dns []string, ips []net.IP, ok bool) {
	v := cryptobyte.String(value)
	var list cryptobyte.String
	if !v.ReadASN1(&list, cbasn1.SEQUENCE) || !v.Empty() || list.Empty() {
		return nil, nil, false
	}
	for !list.Empty() {
		var name cryptobyte.String
		var tag cbasn1.Tag
		switch {
		case !list.ReadAnyASN1(&name, &tag):
			return nil, nil, false
		case tag == cbasn1.Tag(nameDNS).ContextSpecific() && len(name) > 0 && isIA5(string(name)):
			dns = append(dns, string(name))
		case tag == cbasn1.Tag(nameIP).ContextSpecific() && (len(name) == net.IPv4len || len(name) == net.IPv6len):
			ips = append(ips, net.IP(name))
		default:
			return nil, nil, false
		}
	}
	return dns, ips, true
}
