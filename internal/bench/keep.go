package bench

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"io"
	"sync"

	"chancery/internal/fault"
)

// Keeper writes downloaded chains to a file. Certificates of authorities are
// written once. It is safe for concurrent use.
type Keeper struct {
	mu     sync.Mutex
	w      *bufio.Writer
	issuer []byte // PEM of the chain above the last leaf
	err    error
}

// NewKeeper returns a Keeper that writes to w.
func NewKeeper(w io.Writer) *Keeper { return &Keeper{w: bufio.NewWriterSize(w, 1<<20)} }

// add writes one PEM chain.
func (k *Keeper) add(chain []byte) {
	const end = "-----END CERTIFICATE-----\n"
	cut := bytes.Index(chain, []byte(end))
	if cut < 0 {
		return
	}
	leaf, above := chain[:cut+len(end)], chain[cut+len(end):]
	k.mu.Lock()
	defer k.mu.Unlock()
	if !bytes.Equal(above, k.issuer) {
		k.issuer = bytes.Clone(above)
		k.write(above)
	}
	k.write(leaf)
}

func (k *Keeper) write(text []byte) {
	if _, err := k.w.Write(text); err != nil && k.err == nil {
		k.err = err
	}
}

// Flush writes what is buffered and returns the first error of all.
func (k *Keeper) Flush() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.w.Flush(); err != nil && k.err == nil {
		k.err = err
	}
	return k.err
}

// sortPEM parses every certificate in text: subscribers' in order, and
// authorities' by subject.
func sortPEM(text []byte) (leaves []*x509.Certificate, authorities map[string]*x509.Certificate, err error) {
	authorities = map[string]*x509.Certificate{}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return leaves, authorities, nil
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, fault.Wrap(err, fault.Invalid, "certificate %d of the file cannot be read", len(leaves)+len(authorities)+1)
		}
		if c.IsCA {
			authorities[string(c.RawSubject)] = c
		} else {
			leaves = append(leaves, c)
		}
	}
}
