// Package attesttest is the other end of device attestation, for tests: it
// makes what devices and their manufacturers send, from the specifications and
// with keys of its own. Every part can be changed before it is signed, so that
// tests can be wrong in one thing at a time.
package attesttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"chancery/internal/acme/attest"
)

// Maker is a manufacturer: a root, and an authority below it that certifies
// devices.
type Maker struct {
	Root   *x509.Certificate
	Middle *x509.Certificate

	t      testing.TB
	signer crypto.Signer // of Middle
}

// NewMaker makes one.
func NewMaker(t testing.TB) *Maker {
	t.Helper()
	rootKey, key := Key(t), Key(t)
	ca := func(cn string) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: cn}, NotBefore: time.Now().Add(-time.Hour),
			NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	}
	m := &Maker{t: t, signer: key}
	m.Root = issue(t, ca("Maker Root"), ca("Maker Root"), rootKey.Public(), rootKey)
	m.Middle = issue(t, ca("Maker"), m.Root, key.Public(), rootKey)
	return m
}

// Policy trusts m for formats.
func (m *Maker) Policy(formats ...attest.Format) *attest.Policy {
	p := &attest.Policy{Roots: map[attest.Format][]*x509.Certificate{}}
	for _, f := range formats {
		p.Roots[f] = []*x509.Certificate{m.Root}
	}
	return p
}

// Key makes a P-256 key.
func Key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func issue(t testing.TB, c, parent *x509.Certificate, pub crypto.PublicKey, by crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// Certify issues a certificate for a key of a device; change may be nil.
func (m *Maker) Certify(pub crypto.PublicKey, change func(*x509.Certificate), extensions ...pkix.Extension) *x509.Certificate {
	m.t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "device"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), ExtraExtensions: extensions}
	if change != nil {
		change(c)
	}
	return issue(m.t, c, m.Middle, pub, m.signer)
}

// Chain is the x5c of a leaf.
func (m *Maker) Chain(leaf *x509.Certificate) [][]byte { return [][]byte{leaf.Raw, m.Middle.Raw} }

// Object encodes an attestation object.
func Object(t testing.TB, f attest.Format, statement map[string]any) []byte {
	t.Helper()
	b, err := cbor.Marshal(map[string]any{"fmt": string(f), "attStmt": statement})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Ext is an extension.
func Ext(value []byte, oid ...int) pkix.Extension { return pkix.Extension{Id: oid, Value: value} }

// DER encodes a value.
func DER(t testing.TB, v any, params ...string) []byte {
	t.Helper()
	p := ""
	if len(params) > 0 {
		p = params[0]
	}
	b, err := asn1.MarshalWithParams(v, p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Apple makes what Apple's servers attest for a token.
func (m *Maker) Apple(key crypto.Signer, token, serial string) []byte {
	m.t.Helper()
	nonce := sha256.Sum256([]byte(token))
	leaf := m.Certify(key.Public(), nil, Ext([]byte(serial), 1, 2, 840, 113635, 100, 8, 9, 1),
		Ext([]byte("00008110-001A2B3C4D5E6F70"), 1, 2, 840, 113635, 100, 8, 9, 2), Ext(nonce[:], 1, 2, 840, 113635, 100, 8, 11, 1))
	return Object(m.t, attest.Apple, map[string]any{"x5c": m.Chain(leaf)})
}

// Sign signs a text with SHA-256.
func Sign(t testing.TB, key crypto.Signer, text []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(text)
	sig, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// StepStatement is the statement of a YubiKey that step's client sends.
func (m *Maker) StepStatement(key crypto.Signer, keyAuth string, serial int) map[string]any {
	m.t.Helper()
	leaf := m.Certify(key.Public(), nil, Ext(DER(m.t, serial), 1, 3, 6, 1, 4, 1, 41482, 3, 7))
	sig, err := cbor.Marshal(Sign(m.t, key, []byte(keyAuth)))
	if err != nil {
		m.t.Fatal(err)
	}
	return map[string]any{"alg": -7, "x5c": m.Chain(leaf), "sig": sig}
}

// Step makes the object of StepStatement.
func (m *Maker) Step(key crypto.Signer, keyAuth string, serial int) []byte {
	m.t.Helper()
	return Object(m.t, attest.Step, m.StepStatement(key, keyAuth, serial))
}

// Android is an Android key description, to be changed.
type Android struct {
	Level              int // 0 software, 1 TEE, 2 StrongBox
	Challenge          []byte
	Software, Hardware []asn1.RawValue
}

// Tagged is an element of an authorization list: [tag] EXPLICIT der.
func Tagged(tag int, der []byte) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: true, Bytes: der}
}

// NewAndroid describes a key made to sign by a TEE, on a device with a serial.
func NewAndroid(t testing.TB, keyAuth, serial string) *Android {
	t.Helper()
	sum := sha256.Sum256([]byte(keyAuth))
	return &Android{Level: 1, Challenge: sum[:], Hardware: []asn1.RawValue{
		Tagged(1, DER(t, []int{2}, "set")), Tagged(2, DER(t, 3)), Tagged(702, DER(t, 0)), Tagged(713, DER(t, []byte(serial)))}}
}

// Extension encodes the description.
func (a *Android) Extension(t testing.TB) pkix.Extension {
	t.Helper()
	level := asn1.Enumerated(a.Level)
	return Ext(DER(t, struct {
		Version            int
		Level              asn1.Enumerated
		KeyMint            int
		KeyMintLevel       asn1.Enumerated
		Challenge, Unique  []byte
		Software, Hardware []asn1.RawValue
	}{300, level, 300, level, a.Challenge, []byte{}, a.Software, a.Hardware}), 1, 3, 6, 1, 4, 1, 11129, 2, 1, 17)
}

// AndroidStatement is the statement of a described key.
func (m *Maker) AndroidStatement(key crypto.Signer, keyAuth string, a *Android) map[string]any {
	m.t.Helper()
	return map[string]any{"alg": -7, "sig": Sign(m.t, key, []byte(keyAuth)), "x5c": m.Chain(m.Certify(key.Public(), nil, a.Extension(m.t)))}
}

// TPMKey makes the certificate of an attestation key. names are GeneralNames
// besides the TPM's own.
func (m *Maker) TPMKey(pub crypto.PublicKey, change func(*x509.Certificate), names ...[]byte) *x509.Certificate {
	m.t.Helper()
	attribute := func(n int, v string) pkix.AttributeTypeAndValue {
		return pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 23, 133, 2, n}, Value: v}
	}
	dir := DER(m.t, pkix.RDNSequence{{attribute(1, "id:414D4400")}, {attribute(2, "model")}, {attribute(3, "id:1")}})
	san := DER(m.t, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: dir})
	for _, n := range names {
		san = append(san, n...)
	}
	ext := Ext(DER(m.t, asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: san}), 2, 5, 29, 17)
	ext.Critical = true
	return m.Certify(pub, func(c *x509.Certificate) {
		c.Subject = pkix.Name{}
		c.BasicConstraintsValid = true
		c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}}
		if change != nil {
			change(c)
		}
	}, ext)
}

// Permanent is the GeneralName of a device's serial (RFC 4043), Module that of
// a hardware module of type 1.2.3 (RFC 4108).
func Permanent(t testing.TB, serial string) []byte {
	t.Helper()
	return other(t, 3, DER(t, struct {
		ID string `asn1:"utf8"`
	}{serial}))
}

// Module is described at Permanent.
func Module(t testing.TB, serial string) []byte {
	t.Helper()
	return other(t, 4, DER(t, struct {
		Type   asn1.ObjectIdentifier
		Serial []byte
	}{asn1.ObjectIdentifier{1, 2, 3}, []byte(serial)}))
}

func other(t testing.TB, form int, value []byte) []byte {
	t.Helper()
	body := append(DER(t, asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, form}),
		DER(t, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: value})...)
	return DER(t, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: body})
}

// two appends a TPM2B.
func two(b, v []byte) []byte { return append(binary.BigEndian.AppendUint16(b, uint16(len(v))), v...) }

// PubArea encodes the TPMT_PUBLIC of a P-256 key with attributes.
func PubArea(t testing.TB, pub *ecdsa.PublicKey, attributes uint32) []byte {
	t.Helper()
	point, err := pub.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b := binary.BigEndian.AppendUint32([]byte{0x00, 0x23, 0x00, 0x0b}, attributes)
	b = append(two(b, nil), 0x00, 0x10, 0x00, 0x18, 0x00, 0x0b, 0x00, 0x03, 0x00, 0x10)
	return two(two(b, point[1:33]), point[33:])
}

// CertInfo encodes the TPMS_ATTEST of a key that TPM2_Certify made.
func CertInfo(extraData, pubArea []byte) []byte {
	name := sha256.Sum256(pubArea)
	b := two(two([]byte{0xff, 'T', 'C', 'G', 0x80, 0x17}, []byte("signer")), extraData)
	b = append(b, make([]byte, 25)...)
	return two(two(b, append([]byte{0x00, 0x0b}, name[:]...)), []byte("qualified"))
}

// TPMSignature encodes the TPMT_SIGNATURE of an ECDSA key over a text.
func TPMSignature(t testing.TB, key *ecdsa.PrivateKey, text []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(text)
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return two(two([]byte{0x00, 0x18, 0x00, 0x0b}, r.Bytes()), s.Bytes())
}

// Attributes of a signing key that cannot leave its TPM.
const Attributes = 1<<1 | 1<<4 | 1<<5 | 1<<6 | 1<<18

// TPMStatement is the statement of a key that an attestation key certifies.
func (m *Maker) TPMStatement(ak *ecdsa.PrivateKey, cert *x509.Certificate, extraData, pubArea []byte) map[string]any {
	m.t.Helper()
	info := CertInfo(extraData, pubArea)
	return map[string]any{"ver": "2.0", "alg": -7, "x5c": m.Chain(cert), "sig": TPMSignature(m.t, ak, info), "certInfo": info, "pubArea": pubArea}
}
