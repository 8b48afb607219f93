package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Extensions of Certificate Transparency (RFC 6962 sections 3.1 and 3.3).
var (
	oidPoison  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}
	oidSCTList = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
)

// Poison returns the critical extension that makes a precertificate unfit to
// be a certificate.
func Poison() pkix.Extension {
	return pkix.Extension{Id: oidPoison, Critical: true, Value: []byte{tagNull, 0}}
}

// SCT is a signed certificate timestamp (RFC 6962 section 3.2): the promise of
// a log to include a certificate.
type SCT struct {
	LogID      [32]byte // SHA-256 of the log's SubjectPublicKeyInfo
	Timestamp  uint64   // Unix milliseconds
	Extensions []byte   // CtExtensions without their length; static logs put the leaf's index here
	Signature  []byte   // a whole DigitallySigned: algorithms, length, signature
}

// At returns the timestamp as an instant.
func (s *SCT) At() time.Time { return time.UnixMilli(int64(s.Timestamp)).UTC() }

// marshal returns the TLS encoding.
func (s *SCT) marshal() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddUint8(0) // v1
	b.AddBytes(s.LogID[:])
	b.AddUint64(s.Timestamp)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(s.Extensions) })
	b.AddBytes(s.Signature)
	return b.Bytes()
}

// parseSCT reads what marshal writes.
func parseSCT(b []byte) (SCT, error) {
	var s SCT
	var version uint8
	var extensions cryptobyte.String
	in := cryptobyte.String(b)
	if !in.ReadUint8(&version) || version != 0 || !in.CopyBytes(s.LogID[:]) || !in.ReadUint64(&s.Timestamp) || !in.ReadUint16LengthPrefixed(&extensions) {
		return SCT{}, errors.New("read SCT: not a version 1 timestamp")
	}
	s.Extensions, s.Signature = bytes.Clone(extensions), bytes.Clone(in)
	if _, _, err := s.signature(); err != nil {
		return SCT{}, err
	}
	return s, nil
}

// Algorithms of DigitallySigned (RFC 5246 section 7.4.1.4.1). A log signs with
// SHA-256, by ECDSA or RSA (RFC 6962 section 2.1.4).
const (
	tlsSHA256 = 4
	tlsRSA    = 1
	tlsECDSA  = 3
)

// signature takes DigitallySigned apart.
func (s *SCT) signature() (algorithm uint8, sig []byte, err error) {
	var hash uint8
	var content cryptobyte.String
	in := cryptobyte.String(s.Signature)
	if !in.ReadUint8(&hash) || !in.ReadUint8(&algorithm) || !in.ReadUint16LengthPrefixed(&content) || !in.Empty() {
		return 0, nil, errors.New("read SCT: the signature is cut off, or followed by something")
	}
	if hash != tlsSHA256 || (algorithm != tlsECDSA && algorithm != tlsRSA) {
		return 0, nil, fmt.Errorf("read SCT: signature algorithm %d with hash %d is none that RFC 6962 allows", algorithm, hash)
	}
	return algorithm, content, nil
}

// VerifyPrecert checks the timestamp of a precertificate against the key of its
// log. tbs is the TBSCertificate without the poison (see WithoutPoison), and
// issuerKeyHash the SHA-256 of the SubjectPublicKeyInfo of the authority that
// issues the certificate.
func (s *SCT) VerifyPrecert(key crypto.PublicKey, issuerKeyHash [32]byte, tbs []byte) error {
	var b cryptobyte.Builder
	b.AddUint8(0) // v1
	b.AddUint8(0) // certificate_timestamp
	b.AddUint64(s.Timestamp)
	b.AddUint16(1) // precert_entry
	b.AddBytes(issuerKeyHash[:])
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(tbs) })
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(s.Extensions) })
	signed, err := b.Bytes()
	if err != nil {
		return fmt.Errorf("encode what a log signs: %w", err)
	}
	algorithm, sig, err := s.signature()
	if err != nil {
		return err
	}
	sum := sha256.Sum256(signed)
	ok := false
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		ok = algorithm == tlsECDSA && ecdsa.VerifyASN1(key, sum[:], sig)
	case *rsa.PublicKey:
		ok = algorithm == tlsRSA && rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], sig) == nil
	}
	if !ok {
		return ErrSignature
	}
	return nil
}

// LeafIndex returns the place of the entry in a static log (static-ct-api:
// the extension leaf_index, 40 bits); ok is false for an SCT without one.
func (s *SCT) LeafIndex() (index uint64, ok bool) {
	in := cryptobyte.String(s.Extensions)
	for !in.Empty() {
		var kind uint8
		var data cryptobyte.String
		if !in.ReadUint8(&kind) || !in.ReadUint16LengthPrefixed(&data) {
			return 0, false
		}
		if kind != 0 {
			continue
		}
		if len(data) != 5 {
			return 0, false
		}
		for _, b := range data {
			index = index<<8 | uint64(b)
		}
		return index, true
	}
	return 0, false
}

// SCTList returns the extension that embeds timestamps, in their order.
func SCTList(scts []SCT) (pkix.Extension, error) {
	var b cryptobyte.Builder
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		for i := range scts {
			one, err := scts[i].marshal()
			if err != nil {
				b.SetError(err)
			}
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(one) })
		}
	})
	list, err := b.Bytes()
	if err != nil || len(scts) == 0 {
		return pkix.Extension{}, errors.Join(errors.New("encode SCT list: empty, or a timestamp is too long"), err)
	}
	return pkix.Extension{Id: oidSCTList, Value: tlv(tagOctetString, list)}, nil
}

// SCTsOf returns the timestamps embedded in a certificate; none without an SCT
// list.
func SCTsOf(cert *x509.Certificate) ([]SCT, error) {
	for _, e := range cert.Extensions {
		if e.Id.Equal(oidSCTList) {
			return parseSCTList(e.Value)
		}
	}
	return nil, nil
}

func parseSCTList(value []byte) ([]SCT, error) {
	var octets, list cryptobyte.String
	in := cryptobyte.String(value)
	if !in.ReadASN1(&octets, cbasn1.OCTET_STRING) || !in.Empty() || !octets.ReadUint16LengthPrefixed(&list) || !octets.Empty() || list.Empty() {
		return nil, errors.New("read SCT list: not one")
	}
	var out []SCT
	for !list.Empty() {
		var one cryptobyte.String
		if !list.ReadUint16LengthPrefixed(&one) {
			return nil, errors.New("read SCT list: cut off")
		}
		s, err := parseSCT(one)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// WithoutPoison returns a precertificate's TBSCertificate as logs sign it (RFC
// 6962 section 3.2): without the poison, every other octet as it was. It fails
// unless there is exactly one poison.
func WithoutPoison(tbs []byte) ([]byte, error) { return withoutExtension(tbs, oidPoison) }

// SamePrecert reports whether a certificate is the one that its precertificate
// announced: both TBSCertificates are the same, octet for octet, but for the
// poison of one and the SCT list of the other.
func SamePrecert(precert, final []byte) error {
	announced, err := WithoutPoison(precert)
	if err != nil {
		return err
	}
	made, err := withoutExtension(final, oidSCTList)
	if err != nil {
		return err
	}
	if !bytes.Equal(announced, made) {
		return errors.New("the certificate is not the one that its precertificate announced")
	}
	return nil
}

// withoutExtension removes the one extension with this identifier.
func withoutExtension(tbs []byte, id asn1.ObjectIdentifier) ([]byte, error) {
	oid, err := oidContent(id)
	if err != nil {
		return nil, err
	}
	var content, last, wrapped, list cryptobyte.String
	in := cryptobyte.String(tbs)
	if !in.ReadASN1(&content, cbasn1.SEQUENCE) || !in.Empty() {
		return nil, errors.New("read TBSCertificate: not a DER SEQUENCE")
	}
	head := content
	for !content.PeekASN1Tag(cbasn1.Tag(contextConstructed(3))) {
		var any cryptobyte.String
		if !content.ReadAnyASN1Element(&any, nil) {
			return nil, errors.New("read TBSCertificate: it has no extensions")
		}
	}
	head = head[:len(head)-len(content)]
	if !content.ReadASN1(&last, cbasn1.Tag(contextConstructed(3))) || !content.Empty() || !last.ReadASN1(&wrapped, cbasn1.SEQUENCE) || !last.Empty() {
		return nil, errors.New("read TBSCertificate: its extensions do not parse")
	}
	kept, removed := make([]byte, 0, len(wrapped)), 0
	for !wrapped.Empty() {
		var element, fields cryptobyte.String
		if !wrapped.ReadASN1Element(&element, cbasn1.SEQUENCE) {
			return nil, errors.New("read TBSCertificate: an extension does not parse")
		}
		fields = element
		if !fields.ReadASN1(&list, cbasn1.SEQUENCE) || !list.ReadASN1(&fields, cbasn1.OBJECT_IDENTIFIER) {
			return nil, errors.New("read TBSCertificate: an extension does not parse")
		}
		if string(fields) == oid {
			removed++
			continue
		}
		kept = append(kept, element...)
	}
	if removed != 1 {
		return nil, fmt.Errorf("read TBSCertificate: extension %s is there %d times", id, removed)
	}
	if len(kept) == 0 { // Extensions ::= SEQUENCE SIZE (1..MAX)
		return tlv(tagSequence, head), nil
	}
	return tlv(tagSequence, head, tlv(contextConstructed(3), tlv(tagSequence, kept))), nil
}
