package server

import (
	"encoding/json/v2"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/fault"
	"chancery/internal/httpd"
	"chancery/internal/pki"
)

// authority is a CA of the configuration with what follows from it.
type authority struct {
	CA
	name      string
	base      string // URL of the CA without a final slash
	accounts  string // what the URLs of its accounts begin with
	profiles  map[string]*Profile
	standard  *Profile // of orders that name none
	directory []byte
	index     string // Link header of every answer
	mailbox   string // that challenges by mail are from; "": there are none
}

// newAuthority checks c and prepares its answers.
func newAuthority(name string, c CA, cfg *Config) (*authority, error) {
	a := &authority{CA: c, name: name, base: cfg.BaseURL + "/acme/" + name, profiles: map[string]*Profile{}}
	a.accounts = a.base + accountDir
	a.index = "<" + a.base + `/directory>;rel="index"`
	switch {
	case !validName(name):
		return nil, fault.New(fault.Invalid, "%q cannot be the name of a CA in a URL; use a-z, 0-9 and hyphens", name)
	case len(c.Profiles) == 0:
		return nil, fault.New(fault.Invalid, "CA %s has no profile, so it could issue nothing", name)
	case c.CAA == nil:
		return nil, fmt.Errorf("CA %s has no CAA checker", name)
	}
	for i := range c.Profiles {
		p := &c.Profiles[i]
		if err := p.check(cfg.Validators); err != nil {
			return nil, fmt.Errorf("CA %s: %w", name, err)
		}
		if cfg.Mail == nil && slices.Contains(p.Challenges, challenge.EmailReply00) {
			return nil, fault.New(fault.Invalid, "CA %s: profile %s offers %s, and there is no mail server", name, p.Name, challenge.EmailReply00)
		}
		a.profiles[p.Name] = p
	}
	if a.DefaultProfile == "" {
		a.DefaultProfile = c.Profiles[0].Name
	}
	if a.standard = a.profiles[a.DefaultProfile]; a.standard == nil {
		return nil, fault.New(fault.Invalid, "the default profile %q of CA %s is not one of its profiles", a.DefaultProfile, name)
	}
	if a.AuthorizationLifetime <= 0 {
		a.AuthorizationLifetime = cfg.AuthorizationLifetime
	}
	if cfg.Mail != nil {
		a.mailbox = cfg.Mail.Address
	}
	orDefault(&a.JustInTime, JustInTimeKnown)
	a.CertificateGet = a.CertificateGet || a.Delegation
	a.AutoRenewal.AllowGet = a.AutoRenewal.AllowGet || a.Delegation
	if err := a.checkPersist(); err != nil {
		return nil, err
	}
	var err error
	a.directory, err = json.Marshal(a.object(), json.Deterministic(true))
	return a, err
}

// validName reports whether a CA name can stand in a path as it is.
func validName(s string) bool {
	return s != "" && len(s) <= 63 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// check reports what makes p unusable. What is empty allows nothing.
func (p *Profile) check(validators *challenge.Registry) error {
	switch {
	case p.Profile == nil:
		return fmt.Errorf("a profile has no certificate profile")
	case len(p.Challenges) == 0:
		return fault.New(fault.Invalid, "profile %s offers no challenge type, so no name could be validated", p.Name)
	case len(p.Identifiers) == 0:
		return fault.New(fault.Invalid, "profile %s allows no identifier type", p.Name)
	}
	known := append(validators.Offers(pki.Identifier{Type: pki.DNS, Value: "a.example"}),
		validators.Offers(pki.Identifier{Type: pki.DNS, Value: "*.a.example"})...)
	known = append(known, validators.Offers(pki.Identifier{Type: pki.IP, Value: "192.0.2.1"})...)
	known = append(known, validators.Offers(pki.Identifier{Type: pki.PermanentIdentifier, Value: "a"})...)
	known = append(known, validators.Offers(pki.Identifier{Type: pki.TNAuthList, Value: "a"})...)
	known = append(known, validators.Offers(pki.Identifier{Type: pki.Email, Value: "a@a.example"})...)
	for _, t := range p.Challenges {
		if t == challenge.TKAuth01 && (p.Tokens == nil || len(p.Tokens.Roots) == 0) {
			return fault.New(fault.Invalid, "profile %s offers %s and trusts no authority; name the roots of one", p.Name, t)
		}
		if t == challenge.DeviceAttest01 && (p.Attestation == nil || len(p.Attestation.Roots) == 0) {
			return fault.New(fault.Invalid, "profile %s offers %s and trusts no attestation; name the roots of a format", p.Name, t)
		}
		if !slices.Contains(known, t) {
			return fault.New(fault.Invalid, "profile %s offers the challenge type %s, for which there is no validator", p.Name, t)
		}
	}
	for i := 1; i < len(p.Challenges); i++ {
		if last := p.Challenges[i-1]; last.Late() && !p.Challenges[i].Late() {
			return fault.New(fault.Invalid, "profile %s lists %s before %s; put it last, for some clients give up at it", p.Name, last, p.Challenges[i])
		}
	}
	return nil
}

// object is the directory (RFC 8555 section 7.1.1).
func (a *authority) object() *acme.Directory {
	d := &acme.Directory{
		NewNonce: a.base + "/new-nonce", NewAccount: a.base + "/new-account", NewOrder: a.base + "/new-order",
		NewAuthz: a.base + "/new-authz", RevokeCert: a.base + "/revoke-cert", KeyChange: a.base + "/key-change",
		RenewalInfo: a.base + "/renewal-info",
		Meta: acme.Meta{TermsOfService: a.TermsOfService, Website: a.Website, CAAIdentities: a.CAAIdentities,
			ExternalAccountRequired: a.EABRequired, SubdomainAuthAllowed: a.Subdomains,
			DelegationEnabled: a.Delegation, AllowCertificateGet: a.CertificateGet,
			AutoRenewal: a.autoRenewalMeta(time.Now()), Profiles: map[string]string{}},
	}
	if a.persists() {
		d.Meta.AccountHashPrefix, d.Meta.IssuerDomainNames = a.accountHashPrefix(), a.CAAIdentities
	}
	for name, p := range a.profiles {
		d.Meta.Profiles[name] = p.Description
		if p.Description == "" {
			d.Meta.Profiles[name] = name
		}
	}
	return d
}

// URLs of resources. Identifiers are those of package db, so nothing in a path
// needs escaping.
func (a *authority) accountURL(id string) string { return a.accounts + id }

// accountDir lies between a directory's base and an account's id.
const accountDir = "/account/"

func (a *authority) orderURL(id string) string { return a.base + "/order/" + id }
func (a *authority) authzURL(id string) string { return a.base + "/authz/" + id }
func (a *authority) certURL(id string) string  { return a.base + "/certificate/" + id }
func (a *authority) challengeURL(authz string, t challenge.Type) string {
	return a.base + "/challenge/" + authz + "/" + string(t)
}

// getDirectory answers GET directory.
func (s *Server) getDirectory(r *httpd.Request, a *authority) (*httpd.Reply, error) {
	return &httpd.Reply{ContentType: "application/json", Body: a.directory, CacheControl: "public, max-age=300"}, nil
}

// getNonce answers HEAD (200) and GET (204) of new-nonce (RFC 8555 section 7.2).
func (s *Server) getNonce(r *httpd.Request, a *authority) (*httpd.Reply, error) {
	r.SetHeader("Replay-Nonce", s.nonces.Issue())
	status := http.StatusNoContent
	if r.Method == http.MethodHead {
		status = http.StatusOK
	}
	return &httpd.Reply{Status: status, CacheControl: "no-store"}, nil
}

// RedeemNonce uses up a nonce that this process made, on behalf of another
// replica that received it. It is false for any other nonce.
func (s *Server) RedeemNonce(nonce string) bool {
	v, _ := s.nonces.Redeem(nonce)
	return v == nonceOK
}
