package live

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"software.sslmate.com/src/go-pkcs12"

	"chancery/internal/deploy"
	"chancery/internal/pki"
)

// KeyPEM returns the PKCS #8 PEM of an item's key.
func KeyPEM(item *deploy.Item) ([]byte, error) {
	if item.Key == nil {
		return nil, errors.New("the key is not in our hands, and this target needs it")
	}
	der, err := x509.MarshalPKCS8PrivateKey(item.Key)
	if err != nil {
		return nil, fmt.Errorf("the key cannot be exported: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Bundle returns key and chain in one PEM text, as HAProxy and Postfix read
// it.
func Bundle(item *deploy.Item) ([]byte, error) {
	key, err := KeyPEM(item)
	if err != nil {
		return nil, err
	}
	return append(key, pki.EncodeChain(item.Chain...)...), nil
}

// content returns what a file of an item holds.
func (t *Target) content(item *deploy.Item, what string) ([]byte, error) {
	switch what {
	case Fullchain:
		return pki.EncodeChain(item.Chain...), nil
	case Cert:
		return pki.EncodeChain(item.Chain[0]), nil
	case Chain:
		return pki.EncodeChain(item.Chain[1:]...), nil
	case Privkey:
		return KeyPEM(item)
	case Combined:
		return Bundle(item)
	}
	return t.keystore(item)
}

// keystore returns a PKCS #12 file (RFC 7292) with the key and the chain.
func (t *Target) keystore(item *deploy.Item) ([]byte, error) {
	if t.server.Password == nil {
		return nil, errors.New("a keystore needs a password; use kind pkcs12")
	}
	password, err := t.server.Password()
	if err != nil {
		return nil, err
	}
	chain, err := deploy.ParseChain(item.Chain)
	if err != nil {
		return nil, err
	}
	if item.Key == nil {
		return nil, errors.New("the key is not in our hands, and a keystore needs it")
	}
	encoder := pkcs12.Modern2023
	if t.server.LegacyKeystore {
		encoder = pkcs12.LegacyDES
	}
	data, err := encoder.WithRand(rand.Reader).Encode(item.Key, chain[0], chain[1:], password)
	if err != nil {
		return nil, fmt.Errorf("make keystore: %w", err)
	}
	return data, nil
}
