package status

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"chancery/internal/keys"
	"chancery/internal/pki"
)

func entryOf(i int) []byte {
	return pki.CRLEntry(serialOf(i), time.Unix(1_800_000_000, 0), pki.Reason(i%2))
}

// TestLostEntries: whatever the order, an entry is lost if and only if its
// serial is gone.
func TestLostEntries(t *testing.T) {
	key, err := keys.Generate(pki.P256)
	must(t, err)
	list := func(of []int) []byte {
		var entries []byte
		for _, i := range of {
			entries = append(entries, entryOf(i)...)
		}
		der, err := pki.SignCRL(pki.IssuerInfo{Name: []byte{0x30, 0}, KeyID: []byte{1}, KeyType: pki.P256},
			pki.CRL{Number: 1, ThisUpdate: time.Unix(1_800_000_000, 0), NextUpdate: time.Unix(1_800_100_000, 0), Entries: entries},
			func(tbs []byte) ([]byte, error) { return pki.SignTBS(key, tbs) })
		must(t, err)
		return der
	}
	all := make([]int, 300)
	for i := range all {
		all[i] = i
	}
	for round := range 20 {
		is := slices.Clone(all)
		if round%2 == 1 {
			rand.Shuffle(len(is), func(i, j int) { is[i], is[j] = is[j], is[i] })
		}
		gone := is[:round*7]
		lost, err := lostEntries(list(all), list(is[round*7:]))
		must(t, err)
		if len(lost) != len(gone) {
			t.Fatalf("round %d: %d lost, want %d", round, len(lost), len(gone))
		}
		for _, i := range gone {
			if !slices.Contains(lost, serialOf(i)) {
				t.Errorf("round %d: serial %d is not reported", round, i)
			}
		}
	}
}

// FuzzEntries: what stands in the database is read without harm, whatever it
// is, and the index finds exactly the entries.
func FuzzEntries(f *testing.F) {
	whole := slices.Concat(entryOf(1), entryOf(2), entryOf(3))
	for _, seed := range [][]byte{nil, whole, whole[:len(whole)-1], {0x30}, {0x30, 0x7f, 2, 1}, {0x30, 4, 2, 9, 1, 1}, {0x30, 0x81, 2, 2}} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		set := newEntrySet(b)
		rest := b
		for {
			entry, ok := cutEntry(&rest)
			if !ok || entry == nil {
				break
			}
			found := set.find(entry)
			if found == nil || !bytes.Equal(entrySerial(found), entrySerial(entry)) {
				t.Fatalf("%x is not found", entry)
			}
		}
		if set.find(entryOf(77)) != nil {
			t.Error("an entry is found that is not there")
		}
		_, _ = lostEntries(b, b)
	})
}
