package app

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"chancery/internal/ca"
	"chancery/internal/config"
	"chancery/internal/httpd"
	"chancery/internal/keys"
	"chancery/internal/loop"
	"chancery/internal/pki"
)

// httpsPeriod is the life of the certificate that this server issues to
// itself; it is renewed after two thirds.
const httpsPeriod = 30 * 24 * time.Hour

// httpsCert keeps the certificate of the HTTPS listener: one from files, which
// are read again when they change, or one of our own.
type httpsCert struct {
	cfg   *config.Config
	paths paths
	ca    *ca.Service
	name  string // CA that issues it
	certs *httpd.Certificates
	read  time.Time // modification time of the file that is served
}

// load presents a certificate, making one if need be.
func (h *httpsCert) load(ctx context.Context) error {
	if h.cfg.Server.TLSCertFile != "" {
		return h.loadFiles()
	}
	names, err := ownNames(h.cfg)
	if err != nil {
		return err
	}
	if cert, err := tls.LoadX509KeyPair(h.paths.tlsCert(), h.paths.tlsKey()); err == nil && h.fresh(cert.Leaf, names) {
		h.certs.Set(&cert)
		return nil
	}
	return h.issue(ctx, names)
}

// tick renews or reloads the certificate when it is time.
func (h *httpsCert) tick(ctx context.Context) (loop.Count, error) {
	if h.cfg.Server.TLSCertFile != "" {
		st, err := os.Stat(h.cfg.Server.TLSCertFile)
		if err != nil || st.ModTime().Equal(h.read) {
			return loop.Count{}, err
		}
		return loop.Count{Done: 1}, h.loadFiles()
	}
	names, err := ownNames(h.cfg)
	if err != nil || h.fresh(h.certs.Current().Leaf, names) {
		return loop.Count{}, err
	}
	return loop.Count{Done: 1}, h.issue(ctx, names)
}

func (h *httpsCert) loadFiles() error {
	st, err := os.Stat(h.cfg.Server.TLSCertFile)
	if err != nil {
		return fmt.Errorf("read server.tls_cert_file: %w", err)
	}
	cert, err := tls.LoadX509KeyPair(h.cfg.Server.TLSCertFile, h.cfg.Server.TLSKeyFile)
	if err != nil {
		return fmt.Errorf("read server.tls_cert_file and server.tls_key_file: %w", err)
	}
	h.read = st.ModTime()
	h.certs.Set(&cert)
	return nil
}

// fresh reports whether leaf may be served on: ours, for all names, and with a
// third of its life left.
func (h *httpsCert) fresh(leaf *x509.Certificate, names []pki.Identifier) bool {
	issuer, err := h.ca.Issuing(h.name)
	if err != nil || leaf == nil || leaf.CheckSignatureFrom(issuer.Cert) != nil {
		return false
	}
	if time.Until(leaf.NotAfter) < leaf.NotAfter.Sub(leaf.NotBefore)/3 {
		return false
	}
	for _, n := range names {
		if leaf.VerifyHostname(n.Value) != nil {
			return false
		}
	}
	return true
}

// ownNames are the names of the HTTPS listener: that of its URL, and those of
// loopback while it listens there.
func ownNames(cfg *config.Config) ([]pki.Identifier, error) {
	u, err := url.Parse(cfg.Server.URL)
	if err != nil {
		return nil, fmt.Errorf("server.url: %w", err)
	}
	values := []string{u.Hostname()}
	host, _, err := net.SplitHostPort(cfg.Server.Listen)
	if err != nil {
		return nil, fmt.Errorf("server.listen: %w", err)
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() || host == "localhost" {
		values = append(values, "localhost", "127.0.0.1", "::1")
	}
	var ids []pki.Identifier
	for _, v := range values {
		typ := pki.DNS
		if net.ParseIP(v) != nil {
			typ = pki.IP
		}
		id, err := pki.ParseIdentifier(typ, v)
		if err != nil {
			return nil, fmt.Errorf("server.url: %w", err)
		}
		ids = append(ids, id)
	}
	return pki.SortIdentifiers(ids), nil
}

// issue makes a key and a certificate by the same steps as for any subscriber,
// and stores both.
func (h *httpsCert) issue(ctx context.Context, names []pki.Identifier) error {
	key, err := keys.Generate(pki.P256)
	if err != nil {
		return err
	}
	csr, err := ownRequest(key, names)
	if err != nil {
		return err
	}
	now := time.Now()
	var evidence []ca.Evidence
	for _, n := range names {
		evidence = append(evidence, ca.Evidence{Name: n, Method: "internal", Reference: "https-listener",
			ValidatedAt: now, ExpiresAt: now.Add(time.Hour), CAAExempt: true})
	}
	grant, err := ca.NewGrant(evidence)
	if err != nil {
		return err
	}
	profile := ca.DefaultProfiles()[0]
	profile.Name, profile.Period, profile.CommonName = "https-listener", httpsPeriod, pki.CNNone
	c, err := h.ca.Issue(ctx, ca.Request{CA: h.name, Profile: &profile, Grant: grant, CSR: csr, Actor: "system"})
	if err != nil {
		return fmt.Errorf("issue the certificate of the HTTPS listener: %w", err)
	}
	return h.present(key, c)
}

func ownRequest(key crypto.Signer, names []pki.Identifier) (*pki.CSR, error) {
	der, err := pki.CreateRequest(key, names)
	if err != nil {
		return nil, err
	}
	return pki.ParseCSR(der, len(der))
}

// present stores key and chain, and serves them from now on.
func (h *httpsCert) present(key crypto.Signer, c *ca.Certificate) error {
	issuer := h.ca.Authority(c.AuthorityID)
	chain := append(pki.EncodeChain(c.DER), issuer.Chains[0]...)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	cert, err := tls.X509KeyPair(chain, keyPEM)
	if err != nil {
		return err
	}
	if err := errors.Join(writeFile(h.paths.tlsKey(), keyPEM, 0o600), writeFile(h.paths.tlsCert(), chain, 0o644)); err != nil {
		return err
	}
	h.certs.Set(&cert)
	return nil
}
