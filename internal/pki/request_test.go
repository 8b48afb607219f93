package pki_test

import (
	"testing"

	"chancery/internal/keys"
	"chancery/internal/pki"
)

// TestCreateRequest: what is asked for is read back, and nothing else.
func TestCreateRequest(t *testing.T) {
	names, err := pki.ParseNames([]string{"a.test", "*.b.test", "192.0.2.1", "2001:db8::1"})
	if err != nil {
		t.Fatal(err)
	}
	key, err := keys.Generate(pki.P256)
	if err != nil {
		t.Fatal(err)
	}
	der, err := pki.CreateRequest(key, names)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.ParseCSR(der, len(der))
	if err != nil || !csr.Speaks(names) || csr.Speaks(names[:3]) {
		t.Errorf("%+v, %v", csr, err)
	}
	if csr.CommonName != "" {
		t.Errorf("common name %q", csr.CommonName)
	}
}
