package ctwatch

import (
	"errors"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// frontier is a Merkle tree (RFC 6962 section 2.1) reduced to what is needed to
// append to it: the roots of its perfect subtrees, the largest first.
type frontier struct {
	size   int64
	hashes []tlog.Hash
}

// add appends the hash of a leaf.
func (f *frontier) add(h tlog.Hash) {
	for n := f.size; n&1 == 1; n >>= 1 {
		last := len(f.hashes) - 1
		h = tlog.NodeHash(f.hashes[last], h)
		f.hashes = f.hashes[:last]
	}
	f.hashes = append(f.hashes, h)
	f.size++
}

// root returns the hash of the tree.
func (f *frontier) root() tlog.Hash {
	if len(f.hashes) == 0 {
		h, _ := tlog.TreeHash(0, nil) // of the empty tree: never an error
		return h
	}
	h := f.hashes[len(f.hashes)-1]
	for i := len(f.hashes) - 2; i >= 0; i-- {
		h = tlog.NodeHash(f.hashes[i], h)
	}
	return h
}

func (f *frontier) clone() frontier {
	return frontier{f.size, append([]tlog.Hash(nil), f.hashes...)}
}

// bytes is the form in which a frontier is stored; its size is stored apart.
func (f *frontier) bytes() []byte {
	out := make([]byte, 0, len(f.hashes)*tlog.HashSize)
	for _, h := range f.hashes {
		out = append(out, h[:]...)
	}
	return out
}

// readFrontier reads what bytes wrote.
func readFrontier(size int64, b []byte) (frontier, error) {
	f := frontier{size: size}
	if size < 0 || len(b) != bits.OnesCount64(uint64(size))*tlog.HashSize {
		return f, errors.New("the stored position does not fit its size")
	}
	for ; len(b) > 0; b = b[tlog.HashSize:] {
		f.hashes = append(f.hashes, tlog.Hash(b[:tlog.HashSize]))
	}
	return f, nil
}

// subtrees returns the stored hash indexes (as tlog counts them) of the perfect
// subtrees of a tree.
func subtrees(size int64) (indexes []int64) {
	at := int64(0)
	for level := 62; level >= 0; level-- {
		if size&(1<<level) != 0 {
			indexes = append(indexes, tlog.StoredHashIndex(level, at>>level))
			at += 1 << level
		}
	}
	return indexes
}

// errProof is a consistency proof that does not lead to the signed root.
var errProof = errors.New("the log's consistency proof does not lead to the root that it signed")

// fromProof derives the frontier of the first size entries from a consistency
// proof to a tree (RFC 9162 section 2.1.4.2), whose root authenticates it. The
// proof leaves out the root of a tree that is one perfect subtree: known must
// be it then.
func fromProof(size int64, known *tlog.Hash, proof []tlog.Hash, to head) (frontier, error) {
	f := frontier{size: size}
	if size <= 0 || size >= to.size {
		return f, errProof
	}
	if size&(size-1) == 0 {
		if known == nil {
			return f, errProof
		}
		proof = append([]tlog.Hash{*known}, proof...)
	}
	if len(proof) == 0 {
		return f, errProof
	}
	fn, sn := size-1, to.size-1
	for fn&1 == 1 {
		fn, sn = fn>>1, sn>>1
	}
	whole := proof[0]
	left := []tlog.Hash{proof[0]} // subtrees of the smaller tree, the smallest first
	for _, h := range proof[1:] {
		if sn == 0 {
			return f, errProof
		}
		if fn&1 == 1 || fn == sn {
			left, whole = append(left, h), tlog.NodeHash(h, whole)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			whole = tlog.NodeHash(whole, h)
		}
		fn, sn = fn>>1, sn>>1
	}
	if sn != 0 || whole != to.root || len(left) != bits.OnesCount64(uint64(size)) {
		return f, errProof
	}
	for i := len(left) - 1; i >= 0; i-- {
		f.hashes = append(f.hashes, left[i])
	}
	return f, nil
}
