package issuer_test

import (
	"testing"

	"chancery/internal/issuer"
	"chancery/internal/issuer/issuertest"
)

// FuzzAccept: whatever a CA returns, only a leaf for our key and names comes
// through.
func FuzzAccept(f *testing.F) {
	a := issuertest.NewAuthority(f)
	r := issuertest.NewRequest(f, "fuzz", "a.example.test")
	good, err := a.Sign(r.CSR, issuertest.Sabotage{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(issuertest.PEM(good...)))
	f.Add([]byte(issuertest.PEM(good[1], good[0])))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		chain, err := issuer.ReadChain(text)
		if err != nil {
			return
		}
		got, err := issuer.Accept(r, chain)
		if err == nil && string(got[0]) != string(good[0]) {
			t.Errorf("accepted %x", got[0])
		}
	})
}
