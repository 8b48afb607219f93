package attesttest

import (
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"chancery/internal/testenv"
)

// StartTPM runs a software TPM 2.0 (swtpm) until the test ends.
func StartTPM(t testing.TB) transport.TPM {
	t.Helper()
	bin := testenv.NeedBinary(t, "swtpm")
	dir, err := os.MkdirTemp("", "tpm") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	cmd := exec.Command(bin, "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+path,
		"--ctrl", "type=unixio,path="+filepath.Join(dir, "c"), "--flags", "not-need-init,startup-clear")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
		conn, err := net.Dial("unix", path)
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("swtpm does not listen: %v", err)
		}
	}
	tpm, err := linuxudstpm.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tpm.Close() })
	return tpm
}

// Held is a key that lives in a TPM.
type Held struct {
	Area []byte // TPMT_PUBLIC
	SPKI []byte

	tpm    transport.TPM
	handle tpm2.AuthHandle
	public crypto.PublicKey
	alg    tpm2.TPMAlgID
}

// Hold makes a signing key (TPMAlgECC for P-256, TPMAlgRSA for 2048 bits) that
// never leaves its TPM: an attestation key if it is restricted.
func Hold(t testing.TB, tpm transport.TPM, alg tpm2.TPMAlgID, restricted bool) *Held {
	t.Helper()
	r, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template(alg, restricted))}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tpm2.FlushContext{FlushHandle: r.ObjectHandle}.Execute(tpm) })
	public, err := r.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm2.Pub(*public)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &Held{Area: r.OutPublic.Bytes(), SPKI: spki, tpm: tpm, public: key, alg: alg,
		handle: tpm2.AuthHandle{Handle: r.ObjectHandle, Name: r.Name, Auth: tpm2.PasswordAuth(nil)}}
}

func template(alg tpm2.TPMAlgID, restricted bool) tpm2.TPMTPublic {
	p := tpm2.TPMTPublic{Type: alg, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true,
		SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: restricted, SignEncrypt: true}}
	if alg == tpm2.TPMAlgRSA {
		p.Parameters = tpm2.NewTPMUPublicParms(alg, &tpm2.TPMSRSAParms{KeyBits: 2048, Scheme: tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})}})
		return p
	}
	p.Parameters = tpm2.NewTPMUPublicParms(alg, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256, Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
		Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})}})
	return p
}

// Public implements crypto.Signer.
func (h *Held) Public() crypto.PublicKey { return h.public }

// Sign implements crypto.Signer with SHA-256: the TPM signs.
func (h *Held) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	r, err := tpm2.Sign{KeyHandle: h.handle, Digest: tpm2.TPM2BDigest{Buffer: digest}, InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull}}.Execute(h.tpm)
	if err != nil {
		return nil, err
	}
	if h.alg == tpm2.TPMAlgRSA {
		s, err := r.Signature.Signature.RSASSA()
		if err != nil {
			return nil, err
		}
		return s.Sig.Buffer, nil
	}
	s, err := r.Signature.Signature.ECDSA()
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(s.SignatureR.Buffer), new(big.Int).SetBytes(s.SignatureS.Buffer)})
}

// Held makes the statement in which a TPM's attestation key, which cert
// certifies, certifies another key of the same TPM.
func (m *Maker) Held(ak *Held, cert *x509.Certificate, key *Held, extraData []byte) map[string]any {
	m.t.Helper()
	r, err := tpm2.Certify{ObjectHandle: key.handle, SignHandle: ak.handle, QualifyingData: tpm2.TPM2BData{Buffer: extraData},
		InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}}.Execute(ak.tpm)
	if err != nil {
		m.t.Fatal(err)
	}
	alg := -7
	if ak.alg == tpm2.TPMAlgRSA {
		alg = -257
	}
	return map[string]any{"ver": "2.0", "alg": alg, "x5c": m.Chain(cert), "sig": tpm2.Marshal(r.Signature), "certInfo": r.CertifyInfo.Bytes(), "pubArea": key.Area}
}
