package app

import (
	"crypto/x509"
	"encoding/pem"
	"os"

	"chancery/internal/acme/attest"
	"chancery/internal/config"
	"chancery/internal/fault"
)

// attestation reads the roots of attestations that a profile names.
func attestation(p config.Profile) (*attest.Policy, error) {
	out := &attest.Policy{Roots: map[attest.Format][]*x509.Certificate{}}
	for format, path := range map[attest.Format]string{attest.Apple: p.AttestAppleRoots, attest.TPM: p.AttestTPMRoots,
		attest.AndroidKey: p.AttestAndroidRoots, attest.Step: p.AttestStepRoots} {
		if path == "" {
			continue
		}
		roots, err := readRoots(path)
		if err != nil {
			return nil, err
		}
		out.Roots[format] = roots
	}
	return out, nil
}

// readRoots reads a file of one certificate or more in PEM.
func readRoots(path string) (roots []*x509.Certificate, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "the roots of attestations in %s cannot be read", path)
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if block.Type != "CERTIFICATE" || err != nil {
			return nil, fault.New(fault.Invalid, "%s has something else than certificates", path)
		}
		roots = append(roots, cert)
	}
	if len(roots) == 0 {
		return nil, fault.New(fault.Invalid, "%s has no certificate in PEM", path)
	}
	return roots, nil
}
