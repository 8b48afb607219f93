package server

import (
	"context"
	"encoding/base64"
	"fmt"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/fault"
)

// attestation returns the object of a response to device-attest-01
// (draft-ietf-acme-device-attest-10 section 5).
func attestation(r acme.ChallengeResponse) ([]byte, error) {
	if r.AttObj == "" {
		return nil, fault.New(fault.Malformed, `the response to %s needs "attObj", an attestation object in base64url`, challenge.DeviceAttest01)
	}
	obj, err := base64.RawURLEncoding.Strict().DecodeString(r.AttObj)
	if err != nil {
		return nil, fault.New(fault.Malformed, `"attObj" is not base64url without padding`)
	}
	return obj, nil
}

// device returns what the validator of a trial by device-attest-01 needs.
func (s *Server) device(ctx context.Context, t *trial) (*challenge.Device, error) {
	profile, err := s.profileOf(ctx, t)
	if err != nil {
		return nil, err
	}
	return &challenge.Device{Object: t.attestation, Policy: profile.Attestation}, nil
}

// profileOf returns the profile that the authorization of a trial was ordered
// for, whose policy judges it.
func (s *Server) profileOf(ctx context.Context, t *trial) (*Profile, error) {
	id := t.authz.OrderID
	if id == "" {
		return t.ca.standard, nil
	}
	o, err := GetOrder(ctx, s.db.Read(), id)
	if err != nil {
		return nil, err
	}
	if p := t.ca.profiles[o.Profile]; p != nil {
		return p, nil
	}
	return nil, fault.New(fault.InvalidProfile, "the profile %s is not offered any more", o.Profile)
}

// attests reports why the attestation behind a proof does not count for an
// order of a profile now, or "". It is bound to its key by ca.Evidence.Key.
func (a *authority) attests(proof challenge.Proof, profile string) string {
	d := proof.Attested()
	if d == nil {
		return ""
	}
	p := a.profiles[profile]
	if p == nil || len(d.Root) != 32 || !p.Attestation.Trusts(d.Format, [32]byte(d.Root)) {
		return fmt.Sprintf("the profile does not trust the authority of its attestation (format %s)", d.Format)
	}
	return ""
}
