package server

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync/atomic"
)

// nonces makes and redeems the anti-replay nonces of one server process (RFC
// 8555 section 6.5) without storing those that are out.
//
// A nonce is base64url(replica, 4 bytes || AES-256(counter || zeros)). Of a
// block that nobody but us enciphered the eight zero bytes would come out with
// a chance of 2^-64, so the block authenticates itself and hides the counter,
// hence the rate of requests. The key is made anew, from the given one and 32
// random bytes, by each newNonces: a nonce from before a restart is invalid
// afterwards. Clients answer badNonce by trying again with the nonce that
// comes with it.
//
// Which nonces are used is kept in a ring of words. A word stands for 32
// consecutive counters and holds the number of the lap around the ring in its
// upper half, and in the lower half a bit for each counter that was redeemed
// in that lap. A word moves to a later lap when one of its counters is
// redeemed, never back, so a nonce is accepted at most once, and Issue need
// not clear anything: it is one atomic addition. A fresh nonce is refused only
// when it was overtaken by a whole window: at least window-32 later ones.
type nonces struct {
	block   cipher.Block
	replica uint32
	issued  atomic.Uint64
	ring    []atomic.Uint64
	shift   uint // log2 of len(ring)
}

// nonceVerdict is the answer to a nonce that a client sent.
type nonceVerdict uint8

const (
	nonceOK      nonceVerdict = iota + 1 // ours and fresh; it is used now
	nonceStale                           // ours, but used before or overtaken by a whole window
	nonceInvalid                         // nobody's: forged, broken, or from before a restart
	nonceForeign                         // made by another replica, which alone can redeem it
)

// String returns the verdict as logs and metrics name it.
func (v nonceVerdict) String() string {
	switch v {
	case nonceOK:
		return "ok"
	case nonceStale:
		return "stale"
	case nonceInvalid:
		return "invalid"
	case nonceForeign:
		return "foreign"
	}
	return fmt.Sprintf("verdict(%d)", uint8(v))
}

const (
	nonceBytes = 4 + aes.BlockSize
	nonceChars = (nonceBytes*8 + 5) / 6 // 27

	wordCounters = 32
	minWindow    = 2 * wordCounters
	maxWindow    = 1 << 30 // 256 MB of ring
)

// newNonces returns the nonces of the process that runs as replica. window is
// how many nonces may be out at once; it is rounded up to a power of two and
// takes window/4 bytes. Replicas that run at the same time need distinct ids.
func newNonces(key [32]byte, replica uint32, window int) *nonces {
	window = min(max(window, minWindow), maxWindow)
	words := 1 << bits.Len(uint(window-1)) / wordCounters
	block, err := aes.NewCipher(nonceKey(key, replica))
	if err != nil {
		panic("acme/server: " + err.Error()) // a 32-byte key is always right
	}
	return &nonces{block: block, replica: replica, ring: make([]atomic.Uint64, words), shift: uint(bits.TrailingZeros(uint(words)))}
}

// nonceKey derives the key of this start.
func nonceKey(key [32]byte, replica uint32) []byte {
	var epoch [32]byte
	rand.Read(epoch[:]) // never fails; see crypto/rand
	mac := hmac.New(sha256.New, key[:])
	mac.Write([]byte("chancery acme nonce"))
	mac.Write(binary.BigEndian.AppendUint32(nil, replica))
	mac.Write(epoch[:])
	return mac.Sum(nil)
}

// Issue returns a fresh nonce of 27 characters.
func (n *nonces) Issue() string { return n.issue(new([nonceBytes]byte)) }

// issue is Issue with memory to work in.
func (n *nonces) issue(raw *[nonceBytes]byte) string {
	binary.BigEndian.PutUint32(raw[:], n.replica)
	binary.BigEndian.PutUint64(raw[4:], n.issued.Add(1))
	n.block.Encrypt(raw[4:], raw[4:])
	var text [nonceChars]byte
	base64.RawURLEncoding.Encode(text[:], raw[:])
	return string(text[:])
}

// Redeem uses up the nonce s. With nonceForeign it also returns the replica
// that made s and is to be asked; whether that replica exists is not checked.
func (n *nonces) Redeem(s string) (v nonceVerdict, owner uint32) {
	return n.redeem(new([nonceBytes]byte), s)
}

// redeem is Redeem with memory to work in.
func (n *nonces) redeem(raw *[nonceBytes]byte, s string) (v nonceVerdict, owner uint32) {
	if len(s) != nonceChars {
		return nonceInvalid, 0
	}
	if m, err := base64.RawURLEncoding.Strict().Decode(raw[:], []byte(s)); err != nil || m != nonceBytes {
		return nonceInvalid, 0
	}
	if owner = binary.BigEndian.Uint32(raw[:]); owner != n.replica {
		return nonceForeign, owner
	}
	n.block.Decrypt(raw[4:], raw[4:])
	if binary.BigEndian.Uint64(raw[12:]) != 0 {
		return nonceInvalid, owner
	}
	if !n.use(binary.BigEndian.Uint64(raw[4:])) {
		return nonceStale, owner
	}
	return nonceOK, owner
}

// use marks counter as redeemed; it is false when that cannot be or was done.
func (n *nonces) use(counter uint64) bool {
	group, bit := counter/wordCounters, uint64(1)<<(counter%wordCounters)
	word, lap := &n.ring[group&uint64(len(n.ring)-1)], group>>n.shift
	for {
		old := word.Load()
		next := old | bit
		switch at := old >> wordCounters; {
		case at > lap || at == lap && old&bit != 0:
			return false
		case at < lap:
			next = lap<<wordCounters | bit
		}
		if word.CompareAndSwap(old, next) {
			return true
		}
	}
}
