//go:build !pkcs11 || !cgo

package pkcs11

import (
	"strings"
	"testing"

	"chancery/internal/fault"
)

func TestOpenWithoutTheTag(t *testing.T) {
	_, err := Open(t.Context(), Config{})
	if !fault.Is(err, fault.Precondition) || !strings.Contains(err.Error(), "make build TAGS=pkcs11") {
		t.Errorf("the message does not say what to do: %v", err)
	}
}
