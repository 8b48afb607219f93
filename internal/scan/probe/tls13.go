package probe

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
)

// errSequence ends a connection that sends more records than we would read.
var errSequence = errors.New("too many records")

// opener returns the function that decrypts the server's handshake records
// after hello and serverHello (RFC 8446 sections 5.2 and 7.1), for the one
// cipher suite that a hand-made hello offers: TLS_AES_128_GCM_SHA256.
func opener(key *ecdh.PrivateKey, sh serverHello, helloMsg, serverHelloMsg []byte) (func([]byte) ([]byte, error), error) {
	peer, err := ecdh.X25519().NewPublicKey(sh.share)
	if err != nil {
		return nil, err
	}
	shared, err := key.ECDH(peer)
	if err != nil {
		return nil, err
	}
	secret, err := serverHandshakeSecret(shared, helloMsg, serverHelloMsg)
	if err != nil {
		return nil, err
	}
	trafficKey, err := expandLabel(secret, "key", nil, 16)
	if err != nil {
		return nil, err
	}
	iv, err := expandLabel(secret, "iv", nil, 12)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(trafficKey)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	var sequence uint64
	return func(record []byte) ([]byte, error) {
		if sequence++; sequence > 1<<10 {
			return nil, errSequence
		}
		var nonce [12]byte
		binary.BigEndian.PutUint64(nonce[4:], sequence-1)
		for i := range nonce {
			nonce[i] ^= iv[i]
		}
		return aead.Open(nil, nonce[:], record[5:], record[:5])
	}, nil
}

// serverHandshakeSecret is server_handshake_traffic_secret (RFC 8446 section
// 7.1).
func serverHandshakeSecret(shared, helloMsg, serverHelloMsg []byte) ([]byte, error) {
	zero := make([]byte, sha256.Size)
	early, err := hkdf.Extract(sha256.New, zero, nil)
	if err != nil {
		return nil, err
	}
	empty := sha256.Sum256(nil)
	derived, err := expandLabel(early, "derived", empty[:], sha256.Size)
	if err != nil {
		return nil, err
	}
	handshakeSecret, err := hkdf.Extract(sha256.New, shared, derived)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	h.Write(helloMsg)
	h.Write(serverHelloMsg)
	return expandLabel(handshakeSecret, "s hs traffic", h.Sum(nil), sha256.Size)
}

// expandLabel is HKDF-Expand-Label (RFC 8446 section 7.1).
func expandLabel(secret []byte, label string, context []byte, n int) ([]byte, error) {
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(append(info, byte(6+len(label))), "tls13 "+label...)
	info = append(append(info, byte(len(context))), context...)
	return hkdf.Expand(sha256.New, secret, string(info), n)
}
