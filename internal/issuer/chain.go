package issuer

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"chancery/internal/pki"
)

// Bounds of what a CA may return.
const (
	MaxChain      = 10       // certificates
	MaxChainBytes = 96 << 10 // octets, in PEM; a chain of ML-DSA-87 takes 50 KB
)

// ReadChain reads a chain in PEM, the leaf first, within the bounds.
func ReadChain(text []byte) ([][]byte, error) {
	chain, err := pki.DecodeChain(text, MaxChainBytes, MaxChain)
	if err != nil {
		return nil, &Error{Class: Mismatch, Err: fmt.Errorf("read the CA's chain: %w", err)}
	}
	return chain, nil
}

// Accept holds what a CA returned against what was asked for, and returns the
// chain to be served: the leaf and what leads from it to the root, in order
// and without the root. Certificates that do not belong to it are left out. A
// leaf for another key or other names is class Mismatch and never returned.
func Accept(r *Request, chain [][]byte) ([][]byte, error) {
	out, err := accept(r, chain)
	if err != nil {
		return nil, &Error{Class: Mismatch, Err: err}
	}
	return out, nil
}

func accept(r *Request, chain [][]byte) ([][]byte, error) {
	if len(chain) == 0 || len(chain) > MaxChain {
		return nil, fmt.Errorf("the CA returned a chain of %d certificates, not 1 to %d", len(chain), MaxChain)
	}
	certs := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the CA's chain cannot be read: %w", i+1, err)
		}
		certs[i] = c
	}
	if err := matches(r, certs[0]); err != nil {
		return nil, err
	}
	return arrange(certs), nil
}

// matches checks key and names of a leaf.
func matches(r *Request, leaf *x509.Certificate) error {
	csr, err := x509.ParseCertificateRequest(r.CSR)
	if err != nil {
		return fmt.Errorf("read our own request: %w", err)
	}
	key, ok := csr.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if same := ok && key.Equal(leaf.PublicKey) || bytes.Equal(csr.RawSubjectPublicKeyInfo, leaf.RawSubjectPublicKeyInfo); !same {
		return errors.New("the certificate is for another key than the one that was sent")
	}
	got, want := namesOf(leaf), identifierTexts(r.Identifiers)
	if !slices.Equal(got, want) {
		return fmt.Errorf("the certificate is for other names than those asked for: it has %s, not %s", listed(got), listed(want))
	}
	return nil
}

// namesOf returns the sorted set of a leaf's names.
func namesOf(c *x509.Certificate) []string {
	var out []string
	for _, n := range c.DNSNames {
		out = append(out, strings.ToLower(n))
	}
	for _, ip := range c.IPAddresses {
		out = append(out, ip.String())
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func identifierTexts(ids []pki.Identifier) []string {
	var out []string
	for _, id := range ids {
		out = append(out, id.Value)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// listed bounds how many names an error repeats.
func listed(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%q and %d more", names[:most], len(names)-most)
	}
	return fmt.Sprintf("%q", names)
}

// arrange follows the signatures from the leaf upwards.
func arrange(certs []*x509.Certificate) [][]byte {
	out, at := [][]byte{certs[0].Raw}, certs[0]
	rest := slices.Clone(certs[1:])
	for {
		i := slices.IndexFunc(rest, func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawSubject, at.RawIssuer) && at.CheckSignatureFrom(c) == nil
		})
		if i < 0 || bytes.Equal(rest[i].RawSubject, rest[i].RawIssuer) && rest[i].CheckSignatureFrom(rest[i]) == nil {
			return out // the end, or a root, which servers do not send
		}
		at = rest[i]
		out = append(out, at.Raw)
		rest = slices.Delete(rest, i, i+1)
	}
}
