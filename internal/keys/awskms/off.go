//go:build !awskms

package awskms

import (
	"context"

	"chancery/internal/fault"
	"chancery/internal/keys"
)

// Open says that this program was built without AWS KMS.
func Open(context.Context, Config) (keys.Store, error) {
	return nil, fault.New(fault.Precondition, "this chancery was built without AWS KMS; build it with `make build TAGS=awskms`")
}
