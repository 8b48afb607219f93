package acme

import (
	"crypto/hmac"
	"crypto/rand"

	"chancery/internal/fault"
)

// VerifyEAB checks an external account binding (RFC 8555 section 7.3.4) and
// returns its key id. binding is NewAccount.ExternalAccountBinding, outer the
// already verified new-account message, account the key it was signed with.
//
// lookup returns the MAC key that was handed out as kid, or nil for a kid that
// is unknown, used up or withdrawn; its own error is passed on. A kid without
// a key and a wrong MAC give the same fault.Unauthorized after the same work,
// so that nobody learns which ids exist. Anything else that is wrong with the
// binding is fault.Malformed or fault.BadSignatureAlgorithm.
func VerifyEAB(outer *JWS, account *PublicKey, binding []byte, lookup func(kid string) ([]byte, error)) (kid string, err error) {
	inner, err := parseJWS(binding, shape{kid: true, mac: true})
	if err != nil {
		return "", err
	}
	if inner.Header.URL != outer.Header.URL {
		return "", fault.New(fault.Malformed, `external account binding has another "url" than the request`)
	}
	if err := samePublicKey(inner.Payload, account); err != nil {
		return "", err
	}
	key, err := lookup(inner.Header.KID)
	if err != nil {
		return "", err
	}
	if err := inner.verifyMAC(key); err != nil {
		return "", err
	}
	return inner.Header.KID, nil
}

// samePublicKey checks that payload is a JWK of key, in whatever spelling.
func samePublicKey(payload []byte, key *PublicKey) error {
	bound, err := ParseJWK(payload)
	if err != nil {
		return err
	}
	if !key.Equal(bound) {
		return fault.New(fault.Malformed, "external account binding is over another key than the account's")
	}
	return nil
}

// verifyMAC checks the MAC in constant time. A nil key is never right, nor is
// one shorter than the hash (RFC 7518 section 3.2); both cost the same work
// and give the same error as a wrong MAC.
func (j *JWS) verifyMAC(key []byte) error {
	hash, ok := j.Header.Alg.mac()
	if !ok {
		return badAlg(j.Header.Alg, []Algorithm{HS256, HS384, HS512})
	}
	usable := len(key) >= hash.Size()
	if !usable {
		key = make([]byte, hash.Size())
		rand.Read(key) // never fails; see crypto/rand
	}
	mac := hmac.New(hash.New, key)
	mac.Write(j.signed)
	if equal := hmac.Equal(mac.Sum(nil), j.signature); !equal || !usable {
		return fault.New(fault.Unauthorized, "external account binding is not accepted: its key id is unknown or used up, its MAC is wrong, or its key is too short for %s", j.Header.Alg)
	}
	return nil
}
