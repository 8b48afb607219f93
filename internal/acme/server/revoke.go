package server

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"net/http"
	"slices"

	"chancery/internal/acme"
	"chancery/internal/ca"
	"chancery/internal/fault"
	"chancery/internal/httpd"
	"chancery/internal/pki"
)

// revoke answers revoke-cert (RFC 8555 section 7.6). Who may revoke decides
// the reason: the account that ordered the certificate gives one of those for
// subscribers; an account that is authorized for all its names means
// cessationOfOperation; the certificate's own key means keyCompromise, and is
// blocked for ever.
func (s *Server) revoke(m *message) (reply *httpd.Reply, err error) {
	span := m.step("acme.revoke")
	defer func() { measure(s.ops.revoke, m.now, err); span.End(err) }()
	req, err := decode[acme.Revocation](m)
	if err != nil {
		return nil, err
	}
	der, err := req.DER()
	if err != nil {
		return nil, err
	}
	c, cert, err := s.ours(m.ctx, m.ca, der)
	if err != nil {
		return nil, err
	}
	if err := s.refuseStar(m.ctx, &c); err != nil {
		return nil, err
	}
	r := ca.Revocation{CertificateID: c.ID, Actor: m.actor()}
	if req.Reason != nil {
		if r.Reason, err = ca.CheckReason(*req.Reason); err != nil {
			return nil, err
		}
	}
	if err := s.entitle(m, &c, cert, &r); err != nil {
		return nil, err
	}
	fault.Point("acme.before_revoke")
	revoked, err := s.cfg.Issuer.Revoke(m.ctx, r)
	if err != nil {
		return nil, err
	}
	if s.cfg.OnRevoke != nil {
		s.cfg.OnRevoke(context.WithoutCancel(m.ctx), revoked)
	}
	return &httpd.Reply{Status: http.StatusOK}, nil
}

// ours finds the row of a certificate that this CA issued, byte for byte.
func (s *Server) ours(ctx context.Context, a *authority, der []byte) (ca.Certificate, *x509.Certificate, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return ca.Certificate{}, nil, fault.Wrap(err, fault.Malformed, "the certificate to revoke does not parse")
	}
	c, err := s.bySerial(ctx, a, cert.AuthorityKeyId, pki.SerialFromBig(cert.SerialNumber))
	if err == nil && !bytes.Equal(c.DER, der) {
		err = fault.New(fault.NotFound, "there is no such certificate of this CA")
	}
	return c, cert, err
}

// entitle decides whether the signer may revoke c, and with which reason.
func (s *Server) entitle(m *message, c *ca.Certificate, cert *x509.Certificate, r *ca.Revocation) error {
	if m.acct == nil {
		key, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
		if !ok || !key.Equal(m.key.Key) {
			return fault.New(fault.Unauthorized, "the request is signed by a key that is not the certificate's")
		}
		r.Reason, r.BlockKey = pki.KeyCompromise, true
		return nil
	}
	if c.AccountID == m.acct.ID {
		return nil
	}
	ok, err := s.holdsAll(m, c)
	if err != nil {
		return err
	}
	if !ok {
		return fault.New(fault.Unauthorized, "the account neither ordered the certificate nor holds valid authorizations for all its names")
	}
	r.Reason = pki.CessationOfOperation
	return nil
}

// holdsAll reports whether the signer has a valid authorization, with a proof
// that opens, for every name of c by itself.
func (s *Server) holdsAll(m *message, c *ca.Certificate) (bool, error) {
	ids := make([]pki.Identifier, 0, len(c.Evidence))
	for i := range c.Evidence {
		ids = append(ids, c.Evidence[i].Name)
	}
	if len(ids) == 0 {
		return false, nil
	}
	have, err := s.reusable(m.ctx, m.ca, m.acct.ID, ids, everyMethod(s, ids), m.now)
	if err != nil {
		return false, err
	}
	o := &Order{AccountID: m.acct.ID, CA: m.ca.name}
	for _, id := range ids {
		found, ok := have.find(id)
		if !ok {
			return false, nil
		}
		z, err := s.authz(m, found.ID)
		if err != nil {
			return false, err
		}
		if _, err := s.support(m.ca, o, &z, id, m.now); err != nil {
			return false, nil
		}
	}
	return true, nil
}

// everyMethod is a profile that takes whatever proved the names.
func everyMethod(s *Server, ids []pki.Identifier) *Profile {
	p := &Profile{}
	for _, id := range ids {
		for _, t := range s.cfg.Validators.Offers(id) {
			if !slices.Contains(p.Challenges, t) {
				p.Challenges = append(p.Challenges, t)
			}
		}
	}
	return p
}
