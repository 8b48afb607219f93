package deploy

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"time"
)

// Bounds of an item; real chains have two to four certificates of 1 to 6 KB.
const (
	maxChain       = 10
	maxCertificate = 64 << 10
)

// idPattern is what an ID may be, as it names files.
var idPattern = regexp.MustCompile(`^[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,127}$`)

// ValidID reports whether s can be the ID of an item.
func ValidID(s string) bool { return idPattern.MatchString(s) }

// Check says what is wrong with an item in itself, before any server sees it:
// Apache's own test accepts a key of another certificate, and the reload then
// ends the server. The key must be the leaf's, every certificate signed by the
// next, all of them valid now, and the leaf must have every name.
func Check(item *Item, now time.Time) error {
	if !ValidID(item.ID) {
		return fmt.Errorf("the id %.40q is not 1 to 128 of the characters a-z A-Z 0-9 . _ - (and no dot first)", item.ID)
	}
	chain, err := ParseChain(item.Chain)
	if err != nil {
		return err
	}
	if item.Key != nil {
		if err := checkKey(chain[0], item.Key.Public()); err != nil {
			return err
		}
	}
	if err := checkDates(chain, now); err != nil {
		return err
	}
	if err := checkSignatures(chain); err != nil {
		return err
	}
	return checkNames(chain[0], item.Names)
}

// ParseChain parses the certificates of an item, leaf first.
func ParseChain(ders [][]byte) ([]*x509.Certificate, error) {
	if len(ders) == 0 || len(ders) > maxChain {
		return nil, fmt.Errorf("the chain has %d certificates; 1 to %d are possible", len(ders), maxChain)
	}
	chain := make([]*x509.Certificate, len(ders))
	for i, der := range ders {
		if len(der) > maxCertificate {
			return nil, fmt.Errorf("certificate %d of the chain has %d bytes; %d are possible", i+1, len(der), maxCertificate)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the chain: %w", i+1, err)
		}
		chain[i] = cert
	}
	return chain, nil
}

// checkKey compares the leaf's key with ours.
func checkKey(leaf *x509.Certificate, pub crypto.PublicKey) error {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return fmt.Errorf("encode public key: %w", err)
	}
	if !bytes.Equal(spki, leaf.RawSubjectPublicKeyInfo) {
		return errors.New("the private key is not that of the certificate")
	}
	return nil
}

// checkDates checks that every certificate is valid now.
func checkDates(chain []*x509.Certificate, now time.Time) error {
	for i, c := range chain {
		switch {
		case now.Before(c.NotBefore):
			return fmt.Errorf("certificate %d of the chain is not valid before %s", i+1, c.NotBefore.UTC().Format(time.RFC3339))
		case now.After(c.NotAfter):
			return fmt.Errorf("certificate %d of the chain expired at %s", i+1, c.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// checkSignatures checks that each certificate certifies the one before it
// (RFC 8446 section 4.4.2).
func checkSignatures(chain []*x509.Certificate) error {
	for i, c := range chain[:len(chain)-1] {
		issuer := chain[i+1]
		if !bytes.Equal(c.RawIssuer, issuer.RawSubject) {
			return fmt.Errorf("certificate %d of the chain is not issued by certificate %d; the order must be leaf, intermediate, ...", i+1, i+2)
		}
		if err := c.CheckSignatureFrom(issuer); err != nil {
			return fmt.Errorf("certificate %d of the chain is not signed by certificate %d: %w", i+1, i+2, err)
		}
	}
	return nil
}

// checkNames checks that the leaf is for every name.
func checkNames(leaf *x509.Certificate, names []string) error {
	for _, name := range names {
		if !hasName(leaf, name) {
			return fmt.Errorf("the certificate is not for %.100q", name)
		}
	}
	return nil
}

// hasName reports whether leaf is for a DNS name, a wildcard or an address.
func hasName(leaf *x509.Certificate, name string) bool {
	if ip := net.ParseIP(name); ip != nil {
		return leaf.VerifyHostname("["+name+"]") == nil
	}
	if strings.HasPrefix(name, "*.") {
		for _, n := range leaf.DNSNames {
			if strings.EqualFold(n, name) {
				return true
			}
		}
		return false
	}
	return leaf.VerifyHostname(name) == nil
}
