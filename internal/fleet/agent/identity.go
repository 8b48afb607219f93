package agent

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json/v2"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"chancery/internal/deploy"
	"chancery/internal/fault"
	"chancery/internal/fleet"
)

// identity is what identity.json holds.
type identity struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	Server     string   `json:"server"`
	Pin        string   `json:"pin"`
	Roots      string   `json:"roots"`
	Chain      [][]byte `json:"chain"`
	Generation int64    `json:"generation"`
	Instance   string   `json:"instance"`
	// Pending is the instance that was asked for and not yet confirmed.
	Pending string `json:"pending,omitempty"`
}

func (i *identity) session() fleet.Session {
	return fleet.Session{Generation: i.Generation, Instance: i.Instance}
}

// due reports whether half of the certificate's life is over.
func (i *identity) due(now time.Time) bool {
	leaf, err := x509.ParseCertificate(i.Chain[0])
	return err != nil || now.After(leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore)/2))
}

// certificate puts the identity together for TLS.
func (i *identity) certificate(key []byte) (tls.Certificate, error) {
	k, err := x509.ParsePKCS8PrivateKey(key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read identity.key: %w", err)
	}
	if len(i.Chain) == 0 {
		return tls.Certificate{}, errors.New("identity.json has no certificate")
	}
	return tls.Certificate{Certificate: i.Chain, PrivateKey: k}, nil
}

func (a *Agent) path(names ...string) string {
	return filepath.Join(append([]string{a.cfg.State}, names...)...)
}

// load reads the identity.
func (a *Agent) load() error {
	text, err := os.ReadFile(a.path("identity.json"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &a.id); err != nil {
		return fmt.Errorf("read identity.json: %w", err)
	}
	if a.cfg.Token != "" {
		a.log.Info("token not used: the agent is enrolled already", "state", a.cfg.State)
	}
	if a.cfg.Server == "" {
		a.cfg.Server = a.id.Server
	}
	// The key of a renewal whose answer was being stored when the agent died.
	for _, name := range []string{"identity.key", "identity.key.next"} {
		if a.key, err = readKey(a.path(name)); err == nil && a.id.fits(a.key) {
			return nil
		}
	}
	return fault.New(fault.Invalid, "%s has no key that belongs to its certificate; enrol into an empty directory", a.cfg.State)
}

// fits reports whether a key is that of the certificate.
func (i *identity) fits(key []byte) bool {
	k, err := x509.ParsePKCS8PrivateKey(key)
	if err != nil || len(i.Chain) == 0 {
		return false
	}
	leaf, err := x509.ParseCertificate(i.Chain[0])
	s, ok := k.(crypto.Signer)
	if err != nil || !ok {
		return false
	}
	pub, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(s.Public())
}

// save writes the identity.
func (a *Agent) save() error {
	text, err := json.Marshal(&a.id)
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	return replace(a.path("identity.json"), text)
}

// next chooses the instance of the next generation, and remembers it before
// anybody hears of it.
func (a *Agent) next() error {
	if a.id.Pending != "" {
		return nil
	}
	a.id.Pending = rand.Text()
	return a.save()
}

// advance is told that the next generation has begun.
func (a *Agent) advance(generation int64) error {
	a.id.Generation, a.id.Instance, a.id.Pending = generation, a.id.Pending, ""
	return a.save()
}

// enroll trades the token for an identity. The server is known by the pin in
// the token before anything is sent to it.
func (a *Agent) enroll(ctx context.Context) error {
	if a.cfg.Token == "" {
		return fault.New(fault.Invalid, "%s has no identity yet; give the token of `chancery agents token create` with --token", a.cfg.State)
	}
	token, err := fleet.ParseToken(a.cfg.Token)
	if err != nil {
		return fault.New(fault.Invalid, "%s", err.Error())
	}
	if !fleet.ValidName(a.cfg.Name) {
		return fault.New(fault.Invalid, "%.140q cannot name an agent: lower-case letters, digits, dots and hyphens; give --name", a.cfg.Name)
	}
	c, err := newClient(a.cfg.Server, a.trust(token.Pin, ""), nil, a.cfg.Version)
	if err != nil {
		return err
	}
	defer c.close()
	key, csr, err := newKey(nil)
	if err != nil {
		return err
	}
	if err := replace(a.path("identity.key"), pemKey(key)); err != nil {
		return err
	}
	m := fleet.Enroll{Token: token.Sent(), Name: a.cfg.Name, Version: a.cfg.Version, Instance: rand.Text(), CSR: csr}
	var out fleet.Identity
	if err := c.post(ctx, "enroll", m, &out); err != nil {
		return err
	}
	a.key = key
	a.id = identity{ID: out.ID, Name: m.Name, Server: a.cfg.Server, Pin: token.Pin, Roots: out.Roots, Chain: out.Chain, Generation: out.Generation, Instance: m.Instance}
	return a.save()
}

// renew gets the identity's next certificate, for a new key.
func (a *Agent) renew(ctx context.Context) error {
	key, csr, err := newKey(nil)
	if err != nil {
		return err
	}
	if err := replace(a.path("identity.key.next"), pemKey(key)); err != nil {
		return err
	}
	if err := a.next(); err != nil {
		return err
	}
	m := fleet.Renew{Session: a.id.session(), CSR: csr}
	m.Next = a.id.Pending
	var out fleet.Identity
	if err := a.client.post(ctx, "renew", m, &out); err != nil {
		return err
	}
	a.key, a.id.Chain, a.id.Roots = key, out.Chain, out.Roots
	if err := a.advance(out.Generation); err != nil {
		return err
	}
	if err := os.Rename(a.path("identity.key.next"), a.path("identity.key")); err != nil {
		return fmt.Errorf("keep new identity key: %w", err)
	}
	a.log.Info("identity renewed", "generation", a.id.Generation)
	return a.connect()
}

// newKey makes a key and a certificate request for names.
func newKey(names []string) (key, csr []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	if key, err = x509.MarshalPKCS8PrivateKey(k); err != nil {
		return nil, nil, fmt.Errorf("encode key: %w", err)
	}
	csr, err = request(k, names)
	return key, csr, err
}

func pemKey(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// readKey reads a file of pemKey.
func readKey(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s holds no key in PEM", path)
	}
	return block.Bytes, nil
}

// replace writes a file of mode 0600 whole, and durably.
func replace(path string, text []byte) error { return deploy.ReplaceFile(path, text, 0o600) }
