//go:build pkcs11 && cgo

package pkcs11

import (
	"testing"
	"time"

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
	t.Run("16 sessions", func(t *testing.T) { suite(t, 16) })
	t.Run("one session", func(t *testing.T) { suite(t, 1) })
}

func suite(t *testing.T, sessions int) {
	k := pkcs11test.New(t)
	k.Use(t)
	var last *Store
	keystest.Run(t, func(t *testing.T) keys.Store {
		if last != nil { // one store per process and module
			if err := last.Close(); err != nil {
				t.Fatal(err)
			}
		}
		cfg := config(k)
		cfg.Sessions, cfg.Timeout = sessions, time.Minute
		s, err := Open(t.Context(), cfg)
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
