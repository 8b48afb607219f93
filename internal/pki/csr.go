package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"net/netip"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"chancery/internal/fault"
)

// CSR is a certificate signing request whose self-signature verified and
// whose key passed CheckKey. Slices point into the bytes given to ParseCSR.
type CSR struct {
	DER       []byte
	SPKI      []byte // DER SubjectPublicKeyInfo, in the one encoding that DER allows
	PublicKey crypto.PublicKey
	KeyType   KeyType

	// Identifiers is the set of all names asked for, from the common name and
	// the subjectAltName alike, in the order of SortIdentifiers (RFC 8555
	// section 7.4). It may be empty.
	Identifiers []Identifier
	CommonName  string // canonical value of the one of Identifiers that is also the common name, or ""
	MustStaple  bool   // asks for the TLS feature status_request (RFC 7633)

	// SignatureAlgorithm is that of the request itself, nothing more.
	SignatureAlgorithm x509.SignatureAlgorithm

	cnInSAN bool // the subjectAltName has the common name, too
	devices bool // the common name may be a device's
	free    bool // the common name is not looked at
}

// csrParts are the pieces of a request before anything is checked.
type csrParts struct {
	tbs, subject, spki, algorithm cryptobyte.String
	signature                     []byte
	attributes                    cryptobyte.String
}

// ParseCSR reads a PKCS #10 request (RFC 2986) in DER of at most max octets.
// Nothing is taken from a request but its key, its names and must-staple:
// requested key usages and the like are ignored, because the profile decides;
// a request for a CA certificate, other kinds of subject alternative name,
// critical extensions that are not understood and anything ambiguous are
// refused. The error is a *fault.Error (badCSR) whose text says what to change.
func ParseCSR(der []byte, max int) (*CSR, error) { return parseCSR(der, max, &CSR{}) }

// ParseDeviceCSR is ParseCSR for orders with devices in them: the common name
// may be the identity of one, as clients of devices write it.
func ParseDeviceCSR(der []byte, max int) (*CSR, error) {
	return parseCSR(der, max, &CSR{devices: true})
}

// ParsePersonCSR is ParseCSR for orders of mailboxes and telephone numbers: the
// common name is not looked at, because it names nothing that is certified.
func ParsePersonCSR(der []byte, max int) (*CSR, error) {
	return parseCSR(der, max, &CSR{free: true})
}

// parseCSR fills csr, which says how to read the request.
func parseCSR(der []byte, max int, csr *CSR) (*CSR, error) {
	if len(der) > max {
		return nil, badCSR("it has %d octets, more than the %d allowed", len(der), max)
	}
	var p csrParts
	if !p.split(der) {
		return nil, badCSR("it is not a DER CertificationRequest (RFC 2986)")
	}
	csr.DER, csr.SPKI = der, p.spki
	if err := csr.readKey(); err != nil {
		return nil, err
	}
	if err := csr.checkSignature(&p); err != nil {
		return nil, err
	}
	if err := csr.readSubject(p.subject); err != nil {
		return nil, err
	}
	if err := csr.readAttributes(p.attributes); err != nil {
		return nil, err
	}
	csr.Identifiers = SortIdentifiers(csr.Identifiers)
	return csr, nil
}

func badCSR(format string, args ...any) error {
	return fault.New(fault.BadCSR, "the CSR is not acceptable: "+format, args...)
}

// because turns the public text of another fault into one about the CSR.
func because(err error) error { return badCSR("%s", fault.As(err).Detail) }

// split takes a request apart without looking inside the parts.
func (p *csrParts) split(der []byte) bool {
	var request, info cryptobyte.String
	in := cryptobyte.String(der)
	var version int
	if !in.ReadASN1(&request, cbasn1.SEQUENCE) || !in.Empty() ||
		!request.ReadASN1Element(&p.tbs, cbasn1.SEQUENCE) || !request.ReadASN1Element(&p.algorithm, cbasn1.SEQUENCE) ||
		!request.ReadASN1BitStringAsBytes(&p.signature) || !request.Empty() {
		return false
	}
	tbs := p.tbs
	return tbs.ReadASN1(&info, cbasn1.SEQUENCE) && info.ReadASN1Integer(&version) && version == 0 &&
		info.ReadASN1(&p.subject, cbasn1.SEQUENCE) && info.ReadASN1Element(&p.spki, cbasn1.SEQUENCE) &&
		info.ReadOptionalASN1(&p.attributes, nil, contextTag(0)) && info.Empty()
}

// readKey parses and checks the public key. The key's encoding is copied into
// the certificate, so it must be the canonical one.
func (c *CSR) readKey() error {
	if c.PublicKey, c.KeyType = parsePoint(c.SPKI); c.PublicKey != nil {
		return nil // CheckKey has nothing to add
	}
	pub, err := x509.ParsePKIXPublicKey(c.SPKI)
	if err != nil {
		return badCSR("its public key cannot be read")
	}
	if err := CheckKey(pub); err != nil {
		return because(err)
	}
	canonical, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil || string(canonical) != string(c.SPKI) {
		return badCSR("its public key is not in canonical DER")
	}
	c.PublicKey = pub
	c.KeyType, err = KeyTypeOf(pub)
	return err
}

// What the SubjectPublicKeyInfo of an elliptic curve's key begins with, up to
// the point (RFC 5480 section 2).
const (
	spkiP256 = "\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00"
	spkiP384 = "\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00"
)

// parsePoint parses the key of one of the usual curves from its one encoding in
// DER: a fixed head and an uncompressed point, of which crypto/ecdsa checks that
// it is on the curve. Nil: it is something else, or wrong.
func parsePoint(spki []byte) (crypto.PublicKey, KeyType) {
	for _, c := range [...]struct {
		head  string
		curve elliptic.Curve
		kt    KeyType
	}{{spkiP256, elliptic.P256(), P256}, {spkiP384, elliptic.P384(), P384}} {
		if point, ok := bytes.CutPrefix(spki, []byte(c.head)); ok {
			if pub, err := ecdsa.ParseUncompressedPublicKey(c.curve, point); err == nil {
				return pub, c.kt
			}
		}
	}
	return nil, ""
}

// Further signature algorithms that requests are signed with in practice.
const (
	algECDSA512 = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x04"
	algRSA384   = "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c\x05\x00"
	algRSA512   = "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d\x05\x00"
)

// requestAlgorithm returns the algorithm and hash of an AlgorithmIdentifier,
// or UnknownSignatureAlgorithm for those not accepted (SHA-1 above all).
func requestAlgorithm(der string) (x509.SignatureAlgorithm, crypto.Hash) {
	switch der {
	case algECDSA256:
		return x509.ECDSAWithSHA256, crypto.SHA256
	case algECDSA384:
		return x509.ECDSAWithSHA384, crypto.SHA384
	case algECDSA512:
		return x509.ECDSAWithSHA512, crypto.SHA512
	case algRSA256:
		return x509.SHA256WithRSA, crypto.SHA256
	case algRSA384:
		return x509.SHA384WithRSA, crypto.SHA384
	case algRSA512:
		return x509.SHA512WithRSA, crypto.SHA512
	case algEd25519:
		return x509.PureEd25519, 0
	case algMLDSA44:
		return x509.MLDSA44, 0
	case algMLDSA65:
		return x509.MLDSA65, 0
	case algMLDSA87:
		return x509.MLDSA87, 0
	}
	return x509.UnknownSignatureAlgorithm, 0
}

// checkSignature verifies that the requester holds the private key.
func (c *CSR) checkSignature(p *csrParts) error {
	algorithm, hash := requestAlgorithm(string(p.algorithm))
	if algorithm == x509.UnknownSignatureAlgorithm {
		return badCSR("its signature algorithm is not accepted; sign with SHA-256 or better and ECDSA or RSA (PKCS #1 v1.5), or with Ed25519 or ML-DSA")
	}
	message := []byte(p.tbs)
	switch hash {
	case 0:
	case crypto.SHA256:
		sum := sha256.Sum256(message)
		message = sum[:]
	default:
		h := hash.New()
		h.Write(message)
		message = h.Sum(nil)
	}
	ok := false
	switch pub := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		ok = isECDSA(algorithm) && ecdsa.VerifyASN1(pub, message, p.signature)
	case *rsa.PublicKey:
		ok = isPKCS1(algorithm) && rsa.VerifyPKCS1v15(pub, hash, message, p.signature) == nil
	case ed25519.PublicKey:
		ok = algorithm == x509.PureEd25519 && ed25519.Verify(pub, message, p.signature)
	case *mldsa.PublicKey:
		ok = c.KeyType.SignatureAlgorithm() == string(p.algorithm) && mldsa.Verify(pub, message, p.signature, nil) == nil
	}
	if !ok {
		return badCSR("its signature does not verify with its own public key")
	}
	c.SignatureAlgorithm = algorithm
	return nil
}

func isECDSA(a x509.SignatureAlgorithm) bool {
	return a == x509.ECDSAWithSHA256 || a == x509.ECDSAWithSHA384 || a == x509.ECDSAWithSHA512
}

func isPKCS1(a x509.SignatureAlgorithm) bool {
	return a == x509.SHA256WithRSA || a == x509.SHA384WithRSA || a == x509.SHA512WithRSA
}

// readSubject takes the common name, which must be a name to certify, and
// reads past all other attributes.
func (c *CSR) readSubject(rdns cryptobyte.String) error {
	found := false
	for !rdns.Empty() {
		var rdn cryptobyte.String
		if !rdns.ReadASN1(&rdn, cbasn1.SET) || rdn.Empty() {
			return badCSR("its subject is not a DER Name")
		}
		for !rdn.Empty() {
			var attribute, oid, value cryptobyte.String
			var tag cbasn1.Tag
			if !rdn.ReadASN1(&attribute, cbasn1.SEQUENCE) || !attribute.ReadASN1(&oid, cbasn1.OBJECT_IDENTIFIER) ||
				!attribute.ReadAnyASN1(&value, &tag) || !attribute.Empty() {
				return badCSR("its subject is not a DER Name")
			}
			if string(oid) != oidCommonName {
				continue
			}
			if found {
				return badCSR("it has more than one common name")
			}
			found = true
			if err := c.readCommonName(value, tag); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *CSR) readCommonName(value cryptobyte.String, tag cbasn1.Tag) error {
	if tag != cbasn1.UTF8String && tag != cbasn1.PrintableString && tag != cbasn1.IA5String {
		return badCSR("its common name is neither UTF8String nor PrintableString nor IA5String")
	}
	if len(value) == 0 || c.free {
		return nil // "/CN=" says nothing; openssl writes it for an empty answer
	}
	if len(value) > maxCommonName {
		return badCSR("its common name is longer than %d octets; put the name into the subjectAltName", maxCommonName)
	}
	id, err := ParseIdentifier(IP, string(value))
	if err != nil {
		id, err = ParseIdentifier(DNS, string(value))
	}
	if err != nil && c.devices {
		id, err = ParseIdentifier(PermanentIdentifier, string(value))
	}
	if err != nil {
		return badCSR("its common name must be one of its names or be left out: %s", fault.As(err).Detail)
	}
	c.CommonName = id.Value
	c.Identifiers = append(c.Identifiers, id)
	return nil
}

// readAttributes finds the one extensionRequest (RFC 2985 section 5.4.2).
// Challenge passwords and the like are ignored.
func (c *CSR) readAttributes(attributes cryptobyte.String) error {
	found := false
	for !attributes.Empty() {
		var attribute, oid, values, extensions cryptobyte.String
		if !attributes.ReadASN1(&attribute, cbasn1.SEQUENCE) || !attribute.ReadASN1(&oid, cbasn1.OBJECT_IDENTIFIER) ||
			!attribute.ReadASN1(&values, cbasn1.SET) || !attribute.Empty() {
			return badCSR("its attributes are not DER")
		}
		if string(oid) != oidExtRequest {
			continue
		}
		if found || !values.ReadASN1(&extensions, cbasn1.SEQUENCE) || !values.Empty() {
			return badCSR("it must have one extensionRequest attribute with one value")
		}
		found = true
		if err := c.readExtensions(extensions); err != nil {
			return err
		}
	}
	return nil
}

// maxRequested bounds the extensions in one request; real ones have under ten.
const maxRequested = 32

func (c *CSR) readExtensions(list cryptobyte.String) error {
	seen := make(map[string]bool)
	for !list.Empty() {
		var x rawExtension
		if !readExtension(&list, &x) || len(seen) == maxRequested {
			return badCSR("its requested extensions are not DER, or too many")
		}
		if seen[string(x.oid)] {
			return badCSR("it requests one extension twice")
		}
		seen[string(x.oid)] = true
		if err := c.readExtension(&x); err != nil {
			return err
		}
	}
	return nil
}

func (c *CSR) readExtension(x *rawExtension) error {
	switch string(x.oid) {
	case oidSAN:
		return c.readSAN(x.value)
	case oidTNAuthList:
		id, err := parseTNAuthList(base64.RawURLEncoding.EncodeToString(x.value))
		if err != nil {
			return because(err)
		}
		c.Identifiers = append(c.Identifiers, id)
	case oidTLSFeature:
		if string(x.value) != tlsFeatureStatusRequest {
			return badCSR("the only TLS feature that can be requested is status_request (5)")
		}
		c.MustStaple = true
	case oidBasic:
		var body cryptobyte.String
		var ca bool
		if !x.value.ReadASN1(&body, cbasn1.SEQUENCE) || !x.value.Empty() || !readCritical(&body, &ca) || ca {
			return badCSR("it asks for a CA certificate; leave basicConstraints out")
		}
	case oidKeyUsage, oidExtKeyUsage, oidSubjectKeyID, oidPolicies: // the profile decides
	default:
		if x.critical {
			return badCSR("it requests a critical extension that is not understood")
		}
	}
	return nil
}

// readSAN reads a subjectAltName.
func (c *CSR) readSAN(value cryptobyte.String) error {
	var names cryptobyte.String
	if !value.ReadASN1(&names, cbasn1.SEQUENCE) || !value.Empty() || names.Empty() {
		return badCSR("its subjectAltName is empty or not DER")
	}
	for !names.Empty() {
		var name cryptobyte.String
		var tag cbasn1.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			return badCSR("its subjectAltName is not DER")
		}
		id, err := generalName(name, tag)
		if err != nil {
			return err
		}
		c.Identifiers = append(c.Identifiers, id)
		c.cnInSAN = c.cnInSAN || id.Value == c.CommonName
	}
	return nil
}

// generalName returns the identifier in one GeneralName.
func generalName(name []byte, tag cbasn1.Tag) (id Identifier, err error) {
	switch tag {
	case cbasn1.Tag(nameDNS).ContextSpecific():
		id, err = ParseIdentifier(DNS, string(name))
	case cbasn1.Tag(nameEmail).ContextSpecific():
		id, err = ParseIdentifier(Email, string(name))
	case cbasn1.Tag(nameIP).ContextSpecific():
		addr, ok := netip.AddrFromSlice(name)
		if !ok {
			return id, badCSR("an IP address in its subjectAltName has %d octets, not 4 or 16", len(name))
		}
		id, err = ParseIdentifier(IP, addr.String())
	case cbasn1.Tag(0).Constructed().ContextSpecific():
		id, err = DeviceName(name)
		if err == nil && id.Type == "" {
			return id, badCSR("its subjectAltName holds something else than DNS names, IP addresses, e-mail addresses and devices")
		}
	default:
		return id, badCSR("its subjectAltName holds something else than DNS names, IP addresses, e-mail addresses and devices")
	}
	if err != nil {
		return id, because(err)
	}
	return id, nil
}
