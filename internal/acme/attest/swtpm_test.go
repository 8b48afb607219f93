package attest_test

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"chancery/internal/acme/attest"
	"chancery/internal/acme/attest/attesttest"
	"chancery/internal/pki"
)

// A TPM that others wrote makes the keys and certifies them.
func TestSoftwareTPM(t *testing.T) {
	tpm := attesttest.StartTPM(t)
	m := attesttest.NewMaker(t)
	extra := sha256.Sum256([]byte(keyAuth))
	for _, akAlg := range []tpm2.TPMAlgID{tpm2.TPMAlgECC, tpm2.TPMAlgRSA} {
		ak := attesttest.Hold(t, tpm, akAlg, true)
		cert := m.TPMKey(ak.Public(), nil, attesttest.Permanent(t, serial), attesttest.Module(t, "M1"))
		for _, alg := range []tpm2.TPMAlgID{tpm2.TPMAlgECC, tpm2.TPMAlgRSA} {
			t.Run(fmt.Sprintf("%v certifies %v", akAlg, alg), func(t *testing.T) {
				key := attesttest.Hold(t, tpm, alg, false)
				got, err := attest.Verify(attesttest.Object(t, attest.TPM, m.Held(ak, cert, key, extra[:])), about, m.Policy(attest.TPM), time.Now())
				if err != nil {
					t.Fatal(err)
				}
				if got.Key != pki.SPKIHash(key.SPKI) || !got.Attests(device(serial)) || !got.Attests(pki.Identifier{Type: pki.HardwareModule, Value: "M1/1.2.3"}) {
					t.Errorf("%+v", got)
				}
			})
		}
		// The attestation key is no key to certify, though the TPM vouches for it.
		refused(t, "an attestation key", m, attest.TPM, attesttest.Object(t, attest.TPM, m.Held(ak, cert, ak, extra[:])), "not for signing requests")
	}
}
