//go:build !pkcs11 || !cgo

package pkcs11

import (
	"context"

	"chancery/internal/fault"
	"chancery/internal/keys"
)

// Store is a token; this program was built without them.
type Store struct{ keys.Store }

// Open says that this program was built without PKCS #11.
func Open(context.Context, Config) (*Store, error) {
	return nil, fault.New(fault.Precondition, "this chancery was built without PKCS #11; build it with `make build TAGS=pkcs11`, which needs a C compiler")
}

// Close does nothing.
func (*Store) Close() error { return nil }
