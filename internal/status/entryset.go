package status

import (
	"hash/maphash"

	"chancery/internal/pki"
)

// entrySet finds entries of one CRL by their serial. It holds four to eight
// octets for each: a map of a million strings would be three times as large as
// the list itself.
type entrySet struct {
	seed    maphash.Seed
	entries []byte   // of the list, not copied
	index   []uint32 // offset of an entry + 1; 0 = free
}

// newEntrySet indexes concatenated entries, up to the first that is damaged.
func newEntrySet(entries []byte) *entrySet {
	n := 0
	for rest := entries; ; n++ {
		entry, ok := cutEntry(&rest)
		if !ok || entry == nil {
			break
		}
	}
	size := 16
	for size*3/4 <= n {
		size *= 2
	}
	s := &entrySet{seed: maphash.MakeSeed(), entries: entries, index: make([]uint32, size)}
	for at := uint32(0); n > 0; n-- {
		entry := entries[at:][:entryLen(entries[at:])]
		s.index[s.slot(entry)] = at + 1
		at += uint32(len(entry))
	}
	return s
}

// slot returns where the entry with the serial of entry is, or the free place
// where it would be.
func (s *entrySet) slot(entry []byte) uint32 {
	serial := entrySerial(entry)
	mask := uint32(len(s.index) - 1)
	i := uint32(maphash.Bytes(s.seed, serial)) & mask
	for s.index[i] != 0 && string(entrySerial(s.entries[s.index[i]-1:])) != string(serial) {
		i = (i + 1) & mask
	}
	return i
}

// find returns the entry with the serial of entry, or nil.
func (s *entrySet) find(entry []byte) []byte {
	at := s.index[s.slot(entry)]
	if at == 0 {
		return nil
	}
	return s.entries[at-1:][:entryLen(s.entries[at-1:])]
}

// The functions below know the form that pki.AppendCRLEntry gives to entries: a
// SEQUENCE of less than 128 octets that begins with an INTEGER of less than 24.

// entryLen is the size of the first entry of b.
func entryLen(b []byte) int { return 2 + int(b[1]) }

// entrySerial returns the serial of the first entry of b.
func entrySerial(b []byte) []byte { return b[4 : 4+int(b[3])] }

// cutEntry takes the first entry off rest: nil at the end. ok is false if what
// stands there is no entry of that form.
func cutEntry(rest *[]byte) (entry []byte, ok bool) {
	b := *rest
	if len(b) == 0 {
		return nil, true
	}
	if len(b) < 4 || b[0] != 0x30 || b[1] >= 0x80 || entryLen(b) > len(b) || b[2] != 0x02 || 4+int(b[3]) > entryLen(b) {
		return nil, false
	}
	*rest = b[entryLen(b):]
	return b[:entryLen(b)], true
}

// crlEntries returns the entries of a DER CRL; none if it is damaged.
func crlEntries(der []byte) []byte {
	entries, err := pki.CRLEntryBytes(der)
	if err != nil {
		return nil
	}
	return entries
}
