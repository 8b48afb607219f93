//go:build pkcs11 && cgo

package pkcs11

import (
	"testing"

	"chancery/internal/keys"
	"chancery/internal/keys/keystest"
	"chancery/internal/keys/pkcs11/pkcs11test"
)

// open opens a token; the store is closed with the test.
func open(t *testing.T, cfg Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// config is the configuration that fits a token.
func config(k *pkcs11test.Token) Config {
	return Config{Module: k.Module, Token: k.Label, PINFile: k.PINFile}
}

func TestSuite(t *testing.T) {
	k := pkcs11test.New(t)
	k.Use(t)
	var last *Store
	keystest.Run(t, func(t *testing.T) keys.Store {
		if last != nil { // one store per process and module
			if err := last.Close(); err != nil {
				t.Fatal(err)
			}
		}
		s, err := Open(t.Context(), config(k))
		if err != nil {
			t.Fatal(err)
		}
		last = s
		return s
	})
	if err := last.Close(); err != nil {
		t.Error(err)
	}
}
