package pki

import "testing"

func TestStrength(t *testing.T) {
	for key, want := range map[string]Strength{
		"rsa512": {true, 0, 0}, "rsa1024": {true, 80, 0}, "rsa2047": {true, 80, 0}, "rsa2048": {true, 112, 0}, "rsa4096": {true, 128, 0}, "rsa15360": {true, 256, 0},
		"p192": {true, 96, 0}, "p224": {true, 112, 0}, "p256": {true, 128, 0}, "p384": {true, 192, 0}, "p521": {true, 256, 0}, "ed25519": {true, 128, 0},
		"ml-dsa-44": {true, 128, 2}, "ml-dsa-65": {true, 192, 3}, "ml-dsa-87": {true, 256, 5},
		"unknown": {}, "": {}, "rsa": {}, "rsa-5": {}, "p0": {}, "post-quantum": {},
	} {
		if got := StrengthOf(key); got != want {
			t.Errorf("%q: %+v, want %+v", key, got, want)
		}
	}
	for key, weak := range map[string]bool{"rsa1024": true, "p192": true, "rsa2048": false, "p256": false, "ml-dsa-44": false, "unknown": false} {
		if StrengthOf(key).Weak() != weak {
			t.Errorf("%s: weak is %v", key, !weak)
		}
	}
	for _, kt := range KeyTypes { // what we issue is known, and none of it is weak
		if s := StrengthOf(string(kt)); !s.Known || s.Weak() || (s.Quantum > 0) != kt.PostQuantum() {
			t.Errorf("%s: %+v", kt, s)
		}
	}
}
