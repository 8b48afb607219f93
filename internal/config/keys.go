package config

import (
	"path/filepath"
	"strings"
	"time"
)

// Keys is the [keys] section.
type Keys struct {
	// Where new keys of authorities are made: file (encrypted PKCS#8), pkcs11
	// (a token), aws-kms or azure-kms. Keys that exist are used where they are.
	// All but file need a program that was built for them.
	Store KeyStore `toml:"store"`

	// Where new keys of delegated OCSP responders are made, which sign much and
	// live for 30 days: same (where those of authorities are) or one of the
	// stores.
	ResponderStore ResponderStore `toml:"responder_store"`

	// Directory of the encrypted PKCS#8 files. Empty: keys in the data
	// directory. It also holds the key that seals small secrets in the database,
	// so it is needed with every store.
	Dir string `toml:"dir"`

	// File whose first line decrypts the keys. Empty: passphrase in the keys
	// directory, made at the first start with mode 0600, which protects
	// backups of the keys alone and nothing else.
	PassphraseFile string `toml:"passphrase_file"`

	// The PKCS #11 token, when keys are in one.
	PKCS11 PKCS11 `toml:"pkcs11"`

	// AWS KMS, when keys are there. Credentials come from where the AWS SDK
	// looks: environment, shared files, role of the machine or pod.
	AWS AWSKMS `toml:"aws_kms"`

	// Azure Key Vault, when keys are there. Credentials come from where the
	// Azure SDK looks: environment, workload or managed identity, CLI.
	Azure AzureKMS `toml:"azure_kms"`
}

// KeyStore is a place for private keys.
type KeyStore string

// Places for private keys.
const (
	StoreFile   KeyStore = "file"
	StorePKCS11 KeyStore = "pkcs11"
	StoreAWS    KeyStore = "aws-kms"
	StoreAzure  KeyStore = "azure-kms"
)

// Choices returns the values a key store may have.
func (KeyStore) Choices() []string {
	return texts([]KeyStore{StoreFile, StorePKCS11, StoreAWS, StoreAzure})
}

// ResponderStore is a place for the keys of OCSP responders.
type ResponderStore string

// StoreSame is where the keys of authorities are.
const StoreSame ResponderStore = "same"

// Choices returns the values it may have.
func (ResponderStore) Choices() []string {
	return append([]string{string(StoreSame)}, KeyStore("").Choices()...)
}

// PKCS11 is the [keys.pkcs11] section.
type PKCS11 struct {
	// Absolute path of the token's library. Empty: no token.
	Module string `toml:"module"`

	// Label of the token, or a PKCS #11 URI (RFC 7512) that fits one token, such
	// as "pkcs11:token=ca;serial=42". A PIN has no place in it.
	Token string `toml:"token"`

	// File whose first line is the user PIN; others must not be able to read it.
	// It is read at each login. A PIN that the token refused is not tried again.
	PINFile string `toml:"pin_file"`

	// Environment variable that holds the user PIN, instead of a file.
	PINEnv string `toml:"pin_env"`

	// Most sessions with the token: how many signatures are made at once.
	Sessions int `toml:"sessions" min:"1" max:"1024"`

	// Most requests that wait for a session. One more is answered 503.
	Waiters int `toml:"waiters" min:"1" max:"100000"`

	// Longest time for one signature, with its repetitions. A token that takes
	// longer is answered for with 503.
	Timeout time.Duration `toml:"timeout"`
}

// AWSKMS is the [keys.aws_kms] section.
type AWSKMS struct {
	// Region, such as eu-west-1. Empty: keys are not in AWS, unless it is the
	// store, when the SDK finds the region.
	Region string `toml:"region"`

	// URL of a private endpoint of KMS. Empty: that of the region.
	Endpoint string `toml:"endpoint" format:"url"`

	// Begins the alias of each key that is made; what follows is its name.
	AliasPrefix string `toml:"alias_prefix"`

	// Longest time for one operation, with its repetitions.
	Timeout time.Duration `toml:"timeout"`

	// Most times that one request is sent: KMS refuses some when there are many.
	Attempts int `toml:"attempts" min:"1" max:"20"`
}

// AzureKMS is the [keys.azure_kms] section.
type AzureKMS struct {
	// URL of the vault or Managed HSM: https://NAME.vault.azure.net. Empty: keys
	// are not in Azure.
	VaultURL string `toml:"vault_url" format:"url"`

	// Make keys in the HSM of a premium vault. Otherwise in software.
	HSM bool `toml:"hsm"`

	// Longest time for one operation, with its repetitions.
	Timeout time.Duration `toml:"timeout"`

	// Most times that one request is sent: a vault refuses some when there are
	// many.
	Attempts int `toml:"attempts" min:"1" max:"20"`
}

// defaultKeys are the values of a [keys] section that sets nothing.
func defaultKeys() Keys {
	return Keys{Store: StoreFile, ResponderStore: StoreSame,
		PKCS11: PKCS11{Sessions: 16, Waiters: 256, Timeout: 10 * time.Second},
		AWS:    AWSKMS{AliasPrefix: "chancery/", Timeout: 10 * time.Second, Attempts: 4},
		Azure:  AzureKMS{Timeout: 10 * time.Second, Attempts: 4}}
}

// Responders returns where new keys of OCSP responders are made.
func (k *Keys) Responders() KeyStore {
	if k.ResponderStore == StoreSame {
		return k.Store
	}
	return KeyStore(k.ResponderStore)
}

// Uses reports whether a store is configured: as the home of new keys, or
// beside it for those that exist.
func (k *Keys) Uses(s KeyStore) bool {
	switch {
	case s == k.Store || s == k.Responders() || s == StoreFile:
		return true
	case s == StorePKCS11:
		return k.PKCS11.Module != ""
	case s == StoreAWS:
		return k.AWS.Region != ""
	}
	return s == StoreAzure && k.Azure.VaultURL != ""
}

// keys checks [keys].
func (k *checker) keys() {
	c := &k.c.Keys
	if c.Uses(StorePKCS11) {
		p := &c.PKCS11
		k.must(p.Module != "", "keys.pkcs11.module", "must be set: the path of the token's library")
		k.must(p.Module == "" || filepath.IsAbs(p.Module), "keys.pkcs11.module", "must be an absolute path, so that no other library is loaded")
		k.must(p.Token != "", "keys.pkcs11.token", "must be set: the label of the token or its PKCS #11 URI")
		k.must(!strings.Contains(p.Token, "pin-value") && !strings.Contains(p.Token, "pin-source"), "keys.pkcs11.token", "must not hold a PIN; use pin_file or pin_env")
		k.must((p.PINFile == "") != (p.PINEnv == ""), "keys.pkcs11.pin_file", "set one of pin_file and pin_env")
	}
	if c.Uses(StoreAWS) {
		k.must(c.AWS.AliasPrefix != "" && !strings.HasPrefix(c.AWS.AliasPrefix, "aws/"), "keys.aws_kms.alias_prefix", "must be set, and must not begin with aws/")
	}
	if c.Uses(StoreAzure) {
		k.must(strings.HasPrefix(c.Azure.VaultURL, "https://"), "keys.azure_kms.vault_url", "must be set: https://NAME.vault.azure.net")
	}
}
