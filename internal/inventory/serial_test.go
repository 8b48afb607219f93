package inventory_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/inventory"
)

var (
	qKeySerials = db.SQL("inventorytest.list_serial_keys", `SELECT serial_key FROM inventory ORDER BY serial_key`, db.Scan("a test"))
	qHashSerial = db.SQL("inventorytest.hash_serial", `UPDATE inventory SET serial_key = $2 WHERE id = $1`)
)

// Serials that begin alike are neighbours in the index, and what was stored under
// a hash of its serial, as rows once were, is found by it all the same.
func TestSerials(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx, s := context.Background(), inventory.New(d)
		a, b, c, odd := described(1, epoch.Add(day)), described(2, epoch.Add(day)), described(3, epoch.Add(day)), described(4, epoch.Add(day))
		a.Serial, b.Serial, c.Serial, odd.Serial = "\x7f\x12\x34\x56\xaa", "\x7f\x12\x34\x56\xbb\x01", "\x7f\x12\x34\x57\x00", "\x80"
		res := put(t, s, seen(a, inventory.FromCA), seen(b, inventory.FromCA), seen(c, inventory.FromCA), seen(odd, inventory.FromCA))
		keys, err := db.List(ctx, d.Read(), qKeySerials, (*db.Row).Int64)
		if err != nil || len(keys) != 4 {
			t.Fatal(keys, err)
		}
		// -80 in text is the number 80 with its sign: its key begins with 0x80000000.
		for i, want := range []uint32{0x80000000, 0x7f123456, 0x7f123456, 0x7f123457} {
			if got := uint32(uint64(keys[i]) >> 32); got != want {
				t.Errorf("key %d begins with %#x, want %#x", i, got, want)
			}
		}
		text := b.Serial.Hex()
		sum := sha256.Sum256(append(binary.BigEndian.AppendUint64(nil, uint64(len(text))), text...))
		if err := d.Write(ctx, func(tx *db.Tx) error {
			_, err := tx.Exec(ctx, qHashSerial, res.IDs[1], int64(binary.BigEndian.Uint64(sum[:])))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		for i, m := range []string{a.Serial.Hex(), text, c.Serial.Hex(), odd.Serial.Hex()} {
			if diff := cmp.Diff([]string{res.IDs[i]}, sortedIDs(walkAll(t, s, inventory.Query{Filter: inventory.Filter{Serial: m}}))); diff != "" {
				t.Errorf("%s: %s", m, diff)
			}
		}
	})
}
