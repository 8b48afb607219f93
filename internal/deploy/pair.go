package deploy

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"strings"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// ReadPair makes an item from PEM texts, as files hold them: a chain, leaf
// first, and an unencrypted key (PKCS #8, SEC 1 or PKCS #1). Names are the
// leaf's own; the ID is the first of them, with "_" for an asterisk. Errors are
// *fault.Error and quote nothing of the input.
func ReadPair(chainPEM, keyPEM []byte) (Item, error) {
	chain, err := pki.DecodeChain(chainPEM, maxChain*maxCertificate*2, maxChain)
	if err != nil {
		return Item{}, err
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return Item{}, fault.Wrap(err, fault.Invalid, "the first certificate cannot be read")
	}
	key, err := ReadKey(keyPEM)
	if err != nil {
		return Item{}, err
	}
	item := Item{Chain: chain, Key: key, Names: leaf.DNSNames}
	for _, ip := range leaf.IPAddresses {
		item.Names = append(item.Names, ip.String())
	}
	if len(item.Names) == 0 {
		return Item{}, fault.New(fault.Invalid, "the certificate has no DNS name and no address: no server could be asked for it")
	}
	item.ID = strings.NewReplacer("*", "_", ":", "-").Replace(item.Names[0])
	return item, nil
}

// ReadKey reads an unencrypted private key in PEM: PKCS #8, SEC 1 or PKCS #1.
// Errors are *fault.Error and quote nothing of the input.
func ReadKey(text []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue // EC PARAMETERS
		}
		if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
			return nil, fault.New(fault.Invalid, "the private key is encrypted; decrypt it first: openssl pkey -in KEY -out PLAIN")
		}
		var key any
		var err error
		switch block.Type {
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		default:
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		}
		if signer, ok := key.(crypto.Signer); ok && err == nil {
			return signer, nil
		}
		return nil, fault.New(fault.Invalid, "the private key cannot be read; it must be PKCS #8, SEC 1 or PKCS #1 of a kind that can sign")
	}
	return nil, fault.New(fault.Invalid, "the key file has no private key in PEM")
}
