package status

import (
	"context"
	"crypto"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"chancery/internal/ca"
	"chancery/internal/ca/catest"
	"chancery/internal/keys"
)

// crowd is a key store whose keys count how many signatures are being made.
type crowd struct {
	keys.Store
	mu        sync.Mutex
	now, most int
	want      int
	full      chan struct{} // closed when want are made at once
	once      sync.Once
}

// Open implements keys.Store.
func (c *crowd) Open(ctx context.Context, ref string) (crypto.Signer, error) {
	key, err := c.Store.Open(ctx, ref)
	return crowdKey{key, c}, err
}

// crowdKey is one of its keys.
type crowdKey struct {
	crypto.Signer
	c *crowd
}

// Sign waits a while for as many as are wanted to be here at once.
func (k crowdKey) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.c.mu.Lock()
	k.c.now++
	k.c.most = max(k.c.most, k.c.now)
	if k.c.now == k.c.want {
		k.c.once.Do(func() { close(k.c.full) })
	}
	k.c.mu.Unlock()
	if k.c.want > 1 {
		select {
		case <-k.c.full:
		case <-time.After(5 * time.Second):
		}
	}
	defer func() { k.c.mu.Lock(); k.c.now--; k.c.mu.Unlock() }()
	return k.Signer.Sign(r, digest, opts)
}

// TestSignWorkers: so many answers are signed ahead at once, and no more.
func TestSignWorkers(t *testing.T) {
	w := newWorld(t, sqlite(t))
	w.fill(catest.Spec{N: 4 * signChunk})
	for _, workers := range []int{1, 3} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		r := &world{t: t, db: w.db, base: w.base, keyDir: w.keyDir, root: w.root, issuing: w.issuing}
		r.openCA()
		c := &crowd{Store: r.keys, full: make(chan struct{}), want: workers}
		r.ca, err = ca.Open(t.Context(), ca.Config{DB: r.db, Keys: c, URLs: ca.URLs{Base: r.base}})
		must(t, err)
		r.start(Config{SignWorkers: workers, Direct: true}, ln)
		r.catchUp()
		n, err := r.presign(t.Context())
		must(t, err)
		if n.Done < 4*signChunk || c.most != workers {
			t.Errorf("sign_workers %d: %d answers, %d at once", workers, n.Done, c.most)
		}
	}
}
