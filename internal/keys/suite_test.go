package keys_test

import (
	"path/filepath"
	"testing"

	"chancery/internal/keys"
	"chancery/internal/keys/keystest"
)

func TestFileStoreSuite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	pass, err := keys.NewPassphrase([]byte("a passphrase of the suite"))
	if err != nil {
		t.Fatal(err)
	}
	keystest.Run(t, func(t *testing.T) keys.Store {
		s, err := keys.OpenFileStore(dir, pass)
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
