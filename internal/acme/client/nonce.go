package client

import (
	"sync"
	"time"
)

const (
	maxNonces = 256
	nonceAge  = 5 * time.Minute // CAs forget theirs after minutes to hours
)

// nonces keeps the nonces of replies for the next requests, the newest first.
// Its lock is never held while the network is waited for: a caller who finds
// none fetches one for itself.
type nonces struct {
	mu   sync.Mutex
	list []nonce
}

type nonce struct {
	value string
	at    time.Time
}

func (n *nonces) put(value string, now time.Time) {
	if value == "" || len(value) > 512 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.list) == maxNonces {
		n.list = append(n.list[:0], n.list[1:]...)
	}
	n.list = append(n.list, nonce{value, now})
}

// take returns the newest nonce, or "".
func (n *nonces) take(now time.Time) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	last := len(n.list) - 1
	if last < 0 {
		return ""
	}
	v := n.list[last]
	if now.Sub(v.at) > nonceAge {
		n.list = n.list[:0] // the others are older still
		return ""
	}
	n.list = n.list[:last]
	return v.value
}

// flush forgets all: the CA has just shown that it does not know one of them.
func (n *nonces) flush() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = n.list[:0]
}
