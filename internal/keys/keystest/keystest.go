// Package keystest is the suite that every key store runs.
package keystest

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"slices"
	"sync"
	"testing"

	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

// Run checks everything that keys.Store promises. open is called several times
// in one test and must return a store on the same, first empty place: a second
// call is a restart.
func Run(t *testing.T, open func(t *testing.T) keys.Store) {
	store := open(t)
	if refs, err := store.List(t.Context()); err != nil || len(refs) != 0 {
		t.Fatalf("a fresh store lists %v, %v", refs, err)
	}
	made := map[string]crypto.PublicKey{}
	for _, kt := range pki.KeyTypes {
		t.Run(string(kt), func(t *testing.T) { create(t, store, kt, made) })
	}
	if len(made) == 0 {
		t.Fatal("the store makes keys of no type")
	}
	t.Run("list", func(t *testing.T) { list(t, store, made) })
	t.Run("refuse", func(t *testing.T) { refuse(t, store, made) })
	t.Run("deadline", func(t *testing.T) { deadline(t, store, made) })
	t.Run("at once", func(t *testing.T) { atOnce(t, store, made) })
	t.Run("restart", func(t *testing.T) { restart(t, open, made) })
}

func name(kt pki.KeyType) string { return "suite-" + string(kt) }

// create makes a key and signs with it what an authority signs. A type that
// the store lacks is refused as bad input.
func create(t *testing.T, store keys.Store, kt pki.KeyType, made map[string]crypto.PublicKey) {
	ref, err := store.Create(t.Context(), name(kt), kt)
	if fault.Is(err, fault.Invalid) && kt != pki.P256 {
		t.Skipf("the store makes no such keys: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	key, err := store.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := pki.KeyTypeOf(key.Public()); err != nil || got != kt {
		t.Fatalf("the key is of type %s, %v", got, err)
	}
	made[ref] = key.Public()
	if err := keys.Prove(t.Context(), key); err != nil {
		t.Errorf("prove: %v", err)
	}
	signer, err := keys.NewSigner(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	tbs := []byte("bytes to be signed")
	for _, sign := range []func(context.Context, []byte) ([]byte, error){signer.SignTBS, signer.SignRepeatable} {
		sig, err := sign(t.Context(), tbs)
		if err != nil {
			t.Fatal(err)
		}
		if err := pki.VerifyTBS(key.Public(), tbs, sig); err != nil {
			t.Error(err)
		}
	}
	if !kt.PostQuantum() { // a request as `chancery ca csr` makes it, by the standard library
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			t.Fatal(err)
		}
		if csr, err := x509.ParseCertificateRequest(der); err != nil || csr.CheckSignature() != nil {
			t.Errorf("the request does not verify: %v", err)
		}
	}
}

// list expects exactly the keys that were made, sorted.
func list(t *testing.T, store keys.Store, made map[string]crypto.PublicKey) {
	refs, err := store.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSorted(refs) || len(refs) != len(made) {
		t.Errorf("%d keys were made, and the list is %v", len(made), refs)
	}
	for _, ref := range refs {
		if made[ref] == nil {
			t.Errorf("%s was not made", ref)
		}
	}
}

// refuse expects a clear fault for everything that cannot be.
func refuse(t *testing.T, store keys.Store, made map[string]crypto.PublicKey) {
	if _, err := store.Create(t.Context(), name(pki.P256), pki.P256); !fault.Is(err, fault.Conflict) {
		t.Errorf("a name that is taken: %v", err)
	}
	for _, bad := range []string{"", "../x", "A", "a b", "-a", "a/b", "a;b", "a%20b"} {
		if _, err := store.Create(t.Context(), bad, pki.P256); !fault.Is(err, fault.Invalid) {
			t.Errorf("the name %q: %v", bad, err)
		}
	}
	if _, err := store.Create(t.Context(), "unknown-type", "dsa"); err == nil {
		t.Error("a key type that does not exist is made")
	}
	for _, ref := range []string{"", "nothing", "nowhere:key"} {
		if _, err := store.Open(t.Context(), ref); !fault.Is(err, fault.NotFound) {
			t.Errorf("the reference %q: %v", ref, err)
		}
	}
	list(t, store, made) // nothing was left behind
}

// deadline expects that a request that was given up does nothing.
func deadline(t *testing.T, store keys.Store, made map[string]crypto.PublicKey) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := store.Create(ctx, "too-late", pki.P256); !errors.Is(err, context.Canceled) {
		t.Errorf("create: %v", err)
	}
	for ref := range made {
		key, err := store.Open(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := keys.NewSigner(key, func([32]byte) error { t.Error("a signature was made"); return nil })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := signer.SignTBS(ctx, []byte("x")); !errors.Is(err, context.Canceled) {
			t.Errorf("sign with %s: %v", ref, err)
		}
	}
	list(t, store, made)
}

// atOnce signs with all keys from many goroutines.
func atOnce(t *testing.T, store keys.Store, made map[string]crypto.PublicKey) {
	var all sync.WaitGroup
	for ref, pub := range made {
		key, err := store.Open(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 8 {
			all.Go(func() {
				tbs := []byte{byte(i)}
				sig, err := pki.SignTBS(key, tbs)
				if err == nil {
					err = pki.VerifyTBS(pub, tbs, sig)
				}
				if err != nil {
					t.Errorf("%s: %v", ref, err)
				}
			})
		}
	}
	all.Wait()
}

// restart expects every key in a store that is opened again.
func restart(t *testing.T, open func(t *testing.T) keys.Store, made map[string]crypto.PublicKey) {
	again := open(t)
	for ref, pub := range made {
		key, err := again.Open(t.Context(), ref)
		if err != nil {
			t.Errorf("open %s: %v", ref, err)
			continue
		}
		if eq, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !eq.Equal(pub) {
			t.Errorf("%s is another key after a restart", ref)
		}
		if err := keys.Prove(t.Context(), key); err != nil {
			t.Errorf("prove %s: %v", ref, err)
		}
	}
	list(t, again, made)
}
