package attest_test

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"chancery/internal/acme/attest"
	"chancery/internal/acme/attest/attesttest"
	"chancery/internal/pki"
	"chancery/internal/testenv"
)

// startTPM runs a software TPM 2.0 until the test ends.
func startTPM(t *testing.T) transport.TPM {
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
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if conn, err := net.Dial("unix", path); err == nil {
			conn.Close()
			break
		} else if time.Now().After(deadline) {
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

// template is a key that never leaves the TPM: an attestation key if it is
// restricted.
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

// made is a key in a TPM.
type made struct {
	handle tpm2.AuthHandle
	area   []byte
	spki   []byte
	pub    any
}

func create(t *testing.T, tpm transport.TPM, p tpm2.TPMTPublic) made {
	t.Helper()
	r, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(p)}.Execute(tpm)
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
	return made{tpm2.AuthHandle{Handle: r.ObjectHandle, Name: r.Name, Auth: tpm2.PasswordAuth(nil)}, r.OutPublic.Bytes(), spki, key}
}

// A TPM that others wrote makes the keys and certifies them.
func TestSoftwareTPM(t *testing.T) {
	tpm := startTPM(t)
	m := attesttest.NewMaker(t)
	extra := sha256.Sum256([]byte(keyAuth))
	for _, akAlg := range []tpm2.TPMAlgID{tpm2.TPMAlgECC, tpm2.TPMAlgRSA} {
		ak := create(t, tpm, template(akAlg, true))
		cert := m.TPMKey(ak.pub, nil, attesttest.Permanent(t, serial), attesttest.Module(t, "M1"))
		for _, alg := range []tpm2.TPMAlgID{tpm2.TPMAlgECC, tpm2.TPMAlgRSA} {
			t.Run(fmt.Sprintf("%v certifies %v", akAlg, alg), func(t *testing.T) {
				p := template(alg, false)
				key := create(t, tpm, p)
				r, err := tpm2.Certify{ObjectHandle: key.handle, SignHandle: ak.handle, QualifyingData: tpm2.TPM2BData{Buffer: extra[:]},
					InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}}.Execute(tpm)
				if err != nil {
					t.Fatal(err)
				}
				s := map[string]any{"ver": "2.0", "alg": map[tpm2.TPMAlgID]int{tpm2.TPMAlgECC: -7, tpm2.TPMAlgRSA: -257}[akAlg], "x5c": m.Chain(cert),
					"sig": tpm2.Marshal(r.Signature), "certInfo": r.CertifyInfo.Bytes(), "pubArea": key.area}
				got, err := attest.Verify(attesttest.Object(t, attest.TPM, s), about, m.Policy(attest.TPM), time.Now())
				if err != nil {
					t.Fatal(err)
				}
				if got.Key != pki.SPKIHash(key.spki) || !got.Attests(device(serial)) || !got.Attests(pki.Identifier{Type: pki.HardwareModule, Value: "M1/1.2.3"}) {
					t.Errorf("%+v", got)
				}
				// The attestation key is no key to certify, though the TPM vouches for it.
				r, err = tpm2.Certify{ObjectHandle: ak.handle, SignHandle: ak.handle, QualifyingData: tpm2.TPM2BData{Buffer: extra[:]},
					InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}}.Execute(tpm)
				if err != nil {
					t.Fatal(err)
				}
				s["sig"], s["certInfo"], s["pubArea"] = tpm2.Marshal(r.Signature), r.CertifyInfo.Bytes(), ak.area
				refused(t, "an attestation key", m, attest.TPM, attesttest.Object(t, attest.TPM, s), "not for signing requests")
			})
		}
	}
}
