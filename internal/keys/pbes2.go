package keys

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"

	"golang.org/x/crypto/scrypt"
)

// Private keys are stored as PKCS #8 under PBES2 (RFC 8018) with scrypt
// (RFC 7914) and AES-256-CBC, which OpenSSL 1.1 and later read. CBC does not
// authenticate; whoever loads a key compares its public half with the
// certificate it belongs to.

// errDecrypt means that the passphrase is wrong or the file is damaged: CBC
// cannot tell.
var errDecrypt = errors.New("wrong passphrase or damaged data")

// kdf is the choice of a key derivation function and its parameters.
type kdf struct {
	salt    string
	n, r, p int // scrypt; n is 0 for PBKDF2
	rounds  int // PBKDF2 with HMAC-SHA-256
}

// Cost of scrypt: N = 2^14, r = 8, p = 1 takes 16 MB and about 35 ms of CPU.
// That is the most that OpenSSL agrees to (its limit is 32 MB, which N = 2^15
// just exceeds), and what it uses itself.
const (
	scryptN = 1 << 14
	scryptR = 8
	scryptP = 1
	saltLen = 16
)

// Bounds for files that others made.
const (
	maxScryptMemory = 128 << 20
	maxScryptP      = 8
	maxRounds       = 10_000_000
)

func newKDF() kdf {
	var salt [saltLen]byte
	_, _ = rand.Read(salt[:]) // cannot fail
	return kdf{salt: string(salt[:]), n: scryptN, r: scryptR, p: scryptP}
}

// derive returns a key of 32 octets.
func (k kdf) derive(pass Passphrase, size int) ([]byte, error) {
	if k.n == 0 {
		return pbkdf2.Key(sha256.New, string(pass.secret), []byte(k.salt), k.rounds, size)
	}
	return scrypt.Key(pass.secret, []byte(k.salt), k.n, k.r, k.p, size)
}

func (k kdf) check() error {
	switch {
	case k.n == 0 && (k.rounds < 1 || k.rounds > maxRounds):
		return fmt.Errorf("PBKDF2 with %d rounds is out of bounds", k.rounds)
	case k.n == 0:
		return nil
	case k.n < 2 || k.r < 1 || k.p < 1 || k.p > maxScryptP || k.r > maxScryptMemory/128/k.n:
		return fmt.Errorf("scrypt with N=%d r=%d p=%d is out of bounds", k.n, k.r, k.p)
	}
	return nil
}

var (
	oidPBES2      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidScrypt     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 4, 11}
	oidHMACSHA256 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}
	oidAES128CBC  = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 2}
	oidAES256CBC  = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
)

// encryptedKey is EncryptedPrivateKeyInfo (RFC 5958 section 3) with PBES2.
type encryptedKey struct {
	Algorithm struct {
		ID     asn1.ObjectIdentifier
		Params struct {
			KDF        pkix.AlgorithmIdentifier
			Encryption struct {
				ID asn1.ObjectIdentifier
				IV []byte
			}
		}
	}
	Data []byte
}

// scryptParams is scrypt-params of RFC 7914 section 7.1.
type scryptParams struct {
	Salt    []byte
	N, R, P int
	KeyLen  int `asn1:"optional"`
}

// pbkdf2Params is PBKDF2-params of RFC 8018 appendix A.2.
type pbkdf2Params struct {
	Salt   []byte
	Rounds int
	KeyLen int                      `asn1:"optional"`
	PRF    pkix.AlgorithmIdentifier `asn1:"optional"`
}

// deriver returns the key that a kdf yields for a store's passphrase; stores
// keep what they derived.
type deriver func(k kdf, size int) ([]byte, error)

// encrypt returns the DER EncryptedPrivateKeyInfo of key.
func encrypt(key crypto.Signer, k kdf, derive deriver) ([]byte, error) {
	plain, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	secret, err := derive(k, 32)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, fmt.Errorf("encrypt private key: %w", err)
	}
	params, err := asn1.Marshal(scryptParams{Salt: []byte(k.salt), N: k.n, R: k.r, P: k.p})
	if err != nil {
		return nil, fmt.Errorf("encode scrypt parameters: %w", err)
	}
	var out encryptedKey
	out.Algorithm.ID = oidPBES2
	out.Algorithm.Params.KDF = pkix.AlgorithmIdentifier{Algorithm: oidScrypt, Parameters: asn1.RawValue{FullBytes: params}}
	iv := make([]byte, aes.BlockSize)
	_, _ = rand.Read(iv)
	out.Algorithm.Params.Encryption.ID = oidAES256CBC
	out.Algorithm.Params.Encryption.IV = iv
	pad := aes.BlockSize - len(plain)%aes.BlockSize
	out.Data = append(plain, bytes.Repeat([]byte{byte(pad)}, pad)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(out.Data, out.Data)
	der, err := asn1.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encode encrypted key: %w", err)
	}
	return der, nil
}

// decrypt reads a DER EncryptedPrivateKeyInfo. A passphrase that does not fit
// gives errDecrypt.
func decrypt(der []byte, derive deriver) (crypto.Signer, error) {
	var in encryptedKey
	if rest, err := asn1.Unmarshal(der, &in); err != nil || len(rest) > 0 || !in.Algorithm.ID.Equal(oidPBES2) {
		return nil, errors.New("not a PKCS #8 key encrypted with PBES2")
	}
	encryption := in.Algorithm.Params.Encryption
	size := 0
	switch {
	case encryption.ID.Equal(oidAES256CBC):
		size = 32
	case encryption.ID.Equal(oidAES128CBC):
		size = 16
	}
	if size == 0 || len(encryption.IV) != aes.BlockSize || len(in.Data) == 0 || len(in.Data)%aes.BlockSize != 0 {
		return nil, errors.New("not encrypted with AES-256-CBC or AES-128-CBC")
	}
	k, err := parseKDF(in.Algorithm.Params.KDF)
	if err != nil {
		return nil, err
	}
	secret, err := derive(k, size)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, fmt.Errorf("decrypt private key: %w", err)
	}
	cipher.NewCBCDecrypter(block, encryption.IV).CryptBlocks(in.Data, in.Data)
	return parsePadded(in.Data)
}

// parsePadded removes PKCS #7 padding and parses the PKCS #8 key.
func parsePadded(plain []byte) (crypto.Signer, error) {
	pad := int(plain[len(plain)-1])
	if pad == 0 || pad > aes.BlockSize || !bytes.HasSuffix(plain, bytes.Repeat([]byte{byte(pad)}, pad)) {
		return nil, errDecrypt
	}
	key, err := x509.ParsePKCS8PrivateKey(plain[:len(plain)-pad])
	if err != nil {
		return nil, errDecrypt // the cause could quote key material
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T cannot sign", key)
	}
	return signer, nil
}

func parseKDF(id pkix.AlgorithmIdentifier) (kdf, error) {
	var k kdf
	switch {
	case id.Algorithm.Equal(oidScrypt):
		var p scryptParams
		if rest, err := asn1.Unmarshal(id.Parameters.FullBytes, &p); err != nil || len(rest) > 0 || p.N == 0 {
			return kdf{}, errors.New("broken scrypt parameters")
		}
		k = kdf{salt: string(p.Salt), n: p.N, r: p.R, p: p.P}
	case id.Algorithm.Equal(oidPBKDF2):
		var p pbkdf2Params
		if rest, err := asn1.Unmarshal(id.Parameters.FullBytes, &p); err != nil || len(rest) > 0 || !p.PRF.Algorithm.Equal(oidHMACSHA256) {
			return kdf{}, errors.New("PBKDF2 is not with HMAC-SHA-256")
		}
		k = kdf{salt: string(p.Salt), rounds: p.Rounds}
	default:
		return kdf{}, errors.New("the key derivation is neither scrypt nor PBKDF2")
	}
	return k, k.check()
}
