package api

import (
	"context"
	"encoding/hex"
	"encoding/json/v2"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/audit"
	"chancery/internal/ca"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Certificate is one certificate, or a serial number that was meant for one.
type Certificate struct {
	ID            string     `json:"id"`
	Serial        string     `json:"serial" doc:"Hexadecimal, lower case, as OpenSSL prints it"`
	Status        ca.Status  `json:"status" enum:"issued,expired,revoked,intent,abandoned,damaged"`
	CA            string     `json:"ca" doc:"Name of the certificate authority"`
	Authority     string     `json:"authority" doc:"Id of the authority that signed"`
	Profile       string     `json:"profile"`
	Names         []string   `json:"names" nullable:"false"`
	KeyType       string     `json:"key_type"`
	NotBefore     time.Time  `json:"not_before"`
	NotAfter      time.Time  `json:"not_after"`
	CreatedAt     time.Time  `json:"created_at" doc:"When the serial number was allotted"`
	IssuedAt      *time.Time `json:"issued_at,omitempty"`
	RevokedAt     *time.Time `json:"revoked_at,omitempty"`
	RevokedReason string     `json:"revoked_reason,omitempty" doc:"Name of the reason in RFC 5280"`
	RevokedBy     string     `json:"revoked_by,omitempty"`
	Order         string     `json:"order,omitempty" doc:"Id of the ACME order"`
	Account       string     `json:"account,omitempty" doc:"Id of the ACME account"`
}

// CertificateDetail is everything that is known of one certificate.
type CertificateDetail struct {
	Certificate
	Fingerprint string     `json:"fingerprint,omitempty" doc:"SHA-256 of the certificate, hexadecimal"`
	Subject     string     `json:"subject,omitempty"`
	Issuer      string     `json:"issuer,omitempty"`
	ARI         string     `json:"ari,omitempty" doc:"Certificate id of RFC 9773"`
	Chain       string     `json:"chain,omitempty" doc:"PEM: the certificate and what its server sends with it"`
	Incident    string     `json:"incident,omitempty" doc:"Id of the incident that it belongs to"`
	Evidence    []Evidence `json:"evidence" nullable:"false" doc:"Why each name was certified"`
	Events      []Event    `json:"events" nullable:"false" doc:"The first 1000 journal entries about it and those of its incident that concern it, oldest first"`

	Findings []CertificateFinding `json:"findings" nullable:"false" doc:"What the background checker found wrong with it"`
}

// Evidence is why one name was certified.
type Evidence struct {
	Name         string     `json:"name"`
	Method       string     `json:"method"`
	Reference    string     `json:"reference" doc:"What was validated, an authorization as a rule"`
	ValidatedAt  time.Time  `json:"validated_at"`
	CAAAt        *time.Time `json:"caa_at,omitempty" doc:"When CAA was checked"`
	Perspectives int        `json:"perspectives,omitempty" doc:"How many remote network perspectives were asked and made a quorum"`
}

// Event is an entry of the journal.
type Event struct {
	Seq     int64          `json:"seq" doc:"Its place; 0 while it waits for one"`
	ID      string         `json:"id"`
	At      time.Time      `json:"at"`
	Kind    string         `json:"kind"`
	Actor   string         `json:"actor"`
	Subject string         `json:"subject"`
	Data    map[string]any `json:"data"`
	Hash    string         `json:"hash,omitempty" doc:"SHA-256 over this entry and the hash before it, hexadecimal"`
}

func (s *Server) certificates() {
	register(s, huma.Operation{OperationID: "list-issued", Method: http.MethodGet, Path: "/issued", Tags: []string{"Certificates"},
		Summary: "List every serial number that our authorities allotted, the books of the CA", Description: queryHelp}, s.listIssued)
}

// queryHelp explains q where users look for it.
const queryHelp = `The query q is a list of terms, all of which must fit: a name, ` + "`*.SUFFIX`, `name:`, `serial:`, `status:`, `ca:`, `profile:`, `key:`, `account:`, `order:`, `expires:<14d`, `expires:>2027-01-31`, `issued:<7d`" + `.

A listing by name comes in the order of names, one with expires: by notAfter, any other newest first.`

type listIssuedInput struct {
	ListInput
	Query string `query:"q" maxLength:"1024" doc:"See above" example:"*.example.com status:issued expires:<14d"`
}

func (s *Server) listIssued(ctx context.Context, in *listIssuedInput) (*pageOf[Certificate], error) {
	at := now()
	query, err := ca.ParseQuery(in.Query, at)
	if err != nil {
		return nil, err
	}
	page, err := ca.Find(ctx, s.cfg.DB.Read(), query, in.Cursor, in.Limit)
	if err != nil {
		return nil, err
	}
	page.Certificates = covered(ctx, page.Certificates)
	out := &pageOf[Certificate]{Page[Certificate]{Items: make([]Certificate, len(page.Certificates)), Next: page.Next}}
	for i := range page.Certificates {
		out.Body.Items[i] = viewCertificate(&page.Certificates[i], at)
	}
	return out, nil
}

func viewCertificate(c *ca.Certificate, at time.Time) Certificate {
	v := Certificate{ID: c.ID, Serial: c.Serial.Hex(), Status: c.Status(at), CA: c.CA, Authority: c.AuthorityID, Profile: c.Profile,
		Names: c.Names, KeyType: string(c.KeyType), NotBefore: c.NotBefore, NotAfter: c.NotAfter, CreatedAt: c.CreatedAt,
		IssuedAt: instant(c.IssuedAt), RevokedAt: instant(c.RevokedAt), RevokedBy: c.RevokedBy, Order: c.OrderID, Account: c.AccountID}
	if !c.RevokedAt.IsZero() {
		v.RevokedReason = c.Reason.String()
	}
	return v
}

// instant makes the zero Time an absent member.
func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

type IDInput struct {
	ID string `path:"id" maxLength:"128"`
}

// issuedDetail is everything that the books of the CA say about c.
func (s *Server) issuedDetail(ctx context.Context, c *ca.Certificate) (CertificateDetail, error) {
	v := CertificateDetail{Certificate: viewCertificate(c, now()), Evidence: make([]Evidence, len(c.Evidence))}
	for i, e := range c.Evidence {
		v.Evidence[i] = Evidence{Name: e.Name.Value, Method: e.Method, Reference: e.Reference, ValidatedAt: e.ValidatedAt, CAAAt: instant(e.CAAAt), Perspectives: e.Remotes}
	}
	if c.State == ca.StateIssued {
		if err := s.describe(c, &v); err != nil {
			return v, err
		}
	}
	if err := s.remember(ctx, c, &v); err != nil {
		return v, err
	}
	return v, nil
}

// remember adds what happened to c, and what the checker found.
func (s *Server) remember(ctx context.Context, c *ca.Certificate, v *CertificateDetail) error {
	records, err := ca.History(ctx, s.cfg.DB.Read(), c)
	if err != nil {
		return err
	}
	found, err := ca.FindingsOf(ctx, s.cfg.DB.Read(), c.ID)
	if err != nil {
		return err
	}
	v.Incident, v.Events, v.Findings = c.IncidentID, make([]Event, len(records)), make([]CertificateFinding, len(found))
	for i := range records {
		v.Events[i] = viewEvent(&records[i])
	}
	for i := range found {
		v.Findings[i] = viewFinding(&found[i])
	}
	return nil
}

// describe adds what the certificate itself says.
func (s *Server) describe(c *ca.Certificate, v *CertificateDetail) error {
	cert, err := c.X509()
	if err != nil {
		return fmt.Errorf("read stored certificate %s: %w", c.ID, err)
	}
	m := pki.MetadataOf(cert)
	v.Fingerprint, v.Subject, v.Issuer, v.ARI = hex.EncodeToString(m.Fingerprint[:]), m.Subject, m.Issuer, m.ARI
	v.Chain = string(s.chain(c))
	return nil
}

// chain returns the PEM of c and of what its server sends with it.
func (s *Server) chain(c *ca.Certificate) []byte {
	text := pki.EncodeChain(c.DER)
	if a := s.cfg.CA.Authority(c.AuthorityID); a != nil && len(a.Chains) > 0 {
		text = append(text, a.Chains[0]...)
	}
	return text
}

func viewEvent(r *audit.Record) Event {
	e := Event{Seq: r.Seq, ID: r.ID, At: r.At, Kind: string(r.Kind), Actor: r.Actor, Subject: r.Subject, Hash: hex.EncodeToString(r.Hash)}
	if err := json.Unmarshal([]byte(r.Data), &e.Data); err != nil {
		e.Data = map[string]any{"damaged": true} // `audit verify` says more
	}
	return e
}

type downloadInput struct {
	IDInput
	Format string `query:"format" enum:"chain,pem,der" default:"chain" doc:"chain: PEM with the intermediates; pem: the certificate alone; der: the same in DER"`
}

func (s *Server) downloadCertificate(ctx context.Context, in *downloadInput) (*rawOutput, error) {
	if err := s.mayTouch(ctx, in.ID); err != nil {
		return nil, err
	}
	c, err := ca.Get(ctx, s.cfg.DB.Read(), in.ID)
	if fault.Is(err, fault.NotFound) {
		return s.downloadForeign(ctx, in)
	}
	if err != nil {
		return nil, err
	}
	if c.State != ca.StateIssued {
		return nil, fault.New(fault.NotFound, "serial %s is %s: there is no certificate to download", c.Serial.Hex(), c.State)
	}
	out := &rawOutput{ContentType: "application/pem-certificate-chain", ContentDisposition: fmt.Sprintf("attachment; filename=%q", c.Serial.Hex()+".pem")}
	switch in.Format {
	case "der":
		out.ContentType, out.Body = "application/pkix-cert", c.DER
		out.ContentDisposition = fmt.Sprintf("attachment; filename=%q", c.Serial.Hex()+".cer")
	case "pem":
		out.Body = pki.EncodeChain(c.DER)
	default:
		out.Body = s.chain(&c)
	}
	return out, nil
}

// downloadForeign downloads a certificate of the inventory. What belongs behind
// a certificate of somebody else is not for us to say: chain is the certificate
// alone.
func (s *Server) downloadForeign(ctx context.Context, in *downloadInput) (*rawOutput, error) {
	der, err := s.cfg.Inventory.DER(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	known, err := s.cfg.Inventory.Get(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	out := &rawOutput{ContentType: "application/pem-certificate-chain", ContentDisposition: fmt.Sprintf("attachment; filename=%q", known.Serial+".pem"), Body: pki.EncodeChain(der)}
	if in.Format == "der" {
		out.ContentType, out.Body = "application/pkix-cert", der
		out.ContentDisposition = fmt.Sprintf("attachment; filename=%q", known.Serial+".cer")
	}
	if c, err := s.issuedRow(ctx, &known.Certificate); err == nil && c != nil && in.Format == "chain" {
		out.Body = s.chain(c)
	}
	return out, nil
}
