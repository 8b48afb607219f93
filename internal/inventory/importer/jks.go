package importer

import (
	"encoding/binary"
	"fmt"

	"chancery/internal/fault"
)

// Java key stores: a header, then entries of private keys with their chains
// (tag 1) and of trusted certificates (tag 2), then a keyed sum. Certificates
// are not encrypted, so no password is needed, and none is asked for; the sum
// therefore stays unchecked, as with any other file of certificates.

var (
	magicJKS   = []byte{0xfe, 0xed, 0xfe, 0xed}
	magicJCEKS = []byte{0xce, 0xce, 0xce, 0xce}
)

// maxEntries bounds the entries of a key store.
const maxEntries = 10000

// jksReader reads big-endian fields; after the first short read it returns
// zero values and ok is false.
type jksReader struct {
	data []byte
	ok   bool
}

func (j *jksReader) take(n int) []byte {
	if !j.ok || n < 0 || n > len(j.data) {
		j.ok = false
		return nil
	}
	out := j.data[:n]
	j.data = j.data[n:]
	return out
}

func (j *jksReader) uint32() int {
	if b := j.take(4); b != nil {
		return int(binary.BigEndian.Uint32(b))
	}
	return 0
}

// text reads a string with a length of two octets.
func (j *jksReader) text() string {
	if b := j.take(2); b != nil {
		return string(j.take(int(binary.BigEndian.Uint16(b))))
	}
	return ""
}

// jks reads the certificates of a Java key store.
func (r *reader) jks(data []byte) error {
	j := &jksReader{data: data[4:], ok: true}
	version, entries := j.uint32(), j.uint32()
	switch {
	case !j.ok || version != 1 && version != 2:
		return fault.New(fault.Invalid, "the Java key store has a version that is not known")
	case entries > maxEntries:
		return fault.New(fault.TooLarge, "the Java key store has more than %d entries", maxEntries)
	}
	for n := range entries {
		tag, alias := j.uint32(), ""
		alias = j.text()
		j.take(8) // when it was made
		switch tag {
		case 1:
			r.Keys++
			j.take(j.uint32()) // the encrypted key: not kept
			r.jksChain(j, alias, version)
		case 2:
			r.jksCertificate(j, fmt.Sprintf("entry %.80q", alias), version)
		default:
			j.ok = false // a secret key (JCEKS), whose length cannot be told
		}
		if !j.ok {
			r.refuse(fmt.Sprintf("entry %d", n+1), fault.New(fault.Invalid, "this entry is cut off or of a kind that is not known; the %d before it were read", n))
			return nil
		}
	}
	return nil
}

func (r *reader) jksChain(j *jksReader, alias string, version int) {
	for i := range min(j.uint32(), maxEntries) {
		if !j.ok {
			return
		}
		r.jksCertificate(j, fmt.Sprintf("entry %.80q, certificate %d", alias, i+1), version)
	}
}

func (r *reader) jksCertificate(j *jksReader, item string, version int) {
	kind := "X.509"
	if version == 2 {
		kind = j.text()
	}
	der := j.take(j.uint32())
	switch {
	case !j.ok:
	case kind != "X.509" && kind != "X509":
		r.refuse(item, fault.New(fault.Invalid, "a certificate of type %.20q", kind))
	default:
		r.add(item, der)
	}
}
