package status

import (
	"encoding/binary"
	"hash/maphash"
	"sync"
	"time"

	"chancery/internal/pki"
)

// Sizes of the table. A serial costs 36 octets of facts, 8 + the signature
// (64 for P-256) for each hash under which it was asked, and 5 to 11 of index.
const (
	bookShards = 64 // locks per authority
	chunkLen   = 64 // records that are allocated together
	maxSerial  = 20 // RFC 5280 section 4.1.2.2
)

// form is the hash by which a request names the issuer. An answer repeats it,
// so each form has a signature of its own.
type form uint8

// The forms that are kept. Nearly all clients ask by SHA-1 (RFC 5019); the
// other is signed when it is first asked for.
const (
	bySHA1 form = iota
	bySHA256
	forms
)

// fact is what is known about one serial: all that an answer depends on.
type fact struct {
	serial    [maxSerial]byte
	n         uint8  // octets of serial
	reason    uint8  // with revokedAt
	revokedAt uint32 // Unix seconds; 0 = good
	since     uint32 // Unix minutes: issued or revoked, whichever is later; no answer is older
	expires   uint32 // Unix minutes, rounded up: notAfter
}

// newFact returns the fact of an issued certificate (revokedAt zero) or of a
// serial that counts as revoked. ok is false for a serial that no certificate
// of ours can have.
func newFact(serial pki.Serial, issuedAt, notAfter, revokedAt time.Time, reason pki.Reason) (f fact, ok bool) {
	f.n = uint8(copy(f.serial[:], serial))
	f.since, f.expires = minutes(issuedAt), minutes(notAfter.Add(time.Minute-1))
	if !revokedAt.IsZero() {
		f.revokedAt, f.reason = uint32(revokedAt.Unix()), uint8(reason)
		f.since = max(f.since, minutes(revokedAt))
	}
	return f, len(serial) > 0 && len(serial) <= maxSerial
}

func (f *fact) key() []byte   { return f.serial[:f.n] }
func (f *fact) revoked() bool { return f.revokedAt != 0 }

// phase is where on the refresh clock the serial stands. The last octets of
// our serials are random, so phases are spread evenly.
func (f *fact) phase() uint32 {
	if f.n < 4 {
		return uint32(f.serial[0])
	}
	return binary.BigEndian.Uint32(f.serial[f.n-4:])
}

// minutes returns the Unix time of t in whole minutes, rounded down.
func minutes(t time.Time) uint32 { return uint32(max(t.Unix(), 0) / 60) }

// minuteTime is the reverse of minutes.
func minuteTime(m uint32) time.Time { return time.Unix(int64(m)*60, 0).UTC() }

// seal says which answer a kept signature belongs to.
type seal struct {
	at  uint32 // thisUpdate and producedAt, Unix minutes; 0 = no signature is kept
	gen uint16 // index of the signer
}

// seals are the kept signatures of one chunk under one form.
type seals struct {
	seal [chunkLen]seal
	sigs []byte // chunkLen signatures of the shard's width
}

// bookShard is one lock and the records behind it: an open-addressing index
// over chunks without pointers, which the garbage collector never scans.
type bookShard struct {
	mu    sync.RWMutex
	index []uint32 // record number + 1; 0 = free
	n     uint32   // records
	facts []*[chunkLen]fact
	width int // octets of a kept signature
	seals [forms][]*seals
	_     [40]byte // keeps the locks of neighbours apart
}

// table is all serials of one authority. It is safe for concurrent use.
type table struct {
	seed   maphash.Seed
	shards [bookShards]bookShard
}

func newTable() *table { return &table{seed: maphash.MakeSeed()} }

// locate returns the shard of a serial and its hash within the shard.
func (t *table) locate(serial []byte) (*bookShard, uint32) {
	h := maphash.Bytes(t.seed, serial)
	return &t.shards[h>>58], uint32(h)
}

// find returns the record number of a serial. The caller holds the lock.
func (s *bookShard) find(hash uint32, serial []byte) (record uint32, ok bool) {
	if len(s.index) == 0 {
		return 0, false
	}
	mask := uint32(len(s.index) - 1)
	for i := hash & mask; s.index[i] != 0; i = (i + 1) & mask {
		record = s.index[i] - 1
		if string(s.fact(record).key()) == string(serial) {
			return record, true
		}
	}
	return 0, false
}

func (s *bookShard) fact(record uint32) *fact {
	return &s.facts[record/chunkLen][record%chunkLen]
}

// put learns a fact and reports whether it is news. What is revoked stays
// revoked: no later fact changes its time or reason, or makes it good again.
func (t *table) put(f fact) (news bool) {
	s, hash := t.locate(f.key())
	s.mu.Lock()
	defer s.mu.Unlock()
	record, known := s.find(hash, f.key())
	if !known {
		s.insert(t, hash, f)
		return true
	}
	old := s.fact(record)
	if old.revoked() || !f.revoked() {
		return false
	}
	*old = f
	for form := range s.seals {
		if c := s.chunk(form, record); c != nil {
			c.seal[record%chunkLen] = seal{}
		}
	}
	return true
}

// insert adds a record. The caller holds the lock.
func (s *bookShard) insert(t *table, hash uint32, f fact) {
	if s.n%chunkLen == 0 {
		s.facts = append(s.facts, new([chunkLen]fact))
	}
	*s.fact(s.n) = f
	s.n++
	if int(s.n)*4 > len(s.index)*3 {
		s.reindex(t)
		return
	}
	s.link(hash, s.n)
}

// link enters a record number + 1 into the index.
func (s *bookShard) link(hash, entry uint32) {
	mask := uint32(len(s.index) - 1)
	i := hash & mask
	for s.index[i] != 0 {
		i = (i + 1) & mask
	}
	s.index[i] = entry
}

// reindex builds an index with room for half as many records again.
func (s *bookShard) reindex(t *table) {
	size := 16
	for size*3/4 <= int(s.n) {
		size *= 2
	}
	s.index = make([]uint32, size)
	for r := range s.n {
		s.link(uint32(maphash.Bytes(t.seed, s.fact(r).key())), r+1)
	}
}

// chunk returns the kept signatures beside a record, or nil.
func (s *bookShard) chunk(form int, record uint32) *seals {
	if i := int(record / chunkLen); i < len(s.seals[form]) {
		return s.seals[form][i]
	}
	return nil
}

// get returns what is known about a serial, and appends the signature kept for
// a form to sig (nothing when seal.at is 0).
func (t *table) get(serial []byte, form form, sig []byte) (f fact, se seal, _ []byte, ok bool) {
	s, hash := t.locate(serial)
	s.mu.RLock()
	defer s.mu.RUnlock()
	record, ok := s.find(hash, serial)
	if !ok {
		return f, se, sig, false
	}
	f = *s.fact(record)
	if c := s.chunk(int(form), record); c != nil {
		i := int(record % chunkLen)
		if se = c.seal[i]; se.at != 0 {
			sig = append(sig, c.sigs[i*s.width:(i+1)*s.width]...)
		}
	}
	return f, se, sig, true
}

// keep stores a signature made over what f says. It reports false, and stores
// nothing, when the facts have changed since: the answer is out of date.
func (t *table) keep(f *fact, form form, se seal, sig []byte) bool {
	s, hash := t.locate(f.key())
	s.mu.Lock()
	defer s.mu.Unlock()
	record, ok := s.find(hash, f.key())
	if !ok || *s.fact(record) != *f {
		return false
	}
	if s.width != len(sig) { // the key type of the responder changed
		s.width, s.seals = len(sig), [forms][]*seals{}
	}
	for len(s.seals[form]) <= int(record/chunkLen) {
		s.seals[form] = append(s.seals[form], nil)
	}
	c := &s.seals[form][record/chunkLen]
	if *c == nil {
		*c = &seals{sigs: make([]byte, chunkLen*s.width)}
	}
	i := int(record % chunkLen)
	(*c).seal[i] = se
	copy((*c).sigs[i*s.width:], sig)
	return true
}

// place is where a walk through a table stands.
type place struct {
	shard  int
	record uint32
}

// end reports whether a walk has seen everything.
func (p place) end() bool { return p.shard == bookShards }

// each calls f for every record from a place on, one shard at a time under its
// read lock, and stops when f returns false. It returns the place to go on with.
func (t *table) each(from place, f func(*fact, seal) bool) place {
	for !from.end() {
		if from.record = t.shards[from.shard].each(from.record, f); from.record != 0 {
			return from
		}
		from.shard++
	}
	return from
}

// each returns the record to go on with, 0 at the end.
func (s *bookShard) each(from uint32, f func(*fact, seal) bool) (next uint32) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for r := from; r < s.n; r++ {
		var se seal
		if c := s.chunk(int(bySHA1), r); c != nil {
			se = c.seal[r%chunkLen]
		}
		if !f(s.fact(r), se) {
			return r + 1
		}
	}
	return 0
}

// size returns the number of serials.
func (t *table) size() (n int) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.RLock()
		n += int(s.n)
		s.mu.RUnlock()
	}
	return n
}

// forget drops serials that expired before a minute. A shard is rebuilt only
// when a quarter of it would go, so that the work is a small part of what
// filling it was.
func (t *table) forget(before uint32) (dropped int) {
	for i := range t.shards {
		dropped += t.shards[i].forget(t, before)
	}
	return dropped
}

func (s *bookShard) forget(t *table, before uint32) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := 0
	for r := range s.n {
		if s.fact(r).expires < before {
			old++
		}
	}
	if old == 0 || old*4 < int(s.n) {
		return 0
	}
	// Signatures go with the chunks; they are made again when they are due.
	facts, n := s.facts, s.n
	s.facts, s.n, s.index, s.seals = nil, 0, nil, [forms][]*seals{}
	for r := range n {
		if f := &facts[r/chunkLen][r%chunkLen]; f.expires >= before {
			s.insert(t, uint32(maphash.Bytes(t.seed, f.key())), *f)
		}
	}
	return old
}
