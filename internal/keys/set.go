package keys

import (
	"context"
	"crypto"
	"slices"
	"strings"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Schemes of key references: what stands before the first colon.
const (
	File   = "file"      // FileStore
	PKCS11 = "pkcs11"    // keys/pkcs11, an RFC 7512 URI
	AWS    = "aws-kms"   // keys/awskms
	Azure  = "azure-kms" // keys/azurekms
)

// Set is several stores as one: a key is opened where the scheme of its
// reference says, and new keys are made in one of the stores. So authorities
// whose keys are in files go on working when new keys are to be in a token.
type Set struct {
	home   string
	stores map[string]Store
}

// NewSet returns the stores, by scheme, as one. New keys are made in the store
// named home, which must be among them.
func NewSet(home string, stores map[string]Store) *Set {
	return &Set{home, stores}
}

// Create makes a key in the home of new keys. See Store.
func (s *Set) Create(ctx context.Context, name string, kt pki.KeyType) (string, error) {
	return s.stores[s.home].Create(ctx, name, kt)
}

// Open opens a key in the store that its reference names. See Store.
func (s *Set) Open(ctx context.Context, ref string) (crypto.Signer, error) {
	scheme, _, _ := strings.Cut(ref, ":")
	store, ok := s.stores[scheme]
	if !ok {
		return nil, fault.New(fault.NotFound, "the key %.200s is in a key store that is not configured; describe it in the [keys] section", ref)
	}
	return store.Open(ctx, ref)
}

// List returns the references of all keys of all stores. See Store.
func (s *Set) List(ctx context.Context) ([]string, error) {
	var all []string
	for _, store := range s.stores {
		refs, err := store.List(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, refs...)
	}
	slices.Sort(all)
	return all, nil
}
