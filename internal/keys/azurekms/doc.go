// Package azurekms keeps private keys in Azure Key Vault or a Managed HSM: they
// are made there, and each signature is one request.
//
// It is in a program that was built with the tag "azurekms"; otherwise Open
// says so. Credentials come from where the Azure SDK looks: the environment, a
// workload identity, a managed identity, the Azure CLI.
//
// A reference is "azure-kms:NAME/VERSION": a new version of a key is another
// key. The caller needs the permissions create, get, list and sign on keys, or
// the role Key Vault Crypto Officer.
package azurekms

import "time"

// Config says which vault, and how long to wait.
type Config struct {
	VaultURL string        // "https://NAME.vault.azure.net"
	HSM      bool          // make keys in the HSM of the vault (EC-HSM, RSA-HSM)
	Timeout  time.Duration // of one operation with its repetitions; 0 = 10 s
	Attempts int           // of one request; 0 = 4
}

// withDefaults fills in what is not set.
func (c Config) withDefaults() Config {
	if c.Timeout <= 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Attempts <= 0 {
		c.Attempts = 4
	}
	return c
}
