package importer

import (
	"crypto/x509"
	"errors"
	"fmt"

	"software.sslmate.com/src/go-pkcs12"

	"chancery/internal/fault"
)

// maxPasswords bounds how many passwords are tried: each try costs the key
// derivation that the file asks for.
const maxPasswords = 10

// usualPasswords are tried after those of the caller: none, and what Java's
// tools have always used.
var usualPasswords = []string{"", "changeit"}

// pkcs12 reads the certificates of a PKCS#12 file, with or without a key.
func (r *reader) pkcs12(data []byte) error {
	if !saneIntegers(data, 0) {
		return fault.New(fault.Invalid, "the PKCS#12 file asks for more than %d rounds of key derivation", maxIterations)
	}
	passwords := append(append([]string{}, r.opt.Passwords...), usualPasswords...)
	if len(passwords) > maxPasswords {
		return fault.New(fault.Invalid, "at most %d passwords can be tried", maxPasswords-len(usualPasswords))
	}
	var last error
	for _, password := range passwords {
		certs, key, err := decode12(data, password)
		if err == nil {
			if key {
				r.Keys++
			}
			r.certificates(certs)
			return nil
		}
		if last = err; !errors.Is(err, pkcs12.ErrIncorrectPassword) {
			break
		}
	}
	if errors.Is(last, pkcs12.ErrIncorrectPassword) {
		return fault.Wrap(last, fault.Invalid, "no password given opens the PKCS#12 file")
	}
	return fault.Wrap(last, fault.Invalid, "the PKCS#12 file cannot be read: %.200s", last.Error())
}

// decode12 opens data as a key with its chain, or else as a trust store. The
// key is decrypted by the library and dropped here. A panic of the library is
// an error like any other.
func decode12(data []byte, password string) (certs []*x509.Certificate, key bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("pkcs12: %v", p)
		}
	}()
	_, leaf, rest, err := pkcs12.DecodeChain(data, password)
	if err == nil {
		return append([]*x509.Certificate{leaf}, rest...), true, nil
	}
	if errors.Is(err, pkcs12.ErrIncorrectPassword) {
		return nil, false, err
	}
	certs, trustErr := pkcs12.DecodeTrustStore(data, password)
	if trustErr != nil {
		return nil, false, err
	}
	return certs, false, nil
}
