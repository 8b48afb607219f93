package pki

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"slices"

	"chancery/internal/fault"
)

// pemCertificate is the label of RFC 7468 section 5.
const pemCertificate = "CERTIFICATE"

// EncodeChain returns the PEM of DER certificates in the given order, in the
// strict form of RFC 7468 and without text between the blocks (RFC 8555
// section 9.1, application/pem-certificate-chain).
func EncodeChain(certificates ...[]byte) []byte {
	n := 0
	for _, der := range certificates {
		n += PEMLength(der)
	}
	b := make([]byte, 0, n)
	for _, der := range certificates {
		b = AppendCertificate(b, der)
	}
	return b
}

// PEMLength is at least the length of the DER of a certificate in PEM.
func PEMLength(der []byte) int { return len(der)*4/3 + len(der)/pemLine + 64 }

// AppendCertificate appends a certificate in PEM.
func AppendCertificate(b, der []byte) []byte {
	b = append(b, "-----BEGIN "+pemCertificate+"-----\n"...)
	for line := range slices.Chunk(der, pemLine) {
		b = append(base64.StdEncoding.AppendEncode(b, line), '\n')
	}
	return append(b, "-----END "+pemCertificate+"-----\n"...)
}

// pemLine is how many octets a line stands for (RFC 7468 section 2: 64
// characters).
const pemLine = 48

// DecodeChain returns the DER of every certificate in text, in order: at
// least one, at most maxCerts. Comments between blocks are allowed, as many
// tools write them; a block that is not a certificate, or is broken, is not.
// The error is a *fault.Error (invalid) that never quotes the input, which may
// be a private key.
func DecodeChain(text []byte, maxBytes, maxCerts int) ([][]byte, error) {
	if len(text) > maxBytes {
		return nil, fault.New(fault.TooLarge, "the PEM file is longer than %d bytes", maxBytes)
	}
	begin := []byte("-----BEGIN ")
	blocks := bytes.Count(text, begin)
	if blocks > maxCerts {
		return nil, fault.New(fault.TooLarge, "the PEM file has more than %d certificates", maxCerts)
	}
	var out [][]byte
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		if block.Type != pemCertificate {
			return nil, fault.New(fault.Invalid, "the PEM file has a block that is not a certificate; give certificates only, and never a private key")
		}
		if len(block.Headers) > 0 || !isSequence(block.Bytes) {
			return nil, fault.New(fault.Invalid, "PEM block %d is not a certificate (RFC 7468)", len(out)+1)
		}
		out = append(out, block.Bytes)
		text = rest
	}
	if len(out) == 0 || len(out) != blocks {
		return nil, fault.New(fault.Invalid, "the file has %d PEM blocks, of which %d are readable certificates", blocks, len(out))
	}
	return out, nil
}
