package ctwatch

import (
	"crypto/sha256"
	"errors"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// entry is one entry of a log. Its slices are parts of the answer that it came
// in.
type entry struct {
	leaf    []byte // MerkleTreeLeaf (RFC 6962 section 3.4): what the tree is made of
	at      time.Time
	precert bool
	tbs     []byte // TBSCertificate, authenticated by the tree; nil: not readable
	cert    []byte // certificate or precertificate; of a precertificate not authenticated
	issuer  []byte // hash of the issuer's key, of a precertificate
}

var errEntry = errors.New("an entry of the log does not parse")

// entryTypes of RFC 6962 section 3.1.
const (
	x509Entry    = 0
	precertEntry = 1
)

// timestamped reads a TimestampedEntry (RFC 6962 section 3.4).
func timestamped(s *cryptobyte.String, e *entry) error {
	var at uint64
	var kind uint16
	var body, extensions cryptobyte.String
	if !s.ReadUint64(&at) || !s.ReadUint16(&kind) || at > 1<<53 {
		return errEntry
	}
	e.at = time.UnixMilli(int64(at))
	switch kind {
	case x509Entry:
		if !s.ReadUint24LengthPrefixed(&body) {
			return errEntry
		}
		e.cert, e.tbs = body, tbsOf(body)
	case precertEntry:
		if !s.ReadBytes(&e.issuer, 32) || !s.ReadUint24LengthPrefixed(&body) {
			return errEntry
		}
		e.precert, e.tbs = true, body
	default:
		return errEntry
	}
	if !s.ReadUint16LengthPrefixed(&extensions) {
		return errEntry
	}
	return nil
}

// tileEntries reads a data tile of a static log: TileLeaf structures, one after
// the other. It makes one copy, of the leaves.
func tileEntries(data []byte, n int) ([]entry, error) {
	s := cryptobyte.String(data)
	out := make([]entry, 0, n)
	leaves := make([]byte, 0, len(data)+2*n)
	for len(out) < n {
		before := s
		var e entry
		if err := timestamped(&s, &e); err != nil {
			return nil, err
		}
		from := len(leaves)
		leaves = append(leaves, 0, 0) // v1, timestamped_entry
		leaves = append(leaves, before[:len(before)-len(s)]...)
		e.leaf = leaves[from:len(leaves):len(leaves)]
		var pre, chain cryptobyte.String
		if e.precert && !s.ReadUint24LengthPrefixed(&pre) || !s.ReadUint16LengthPrefixed(&chain) {
			return nil, errEntry
		}
		if e.precert {
			e.cert = pre
		}
		out = append(out, e)
	}
	if !s.Empty() {
		return nil, errEntry
	}
	return out, nil
}

// leafEntry reads an answer of get-entries: leaf_input and extra_data (RFC 6962
// section 4.6). A leaf of a kind that is not known is kept as it is: the tree
// needs it.
func leafEntry(input, extra []byte) entry {
	e := entry{leaf: input}
	s := cryptobyte.String(input)
	var version, kind uint8
	if !s.ReadUint8(&version) || !s.ReadUint8(&kind) || version != 0 || kind != 0 || timestamped(&s, &e) != nil {
		return entry{leaf: input}
	}
	if x := cryptobyte.String(extra); e.precert {
		var pre cryptobyte.String
		if x.ReadUint24LengthPrefixed(&pre) {
			e.cert = pre
		}
	}
	return e
}

// tbsOf returns the TBSCertificate of a certificate, nil when there is none.
func tbsOf(cert []byte) []byte {
	s := cryptobyte.String(cert)
	var body, tbs cryptobyte.String
	if !s.ReadASN1(&body, cbasn1.SEQUENCE) || !body.ReadASN1Element(&tbs, cbasn1.SEQUENCE) {
		return nil
	}
	return tbs
}

// fields are the parts of a TBSCertificate (RFC 5280 section 4.1) that are
// looked at.
type fields struct {
	head       []byte // all before the extensions
	serial     []byte
	issuer     []byte // element
	subject    cryptobyte.String
	key        []byte            // SubjectPublicKeyInfo, element
	extensions cryptobyte.String // content of the SEQUENCE
	tail       []byte            // what is behind the extensions: nothing, in sound ones
}

// contextual tags of a TBSCertificate.
var (
	tagVersion    = cbasn1.Tag(0).ContextSpecific().Constructed()
	tagIssuerID   = cbasn1.Tag(1).ContextSpecific()
	tagSubjectID  = cbasn1.Tag(2).ContextSpecific()
	tagExtensions = cbasn1.Tag(3).ContextSpecific().Constructed()
	tagDNSName    = cbasn1.Tag(2).ContextSpecific()
)

// dissect takes a TBSCertificate apart, without judging it.
func dissect(tbs []byte) (f fields, ok bool) {
	s := cryptobyte.String(tbs)
	var body, issuer, key, outer, serial cryptobyte.String
	if !s.ReadASN1(&body, cbasn1.SEQUENCE) {
		return f, false
	}
	all := body
	if !body.SkipOptionalASN1(tagVersion) || !body.ReadASN1(&serial, cbasn1.INTEGER) || !body.SkipASN1(cbasn1.SEQUENCE) ||
		!body.ReadASN1Element(&issuer, cbasn1.SEQUENCE) || !body.SkipASN1(cbasn1.SEQUENCE) || !body.ReadASN1(&f.subject, cbasn1.SEQUENCE) ||
		!body.ReadASN1Element(&key, cbasn1.SEQUENCE) || !body.SkipOptionalASN1(tagIssuerID) || !body.SkipOptionalASN1(tagSubjectID) {
		return f, false
	}
	f.serial, f.issuer, f.key, f.head = serial, issuer, key, all[:len(all)-len(body)]
	if body.PeekASN1Tag(tagExtensions) {
		if !body.ReadASN1(&outer, tagExtensions) || !outer.ReadASN1(&f.extensions, cbasn1.SEQUENCE) {
			return f, false
		}
	}
	f.tail = body
	return f, true
}

// contents of object identifiers, DER.
const (
	oidSAN    = "\x55\x1d\x11"                             // 2.5.29.17
	oidCN     = "\x55\x04\x03"                             // 2.5.4.3
	oidPoison = "\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x03" // RFC 6962 section 3.1
	oidSCTs   = "\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x02" // RFC 6962 section 3.3
)

// extension reads the next extension: its whole element, its type and value.
func extension(s *cryptobyte.String) (element, id, value cryptobyte.String, ok bool) {
	var body cryptobyte.String
	at := *s
	if !s.ReadASN1(&body, cbasn1.SEQUENCE) || !body.ReadASN1(&id, cbasn1.OBJECT_IDENTIFIER) ||
		!body.SkipOptionalASN1(cbasn1.BOOLEAN) || !body.ReadASN1(&value, cbasn1.OCTET_STRING) {
		return nil, nil, nil, false
	}
	return at[:len(at)-len(*s)], id, value, true
}

// names calls yield with every DNS name of a TBSCertificate, and with its
// common names, until yield returns false. ok is false when it cannot be read
// to its end.
func (f *fields) names(yield func([]byte) bool) (ok bool) {
	for exts := f.extensions; !exts.Empty(); {
		_, id, value, ok := extension(&exts)
		if !ok {
			return false
		}
		if string(id) != oidSAN {
			continue
		}
		var list cryptobyte.String
		if !value.ReadASN1(&list, cbasn1.SEQUENCE) {
			return false
		}
		for !list.Empty() {
			var name cryptobyte.String
			var tag cbasn1.Tag
			if !list.ReadAnyASN1(&name, &tag) {
				return false
			}
			if tag == tagDNSName && !yield(name) {
				return true
			}
		}
	}
	return f.commonNames(yield)
}

func (f *fields) commonNames(yield func([]byte) bool) bool {
	for s := f.subject; !s.Empty(); {
		var set, pair, id, value cryptobyte.String
		var tag cbasn1.Tag
		if !s.ReadASN1(&set, cbasn1.SET) {
			return false
		}
		for !set.Empty() {
			if !set.ReadASN1(&pair, cbasn1.SEQUENCE) || !pair.ReadASN1(&id, cbasn1.OBJECT_IDENTIFIER) || !pair.ReadAnyASN1(&value, &tag) {
				return false
			}
			if string(id) == oidCN && !yield(value) {
				return true
			}
		}
	}
	return true
}

// common is the hash of what a certificate and its precertificate have in
// common: the TBSCertificate without poison and list of timestamps (RFC 6962
// section 3.2).
func (f *fields) common() (hash [32]byte, err error) {
	var exts []byte
	for s := f.extensions; !s.Empty(); {
		element, id, _, ok := extension(&s)
		if !ok {
			return hash, errEntry
		}
		if string(id) != oidPoison && string(id) != oidSCTs {
			exts = append(exts, element...)
		}
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(f.head)
		if len(exts) > 0 {
			b.AddASN1(tagExtensions, func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(exts) })
			})
		}
		b.AddBytes(f.tail)
	})
	der, err := b.Bytes()
	return sha256.Sum256(der), err
}

// commonOf is common of a whole certificate.
func commonOf(cert []byte) (hash [32]byte, err error) {
	f, ok := dissect(tbsOf(cert))
	if !ok {
		return hash, errEntry
	}
	return f.common()
}
