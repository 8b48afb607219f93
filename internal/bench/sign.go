package bench

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"time"

	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

// SignOps are the operations of the signing benchmark:
//
//	keygen  make a key pair
//	sign    sign 600 octets, about a TBSCertificate
//	verify  check such a signature
//	csr     parse and check a certificate request
//	cert    what an authority computes for a certificate: encode, sign with a
//	        throw-away key, sign with its own, verify (lints and commits are
//	        in the issuance benchmark)
func SignOps() []string { return []string{"keygen", "sign", "verify", "csr", "cert"} }

// Sign is the benchmark of one operation with one key type in this process.
// Its CPU per operation is the figure; one client is enough.
type Sign struct {
	Variant string // "p256 sign"
	run     func(ctx context.Context) error
}

// Workload returns the benchmark for a Driver.
func (s *Sign) Workload() Workload {
	return Workload{Name: "sign", Unit: "operations", Do: func(ctx context.Context, _ int, _ *Sample) error { return s.run(ctx) }}
}

// NewSign prepares op with keys of type kt.
func NewSign(op string, kt pki.KeyType) (*Sign, error) {
	if !kt.Valid() {
		return nil, fault.New(fault.Invalid, "key type %q is unknown; choose one of %v", kt, pki.KeyTypes)
	}
	s := &Sign{Variant: string(kt) + " " + op}
	if op == "keygen" {
		s.run = func(context.Context) error { _, err := keys.Generate(kt); return err }
		return s, nil
	}
	key, err := keys.Generate(kt)
	if err != nil {
		return nil, err
	}
	switch op {
	case "sign", "verify":
		return s, s.signature(op, key)
	case "csr":
		der, err := newCSR(key, []string{"www.bench.example"})
		s.run = func(context.Context) error { _, err := pki.ParseCSR(der, len(der)); return err }
		return s, err
	case "cert":
		return s, s.certificate(key, kt)
	}
	return nil, fault.New(fault.Invalid, "operation %q is unknown; choose of %v", op, SignOps())
}

func (s *Sign) signature(op string, key crypto.Signer) error {
	message := make([]byte, 600)
	rand.Read(message)
	sig, err := pki.SignTBS(key, message)
	if err != nil {
		return err
	}
	s.run = func(context.Context) error { _, err := pki.SignTBS(key, message); return err }
	if op == "verify" {
		s.run = func(context.Context) error { return pki.VerifyTBS(key.Public(), message, sig) }
	}
	return nil
}

// certificate prepares the whole signing path for one certificate: what an
// authority computes, without the lints and the commits of its database.
func (s *Sign) certificate(key crypto.Signer, kt pki.KeyType) error {
	throwaway, err := keys.Generate(kt)
	if err != nil {
		return err
	}
	enc, err := certificateEncoder(kt)
	if err != nil {
		return err
	}
	subject, err := keys.Generate(pki.P256) // as most subscribers have
	if err != nil {
		return err
	}
	spki, err := marshalSPKI(subject.Public())
	if err != nil {
		return err
	}
	leaf := pki.Leaf{SPKI: spki, Identifiers: []pki.Identifier{{Type: pki.DNS, Value: "www.bench.example"}}}
	s.run = func(context.Context) error { return signCertificate(enc, leaf, throwaway, key, kt) }
	return nil
}

// certificateEncoder encodes for an issuer whose key is of type kt, under a
// profile as TLS servers have it.
func certificateEncoder(kt pki.KeyType) (*pki.Encoder, error) {
	name, err := pki.MarshalName(pkix.Name{CommonName: "Bench"})
	if err != nil {
		return nil, err
	}
	return pki.NewEncoder(pki.IssuerInfo{Name: name, KeyID: make([]byte, 20), KeyType: kt}, pki.CertSpec{
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []asn1.ObjectIdentifier{pki.EKUServerAuth}, BasicConstraints: true, SubjectKeyID: true,
		OCSPURLs: []string{"http://bench.example/ocsp"}, IssuerURLs: []string{"http://bench.example/ca.crt"}, CRLURLs: []string{"http://bench.example/0.crl"}})
}

// signCertificate follows the order of issuance: encode, sign with a key that
// is worth nothing, sign with the real one, verify, put together.
func signCertificate(enc *pki.Encoder, leaf pki.Leaf, throwaway, key crypto.Signer, kt pki.KeyType) (err error) {
	leaf.NotBefore = time.Now()
	if leaf.Serial, err = pki.NewSerial(1, leaf.NotBefore, rand.Reader); err != nil {
		return err
	}
	leaf.NotAfter = leaf.NotBefore.Add(90*24*time.Hour - time.Second)
	tbs, err := enc.TBS(leaf)
	if err != nil {
		return err
	}
	if _, err := pki.SignTBS(throwaway, tbs); err != nil {
		return err
	}
	sig, err := pki.SignTBS(key, tbs)
	if err != nil {
		return err
	}
	if err := pki.VerifyTBS(key.Public(), tbs, sig); err != nil {
		return err
	}
	pki.AssembleCertificate(tbs, kt, sig)
	return nil
}
