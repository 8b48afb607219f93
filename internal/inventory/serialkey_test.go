package inventory

import "testing"

// The same serials as db.TestUpgradeMovesSerials: what was stored before an
// upgrade is found after it.
func TestSerialKey(t *testing.T) {
	for serial, want := range map[string]int64{
		"7f123456aabb":     0x7f123456<<32 | 866984501075763978>>32,
		"01":               0x01000000<<32 | -7742665260757011985>>32&0xffffffff,
		"-80":              -0x80000000<<32 | 8778914525145547779>>32,
		"fedcba9876543210": -0x01234568<<32 | 915109226063336758>>32,
	} {
		if got := serialKey(serial); got != want {
			t.Errorf("serial %s is looked up by %#x, want %#x", serial, got, want)
		}
	}
}
