package keys

import (
	"context"
	"crypto"

	"chancery/internal/pki"
)

// Store is the plug point for places where private keys live: a directory of
// files, a PKCS #11 token, a cloud key service. A key is known to the rest of
// Chancery by its reference "kind:name", which the database holds.
//
// Errors that an operator must act upon are *fault.Error: conflict when a name
// is taken, notFound for an unknown reference, invalid for a bad name, a wrong
// passphrase or unsafe permissions, unavailable when a device is away.
type Store interface {
	// Create makes a key under a new name and returns its reference. The key
	// is durable when Create returns.
	Create(ctx context.Context, name string, kt pki.KeyType) (ref string, err error)

	// Open returns the key that a reference names.
	Open(ctx context.Context, ref string) (crypto.Signer, error)

	// List returns the references of all keys, sorted.
	List(ctx context.Context) ([]string, error)
}
