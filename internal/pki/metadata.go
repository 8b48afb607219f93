package pki

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"net"
	"slices"
	"strings"
	"time"
)

// Metadata is what Chancery remembers of any certificate, its own or foreign.
type Metadata struct {
	Serial         Serial
	Fingerprint    [32]byte // SHA-256 of the DER
	SPKIHash       [32]byte // SHA-256 of the SubjectPublicKeyInfo
	Subject        string   // RFC 2253 text
	Issuer         string   // RFC 2253 text
	CommonName     string
	Names          []string // DNS names and IP addresses, lower case, sorted, without duplicates
	Key            string   // KeyDescription, e.g. "p256" or "rsa1024"
	SignatureAlgo  string   // as crypto/x509 names it, e.g. "ECDSA-SHA256"
	NotBefore      time.Time
	NotAfter       time.Time
	CA             bool
	SelfIssued     bool   // issuer and subject are the same name
	SubjectKeyID   []byte // empty when absent
	AuthorityKeyID []byte // empty when absent
	ARI            string // CertID, or "" when the certificate cannot have one
}

// MetadataOf extracts the metadata of a parsed certificate. Foreign
// certificates may hold names that ParseIdentifier would refuse; they are kept
// as they are, in lower case. A common name that looks like a host counts as a
// name only when there is no subjectAltName, as clients once did.
func MetadataOf(cert *x509.Certificate) Metadata {
	m := BriefMetadataOf(cert)
	m.Subject, m.Issuer = cert.Subject.String(), cert.Issuer.String()
	m.ARI, _ = CertID(cert) // "" without an authority key identifier
	return m
}

// BriefMetadataOf is MetadataOf without Subject, Issuer and ARI: texts that cost
// as much as all the rest.
func BriefMetadataOf(cert *x509.Certificate) Metadata {
	m := Metadata{
		Fingerprint:    Fingerprint(cert.Raw),
		SPKIHash:       SPKIHash(cert.RawSubjectPublicKeyInfo),
		CommonName:     cert.Subject.CommonName,
		Names:          namesOf(cert),
		Key:            KeyDescription(cert.PublicKey),
		SignatureAlgo:  cert.SignatureAlgorithm.String(),
		NotBefore:      cert.NotBefore.UTC(),
		NotAfter:       cert.NotAfter.UTC(),
		CA:             cert.IsCA,
		SelfIssued:     string(cert.RawIssuer) == string(cert.RawSubject),
		SubjectKeyID:   cert.SubjectKeyId,
		AuthorityKeyID: cert.AuthorityKeyId,
	}
	m.Serial, _ = serialOf(cert) // a parsed certificate has one
	return m
}

func namesOf(cert *x509.Certificate) []string {
	names := hostNames(cert.DNSNames, cert.IPAddresses)
	if len(names) == 0 && !cert.IsCA {
		names = append(names, legacyName(cert.Subject.CommonName)...)
	}
	return names
}

// hostNames returns names and addresses as Metadata.Names holds them.
func hostNames(dns []string, ips []net.IP) []string {
	names := make([]string, 0, len(dns)+len(ips))
	for _, n := range dns {
		names = append(names, strings.ToLower(n))
	}
	for _, ip := range ips {
		names = append(names, ip.String())
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// CertifiedNames returns the values of all identifiers that a certificate of
// ours holds, sorted, as its order names them: hosts as in Metadata.Names,
// devices, mailboxes and telephone number lists.
func CertifiedNames(cert *x509.Certificate) ([]string, error) {
	names := append(namesOf(cert), cert.EmailAddresses...)
	for _, x := range cert.Extensions {
		switch {
		case x.Id.Equal(extSAN):
			devices, err := DeviceNames(x.Value)
			if err != nil {
				return nil, err
			}
			for _, id := range devices {
				names = append(names, id.Value)
			}
		case x.Id.Equal(extTNAuthList):
			names = append(names, base64.RawURLEncoding.EncodeToString(x.Value))
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Extensions that hold identifiers.
var (
	extSAN        = asn1.ObjectIdentifier{2, 5, 29, 17}
	extTNAuthList = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 26}
)

// legacyName returns the common name when it is an address or a sound DNS name
// of two labels or more; a single label is as likely a person or a product.
func legacyName(cn string) []string {
	if id, err := ParseIdentifier(IP, cn); err == nil {
		return []string{id.Value}
	}
	if id, err := ParseIdentifier(DNS, cn); err == nil && strings.Contains(cn, ".") {
		return []string{id.Value}
	}
	return nil
}
