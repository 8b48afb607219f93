package acme

import "chancery/internal/fault"

// VerifyKeyChange checks the inner message of a key roll-over (RFC 8555
// section 7.3.5) and returns the new key. outer is the already verified
// message to the key-change URL; account and current are the URL and the key
// of the account that signed it. Whether the new key already belongs to an
// account (409 then) is for the caller to see. Errors are fault.Malformed,
// fault.BadPublicKey or fault.BadSignatureAlgorithm.
func VerifyKeyChange(outer *JWS, account string, current *PublicKey) (*PublicKey, error) {
	// RFC 8555 section 7.3.5: the inner message may hold a nonce, which counts
	// for nothing.
	inner, err := parseJWS(outer.Payload, shape{nonceAllowed: true, jwk: true})
	if err != nil {
		return nil, err
	}
	if inner.Header.URL != outer.Header.URL {
		return nil, fault.New(fault.Malformed, `the inner message of a key change must have the "url" of the outer one`)
	}
	next, err := inner.Header.JWK.PublicKey()
	if err != nil {
		return nil, err
	}
	if err := inner.Verify(next); err != nil {
		return nil, err
	}
	change, err := Decode[KeyChange](inner.Payload)
	if err != nil {
		return nil, err
	}
	if change.Account != account {
		return nil, fault.New(fault.Malformed, `"account" of a key change must be the URL of the account that signed it`)
	}
	old, err := ParseJWK(change.OldKey)
	if err != nil {
		return nil, err
	}
	if !current.Equal(old) {
		return nil, fault.New(fault.Malformed, `"oldKey" of a key change is not the present key of the account`)
	}
	return next, nil
}
