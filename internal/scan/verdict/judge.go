package verdict

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"sync"
	"time"
)

// Roots is a set of trust anchors with a name.
type Roots struct {
	Name string
	Pool *x509.CertPool
}

// Config of a Judge.
type Config struct {
	Roots []Roots // each gives a verdict of its own

	// Known holds CA certificates that are not anchors. They never make a
	// chain trusted; they tell a chain that lacks one of them (incomplete)
	// from one that leads elsewhere (untrusted).
	Known *x509.CertPool

	// Leaves and Chains bound what is remembered: verdicts on leaves (about
	// 200 octets each) and verified sets of issuers (some kilobytes each).
	// 8,192 and 1,024 if 0.
	Leaves, Chains int
}

// chainAge is how long a verified set of issuers is believed: it may expire.
const chainAge = 10 * time.Minute

// Judge judges chains. It is safe for concurrent use.
type Judge struct {
	cfg    Config
	leaves *memory[leafKey, *leafVerdict]
	chains *memory[[32]byte, *issuers]
	parsed *memory[[32]byte, *x509.Certificate] // CA certificates, by hash
}

// New returns a Judge.
func New(cfg Config) *Judge {
	if cfg.Leaves <= 0 {
		cfg.Leaves = 8192
	}
	if cfg.Chains <= 0 {
		cfg.Chains = 1024
	}
	return &Judge{cfg: cfg, leaves: newMemory[leafKey, *leafVerdict](cfg.Leaves), chains: newMemory[[32]byte, *issuers](cfg.Chains), parsed: newMemory[[32]byte, *x509.Certificate](cfg.Chains)}
}

// Parse parses a chain as served. What follows the leaf is parsed once for all
// chains.
func (j *Judge) Parse(raw [][]byte) ([]*x509.Certificate, error) {
	out := make([]*x509.Certificate, len(raw))
	for i, der := range raw {
		cert, err := j.parse(der, i > 0)
		if err != nil {
			return nil, fmt.Errorf("parse certificate %d of the chain: %w", i, err)
		}
		out[i] = cert
	}
	return out, nil
}

func (j *Judge) parse(der []byte, keep bool) (*x509.Certificate, error) {
	if !keep {
		return x509.ParseCertificate(der)
	}
	key := sha256.Sum256(der)
	if cert, ok := j.parsed.get(key); ok {
		return cert, nil
	}
	cert, err := x509.ParseCertificate(der)
	if err == nil {
		j.parsed.put(key, cert)
	}
	return cert, err
}

// leafKey names a leaf together with what follows it.
type leafKey struct{ leaf, above [32]byte }

// leafVerdict is what does not depend on endpoint and moment.
type leafVerdict struct {
	at          time.Time
	fingerprint [32]byte
	trust       []SetTrust
	problems    []Problem
	issuer      *x509.Certificate
	postQuantum bool
}

// leaf judges the leaf of chain, or remembers.
func (j *Judge) leaf(chain []*x509.Certificate, now time.Time) *leafVerdict {
	fingerprint := sha256.Sum256(chain[0].Raw)
	above := hashOf(chain[1:])
	key := leafKey{fingerprint, above}
	if known, ok := j.leaves.get(key); ok && now.Sub(known.at).Abs() < chainAge {
		return known
	}
	v := &leafVerdict{at: now, fingerprint: fingerprint, problems: inherent(chain[0]), postQuantum: postQuantum(chain[0])}
	v.trust, v.issuer = j.trust(chain, above, now)
	if !trusted(v.trust) && len(v.trust) > 0 {
		v.add(worst(v.trust))
	}
	for _, p := range j.above(chain[1:], above, now).weak {
		v.add(p)
	}
	j.leaves.put(key, v)
	return v
}

func (v *leafVerdict) add(p Problem) {
	sorted := Verdict{Problems: v.problems}
	sorted.Add(p)
	v.problems = sorted.Problems
}

// worst is the problem to show when no set trusts a chain: the one that came
// closest to trust, as the other sets are often simply not meant for it.
func worst(list []SetTrust) Problem {
	for _, p := range []Problem{IssuerExpired, Incomplete, SelfSigned} {
		for _, s := range list {
			if s.Trust == Trust(p) {
				return p
			}
		}
	}
	return Untrusted
}

// hashOf names a list of certificates.
func hashOf(certs []*x509.Certificate) (out [32]byte) {
	h := sha256.New()
	for _, c := range certs {
		h.Write(c.Raw)
	}
	h.Sum(out[:0])
	return out
}

// memory is a map that forgets: when it is full, all that was not used since
// it was half full goes.
type memory[K comparable, V any] struct {
	mu       sync.Mutex
	limit    int // of each generation
	now, old map[K]V
}

func newMemory[K comparable, V any](limit int) *memory[K, V] {
	return &memory[K, V]{limit: max(limit/2, 1), now: make(map[K]V)}
}

func (m *memory[K, V]) get(k K) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.now[k]
	if ok {
		return v, true
	}
	if v, ok = m.old[k]; ok {
		m.set(k, v)
	}
	return v, ok
}

func (m *memory[K, V]) put(k K, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.set(k, v)
}

// set stores v in the young generation; mu is held.
func (m *memory[K, V]) set(k K, v V) {
	if len(m.now) >= m.limit {
		m.old, m.now = m.now, make(map[K]V)
	}
	m.now[k] = v
}
