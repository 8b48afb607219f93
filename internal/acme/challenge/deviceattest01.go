package challenge

import (
	"context"

	"chancery/internal/acme/attest"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Device is what device-attest-01 needs besides token and key authorization.
type Device struct {
	Object []byte         // WebAuthn attestation object: the client's response
	Policy *attest.Policy // whose attestations count
}

// Attested is the part of a Proof that an attestation adds: it proves a device
// only for a certificate of this key.
type Attested struct {
	Format attest.Format `json:"format"`
	Key    []byte        `json:"key_sha256"`  // of the SubjectPublicKeyInfo
	Root   []byte        `json:"root_sha256"` // of the certificate that is the trust anchor
}

// Attested returns what device-attest-01 found out about the key, nil for
// proofs of other methods.
func (p Proof) Attested() *Attested {
	if p.p == nil {
		return nil
	}
	return p.p.Device
}

// DeviceAttest01Validator is the device-attest-01 method
// (draft-ietf-acme-device-attest-10 section 5): the device's manufacturer says
// which device it is, and that the key lives in it. Nothing is contacted.
type DeviceAttest01Validator struct{ prover }

// NewDeviceAttest01 returns the device-attest-01 validator.
func NewDeviceAttest01(c Config) *DeviceAttest01Validator {
	return &DeviceAttest01Validator{newProver(c)}
}

// Type returns "device-attest-01".
func (v *DeviceAttest01Validator) Type() Type { return DeviceAttest01 }

// Supports reports whether id names a device or a hardware module.
func (v *DeviceAttest01Validator) Supports(id pki.Identifier) bool { return id.Device() }

// Validate verifies the attestation and that it is about exactly this device.
func (v *DeviceAttest01Validator) Validate(_ context.Context, req Request) (Proof, error) {
	if err := check(v, req); err != nil {
		return Proof{}, err
	}
	if req.Device == nil {
		return Proof{}, fault.New(fault.Malformed, "%s needs an attestation object", DeviceAttest01)
	}
	r, err := attest.Verify(req.Device.Object, attest.Challenge{Token: req.Token, KeyAuthorization: req.KeyAuthorization}, req.Device.Policy, v.cfg.Now())
	if err != nil {
		return Proof{}, err
	}
	if !r.Attests(req.Identifier) {
		return Proof{}, fault.New(fault.BadAttestationStatement, "the attestation is about another device than %s", quote(req.Identifier.Value))
	}
	p := v.prove(DeviceAttest01, req, nil)
	p.p.Device = &Attested{Format: r.Format, Key: r.Key[:], Root: r.Root[:]}
	return p, nil
}
