package app

import (
	"crypto/x509"
	"encoding/pem"
	"os"

	"chancery/internal/acme/attest"
	"chancery/internal/acme/tkauth"
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

// tokens reads whose authority tokens count for a profile.
func tokens(p config.Profile) (out *tkauth.Policy, err error) {
	out = &tkauth.Policy{}
	if p.TokenRoots != "" {
		if out.Roots, err = readRoots(p.TokenRoots); err != nil {
			return nil, err
		}
	}
	if len(p.TokenOrigins) == 0 {
		return out, nil
	}
	var tls *x509.CertPool
	if p.TokenOriginRoots != "" {
		roots, err := readRoots(p.TokenOriginRoots)
		if err != nil {
			return nil, err
		}
		tls = x509.NewCertPool()
		for _, r := range roots {
			tls.AddCert(r)
		}
	}
	out.Fetcher, err = tkauth.NewFetcher(p.TokenOrigins, tls)
	return out, err
}

// readRoots reads a file of one certificate or more in PEM.
func readRoots(path string) (roots []*x509.Certificate, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "the roots in %s cannot be read", path)
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
