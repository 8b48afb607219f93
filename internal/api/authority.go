package api

import (
	"context"
	"encoding/hex"
	"encoding/pem"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/ca"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Authority is a root, an issuing authority or an OCSP responder.
type Authority struct {
	ID          string     `json:"id"`
	CA          string     `json:"ca" doc:"Name of the certificate authority that it belongs to"`
	Name        string     `json:"name"`
	Role        string     `json:"role" enum:"root,issuing,ocsp"`
	State       string     `json:"state" enum:"pending,active,retired"`
	Parent      string     `json:"parent,omitempty" doc:"Id of the authority that signed it, if it is ours"`
	KeyType     string     `json:"key_type"`
	KeyHere     bool       `json:"key_here" doc:"Its key is in this installation's key store"`
	Shards      int        `json:"shards" doc:"Number of CRLs that its certificates are spread over"`
	CreatedAt   time.Time  `json:"created_at"`
	Subject     string     `json:"subject,omitempty"`
	NotBefore   *time.Time `json:"not_before,omitempty"`
	NotAfter    *time.Time `json:"not_after,omitempty"`
	Fingerprint string     `json:"fingerprint,omitempty" doc:"SHA-256 of its certificate, hexadecimal"`
	Certificate string     `json:"certificate,omitempty" doc:"PEM"`
	CSR         string     `json:"csr,omitempty" doc:"PEM of the request, while it waits for its certificate"`
	Chains      []string   `json:"chains,omitempty" doc:"PEM of each chain that a client can choose, the default first"`
}

func (s *Server) authorities() {
	op := func(id, method, path, summary string, status int) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: "/authorities" + path, Summary: summary, DefaultStatus: status, Tags: []string{"Authorities"}}
	}
	register(s, op("list-authorities", http.MethodGet, "", "List authorities", 200), s.listAuthorities)
	register(s, op("get-authority", http.MethodGet, "/{id}", "One authority, by id or name", 200), s.getAuthority)
	register(s, op("create-root", http.MethodPost, "/root", "Make a root", 201), s.createRoot)
	register(s, op("create-issuing", http.MethodPost, "/issuing", "Make an issuing authority and its OCSP responder under a root of ours", 201), s.createIssuing)
	register(s, op("request-issuing", http.MethodPost, "/request", "Make the key and the request of an issuing authority, for a root elsewhere", 201), s.requestIssuing)
	register(s, op("import-issuing", http.MethodPost, "/{id}/certificate", "Activate a requested authority with the certificate that its root gave", 200), s.importIssuing)
	register(s, op("cross-sign-authority", http.MethodPost, "/{id}/cross-sign", "Offer one more chain, through another root", 200), s.crossSign)
	register(s, op("sign-authority-request", http.MethodPost, "/{id}/sign", "Sign the request of an authority elsewhere with a root of ours", 200), s.signRequest)
	register(s, op("retire-authority", http.MethodPost, "/{id}/retire", "Stop issuing; status is answered as before", 200), s.retireAuthority)
}

func viewAuthority(a *ca.Authority) Authority {
	v := Authority{ID: a.ID, CA: a.CA, Name: a.Name, Role: string(a.Role), State: string(a.State), Parent: a.ParentID,
		KeyType: string(a.KeyType), KeyHere: a.KeyRef != "", Shards: a.Shards, CreatedAt: a.CreatedAt}
	if a.Cert != nil {
		fp := pki.Fingerprint(a.DER)
		v.Subject, v.NotBefore, v.NotAfter = a.Cert.Subject.String(), instant(a.Cert.NotBefore), instant(a.Cert.NotAfter)
		v.Fingerprint, v.Certificate = hex.EncodeToString(fp[:]), string(pki.EncodeChain(a.DER))
	}
	if a.State == ca.Pending {
		v.CSR = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: a.CSR}))
	}
	for _, c := range a.Chains {
		v.Chains = append(v.Chains, string(c))
	}
	return v
}

func (s *Server) listAuthorities(_ context.Context, in *ListInput) (*pageOf[Authority], error) {
	key := func(a **ca.Authority) string { return (*a).ID }
	return pageOfAll(s.cfg.CA.Authorities(), in, key, func(a **ca.Authority) Authority { return viewAuthority(*a) })
}

// authority finds an authority by id or by name.
func (s *Server) authority(id string) (*ca.Authority, error) {
	for _, a := range s.cfg.CA.Authorities() {
		if a.ID == id || a.Name == id {
			return a, nil
		}
	}
	return nil, fault.New(fault.NotFound, "there is no authority %.64q; `chancery ca list` shows them", id)
}

func (s *Server) getAuthority(_ context.Context, in *IDInput) (*bodyOf[Authority], error) {
	a, err := s.authority(in.ID)
	if err != nil {
		return nil, err
	}
	return &bodyOf[Authority]{viewAuthority(a)}, nil
}

// AuthoritySpec describes an authority to be made.
type AuthoritySpec struct {
	CA           string      `json:"ca" maxLength:"63" doc:"Name in paths and configuration: lower-case letters, digits, hyphens"`
	KeyType      pki.KeyType `json:"key_type,omitempty" default:"p256" enum:"p256,p384,rsa2048,rsa3072,rsa4096,ed25519,ml-dsa-44,ml-dsa-65,ml-dsa-87"`
	Organization string      `json:"organization,omitempty" maxLength:"64"`
	CommonName   string      `json:"common_name,omitempty" maxLength:"64" doc:"Made from ca and role when it is not given"`
	Period       string      `json:"period,omitempty" maxLength:"32" doc:"Life of the certificate, such as 3650d; 20 years for a root and 10 for an issuing authority when it is not given"`
	Shards       int         `json:"shards,omitempty" minimum:"0" maximum:"4096" doc:"CRL shards of an issuing authority; 0 = 1"`
}

func (b *AuthoritySpec) spec() (ca.Spec, error) {
	period, err := parsePeriod(b.Period)
	return ca.Spec{CA: b.CA, KeyType: b.KeyType, Organization: b.Organization, CommonName: b.CommonName, Period: period, Shards: b.Shards}, err
}

// maxPeriod bounds every life that a user may ask for: 50 years.
const maxPeriod = 50 * 366 * 24 * time.Hour

// parsePeriod reads a duration such as 90d or 36h; "" is 0, the default.
func parsePeriod(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		d = time.Duration(min(n, 100000)) * 24 * time.Hour
	}
	if err != nil || d <= 0 || d > maxPeriod {
		return 0, fault.New(fault.Invalid, "%.32q is not a period between 1s and 50 years; write 90d, 36h or 30m", text)
	}
	return d, nil
}

type specInput struct{ Body AuthoritySpec }

func (s *Server) createRoot(ctx context.Context, in *specInput) (*bodyOf[Authority], error) {
	spec, err := in.Body.spec()
	if err != nil {
		return nil, err
	}
	return s.authorityMade(s.cfg.CA.CreateRoot(ctx, spec, actorOf(ctx)))
}

// authorityMade answers with an authority that was just made or changed.
func (s *Server) authorityMade(a *ca.Authority, err error) (*bodyOf[Authority], error) {
	if err != nil {
		return nil, err
	}
	s.changed()
	if known := s.cfg.CA.Authority(a.ID); known != nil {
		a = known // with its chains
	}
	return &bodyOf[Authority]{viewAuthority(a)}, nil
}

type createIssuingInput struct {
	Body struct {
		AuthoritySpec
		Root string `json:"root,omitempty" maxLength:"128" doc:"Id or name of the root; the newest active root of the same ca when it is not given"`
	}
}

func (s *Server) createIssuing(ctx context.Context, in *createIssuingInput) (*bodyOf[Authority], error) {
	spec, err := in.Body.spec()
	if err != nil {
		return nil, err
	}
	root, err := s.rootFor(in.Body.Root, spec.CA)
	if err != nil {
		return nil, err
	}
	a, err := s.cfg.CA.CreateIssuing(ctx, root.ID, spec, actorOf(ctx))
	if err == nil {
		_, err = s.cfg.CA.CreateResponder(ctx, a.ID, actorOf(ctx))
	}
	return s.authorityMade(a, err)
}

// rootFor returns the named root, or the newest active one of a CA.
func (s *Server) rootFor(id, name string) (*ca.Authority, error) {
	if id != "" {
		return s.authority(id)
	}
	for _, a := range slices.Backward(s.cfg.CA.Authorities()) {
		if a.CA == name && a.Role == ca.RoleRoot && a.State == ca.Active {
			return a, nil
		}
	}
	return nil, fault.New(fault.NotFound, "the CA %.63q has no active root; make one with `chancery ca init --ca %.63s`, or request a certificate elsewhere with `chancery ca csr`", name, name)
}

func (s *Server) requestIssuing(ctx context.Context, in *specInput) (*bodyOf[Authority], error) {
	spec, err := in.Body.spec()
	if err != nil {
		return nil, err
	}
	return s.authorityMade(s.cfg.CA.RequestIssuing(ctx, spec, actorOf(ctx)))
}

type chainInput struct {
	IDInput
	Body struct {
		Chain string `json:"chain" maxLength:"200000" doc:"PEM: the authority's certificate first, then those between it and its root"`
	}
}

// decode returns the authority and the chain in DER.
func (in *chainInput) decode(s *Server) (*ca.Authority, [][]byte, error) {
	a, err := s.authority(in.ID)
	if err != nil {
		return nil, nil, err
	}
	chain, err := pki.DecodeChain([]byte(in.Body.Chain), maxBody, 8)
	return a, chain, err
}

func (s *Server) importIssuing(ctx context.Context, in *chainInput) (*bodyOf[Authority], error) {
	a, chain, err := in.decode(s)
	if err != nil {
		return nil, err
	}
	if a, err = s.cfg.CA.ImportIssuing(ctx, a.ID, chain, actorOf(ctx)); err == nil {
		_, err = s.cfg.CA.CreateResponder(ctx, a.ID, actorOf(ctx))
	}
	return s.authorityMade(a, err)
}

func (s *Server) crossSign(ctx context.Context, in *chainInput) (*bodyOf[Authority], error) {
	a, chain, err := in.decode(s)
	if err != nil {
		return nil, err
	}
	return s.authorityMade(a, s.cfg.CA.CrossSign(ctx, a.ID, chain, actorOf(ctx)))
}

type signInput struct {
	IDInput
	Body struct {
		CSR    string `json:"csr" maxLength:"65536" doc:"PEM of the request"`
		Period string `json:"period,omitempty" maxLength:"32" doc:"Life of the certificate, such as 3650d; 10 years when it is not given"`
	}
}

// Signed is a certificate for an authority elsewhere.
type Signed struct {
	ID    string `json:"id"`
	Chain string `json:"chain" doc:"PEM, to be imported there"`
}

func (s *Server) signRequest(ctx context.Context, in *signInput) (*bodyOf[Signed], error) {
	root, err := s.authority(in.ID)
	if err != nil {
		return nil, err
	}
	period, err := parsePeriod(in.Body.Period)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode([]byte(in.Body.CSR))
	if block == nil || block.Type != "CERTIFICATE REQUEST" || strings.TrimSpace(string(rest)) != "" {
		return nil, fault.New(fault.BadCSR, "send one PEM block of type CERTIFICATE REQUEST, and nothing else")
	}
	c, err := s.cfg.CA.SignIssuing(ctx, root.ID, block.Bytes, period)
	if err != nil {
		return nil, err
	}
	s.changed()
	return &bodyOf[Signed]{Signed{ID: c.ID, Chain: string(pki.EncodeChain(c.DER))}}, nil
}

func (s *Server) retireAuthority(ctx context.Context, in *IDInput) (*bodyOf[Authority], error) {
	a, err := s.authority(in.ID)
	if err != nil {
		return nil, err
	}
	return s.authorityMade(a, s.cfg.CA.Retire(ctx, a.ID, actorOf(ctx)))
}
