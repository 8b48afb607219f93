package bench

import (
	"testing"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Every operation works with every key type, and says which it is.
func TestEverySignatureOperationWorks(t *testing.T) {
	for _, kt := range pki.KeyTypes {
		for _, op := range SignOps() {
			if kt.RSA() && op == "keygen" {
				continue // seconds, and the same code as the others
			}
			s, err := NewSign(op, kt)
			if err != nil {
				t.Fatalf("%s %s: %v", kt, op, err)
			}
			if err := s.Workload().Do(t.Context(), 0, &Sample{}); err != nil || s.Variant != string(kt)+" "+op {
				t.Errorf("%s: %v", s.Variant, err)
			}
		}
	}
	for _, c := range [][2]string{{"forge", "p256"}, {"sign", "p257"}} {
		if _, err := NewSign(c[0], pki.KeyType(c[1])); !fault.Is(err, fault.Invalid) {
			t.Errorf("%v: %v", c, err)
		}
	}
}
