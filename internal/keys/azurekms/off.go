//go:build !azurekms

package azurekms

import (
	"context"

	"chancery/internal/fault"
	"chancery/internal/keys"
)

// Open says that this program was built without Azure Key Vault.
func Open(context.Context, Config) (keys.Store, error) {
	return nil, fault.New(fault.Precondition, "this chancery was built without Azure Key Vault; build it with `make build TAGS=azurekms`")
}
